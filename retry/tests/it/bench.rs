//! A broker in a folder of its own, instances of the service on it, and a view of what they write.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use posthaste_broker::{
    Broker, Limits, NewRecord, Record, Signal, Start, Subscription, Tracking, embedded::EmbeddedBroker,
};
use posthaste_definitions::{Definitions, Kind};
use posthaste_event::{
    Channel, Delivery, ErrorKind, EventView, Failure, Millis, Priority, Topic, Value, Work, clock,
    delivery::{Accepted, Policy, WaitReason},
};
use posthaste_retry::{RetryError, Settings};
use posthaste_rules::Rules;
use posthaste_service::{Health, Metrics, Requests, Shutdown};
use serde::Deserialize;
use tokio::{sync::watch, task::JoinHandle};

/// Longest wait for something that must happen.
const DEADLINE: Duration = Duration::from_secs(30);

pub const RULES: &str = r#"
    [[rule]]
    id = "quick"
    tries = 3
    backoff = { kind = "fixed", delay = "150ms" }
    failover = { provider = "messagebird", delay = "50ms" }
"#;

pub fn settings() -> Settings {
    #[derive(Deserialize)]
    struct File {
        retry: Settings,
    }
    toml::from_str::<File>(posthaste_retry::DEFAULTS).unwrap().retry
}

fn broker_settings() -> posthaste_broker::Settings {
    #[derive(Deserialize)]
    struct File {
        broker: posthaste_broker::Settings,
    }
    toml::from_str::<File>(posthaste_broker::settings::DEFAULTS)
        .unwrap()
        .broker
}

pub struct Bench {
    pub broker: Arc<EmbeddedBroker>,
    pub rules: watch::Sender<Arc<Rules>>,
    _folder: tempfile::TempDir,
}

pub struct Instance {
    pub health: Health,
    pub metrics: Arc<Metrics>,
    pub shutdown: Shutdown,
    pub task: JoinHandle<Result<(), RetryError>>,
}

impl Instance {
    pub async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap().unwrap();
    }

    /// As if its process were killed: nothing is drained, nothing is given back.
    pub async fn kill(self) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
    }

    pub async fn well(&self) {
        until("every member is well", || self.health.missing().is_empty()).await;
    }
}

