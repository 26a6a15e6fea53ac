//! Opens the broker and the store that the configuration names.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use posthaste_broker::{Broker, BrokerError, Severity, embedded::EmbeddedBroker, kafka::KafkaBroker};
use posthaste_reconnect::Reconnect;
use posthaste_store::{Claims, Devices, EmbeddedStore, Lists, MongoStore, Store, Tallies};
use tracing::{info, warn};

use super::{Mode, Process, Role};
use crate::{configuration::Settings, failure::Failure};

/// Refuses what cannot work: files belong to one process.
pub fn check(settings: &Settings, roles: &[Role], mode: Mode) -> Result<(), Failure> {
    if mode == Mode::Up || roles == [Role::Sandbox] {
        return Ok(());
    }
    if !has_kafka(settings) {
        return Err(Failure::Usage(
            "a service alone needs Kafka, since a file belongs to one process; accepted: --kafka HOST:PORT, or `posthaste up`"
                .to_owned(),
        ));
    }
    if roles.iter().any(Role::needs_store) && !has_mongodb(settings) {
        return Err(Failure::Usage(
            "this service needs MongoDB, since a file belongs to one process; accepted: --mongodb mongodb://HOST:PORT, or `posthaste up`"
                .to_owned(),
        ));
    }
    Ok(())
}

/// Where log and status are, in words.
pub fn place(settings: &Settings) -> String {
    let folder = settings.service.data_dir.display();
    match (has_kafka(settings), has_mongodb(settings)) {
        (false, false) => format!("log and status in {folder}"),
        (false, true) => format!("log in {folder}, status in MongoDB"),
        (true, false) => format!("log on Kafka, status in {folder}"),
        (true, true) => "log on Kafka, status in MongoDB".to_owned(),
    }
}

/// Whether the log is on Kafka, where other processes share it.
pub fn has_kafka(settings: &Settings) -> bool {
    !settings.broker.kafka.bootstrap_servers.is_empty()
}

/// Whether the status is in MongoDB.
pub fn has_mongodb(settings: &Settings) -> bool {
    !settings.store.mongodb.url.0.is_empty()
}

/// The data folder, made if it is not there.
pub fn data_folder(settings: &Settings) -> Result<&Path, Failure> {
    let folder = &settings.service.data_dir;
    std::fs::create_dir_all(folder).map_err(|error| {
        Failure::Runtime(format!(
            "cannot make the data folder {}: {error}",
            folder.display()
        ))
    })?;
    Ok(folder)
}

/// One store, as what it is to those who use it.
#[derive(Clone)]
pub struct Stores {
    /// Status and inboxes.
    pub status: Arc<dyn Store>,
    /// Idempotency keys.
    pub claims: Arc<dyn Claims>,
    /// Devices of users.
    pub devices: Arc<dyn Devices>,
    /// Lists of recipients.
    pub lists: Arc<dyn Lists>,
    /// How many events of a broadcast stand where.
    pub tallies: Arc<dyn Tallies>,
}

impl Stores {
    fn of<S: Store + Claims + Devices + Lists + 'static>(store: S) -> Self {
        let store = Arc::new(store);
        Self {
            status: Arc::clone(&store) as Arc<dyn Store>,
            claims: Arc::clone(&store) as Arc<dyn Claims>,
            devices: Arc::clone(&store) as Arc<dyn Devices>,
            lists: Arc::clone(&store) as Arc<dyn Lists>,
            tallies: store,
        }
    }
}

/// Opens the store. MongoDB is not waited for: it may be away.
pub fn stores(process: &Process) -> Result<Stores, Failure> {
    let settings = &process.settings;
    if has_mongodb(settings) {
        let store = MongoStore::connect(&settings.store).map_err(Failure::usage)?;
        return Ok(Stores::of(store));
    }
    let folder = data_folder(settings)?;
    let store = EmbeddedStore::open(folder, &settings.store).map_err(Failure::runtime)?;
    Ok(Stores::of(store))
}

