//! What all Kafka clients share: how they are configured, what they say when something is wrong, and whether the broker answers.

use std::{
    ffi::CStr,
    fmt,
    sync::{
        Arc, Mutex, OnceLock, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    thread::Thread,
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig, ClientContext,
    config::RDKafkaLogLevel,
    consumer::ConsumerContext,
    error::{KafkaError, RDKafkaErrorCode},
};
use tracing::{debug, info, trace, warn};

use super::{
    native::Client,
    settings::{KafkaSettings, Security},
    transaction::TRANSACTION_TIMEOUT_MS,
};
use crate::BrokerError;

/// How long after the last complaint clients are looked after.
const SUSPICION: Duration = Duration::from_secs(30);

/// Whether the broker answers, as far as is known. Said in the log once when it goes and once when it is back.
#[derive(Default)]
pub(super) struct Link {
    state: Mutex<LinkState>,
    /// Every client that is alive.
    clients: Mutex<Vec<Weak<dyn Client>>>,
    /// Asks the broker; woken by complaints.
    probe: OnceLock<Thread>,
}

#[derive(Debug, Default)]
struct LinkState {
    down: Option<String>,
    /// The last thing a client complained about; explains why the broker does not answer.
    complaint: Option<String>,
    /// Something was wrong until now, or not long ago.
    suspected: Option<Instant>,
}

impl fmt::Debug for Link {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Link")
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

impl Link {
    /// The broker answered.
    pub(super) fn works(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.complaint = None;
        if state.down.take().is_some() {
            state.suspected = Some(Instant::now());
            info!("the Kafka broker answers again");
        }
    }

    /// The broker did not answer.
    pub(super) fn fails(&self, reason: &str) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let reason = match &state.complaint {
            Some(complaint) => format!("{reason} ({complaint})"),
            None => reason.to_owned(),
        };
        if state.down.is_none() {
            warn!(%reason, "the Kafka broker does not answer");
        }
        state.down = Some(reason);
        state.suspected = Some(Instant::now());
    }

    /// A client complained; whether that matters is found out by asking the broker.
    fn complains(&self, code: RDKafkaErrorCode, reason: &str) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        // The other complaints say which broker and why.
        if code != RDKafkaErrorCode::AllBrokersDown {
            state.complaint = Some(reason.to_owned());
        }
        state.suspected = Some(Instant::now());
        drop(state);
        self.wake_probe();
    }

    /// Looks after this client too.
    pub(super) fn add<C: Client + 'static>(&self, client: &Arc<C>) {
        let client = Arc::downgrade(client);
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        clients.retain(|client| client.strong_count() > 0);
        clients.push(client);
    }

    /// Whether clients may have lost their way to the broker.
    pub(super) fn is_suspected(&self) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.suspected.is_some_and(|since| since.elapsed() < SUSPICION)
    }

    /// Tells every client where the brokers are.
    ///
    /// librdkafka drops each broker that an answer about the cluster does not name, and does not look for others when none
    /// is left (<https://github.com/confluentinc/librdkafka/issues/5301>). A cluster that has fenced its only broker for a
    /// moment, because that one hung, gives such an answer; calls in progress then wait whatever their time limit.
    pub(super) fn tell(&self, brokers: &CStr) {
        let clients = self
            .clients
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        for client in clients.iter().filter_map(Weak::upgrade) {
            client.tell(brokers);
        }
    }

    /// Says which thread asks the broker.
    pub(super) fn set_probe(&self, probe: Thread) {
        // Set once, when the broker is made.
        let _ = self.probe.set(probe);
    }

    pub(super) fn wake_probe(&self) {
        if let Some(probe) = self.probe.get() {
            probe.unpark();
        }
    }

    /// The reason why not.
    pub(super) fn check(&self) -> Result<(), String> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match &state.down {
            Some(reason) => Err(format!("the Kafka broker does not answer: {reason}")),
            None => Ok(()),
        }
    }
}

/// What a client reports to.
#[derive(Debug, Clone)]
pub(super) struct Context {
    link: Arc<Link>,
    /// The client has met an error that it does not recover from: make a new one.
    fatal: Arc<AtomicBool>,
}

impl Context {
    pub(super) fn new(link: &Arc<Link>) -> Self {
        Self {
            link: Arc::clone(link),
            fatal: Arc::default(),
        }
    }

