//! One Kafka transaction: outputs, offsets, commit; and what its failures mean.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use posthaste_killpoint as killpoint;
use rdkafka::{
    ClientContext, Offset,
    config::RDKafkaLogLevel,
    error::{KafkaError, RDKafkaErrorCode},
    message::DeliveryResult,
    producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext},
};

use super::{
    client::Context,
    hops::Open,
    lane::answer_of,
    native::{self, Answered, GroupMetadata, TransactionError},
    positions,
    topics::Topics,
};
use crate::{NewRecord, Partition};

/// The broker aborts a transaction that is open for longer.
pub(super) const TRANSACTION_TIMEOUT_MS: u32 = 5_000;

/// How long one step may take; a commit that takes longer is asked for again.
const STEP_TIMEOUT: Duration = Duration::from_millis(TRANSACTION_TIMEOUT_MS as u64);
/// A commit that is not confirmed within this time is settled by a new client.
const COMMIT_TIMEOUT: Duration = Duration::from_millis(3 * TRANSACTION_TIMEOUT_MS as u64);

/// The context of a transactional producer: remembers what became of the outputs.
pub(super) struct Outcomes {
    context: Context,
    failure: Mutex<Option<RDKafkaErrorCode>>,
    is_too_large: AtomicBool,
}

impl Outcomes {
    pub(super) fn new(context: Context) -> Self {
        Self {
            context,
            failure: Mutex::default(),
            is_too_large: AtomicBool::new(false),
        }
    }

    fn reset(&self) {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.is_too_large.store(false, Ordering::Release);
    }
}

impl ClientContext for Outcomes {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.context.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.context.error(error, reason);
    }
}

impl ProducerContext for Outcomes {
    type DeliveryOpaque = ();

    /// Only while the client is dropped.
    fn delivery(&self, result: &DeliveryResult<'_>, (): Self::DeliveryOpaque) {
        self.answered(answer_of(result), ());
    }
}

impl Answered for Outcomes {
    fn answered(&self, answer: Result<(), RDKafkaErrorCode>, (): Self::DeliveryOpaque) {
        if let Err(code) = answer {
            if code == RDKafkaErrorCode::MessageSizeTooLarge {
                self.is_too_large.store(true, Ordering::Release);
            }
            self.failure
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .get_or_insert(code);
        }
    }
}

/// Why a transaction did not happen, or may not have.
#[derive(Debug)]
pub(super) enum Failure {
    /// It was aborted: a record is too large.
    TooLarge,
    /// It was aborted: the generation is over, or the group is about to have another.
    Stale,
    /// It was aborted.
    Aborted(String),
    /// The client is of no more use.
    Broken {
        error: TransactionError,
        /// The commit may have happened all the same.
        is_unknown: bool,
    },
}

/// One transaction about to be made.
pub(super) struct Transaction {
    pub(super) topics: Arc<Topics>,
    pub(super) group: Arc<GroupMetadata>,
    pub(super) hops: Vec<Arc<Open>>,
    /// Next offset and metadata of each partition.
    pub(super) offsets: Vec<(Partition, i64, String)>,
}

impl Transaction {
    /// Makes it. Blocks.
    pub(super) fn run(&self, producer: &BaseProducer<Outcomes>) -> Result<(), Failure> {
        let attempt = Attempt {
            transaction: self,
            producer,
        };
        attempt.run()
    }
}

struct Attempt<'a> {
    transaction: &'a Transaction,
    producer: &'a BaseProducer<Outcomes>,
}

