//! What stands in the topics of a run's events, as a reader sees it who is shown committed records only.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use posthaste_broker::{Broker, BrokerError, Partition, Record, Signal, Start, Subscription, Tracking};
use posthaste_event::{Delivery, Value, delivery::WaitReason, topic::PROJECTED};
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use crate::{
    ledger::{Step, is_final},
    load::Mix,
};

/// The records of a run.
#[derive(Debug, Default)]
pub struct Topics {
    /// The facts of each event, in the order in which they were found.
    pub events: HashMap<u32, Vec<Fact>>,
    /// Records that were looked at, of this run and of others.
    pub records: u64,
}

/// A record that says something new of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fact {
    /// What it says.
    pub step: Step,
    /// How often the event had been replayed.
    pub generation: u32,
    /// Where it stands.
    pub partition: Partition,
    /// Its place there.
    pub offset: i64,
}

impl Fact {
    /// Whether the event is at its end with it.
    pub const fn is_final(&self) -> bool {
        is_final(self.step.status)
    }
}

impl Topics {
    /// Takes a record in.
    pub fn take(&mut self, record: &Record, mix: &Mix) {
        self.records += 1;
        let Some(value) = &record.value else {
            return;
        };
        let delivery = match Value::decode(value) {
            Ok(Value::Work(work)) => work.delivery,
            Ok(Value::Outcome(delivery)) => delivery,
            // Marks and remarks, and what is not ours: no facts of an event's life.
            Ok(Value::Note(_) | Value::Replayed(_) | Value::Foreign(_) | Value::Answer(_)) | Err(_) => return,
        };
        if !delivery.is_fact() {
            return;
        }
        if let Some(index) = mix.index(&delivery.id) {
            self.events.entry(index).or_default().push(Fact {
                step: step_of(&delivery),
                generation: delivery.generation,
                partition: record.partition,
                offset: record.offset,
            });
        }
    }
}

fn step_of(delivery: &Delivery) -> Step {
    let reason = delivery.wheel.as_ref().map(|wheel| wheel.reason);
    Step {
        step: delivery.step,
        at: delivery.at,
        status: delivery.status,
        due_at: delivery
            .due_at
            .filter(|_| matches!(reason, Some(WaitReason::Scheduled | WaitReason::Retry))),
        error: delivery.error.as_ref().map(|error| error.kind),
    }
}

/// Where each partition ends now: where to begin reading what comes later.
///
/// # Errors
/// When the broker cannot say.
pub async fn ends(broker: &dyn Broker) -> Result<Vec<(Partition, i64)>, BrokerError> {
    let lags = broker.lag("projector", PROJECTED).await?;
    Ok(lags.into_iter().map(|lag| (lag.partition, lag.end)).collect())
}

/// Reads every topic that tells what became of events, from there to its end, and tells how many records it saw so far.
///
/// # Errors
/// When it cannot be read, or not within `limit`.
pub async fn read(
    broker: &Arc<dyn Broker>,
    from: &[(Partition, i64)],
    mix: &Mix,
    limit: Duration,
    mut on_records: impl FnMut(u64),
) -> Result<Topics, BrokerError> {
    let deadline = Instant::now() + limit;
    let late = || BrokerError::Unreachable(format!("the topics were not read to their end within {limit:?}"));
    let subscription = Subscription {
        // Nobody else's: who shares a group shares its partitions.
        group: format!("verify.{}", Uuid::now_v7().simple()),
        topics: PROJECTED.to_vec(),
        tracking: Tracking::Position,
        start: Start::At(from.to_vec()),
        limits: Default::default(),
    };
    let mut consumer = timeout_at(deadline, broker.subscribe(subscription))
        .await
        .map_err(|_| late())??;
    let mut topics = Topics::default();
    let mut unread: HashSet<Partition> = from.iter().map(|(partition, _)| *partition).collect();
    let read = async {
        while !unread.is_empty() {
            match consumer.next().await? {
                Signal::Read(records) => {
                    records.iter().for_each(|record| topics.take(record, mix));
                    on_records(topics.records);
                }
                Signal::AtEnd(partition) => {
                    unread.remove(&partition);
                }
                // Nobody else is in the group; what is taken away comes back and is read from where it began.
                Signal::Revoked(partitions) => {
                    for facts in topics.events.values_mut() {
                        facts.retain(|fact| !partitions.contains(&fact.partition));
                    }
                    unread.extend(partitions);
                }
                Signal::Assigned(_) | Signal::Revoking(_) | Signal::Records(_) => {}
            }
        }
        Ok::<_, BrokerError>(())
    };
    let outcome = timeout_at(deadline, read).await;
    consumer.close().await;
    outcome.map_err(|_| late())??;
    Ok(topics)
}
