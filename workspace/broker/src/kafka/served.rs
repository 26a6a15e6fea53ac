//! A producer and the thread that takes the answers to its records.
//!
//! The thread sleeps until there is an answer. That of the wrapper's `ThreadedProducer` wakes ten times a second and spins
//! for a millisecond each time, in every producer of the process.

use std::{
    ops::Deref,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use rdkafka::{
    ClientConfig,
    producer::{BaseProducer, Producer as _},
};
use tracing::error;

use super::{
    client::{no_thread, refused},
    native::{Answered, Queue},
};
use crate::BrokerError;

/// The longest wait for an answer; the end wakes it.
const WAIT: Duration = Duration::from_secs(10);

/// The client and its thread.
pub(super) struct Served<C: Answered + 'static> {
    /// Let go of before the client.
    queue: Arc<Queue>,
    producer: Arc<BaseProducer<C>>,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl<C: Answered + 'static> Served<C> {
    /// Makes the client; does not wait for the broker.
    ///
    /// # Errors
    /// When the options make no producer, or the system has no thread left.
    pub(super) fn start(config: &ClientConfig, context: C) -> Result<Self, BrokerError> {
        let producer: BaseProducer<C> = config
            .create_with_context(context)
            .map_err(|error| refused(&error))?;
        let queue = Queue::of_producer(&producer)
            .ok_or_else(|| BrokerError::Refused("the Kafka producer has no queue".to_owned()))?;
        let (queue, producer) = (Arc::new(queue), Arc::new(producer));
        let is_over = Arc::new(AtomicBool::new(false));
        let serve = {
            let (queue, is_over) = (Arc::clone(&queue), Arc::clone(&is_over));
            let context = Arc::clone(producer.client().context());
            move || {
                while !is_over.load(Ordering::Acquire) {
                    queue.serve(&*context, WAIT);
                }
            }
        };
        let thread = thread::Builder::new()
            .name("kafka-answers".to_owned())
            .spawn(serve)
            .map_err(|error| no_thread(&error))?;
        Ok(Self {
            queue,
            producer,
            is_over,
            thread: Some(thread),
        })
    }

    /// The client, for whoever may outlive this.
    pub(super) const fn client_arc(&self) -> &Arc<BaseProducer<C>> {
        &self.producer
    }
}

impl<C: Answered + 'static> Deref for Served<C> {
    type Target = BaseProducer<C>;

    fn deref(&self) -> &Self::Target {
        &self.producer
    }
}

impl<C: Answered + 'static> Drop for Served<C> {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Release);
        self.queue.wake();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            error!("the thread of a producer's answers panicked");
        }
    }
}
