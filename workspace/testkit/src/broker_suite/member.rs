//! A member of a group as the suite drives it: it keeps books of what it was told.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use posthaste_broker::{
    Assignment, Broker, BrokerError, Consumed, Consumer, Hop, Hopper, Limits, NewRecord, Partition, Record,
    Signal, Start, Subscription, Tracking,
};
use posthaste_event::Topic;

/// How long anything may take. Generous: it only ends a test that has failed.
pub const DEADLINE: Duration = Duration::from_secs(90);

/// Waits for something, but not for ever.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future)
        .await
        .unwrap_or_else(|_| panic!("waited in vain: {what}"))
}

/// A member and what it was told so far.
pub struct Member {
    consumer: Box<dyn Consumer>,
    /// Puts its hops through.
    pub hopper: Arc<dyn Hopper>,
    /// What it owns, those that are being revoked included.
    pub owned: BTreeMap<Partition, Assignment>,
    /// What it is asked to give up.
    pub revoking: BTreeSet<Partition>,
    /// What was taken away, ever.
    pub revoked: BTreeSet<Partition>,
    /// Every epoch it saw, ever.
    pub epochs: Vec<u64>,
    /// Records with their tickets, not yet worked on.
    pub held: Vec<Consumed>,
    /// Records that came without tickets.
    pub read: Vec<Record>,
    /// Partitions whose end was reached, in the order of being told.
    pub at_end: Vec<Partition>,
    /// Most records that came in one signal.
    pub batch_records: usize,
}

/// A subscription that tracks each record.
pub fn tracked(group: &str, topics: &[Topic]) -> Subscription {
    Subscription {
        group: group.to_owned(),
        topics: topics.to_vec(),
        tracking: Tracking::Completion,
        start: Start::Committed,
        limits: Limits::default(),
    }
}

/// A subscription that keeps its own position.
pub fn positioned(group: &str, topics: &[Topic], start: Start) -> Subscription {
    Subscription {
        tracking: Tracking::Position,
        start,
        ..tracked(group, topics)
    }
}

impl Member {
    /// Joins.
    pub async fn join(broker: &dyn Broker, subscription: Subscription) -> Self {
        let consumer = within("subscribing", broker.subscribe(subscription))
            .await
            .unwrap();
        Self {
            hopper: consumer.hopper(),
            consumer,
            owned: BTreeMap::new(),
            revoking: BTreeSet::new(),
            revoked: BTreeSet::new(),
            epochs: Vec::new(),
            held: Vec::new(),
            read: Vec::new(),
            at_end: Vec::new(),
            batch_records: 0,
        }
    }

    /// Takes the next signal, if one comes soon. Giving up in between loses nothing, which this tests all the time.
    pub async fn poll(&mut self) -> bool {
        match tokio::time::timeout(Duration::from_millis(10), self.consumer.next()).await {
            Ok(signal) => {
                self.note(signal.unwrap());
                true
            }
            Err(_) => false,
        }
    }

    fn note(&mut self, signal: Signal) {
        match signal {
            Signal::Assigned(assignments) => {
                for assignment in assignments {
                    assert!(!self.epochs.contains(&assignment.epoch), "an epoch came twice");
                    self.epochs.push(assignment.epoch);
                    let before = self.owned.insert(assignment.partition, assignment);
                    assert_eq!(before, None, "assigned what it owned");
                }
            }
            Signal::Records(records) => {
                self.batch_records = self.batch_records.max(records.len());
                for consumed in records {
                    let (record, ticket) = (&consumed.record, &consumed.ticket);
                    assert_eq!(
                        (record.partition, record.offset),
                        (ticket.partition(), ticket.offset())
                    );
                    let assignment = self
                        .owned
                        .get(&record.partition)
                        .expect("a record before its assignment");
                    assert_eq!(ticket.epoch(), assignment.epoch);
                    assert!(
                        !self.revoking.contains(&record.partition),
                        "a record while revoking"
                    );
                    self.held.push(consumed);
                }
            }
            Signal::Read(records) => {
                for record in &records {
                    assert!(
                        self.owned.contains_key(&record.partition),
                        "a record before its assignment"
                    );
                }
                self.batch_records = self.batch_records.max(records.len());
                self.read.extend(records);
            }
            Signal::AtEnd(partition) => self.at_end.push(partition),
            Signal::Revoking(partitions) => {
                for partition in partitions {
                    assert!(
                        self.owned.contains_key(&partition),
                        "revoking what it does not own"
                    );
                    self.revoking.insert(partition);
                }
            }
            Signal::Revoked(partitions) => {
                for partition in partitions {
                    self.owned
                        .remove(&partition)
                        .expect("revoked what it does not own");
                    self.revoking.remove(&partition);
                    self.revoked.insert(partition);
                }
            }
        }
    }

