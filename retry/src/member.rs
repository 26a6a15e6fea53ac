//! One member of a group: reads records, holds them until their time, and records their outcomes.
//!
//! The same loop makes verdicts (whose time is now) and turns the wheel. It owns what it holds; the only things that run
//! beside it are the hops under way, a bounded number.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use posthaste_broker::{
    Broker, BrokerError, Consumed, Consumer, Hop, HopError, Hopper, NewRecord, Partition, Record, Signal,
    Start, Subscription, Ticket, Tracking, Watched,
};
use posthaste_definitions::Definitions;
use posthaste_event::{Millis, Topic, clock};
use posthaste_reconnect::Reconnect;
use posthaste_rules::Rules;
use posthaste_service::{Metrics, Requests, Shutdown, Wanted};
use tokio::{sync::watch, time::timeout};
use tracing::{debug, error, info, warn};

use crate::{
    gauge::Gauge,
    held::{self, Held},
    judge::{Ask, Judge, Left, Outcome, is_gone, is_unheard, looks_at_record},
    waiting::{Bounds, Taken, Waiting},
};

/// Joining a group takes a few seconds when its other members are slow to answer; longer is a fault.
const SUBSCRIBE_TIMEOUT: Duration = Duration::from_secs(60);

/// Bytes after which a hop takes no further record: far below what a transaction may hold, far above what it costs.
const HOP_BYTES_MAX: usize = 1 << 20;

/// A firing whose schedule was not heard of yet is looked at again after this time, in milliseconds.
const UNHEARD_AGAIN_MS: Millis = 250;

/// All that waits is looked through for what is asked as often as this, in milliseconds, however much is asked.
const LOOK_EVERY_MS: Millis = 100;

/// Who a member is and what it may use.
pub(crate) struct Member {
    /// For logs and health, such as `wheel near`.
    pub(crate) name: &'static str,
    pub(crate) subscription: Subscription,
    /// Whether it makes verdicts or turns the wheel.
    pub(crate) ask: Ask,
    /// For near topics: when room must be made.
    pub(crate) bounds: Option<Bounds>,
    /// Whether its outcomes may be held back for a moment, to be recorded with others.
    pub(crate) may_wait: bool,
    pub(crate) hops_max: usize,
    pub(crate) hop_records_max: usize,
    pub(crate) clock_check_ms: u64,
    /// How long a record may stay unread without a reason, and one that awaits a verdict unfinished.
    pub(crate) patience: Duration,
    pub(crate) broker: Arc<dyn Broker>,
    pub(crate) rules: watch::Receiver<Arc<Rules>>,
    pub(crate) instance: Arc<str>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) gauge: Arc<Gauge>,
    /// What was asked of events.
    pub(crate) requests: Arc<Requests>,
    /// The schedules in force.
    pub(crate) schedules: Arc<Definitions>,
    pub(crate) shutdown: Shutdown,
}

/// What a member subscribes to.
pub(crate) fn subscription(
    group: &str,
    topics: Vec<Topic>,
    limits: posthaste_broker::Limits,
) -> Subscription {
    Subscription {
        group: group.to_owned(),
        topics,
        tracking: Tracking::Completion,
        start: Start::Committed,
        limits,
    }
}

impl Member {
    /// Runs until shutdown. A consumer that breaks down is replaced.
    ///
    /// # Errors
    /// When the first subscription fails for a reason that does not go away by itself.
    pub(crate) async fn run(&self) -> Result<(), BrokerError> {
        let mut waits = Reconnect::default();
        let mut started = false;
        while !self.shutdown.is_cancelled() {
            let subscribing = self.broker.subscribe(self.subscription.clone());
            let subscribed = tokio::select! {
                () = self.shutdown.cancelled() => break,
                subscribed = timeout(SUBSCRIBE_TIMEOUT, subscribing) => subscribed
                    .unwrap_or_else(|_| Err(BrokerError::Unreachable("no answer to subscribe".to_owned()))),
            };
            let fault = match subscribed {
                Ok(consumer) => {
                    started = true;
                    waits.reset();
                    if self.gauge.well(consumer.hopper()) {
                        info!(member = self.name, "the {} reads its topics again", self.name);
                    }
                    let broker = Arc::clone(&self.broker);
                    let consumer = match self.ask {
                        Ask::Verdict => Watched::new(consumer, broker, self.patience),
                        // Records stay in the wheel until their time.
                        _ => Watched::reader(consumer, broker, self.patience),
                    };
                    match Session::new(self, Box::new(consumer)).run().await {
                        Ok(()) => break,
                        Err(fault) => fault,
                    }
                }
                Err(fault) if !started && !fault.is_retryable() => return Err(fault),
                Err(fault) => fault,
            };
            if self.gauge.unwell(fault.to_string()) {
                warn!(member = self.name, error = %fault, "the {} cannot read its topics", self.name);
            }
            tokio::select! {
                () = self.shutdown.cancelled() => {}
                () = tokio::time::sleep(waits.next_wait()) => {}
            }
        }
        Ok(())
    }
}