    /// Whether the client is of no more use.
    pub(super) fn is_fatal(&self) -> bool {
        self.fatal.load(Ordering::Acquire)
    }

    /// Takes note of an error. librdkafka repeats these for every broker and attempt, so they are no log lines.
    pub(super) fn complains(&self, code: RDKafkaErrorCode, reason: &str) {
        if code == RDKafkaErrorCode::Fatal {
            self.fatal.store(true, Ordering::Release);
        }
        trace!(%code, reason, "a Kafka client complained");
        self.link.complains(code, reason);
    }
}

impl ClientContext for Context {
    fn log(&self, _level: RDKafkaLogLevel, facility: &str, message: &str) {
        debug!(target: "librdkafka", facility, "{message}");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown);
        self.complains(code, reason);
    }
}

impl ConsumerContext for Context {}

/// Options that carry the promises of the contract; they cannot be overridden.
const RESERVED: &[&str] = &[
    "acks",
    "auto.offset.reset",
    "bootstrap.servers",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.idempotence",
    "enable.partition.eof",
    "group.id",
    "group.instance.id",
    "group.protocol",
    "isolation.level",
    "partition.assignment.strategy",
    "partitioner",
    "request.required.acks",
    "transactional.id",
];

/// What every client is configured with.
///
/// # Errors
/// No broker named, an option that must not be set, or a security protocol that this build does not have.
pub(super) fn base_config(settings: &KafkaSettings) -> Result<ClientConfig, BrokerError> {
    if settings.bootstrap_servers.trim().is_empty() {
        return Err(BrokerError::Refused(
            "broker.kafka.bootstrap_servers is empty; accepted: host:port, ...".to_owned(),
        ));
    }
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", &settings.bootstrap_servers)
        .set("client.id", &settings.client_id)
        .set("enable.metrics.push", "false")
        .set("socket.keepalive.enable", "true")
        .set("reconnect.backoff.ms", "50")
        .set("reconnect.backoff.max.ms", "1000")
        // A broker that hangs with its connections open is left after this long; a transaction may not outlive its requests.
        .set("socket.timeout.ms", TRANSACTION_TIMEOUT_MS.to_string())
        .set("security.protocol", settings.security.as_str());
    if settings.security.has_tls() && !cfg!(feature = "tls") {
        return Err(BrokerError::Refused(format!(
            "broker.kafka.security is {:?}, but this build has no TLS; build with the feature `tls`",
            settings.security.as_str()
        )));
    }
    if settings.security.has_sasl() {
        config
            .set("sasl.mechanism", &settings.sasl_mechanism)
            .set("sasl.username", &settings.sasl_username)
            .set("sasl.password", settings.sasl_password.reveal());
    }
    for (key, file) in [
        ("ssl.ca.location", &settings.ssl_ca_file),
        ("ssl.certificate.location", &settings.ssl_certificate_file),
        ("ssl.key.location", &settings.ssl_key_file),
    ] {
        if !file.is_empty() && settings.security.has_tls() {
            config.set(key, file);
        }
    }
    for (key, value) in &settings.options {
        if RESERVED.contains(&key.as_str()) {
            return Err(BrokerError::Refused(format!(
                "broker.kafka.options sets {key:?}, which Posthaste must choose itself; accepted: any other librdkafka option"
            )));
        }
        config.set(key, value);
    }
    Ok(config)
}

/// A client that could not be made: the configuration is at fault.
pub(super) fn refused(error: &KafkaError) -> BrokerError {
    BrokerError::Refused(format!("the Kafka client cannot be made: {error}"))
}

/// A question that was not answered.
pub(super) fn unreachable(doing: &str, error: &KafkaError) -> BrokerError {
    BrokerError::Unreachable(format!("{doing}: {error}"))
}

/// The system has no thread left.
pub(super) fn no_thread(error: &std::io::Error) -> BrokerError {
    BrokerError::Unreachable(format!("no thread could be started: {error}"))
}

impl Security {
    const fn has_tls(self) -> bool {
        matches!(self, Self::Ssl | Self::SaslSsl)
    }

    const fn has_sasl(self) -> bool {
        matches!(self, Self::SaslPlaintext | Self::SaslSsl)
    }
}
