//! Intake on a broker that does what a test tells it.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use axum::{
    Router,
    body::{Body, to_bytes},
    http::{HeaderMap, Request, StatusCode},
};
use posthaste_broadcast::Broadcasts;
use posthaste_broker::{
    AppendError, Broker, BrokerError, Consumer, Finding, GroupLag, IsIt, Mark, NewRecord, News, Partition,
    Record, Subscription,
};
use posthaste_definitions::{Definitions, Kind};
use posthaste_event::{
    Channel, Millis, Topic,
    partition::{self, Place},
};
use posthaste_ingestion::{DEFAULTS, Ingestion, ProviderNames, Settings, templates::Catalog};
use posthaste_sealing::{Keys, Ring, Sealer};
use posthaste_service::{Health, Metrics, http::assemble};
use posthaste_store::{Claims, EmbeddedStore, Lists, Store, Tallies};
use serde_json::{Value as Json, json};
use tempfile::TempDir;
use tokio::sync::Notify;
use tower::ServiceExt as _;

use crate::away::Away;

/// Of every topic.
const PARTITIONS: u32 = 12;

/// A broker that keeps what is appended, or answers what it is told to.
#[derive(Default)]
pub struct Scripted {
    pub appended: Mutex<Vec<NewRecord>>,
    pub fails: Mutex<Option<AppendError>>,
    /// Only what goes there fails.
    pub fails_on: Option<Topic>,
    pub holds: Option<Arc<Notify>>,
    pub waiting: AtomicUsize,
    pub tried: AtomicUsize,
    /// What fails is appended all the same.
    pub lands: AtomicBool,
    /// How often it was asked for a place: each is another one.
    pub placed: AtomicUsize,
    pub definitions: Heard,
}

/// What is defined: whatever is appended to its topic is heard at once.
pub struct Heard(Arc<Definitions>);

impl Default for Heard {
    fn default() -> Self {
        let settings = posthaste_definitions::Settings {
            bytes_max: 1 << 20,
            suppressions_max: 1,
            suppressions_country_code: "1".to_owned(),
        };
        Self(Arc::new(Definitions::new(&Kind::ALL, settings)))
    }
}

impl std::ops::Deref for Heard {
    type Target = Arc<Definitions>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl Heard {
    fn hear(&self, record: &NewRecord) {
        let record = Record {
            partition: Partition {
                topic: record.topic,
                number: 0,
            },
            offset: 0,
            key: Some(record.key.clone()),
            value: record.value.clone(),
            appended_at: 0,
            headers: None,
        };
        self.0.on_news(News::Records(vec![record]));
    }
}

#[async_trait]
impl Broker for Scripted {
    fn prefix(&self) -> &str {
        "events"
    }

    async fn append(&self, records: Vec<NewRecord>) -> Result<(), AppendError> {
        self.tried.fetch_add(1, Ordering::SeqCst);
        if let Some(holds) = &self.holds {
            self.waiting.fetch_add(1, Ordering::SeqCst);
            holds.notified().await;
        }
        let is_meant = |topic: Topic| records.iter().any(|record| record.topic == topic);
        let fails = self.fails.lock().unwrap().clone();
        if let Some(error) = fails.filter(|_| self.fails_on.is_none_or(is_meant)) {
            if self.lands.load(Ordering::SeqCst) {
                self.appended.lock().unwrap().extend(records);
            }
            return Err(error);
        }
        let (defined, records): (Vec<_>, Vec<_>) = records
            .into_iter()
            .partition(|record| record.topic == Topic::Definitions);
        defined.iter().for_each(|record| self.definitions.hear(record));
        self.appended.lock().unwrap().extend(records);
        Ok(())
    }

    async fn mark(&self, wanted: &[(Topic, &[u8])]) -> Result<Vec<Mark>, BrokerError> {
        let offset = self.appended.lock().unwrap().len() as i64;
        let mark = |(topic, key): &(Topic, &[u8])| Mark {
            partition: Partition {
                topic: *topic,
                number: partition::of(key, PARTITIONS),
            },
            offset,
        };
        Ok(wanted.iter().map(mark).collect())
    }

    fn next_place(&self, _: usize) -> Option<Place> {
        let placed = self.placed.fetch_add(1, Ordering::SeqCst);
        Some(Place {
            number: placed as u32 % PARTITIONS,
            partitions: PARTITIONS,
        })
    }

    async fn find(&self, from: Mark, _: Millis, is_it: IsIt) -> Result<Option<Record>, BrokerError> {
        let appended = self.appended.lock().unwrap();
        let behind = (from.offset..).zip(appended.iter().skip(from.offset as usize));
        let number = |record: &NewRecord| {
            let of_key = || partition::of(&record.key, PARTITIONS);
            record.partition.unwrap_or_else(of_key)
        };
        let there = behind.filter(|(_, record)| number(record) == from.partition.number);
        let mut records = there.map(|(offset, record)| Record {
            partition: from.partition,
            offset,
            key: Some(record.key.clone()),
            value: record.value.clone(),
            appended_at: 0,
            headers: None,
        });
        Ok(records.find(|record| is_it(record)))
    }

