//! The broker on one SQLite file, for one process.
//!
//! One thread writes: it takes what waits, puts it into one transaction, and answers when that is on the disk
//! ([`writer`]). New records go from there straight into the mailboxes of the members that own their partition
//! ([`mailbox`]); whoever falls behind reads from the file, beside the writer ([`readers`]). Groups live in the process,
//! their positions in the file ([`groups`]).

mod condition;
mod consumer;
mod ends;
mod file;
mod groups;
mod log;
mod mailbox;
mod merger;
mod queue;
mod readers;
mod slot;
mod spread;
#[cfg(test)]
mod tests;
mod topics;
mod writer;

use std::{
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use posthaste_event::{Millis, Topic, partition::Place};
use tokio::sync::oneshot;

use self::{
    condition::Condition,
    consumer::{EmbeddedConsumer, Shared},
    ends::Ends,
    file::Folder,
    groups::Groups,
    log::Log,
    mailbox::{Mailbox, ReadyLimits},
    merger::Merger,
    queue::{Append, Control, Queue, Write, size},
    readers::Readers,
    writer::Writer,
};
use crate::{
    AppendError, Broker, BrokerError, Consumer, Finding, GroupLag, IsIt, Mark, NewRecord, Record, Settings,
    Start, Subscription, Tracking,
};

/// The broker on one SQLite file. Close it before another one opens the same folder.
#[derive(Debug)]
pub struct EmbeddedBroker {
    prefix: String,
    partitions: u32,
    append_timeout: Duration,
    ready_limits: ReadyLimits,
    shared: Arc<Shared>,
    ends: Arc<Ends>,
    last_member: AtomicU64,
    /// Records that were given a place.
    placed: AtomicUsize,
    /// Ends with the writer.
    ended: Mutex<Option<oneshot::Receiver<()>>>,
}

impl EmbeddedBroker {
    /// Opens the log in `folder`, which is made if it is not there. Topics are made by [`Broker::create_topics`].
    ///
    /// # Errors
    /// [`BrokerError::Storage`] when the folder cannot be used, is in use by another process or holds something else;
    /// [`BrokerError::Refused`] when a setting is out of range.
    pub fn open(folder: &Path, settings: &Settings) -> Result<Self, BrokerError> {
        settings.check().map_err(BrokerError::Refused)?;
        let embedded = &settings.embedded;
        let locked = Folder::lock(folder)?;
        let file = locked.file();
        let unusable = |error: &dyn std::fmt::Display| {
            BrokerError::Storage(format!("cannot use the log file {}: {error}", file.display()))
        };
        let tombstone_ms = i64::from(embedded.tombstone_hours) * 3_600_000;
        let connection = locked.open()?;
        // A reader that stays for long lets the write-ahead log grow past this; then it is cut when it starts over.
        connection
            .pragma_update(
                None,
                "journal_size_limit",
                embedded.wal_kib_max.saturating_mul(1_024).cast_signed(),
            )
            .map_err(|error| unusable(&error))?;
        let log = Log::load(connection, &settings.prefix, tombstone_ms).map_err(|error| unusable(&error))?;
        warn_of_partitions(&log, settings);
        let queue = Arc::new(Queue::new(embedded.appends_kib_max, embedded.hops_kib_max));
        let writing = Arc::new(Condition::new("writing the log"));
        let merger = Merger::start(file.clone(), embedded.wal_kib, embedded.wal_kib_max)
            .map_err(|error| unusable(&error))?;
        let groups = Groups::new(&settings.prefix, Duration::from_millis(settings.drain_ms));
        let ends = log.ends();
        let writer = Writer::new(
            log,
            groups,
            Arc::clone(&queue),
            Arc::clone(&writing),
            merger,
            settings.partitions,
        );
        let (end, ended) = oneshot::channel();
        let last_will = LastWill {
            queue: Arc::clone(&queue),
            writing: Arc::clone(&writing),
            _locked: locked,
            _end: end,
        };
        std::thread::Builder::new()
            .name("log-writer".to_owned())
            .spawn(move || {
                let _last_will = last_will;
                writer.run();
            })
            .map_err(|error| unusable(&error))?;
        let shared = Shared {
            queue,
            readers: Arc::new(Readers::new(file.clone())),
            writing,
            record_bytes_max: settings.record_bytes_max,
        };
        Ok(Self {
            prefix: settings.prefix.clone(),
            partitions: settings.partitions,
            append_timeout: Duration::from_millis(settings.append_timeout_ms),
            ready_limits: ReadyLimits {
                records_max: embedded.ready_records_max,
                bytes_max: embedded.ready_kib_max * 1_024,
            },
            shared: Arc::new(shared),
            ends,
            last_member: AtomicU64::new(0),
            placed: AtomicUsize::new(0),
            ended: Mutex::new(Some(ended)),
        })
    }

    /// Has the writer do something between two transactions.
    async fn ask<T>(&self, control: impl FnOnce(oneshot::Sender<T>) -> Control) -> Result<T, BrokerError> {
        let closed = || BrokerError::Refused("the broker is closed".to_owned());
        let queue = &self.shared.queue;
        let _permit = Arc::clone(&queue.controls)
            .acquire_owned()
            .await
            .map_err(|_| closed())?;
        let (reply, answer) = oneshot::channel();
        queue.control(control(reply));
        answer.await.map_err(|_| closed())
    }

    /// Makes a member and has it join its group.
    async fn join(&self, subscription: Subscription) -> Result<EmbeddedConsumer, BrokerError> {
        if subscription.topics.is_empty() {
            return Err(BrokerError::Refused(
                "a subscription names at least one topic".to_owned(),
            ));
        }
        if matches!(subscription.start, Start::At(_)) && subscription.tracking == Tracking::Completion {
            return Err(BrokerError::Refused(
                "a group that keeps track of each record starts where it stands, not at given offsets"
                    .to_owned(),
            ));
        }
        let mailbox = Arc::new(Mailbox::new(
            self.last_member.fetch_add(1, Ordering::Relaxed) + 1,
            subscription.tracking,
            subscription.limits,
            self.ready_limits,
            Arc::clone(&self.shared.queue),
        ));
        // Made first: when this call is given up, dropping it makes the member leave.
        let consumer = EmbeddedConsumer::new(Arc::clone(&mailbox), Arc::clone(&self.shared));
        self.ask(|reply| Control::Join {
            subscription,
            mailbox,
            reply,
        })
        .await??;
        Ok(consumer)
    }

    /// Reads the file, beside the writer.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&rusqlite::Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, BrokerError> {
        let readers = Arc::clone(&self.shared.readers);
        match tokio::task::spawn_blocking(move || readers.with(read)).await {
            Ok(Ok(read)) => Ok(read),
            Ok(Err(error)) => Err(BrokerError::Unreachable(error.to_string())),
            Err(error) => Err(BrokerError::Unreachable(error.to_string())),
        }
    }
}

