//! A consumer in a test: gathers what it is handed.

use std::collections::BTreeMap;

use posthaste_broker::{
    Assignment, Broker, BrokerError, Consumed, Consumer, Hop, NewRecord, Partition, Signal, Subscription,
};
use tokio::time::timeout;

use crate::world::LIMIT;

pub struct Member {
    pub consumer: Box<dyn Consumer>,
    pub assigned: BTreeMap<Partition, Assignment>,
    pub revoking: Vec<Partition>,
    pub records: Vec<Consumed>,
}

impl Member {
    pub async fn join(broker: &dyn Broker, subscription: Subscription) -> Self {
        let consumer = broker.subscribe(subscription).await.unwrap();
        Self {
            consumer,
            assigned: BTreeMap::new(),
            revoking: Vec::new(),
            records: Vec::new(),
        }
    }

    /// Takes one signal in.
    pub async fn step(&mut self) -> Result<(), BrokerError> {
        match timeout(LIMIT, self.consumer.next())
            .await
            .expect("a signal in time")?
        {
            Signal::Assigned(assignments) => {
                for assignment in assignments {
                    let before = self.assigned.insert(assignment.partition, assignment);
                    assert!(before.is_none(), "assigned twice: {assignment:?}");
                }
            }
            Signal::Records(records) => {
                for consumed in &records {
                    let assignment = self.assigned[&consumed.record.partition];
                    assert_eq!(assignment.epoch, consumed.ticket.epoch());
                    assert!(!self.revoking.contains(&consumed.record.partition));
                }
                self.records.extend(records);
            }
            Signal::Revoking(partitions) => self.revoking.extend(partitions),
            Signal::Revoked(partitions) => {
                self.revoking.retain(|partition| !partitions.contains(partition));
                self.records
                    .retain(|consumed| !partitions.contains(&consumed.record.partition));
                for partition in partitions {
                    self.assigned
                        .remove(&partition)
                        .expect("revoked what was assigned");
                }
            }
            other => panic!("unexpected: {other:?}"),
        }
        Ok(())
    }

    pub async fn until(&mut self, enough: impl Fn(&Self) -> bool) {
        while !enough(self) {
            self.step().await.unwrap();
        }
    }

    pub async fn receive(&mut self, count: usize) -> Vec<Consumed> {
        self.until(|member| member.records.len() >= count).await;
        std::mem::take(&mut self.records)
    }

    pub async fn hop(
        &self,
        consumed: Consumed,
        outputs: Vec<NewRecord>,
    ) -> Result<(), posthaste_broker::HopError> {
        let hopper = self.consumer.hopper();
        timeout(LIMIT, hopper.hop(Hop::one(consumed.ticket, outputs)))
            .await
            .expect("a hop in time")
    }
}

/// The value as text.
pub fn text(consumed: &Consumed) -> String {
    String::from_utf8(consumed.record.value.as_deref().unwrap_or_default().to_vec()).unwrap()
}

/// Sorted values.
pub fn texts(records: &[Consumed]) -> Vec<String> {
    let mut texts: Vec<_> = records.iter().map(text).collect();
    texts.sort();
    texts
}
