//! The few calls into librdkafka's C interface that its Rust wrapper does not offer.
//!
//! - One event at a time from a consumer's queue: the wrapper's errors do not say which topic has come to its end, and its
//!   rebalance callback runs inside its poll.
//! - Waking a blocked poll, so that nothing here has to sleep; a queue for each partition with the same wake-up.
//! - Group metadata whose generation can be looked at: without one (the member was thrown out) the broker would take
//!   offsets unchecked, and a zombie's outcome with them.
//! - The answers to a producer's records as they come: the wrapper's thread looks at the clock in between, and spins for the
//!   last millisecond of each of its turns.
//! - Telling a client of brokers: one that has forgotten them all does not come back by itself.
//! - Waits that end when they should though somebody sets the clock.
//! - Commit of a transaction without the wrapper's `flush`, which waits in steps of 100 ms (kafka-notes: 5 ms instead of 105).
//!
//! Nothing else in this workspace is unsafe.
#![expect(
    unsafe_code,
    reason = "C interface of librdkafka; every call is wrapped in a safe function here"
)]

mod partition_queue;
#[cfg(all(target_env = "gnu", target_pointer_width = "64"))]
mod waiting;

use std::{
    ffi::{CStr, c_char, c_void},
    ptr,
    time::Duration,
};

use bytes::Bytes;
use posthaste_event::Topic;
use rdkafka::{
    TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer as _, ConsumerContext},
    error::{KafkaError, RDKafkaError, RDKafkaErrorCode},
    producer::{BaseProducer, Producer as _, ProducerContext},
    util::IntoOpaque as _,
};
use rdkafka_sys as sys;
use sys::rd_kafka_resp_err_t as Response;

pub(super) use self::partition_queue::PartitionQueue;
use super::client::Context;
use crate::{Header, Headers, Partition, Record};

/// A client that can be told of brokers while it is at work.
pub(super) trait Client: Send + Sync {
    /// Adds these (`host:port, ...`) to the brokers it knows. Those it knows already are left alone.
    fn tell(&self, brokers: &CStr);
}

impl<C: ConsumerContext + 'static> Client for BaseConsumer<C> {
    fn tell(&self, brokers: &CStr) {
        // SAFETY: the client is alive during the call, which copies the text and may be made from any thread.
        unsafe { sys::rd_kafka_brokers_add(self.client().native_ptr(), brokers.as_ptr()) };
    }
}

impl<C: ProducerContext + 'static> Client for BaseProducer<C> {
    fn tell(&self, brokers: &CStr) {
        // SAFETY: as above.
        unsafe { sys::rd_kafka_brokers_add(self.client().native_ptr(), brokers.as_ptr()) };
    }
}

/// Something a consumer's queue had to say.
#[derive(Debug)]
pub(super) enum Event {
    /// A record.
    Record(Record),
    /// Everything before this offset has been delivered and nothing is behind it, as far as the broker lets us read.
    End { partition: Partition, offset: i64 },
    /// The group gives us these partitions; an assign call must answer it.
    Assign(Vec<Partition>),
    /// The group takes these partitions; an unassign call must answer it.
    Revoke(Vec<Partition>),
    /// Something is wrong with one partition.
    PartitionError {
        partition: Partition,
        code: RDKafkaErrorCode,
        reason: String,
    },
    /// Something is wrong with the client or the cluster.
    Error { code: RDKafkaErrorCode, reason: String },
    /// Nothing for us: a log line, an answer to a commit, a topic that is not ours.
    Other,
}

/// A producer's context that is told what became of each record.
pub(super) trait Answered: ProducerContext {
    /// The record's answer has come.
    fn answered(&self, answer: Result<(), RDKafkaErrorCode>, opaque: Self::DeliveryOpaque);
}

/// A client's queue.
pub(super) struct Queue(ptr::NonNull<sys::rd_kafka_queue_t>);

// SAFETY: librdkafka's queues have a lock of their own and may be used from any thread (rdkafka.h, "Thread-safety").
unsafe impl Send for Queue {}
// SAFETY: as above.
unsafe impl Sync for Queue {}

