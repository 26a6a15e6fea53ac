//! The queue of one partition, apart from all else that a consumer is told.
//!
//! librdkafka puts the records of all partitions into the consumer's queue, unless a partition's own queue is taken out of it.
//! From one queue for all, what there is no room for can only be thrown away and asked for again: a pause or a seek voids
//! everything that was fetched of the partition. From a queue of its own it is just not taken yet; the client fetches no more
//! of the partition when so much waits there (`queued.min.messages`, `queued.max.messages.kbytes`).

use std::{
    ffi::{CString, c_void},
    ptr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use posthaste_event::Topic;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka_sys as sys;

use super::{Context, Event, Queue};

/// What the client has for one partition.
pub(in crate::kafka) struct PartitionQueue {
    queue: Queue,
    news: Arc<News>,
}

/// Whether something may be there.
struct News {
    is_there: AtomicBool,
    /// Where the reader waits.
    all: Arc<Queue>,
}

impl PartitionQueue {
    /// Takes the partition's queue out of `all`, the consumer's, and wakes who waits there when something comes. To be called
    /// before the partition is assigned: what came before stays where it was. `None` for a topic that cannot be.
    pub(in crate::kafka) fn split_off(
        consumer: &BaseConsumer<Context>,
        all: &Arc<Queue>,
        topic: &str,
        number: u32,
    ) -> Option<Self> {
        let topic = CString::new(topic).ok()?;
        let number = i32::try_from(number).ok()?;
        let news = Arc::new(News {
            is_there: AtomicBool::new(true),
            all: Arc::clone(all),
        });
        // SAFETY: the client is alive; the answer is null or ours to destroy, and the callback's argument lives until the
        // callback is taken back, in `drop`.
        unsafe {
            let queue =
                sys::rd_kafka_queue_get_partition(consumer.client().native_ptr(), topic.as_ptr(), number);
            let queue = Queue(ptr::NonNull::new(queue)?);
            sys::rd_kafka_queue_forward(queue.0.as_ptr(), ptr::null_mut());
            let argument = Arc::as_ptr(&news).cast_mut().cast();
            sys::rd_kafka_queue_cb_event_enable(queue.0.as_ptr(), Some(on_news), argument);
            Some(Self { queue, news })
        }
    }

    /// Whether the next look may find something.
    pub(in crate::kafka) fn has_news(&self) -> bool {
        self.news.is_there.load(Ordering::Acquire)
    }

    /// What comes next, if it is there.
    pub(in crate::kafka) fn next(&self, topic_of: &dyn Fn(&[u8]) -> Option<Topic>) -> Option<Event> {
        let look = || self.queue.next(Duration::ZERO, topic_of);
        look().or_else(|| {
            self.news.is_there.store(false, Ordering::SeqCst);
            // What came in between has said so too early.
            let event = look()?;
            self.news.is_there.store(true, Ordering::SeqCst);
            Some(event)
        })
    }
}

impl Drop for PartitionQueue {
    fn drop(&mut self) {
        // SAFETY: the queue is alive. The callback runs under the queue's lock, which this takes too: it does not run now, and
        // not again.
        unsafe { sys::rd_kafka_queue_cb_event_enable(self.queue.0.as_ptr(), None, ptr::null_mut()) }
    }
}

/// Something came into an empty queue. Called on a thread of librdkafka.
unsafe extern "C" fn on_news(_: *mut sys::rd_kafka_t, argument: *mut c_void) {
    // SAFETY: see `split_off` and `drop`.
    let news = unsafe { &*argument.cast::<News>() };
    if !news.is_there.swap(true, Ordering::SeqCst) {
        news.all.wake();
    }
}