/// Opens the broker, however long that takes; meanwhile `/ready` says what is missing.
pub async fn broker(process: &Process) -> Result<Arc<dyn Broker>, Failure> {
    let condition = Arc::new(Condition::new("not connected yet"));
    let watched = Arc::clone(&condition);
    process.health.check("broker", move || watched.check());
    let settings = &process.settings;
    let broker: Arc<dyn Broker> = if has_kafka(settings) {
        let connect = async || {
            let broker = KafkaBroker::connect(&settings.broker, &process.instance).await?;
            broker.fit().await?;
            Ok(broker)
        };
        until_there("Kafka", &condition, connect).await?
    } else {
        embedded(settings)?
    };
    if process.mode == Mode::Up {
        condition.set("topics are being created");
        let made = until_there("the broker", &condition, async || broker.create_topics().await).await?;
        for finding in made.iter().filter(|finding| finding.severity > Severity::Good) {
            warn!(
                subject = finding.subject,
                "{}: {}", finding.subject, finding.message
            );
        }
    }
    condition.follow(Arc::clone(&broker));
    Ok(broker)
}

/// The broker for a command that asks one question: one try.
pub async fn broker_now(settings: &Settings) -> Result<Arc<dyn Broker>, Failure> {
    if has_kafka(settings) {
        let instance = settings.service.instance_name();
        let broker = KafkaBroker::connect(&settings.broker, &instance).await;
        return Ok(broker.map_err(failure)?);
    }
    embedded(settings)
}

fn embedded(settings: &Settings) -> Result<Arc<dyn Broker>, Failure> {
    EmbeddedBroker::open(&settings.service.data_dir, &settings.broker)
        .map(|broker| Arc::new(broker) as Arc<dyn Broker>)
        .map_err(failure)
}

/// What the broker refuses is a matter of the configuration.
fn failure(error: BrokerError) -> Failure {
    match error {
        BrokerError::Refused(_) => Failure::usage(error),
        error => Failure::runtime(error),
    }
}

/// Waits until every topic is there, for a service that would not notice by itself.
pub async fn topics(process: &Process, broker: &Arc<dyn Broker>) -> Result<(), Failure> {
    let condition = Arc::new(Condition::new("topics not looked at yet"));
    let watched = Arc::clone(&condition);
    process.health.check("topics", move || watched.check());
    until_there("the topics", &condition, async || {
        let findings = broker.check_topics().await?;
        let wrong = findings
            .into_iter()
            .filter(|finding| finding.severity == Severity::Error);
        let subjects: Vec<String> = wrong.map(|finding| finding.subject).collect();
        if subjects.is_empty() {
            Ok(())
        } else {
            Err(BrokerError::MissingTopics(subjects))
        }
    })
    .await?;
    condition.well();
    Ok(())
}

/// Tries until it works. Says so once when it has to wait, and once when it is there.
async fn until_there<T>(
    what: &str,
    condition: &Condition,
    attempt: impl AsyncFn() -> Result<T, BrokerError>,
) -> Result<T, Failure> {
    let mut waits = Reconnect::default();
    let mut told = false;
    loop {
        match attempt().await {
            Ok(value) => {
                if told {
                    info!("{what}: there now");
                }
                return Ok(value);
            }
            Err(error) if error.is_retryable() => {
                condition.set(&error.to_string());
                if !told {
                    warn!(%error, "{what}: not there yet, trying on: {error}");
                }
                told = true;
                tokio::time::sleep(waits.next_wait()).await;
            }
            Err(error) => return Err(failure(error)),
        }
    }
}

/// What `/ready` says of something that is being waited for, and later of the broker itself.
struct Condition {
    missing: Mutex<Option<String>>,
    broker: std::sync::OnceLock<Arc<dyn Broker>>,
}

impl Condition {
    fn new(missing: &str) -> Self {
        Self {
            missing: Mutex::new(Some(missing.to_owned())),
            broker: std::sync::OnceLock::new(),
        }
    }

    fn set(&self, missing: &str) {
        *self.missing.lock().unwrap_or_else(PoisonError::into_inner) = Some(missing.to_owned());
    }

    fn well(&self) {
        *self.missing.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn follow(&self, broker: Arc<dyn Broker>) {
        self.well();
        let _first = self.broker.set(broker);
    }

    fn check(&self) -> Result<(), String> {
        let missing = self
            .missing
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        match (missing, self.broker.get()) {
            (Some(missing), _) => Err(missing),
            (None, Some(broker)) => broker.health(),
            (None, None) => Ok(()),
        }
    }
}