impl Queue {
    /// The queue of everything that concerns `consumer`, which must have a group.
    pub(super) fn of(consumer: &BaseConsumer<Context>) -> Option<Self> {
        // SAFETY: the client is alive; the answer is null or ours to destroy.
        let queue = unsafe { sys::rd_kafka_queue_get_consumer(consumer.client().native_ptr()) };
        ptr::NonNull::new(queue).map(Self)
    }

    /// The queue of everything that concerns `producer`.
    pub(super) fn of_producer<C: ProducerContext + 'static>(producer: &BaseProducer<C>) -> Option<Self> {
        // SAFETY: as above.
        let queue = unsafe { sys::rd_kafka_queue_get_main(producer.client().native_ptr()) };
        ptr::NonNull::new(queue).map(Self)
    }

    /// Makes the poll that waits now, or else the next one, return at once.
    pub(super) fn wake(&self) {
        // SAFETY: the queue is alive as long as `self`; a queue whose client is gone is disabled and ignores this.
        unsafe { sys::rd_kafka_queue_yield(self.0.as_ptr()) }
    }

    /// Waits up to `timeout` for something to happen. `topic_of` says which topic a name on the broker stands for.
    pub(super) fn next(&self, timeout: Duration, topic_of: &dyn Fn(&[u8]) -> Option<Topic>) -> Option<Event> {
        // SAFETY: the queue is alive; the answer is null or an event that is ours to destroy.
        let event = unsafe { sys::rd_kafka_queue_poll(self.0.as_ptr(), millis(timeout)) };
        let event = OwnedEvent(ptr::NonNull::new(event)?);
        Some(event.read(topic_of).unwrap_or(Event::Other))
    }

    /// Waits up to `timeout` for something to happen at a producer with this context, and tells the context. Only one thread may
    /// do so at a time.
    pub(super) fn serve<C: Answered>(&self, context: &C, timeout: Duration) {
        // SAFETY: the queue is alive; the answer is null or an event that is ours to destroy.
        let event = unsafe { sys::rd_kafka_queue_poll(self.0.as_ptr(), millis(timeout)) };
        if let Some(event) = ptr::NonNull::new(event) {
            OwnedEvent(event).tell(context);
        }
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: ours to destroy, once.
        unsafe { sys::rd_kafka_queue_destroy(self.0.as_ptr()) }
    }
}

struct OwnedEvent(ptr::NonNull<sys::rd_kafka_event_t>);

impl Drop for OwnedEvent {
    fn drop(&mut self) {
        // SAFETY: ours to destroy, once.
        unsafe { sys::rd_kafka_event_destroy(self.0.as_ptr()) }
    }
}

impl OwnedEvent {
    fn tell<C: Answered>(&self, context: &C) {
        // SAFETY (here and below): the event is alive as long as `self`, and so is all that it hands out. The opaque of each
        // message was made by `into_ptr` when it was sent, and comes back once.
        unsafe {
            match sys::rd_kafka_event_type(self.0.as_ptr()) {
                sys::RD_KAFKA_EVENT_DR => {
                    while let Some(message) = sys::rd_kafka_event_message_next(self.0.as_ptr()).as_ref() {
                        let answer = match message.err {
                            Response::RD_KAFKA_RESP_ERR_NO_ERROR => Ok(()),
                            error => Err(error.into()),
                        };
                        context.answered(answer, C::DeliveryOpaque::from_ptr(message._private));
                    }
                }
                sys::RD_KAFKA_EVENT_LOG => {
                    let (mut facility, mut line, mut level) = (ptr::null(), ptr::null(), 0);
                    if sys::rd_kafka_event_log(self.0.as_ptr(), &mut facility, &mut line, &mut level) == 0 {
                        let words = |at| String::from_utf8_lossy(text(at)).into_owned();
                        // The contexts here log everything alike.
                        context.log(RDKafkaLogLevel::Info, words(facility).trim(), words(line).trim());
                    }
                }
                sys::RD_KAFKA_EVENT_ERROR => {
                    let code = sys::rd_kafka_event_error(self.0.as_ptr());
                    let reason =
                        String::from_utf8_lossy(text(sys::rd_kafka_event_error_string(self.0.as_ptr())));
                    context.error(KafkaError::Global(code.into()), reason.trim());
                }
                _ => {}
            }
        }
    }

