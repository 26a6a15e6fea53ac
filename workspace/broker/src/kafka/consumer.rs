//! One member of a group, as services see it, and how it is put together.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError, Weak},
    thread,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use posthaste_event::Topic;
use rdkafka::{
    ClientConfig,
    consumer::{BaseConsumer, Consumer as _},
};
use tokio::sync::oneshot;
use tracing::info;

use super::{
    admin::blocking,
    client::{Context, Link, no_thread, refused},
    hops::{HopSettings, HopThread, KafkaHopper},
    native::Queue,
    positions::Positions,
    reader::Reader,
    table::Table,
    topics::Topics,
    transaction::TRANSACTION_TIMEOUT_MS,
};
use crate::{BrokerError, Consumer, Hopper, Partition, Signal, Start, Subscription, Tracking, Unread};

/// How long closing may take beyond the drain time: the broker may be away.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(20);
/// Largest answer to one fetch, as it comes over the network, in bytes; a single larger batch still comes.
const FETCH_BYTES_MAX: u32 = 4 << 20;
/// Of one partition at least, however many there are: in that answer, and what waits of it, in records and in KiB.
const FETCH_PARTITION_BYTES_MIN: u32 = 32 << 10;
const PREFETCH_MIN: usize = 50;
const PREFETCH_KIB_MIN: usize = 64;
/// What a reader that gathers does not wait beyond, as it comes over the network, in bytes.
const GATHER_BYTES: u32 = 256 << 10;
/// The longest that it waits. Together with the network this stays within `socket.timeout.ms`.
const GATHER_MS_MAX: u32 = 1_000;

/// What every subscription is made from.
pub(super) struct Maker {
    pub(super) base: ClientConfig,
    pub(super) link: Arc<Link>,
    pub(super) topics: Arc<Topics>,
    pub(super) observer: Arc<BaseConsumer<Context>>,
    /// This process's name.
    pub(super) instance: String,
    pub(super) record_bytes_max: usize,
    pub(super) drain: Duration,
    pub(super) seats: Arc<Seats>,
    pub(super) members: Members,
}

/// The consumers that are alive, to be closed with their broker.
#[derive(Default)]
pub(super) struct Members(Mutex<Vec<Weak<Table>>>);

impl Members {
    fn add(&self, table: &Arc<Table>) {
        let mut members = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        members.retain(|member| member.strong_count() > 0);
        members.push(Arc::downgrade(table));
    }

    /// Closes them all; waits for their hops, at most until `deadline`, and until they have left their groups. Blocks.
    pub(super) fn close(&self, deadline: Instant) {
        let members = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let members: Vec<_> = members.iter().filter_map(Weak::upgrade).collect();
        for member in &members {
            member.close(deadline.saturating_duration_since(Instant::now()), true);
        }
        let deadline = deadline + LEAVE_TIMEOUT;
        while !members.iter().all(|member| member.has_left()) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(2));
        }
    }
}

/// Numbers the consumers of a group in this process, lowest first, so that a restarted process uses the same transactional
/// ids again and thereby ends what its predecessor left open.
#[derive(Debug, Default)]
pub(super) struct Seats(Mutex<HashMap<String, BTreeSet<u32>>>);

struct Seat {
    seats: Arc<Seats>,
    group: String,
    number: u32,
}

impl Seat {
    fn take(seats: &Arc<Seats>, group: &str) -> Self {
        let mut taken = seats.0.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = taken.entry(group.to_owned()).or_default();
        let number = (0..).find(|number| !taken.contains(number)).unwrap_or(u32::MAX);
        taken.insert(number);
        Self {
            seats: Arc::clone(seats),
            group: group.to_owned(),
            number,
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(taken) = taken.get_mut(&self.group) {
            taken.remove(&self.number);
        }
    }
}

/// A member of a group.
pub(super) struct KafkaConsumer {
    table: Arc<Table>,
    /// The reader's: when it ends, the client does, and that leaves the group.
    positions: Weak<Positions>,
    hopper: Arc<KafkaHopper>,
    left: Option<oneshot::Receiver<()>>,
    drain: Duration,
}

#[async_trait]
impl Consumer for KafkaConsumer {
    async fn next(&mut self) -> Result<Signal, BrokerError> {
        self.table.next().await
    }

    fn hopper(&self) -> Arc<dyn Hopper> {
        Arc::clone(&self.hopper) as Arc<dyn Hopper>
    }

    fn unfinished(&self) -> Vec<(Partition, i64)> {
        self.table.unfinished()
    }

    fn unread(&self) -> Unread {
        let (table, positions) = (Arc::clone(&self.table), Weak::clone(&self.positions));
        Box::pin(blocking(move || {
            let Some(positions) = positions.upgrade() else {
                return Ok(Vec::new());
            };
            let reading = table.reading();
            let ends = positions.readable_ends(reading.iter().map(|(partition, _)| *partition))?;
            let is_unread =
                |(partition, next): &(Partition, i64)| ends.get(partition).is_some_and(|end| next < end);
            Ok(reading.into_iter().filter(is_unread).collect())
        }))
    }

