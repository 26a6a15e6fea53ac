//! The thread that puts hops through: one Kafka transaction at a time, each with all hops that wait.
//!
//! The fence: the group's metadata (with its generation) is read first, and then which assignments are alive. Only their
//! outcomes go in. The broker refuses the offsets of a generation that is over; a generation that is not over has not given
//! a partition of a living assignment to anybody else.
//!
//! A commit whose result is unknown is settled by a new client: `init_transactions` ends the old transaction one way or
//! the other, and what the group has committed then says which.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use posthaste_reconnect::Reconnect;
use rdkafka::{ClientConfig, consumer::BaseConsumer};
use tokio::sync::{mpsc, oneshot};
use tracing::{debug, error, info, warn};

use super::{
    client::{Context, Link, no_thread},
    gather::{Bell, Gathered, Last},
    intake::size,
    native::{Committed, GroupMetadata},
    positions,
    producer::Producer,
    served::Served,
    table::Table,
    topics::Topics,
    transaction::{Failure, Outcomes, Transaction},
};
use crate::{BrokerError, Hop, HopError, Hopper, Partition, Ticket, Tracking};

/// Hops that wait for their turn; callers beyond wait outside.
const WAITING_MAX: usize = 4_096;

/// How long to wait for what the group has committed.
const COMMITTED_TIMEOUT: Duration = Duration::from_secs(3);
/// How long to wait for a generation when ours is over.
const REJOIN_WAIT: Duration = Duration::from_millis(10);

/// One hop that waits.
pub(super) struct Waiting {
    pub(super) hop: Arc<Open>,
    pub(super) done: oneshot::Sender<Result<(), HopError>>,
}

/// What a hop wants, with its tickets spent.
pub(super) struct Open {
    pub(super) completes: Vec<(Partition, i64, u64)>,
    /// Partition, epoch, next offset.
    pub(super) positions: Vec<(Partition, u64, i64)>,
    /// Partition and epoch of assignments that must be alive.
    pub(super) fences: Vec<(Partition, u64)>,
    /// A record to mark as started.
    pub(super) start: Option<(Partition, i64, u64)>,
    pub(super) outputs: Vec<crate::NewRecord>,
    pub(super) bytes: usize,
    pub(super) may_wait: bool,
}

pub(super) enum Request {
    Hop(Waiting),
    End,
}

/// The way in.
pub(super) struct KafkaHopper {
    queue: mpsc::Sender<Request>,
    bell: Arc<Bell>,
    table: Arc<Table>,
    link: Arc<Link>,
    records: Arc<AtomicBool>,
    record_bytes_max: usize,
}

impl KafkaHopper {
    async fn enter(&self, place: mpsc::Permit<'_, Request>, open: Open) -> Result<(), HopError> {
        self.table.entered(&open);
        let (done, answer) = oneshot::channel();
        let may_wait = open.may_wait;
        let hop = Arc::new(open);
        place.send(Request::Hop(Waiting { hop, done }));
        if !may_wait {
            self.bell.ring();
        }
        answer.await.unwrap_or(Err(HopError::Closed))
    }
}

#[async_trait]
impl Hopper for KafkaHopper {
    async fn hop(&self, hop: Hop) -> Result<(), HopError> {
        if let Some(bytes) = hop
            .outputs
            .iter()
            .map(size)
            .find(|bytes| *bytes > self.record_bytes_max)
        {
            return Err(HopError::TooLarge { bytes });
        }
        // Until its turn comes the hop can be given up, and its tickets come back.
        let place = self.queue.reserve().await.map_err(|_| HopError::Closed)?;
        let open = Open {
            bytes: hop.outputs.iter().map(size).sum(),
            completes: hop.completes.into_iter().map(Ticket::spend).collect(),
            positions: hop
                .positions
                .into_iter()
                .map(|(assignment, next)| (assignment.partition, assignment.epoch, next))
                .collect(),
            fences: hop
                .fences
                .into_iter()
                .map(|assignment| (assignment.partition, assignment.epoch))
                .collect(),
            start: None,
            outputs: hop.outputs,
            may_wait: hop.may_wait,
        };
        self.enter(place, open).await
    }