/// Records whose keys are free to choose that go to one partition before another has its turn: what shares a transaction shares
/// pages of the file then, and positions.
const RECORDS_A_TURN: usize = 64;

/// Between two steps of a trim, so that writers need not wait.
const TRIM_PAUSE: Duration = Duration::from_millis(20);

/// What happens when the writer's thread ends, also by a panic: nobody may wait for it any more. Then the folder is
/// unlocked, and then whoever closes the broker is told (fields are dropped in order).
#[derive(Debug)]
struct LastWill {
    queue: Arc<Queue>,
    writing: Arc<Condition>,
    _locked: Folder,
    _end: oneshot::Sender<()>,
}

impl Drop for LastWill {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.writing
                .fails(&"its thread ended with a panic; restart this process");
        }
        self.queue.close();
        // Their requests are dropped, which answers them.
        self.queue.take(usize::MAX, Duration::ZERO, None);
    }
}

fn warn_of_partitions(log: &Log, settings: &Settings) {
    for topic in Topic::ALL {
        if let Some(count) = log.partitions(topic)
            && count != settings.partitions
        {
            let (_, message) = topics::existing(count, settings.partitions);
            tracing::warn!(topic = %log.name(topic), "topic {} {message}", log.name(topic));
        }
    }
}

#[async_trait]
impl Broker for EmbeddedBroker {
    fn prefix(&self) -> &str {
        &self.prefix
    }

