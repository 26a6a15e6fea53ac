//! A broker, a store and projectors between them.

#![allow(dead_code, reason = "each test binary uses a part")]

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use posthaste_broker::{Broker, NewRecord, embedded::EmbeddedBroker};
use posthaste_event::{Millis, Status, Topic, Value, topic::PROJECTED};
use posthaste_service::{Health, Shutdown};
use posthaste_status::{Positions, Projector, Settings, StatusError};
use posthaste_store::{
    Changes, Document, EmbeddedStore, InboxMessage, Page, Position, Query, Store, StoreError, Tallies,
    settings::Url,
};
use tempfile::TempDir;
use tokio::task::JoinHandle;

/// One broker and one store, both in a folder of their own.
pub struct World {
    pub store: Arc<dyn Store>,
    pub broker: Arc<dyn Broker>,
    dir: Arc<TempDir>,
}

impl World {
    pub async fn new() -> Self {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        let store: Arc<dyn Store> = Arc::new(EmbeddedStore::open(dir.path(), &store_settings()).unwrap());
        Self {
            broker: broker(dir.path().join("log")).await,
            store,
            dir,
        }
    }

    /// The same store with an empty log.
    pub async fn with_new_log(&self) -> Self {
        Self {
            broker: broker(self.dir.path().join("new-log")).await,
            store: self.store.clone(),
            dir: self.dir.clone(),
        }
    }

    /// Spreads records over all projected topics and some partitions, as no real service would.
    pub async fn append(&self, values: &[Value]) {
        let records = values.iter().enumerate().map(|(number, value)| NewRecord {
            partition: Some((number % 2) as u32),
            ..NewRecord::new(
                PROJECTED[number % PROJECTED.len()],
                "key",
                value.encode().unwrap(),
            )
        });
        for records in records.collect::<Vec<_>>().chunks(64) {
            self.broker.append(records.to_vec()).await.unwrap();
        }
    }

    pub async fn append_raw(&self, topic: Topic, value: &'static [u8]) {
        self.broker
            .append(vec![NewRecord::new(topic, "key", value)])
            .await
            .unwrap();
    }

    pub fn projector(&self, store: Arc<dyn Store>, positions: Positions) -> Projector {
        Projector {
            broker: self.broker.clone(),
            store,
            positions,
            retention_ms: Some(86_400_000),
        }
    }

    pub fn project(&self, store: Arc<dyn Store>, positions: Positions) -> Running {
        self.project_with(store, positions, settings())
    }

    pub fn project_with(&self, store: Arc<dyn Store>, positions: Positions, settings: Settings) -> Running {
        let (health, shutdown) = (Health::default(), Shutdown::new());
        let projector = self.projector(store, positions);
        let task = tokio::spawn({
            let (health, shutdown) = (health.clone(), shutdown.clone());
            async move { posthaste_status::run(&settings, projector, &health, shutdown).await }
        });
        Running {
            health,
            shutdown,
            task,
        }
    }
}

pub async fn broker(folder: PathBuf) -> Arc<dyn Broker> {
    #[derive(serde::Deserialize)]
    struct File {
        broker: posthaste_broker::Settings,
    }
    let mut settings = toml::from_str::<File>(posthaste_broker::settings::DEFAULTS)
        .unwrap()
        .broker;
    settings.partitions = 2;
    let broker = EmbeddedBroker::open(&folder, &settings).unwrap();
    broker.create_topics().await.unwrap();
    Arc::new(broker)
}

/// A projector that runs.
pub struct Running {
    pub health: Health,
    shutdown: Shutdown,
    task: JoinHandle<Result<(), StatusError>>,
}

impl Running {
    pub async fn stop(self) {
        self.shutdown.cancel();
        tokio::time::timeout(Duration::from_secs(30), self.task)
            .await
            .unwrap()
            .unwrap()
            .unwrap();
    }
}

pub fn settings() -> Settings {
    #[derive(serde::Deserialize)]
    struct File {
        status: Settings,
    }
    let mut settings = toml::from_str::<File>(posthaste_status::DEFAULTS).unwrap().status;
    settings.drain_ms = 1_000;
    settings.commit_every_ms = 50;
    settings
}

pub fn store_settings() -> posthaste_store::Settings {
    #[derive(serde::Deserialize)]
    struct File {
        store: posthaste_store::Settings,
    }
    toml::from_str::<File>(posthaste_store::DEFAULTS).unwrap().store
}

pub fn mongo_settings(url: String) -> posthaste_store::Settings {
    let mut settings = store_settings();
    settings.mongodb.url = Url(url);
    settings
}

/// Waits until it is so.
pub async fn until(mut condition: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), wait).await.unwrap();
}

