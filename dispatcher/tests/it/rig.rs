//! A lane on the embedded broker, with scripted providers, and eyes on the topics behind it.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;

use posthaste_broker::{
    Broker, NewRecord, Record, Signal, Start, Subscription, Tracking, embedded::EmbeddedBroker,
};
use posthaste_definitions::{Suppressions, suppressions};
use posthaste_dispatcher::{Accounts, Dispatcher, LaneName, Settings, Unroutable};
use posthaste_event::{
    Channel, Delivery, EventView, Millis, Priority, Tier, Topic, Value, Work, clock,
    delivery::{Accepted, Policy},
};
use posthaste_provider::{Account, Provider};
use posthaste_sealing::Keys;
use posthaste_service::{Health, Metrics, Requests, Shutdown, requests::follow};
use posthaste_store::{Device, Devices, StoreError};
use posthaste_testkit::ScriptedProvider;
use serde_json::value::RawValue;
use tempfile::TempDir;
use tokio::{task::JoinHandle, time::timeout};
use tokio_util::task::AbortOnDropHandle;

use crate::stalling::Stalling;

/// Longest wait for anything; only a failure is ever this slow.
pub const LIMIT: Duration = Duration::from_secs(20);

const SEEN: [Topic; 10] = [
    Topic::Status,
    Topic::Failed,
    Topic::FailedCritical,
    Topic::DeadLetter,
    Topic::DelayNear,
    Topic::DelayNearCritical,
    Topic::Delay(Tier::S30),
    Topic::Delay(Tier::M2),
    Topic::Delay(Tier::M8),
    Topic::Retry,
];

pub struct Scripted(Vec<Account>);

impl Scripted {
    pub fn new(accounts: &[(&Arc<ScriptedProvider>, usize, Duration)]) -> Arc<Self> {
        let account =
            |(provider, concurrency_max, timeout): &(&Arc<ScriptedProvider>, usize, Duration)| Account {
                name: provider.name().to_owned(),
                provider: Arc::clone(provider) as Arc<dyn Provider>,
                concurrency_max: *concurrency_max,
                timeout: *timeout,
            };
        Arc::new(Self(accounts.iter().map(account).collect()))
    }
}

impl Accounts for Scripted {
    fn resolve(
        &self,
        channel: Channel,
        provider: Option<&str>,
        account: Option<&str>,
    ) -> Result<&Account, Box<Unroutable>> {
        let name = account.or(provider);
        let found = match name {
            Some(name) => self.0.iter().find(|account| account.name == name),
            None => self
                .0
                .iter()
                .find(|account| account.provider.channels().contains(&channel)),
        };
        found.ok_or_else(|| {
            Box::new(Unroutable::new(
                channel,
                provider,
                account,
                "unknown_provider",
                "is not here",
            ))
        })
    }

    fn all(&self) -> Vec<&Account> {
        self.0.iter().collect()
    }
}

pub fn settings() -> Settings {
    #[derive(serde::Deserialize)]
    struct File {
        dispatcher: Settings,
    }
    toml::from_str::<File>(posthaste_dispatcher::DEFAULTS)
        .unwrap()
        .dispatcher
}

/// Devices in memory, for a store that may be away.
#[derive(Default)]
pub struct Registered {
    pub devices: Mutex<Vec<Device>>,
    pub is_away: AtomicBool,
    pub asked: AtomicUsize,
}

impl Registered {
    fn reached(&self) -> Result<MutexGuard<'_, Vec<Device>>, StoreError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        match self.is_away.load(Ordering::SeqCst) {
            true => Err(StoreError::Unreachable("away".to_owned())),
            false => Ok(self.devices.lock().unwrap()),
        }
    }
}

#[async_trait]
impl Devices for Registered {
    async fn register(&self, device: &Device, _: u32) -> Result<(), StoreError> {
        self.reached()?.push(device.clone());
        Ok(())
    }

    async fn devices(&self, tenant: &str, user: &str, _: Millis, _: u32) -> Result<Vec<Device>, StoreError> {
        let mut devices = self.reached()?.clone();
        devices.retain(|device| device.tenant == tenant && device.user == user);
        Ok(devices)
    }

    async fn unregister(&self, tenant: &str, id: &str) -> Result<bool, StoreError> {
        let mut devices = self.reached()?;
        let before = devices.len();
        devices.retain(|device| device.tenant != tenant || device.id != id);
        Ok(devices.len() < before)
    }

    async fn forget_devices(&self, _: Millis, _: u32) -> Result<u64, StoreError> {
        Ok(0)
    }
}

