//! The time between joining the group and leaving it.
//!
//! One write is under way at a time; the next batch is gathered beside it and is bounded, so a store that is away stops the
//! reading, not the process. What is gathered is written at once when nothing was written lately, else after a short while:
//! the records of one event mostly come together, and become one change.

use std::{
    collections::{BTreeMap, HashMap},
    future::Future,
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use posthaste_broker::{Assignment, BrokerError, Consumer, Hop, HopError, Hopper, Partition, Signal};
use posthaste_service::Shutdown;
use posthaste_store::{Position, Store};
use tokio::{
    task::yield_now,
    time::{Instant, sleep_until, timeout_at},
};
use tracing::debug;

use super::{
    Positions, Projector,
    batch::Batch,
    gauge::Gauge,
    write::{self, Portion},
};
use crate::Settings;

/// Where the store keeps the positions, the broker is only told them: for the lag, and for what it may delete.
const TOLD_EVERY: Duration = Duration::from_secs(5);

/// So many records that gather in the time between two writes are load: then they gather for so many times as long, so that
/// most events are written once instead of once when accepted and once when sent.
const LOAD_RECORDS: usize = 200;
const LOAD_GATHERS: u32 = 5;

/// Records that are folded before others have their turn on this thread: some tenths of a millisecond. Events on their way are
/// among the others.
const TURN_RECORDS: usize = 100;

/// How a session ended.
pub(super) enum Ended {
    /// It was told to.
    AsTold,
    /// The consumer broke down.
    Fault(BrokerError),
}

/// What is under way, and what it leaves to be committed.
type UnderWay = Pin<Box<dyn Future<Output = Done> + Send>>;

enum Done {
    Written(Vec<Position>, Portion),
    Committed,
}

pub(super) struct Session<'a> {
    settings: &'a Settings,
    store: Arc<dyn Store>,
    positions: Positions,
    consumer: Box<dyn Consumer>,
    hopper: Arc<dyn Hopper>,
    gauge: &'a Arc<Gauge>,
    owned: HashMap<Partition, Assignment>,
    batch: Batch,
    /// Written, and not committed yet.
    written: BTreeMap<Partition, i64>,
    under_way: Option<UnderWay>,
    /// When the last write began: for a while after it there is no next one, unless a batch is full.
    written_at: Option<Instant>,
    /// How much the store is given at once.
    portion: Portion,
    commit_at: Instant,
    /// Nothing is kept back for later.
    is_ending: bool,
}

impl<'a> Session<'a> {
    pub fn new(
        settings: &'a Settings,
        projector: &Projector,
        positions: Positions,
        consumer: Box<dyn Consumer>,
        gauge: &'a Arc<Gauge>,
    ) -> Self {
        Self {
            settings,
            store: Arc::clone(&projector.store),
            positions,
            hopper: consumer.hopper(),
            consumer,
            gauge,
            owned: HashMap::new(),
            batch: Batch::default(),
            written: BTreeMap::new(),
            under_way: None,
            written_at: None,
            portion: Portion::default(),
            commit_at: Instant::now(),
            is_ending: false,
        }
    }