/// How one hop ended.
struct Done {
    result: Result<(), HopError>,
    places: Vec<(Partition, i64)>,
    left: Vec<Left>,
}

/// The time between joining a group and leaving it.
struct Session<'a> {
    member: &'a Member,
    consumer: Box<dyn Consumer>,
    hopper: Arc<dyn Hopper>,
    waiting: Waiting<Held>,
    /// Records of which only the place was held when they were chosen to make room; they come again.
    overflow: HashSet<(Partition, i64)>,
    /// Says when something new is asked.
    asked: watch::Receiver<u64>,
    /// Says when a schedule is changed or withdrawn.
    defined: watch::Receiver<u64>,
    /// All that waits must be looked through for it.
    is_asked: bool,
    /// When that was done last; see [`LOOK_EVERY_MS`].
    looked_at: Millis,
    /// Records that were too large for the broker together with others (0), alone (1), as a foreign letter (2). Empty but
    /// for records at the very limit.
    oversize: HashMap<(Partition, i64), u8>,
}

impl<'a> Session<'a> {
    fn new(member: &'a Member, consumer: Box<dyn Consumer>) -> Self {
        Self {
            hopper: consumer.hopper(),
            asked: member.requests.changes(),
            defined: member.schedules.changes(),
            is_asked: false,
            looked_at: Millis::MIN,
            member,
            consumer,
            waiting: Waiting::new(member.bounds),
            overflow: HashSet::new(),
            oversize: HashMap::new(),
        }
    }

    async fn run(mut self) -> Result<(), BrokerError> {
        // What was withdrawn long ago must not go on now, and no schedule is to end for not being known.
        let known = async { tokio::join!(self.member.requests.known(), self.member.schedules.known()) };
        tokio::select! {
            _ = known => {}
            () = self.member.shutdown.cancelled() => {}
        }
        let mut under_way = FuturesUnordered::new();
        let ended = loop {
            let now = clock::now();
            self.wake(now);
            while under_way.len() < self.member.hops_max {
                let hops = self.next_hops(now);
                if hops.is_empty() {
                    break;
                }
                for Outcomes { hop, places, left } in hops {
                    let hopper = Arc::clone(&self.hopper);
                    let may_wait = self.member.may_wait;
                    let hop = Hop { may_wait, ..hop };
                    under_way.push(async move {
                        let result = hopper.hop(hop).await;
                        Done { result, places, left }
                    });
                }
            }
            let nap = self.nap(now, under_way.len() < self.member.hops_max);
            tokio::select! {
                () = self.member.shutdown.cancelled() => break Ok(()),
                Some(done) = under_way.next(), if !under_way.is_empty() => self.settle(done),
                signal = self.consumer.next() => match signal {
                    Ok(signal) => self.take_in(signal),
                    Err(fault) => break Err(fault),
                },
                Ok(()) = self.asked.changed() => self.is_asked = self.member.ask == Ask::Move,
                Ok(()) = self.defined.changed() => self.is_asked = self.member.ask == Ask::Move,
                () = tokio::time::sleep(nap.unwrap_or_default()), if nap.is_some() => {}
            }
        };
        // What is held goes back; what is under way is waited for, as long as the broker gives it.
        drop(self.waiting);
        let mut closing = self.consumer.close();
        loop {
            tokio::select! {
                () = &mut closing => break,
                Some(_) = under_way.next(), if !under_way.is_empty() => {}
            }
        }
        ended
    }

    /// How long nothing needs to be done, unless something happens. Short, since the clock may be set meanwhile.
    fn nap(&self, now: Millis, may_hop: bool) -> Option<Duration> {
        let next = self.waiting.next_wake();
        self.member.gauge.head(next);
        let look = self
            .is_asked
            .then(|| self.looked_at.saturating_add(LOOK_EVERY_MS));
        let next = [next, look].into_iter().flatten().min();
        let left_ms = u64::try_from(next?.saturating_sub(now)).unwrap_or(0);
        may_hop.then(|| Duration::from_millis(left_ms.min(self.member.clock_check_ms)))
    }

