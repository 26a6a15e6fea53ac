//! The thread that owns a consumer's client: polls, takes partitions over, gives them up, pauses and reads again.
//!
//! It never waits for anything but the poll. Where an answer may take long (positions of new partitions) another thread
//! asks, and where a drain may take long the revoke stays unanswered while the poll goes on.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use posthaste_reconnect::Reconnect;
use rdkafka::{
    Offset,
    consumer::{BaseConsumer, Consumer as _},
    error::RDKafkaErrorCode,
};
use tokio::sync::oneshot;
use tracing::{debug, error, info, warn};

use super::{
    client::Context,
    hops::HopThread,
    native::{Event, Queue},
    positions::{self, Positions},
    sources::{Left, Sources},
    table::{Batch, Placed, Table},
};
use crate::{BrokerError, Partition, Tracking};

/// The longest wait for an event; everything that is urgent wakes the poll.
const POLL: Duration = Duration::from_millis(500);
/// While something is waited for that wakes nobody.
const POLL_BUSY: Duration = Duration::from_millis(20);
/// Tickets that come back within this time are read again together.
const SEEK_INTERVAL: Duration = Duration::from_millis(5);
const SEEK_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a partition whose position the log does not have waits for the next look.
const LOST_INTERVAL: Duration = Duration::from_secs(1);

/// Names assignments: no two of a process are alike.
static EPOCHS: AtomicU64 = AtomicU64::new(1);

/// The state of the thread.
pub(super) struct Reader {
    pub(super) consumer: Arc<BaseConsumer<Context>>,
    pub(super) queue: Arc<Queue>,
    pub(super) table: Arc<Table>,
    pub(super) positions: Arc<Positions>,
    pub(super) hops: HopThread,
    pub(super) batch_records_max: usize,
    pub(super) drain: Duration,
    pub(super) done: Option<oneshot::Sender<()>>,
    sources: Sources,
    /// What the last look at the sources left.
    left: Left,
    assigning: Option<Assigning>,
    revoking: Option<Revoking>,
    seek_at: Instant,
    /// Partitions whose position the log does not have.
    lost: Vec<Partition>,
    lost_at: Instant,
}

struct Assigning {
    partitions: Vec<Partition>,
    answer: mpsc::Receiver<(Vec<Placed>, Vec<BrokerError>)>,
    cancelled: Arc<AtomicBool>,
}

struct Revoking {
    partitions: Vec<Partition>,
    deadline: Instant,
}

impl Reader {
    pub(super) fn new(
        consumer: Arc<BaseConsumer<Context>>,
        queue: Arc<Queue>,
        table: Arc<Table>,
        positions: Arc<Positions>,
        hops: HopThread,
        (batch_records_max, drain): (usize, Duration),
        done: oneshot::Sender<()>,
    ) -> Self {
        let now = Instant::now();
        let sources = Sources::new(table.tracking);
        Self {
            consumer,
            queue,
            table,
            positions,
            hops,
            batch_records_max: batch_records_max.max(1),
            drain,
            done: Some(done),
            sources,
            left: Left::Nothing,
            assigning: None,
            revoking: None,
            seek_at: now,
            lost: Vec::new(),
            lost_at: now,
        }
    }

    /// Runs until the consumer is closed and drained.
    pub(super) fn run(mut self) {
        while !self.table.is_closed() {
            if let Some(still) = self.table.lease.look(Instant::now()) {
                warn!(
                    group = %self.positions.group,
                    seconds = still.as_secs(),
                    "the process stood still for a while; nothing is begun until the broker has said what is still ours"
                );
            }
            self.finish_assign();
            self.finish_revoke();
            let busy = self.keep_flowing();
            self.find_lost();
            let waits =
                busy || self.assigning.is_some() || self.revoking.is_some() || self.table.is_closing();
            self.poll(match self.left {
                Left::More => Duration::ZERO,
                Left::Waiting => POLL_BUSY,
                Left::Nothing if waits => POLL_BUSY,
                Left::Nothing => POLL,
            });
        }
        self.leave();
    }