impl Attempt<'_> {
    fn run(&self) -> Result<(), Failure> {
        self.outcomes().reset();
        self.producer
            .begin_transaction()
            .map_err(|error| Failure::Broken {
                error: error.into(),
                is_unknown: false,
            })?;
        killpoint::at(killpoint::BEFORE_OUTPUTS);
        for record in self.transaction.hops.iter().flat_map(|hop| &hop.outputs) {
            if let Err(error) = self.send(record) {
                return Err(self.abort(error.into()));
            }
        }
        killpoint::at(killpoint::BEFORE_OFFSETS);
        if !self.transaction.offsets.is_empty() {
            self.send_offsets().map_err(|error| self.abort(error))?;
        }
        killpoint::at(killpoint::BEFORE_COMMIT);
        self.commit()?;
        killpoint::at(killpoint::AFTER_COMMIT);
        Ok(())
    }

    fn outcomes(&self) -> &Outcomes {
        self.producer.client().context()
    }

    fn send(&self, record: &NewRecord) -> Result<(), KafkaError> {
        let Some(partition) = self.transaction.topics.place(record) else {
            return Err(KafkaError::MessageProduction(
                RDKafkaErrorCode::UnknownTopicOrPartition,
            ));
        };
        let mut message = BaseRecord::to(self.transaction.topics.name(record.topic))
            .key(record.key.as_ref())
            .partition(i32::try_from(partition.number).unwrap_or(i32::MAX));
        message.payload = record.value.as_deref();
        let deadline = Instant::now() + STEP_TIMEOUT;
        loop {
            let Err((error, back)) = self.producer.send(message) else {
                return Ok(());
            };
            match error.rdkafka_error_code() {
                Some(RDKafkaErrorCode::QueueFull) if Instant::now() < deadline => {
                    // Only one hop with more outputs than the whole queue comes here.
                    thread::sleep(Duration::from_millis(1));
                    message = back;
                }
                code => {
                    let is_too_large = code == Some(RDKafkaErrorCode::MessageSizeTooLarge);
                    self.outcomes()
                        .is_too_large
                        .store(is_too_large, Ordering::Release);
                    return Err(error);
                }
            }
        }
    }

    fn send_offsets(&self) -> Result<(), TransactionError> {
        let Transaction {
            topics,
            group,
            offsets,
            ..
        } = self.transaction;
        let named = offsets
            .iter()
            .map(|(partition, offset, _)| (*partition, Offset::Offset(*offset)));
        let list = positions::list(topics, named);
        for (mut element, (_, _, metadata)) in list.elements().into_iter().zip(offsets) {
            element.set_metadata(metadata);
        }
        native::send_offsets(self.producer, &list, group, STEP_TIMEOUT)
    }

    fn commit(&self) -> Result<(), Failure> {
        let deadline = Instant::now() + COMMIT_TIMEOUT;
        loop {
            match native::commit_transaction(self.producer, STEP_TIMEOUT) {
                Ok(()) => return Ok(()),
                Err(error) if error.must_abort => return Err(self.abort(error)),
                Err(error) if error.is_retriable && Instant::now() < deadline => {}
                Err(error) => {
                    return Err(Failure::Broken {
                        error,
                        is_unknown: true,
                    });
                }
            }
        }
    }

    /// Ends the transaction without effect and says what to do about it.
    fn abort(&self, error: TransactionError) -> Failure {
        if self.producer.abort_transaction(STEP_TIMEOUT).is_err() {
            return Failure::Broken {
                error,
                is_unknown: false,
            };
        }
        let outcomes = self.outcomes();
        if outcomes.is_too_large.load(Ordering::Acquire) {
            return Failure::TooLarge;
        }
        match error.code {
            RDKafkaErrorCode::UnknownMemberId
            | RDKafkaErrorCode::IllegalGeneration
            | RDKafkaErrorCode::FencedInstanceId
            | RDKafkaErrorCode::RebalanceInProgress => Failure::Stale,
            _ => {
                let delivery = *outcomes.failure.lock().unwrap_or_else(PoisonError::into_inner);
                Failure::Aborted(match delivery {
                    Some(code) => format!("{}: {code}", error.reason),
                    None => error.reason,
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use posthaste_event::Topic;
    use posthaste_testkit::KafkaServer;
    use rdkafka::{
        ClientConfig, TopicPartitionList,
        admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
        client::DefaultClientContext,
        consumer::{BaseConsumer, Consumer as _},
    };

    use super::*;
    use crate::kafka::{client::Link, native::Queue, served::Served};

    const LIMIT: Duration = Duration::from_secs(30);

    struct World {
        base: ClientConfig,
        topics: Arc<Topics>,
        link: Arc<Link>,
    }

    impl World {
        async fn new() -> Self {
            let server = KafkaServer::shared().await.unwrap();
            let mut base = ClientConfig::new();
            base.set("bootstrap.servers", server.bootstrap());
            let topics = Arc::new(Topics::new("fence"));
            let admin: AdminClient<DefaultClientContext> = base.create().unwrap();
            let new = [Topic::Default, Topic::Status]
                .map(|topic| NewTopic::new(topics.name(topic), 1, TopicReplication::Fixed(1)));
            for made in admin.create_topics(&new, &AdminOptions::new()).await.unwrap() {
                made.unwrap();
            }
            Self {
                base,
                topics,
                link: Arc::default(),
            }
        }

        fn consumer(&self) -> BaseConsumer<Context> {
            let mut config = self.base.clone();
            config
                .set("group.id", "fence.group")
                .set("isolation.level", "read_committed")
                .set("partition.assignment.strategy", "cooperative-sticky");
            let consumer: BaseConsumer<Context> =
                config.create_with_context(Context::new(&self.link)).unwrap();
            consumer
        }

        /// Joins the group and answers as who.
        fn join(&self) -> (BaseConsumer<Context>, Arc<GroupMetadata>) {
            let consumer = self.consumer();
            assert!(GroupMetadata::of(&consumer).is_none(), "no member yet");
            consumer.subscribe(&[self.topics.name(Topic::Default)]).unwrap();
            let deadline = Instant::now() + LIMIT;
            while consumer.assignment().unwrap().count() == 0 {
                assert!(Instant::now() < deadline, "no assignment in time");
                let _ = consumer.poll(Duration::from_millis(50));
            }
            let group = GroupMetadata::of(&consumer).unwrap();
            (consumer, Arc::new(group))
        }

        fn producer(&self, id: &str) -> Served<Outcomes> {
            let mut config = self.base.clone();
            config.set("transactional.id", id).set("retry.backoff.ms", "2");
            let producer = Served::start(&config, Outcomes::new(Context::new(&self.link))).unwrap();
            producer.init_transactions(LIMIT).unwrap();
            producer
        }

        fn commit(&self, id: &str, group: &Arc<GroupMetadata>, offset: i64) -> Result<(), Failure> {
            let producer = self.producer(id);
            let partition = Partition {
                topic: Topic::Default,
                number: 0,
            };
            let transaction = Transaction {
                topics: Arc::clone(&self.topics),
                group: Arc::clone(group),
                hops: Vec::new(),
                offsets: vec![(partition, offset, String::new())],
            };
            transaction.run(&producer)
        }

        fn committed(&self, consumer: &BaseConsumer<Context>) -> Offset {
            let mut list = TopicPartitionList::new();
            list.add_partition(self.topics.name(Topic::Default), 0);
            let list = consumer.committed_offsets(list, LIMIT).unwrap();
            list.elements()[0].offset()
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_outcome_of_a_generation_that_is_over_is_refused() {
        let world = World::new().await;
        let (zombie, stale) = world.join();
        world.commit("a", &stale, 1).unwrap();
        drop(zombie);
        let (owner, group) = world.join();
        world.commit("b", &group, 5).unwrap();
        let refused = world.commit("a", &stale, 2);
        assert!(matches!(refused, Err(Failure::Stale)), "{refused:?}");
        assert_eq!(world.committed(&owner), Offset::Offset(5));
    }

    #[test]
    fn a_woken_queue_answers_at_once() {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", "127.0.0.1:1")
            .set("group.id", "g");
        let consumer: BaseConsumer<Context> =
            config.create_with_context(Context::new(&Arc::default())).unwrap();
        let queue = Queue::of(&consumer).unwrap();
        let before = Instant::now();
        std::thread::scope(|scope| {
            scope.spawn(
                || {
                    while before.elapsed() < LIMIT && queue.next(LIMIT, &|_| None).is_some() {}
                },
            );
            queue.wake();
        });
        assert!(before.elapsed() < LIMIT);
    }
}