    fn read(&self, topic_of: &dyn Fn(&[u8]) -> Option<Topic>) -> Option<Event> {
        // SAFETY (here and below): the event is alive as long as `self`.
        match unsafe { sys::rd_kafka_event_type(self.0.as_ptr()) } {
            sys::RD_KAFKA_EVENT_FETCH => self.record(topic_of),
            sys::RD_KAFKA_EVENT_ERROR => Some(self.error(topic_of)),
            sys::RD_KAFKA_EVENT_REBALANCE => self.rebalance(topic_of),
            _ => None,
        }
    }

    fn record(&self, topic_of: &dyn Fn(&[u8]) -> Option<Topic>) -> Option<Event> {
        // SAFETY: a fetch event holds one message, which lives as long as the event; its topic has a name for as long.
        unsafe {
            let message = sys::rd_kafka_event_message_next(self.0.as_ptr()).as_ref()?;
            let topic = topic_of(text(sys::rd_kafka_topic_name(message.rkt)))?;
            let key = bytes(message.key, message.key_len);
            let value = bytes(message.payload, message.len);
            let (key, value) = copy(key, value);
            let mut kind = sys::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
            let appended_at = sys::rd_kafka_message_timestamp(message, &mut kind);
            Some(Event::Record(Record {
                partition: partition(topic, message.partition)?,
                offset: message.offset,
                key,
                value,
                appended_at,
                headers: if topic == Topic::Inbox {
                    headers(message)
                } else {
                    None
                },
            }))
        }
    }

    fn error(&self, topic_of: &dyn Fn(&[u8]) -> Option<Topic>) -> Event {
        // SAFETY: the strings live as long as the event; the partition is null or ours to destroy.
        unsafe {
            let code = sys::rd_kafka_event_error(self.0.as_ptr());
            let reason = sys::rd_kafka_event_error_string(self.0.as_ptr());
            let reason = String::from_utf8_lossy(text(reason)).into_owned();
            let about = sys::rd_kafka_event_topic_partition(self.0.as_ptr());
            let about = about.as_mut().map(|about| {
                let known = topic_of(text(about.topic)).and_then(|topic| partition(topic, about.partition));
                let offset = about.offset;
                sys::rd_kafka_topic_partition_destroy(about);
                (known, offset)
            });
            match about {
                Some((Some(partition), offset)) if code == Response::RD_KAFKA_RESP_ERR__PARTITION_EOF => {
                    Event::End { partition, offset }
                }
                Some((Some(partition), _)) => Event::PartitionError {
                    partition,
                    code: code.into(),
                    reason,
                },
                _ => Event::Error {
                    code: code.into(),
                    reason,
                },
            }
        }
    }

    fn rebalance(&self, topic_of: &dyn Fn(&[u8]) -> Option<Topic>) -> Option<Event> {
        // SAFETY: the list belongs to the event and lives as long.
        let (code, list) = unsafe {
            let code = sys::rd_kafka_event_error(self.0.as_ptr());
            (code, sys::rd_kafka_event_topic_partition_list(self.0.as_ptr()))
        };
        let partitions = elements(list)
            .iter()
            // SAFETY: an element's topic is a string that lives as long as the list.
            .filter_map(|element| partition(topic_of(unsafe { text(element.topic) })?, element.partition))
            .collect();
        match code {
            Response::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => Some(Event::Assign(partitions)),
            Response::RD_KAFKA_RESP_ERR__REVOKE_PARTITIONS => Some(Event::Revoke(partitions)),
            _ => None,
        }
    }
}

/// What a group has committed for one partition.
#[derive(Debug)]
pub(super) struct Committed {
    /// Name of the topic on the broker.
    pub(super) topic: String,
    pub(super) partition: i32,
    /// Negative: nothing.
    pub(super) offset: i64,
    /// As it was written; anybody may have written it.
    pub(super) metadata: Vec<u8>,
    pub(super) error: Option<RDKafkaErrorCode>,
}