    async fn close(mut self: Box<Self>) {
        self.table.close(self.drain, false);
        if let Some(left) = self.left.take() {
            // Either way the member is gone for the group: its session ends.
            let _ = tokio::time::timeout(self.drain + LEAVE_TIMEOUT, left).await;
        }
    }
}

impl Drop for KafkaConsumer {
    fn drop(&mut self) {
        // Without a word: nobody will finish what is in hand.
        self.table.close(Duration::ZERO, false);
    }
}

impl Maker {
    /// Joins a group. Blocks.
    ///
    /// # Errors
    /// See [`BrokerError`].
    pub(super) fn subscribe(&self, subscription: &Subscription) -> Result<KafkaConsumer, BrokerError> {
        let group = self.topics.group(&subscription.group);
        let partitions = self.topics.all_partitions(&self.observer, &subscription.topics)?;
        let consumer: BaseConsumer<Context> = self
            .consumer_config(&group, subscription, partitions.len())
            .create_with_context(Context::new(&self.link))
            .map_err(|error| refused(&error))?;
        let consumer = Arc::new(consumer);
        self.link.add(&consumer);
        let positions = Arc::new(Positions {
            consumer: Arc::clone(&consumer),
            observer: Arc::clone(&self.observer),
            topics: Arc::clone(&self.topics),
            group: group.clone(),
            start: subscription.start.clone(),
            tracking: subscription.tracking,
            was_empty: Mutex::default(),
        });
        if subscription.start == Start::Committed {
            positions.refuse_without_positions(&partitions)?;
        }
        let queue = Queue::of(&consumer)
            .ok_or_else(|| BrokerError::Refused("the Kafka consumer has no queue".to_owned()))?;
        let queue = Arc::new(queue);
        let table = Table::new(subscription.tracking, subscription.limits);
        table.set_waker(Some(Arc::clone(&queue)));
        let seat = Seat::take(&self.seats, &group);
        let (mut hops, hopper) = HopThread::start(HopSettings {
            consumer: Arc::clone(&consumer),
            table: Arc::clone(&table),
            topics: Arc::clone(&self.topics),
            link: Arc::clone(&self.link),
            config: self.producer_config(&group, seat.number),
            group: group.clone(),
            record_bytes_max: self.record_bytes_max,
        })?;
        let names: Vec<&str> = subscription
            .topics
            .iter()
            .map(|topic| self.topics.name(*topic))
            .collect();
        if let Err(error) = consumer.subscribe(&names) {
            table.end();
            hops.join();
            return Err(BrokerError::Refused(format!("{group} cannot subscribe: {error}")));
        }
        let (done, left) = oneshot::channel();
        let bounds = (subscription.limits.batch_records_max, self.drain);
        let known = Arc::downgrade(&positions);
        let reader = Reader::new(consumer, queue, Arc::clone(&table), positions, hops, bounds, done);
        thread::Builder::new()
            .name("kafka-reader".to_owned())
            .spawn(move || {
                reader.run();
                drop(seat);
            })
            .map_err(|error| no_thread(&error))?;
        self.members.add(&table);
        info!(%group, topics = names.join(","), "joining the group");
        Ok(KafkaConsumer {
            table,
            positions: known,
            hopper,
            left: Some(left),
            drain: self.drain,
        })
    }

    fn consumer_config(&self, group: &str, subscription: &Subscription, partitions: usize) -> ClientConfig {
        let is_critical = subscription.topics.contains(&Topic::Critical);
        // kafka-notes section 13: prefetched records age in memory and delay a revoke, so little of them where it matters.
        let (heartbeat, session, prefetch, prefetch_kib) = match (is_critical, subscription.tracking) {
            (true, Tracking::Completion) => ("500", "6000", 1_000, 8 << 10),
            (_, Tracking::Completion) => ("1000", "10000", 10_000, 16 << 10),
            (_, Tracking::Position) => ("1000", "10000", 20_000, 32 << 10),
        };
        // Each partition has its share, since each has a queue of its own.
        let partitions = partitions.max(1);
        let prefetch = (prefetch / partitions).max(PREFETCH_MIN);
        let prefetch_kib = (prefetch_kib / partitions).max(PREFETCH_KIB_MIN);
        let answer = FETCH_BYTES_MAX / u32::try_from(partitions).unwrap_or(u32::MAX);
        let answer = answer.max(FETCH_PARTITION_BYTES_MIN);
        let mut config = ClientConfig::new();
        config
            .set("heartbeat.interval.ms", heartbeat)
            .set("session.timeout.ms", session)
            .set("max.poll.interval.ms", "300000")
            .set("queued.min.messages", prefetch.to_string())
            .set("queued.max.messages.kbytes", prefetch_kib.to_string())
            // One answer comes on top of the queue's limit, and it is compressed: the default of 50 MB can be ten times
            // that in memory.
            .set("fetch.max.bytes", FETCH_BYTES_MAX.to_string())
            .set("max.partition.fetch.bytes", answer.to_string())
            // The default of 1 s stalls whoever catches up.
            .set("fetch.queue.backoff.ms", "5")
            .set("fetch.error.backoff.ms", "50")
            .set("check.crcs", "true");
        if subscription.limits.gather_ms > 0 {
            let wait_ms = subscription.limits.gather_ms.min(GATHER_MS_MAX);
            config
                .set("fetch.min.bytes", GATHER_BYTES.to_string())
                .set("fetch.wait.max.ms", wait_ms.to_string());
        }
        for (key, value) in self.base.config_map() {
            config.set(key, value);
        }
        config
            .set("group.id", group)
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("isolation.level", "read_committed")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "error")
            // Says how far has been read where the last records are never delivered (markers, aborted ones).
            .set("enable.partition.eof", "true");
        config
    }