    /// Wakes those of which something is asked.
    fn wake(&mut self, now: Millis) {
        let is_time = now < self.looked_at || now.saturating_sub(self.looked_at) >= LOOK_EVERY_MS;
        if self.is_asked && is_time {
            (self.is_asked, self.looked_at) = (false, now);
            let Member {
                requests, schedules, ..
            } = self.member;
            let named = requests.named();
            self.waiting.wake(now, |held| match held {
                Held::Whole { consumed, .. } => {
                    let record = &consumed.record;
                    requests.wanted(record).is_some() || is_gone(record, schedules, now)
                }
                Held::Place { names, .. } => named.may_mean(*names),
            });
        }
    }

    fn take_in(&mut self, signal: Signal) {
        match signal {
            Signal::Assigned(assignments) => {
                for assignment in assignments {
                    self.waiting.begin(assignment.partition);
                }
            }
            Signal::Records(records) => {
                let now = clock::now();
                for consumed in records {
                    self.hold(consumed, now);
                }
            }
            // Dropping what is held says that it will not be finished here; the next owner finds it open.
            Signal::Revoking(partitions) | Signal::Revoked(partitions) => {
                for partition in partitions {
                    self.waiting.forget(partition);
                    self.overflow.retain(|(of, _)| *of != partition);
                    self.oversize.retain(|(of, _), _| *of != partition);
                }
            }
            // Only for consumers that keep a position.
            Signal::Read(_) | Signal::AtEnd(_) => {}
        }
    }

    fn hold(&mut self, consumed: Consumed, now: Millis) {
        let record = &consumed.record;
        let bytes = record.key.as_ref().map_or(0, |key| key.len())
            + record.value.as_ref().map_or(0, |value| value.len());
        let (partition, offset) = held::place(&consumed);
        let makes_room = !self.overflow.is_empty() && self.overflow.remove(&(partition, offset));
        if makes_room || self.member.requests.wanted(record).is_some() {
            let consumed = Box::new(consumed);
            let held = Held::Whole { consumed, makes_room };
            self.waiting.hold(partition, offset, now, bytes, held);
            return;
        }
        let wakes_at = looks_at_record(record, now);
        if self.consumer.gives_again() {
            held::hold_or_let_go(&mut self.waiting, consumed, bytes, wakes_at, now);
        } else {
            self.waiting
                .hold(partition, offset, wakes_at, bytes, Held::whole(consumed));
        }
    }

    /// What has woken, and what must make room. Where only a place was held, its record is asked for.
    fn take_out(&mut self, now: Millis) -> Vec<(Consumed, usize, Ask)> {
        let records_max = self.member.hop_records_max;
        let due = self.waiting.take_due(now, records_max);
        let overflow = self.waiting.take_overflow(now, records_max);
        let mut out = Vec::new();
        let overflow = overflow.into_iter().map(|taken| (taken, true));
        for (Taken { bytes, item, .. }, is_overflow) in
            due.into_iter().map(|taken| (taken, false)).chain(overflow)
        {
            match item {
                Held::Whole { consumed, makes_room } if makes_room || is_overflow => {
                    out.push((*consumed, bytes, Ask::MakeRoom));
                }
                Held::Whole { consumed, .. } => out.push((*consumed, bytes, self.member.ask)),
                Held::Place { ticket, .. } if is_overflow => {
                    self.overflow.insert((ticket.partition(), ticket.offset()));
                }
                // Dropping its ticket asks for the record.
                Held::Place { .. } => {}
            }
        }
        out
    }

    /// The outcomes of what has woken, and of what must make room.
    fn next_hops(&mut self, now: Millis) -> Vec<Outcomes> {
        let out = self.take_out(now);
        if out.is_empty() {
            return Vec::new();
        }
        let rules = self.member.rules.borrow().clone();
        let judge = Judge {
            rules: &rules,
            prefix: self.member.broker.prefix(),
            by: &self.member.instance,
            schedules: &self.member.schedules,
            metrics: &self.member.metrics,
            now,
        };
        let mut batches = Batches::default();
        for (consumed, bytes, ask) in out {
            let place = held::place(&consumed);
            if ask == Ask::Move && is_unheard(&consumed.record, &self.member.schedules, now) {
                let again = now.saturating_add(UNHEARD_AGAIN_MS);
                self.waiting
                    .hold(place.0, place.1, again, bytes, Held::whole(consumed));
                continue;
            }
            let Consumed { record, ticket } = consumed;
            match self.oversize.get(&place) {
                None => {
                    let ask = self.asked(&record, ask);
                    let outcome = judge.outcome(&record, ask);
                    let done = self.done(&outcome, ask);
                    let left = outcome.left;
                    let outputs = outcome.into_outputs().chain(done);
                    batches.add(ticket, outputs, left, bytes);
                }
                Some(&times) => {
                    let ask = match times {
                        0 => ask,
                        1 => Ask::Bury { with_value: true },
                        _ => Ask::Bury { with_value: false },
                    };
                    let outcome = judge.outcome(&record, ask);
                    let done = self.done(&outcome, ask);
                    batches.add_alone(ticket, outcome, done);
                }
            }
        }
        batches.finish()
    }