pub async fn until(what: &str, holds: impl Fn() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < DEADLINE, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The schedules of one instance, none of which is known yet.
pub fn schedules() -> Definitions {
    let settings = posthaste_definitions::Settings {
        bytes_max: 1 << 20,
        suppressions_max: 1,
        suppressions_country_code: "1".to_owned(),
    };
    Definitions::new(&[Kind::Schedule], settings)
}

impl Bench {
    pub async fn new() -> Self {
        let bench = Self::without_topics(|_| ());
        bench.broker.create_topics().await.unwrap();
        bench
    }

    pub fn without_topics(adjust: impl FnOnce(&mut posthaste_broker::Settings)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut settings = broker_settings();
        settings.partitions = 3;
        adjust(&mut settings);
        Self {
            broker: Arc::new(EmbeddedBroker::open(folder.path(), &settings).unwrap()),
            rules: watch::Sender::new(Arc::new(Rules::parse(RULES, "test").unwrap())),
            _folder: folder,
        }
    }

    pub fn start(&self, name: &str, settings: Settings) -> Instance {
        let health = Health::default();
        let shutdown = Shutdown::new();
        let metrics = Arc::<Metrics>::default();
        let task = tokio::spawn({
            let (health, shutdown) = (health.clone(), shutdown.clone());
            let broker: Arc<dyn Broker> = Arc::clone(&self.broker) as _;
            let rules = self.rules.subscribe();
            let instance: Arc<str> = name.into();
            let metrics = Arc::clone(&metrics);
            async move {
                let requests = Arc::<Requests>::default();
                let schedules = Arc::new(schedules());
                let hearing = Shutdown::new();
                let working = async {
                    let (asked, schedules) = (Arc::clone(&requests), Arc::clone(&schedules));
                    let ended = posthaste_retry::run(
                        &settings,
                        Arc::clone(&broker),
                        rules,
                        asked,
                        schedules,
                        instance,
                        &health,
                        metrics,
                        shutdown,
                    );
                    let ended = ended.await;
                    hearing.cancel();
                    ended
                };
                let follow = posthaste_service::requests::follow(&broker, &requests, &hearing);
                let define = posthaste_definitions::follow(&broker, &schedules, &hearing);
                tokio::join!(working, follow, define).0
            }
        });
        Instance {
            health,
            metrics,
            shutdown,
            task,
        }
    }

    pub async fn append(&self, records: Vec<NewRecord>) {
        self.broker.append(records).await.unwrap();
    }

    /// Everything on these topics, read from their start, until `enough`.
    pub async fn read(&self, topics: &[Topic], enough: impl Fn(&[Record]) -> bool) -> Vec<Record> {
        let subscription = Subscription {
            group: "probe".to_owned(),
            topics: topics.to_vec(),
            tracking: Tracking::Position,
            start: Start::LogStart,
            limits: Limits::default(),
        };
        let mut consumer = self.broker.subscribe(subscription).await.unwrap();
        let mut records = Vec::new();
        let start = Instant::now();
        while !enough(&records) {
            let left = DEADLINE.saturating_sub(start.elapsed());
            match tokio::time::timeout(left, consumer.next()).await {
                Ok(Ok(Signal::Read(read))) => records.extend(read),
                Ok(Ok(_)) => {}
                Ok(Err(error)) => panic!("{error}"),
                Err(_) => panic!("only {} records came to {topics:?}", records.len()),
            }
        }
        consumer.close().await;
        records
    }

    /// The first `count` records on a topic.
    pub async fn first(&self, topic: Topic, count: usize) -> Vec<Record> {
        self.read(&[topic], |records| records.len() >= count).await
    }

    /// Records that are on a topic now.
    pub async fn count(&self, topic: Topic) -> usize {
        let partitions = self.broker.lag("dispatcher.retry", &[topic]).await.unwrap();
        let ends: BTreeMap<_, _> = partitions.iter().map(|lag| (lag.partition, lag.end)).collect();
        if ends.values().all(|end| *end == 0) {
            return 0;
        }
        self.read(&[topic], |records| {
            ends.iter().all(|(partition, end)| {
                *end == 0
                    || records
                        .iter()
                        // Offsets skip one after each hop.
                        .any(|record| record.partition == *partition && record.offset + 2 >= *end)
            })
        })
        .await
        .len()
    }
}

pub fn work(id: &str, priority: Priority, expires_at: Option<Millis>) -> Work {
    let accepted = Accepted {
        id: id.to_owned(),
        correlation_id: id.to_owned(),
        tenant: "default".to_owned(),
        channel: Channel::Sms,
        priority,
        provider: None,
        scheduled_at: None,
        expires_at,
        policy: Policy::NoLoss,
    };
    let payload = serde_json::value::to_raw_value(&serde_json::json!({"message": id})).unwrap();
    let event = EventView {
        event_id: id.to_owned(),
        tenant: "default".to_owned(),
        channel: Channel::Sms,
        priority,
        payload: &payload,
        metadata: None,
        provider: None,
        ordering_key: None,
        scheduled_at: None,
        expires_at,
    };
    Work {
        delivery: Delivery::accepted(accepted, "ingestion", clock::now()).0,
        event: event.to_bytes().unwrap(),
    }
}

/// An event whose sends by twilio failed, on the retry topic.
pub fn failed(id: &str, priority: Priority, kind: ErrorKind, times: usize) -> NewRecord {
    let mut work = work(id, priority, None);
    for _ in 0..times {
        let failure = Failure::new(kind, "twilio", Some("503".to_owned()), "busy");
        work.delivery = work
            .delivery
            .failed("twilio", "twilio", failure, "dispatcher", clock::now());
    }
    NewRecord::new(Topic::failed(priority), id.to_owned(), work.encode().unwrap())
}

/// An event that waits until `due`, on the topic where it waits.
pub fn parked(mut work: Work, due: Millis) -> NewRecord {
    let id = work.delivery.id.clone();
    let topic = work
        .delivery
        .park(WaitReason::Rate, due, "dispatcher", clock::now());
    NewRecord::new(topic, id, work.encode().unwrap())
}

pub fn delivery(record: &Record) -> Delivery {
    match Value::decode(record.value.as_ref().unwrap()).unwrap() {
        Value::Work(work) => work.delivery,
        Value::Outcome(delivery) => delivery,
        other => panic!("{other:?}"),
    }
}