/// A broker in a folder of its own.
pub struct Rig {
    pub broker: Arc<Stalling>,
    /// What was asked of events, followed.
    pub requests: Arc<Requests>,
    /// Who is suppressed, followed.
    pub suppressions: Arc<Suppressions>,
    /// What sealed payloads open with.
    pub keys: Arc<Keys>,
    /// Where a push to a user goes.
    pub devices: Arc<Registered>,
    _following: [AbortOnDropHandle<()>; 2],
    _folder: TempDir,
}

fn definitions_settings() -> posthaste_definitions::Settings {
    #[derive(serde::Deserialize)]
    struct File {
        definitions: posthaste_definitions::Settings,
    }
    toml::from_str::<File>(posthaste_definitions::DEFAULTS)
        .unwrap()
        .definitions
}

impl Rig {
    pub async fn new() -> Self {
        Self::with_record_bytes_max(1_000_000).await
    }

    pub async fn with_record_bytes_max(record_bytes_max: usize) -> Self {
        #[derive(serde::Deserialize)]
        struct File {
            broker: posthaste_broker::Settings,
        }
        let text = posthaste_broker::settings::DEFAULTS;
        let mut settings = toml::from_str::<File>(text).unwrap().broker;
        settings.partitions = 4;
        settings.record_bytes_max = record_bytes_max;
        let folder = tempfile::tempdir().unwrap();
        let broker = EmbeddedBroker::open(folder.path(), &settings).unwrap();
        broker.create_topics().await.unwrap();
        let broker = Stalling::new(Arc::new(broker));
        let requests = Arc::<Requests>::default();
        let (log, asked) = (Arc::clone(&broker) as Arc<dyn Broker>, Arc::clone(&requests));
        let following = tokio::spawn(async move { follow(&log, &asked, &Shutdown::new()).await });
        let suppressions = Arc::new(Suppressions::new(definitions_settings(), true));
        let (log, known) = (Arc::clone(&broker) as Arc<dyn Broker>, Arc::clone(&suppressions));
        let hearing = tokio::spawn(async move { suppressions::follow(&log, &known, &Shutdown::new()).await });
        Self {
            broker,
            requests,
            suppressions,
            keys: Arc::default(),
            devices: Arc::default(),
            _following: [following, hearing].map(AbortOnDropHandle::new),
            _folder: folder,
        }
    }

    /// Starts an instance with one lane.
    pub fn start(&self, name: &str, lane: LaneName, accounts: &Arc<Scripted>, settings: Settings) -> Running {
        let health = Health::default();
        let metrics = Arc::<Metrics>::default();
        let dispatcher = Dispatcher::new(
            Arc::clone(&self.broker) as Arc<dyn Broker>,
            Arc::clone(accounts) as Arc<dyn Accounts>,
            settings,
            name.into(),
            health.clone(),
            Arc::clone(&metrics),
            Arc::clone(&self.requests),
            Arc::clone(&self.suppressions),
            Arc::clone(&self.keys),
            Arc::clone(&self.devices) as Arc<dyn Devices>,
        );
        let shutdown = Shutdown::new();
        let token = shutdown.clone();
        let task = tokio::spawn(async move { dispatcher.run(lane, token).await.unwrap() });
        Running {
            shutdown,
            task,
            health,
            metrics,
        }
    }

    pub async fn append(&self, records: Vec<NewRecord>) {
        self.broker.append(records).await.unwrap();
    }

    /// Appends to every partition what goes straight to the dead letters: when all four are there, what came before them
    /// has come in.
    pub async fn append_markers(&self) {
        let marker = |number| NewRecord {
            partition: Some(number),
            ..NewRecord::new(Topic::Default, "marker", "not ours")
        };
        self.append((0..4).map(marker).collect()).await;
    }

    /// Everything on the topics behind the lanes until `enough` says so.
    pub async fn wait_until(&self, enough: impl Fn(&Seen) -> bool) -> Seen {
        let subscription = Subscription {
            group: "test".to_owned(),
            topics: SEEN.to_vec(),
            tracking: Tracking::Position,
            start: Start::At(Vec::new()),
            limits: Default::default(),
        };
        let mut consumer = self.broker.subscribe(subscription).await.unwrap();
        let mut seen = Seen::default();
        let reading = async {
            while !enough(&seen) {
                if let Signal::Read(records) = consumer.next().await.unwrap() {
                    for record in records {
                        seen.add(record);
                    }
                }
            }
        };
        let done = timeout(LIMIT, reading).await;
        assert!(done.is_ok(), "waited in vain; seen: {:#?}", seen.summary());
        consumer.close().await;
        seen
    }
}