    fn producer_config(&self, group: &str, seat: u32) -> ClientConfig {
        let group = group.strip_prefix(self.topics.prefix()).unwrap_or(group);
        let id = format!("{}.{}{group}.{seat}", self.topics.prefix(), self.instance);
        let timeout_ms = TRANSACTION_TIMEOUT_MS.to_string();
        let mut config = ClientConfig::new();
        config
            .set("compression.codec", "lz4")
            // A commit flushes at once; until then records of one partition gather in one batch.
            .set("linger.ms", "5")
            // With the default of 100 every transaction waits that long for the end of the one before.
            .set("retry.backoff.ms", "2");
        for (key, value) in self.base.config_map() {
            config.set(key, value);
        }
        config
            .set("transactional.id", id)
            .set("transaction.timeout.ms", &timeout_ms)
            .set("message.timeout.ms", &timeout_ms)
            .set("acks", "all")
            .set("message.max.bytes", (self.record_bytes_max + 4_096).to_string());
        config
    }
}

#[cfg(test)]
mod tests {
    use posthaste_testkit::KafkaServer;
    use rdkafka::Offset;

    use super::*;
    use crate::{
        Broker as _, Limits, NewRecord, Settings, Watched,
        kafka::{KafkaBroker, positions::list},
        settings::DEFAULTS,
    };

    const LIMIT: Duration = Duration::from_secs(60);
    const PARTITION: Partition = Partition {
        topic: Topic::Default,
        number: 0,
    };

    async fn broker() -> Arc<KafkaBroker> {
        #[derive(serde::Deserialize)]
        struct File {
            broker: Settings,
        }
        let mut settings = toml::from_str::<File>(DEFAULTS).unwrap().broker;
        settings.prefix = "unheard".to_owned();
        settings.partitions = 1;
        settings.kafka.bootstrap_servers = KafkaServer::shared().await.unwrap().bootstrap();
        let broker = KafkaBroker::connect(&settings, "one").await.unwrap();
        broker.create_topics().await.unwrap();
        broker
    }

    fn join(broker: &KafkaBroker) -> KafkaConsumer {
        let subscription = Subscription {
            group: "dispatcher.default".to_owned(),
            topics: vec![Topic::Default],
            tracking: Tracking::Completion,
            start: Start::Committed,
            limits: Limits::default(),
        };
        broker.maker.subscribe(&subscription).unwrap()
    }

    async fn next(consumer: &mut dyn Consumer) -> Result<Signal, BrokerError> {
        tokio::time::timeout(LIMIT, consumer.next()).await.unwrap()
    }

    /// The client has the partition a moment after the member is told of it; a pause before that is forgotten.
    async fn deafen(positions: &Positions) {
        let assigned = async {
            while positions.consumer.assignment().unwrap().count() == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(LIMIT, assigned).await.unwrap();
        let deaf = list(&positions.topics, [(PARTITION, Offset::Invalid)]);
        positions.consumer.pause(&deaf).unwrap();
    }

    /// As a client that has forgotten a partition would: to its owner nothing looks wrong.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_partition_that_the_client_stops_reading_is_noticed_and_read_again_after_joining_anew() {
        let broker = broker().await;
        let mut consumer = join(&broker);
        assert!(matches!(next(&mut consumer).await, Ok(Signal::Assigned(_))));
        deafen(&consumer.positions.upgrade().unwrap()).await;
        let patience = Duration::from_secs(2);
        let mut watched = Watched::new(Box::new(consumer), Arc::clone(&broker) as _, patience);
        let record = NewRecord::new(Topic::Default, "key", "value");
        broker.append(vec![record]).await.unwrap();
        match next(&mut watched).await {
            Err(BrokerError::Unheard {
                partition, offset, ..
            }) => assert_eq!((partition, offset), (PARTITION, 0)),
            other => panic!("{other:?}"),
        }
        Box::new(watched).close().await;
        let mut again = Watched::new(Box::new(join(&broker)), Arc::clone(&broker) as _, patience);
        loop {
            if let Signal::Records(records) = next(&mut again).await.unwrap() {
                assert_eq!(records[0].record.offset, 0);
                break;
            }
        }
        Box::new(again).close().await;
    }
}