    /// What concerns the client first, then the records.
    fn poll(&mut self, timeout: Duration) {
        let topics = Arc::clone(&self.positions.topics);
        let topic_of = |name: &[u8]| topics.topic(name);
        let mut batch = Batch::default();
        let mut event = self.queue.next(timeout, &topic_of);
        while let Some(happened) = event {
            match happened {
                // Only of a partition without a queue of its own.
                Event::Record(record) => self.table.read(record, &mut batch),
                other => {
                    self.table.flush(&mut batch);
                    self.handle(other);
                    break;
                }
            }
            if batch.len() >= self.batch_records_max {
                break;
            }
            event = self.queue.next(Duration::ZERO, &topic_of);
        }
        let mut others = Vec::new();
        let into = (&mut batch, self.batch_records_max);
        self.left = self.sources.read(&self.table, &topics, into, &mut others);
        self.table.flush(&mut batch);
        for event in others {
            self.handle(event);
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Assign(partitions) => self.begin_assign(partitions),
            Event::Revoke(partitions) => self.begin_revoke(partitions),
            Event::End { partition, offset } => self.table.reached(partition, offset),
            Event::PartitionError {
                partition,
                code,
                reason,
            } => {
                self.consumer.context().complains(code, &reason);
                let is_lost = matches!(
                    code,
                    RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange
                );
                if is_lost && !self.lost.contains(&partition) {
                    self.lost.push(partition);
                }
            }
            Event::Error { code, reason } => {
                self.consumer.context().complains(code, &reason);
                if code == RDKafkaErrorCode::Fatal {
                    error!(group = %self.positions.group, %reason, "the consumer met a fatal error");
                    self.table.fail(BrokerError::Refused(format!(
                        "the consumer of {} met a fatal error: {reason}",
                        self.positions.group
                    )));
                }
            }
            Event::Record(_) | Event::Other => {}
        }
    }

    /// The answer to the group waits until the positions are known; the poll goes on.
    fn begin_assign(&mut self, partitions: Vec<Partition>) {
        if partitions.is_empty() || self.table.is_closing() {
            self.assign(&[]);
            return;
        }
        let (send, answer) = mpsc::channel();
        let cancelled = Arc::new(AtomicBool::new(false));
        let ask = {
            let positions = Arc::clone(&self.positions);
            let partitions = partitions.clone();
            let cancelled = Arc::clone(&cancelled);
            let table = Arc::clone(&self.table);
            move || {
                let mut waits = Reconnect::new(Duration::from_millis(20), Duration::from_secs(1));
                while !cancelled.load(Ordering::Acquire) {
                    match positions.place(&partitions) {
                        Ok(placed) => {
                            let _ = send.send(placed);
                            table.wake();
                            return;
                        }
                        Err(reason) => {
                            debug!(%reason, "positions are not known yet");
                            thread::sleep(waits.next_wait());
                        }
                    }
                }
            }
        };
        self.assigning = Some(Assigning {
            partitions,
            answer,
            cancelled,
        });
        if let Err(error) = thread::Builder::new()
            .name("kafka-positions".to_owned())
            .spawn(ask)
        {
            // The answer's sender is gone with it: the next look assigns nothing, and the group moves on.
            warn!(%error, "no thread could be started to ask for positions");
        }
    }

    fn finish_assign(&mut self) {
        let Some(assigning) = &self.assigning else { return };
        let (placed, errors) = match assigning.answer.try_recv() {
            Ok(answer) => answer,
            Err(mpsc::TryRecvError::Empty) => return,
            Err(mpsc::TryRecvError::Disconnected) => {
                let errors = vec![BrokerError::Refused(
                    "positions could not be asked for".to_owned(),
                )];
                (Vec::new(), errors)
            }
        };
        let asked = assigning.partitions.len();
        self.assigning = None;
        for error in errors {
            error!(group = %self.positions.group, %error, "a partition is left alone");
            self.table.fail(error);
        }
        if self.table.is_closing() {
            self.assign(&[]);
            return;
        }
        debug!(group = %self.positions.group, asked, taken = placed.len(), "partitions are ours");
        self.positions.commit_new(&placed);
        let starts: Vec<_> = placed
            .iter()
            .map(|placed| (placed.partition, placed.start))
            .collect();
        self.table
            .assign(placed, &mut || EPOCHS.fetch_add(1, Ordering::Relaxed));
        self.take_in(&starts);
        self.assign(&starts);
    }

    fn take_in(&mut self, starts: &[(Partition, i64)]) {
        let partitions = starts.iter().map(|(partition, _)| *partition);
        self.sources
            .add(&self.consumer, &self.queue, &self.positions.topics, partitions);
    }

    fn assign(&self, starts: &[(Partition, i64)]) {
        let starts = starts
            .iter()
            .map(|(partition, offset)| (*partition, Offset::Offset(*offset)));
        let list = positions::list(&self.positions.topics, starts);
        if let Err(error) = self.consumer.incremental_assign(&list) {
            warn!(group = %self.positions.group, %error, "partitions could not be taken over");
        }
    }