    async fn start(&self, ticket: &Ticket) -> Result<(), HopError> {
        let place = self.queue.reserve().await.map_err(|_| HopError::Closed)?;
        let open = Open {
            completes: Vec::new(),
            positions: Vec::new(),
            fences: Vec::new(),
            start: Some((ticket.partition(), ticket.offset(), ticket.epoch())),
            outputs: Vec::new(),
            bytes: 0,
            may_wait: false,
        };
        self.enter(place, open).await
    }

    fn is_recording(&self) -> bool {
        self.records.load(Ordering::Acquire) && self.link.check().is_ok()
    }

    fn is_sure(&self, ticket: &Ticket) -> bool {
        let lease = &self.table.lease;
        lease.is_sure(Instant::now()) && !lease.was_lost(ticket.epoch())
    }

    async fn still_holds(&self, ticket: &Ticket) -> bool {
        self.table.lease.until_sure().await && self.table.lock().holds(ticket)
    }
}

/// What the thread needs.
pub(super) struct HopSettings {
    pub(super) consumer: Arc<BaseConsumer<Context>>,
    pub(super) table: Arc<Table>,
    pub(super) topics: Arc<Topics>,
    pub(super) link: Arc<Link>,
    /// Of the transactional producer.
    pub(super) config: ClientConfig,
    /// The group's full name.
    pub(super) group: String,
    pub(super) record_bytes_max: usize,
}

impl HopSettings {
    fn producer(&self) -> Result<Producer, BrokerError> {
        let context = Outcomes::new(Context::new(&self.link));
        let client = Served::start(&self.config, context)?;
        self.link.add(client.client_arc());
        Producer::start(client).map_err(|error| no_thread(&error))
    }
}

/// The running thread.
pub(super) struct HopThread {
    queue: mpsc::Sender<Request>,
    thread: Option<JoinHandle<()>>,
}

impl HopThread {
    /// Starts it.
    ///
    /// # Errors
    /// When the options make no producer, or the system has no thread left.
    pub(super) fn start(settings: HopSettings) -> Result<(Self, Arc<KafkaHopper>), BrokerError> {
        let producer = settings.producer()?;
        let (queue, requests) = mpsc::channel(WAITING_MAX);
        let records = Arc::new(AtomicBool::new(true));
        let bell = Arc::<Bell>::default();
        let hopper = Arc::new(KafkaHopper {
            queue: queue.clone(),
            bell: Arc::clone(&bell),
            table: Arc::clone(&settings.table),
            link: Arc::clone(&settings.link),
            records: Arc::clone(&records),
            record_bytes_max: settings.record_bytes_max,
        });
        let worker = Worker {
            settings,
            producer: Some(producer),
            is_ready: false,
            unknown: None,
            transactions: 0,
            records,
        };
        let thread = thread::Builder::new()
            .name("kafka-hops".to_owned())
            .spawn(move || worker.run(requests))
            .map_err(|error| no_thread(&error))?;
        bell.set(thread.thread());
        let thread = Some(thread);
        Ok((Self { queue, thread }, hopper))
    }

    /// Ends it once everything that waits is answered; the table must have ended, so that nothing waits for the broker.
    pub(super) fn join(&mut self) {
        // A full queue is being answered by now.
        let _ = self.queue.blocking_send(Request::End);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            error!("the thread of the hops panicked");
        }
    }
}

struct Worker {
    settings: HopSettings,
    producer: Option<Producer>,
    /// The producer has put an end to what its predecessor left open.
    is_ready: bool,
    /// The token of the transaction whose commit nobody confirmed.
    unknown: Option<String>,
    transactions: u64,
    records: Arc<AtomicBool>,
}