    /// What to do with a record of which something may be asked.
    fn asked(&self, record: &Record, ask: Ask) -> Ask {
        match self.member.requests.wanted(record) {
            None => ask,
            Some(Wanted::Cancel) => Ask::Cancel,
            Some(_) if ask == Ask::Verdict => ask,
            Some(Wanted::Reschedule { due, asked_at }) => Ask::Reschedule { due, asked_at },
            Some(Wanted::RetryNow) => Ask::Release,
        }
    }

    /// Forgets what was asked for and is done with this outcome.
    fn done(&self, outcome: &Outcome, ask: Ask) -> Vec<NewRecord> {
        let only = match ask {
            _ if outcome.is_final() => None,
            Ask::Release => Some(Wanted::RetryNow),
            Ask::Reschedule { due, asked_at } => Some(Wanted::Reschedule { due, asked_at }),
            _ => return Vec::new(),
        };
        let (key, value) = (&outcome.output.key, outcome.output.value.as_deref());
        self.member.requests.forgets(key, value, only)
    }

    fn settle(&mut self, Done { result, places, left }: Done) {
        match result {
            Ok(()) => {
                let now = clock::now();
                for Left { reason, due } in left {
                    let lateness = self.member.metrics.lateness(reason);
                    lateness.observe_ms(now.saturating_sub(due));
                }
                if !self.oversize.is_empty() {
                    self.oversize.retain(|place, _| !places.contains(place));
                }
            }
            // The next owner of the partition decides.
            Err(HopError::Fenced | HopError::Closed | HopError::NoRoom) => {
                debug!(
                    member = self.member.name,
                    records = places.len(),
                    "outcomes are void"
                );
            }
            // The records come again, and go one by one.
            Err(HopError::TooLarge { bytes }) => {
                if let [(partition, offset)] = places.as_slice() {
                    error!(
                        member = self.member.name, %partition, offset, bytes,
                        "the outcome of {partition}@{offset} is larger than the broker takes"
                    );
                }
                let alone = places.len() == 1;
                for place in places {
                    let times = self.oversize.entry(place).or_default();
                    *times = if alone { times.saturating_add(1) } else { *times };
                }
            }
        }
    }
}

/// A hop, and the records that it finishes.
struct Outcomes {
    hop: Hop,
    places: Vec<(Partition, i64)>,
    left: Vec<Left>,
}

/// Hops in the making: one partition each, so that losing it voids nothing else.
#[derive(Default)]
struct Batches {
    open: BTreeMap<Partition, (Hop, Vec<Left>, usize)>,
    full: Vec<(Hop, Vec<Left>)>,
}

impl Batches {
    fn add(
        &mut self,
        ticket: Ticket,
        outputs: impl IntoIterator<Item = NewRecord>,
        left: Option<Left>,
        bytes: usize,
    ) {
        let partition = ticket.partition();
        let (hop, lefts, hop_bytes) = self.open.entry(partition).or_default();
        hop.completes.push(ticket);
        hop.outputs.extend(outputs);
        lefts.extend(left);
        *hop_bytes += bytes;
        if *hop_bytes >= HOP_BYTES_MAX
            && let Some((hop, lefts, _)) = self.open.remove(&partition)
        {
            self.full.push((hop, lefts));
        }
    }

    fn add_alone(&mut self, ticket: Ticket, outcome: Outcome, done: Vec<NewRecord>) {
        let left = outcome.left.into_iter().collect();
        let outputs = outcome.into_outputs().chain(done).collect();
        self.full.push((Hop::one(ticket, outputs), left));
    }

    fn finish(self) -> Vec<Outcomes> {
        let open = self.open.into_values().map(|(hop, left, _)| (hop, left));
        self.full
            .into_iter()
            .chain(open)
            .map(|(hop, left)| Outcomes {
                places: hop
                    .completes
                    .iter()
                    .map(|ticket| (ticket.partition(), ticket.offset()))
                    .collect(),
                hop,
                left,
            })
            .collect()
    }
}