    fn begin_revoke(&mut self, partitions: Vec<Partition>) {
        self.cancel_assign();
        let held = self.table.partitions();
        let ours: Vec<_> = partitions
            .iter()
            .copied()
            .filter(|partition| held.contains(partition))
            .collect();
        if self.consumer.assignment_lost() {
            warn!(group = %self.positions.group, partitions = ours.len(), "partitions were taken away");
            self.unassign(&ours, true);
            return;
        }
        self.table.revoke(&ours);
        self.revoking = Some(Revoking {
            partitions: ours,
            deadline: Instant::now() + self.drain,
        });
        self.finish_revoke();
    }

    fn finish_revoke(&mut self) {
        let Some(revoking) = &self.revoking else { return };
        let is_lost = self.consumer.assignment_lost();
        let is_over =
            is_lost || self.table.is_drained(&revoking.partitions) || Instant::now() >= revoking.deadline;
        if is_over && let Some(revoking) = self.revoking.take() {
            self.unassign(&revoking.partitions, is_lost);
        }
    }

    /// Ends the assignments first: nothing of them is recorded once the group may give them to somebody else.
    fn unassign(&mut self, partitions: &[Partition], is_lost: bool) {
        self.lost.retain(|lost| !partitions.contains(lost));
        let returns_until =
            (is_lost && self.table.tracking == Tracking::Completion).then(|| Instant::now() + self.drain);
        self.table.void(partitions, returns_until);
        let list = positions::list(
            &self.positions.topics,
            partitions.iter().map(|partition| (*partition, Offset::Invalid)),
        );
        self.sources.remove(partitions);
        if let Err(error) = self.consumer.incremental_unassign(&list) {
            warn!(group = %self.positions.group, %error, "partitions could not be given up");
        }
    }

    fn cancel_assign(&mut self) {
        if let Some(assigning) = self.assigning.take() {
            assigning.cancelled.store(true, Ordering::Release);
        }
    }

    /// Reads again what must be. Answers whether something is left to do soon.
    fn keep_flowing(&mut self) -> bool {
        if Instant::now() < self.seek_at {
            return true;
        }
        let seek = self.table.flow();
        let seeks = !seek.is_empty();
        for (partition, offset) in seek {
            let number = i32::try_from(partition.number).unwrap_or(i32::MAX);
            let topic = self.positions.topics.name(partition.topic);
            let sought = self
                .consumer
                .seek(topic, number, Offset::Offset(offset), SEEK_TIMEOUT);
            if let Err(error) = &sought {
                debug!(%partition, offset, %error, "seek");
            }
            self.table.sought(partition, offset, sought.is_ok());
        }
        if seeks {
            self.seek_at = Instant::now() + SEEK_INTERVAL;
        }
        seeks
    }

    /// A position below the log's start means that records were deleted before we read them: go on at what is left. One
    /// above its end cannot be mended here.
    fn find_lost(&mut self) {
        if self.lost.is_empty() || Instant::now() < self.lost_at {
            return;
        }
        self.lost_at = Instant::now() + LOST_INTERVAL;
        let lost = std::mem::take(&mut self.lost);
        let Ok(ends) = positions::ends(&self.positions.observer, &self.positions.topics, &lost) else {
            self.lost = lost;
            return;
        };
        for partition in lost {
            let next = self
                .table
                .lock()
                .partitions
                .get(&partition)
                .map(|held| held.completion.next());
            let (Some(next), Some((low, high))) = (next, ends.get(&partition).copied()) else {
                continue;
            };
            warn!(group = %self.positions.group, %partition, next, first = low, end = high, "records were deleted before they were read");
            let restart = positions::list(&self.positions.topics, [(partition, Offset::Offset(low))]);
            let again = self.consumer.incremental_unassign(&restart);
            if let Err(error) = again.and_then(|()| self.consumer.incremental_assign(&restart)) {
                warn!(group = %self.positions.group, %partition, %error, "the partition could not be begun anew");
                self.lost.push(partition);
            }
        }
    }

    fn leave(mut self) {
        let answered = self.assigning.is_none();
        self.cancel_assign();
        self.table.end();
        self.hops.join();
        let ours = self.table.partitions();
        if !answered {
            self.assign(&[]);
        }
        self.unassign(&ours, false);
        self.sources.clear();
        self.table.set_waker(None);
        info!(group = %self.positions.group, "left the group");
        let done = self.done.take();
        let table = Arc::clone(&self.table);
        // The last reference to the client leaves the group and waits for that.
        drop(self);
        table.leave();
        if let Some(done) = done {
            let _ = done.send(());
        }
    }
}
