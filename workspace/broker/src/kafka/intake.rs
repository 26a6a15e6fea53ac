//! Appends: two idempotent producers, one for what is critical and one for the rest, and one answer per call.

use std::{
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use posthaste_event::Topic;
use rdkafka::{
    ClientConfig, ClientContext,
    config::RDKafkaLogLevel,
    error::{KafkaError, RDKafkaErrorCode},
    message::DeliveryResult,
    producer::{BaseRecord, Producer as _, ProducerContext},
};
use tokio::sync::oneshot;
use tracing::warn;

use super::{
    client::{Context, Link},
    native::Answered,
    served::Served,
    topics::Topics,
};
use crate::{AppendError, BrokerError, NewRecord};

/// What librdkafka keeps per record besides key and value, roughly, in bytes.
const RECORD_OVERHEAD_BYTES: usize = 256;

/// Bounds of what is under way.
#[derive(Debug, Clone, Copy)]
pub(super) struct IntakeLimits {
    pub(super) records_max: usize,
    pub(super) bytes_max: usize,
    pub(super) record_bytes_max: usize,
    pub(super) timeout: Duration,
}

/// Both producers and what is under way in them.
pub(super) struct Intake {
    fast: Lane,
    bulk: Lane,
    limits: IntakeLimits,
    load: Arc<Load>,
}

#[derive(Debug, Default)]
struct Load {
    records: AtomicUsize,
    bytes: AtomicUsize,
}

/// One producer, replaced when it has met an error that it does not recover from.
struct Lane {
    config: ClientConfig,
    link: Arc<Link>,
    producer: RwLock<Arc<Served<Acks>>>,
}

/// Takes the acknowledgements.
struct Acks(Context);

impl ClientContext for Acks {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.0.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.0.error(error, reason);
    }
}

impl ProducerContext for Acks {
    type DeliveryOpaque = Arc<Call>;

    /// Only while the client is dropped.
    fn delivery(&self, result: &DeliveryResult<'_>, call: Self::DeliveryOpaque) {
        self.answered(answer_of(result), call);
    }
}

impl Answered for Acks {
    fn answered(&self, answer: Answer, call: Self::DeliveryOpaque) {
        match answer {
            Ok(()) => call.acknowledged(),
            Err(code) => {
                if code == RDKafkaErrorCode::Fatal {
                    self.0.complains(code, "a record was refused for good");
                }
                call.failed(code);
            }
        }
    }
}

/// What the wrapper's report of a delivery says.
pub(super) fn answer_of(result: &DeliveryResult<'_>) -> Answer {
    match result {
        Ok(_) => Ok(()),
        Err((error, _)) => Err(error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown)),
    }
}

/// What comes of one call.
type Answer = Result<(), RDKafkaErrorCode>;

/// One call of append: answered when the last of its records is.
struct Call {
    waiting: AtomicUsize,
    failure: Mutex<Option<RDKafkaErrorCode>>,
    done: Mutex<Option<oneshot::Sender<Answer>>>,
    load: Arc<Load>,
    records: usize,
    bytes: usize,
}

impl Call {
    fn acknowledged(&self) {
        if self.waiting.fetch_sub(1, Ordering::AcqRel) == 1 {
            let failure = *self.failure.lock().unwrap_or_else(PoisonError::into_inner);
            let done = self.done.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(done) = done {
                // Nobody listens any more when the time limit is over.
                let _ = done.send(failure.map_or(Ok(()), Err));
            }
        }
    }

    fn failed(&self, code: RDKafkaErrorCode) {
        self.failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert(code);
        self.acknowledged();
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.load.records.fetch_sub(self.records, Ordering::Relaxed);
        self.load.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Lane {
    fn new(config: ClientConfig, link: &Arc<Link>) -> Result<Self, BrokerError> {
        let producer = Self::make(&config, link)?;
        Ok(Self {
            config,
            link: Arc::clone(link),
            producer: RwLock::new(producer),
        })
    }

    fn make(config: &ClientConfig, link: &Arc<Link>) -> Result<Arc<Served<Acks>>, BrokerError> {
        let producer = Arc::new(Served::start(config, Acks(Context::new(link)))?);
        link.add(producer.client_arc());
        Ok(producer)
    }

    fn producer(&self) -> Arc<Served<Acks>> {
        let producer = Arc::clone(&self.producer.read().unwrap_or_else(PoisonError::into_inner));
        if !producer.client().context().0.is_fatal() {
            return producer;
        }
        let mut current = self.producer.write().unwrap_or_else(PoisonError::into_inner);
        if current.client().context().0.is_fatal() {
            match Self::make(&self.config, &self.link) {
                Ok(producer) => {
                    warn!("a Kafka producer met a fatal error and was replaced");
                    let old = std::mem::replace(&mut *current, producer);
                    dispose(old);
                }
                Err(error) => warn!(%error, "a Kafka producer met a fatal error and cannot be replaced yet"),
            }
        }
        Arc::clone(&current)
    }
}

/// Dropping a producer joins its thread: not on a thread of the runtime.
fn dispose<T: Send + 'static>(producer: T) {
    if std::thread::Builder::new()
        .name("kafka-dispose".to_owned())
        .spawn(move || drop(producer))
        .is_err()
    {
        warn!("no thread could be started to close a Kafka client");
    }
}

impl Intake {
    /// Makes both producers; does not wait for the broker.
    pub(super) fn new(
        base: &ClientConfig,
        link: &Arc<Link>,
        limits: IntakeLimits,
        bulk_linger_ms: u32,
    ) -> Result<Self, BrokerError> {
        let mut config = base.clone();
        let timeout_ms = limits.timeout.as_millis().to_string();
        config
            .set("acks", "all")
            .set("enable.idempotence", "true")
            // A record that is given up on is answered; one whose answer was given up on is not sent for ever.
            .set("message.timeout.ms", &timeout_ms)
            .set("request.timeout.ms", &timeout_ms)
            .set("message.max.bytes", (limits.record_bytes_max + 4_096).to_string())
            // Admission is ours, by the call; librdkafka's own limits must never be met in the middle of one.
            .set(
                "queue.buffering.max.messages",
                (limits.records_max * 2 + 1).to_string(),
            )
            .set(
                "queue.buffering.max.kbytes",
                (limits.bytes_max / 1_024 * 2 + 1).to_string(),
            );
        let mut fast = config.clone();
        fast.set("linger.ms", "0");
        config
            .set("linger.ms", bulk_linger_ms.to_string())
            .set("compression.codec", "lz4")
            .set("batch.num.messages", "10000");
        Ok(Self {
            fast: Lane::new(fast, link)?,
            bulk: Lane::new(config, link)?,
            limits,
            load: Arc::default(),
        })
    }

