//! Appends: two idempotent producers, one for what is critical and one for the rest, and one answer per call.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use posthaste_event::{Topic, partition::Place};
use rdkafka::{ClientConfig, error::RDKafkaErrorCode};
use tokio::sync::oneshot;

use super::{
    client::Link,
    lane::{Answer, FLIGHT_RECORDS_MAX, Lane, Stream},
    topics::Topics,
    turns::Turns,
};
use crate::{AppendError, BrokerError, NewRecord, Partition};

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
    fast: Arc<Lane>,
    bulk: Arc<Lane>,
    /// By topic and partition, made when a topic is first written to.
    streams: HashMap<Topic, OnceLock<Vec<Arc<Stream>>>>,
    turns: Turns,
    limits: IntakeLimits,
    load: Arc<Load>,
}

#[derive(Debug, Default)]
struct Load {
    records: AtomicUsize,
    bytes: AtomicUsize,
}

/// One call of append: answered when the last of its records is.
pub(super) struct Call {
    waiting: AtomicUsize,
    failure: Mutex<Option<RDKafkaErrorCode>>,
    done: Mutex<Option<oneshot::Sender<Answer>>>,
    load: Arc<Load>,
    records: usize,
    bytes: usize,
}

impl Call {
    /// One of its records is durable.
    pub(super) fn acknowledged(&self) {
        if self.waiting.fetch_sub(1, Ordering::AcqRel) == 1 {
            let failure = *self.failure.lock().unwrap_or_else(PoisonError::into_inner);
            let done = self.done.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(done) = done {
                // Nobody listens any more when the time limit is over.
                let _ = done.send(failure.map_or(Ok(()), Err));
            }
        }
    }

    /// One of its records is not, as far as is known.
    pub(super) fn failed(&self, code: RDKafkaErrorCode) {
        self.failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert(code);
        self.acknowledged();
    }

    /// Whether nobody waits for the answer any more.
    pub(super) fn is_abandoned(&self) -> bool {
        let done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        done.as_ref().is_none_or(oneshot::Sender::is_closed)
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.load.records.fetch_sub(self.records, Ordering::Relaxed);
        self.load.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
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
            .set("batch.num.messages", FLIGHT_RECORDS_MAX.to_string());
        Ok(Self {
            fast: Lane::new(fast, link)?,
            bulk: Lane::new(config, link)?,
            streams: Topic::ALL.map(|topic| (topic, OnceLock::new())).into(),
            turns: Turns::default(),
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
        let bytes_one = records.first().filter(|_| records.len() == 1).map(size);
        let (call, answer) = self.admit(&records)?;
        self.send(topics, records, call);
        let reason = match tokio::time::timeout(self.limits.timeout, answer).await {
            Ok(Ok(Ok(()))) => return Ok(()),
            Ok(Ok(Err(code))) => match (code, bytes_one) {
                (RDKafkaErrorCode::MessageSizeTooLarge, Some(bytes)) => {
                    return Err(AppendError::TooLarge { bytes });
                }
                // Nothing was appended only if nothing went before it.
                (RDKafkaErrorCode::QueueFull, Some(_)) => return Err(AppendError::Full),
                _ => code.to_string(),
            },
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

    fn send(&self, topics: &Topics, mut records: Vec<NewRecord>, call: Arc<Call>) {
        if records.len() == 1
            && let Some(record) = records.pop()
        {
            match topics.place(&record).and_then(|place| self.stream(topics, place)) {
                Some(stream) => stream.take([(record, call)]),
                None => call.failed(RDKafkaErrorCode::UnknownTopicOrPartition),
            }
            return;
        }
        let mut by_partition: HashMap<Partition, Vec<(NewRecord, Arc<Call>)>> = HashMap::new();
        for record in records {
            match topics.place(&record) {
                Some(place) => {
                    let together = by_partition.entry(place).or_default();
                    together.push((record, Arc::clone(&call)));
                }
                None => call.failed(RDKafkaErrorCode::UnknownTopicOrPartition),
            }
        }
        for (place, together) in by_partition {
            match self.stream(topics, place) {
                Some(stream) => stream.take(together),
                None => {
                    for (_, call) in together {
                        call.failed(RDKafkaErrorCode::UnknownTopicOrPartition);
                    }
                }
            }
        }
    }

    /// Where the next events whose keys are free would best go. Most are not critical; those that are go where the others go, which
    /// is as good as anywhere.
    pub(super) fn next_place(&self, topics: &Topics, records: usize) -> Option<Place> {
        let partitions = topics.known_partitions(Topic::Default)?;
        Some(self.turns.next_place(records, partitions, Instant::now()))
    }

    fn stream(&self, topics: &Topics, place: Partition) -> Option<&Arc<Stream>> {
        let topic = place.topic;
        let lane = if topic == Topic::Critical {
            &self.fast
        } else {
            &self.bulk
        };
        let streams = self.streams.get(&topic)?.get_or_init(|| {
            let numbers = 0..topics.known_partitions(topic).unwrap_or(0);
            numbers
                .map(|number| Stream::new(lane, topics.name(topic), number))
                .collect()
        });
        streams.get(place.number as usize)
    }

    /// Waits until nothing is under way, at most until `deadline`. Blocks.
    pub(super) fn drain(&self, deadline: Instant) {
        while self.load.records.load(Ordering::Relaxed) > 0 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Intake {
    fn drop(&mut self) {
        self.fast.close();
        self.bulk.close();
    }
}

/// Key and value, in bytes.
pub(super) fn size(record: &NewRecord) -> usize {
    record.key.len() + record.value.as_ref().map_or(0, bytes::Bytes::len)
}
