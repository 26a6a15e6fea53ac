//! The broker on Apache Kafka.
//!
//! - Intake: two idempotent producers take appends.
//! - Each consumer is two threads: the reader owns the client and talks to async code through a table of what is handed
//!   out; the hops' thread commits transactions, fenced by the group's generation and the table's living assignments.
//! - A probe asks the broker now and then whether it is there, for `/ready` and for the log.

mod admin;
mod check;
mod client;
mod consumer;
mod gather;
mod hanging;
mod holding;
mod hops;
mod intake;
mod lane;
mod lease;
mod marks;
mod native;
mod positions;
mod producer;
mod reader;
mod recording;
mod served;
mod settings;
mod sources;
mod table;
mod topics;
mod transaction;
mod trim;
mod turns;
mod wire;

use std::{
    ffi::CString,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use posthaste_event::{Millis, Topic, partition::Place};
use rdkafka::{
    ClientConfig,
    consumer::{BaseConsumer, Consumer as _},
};

pub use self::settings::{KafkaSettings, Secret, Security};
use self::{
    admin::{Admin, blocking},
    client::{Context, Link, base_config, no_thread, refused, unreachable},
    consumer::{Maker, Members, Seats},
    hanging::Suspects,
    intake::{Intake, IntakeLimits},
    marks::Marks,
    topics::Topics,
};
use crate::{
    AppendError, Broker, BrokerError, Consumer, Finding, GroupLag, IsIt, Mark, NewRecord, Record,
    Subscription, settings::Settings,
};

/// How long the first answer of the broker may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How often the broker is asked whether it is there.
const PROBE_INTERVAL: Duration = Duration::from_secs(2);
/// The same while it is not.
const PROBE_INTERVAL_DOWN: Duration = Duration::from_millis(250);
const PROBE_TIMEOUT: Duration = Duration::from_millis(1_500);
/// Complaints of clients make it ask at once, but not more often than this.
const PROBE_PAUSE: Duration = Duration::from_millis(100);

/// Complaints of the client that are served at each look; it says no more of them than that.
const COMPLAINTS_A_LOOK: usize = 16;
/// The first wait before clients are told where the brokers are, and the longest between two tellings.
const TELL_WAIT: Duration = Duration::from_millis(500);
const TELL_WAIT_MAX: Duration = Duration::from_secs(30);

/// Apache Kafka.
pub struct KafkaBroker {
    topics: Arc<Topics>,
    link: Arc<Link>,
    observer: Arc<BaseConsumer<Context>>,
    intake: Arc<Intake>,
    maker: Arc<Maker>,
    admin: Arc<Admin>,
    marks: Marks,
    closed: Arc<AtomicBool>,
}

impl KafkaBroker {
    /// Connects. `instance` is this process's name: of two living processes no two may be alike, and a process that is
    /// started again should have its old one, so that it ends what it left open.
    ///
    /// # Errors
    /// `Refused` for settings that cannot be, `Unreachable` when no broker answers within five seconds.
    pub async fn connect(settings: &Settings, instance: &str) -> Result<Arc<Self>, BrokerError> {
        settings.check().map_err(BrokerError::Refused)?;
        let settings = settings.clone();
        let instance = instance.to_owned();
        blocking(move || Self::connect_blocking(&settings, instance)).await
    }

    /// Whether a service may start on this cluster: it must not be too old, and no topic may have fewer partitions than
    /// configured. Topics that are missing do not count here.
    ///
    /// # Errors
    /// `Refused` with everything that is wrong and how to mend it; `Unreachable`.
    pub async fn fit(&self) -> Result<(), BrokerError> {
        Arc::clone(&self.admin).fit().await
    }

    fn connect_blocking(settings: &Settings, instance: String) -> Result<Arc<Self>, BrokerError> {
        let base = base_config(&settings.kafka)?;
        let link = Arc::<Link>::default();
        let topics = Arc::new(Topics::new(&settings.prefix));
        let observer = observer(&base, &link)?;
        observer
            .fetch_metadata(Some(topics.name(Topic::Critical)), CONNECT_TIMEOUT)
            .map_err(|error| unreachable("connecting", &error))?;
        for topic in Topic::ALL {
            // A topic that is missing now is asked for again when it is needed.
            let _ = topics.partitions(&observer, topic);
        }
        let bulk_linger_ms = settings.kafka.bulk_linger_ms;
        let intake = Arc::new(Intake::new(
            &base,
            &link,
            intake_limits(settings),
            bulk_linger_ms,
        )?);
        let maker = Arc::new(Maker {
            base: base.clone(),
            link: Arc::clone(&link),
            topics: Arc::clone(&topics),
            observer: Arc::clone(&observer),
            instance,
            record_bytes_max: settings.record_bytes_max,
            drain: Duration::from_millis(settings.drain_ms),
            seats: Arc::<Seats>::default(),
            members: Members::default(),
        });
        let admin = Arc::new(Admin {
            base,
            link: Arc::clone(&link),
            topics: Arc::clone(&topics),
            observer: Arc::clone(&observer),
            partitions: settings.partitions,
            replication: settings.kafka.replication,
            record_bytes_max: settings.record_bytes_max,
            is_plaintext: settings.kafka.security == Security::Plaintext,
            hanging: Suspects::default(),
        });
        let closed = Arc::new(AtomicBool::new(false));
        let brokers = CString::new(settings.kafka.bootstrap_servers.as_str())
            .map_err(|error| BrokerError::Refused(format!("broker.kafka.bootstrap_servers: {error}")))?;
        let probe = Probe {
            brokers,
            topics: Arc::clone(&topics),
            observer: Arc::clone(&observer),
            link: Arc::clone(&link),
            closed: Arc::clone(&closed),
        };
        let probe = thread::Builder::new()
            .name("kafka-probe".to_owned())
            .spawn(move || probe.run())
            .map_err(|error| no_thread(&error))?;
        link.set_probe(probe.thread().clone());
        Ok(Arc::new(Self {
            topics,
            link,
            observer,
            intake,
            maker,
            admin,
            marks: Marks::default(),
            closed,
        }))
    }
}

/// A client that belongs to no group.
fn observer(base: &ClientConfig, link: &Arc<Link>) -> Result<Arc<BaseConsumer<Context>>, BrokerError> {
    let mut config = base.clone();
    config.set("isolation.level", "read_uncommitted");
    let observer: BaseConsumer<Context> = config
        .create_with_context(Context::new(link))
        .map_err(|error| refused(&error))?;
    let observer = Arc::new(observer);
    link.add(&observer);
    Ok(observer)
}

fn intake_limits(settings: &Settings) -> IntakeLimits {
    IntakeLimits {
        records_max: settings.kafka.appends_records_max as usize,
        bytes_max: settings.kafka.appends_kib_max as usize * 1_024,
        record_bytes_max: settings.record_bytes_max,
        timeout: Duration::from_millis(settings.append_timeout_ms),
    }
}

/// Asks the broker whether it is there.
struct Probe {
    topics: Arc<Topics>,
    observer: Arc<BaseConsumer<Context>>,
    link: Arc<Link>,
    closed: Arc<AtomicBool>,
    /// Where the brokers are, as configured.
    brokers: CString,
}

impl Probe {
    fn run(self) {
        let mut tells = Tells::new();
        while !self.closed.load(Ordering::Acquire) {
            let topic = self.topics.name(Topic::Critical);
            match self.observer.fetch_metadata(Some(topic), PROBE_TIMEOUT) {
                // A cluster whose brokers are all fenced still answers, and serves nobody.
                Ok(metadata) if metadata.brokers().is_empty() => {
                    self.link.fails("the cluster names no broker that is at work");
                }
                Ok(_) => {
                    if self.link.check().is_err() {
                        tells = Tells::new();
                    }
                    self.link.works();
                }
                Err(error) => self.link.fails(&error.to_string()),
            }
            // Serves the client's complaints; without a subscription there is nothing else.
            for _ in 0..COMPLAINTS_A_LOOK {
                let _ = self.observer.poll(Duration::ZERO);
            }
            if tells.is_due(self.link.is_suspected(), Instant::now()) {
                self.link.tell(&self.brokers);
            }
            thread::sleep(PROBE_PAUSE);
            let is_up = self.link.check().is_ok();
            thread::park_timeout(if is_up {
                PROBE_INTERVAL
            } else {
                PROBE_INTERVAL_DOWN
            });
        }
    }
}

/// When to tell the clients where the brokers are: soon when there is a reason to, more and more seldom while it lasts, since
/// librdkafka remembers each telling.
struct Tells {
    next: Option<(Instant, Duration)>,
}

impl Tells {
    const fn new() -> Self {
        Self { next: None }
    }

    fn is_due(&mut self, is_suspected: bool, now: Instant) -> bool {
        let (at, wait) = match self.next {
            _ if !is_suspected => {
                self.next = None;
                return false;
            }
            None => (now + TELL_WAIT, TELL_WAIT),
            Some((at, wait)) if now >= at => (now + wait, (wait * 2).min(TELL_WAIT_MAX)),
            Some(_) => return false,
        };
        let is_due = self.next.is_some();
        self.next = Some((at, wait));
        is_due
    }
}

#[async_trait]
impl Broker for KafkaBroker {
    fn prefix(&self) -> &str {
        self.topics.prefix()
    }

    async fn append(&self, records: Vec<NewRecord>) -> Result<(), AppendError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(AppendError::Unconfirmed {
                reason: "the broker is closed".to_owned(),
            });
        }
        if records
            .iter()
            .any(|record| self.topics.known_partitions(record.topic).is_none())
        {
            let (topics, observer) = (Arc::clone(&self.topics), Arc::clone(&self.observer));
            let wanted = records.clone();
            let learned = blocking(move || topics.learn(&observer, wanted.iter())).await;
            learned.map_err(|error| AppendError::Unconfirmed {
                reason: error.to_string(),
            })?;
        }
        self.intake.append(&self.topics, records).await
    }

    fn next_place(&self, records: usize) -> Option<Place> {
        self.intake.next_place(&self.topics, records)
    }

    async fn mark(&self, wanted: &[(Topic, &[u8])]) -> Result<Vec<Mark>, BrokerError> {
        self.marks.mark(&self.admin, wanted).await
    }

    async fn find(&self, from: Mark, until: Millis, is_it: IsIt) -> Result<Option<Record>, BrokerError> {
        let admin = Arc::clone(&self.admin);
        blocking(move || marks::find(&admin, from, until, &*is_it)).await
    }

    async fn subscribe(&self, subscription: Subscription) -> Result<Box<dyn Consumer>, BrokerError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(BrokerError::Refused("the broker is closed".to_owned()));
        }
        let maker = Arc::clone(&self.maker);
        let consumer = blocking(move || maker.subscribe(&subscription)).await?;
        Ok(Box::new(consumer))
    }

    async fn create_topics(&self) -> Result<Vec<Finding>, BrokerError> {
        Arc::clone(&self.admin).create().await
    }

    async fn check_topics(&self) -> Result<Vec<Finding>, BrokerError> {
        Arc::clone(&self.admin).check().await
    }

    async fn lag(&self, group: &str, topics: &[Topic]) -> Result<Vec<GroupLag>, BrokerError> {
        let admin = Arc::clone(&self.admin);
        let (group, topics) = (group.to_owned(), topics.to_vec());
        blocking(move || admin.lag(&group, &topics)).await
    }

    async fn trim(&self, before: Millis) -> Result<u64, BrokerError> {
        Arc::clone(&self.admin).trim(before).await
    }

    async fn settle(&self) -> Result<u64, BrokerError> {
        Arc::clone(&self.admin).settle().await
    }

    fn health(&self) -> Result<(), String> {
        self.link.check()
    }

    async fn close(&self, drain_ms: u64) {
        self.closed.store(true, Ordering::Release);
        let (intake, maker) = (Arc::clone(&self.intake), Arc::clone(&self.maker));
        let deadline = Instant::now() + Duration::from_millis(drain_ms);
        // The task cannot fail, and there is nothing left to do if it did.
        let _ = blocking(move || {
            intake.drain(deadline);
            maker.members.close(deadline);
            Ok(())
        })
        .await;
        self.link.wake_probe();
    }
}

impl Drop for KafkaBroker {
    fn drop(&mut self) {
        self.closed.store(true, Ordering::Release);
        self.link.wake_probe();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_told_soon_then_seldom_and_not_without_a_reason() {
        let mut tells = Tells::new();
        let start = Instant::now();
        let mut told = Vec::new();
        for seconds in 0..120_u32 {
            if tells.is_due(true, start + Duration::from_secs(seconds.into())) {
                told.push(seconds);
            }
        }
        assert_eq!(told, [1, 2, 3, 5, 9, 17, 33, 63, 93]);
        let later = start + Duration::from_secs(200);
        assert!(!tells.is_due(false, later));
        assert!(!tells.is_due(true, later), "a new reason begins anew");
        assert!(tells.is_due(true, later + TELL_WAIT));
    }
}