    async fn append(&self, records: Vec<NewRecord>) -> Result<(), AppendError> {
        let record_bytes_max = self.shared.record_bytes_max;
        if let Some(bytes) = records.iter().map(size).find(|bytes| *bytes > record_bytes_max) {
            return Err(AppendError::TooLarge { bytes });
        }
        let queue = &self.shared.queue;
        let permit = queue.appends.try_take(&records).ok_or(AppendError::Full)?;
        let unconfirmed = |reason: &str| AppendError::Unconfirmed {
            reason: reason.to_owned(),
        };
        let (reply, done) = oneshot::channel();
        let append = Append {
            records,
            reply,
            _permit: permit,
        };
        queue.write(Write::Append(append));
        match tokio::time::timeout(self.append_timeout, done).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(unconfirmed("the broker was closed")),
            Err(_) => Err(unconfirmed("the disk did not confirm within the time limit")),
        }
    }

    async fn mark(&self, wanted: &[(Topic, &[u8])]) -> Result<Vec<Mark>, BrokerError> {
        let missing = |topic: Topic| BrokerError::MissingTopics(vec![topic.name(&self.prefix)]);
        let wanted = wanted.iter();
        wanted
            .map(|(topic, key)| self.ends.mark(*topic, key).ok_or_else(|| missing(*topic)))
            .collect()
    }

    async fn find(&self, from: Mark, until: Millis, is_it: IsIt) -> Result<Option<Record>, BrokerError> {
        let prefix = self.prefix.clone();
        self.read(move |connection| topics::search(connection, &prefix, from, until, &*is_it))
            .await
    }

    fn next_place(&self, records: usize) -> Option<Place> {
        let turn = self.placed.fetch_add(records, Ordering::Relaxed) / RECORDS_A_TURN;
        let partitions = self.partitions.max(1);
        Some(Place {
            number: (turn % partitions as usize) as u32,
            partitions,
        })
    }

    async fn subscribe(&self, subscription: Subscription) -> Result<Box<dyn Consumer>, BrokerError> {
        Ok(Box::new(self.join(subscription).await?))
    }

    async fn create_topics(&self) -> Result<Vec<Finding>, BrokerError> {
        self.ask(|reply| Control::CreateTopics { reply }).await?
    }

    async fn check_topics(&self) -> Result<Vec<Finding>, BrokerError> {
        let (prefix, partitions) = (self.prefix.clone(), self.partitions);
        self.read(move |connection| topics::check(connection, &prefix, partitions))
            .await
    }

    async fn lag(&self, group: &str, topics: &[Topic]) -> Result<Vec<GroupLag>, BrokerError> {
        let (prefix, group, topics) = (self.prefix.clone(), group.to_owned(), topics.to_vec());
        self.read(move |connection| topics::lag(connection, &prefix, &group, &topics))
            .await?
    }

    async fn trim(&self, before: Millis) -> Result<u64, BrokerError> {
        let mut trimmed = 0;
        loop {
            match self.ask(|reply| Control::Trim { before, reply }).await?? {
                0 => return Ok(trimmed),
                count => trimmed += count,
            }
            tokio::time::sleep(TRIM_PAUSE).await;
        }
    }

    fn health(&self) -> Result<(), String> {
        self.shared.writing.check()?;
        self.shared.readers.condition().check()
    }

    async fn close(&self, drain_ms: u64) {
        self.shared.queue.close();
        self.shared.readers.close();
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(ended) = ended
            && tokio::time::timeout(Duration::from_millis(drain_ms), ended)
                .await
                .is_err()
        {
            tracing::warn!("the log is still being written after {drain_ms} ms; leaving it to that");
        }
    }
}

impl Drop for EmbeddedBroker {
    fn drop(&mut self) {
        self.shared.queue.close();
    }
}