    async fn subscribe(&self, _: Subscription) -> Result<Box<dyn Consumer>, BrokerError> {
        Err(BrokerError::Refused("not for intake".into()))
    }

    async fn create_topics(&self) -> Result<Vec<Finding>, BrokerError> {
        Ok(Vec::new())
    }

    async fn check_topics(&self) -> Result<Vec<Finding>, BrokerError> {
        Ok(Vec::new())
    }

    async fn lag(&self, _: &str, _: &[Topic]) -> Result<Vec<GroupLag>, BrokerError> {
        Ok(Vec::new())
    }

    async fn trim(&self, _: Millis) -> Result<u64, BrokerError> {
        Ok(0)
    }

    fn health(&self) -> Result<(), String> {
        Ok(())
    }

    async fn close(&self, _: u64) {}
}

pub struct Fixture {
    pub broker: Arc<Scripted>,
    pub router: Router,
    pub metrics: Arc<Metrics>,
    pub catalog: Arc<Catalog>,
    pub keys: Arc<Keys>,
    /// What is known of events.
    pub events: Arc<EmbeddedStore>,
    pub lists: Arc<dyn Lists>,
    _dir: Arc<TempDir>,
}

fn encryption() -> posthaste_sealing::Settings {
    let table: toml::Table = toml::from_str(posthaste_sealing::DEFAULTS).unwrap();
    table["encryption"].clone().try_into().unwrap()
}

impl Fixture {
    pub fn new(broker: Scripted, change: impl FnOnce(&mut Settings)) -> Self {
        Self::several(Arc::new(broker), 1, change).remove(0)
    }

    /// So many instances of intake before one broker and one store.
    pub fn several(broker: Arc<Scripted>, count: usize, change: impl FnOnce(&mut Settings)) -> Vec<Self> {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        let table: toml::Table = toml::from_str(posthaste_store::DEFAULTS).unwrap();
        let settings = table["store"].clone().try_into().unwrap();
        let store = Arc::new(EmbeddedStore::open(dir.path(), &settings).unwrap());
        let table: toml::Table = toml::from_str(DEFAULTS).unwrap();
        let mut settings: Settings = table["ingestion"].clone().try_into().unwrap();
        change(&mut settings);
        (0..count)
            .map(|_| {
                Self::with(
                    Arc::clone(&broker),
                    Arc::clone(&store),
                    settings.clone(),
                    Arc::clone(&dir),
                )
            })
            .collect()
    }

    /// While the store is away.
    pub fn without_store() -> Self {
        let table: toml::Table = toml::from_str(DEFAULTS).unwrap();
        let settings: Settings = table["ingestion"].clone().try_into().unwrap();
        let dir = Arc::new(tempfile::tempdir().unwrap());
        Self::with(Arc::default(), Arc::new(Away), settings, dir)
    }

    /// Which seals with these keys what `change` asks for.
    pub fn sealing(ring: Option<Ring>, change: impl FnOnce(&mut posthaste_sealing::Settings)) -> Self {
        let table: toml::Table = toml::from_str(DEFAULTS).unwrap();
        let settings: Settings = table["ingestion"].clone().try_into().unwrap();
        let dir = Arc::new(tempfile::tempdir().unwrap());
        let (store, claims) = (
            toml::from_str::<toml::Table>(posthaste_store::DEFAULTS).unwrap(),
            dir.path(),
        );
        let claims = EmbeddedStore::open(claims, &store["store"].clone().try_into().unwrap()).unwrap();
        let mut asked = encryption();
        change(&mut asked);
        let sealer = Sealer::new(Arc::new(Keys::new(ring)), asked);
        Self::made(Arc::default(), Arc::new(claims), settings, dir, sealer)
    }

    fn with<S: Claims + Lists + Tallies + 'static>(
        broker: Arc<Scripted>,
        store: Arc<S>,
        settings: Settings,
        dir: Arc<TempDir>,
    ) -> Self {
        Self::made(
            broker,
            store,
            settings,
            dir,
            Sealer::new(Arc::default(), encryption()),
        )
    }