/// What one attempt came to.
enum Attempt {
    /// Every hop is answered.
    Settled,
    /// The generation is over or was refused: look again soon.
    Stale,
    /// The broker does not do what it should.
    Trouble(String),
    /// One of several hops is too large: put each through by itself.
    Apart,
}

impl Worker {
    fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        // The first hop should not have to wait for a producer.
        if self.settings.table.tracking == Tracking::Completion {
            self.recover(true);
        }
        let mut last = None;
        while let Some(gathered) = Gathered::next(&mut requests, last) {
            let began = Instant::now();
            self.settle(gathered.hops);
            let took = began.elapsed();
            last = Some(Last { began, took });
            // Who looks at `is_recording` before it starts something new would bring no hop that finds out.
            self.recover(false);
            if gathered.is_last {
                break;
            }
        }
        requests.close();
        while let Ok(request) = requests.try_recv() {
            if let Request::Hop(waiting) = request {
                self.settings.table.answer(waiting, Err(HopError::Closed));
            }
        }
    }

    /// Unless hops are known to go through, tries until they could.
    fn recover(&mut self, even_if_well: bool) {
        let mut waits = Reconnect::new(Duration::from_millis(10), Duration::from_secs(1));
        let mut is_open = even_if_well || !self.records.load(Ordering::Acquire);
        while is_open && !self.settings.table.is_ended() {
            match self.connect() {
                Ok(()) => {
                    self.works();
                    is_open = false;
                }
                Err(reason) => {
                    self.trouble(&reason);
                    thread::sleep(waits.next_wait());
                }
            }
        }
    }

    fn works(&self) {
        if !self.records.swap(true, Ordering::AcqRel) {
            info!(group = %self.settings.group, "hops go through again");
        }
    }

    /// Goes on until every hop is answered.
    fn settle(&mut self, mut hops: Vec<Waiting>) {
        let mut waits = Reconnect::new(Duration::from_millis(10), Duration::from_secs(1));
        loop {
            if self.settings.table.is_ended() {
                for waiting in hops {
                    self.settings.table.answer(waiting, Err(HopError::Closed));
                }
                return;
            }
            match self.attempt(&mut hops) {
                Attempt::Settled => {
                    self.works();
                    return;
                }
                Attempt::Stale => thread::sleep(REJOIN_WAIT),
                Attempt::Trouble(reason) => {
                    self.trouble(&reason);
                    self.settings.table.refuse_void(&mut hops);
                    if hops.is_empty() {
                        return;
                    }
                    thread::sleep(waits.next_wait());
                }
                Attempt::Apart => {
                    for waiting in hops {
                        self.settle(vec![waiting]);
                    }
                    return;
                }
            }
        }
    }

    fn trouble(&self, reason: &str) {
        if self.records.swap(false, Ordering::AcqRel) {
            warn!(group = %self.settings.group, reason, "hops do not go through");
        } else {
            debug!(group = %self.settings.group, reason, "hops still do not go through");
        }
    }

    fn attempt(&mut self, hops: &mut Vec<Waiting>) -> Attempt {
        if let Err(reason) = self.connect() {
            return Attempt::Trouble(reason);
        }
        let outputs = hops.iter().flat_map(|waiting| &waiting.hop.outputs);
        if let Err(error) = self.settings.topics.learn(&self.settings.consumer, outputs) {
            return Attempt::Trouble(error.to_string());
        }
        let committed = match &self.unknown {
            None => None,
            Some(_) => match self.committed(hops) {
                Ok(committed) => Some(committed),
                Err(reason) => return Attempt::Trouble(reason),
            },
        };
        let table = Arc::clone(&self.settings.table);
        // The order matters: a generation that is read after an assignment was found alive could be one that follows it.
        let group = GroupMetadata::of(&self.settings.consumer);
        if !table.refuse_void(hops) {
            return Attempt::Stale;
        }
        if let (Some(committed), Some(token)) = (committed, self.unknown.take()) {
            table.confirm(hops, &committed, &token);
        }
        if hops.is_empty() {
            return Attempt::Settled;
        }
        let Some(group) = group else {
            return Attempt::Stale;
        };
        let Some(producer) = &mut self.producer else {
            return Attempt::Trouble("no producer".to_owned());
        };
        self.transactions += 1;
        let token = format!("p1.{}.{}", uuid::Uuid::new_v4().simple(), self.transactions);
        let offsets = table.offsets(hops, &token);
        if hops.is_empty() {
            return Attempt::Settled;
        }
        let transaction = Transaction {
            topics: Arc::clone(&self.settings.topics),
            group: Arc::new(group),
            hops: hops.iter().map(|waiting| Arc::clone(&waiting.hop)).collect(),
            offsets,
        };
        match producer.run(transaction) {
            Ok(()) => {
                table.confirm_all(hops);
                Attempt::Settled
            }
            Err(failure) => self.failed(failure, hops, token),
        }
    }

    fn failed(&mut self, failure: Failure, hops: &mut Vec<Waiting>, token: String) -> Attempt {
        match failure {
            Failure::TooLarge if hops.len() > 1 => Attempt::Apart,
            Failure::TooLarge => {
                for waiting in hops.drain(..) {
                    let bytes = waiting.hop.outputs.iter().map(size).max().unwrap_or(0);
                    self.settings
                        .table
                        .answer(waiting, Err(HopError::TooLarge { bytes }));
                }
                Attempt::Settled
            }
            Failure::Stale => Attempt::Stale,
            Failure::Aborted(reason) => Attempt::Trouble(reason),
            Failure::Broken { error, is_unknown } => {
                debug!(group = %self.settings.group, ?error, is_unknown, "a new transactional producer is needed");
                // Its queue is empty or void: dropping it loses nothing.
                self.producer = None;
                self.unknown = is_unknown.then_some(token);
                Attempt::Trouble(error.reason)
            }
        }
    }

    /// Makes the producer unless there is one. Whatever an earlier one left open is over then.
    fn connect(&mut self) -> Result<(), String> {
        let producer = match &mut self.producer {
            Some(_) if self.is_ready => return Ok(()),
            Some(producer) => producer,
            None => {
                self.is_ready = false;
                let made = self.settings.producer().map_err(|error| error.to_string())?;
                self.producer.insert(made)
            }
        };
        match producer.init() {
            Ok(()) => {
                self.is_ready = true;
                Ok(())
            }
            Err(error) => {
                // A call that ran out of time goes on where it stopped when it is made again.
                if !error.is_retriable {
                    self.producer = None;
                }
                Err(error.reason)
            }
        }
    }

    fn committed(&self, hops: &[Waiting]) -> Result<HashMap<Partition, Committed>, String> {
        let mut partitions: Vec<Partition> =
            hops.iter().flat_map(|waiting| waiting.hop.partitions()).collect();
        partitions.sort_unstable();
        partitions.dedup();
        if partitions.is_empty() {
            return Ok(HashMap::new());
        }
        let settings = &self.settings;
        positions::committed_by(
            &settings.consumer,
            &settings.topics,
            &partitions,
            COMMITTED_TIMEOUT,
        )
        .map_err(|error| error.to_string())
    }
}

impl Open {
    /// The partitions whose progress this changes.
    pub(super) fn partitions(&self) -> impl Iterator<Item = Partition> + '_ {
        let completes = self
            .completes
            .iter()
            .chain(&self.start)
            .map(|(partition, ..)| *partition);
        let fences = self.fences.iter().map(|(partition, _)| *partition);
        completes
            .chain(self.positions.iter().map(|(partition, ..)| *partition))
            .chain(fences)
    }
}