/// A store that goes away and refuses on request, and remembers which events were written.
pub struct Flaky {
    inner: Arc<dyn Store>,
    away: AtomicBool,
    refused: Mutex<Option<String>>,
    changes_max: AtomicUsize,
    away_after: AtomicUsize,
    early: AtomicUsize,
    seen: Mutex<Vec<String>>,
}

impl Flaky {
    pub fn new(inner: Arc<dyn Store>) -> Self {
        Self {
            inner,
            away: AtomicBool::new(false),
            refused: Mutex::default(),
            changes_max: AtomicUsize::new(usize::MAX),
            away_after: AtomicUsize::new(usize::MAX),
            early: AtomicUsize::new(0),
            seen: Mutex::default(),
        }
    }

    pub fn away(&self, away: bool) {
        self.away.store(away, Ordering::SeqCst);
    }

    /// Is not through with more changes than these in time.
    pub fn slow(&self, changes_max: usize) {
        self.changes_max.store(changes_max, Ordering::SeqCst);
    }

    /// Is away for good once it has so many changes.
    pub fn away_after(&self, changes: usize) {
        self.away_after.store(changes, Ordering::SeqCst);
    }

    /// Ends so many pages before the first event that is meant.
    pub fn ends_early(&self, pages: usize) {
        self.early.store(pages, Ordering::SeqCst);
    }

    /// Refuses changes of this event.
    pub fn refuse(&self, id: &str) {
        *self.refused.lock().unwrap() = Some(id.to_owned());
    }

    /// Which events were written, each once, sorted.
    pub fn seen(&self) -> Vec<String> {
        let mut seen = self.seen.lock().unwrap().clone();
        seen.sort();
        seen.dedup();
        seen
    }

    fn check(&self) -> Result<(), StoreError> {
        if self.away.load(Ordering::SeqCst) {
            return Err(StoreError::Unreachable("away for a test".into()));
        }
        Ok(())
    }
}

#[async_trait]
impl Tallies for Flaky {
    async fn tally(&self, tenant: &str, correlation_id: &str) -> Result<BTreeMap<Status, u64>, StoreError> {
        self.check()?;
        self.inner.tally(tenant, correlation_id).await
    }
}

#[async_trait]
impl Store for Flaky {
    async fn apply(&self, changes: Changes, progress: &[Position]) -> Result<(), StoreError> {
        self.check()?;
        if changes.len() > self.changes_max.load(Ordering::SeqCst) {
            return Err(StoreError::Unreachable("no answer within 0 ms".into()));
        }
        if self.seen.lock().unwrap().len() >= self.away_after.load(Ordering::SeqCst) {
            return Err(StoreError::Unreachable("away for a test".into()));
        }
        let refused = self.refused.lock().unwrap().clone();
        if changes.iter().any(|change| Some(&change.id) == refused.as_ref()) {
            return Err(StoreError::Refused("refused for a test".into()));
        }
        self.seen
            .lock()
            .unwrap()
            .extend(changes.iter().map(|change| change.id.clone()));
        self.inner.apply(changes, progress).await
    }

    async fn progress(&self) -> Result<Option<Vec<Position>>, StoreError> {
        self.inner.progress().await
    }

    async fn event(&self, id: &str) -> Result<Option<Document>, StoreError> {
        self.check()?;
        self.inner.event(id).await
    }

    async fn events(&self, ids: &[String]) -> Result<Vec<(String, Option<Document>)>, StoreError> {
        self.check()?;
        self.inner.events(ids).await
    }

    async fn replace(&self, seen: Option<&Document>, truth: &Document) -> Result<bool, StoreError> {
        self.check()?;
        self.inner.replace(seen, truth).await
    }

    async fn search(&self, query: &Query) -> Result<Page, StoreError> {
        self.check()?;
        let left = self.early.load(Ordering::SeqCst);
        if left > 0 {
            self.early.store(left - 1, Ordering::SeqCst);
            let newest = Some((Millis::MAX, String::new()));
            return Ok(Page {
                events: Vec::new(),
                next: newest,
            });
        }
        self.inner.search(query).await
    }

    async fn counts(&self, tenant: Option<&str>) -> Result<BTreeMap<Status, u64>, StoreError> {
        self.check()?;
        self.inner.counts(tenant).await
    }

    async fn put_inbox(&self, message: &InboxMessage) -> Result<(), StoreError> {
        self.inner.put_inbox(message).await
    }

    async fn inbox(
        &self,
        tenant: &str,
        recipient: &str,
        limit: u32,
    ) -> Result<Vec<InboxMessage>, StoreError> {
        self.check()?;
        self.inner.inbox(tenant, recipient, limit).await
    }

    async fn forget(&self, before: Millis, records_max: u32) -> Result<u64, StoreError> {
        self.inner.forget(before, records_max).await
    }

    fn health(&self) -> Result<(), String> {
        Ok(())
    }
}