/// Reads a list that a query has filled. The wrapper would panic at metadata that is not UTF-8.
pub(super) fn committed(list: &TopicPartitionList) -> Vec<Committed> {
    elements(list.ptr())
        .iter()
        .map(|element| Committed {
            // SAFETY: an element's topic is a string that lives as long as the list.
            topic: String::from_utf8_lossy(unsafe { text(element.topic) }).into_owned(),
            partition: element.partition,
            offset: element.offset,
            // SAFETY: metadata is null or that many bytes, and lives as long as the list.
            metadata: unsafe { bytes(element.metadata, element.metadata_size) }
                .unwrap_or_default()
                .to_vec(),
            error: (element.err != Response::RD_KAFKA_RESP_ERR_NO_ERROR).then(|| element.err.into()),
        })
        .collect()
}

/// Who we are in the group, at one generation.
pub(super) struct GroupMetadata(ptr::NonNull<sys::rd_kafka_consumer_group_metadata_t>);

// SAFETY: a plain immutable value.
unsafe impl Send for GroupMetadata {}
// SAFETY: as above.
unsafe impl Sync for GroupMetadata {}

impl GroupMetadata {
    /// `None` while we are no member: offsets that were sent without a generation would not be fenced.
    pub(super) fn of(consumer: &BaseConsumer<Context>) -> Option<Self> {
        // SAFETY: the client is alive; the answer is null or ours to destroy, and has a member id string.
        unsafe {
            let metadata = sys::rd_kafka_consumer_group_metadata(consumer.client().native_ptr());
            let metadata = Self(ptr::NonNull::new(metadata)?);
            let generation = sys::rd_kafka_consumer_group_metadata_generation_id(metadata.0.as_ptr());
            let member = sys::rd_kafka_consumer_group_metadata_member_id(metadata.0.as_ptr());
            (generation >= 0 && !text(member).is_empty()).then_some(metadata)
        }
    }
}

impl Drop for GroupMetadata {
    fn drop(&mut self) {
        // SAFETY: ours to destroy, once.
        unsafe { sys::rd_kafka_consumer_group_metadata_destroy(self.0.as_ptr()) }
    }
}

/// Why a step of a transaction did not happen.
#[derive(Debug)]
pub(super) struct TransactionError {
    pub(super) code: RDKafkaErrorCode,
    pub(super) reason: String,
    /// The transaction did not happen and must be aborted; the client is fine.
    pub(super) must_abort: bool,
    /// The same call may be made again.
    pub(super) is_retriable: bool,
}

impl TransactionError {
    fn new(error: &RDKafkaError) -> Self {
        Self {
            code: error.code(),
            reason: error.string(),
            must_abort: error.txn_requires_abort(),
            is_retriable: error.is_retriable() && !error.is_fatal(),
        }
    }
}

impl From<KafkaError> for TransactionError {
    fn from(error: KafkaError) -> Self {
        match &error {
            KafkaError::Transaction(error) => Self::new(error),
            other => Self {
                code: other.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown),
                reason: other.to_string(),
                must_abort: false,
                is_retriable: false,
            },
        }
    }
}

/// Puts the group's new offsets into the open transaction.
pub(super) fn send_offsets<C: ProducerContext + 'static>(
    producer: &BaseProducer<C>,
    offsets: &TopicPartitionList,
    group: &GroupMetadata,
    timeout: Duration,
) -> Result<(), TransactionError> {
    // SAFETY: all three are alive during the call; the answer is null or an error of ours.
    let error = unsafe {
        sys::rd_kafka_send_offsets_to_transaction(
            producer.client().native_ptr(),
            offsets.ptr(),
            group.0.as_ptr(),
            millis(timeout),
        )
    };
    answer(error)
}

/// Commits the open transaction. The producer's own thread serves the delivery reports meanwhile.
pub(super) fn commit_transaction<C: ProducerContext + 'static>(
    producer: &BaseProducer<C>,
    timeout: Duration,
) -> Result<(), TransactionError> {
    // SAFETY: the producer is alive during the call; the answer is null or an error of ours.
    let error = unsafe { sys::rd_kafka_commit_transaction(producer.client().native_ptr(), millis(timeout)) };
    answer(error)
}