/// A running instance.
pub struct Running {
    shutdown: Shutdown,
    task: JoinHandle<()>,
    pub health: Health,
    pub metrics: Arc<Metrics>,
}

impl Running {
    /// Asks it to stop.
    pub fn ask_to_stop(&self) {
        self.shutdown.cancel();
    }

    /// Ends it in the middle of what it does, as a kill would.
    pub async fn crash(self) {
        self.task.abort();
        assert!(self.task.await.is_err());
    }

    /// Stops it and waits until it has.
    pub async fn stop(self) {
        self.shutdown.cancel();
        timeout(LIMIT, self.task)
            .await
            .expect("the lane did not stop")
            .unwrap();
    }
}

/// What was read behind the lanes.
#[derive(Default)]
pub struct Seen {
    /// By event, in order per topic.
    pub facts: BTreeMap<String, Vec<(Topic, Delivery)>>,
    pub foreign: Vec<posthaste_event::record::Foreign>,
    pub notes: Vec<posthaste_event::record::Note>,
    pub keys: BTreeMap<String, String>,
}

impl Seen {
    fn add(&mut self, record: Record) {
        let delivery = match record.decode("events") {
            Ok(Value::Work(Work { delivery, .. }) | Value::Outcome(delivery)) => delivery,
            Ok(Value::Foreign(foreign)) => return self.foreign.push(foreign),
            Ok(Value::Note(note)) => return self.notes.push(note),
            other => panic!("unexpected record: {other:?}"),
        };
        let key = String::from_utf8(record.key.unwrap().to_vec()).unwrap();
        self.keys.insert(delivery.id.clone(), key);
        let facts = self.facts.entry(delivery.id.clone()).or_default();
        facts.push((record.partition.topic, delivery));
    }

    /// How many records there are on a topic.
    pub fn on(&self, topic: Topic) -> usize {
        self.facts
            .values()
            .flatten()
            .filter(|(on, _)| *on == topic)
            .count()
    }

    /// Everything that waits in the wheel.
    pub fn waiting(&self) -> Vec<&Delivery> {
        let all = self.facts.values().flatten();
        all.filter(|(on, _)| on.is_delay())
            .map(|(_, delivery)| delivery)
            .collect()
    }

    /// The one record of an event.
    pub fn only(&self, id: &str) -> &(Topic, Delivery) {
        let facts = &self.facts[id];
        assert_eq!(facts.len(), 1, "{facts:#?}");
        &facts[0]
    }

    fn summary(&self) -> BTreeMap<Topic, usize> {
        SEEN.into_iter().map(|topic| (topic, self.on(topic))).collect()
    }
}

/// An event to append.
pub struct Event {
    pub id: String,
    pub tenant: &'static str,
    pub priority: Priority,
    pub provider: Option<&'static str>,
    pub expires_at: Option<Millis>,
    pub payload: &'static str,
    pub policy: Policy,
    pub ordering_key: Option<String>,
    pub channel: Channel,
    pub metadata: Option<&'static str>,
}

impl Event {
    pub fn new(id: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            tenant: "default",
            priority: Priority::Normal,
            provider: None,
            expires_at: None,
            payload: r#"{"message":"hello","phoneNumber":"+12025555555"}"#,
            policy: Policy::NoLoss,
            ordering_key: None,
            channel: Channel::Sms,
            metadata: None,
        }
    }

    pub fn record(&self) -> NewRecord {
        let accepted = Accepted {
            id: self.id.clone(),
            correlation_id: self.id.clone(),
            tenant: self.tenant.to_owned(),
            channel: self.channel,
            priority: self.priority,
            provider: self.provider.map(str::to_owned),
            scheduled_at: None,
            expires_at: self.expires_at,
            policy: self.policy,
        };
        let (delivery, topic) = Delivery::accepted(accepted, "test", clock::now());
        let payload: &RawValue = serde_json::from_str(self.payload).unwrap();
        let event = EventView {
            event_id: self.id.clone(),
            tenant: self.tenant.to_owned(),
            channel: self.channel,
            priority: self.priority,
            payload,
            metadata: self
                .metadata
                .map(|metadata| serde_json::from_str(metadata).unwrap()),
            provider: None,
            ordering_key: self.ordering_key.clone(),
            scheduled_at: None,
            expires_at: self.expires_at,
        };
        let event = event.to_bytes().unwrap();
        let key = match &self.ordering_key {
            Some(key) => format!("{}/{key}", self.tenant),
            None => self.id.clone(),
        };
        NewRecord::new(topic, key, Work { delivery, event }.encode().unwrap())
    }
}