    pub async fn run(mut self, shutdown: &Shutdown) -> Ended {
        let ended = loop {
            self.begin_next();
            let due = self.due();
            let is_full = self.is_full();
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break Ended::AsTold,
                done = finished(&mut self.under_way) => self.on_done(done),
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
                signal = self.consumer.next(), if !is_full => match signal {
                    Ok(signal) => self.on_signal(signal).await,
                    Err(fault) => break Ended::Fault(fault),
                },
            }
        };
        self.finish().await;
        self.consumer.close().await;
        ended
    }

    fn is_full(&self) -> bool {
        self.batch
            .is_full(self.settings.batch_records_max, self.settings.batch_kib_max << 10)
    }

    /// Begins the next write or commit, if it is time for one and nothing is under way.
    fn begin_next(&mut self) {
        if self.under_way.is_some() {
            return;
        }
        let now = Instant::now();
        // First, since under load there is always something to write.
        if !self.written.is_empty() && now >= self.commit_at {
            self.commit_at = now
                + match self.positions {
                    Positions::InBroker => Duration::from_millis(self.settings.commit_every_ms),
                    Positions::InStore => TOLD_EVERY,
                };
            self.begin_commit();
        } else if !self.batch.is_empty() && (self.is_full() || self.write_at().is_none_or(|at| now >= at)) {
            self.written_at = Some(now);
            self.begin_write();
        }
    }

    /// When the batch is written unless it is full before; `None` is at once.
    fn write_at(&self) -> Option<Instant> {
        let gathers = if self.batch.records() < LOAD_RECORDS {
            1
        } else {
            LOAD_GATHERS
        };
        let wait = Duration::from_millis(self.settings.gather_ms) * gathers;
        Some(self.written_at? + wait)
    }

    /// When [`Session::begin_next`] has something to do that it has not now.
    fn due(&self) -> Option<Instant> {
        if self.under_way.is_some() {
            return None;
        }
        let write = (!self.batch.is_empty()).then(|| self.write_at().unwrap_or_else(Instant::now));
        let commit = (!self.written.is_empty()).then_some(self.commit_at);
        write.into_iter().chain(commit).min()
    }

    fn begin_write(&mut self) {
        let (changes, positions) = if self.batch.records() < LOAD_RECORDS || self.is_ending {
            self.batch.take_all()
        } else {
            let bytes_max = self.settings.batch_kib_max << 10;
            self.batch.take_settled(Instant::now(), bytes_max)
        };
        if changes.is_empty() && positions.is_empty() {
            return;
        }
        let store = Arc::clone(&self.store);
        let gauge = Arc::clone(self.gauge);
        let kept_in_store = self.positions == Positions::InStore;
        let mut portion = std::mem::take(&mut self.portion);
        self.under_way = Some(Box::pin(async move {
            let kept: &[Position] = if kept_in_store { &positions } else { &[] };
            write::write(store.as_ref(), &changes, kept, &gauge, &mut portion).await;
            Done::Written(positions, portion)
        }));
    }

    fn begin_commit(&mut self) {
        let written = std::mem::take(&mut self.written);
        let owned: Vec<_> = written
            .into_iter()
            .filter_map(|(partition, offset)| Some((*self.owned.get(&partition)?, offset)))
            // A write may end after its partition went to another member, got further there, and came back.
            .filter(|(assignment, offset)| *offset > assignment.committed)
            .collect();
        let hopper = Arc::clone(&self.hopper);
        self.under_way = Some(Box::pin(async move {
            commit(hopper.as_ref(), owned).await;
            Done::Committed
        }));
    }

    fn on_done(&mut self, done: Done) {
        self.under_way = None;
        let Done::Written(positions, portion) = done else {
            return;
        };
        self.portion = portion;
        for position in positions {
            let partition = Partition {
                topic: position.topic,
                number: position.partition,
            };
            self.written.insert(partition, position.offset);
        }
    }

    async fn on_signal(&mut self, signal: Signal) {
        match signal {
            Signal::Assigned(assignments) => {
                debug!(partitions = assignments.len(), "partitions to project assigned");
                for assignment in assignments {
                    // What was read under an earlier assignment says nothing of this one's place.
                    self.forget(assignment.partition);
                    self.owned.insert(assignment.partition, assignment);
                }
            }
            Signal::Read(records) => {
                for records in records.chunks(TURN_RECORDS) {
                    for record in records {
                        self.batch.add(record, self.gauge);
                    }
                    yield_now().await;
                }
            }
            // Commits for it are still taken until it is revoked.
            Signal::Revoking(partitions) => {
                debug!(partitions = partitions.len(), "partitions to project are going");
                self.commit_at = Instant::now();
            }
            Signal::Revoked(partitions) => {
                for partition in partitions {
                    self.forget(partition);
                    self.owned.remove(&partition);
                }
            }
            Signal::AtEnd(_) => {}
            // Not given with this tracking; a ticket that is dropped is handed out again.
            Signal::Records(records) => {
                debug!(
                    records = records.len(),
                    "records with tickets are not expected here"
                );
            }
        }
    }

    fn forget(&mut self, partition: Partition) {
        self.batch.drop_partition(partition);
        self.written.remove(&partition);
    }

    /// Writes and commits what is there, within the time for it. What does not get through is read again.
    async fn finish(&mut self) {
        let until = Instant::now() + Duration::from_millis(self.settings.drain_ms);
        self.is_ending = true;
        loop {
            self.written_at = None;
            self.commit_at = Instant::now();
            self.begin_next();
            if self.under_way.is_none() {
                return;
            }
            match timeout_at(until, finished(&mut self.under_way)).await {
                Ok(done) => self.on_done(done),
                Err(_) => {
                    debug!("the last write did not end in time; its records are read again after the start");
                    return;
                }
            }
        }
    }
}

/// Waits for what is under way; for ever if there is nothing.
async fn finished(under_way: &mut Option<UnderWay>) -> Done {
    match under_way {
        Some(under_way) => under_way.await,
        None => std::future::pending().await,
    }
}

/// Commits positions. One that is not ours any more voids the hop for all, so each is tried alone then.
async fn commit(hopper: &dyn Hopper, positions: Vec<(Assignment, i64)>) {
    let all = Hop {
        positions: positions.clone(),
        ..Hop::default()
    };
    if hopper.hop(all).await != Err(HopError::Fenced) {
        return;
    }
    for position in positions {
        let one = Hop {
            positions: vec![position],
            ..Hop::default()
        };
        if let Err(error) = hopper.hop(one).await {
            debug!(partition = %position.0.partition, %error, "a position was not committed; its records are read again");
        }
    }
}
