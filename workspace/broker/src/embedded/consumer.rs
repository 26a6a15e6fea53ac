//! A member of a group as its holder sees it.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::oneshot;

use super::{
    condition::Condition,
    log,
    mailbox::Mailbox,
    queue::{Control, HopRequest, Queue, Write, size},
    readers::Readers,
};
use crate::{BrokerError, Consumer, Hop, HopError, Hopper, Partition, Signal, Ticket, Unread};

/// What the consumers and hoppers of one broker share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) queue: Arc<Queue>,
    pub(super) readers: Arc<Readers>,
    /// Whether writing works.
    pub(super) writing: Arc<Condition>,
    pub(super) record_bytes_max: usize,
}

/// A member.
#[derive(Debug)]
pub(super) struct EmbeddedConsumer {
    pub(super) mailbox: Arc<Mailbox>,
    shared: Arc<Shared>,
    left: bool,
}

impl EmbeddedConsumer {
    pub(super) const fn new(mailbox: Arc<Mailbox>, shared: Arc<Shared>) -> Self {
        Self {
            mailbox,
            shared,
            left: false,
        }
    }
}

#[async_trait]
impl Consumer for EmbeddedConsumer {
    async fn next(&mut self) -> Result<Signal, BrokerError> {
        loop {
            let signal = self.mailbox.take();
            // Also when there is a signal: what comes after it is read while that is worked on.
            if let Some(gap) = self.mailbox.begin_reading() {
                self.shared.readers.fill(&self.mailbox, gap);
            }
            if let Some(signal) = signal {
                return signal;
            }
            self.mailbox.changed().await;
        }
    }

    fn hopper(&self) -> Arc<dyn Hopper> {
        Arc::new(EmbeddedHopper {
            member: self.mailbox.member,
            shared: Arc::clone(&self.shared),
        })
    }

    fn unfinished(&self) -> Vec<(Partition, i64)> {
        self.mailbox.unfinished()
    }

    fn unread(&self) -> Unread {
        let (mailbox, readers) = (Arc::clone(&self.mailbox), Arc::clone(&self.shared.readers));
        Box::pin(async move {
            let asked = tokio::task::spawn_blocking(move || {
                let mut unread = Vec::new();
                for (partition, id, next) in mailbox.reading() {
                    if readers.with(|connection| log::has_from(connection, id, next))? {
                        unread.push((partition, next));
                    }
                }
                Ok(unread)
            });
            let answer = asked.await.map_err(|error| error.to_string());
            let answer = answer.and_then(|answer| answer.map_err(|error: rusqlite::Error| error.to_string()));
            answer
                .map_err(|error| BrokerError::Unreachable(format!("asking the log what is unread: {error}")))
        })
    }

    fn gives_again(&self) -> bool {
        true
    }

    async fn close(mut self: Box<Self>) {
        let Ok(_permit) = Arc::clone(&self.shared.queue.controls).acquire_owned().await else {
            return;
        };
        self.left = true;
        let (reply, left) = oneshot::channel();
        let member = self.mailbox.member;
        self.shared.queue.control(Control::Leave { member, reply });
        // An error means that the broker was closed, which ends the member too.
        let _ = left.await;
    }
}

impl Drop for EmbeddedConsumer {
    fn drop(&mut self) {
        if !self.left {
            self.mailbox.leave();
        }
    }
}

#[derive(Debug)]
struct EmbeddedHopper {
    member: u64,
    shared: Arc<Shared>,
}

impl EmbeddedHopper {
    async fn request(&self, hop: Hop, start: Option<(Partition, i64, u64)>) -> Result<(), HopError> {
        let queue = &self.shared.queue;
        let permit = queue.hops.take(&hop.outputs).await.ok_or(HopError::Closed)?;
        let (reply, done) = oneshot::channel();
        let request = HopRequest {
            member: self.member,
            hop,
            start,
            reply,
            _permit: permit,
        };
        queue.write(Write::Hop(request));
        done.await.unwrap_or(Err(HopError::Closed))
    }
}

#[async_trait]
impl Hopper for EmbeddedHopper {
    async fn hop(&self, hop: Hop) -> Result<(), HopError> {
        if let Some(bytes) = hop
            .outputs
            .iter()
            .map(size)
            .find(|bytes| *bytes > self.shared.record_bytes_max)
        {
            return Err(HopError::TooLarge { bytes });
        }
        self.request(hop, None).await
    }

    async fn start(&self, ticket: &Ticket) -> Result<(), HopError> {
        let start = (ticket.partition(), ticket.offset(), ticket.epoch());
        self.request(Hop::default(), Some(start)).await
    }

    fn is_recording(&self) -> bool {
        self.shared.writing.check().is_ok()
    }
}