fn answer(error: *mut sys::rd_kafka_error_t) -> Result<(), TransactionError> {
    if error.is_null() {
        return Ok(());
    }
    // SAFETY: the error is alive until it is destroyed below, once.
    unsafe {
        let read = TransactionError {
            code: sys::rd_kafka_error_code(error).into(),
            reason: String::from_utf8_lossy(text(sys::rd_kafka_error_string(error))).into_owned(),
            must_abort: sys::rd_kafka_error_txn_requires_abort(error) != 0,
            is_retriable: sys::rd_kafka_error_is_retriable(error) != 0
                && sys::rd_kafka_error_is_fatal(error) == 0,
        };
        sys::rd_kafka_error_destroy(error);
        Err(read)
    }
}

fn millis(timeout: Duration) -> i32 {
    i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX)
}

fn partition(topic: Topic, number: i32) -> Option<Partition> {
    let number = u32::try_from(number).ok()?;
    Some(Partition { topic, number })
}

/// Key and value in one allocation.
fn copy(key: Option<&[u8]>, value: Option<&[u8]>) -> (Option<Bytes>, Option<Bytes>) {
    let (Some(key), Some(value)) = (key, value) else {
        return (key.map(Bytes::copy_from_slice), value.map(Bytes::copy_from_slice));
    };
    let mut both = Vec::with_capacity(key.len() + value.len());
    both.extend_from_slice(key);
    both.extend_from_slice(value);
    let mut head = Bytes::from(both);
    let tail = head.split_off(key.len());
    (Some(head), Some(tail))
}

/// # Safety
/// `at` is null, or `len` bytes that live as long as `'a`.
unsafe fn bytes<'a>(at: *const c_void, len: usize) -> Option<&'a [u8]> {
    // SAFETY: not null here; the caller vouches for the rest.
    (!at.is_null()).then(|| unsafe { std::slice::from_raw_parts(at.cast(), len) })
}

/// # Safety
/// `at` is null, or a string that lives as long as `'a`.
unsafe fn text<'a>(at: *const c_char) -> &'a [u8] {
    if at.is_null() {
        return &[];
    }
    // SAFETY: not null here; the caller vouches for the rest.
    unsafe { CStr::from_ptr(at) }.to_bytes()
}

/// The elements of a list that lives as long as `'a`.
fn elements<'a>(list: *const sys::rd_kafka_topic_partition_list_t) -> &'a [sys::rd_kafka_topic_partition_t] {
    // SAFETY: callers pass null or a list that they hold; `elems` has `cnt` elements.
    unsafe {
        match list.as_ref() {
            Some(list) if list.cnt > 0 && !list.elems.is_null() => {
                std::slice::from_raw_parts(list.elems, list.cnt.unsigned_abs() as usize)
            }
            _ => &[],
        }
    }
}

/// The headers of a message, copied: together they are smaller than the message may be.
fn headers(message: &sys::rd_kafka_message_t) -> Option<Box<Headers>> {
    // SAFETY: the headers belong to the message and live as long; names and values are copied before it goes.
    unsafe {
        let mut list = ptr::null_mut();
        if sys::rd_kafka_message_headers(message, &mut list) != Response::RD_KAFKA_RESP_ERR_NO_ERROR {
            return None;
        }
        let mut headers = Vec::new();
        for index in 0..sys::rd_kafka_header_cnt(list) {
            let (mut name, mut value, mut size) = (ptr::null(), ptr::null(), 0);
            let found = sys::rd_kafka_header_get_all(list, index, &mut name, &mut value, &mut size);
            if found != Response::RD_KAFKA_RESP_ERR_NO_ERROR {
                break;
            }
            headers.push(Header {
                name: String::from_utf8_lossy(text(name)).into_owned(),
                value: bytes(value, size).map(<[u8]>::to_vec),
            });
        }
        (!headers.is_empty()).then(|| Box::new(Headers(headers)))
    }
}
