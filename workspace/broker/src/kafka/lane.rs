//! One intake producer, and what waits in front of it.
//!
//! Of each partition one flight of records is under way; what comes meanwhile gathers, and is the next. librdkafka would gather
//! too, but with five records of a partition under way its thread spins until they are answered, and it would send the first
//! of what came together by itself.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use rdkafka::{
    ClientConfig, ClientContext,
    config::RDKafkaLogLevel,
    error::{KafkaError, RDKafkaErrorCode},
    message::DeliveryResult,
    producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext},
};
use tracing::warn;

use super::{
    client::{Context, Link},
    intake::{Call, size},
    native::Answered,
    served::Served,
};
use crate::{BrokerError, NewRecord};

/// Bounds of one flight: what librdkafka puts into one request (`batch.num.messages`, `batch.size`).
pub(super) const FLIGHT_RECORDS_MAX: usize = 10_000;
const FLIGHT_BYTES_ENOUGH: usize = 900_000;

/// One producer, replaced when it has met an error that it does not recover from.
pub(super) struct Lane {
    config: ClientConfig,
    link: Arc<Link>,
    /// `None` once it is closed. Its own thread uses it, so that thread must never be the one that drops it.
    producer: RwLock<Option<Served<Acks>>>,
}

/// Takes the acknowledgements.
pub(super) struct Acks(Context);

/// What comes of one record.
pub(super) type Answer = Result<(), RDKafkaErrorCode>;

/// A record under way.
pub(super) struct Flying {
    call: Arc<Call>,
    stream: Arc<Stream>,
}

impl ClientContext for Acks {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.0.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.0.error(error, reason);
    }
}

impl ProducerContext for Acks {
    type DeliveryOpaque = Box<Flying>;

    /// Only while the client is dropped.
    fn delivery(&self, result: &DeliveryResult<'_>, flying: Self::DeliveryOpaque) {
        self.answered(answer_of(result), flying);
    }
}

impl Answered for Acks {
    fn answered(&self, answer: Answer, flying: Self::DeliveryOpaque) {
        match answer {
            Ok(()) => flying.call.acknowledged(),
            Err(code) => {
                if code == RDKafkaErrorCode::Fatal {
                    self.0.complains(code, "a record was refused for good");
                }
                flying.call.failed(code);
            }
        }
        flying.stream.landed();
    }
}

/// What the wrapper's report of a delivery says.
pub(super) fn answer_of(result: &DeliveryResult<'_>) -> Answer {
    match result {
        Ok(_) => Ok(()),
        Err((error, _)) => Err(error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown)),
    }
}

impl Lane {
    /// Makes the producer; does not wait for the broker.
    ///
    /// # Errors
    /// See [`Served::start`].
    pub(super) fn new(config: ClientConfig, link: &Arc<Link>) -> Result<Arc<Self>, BrokerError> {
        let producer = Self::make(&config, link)?;
        Ok(Arc::new(Self {
            config,
            link: Arc::clone(link),
            producer: RwLock::new(Some(producer)),
        }))
    }

    fn make(config: &ClientConfig, link: &Arc<Link>) -> Result<Served<Acks>, BrokerError> {
        let producer = Served::start(config, Acks(Context::new(link)))?;
        link.add(producer.client_arc());
        Ok(producer)
    }

    /// Works with the producer; `None` once it is closed.
    fn with<T>(&self, work: impl FnOnce(&BaseProducer<Acks>) -> T) -> Option<T> {
        let mut producer = self.producer.read().unwrap_or_else(PoisonError::into_inner);
        if producer.as_ref().is_some_and(is_fatal) {
            drop(producer);
            self.replace();
            producer = self.producer.read().unwrap_or_else(PoisonError::into_inner);
        }
        producer.as_ref().map(|producer| work(producer))
    }

    fn replace(&self) {
        let mut producer = self.producer.write().unwrap_or_else(PoisonError::into_inner);
        if !producer.as_ref().is_some_and(is_fatal) {
            return;
        }
        match Self::make(&self.config, &self.link) {
            Ok(made) => {
                warn!("a Kafka producer met a fatal error and was replaced");
                dispose(producer.replace(made));
            }
            Err(error) => warn!(%error, "a Kafka producer met a fatal error and cannot be replaced yet"),
        }
    }

    /// Gives the producer up, with whatever is under way. Not on its own thread.
    pub(super) fn close(&self) {
        let producer = self
            .producer
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        dispose(producer);
    }
}

fn is_fatal(producer: &Served<Acks>) -> bool {
    producer.client().context().0.is_fatal()
}

/// Dropping a producer joins its thread: neither on that thread nor on one of the runtime.
fn dispose<T: Send + 'static>(producer: T) {
    if std::thread::Builder::new()
        .name("kafka-dispose".to_owned())
        .spawn(move || drop(producer))
        .is_err()
    {
        warn!("no thread could be started to close a Kafka client");
    }
}

/// What goes to one partition, one flight at a time.
pub(super) struct Stream {
    lane: Arc<Lane>,
    topic: String,
    number: u32,
    flights: Mutex<Flights>,
}

#[derive(Default)]
struct Flights {
    /// Records of the flight that are not answered.
    under_way: usize,
    waiting: VecDeque<(NewRecord, Arc<Call>)>,
}

impl Stream {
    pub(super) fn new(lane: &Arc<Lane>, topic: &str, number: u32) -> Arc<Self> {
        Arc::new(Self {
            lane: Arc::clone(lane),
            topic: topic.to_owned(),
            number,
            flights: Mutex::default(),
        })
    }

    /// Takes records; each call is told what becomes of each of its records. How many may wait is for the caller to bound.
    pub(super) fn take(self: &Arc<Self>, records: impl IntoIterator<Item = (NewRecord, Arc<Call>)>) {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        flights.waiting.extend(records);
        if flights.under_way == 0 {
            self.depart(&mut flights);
        }
    }

    /// A record of the flight was answered.
    fn landed(self: &Arc<Self>) {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        flights.under_way = flights.under_way.saturating_sub(1);
        if flights.under_way == 0 {
            self.depart(&mut flights);
        }
    }

    /// Sends what waits; nothing is under way.
    fn depart(self: &Arc<Self>, flights: &mut Flights) {
        if flights.waiting.is_empty() {
            return;
        }
        let sent = self.lane.with(|producer| self.send(producer, flights));
        if sent.is_none() {
            for (_, call) in flights.waiting.drain(..) {
                call.failed(RDKafkaErrorCode::PurgeQueue);
            }
        }
    }

    fn send(self: &Arc<Self>, producer: &BaseProducer<Acks>, flights: &mut Flights) {
        let mut bytes = 0;
        while flights.under_way < FLIGHT_RECORDS_MAX
            && bytes < FLIGHT_BYTES_ENOUGH
            && let Some((record, call)) = flights.waiting.pop_front()
        {
            if call.is_abandoned() {
                call.failed(RDKafkaErrorCode::MessageTimedOut);
                continue;
            }
            let flying = Box::new(Flying {
                call: Arc::clone(&call),
                stream: Arc::clone(self),
            });
            let mut message = BaseRecord::with_opaque_to(&self.topic, flying)
                .key(record.key.as_ref())
                .partition(i32::try_from(self.number).unwrap_or(i32::MAX));
            message.payload = record.value.as_deref();
            match producer.send(message) {
                Ok(()) => {
                    flights.under_way += 1;
                    bytes += size(&record);
                }
                Err((error, _)) => {
                    call.failed(error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown));
                }
            }
        }
    }
}