    fn made<S: Claims + Lists + Tallies + 'static>(
        broker: Arc<Scripted>,
        store: Arc<S>,
        settings: Settings,
        dir: Arc<TempDir>,
        sealer: Sealer,
    ) -> Self {
        let keys = Arc::clone(sealer.keys());
        let table: toml::Table = toml::from_str(posthaste_service::DEFAULTS).unwrap();
        let service = table["service"].clone().try_into().unwrap();
        let providers: ProviderNames = [(Channel::Sms, vec!["twilio".to_owned()])].into();
        let health = Health::default();
        let metrics = Arc::new(Metrics::new(&providers));
        let definitions = Arc::clone(&broker.definitions);
        definitions.on_news(News::AllRead);
        let catalog = Arc::new(Catalog::new(
            definitions,
            broker.clone(),
            providers.clone(),
            settings.clone(),
            "here".into(),
        ));
        let broadcasts = Arc::new(Broadcasts::default());
        broadcasts.on_news(News::AllRead);
        let table: toml::Table = toml::from_str(posthaste_broadcast::DEFAULTS).unwrap();
        let mut broadcast: posthaste_broadcast::Settings = table["broadcast"].clone().try_into().unwrap();
        // Few, so that tests come by them.
        (broadcast.recipients_max, broadcast.chunks_max) = (2_000, 20);
        broadcast.lists_max = 2;
        let table: toml::Table = toml::from_str(posthaste_store::DEFAULTS).unwrap();
        let place = tempfile::tempdir_in(dir.path()).unwrap().keep();
        let of_store = table["store"].clone().try_into().unwrap();
        let events = Arc::new(EmbeddedStore::open(&place, &of_store).unwrap());
        (broadcast.tenant_unfinished_max, broadcast.unfinished_max) = (5, 7);
        let lists = Arc::clone(&store) as Arc<dyn Lists>;
        let (ingestion, beside) = Ingestion::new(
            broker.clone(),
            (
                Arc::clone(&store) as Arc<dyn Claims>,
                Arc::clone(&events) as Arc<dyn Store>,
            ),
            Duration::ZERO,
            providers,
            Arc::clone(&catalog),
            (broadcasts, Arc::clone(&lists), store, broadcast),
            sealer,
            settings,
            "here".into(),
            &health,
            Arc::clone(&metrics),
        );
        tokio::spawn(beside.run());
        let router = assemble(ingestion.router(), health, "here".into(), &service, None);
        Self {
            broker,
            router,
            metrics,
            catalog,
            keys,
            events,
            lists,
            _dir: dir,
        }
    }

    pub async fn post(&self, content_type: &str, body: impl Into<Body>) -> (StatusCode, HeaderMap, Json) {
        self.post_traced(content_type, body, "").await
    }

    pub async fn post_traced(
        &self,
        content_type: &str,
        body: impl Into<Body>,
        traceparent: &str,
    ) -> (StatusCode, HeaderMap, Json) {
        let request = Request::post("/event")
            .header("content-type", content_type)
            .header("x-correlation-id", "c-1")
            .header("traceparent", traceparent)
            .body(body.into())
            .unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, headers, serde_json::from_slice(&body).unwrap())
    }

    /// With an `Idempotency-Key`.
    pub async fn post_keyed(
        &self,
        path: &str,
        key: &str,
        body: impl Into<Body>,
    ) -> (StatusCode, HeaderMap, Json) {
        self.post_keyed_as("application/json", path, key, body).await
    }

    /// The same, of some content type.
    pub async fn post_keyed_as(
        &self,
        content_type: &str,
        path: &str,
        key: &str,
        body: impl Into<Body>,
    ) -> (StatusCode, HeaderMap, Json) {
        let request = Request::post(path)
            .header("content-type", content_type)
            .header("idempotency-key", key)
            .body(body.into())
            .unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, headers, serde_json::from_slice(&body).unwrap())
    }

    pub fn stored(&self) -> usize {
        self.broker.appended.lock().unwrap().len()
    }
}

pub fn sms() -> String {
    json!({
        "channel": "sms",
        "payload": { "message": "Test SMS", "phoneNumber": "2025555555" },
        "metadata": {},
        "priority": "default"
    })
    .to_string()
}

impl Fixture {
    /// A request with many, with an `Idempotency-Key` or without.
    pub async fn post_many(
        &self,
        path: &str,
        key: Option<&str>,
        events: &Json,
    ) -> (StatusCode, HeaderMap, Json) {
        match key {
            Some(key) => self.post_keyed(path, key, events.to_string()).await,
            None => {
                let request = Request::post(path)
                    .header("content-type", "application/json")
                    .body(Body::from(events.to_string()))
                    .unwrap();
                let response = self.router.clone().oneshot(request).await.unwrap();
                let (status, headers) = (response.status(), response.headers().clone());
                let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
                (status, headers, serde_json::from_slice(&body).unwrap())
            }
        }
    }
}

/// Any request to any path, and its answer.
pub async fn ask(
    intake: &Fixture,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &Json,
) -> (StatusCode, HeaderMap, Json) {
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", "application/json")
        .header("x-correlation-id", "c-1");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let body = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    let request = request.body(Body::from(body)).unwrap();
    let response = intake.router.clone().oneshot(request).await.unwrap();
    let (status, headers) = (response.status(), response.headers().clone());
    let bytes = to_bytes(response.into_body(), 8 << 20).await.unwrap();
    (
        status,
        headers,
        serde_json::from_slice(&bytes).unwrap_or_default(),
    )
}