    /// Hands the records to the right producer and waits for every acknowledgement.
    ///
    /// # Errors
    /// See [`AppendError`].
    pub(super) async fn append(&self, topics: &Topics, records: Vec<NewRecord>) -> Result<(), AppendError> {
        if records.is_empty() {
            return Ok(());
        }
        let (call, answer) = self.admit(&records)?;
        for (enqueued, record) in records.iter().enumerate() {
            if let Err(code) = self.enqueue(topics, record, &call) {
                // Nothing was appended only if nothing went before it.
                for _ in enqueued..records.len() {
                    call.failed(code);
                }
                if enqueued == 0 && code == RDKafkaErrorCode::QueueFull {
                    return Err(AppendError::Full);
                }
                break;
            }
        }
        drop(call);
        let reason = match tokio::time::timeout(self.limits.timeout, answer).await {
            Ok(Ok(Ok(()))) => return Ok(()),
            Ok(Ok(Err(RDKafkaErrorCode::MessageSizeTooLarge))) if records.len() == 1 => {
                let bytes = records.iter().map(size).sum();
                return Err(AppendError::TooLarge { bytes });
            }
            Ok(Ok(Err(code))) => code.to_string(),
            Ok(Err(_)) => "the producer was closed".to_owned(),
            Err(_) => format!("no acknowledgement within {} ms", self.limits.timeout.as_millis()),
        };
        Err(AppendError::Unconfirmed { reason })
    }

    fn admit(&self, records: &[NewRecord]) -> Result<(Arc<Call>, oneshot::Receiver<Answer>), AppendError> {
        if let Some(bytes) = records
            .iter()
            .map(size)
            .find(|bytes| *bytes > self.limits.record_bytes_max)
        {
            return Err(AppendError::TooLarge { bytes });
        }
        let bytes = records
            .iter()
            .map(|record| size(record) + RECORD_OVERHEAD_BYTES)
            .sum();
        let before_records = self.load.records.fetch_add(records.len(), Ordering::Relaxed);
        let before_bytes = self.load.bytes.fetch_add(bytes, Ordering::Relaxed);
        let (done, answer) = oneshot::channel();
        // From here on the call gives back what it took.
        let call = Arc::new(Call {
            waiting: AtomicUsize::new(records.len()),
            failure: Mutex::new(None),
            done: Mutex::new(Some(done)),
            load: Arc::clone(&self.load),
            records: records.len(),
            bytes,
        });
        if before_records + records.len() > self.limits.records_max
            || before_bytes + bytes > self.limits.bytes_max
        {
            return Err(AppendError::Full);
        }
        Ok((call, answer))
    }

    fn enqueue(&self, topics: &Topics, record: &NewRecord, call: &Arc<Call>) -> Result<(), RDKafkaErrorCode> {
        let Some(partition) = topics.place(record) else {
            return Err(RDKafkaErrorCode::UnknownTopicOrPartition);
        };
        let lane = if record.topic == Topic::Critical {
            &self.fast
        } else {
            &self.bulk
        };
        let mut kafka_record = BaseRecord::with_opaque_to(topics.name(record.topic), Arc::clone(call))
            .key(record.key.as_ref())
            .partition(i32::try_from(partition.number).unwrap_or(i32::MAX));
        kafka_record.payload = record.value.as_deref();
        lane.producer()
            .send(kafka_record)
            .map_err(|(error, _)| error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown))
    }

    /// Waits until nothing is under way, at most until `deadline`. Blocks.
    pub(super) fn drain(&self, deadline: Instant) {
        while self.load.records.load(Ordering::Relaxed) > 0 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// Key and value, in bytes.
pub(super) fn size(record: &NewRecord) -> usize {
    record.key.len() + record.value.as_ref().map_or(0, bytes::Bytes::len)
}