    /// Goes on until `done`.
    pub async fn until(&mut self, what: &str, mut done: impl FnMut(&Self) -> bool) {
        within(what, async {
            while !done(self) {
                self.poll().await;
            }
        })
        .await;
    }

    /// Goes on until it holds at least this many records, and takes them all.
    pub async fn take(&mut self, count: usize) -> Vec<Consumed> {
        self.until("records", |member| member.held.len() >= count).await;
        std::mem::take(&mut self.held)
    }

    /// Goes on until it has read at least this many records, and takes them all.
    pub async fn take_read(&mut self, count: usize) -> Vec<Record> {
        self.until("records", |member| member.read.len() >= count).await;
        std::mem::take(&mut self.read)
    }

    /// The next signal that is an error.
    pub async fn next_error(&mut self) -> BrokerError {
        within("an error", async {
            loop {
                if let Err(error) = self.consumer.next().await {
                    return error;
                }
            }
        })
        .await
    }

    /// Finishes these with nothing to append.
    pub async fn finish(&self, consumed: Vec<Consumed>) {
        if consumed.is_empty() {
            return;
        }
        let hop = Hop {
            completes: consumed.into_iter().map(|consumed| consumed.ticket).collect(),
            ..Hop::default()
        };
        within("a hop", self.hopper.hop(hop)).await.unwrap();
    }

    /// The oldest unfinished record of each partition.
    pub fn unfinished(&self) -> Vec<(Partition, i64)> {
        self.consumer.unfinished()
    }

    /// Goes on until the log has nothing for it that it could be given.
    pub async fn until_nothing_is_unread(&mut self) {
        within("nothing unread", async {
            while !self.consumer.unread().await.unwrap().is_empty() {
                self.poll().await;
            }
        })
        .await;
    }

    /// Leaves, having let go of what it held.
    pub async fn close(self) {
        drop(self.held);
        within("leaving the group", self.consumer.close()).await;
    }

    /// Vanishes without a word, keeping its tickets and its hopper: a zombie.
    pub fn vanish(self) -> (Vec<Consumed>, Arc<dyn Hopper>) {
        (self.held, self.hopper)
    }
}

/// Goes on with all of these members until `done`.
pub async fn settle(what: &str, members: &mut [&mut Member], mut done: impl FnMut(&[&mut Member]) -> bool) {
    within(what, async {
        while !done(members) {
            for member in members.iter_mut() {
                member.poll().await;
            }
        }
    })
    .await;
}

/// A record whose value is its name.
pub fn named(topic: Topic, partition: u32, name: &str) -> NewRecord {
    NewRecord {
        partition: Some(partition),
        ..NewRecord::new(topic, name.as_bytes().to_vec(), name.as_bytes().to_vec())
    }
}

/// Appends records `<name>0`, `<name>1`, … to one partition.
pub async fn append_named(broker: &dyn Broker, topic: Topic, partition: u32, name: &str, count: usize) {
    let records = (0..count)
        .map(|n| named(topic, partition, &format!("{name}{n}")))
        .collect();
    within("an append", broker.append(records)).await.unwrap();
}

/// A record's value as text.
pub fn text(value: Option<&Bytes>) -> String {
    String::from_utf8(value.expect("a value").to_vec()).unwrap()
}

/// The values of consumed records, sorted.
pub fn names(consumed: &[Consumed]) -> Vec<String> {
    let mut names: Vec<String> = consumed
        .iter()
        .map(|one| text(one.record.value.as_ref()))
        .collect();
    names.sort();
    names
}

/// Everything that stands on a topic, partition by partition in offset order: read from its start to its end.
pub async fn contents(broker: &dyn Broker, topic: Topic) -> Vec<Record> {
    let partitions = partition_count(broker, topic).await;
    let mut member = Member::join(broker, positioned("suite.contents", &[topic], Start::LogStart)).await;
    member
        .until("the end of every partition", |member| {
            member.at_end.len() == partitions
        })
        .await;
    let mut records = std::mem::take(&mut member.read);
    member.close().await;
    records.sort_by_key(|record| record.partition);
    records
}

/// How many partitions a topic has.
pub async fn partition_count(broker: &dyn Broker, topic: Topic) -> usize {
    within("asking for the lag", broker.lag("suite", &[topic]))
        .await
        .unwrap()
        .len()
}

/// Where a group stands in one partition.
pub async fn committed(broker: &dyn Broker, group: &str, partition: Partition) -> Option<i64> {
    let lags = within("asking for the lag", broker.lag(group, &[partition.topic]))
        .await
        .unwrap();
    lags.into_iter()
        .find(|lag| lag.partition == partition)
        .and_then(|lag| lag.committed)
}
