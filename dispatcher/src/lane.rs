//! A lane at work: takes records, orders them, starts sends, and gives way when its partitions go.
//!
//! One task owns all of a lane's state; sends and hops are tasks of their own, bounded by the accounts' places and by
//! the records that the consumer hands out. Nothing is locked across an await.

mod ordered;
mod parking;

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures_util::FutureExt as _;
use posthaste_broker::{BrokerError, Consumed, Consumer, Limits, Partition, Signal};
use posthaste_event::{ErrorKind, Millis, clock};
use posthaste_provider::Account;
use posthaste_service::Shutdown;
use tokio::{
    task::{JoinError, JoinSet},
    time::{MissedTickBehavior, interval, timeout},
};
use tracing::{debug, info, warn};

use self::ordered::{Became, Ordered, Said};
use crate::{
    Dispatcher, LaneName,
    gate::{Gate, Pass},
    hold::Hold,
    pending::{self, Outcome, Pending},
    send::{Ended, Finished, Recorder, Unrecorded, finishing},
    state::LaneState,
    unsettled::{Place, Settled, Unsettled},
    window::Window,
};

/// How often a lane looks whether outcomes can be recorded again, and whether a queue has become too long.
const TICK: Duration = Duration::from_millis(100);

/// Records taken in before the places that became free meanwhile are filled again.
const RECORDS_A_TURN: usize = 16;

/// What an event under way occupies at most, in bytes, for the bound of what the consumer hands out.
const RECORD_BYTES_USUAL: usize = 16 * 1024;

/// Bounds of what the consumer hands out: what waits, what is being sent at every account, and what is being recorded.
pub fn limits(dispatcher: &Dispatcher) -> Limits {
    let settings = &dispatcher.settings;
    let places: usize = dispatcher
        .accounts
        .all()
        .iter()
        .map(|account| account.concurrency_max)
        .sum();
    let under_way = places.saturating_add(settings.unrecorded_max);
    let records_max = settings.window_records_max.saturating_add(under_way);
    Limits {
        partition_records_max: records_max,
        records_max,
        bytes_max: settings
            .window_bytes_max
            .saturating_add(under_way.saturating_mul(RECORD_BYTES_USUAL)),
        ..Limits::default()
    }
}

/// One membership of the lane's group.
pub struct Lane<'a> {
    dispatcher: &'a Dispatcher,
    name: LaneName,
    state: Arc<LaneState>,
    recorder: Arc<Recorder>,
    window: Window<Box<Pending>>,
    seats: Vec<Seat>,
    seat_of: HashMap<String, usize>,
    /// Which seat is asked first for the next send.
    first: usize,
    tasks: JoinSet<Done>,
    ordered: Ordered,
    /// Nothing new begins.
    is_draining: bool,
    /// Records that a task is finishing.
    under_way: HashSet<Place>,
    /// Records that were handed out again before the task that has them was through.
    early: HashMap<Place, Consumed>,
    unsettled: Unsettled,
    recording: bool,
    hold: Hold,
    /// What was appended before then may have been sent by whoever had the partition before.
    doubtful_until: HashMap<Partition, Millis>,
    /// A long batch must not begin sends after the lane was asked to stop.
    shutdown: Shutdown,
}

/// What a task of a lane came to.
enum Done {
    /// The finishing of a record.
    Finished(Finished),
    /// Something that was said of ordering keys.
    Said(Said),
}

/// An account and its place in the window.
struct Seat {
    account: Arc<Account>,
    gate: Arc<Gate>,
    /// Since when its queue has had no room: it was full, and half of it has not been gone since.
    crowded_since: Option<Millis>,
    /// Whether events for it came when reading went on last.
    is_seen: bool,
}

impl<'a> Lane<'a> {
    /// A lane with nothing in its hands.
    pub fn new(
        dispatcher: &'a Dispatcher,
        name: LaneName,
        state: Arc<LaneState>,
        consumer: &dyn Consumer,
    ) -> Self {
        let settings = &dispatcher.settings;
        Self {
            dispatcher,
            name,
            state,
            recorder: Arc::new(Recorder {
                hopper: consumer.hopper(),
                instance: Arc::clone(&dispatcher.instance),
                metrics: Arc::clone(&dispatcher.metrics),
                requests: Arc::clone(&dispatcher.requests),
                suppressions: Arc::clone(&dispatcher.suppressions),
                devices: Arc::clone(&dispatcher.devices),
                suppresses_reported: settings.suppress_reported,
                keys: Arc::clone(&dispatcher.sealing_keys),
                unrecorded: 0.into(),
                park_ms_min: settings.park_ms_min,
            }),
            window: Window::new(settings.window_records_max, settings.window_bytes_max),
            seats: Vec::new(),
            seat_of: HashMap::new(),
            first: 0,
            tasks: JoinSet::new(),
            under_way: HashSet::new(),
            early: HashMap::new(),
            unsettled: Unsettled::default(),
            recording: true,
            hold: Hold::new(),
            doubtful_until: HashMap::new(),
            shutdown: Shutdown::new(),
            ordered: Ordered::new(dispatcher),
            is_draining: false,
        }
    }

    /// Works until `shutdown`, or until the consumer cannot go on; then drains and leaves the group.
    pub async fn serve(
        mut self,
        mut consumer: Box<dyn Consumer>,
        shutdown: &Shutdown,
    ) -> Result<(), BrokerError> {
        self.shutdown = shutdown.clone();
        // What was withdrawn long ago must not go out now, nor to anybody who wants no more of it.
        tokio::select! {
            () = self.dispatcher.known() => {}
            () = shutdown.cancelled() => {}
        }
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let result = loop {
            let holds = self.holds();
            tokio::select! {
                () = shutdown.cancelled() => break Ok(()),
                signal = consumer.next(), if !holds => match signal {
                    Ok(signal) => self.on_signal(signal),
                    Err(error) => break Err(error),
                },
                Some(done) = self.tasks.join_next() => self.on_done(done),
                () = self.dispatcher.gates.released(self.name) => {}
                () = self.ordered.heard() => self.on_heard(clock::now()),
                _ = tick.tick() => {
                    self.shed_all(clock::now());
                    self.look_after_order(clock::now());
                }
            }
            while let Some(done) = self.tasks.try_join_next() {
                self.on_done(done);
            }
            if shutdown.is_cancelled() {
                break Ok(());
            }
            self.start_sends(clock::now());
        };
        self.drain(consumer).await;
        result
    }

    fn on_signal(&mut self, signal: Signal) {
        match signal {
            Signal::Assigned(assignments) => {
                debug!(lane = %self.name, partitions = assignments.len(), "partitions assigned");
                // Whoever crashed took its last records seconds ago, so the broker's clock may differ from ours by that.
                let until = clock::now();
                let partitions = assignments.iter().map(|assignment| assignment.partition);
                self.doubtful_until
                    .extend(partitions.map(|partition| (partition, until)));
                self.order_assigned(&assignments);
            }
            Signal::Records(batch) => {
                let now = clock::now();
                for (index, consumed) in batch.into_iter().enumerate() {
                    if index % RECORDS_A_TURN == RECORDS_A_TURN - 1 {
                        self.start_sends(now);
                    }
                    self.admit(consumed, now);
                }
            }
            Signal::Revoking(partitions) | Signal::Revoked(partitions) => {
                // Tickets of what has not begun are dropped with it; what is under way is finished and hopped, or
                // refused by the fence.
                let dropped = self
                    .window
                    .drop_where(|pending| partitions.contains(&pending.ticket.partition()));
                self.early
                    .retain(|(partition, _), _| !partitions.contains(partition));
                self.order_revoked(&partitions);
                debug!(lane = %self.name, partitions = partitions.len(), dropped, "partitions go");
            }
            Signal::Read(_) | Signal::AtEnd(_) => {
                debug!(lane = %self.name, "a signal that completion tracking does not give");
            }
        }
    }

    /// Takes a record: sends it at once, lets it wait, or finishes it without a send.
    fn admit(&mut self, consumed: Consumed, now: Millis) {
        let place = (consumed.ticket.partition(), consumed.ticket.offset());
        if self.under_way.contains(&place) {
            // What comes of that task decides whether there is still anything to do.
            self.early.insert(place, consumed);
            return;
        }
        let until = self.doubtful_until.get(&place.0);
        let is_doubtful = until.is_none_or(|until| consumed.record.appended_at <= *until);
        let pending = match Pending::read(consumed, self.dispatcher.broker.prefix(), is_doubtful) {
            Ok(pending) => pending,
            Err(unreadable) => {
                warn!(lane = %self.name, partition = %place.0, offset = place.1, "a record cannot be read; it goes to the dead letters");
                self.dispatcher.metrics.unreadable.one();
                return self.record(*unreadable);
            }
        };
        if pending.wants_place() || pending.work.delivery.order.is_some() {
            self.admit_ordered(pending, now);
        } else {
            self.begin(pending, now);
        }
    }

    /// Sends an event that may go, lets it wait for a place, or finishes it without a send.
    fn begin(&mut self, pending: Box<Pending>, now: Millis) {
        let place = (pending.ticket.partition(), pending.ticket.offset());
        let by = &*self.dispatcher.instance;
        match self.unsettled.settle(place, &pending.work.delivery) {
            Some(Settled::Outcome(output)) => {
                return self.record(Outcome {
                    ticket: pending.ticket,
                    output,
                    notes: Vec::new(),
                });
            }
            Some(Settled::GiveUp(delivery, bytes)) => {
                self.route(&delivery).dead_lettered(ErrorKind::Permanent).one();
                let outcome = pending::too_large(pending.ticket, pending.key, *delivery, bytes, by, now);
                return self.record(outcome);
            }
            None => {}
        }
        if pending.ticket.is_started() {
            return self.record(self.interrupted(pending, now));
        }
        let pending = match self.ends_unsent(pending, now) {
            Ok(outcome) => return self.record(outcome),
            Err(pending) => pending,
        };
        let delivery = &pending.work.delivery;
        let (channel, provider, account) = (delivery.channel, &delivery.provider, &delivery.account);
        let dispatcher = self.dispatcher;
        let resolved = dispatcher
            .accounts
            .resolve(channel, provider.as_deref(), account.as_deref());
        match resolved {
            Ok(account) => {
                let seat = self.seat(account);
                self.seat_or_send(seat, pending, now);
            }
            Err(unroutable) => {
                self.route(delivery).failed(unroutable.failure.kind).one();
                let (provider, account) = (&unroutable.provider, &unroutable.account);
                let outcome = pending.failed(provider, account, unroutable.failure, by, now);
                self.record(outcome);
            }
        }
    }

    fn seat(&mut self, account: &Account) -> usize {
        if let Some(seat) = self.seat_of.get(&account.name) {
            return *seat;
        }
        let seat = self.window.add_account();
        let gate = self.dispatcher.gates.gate(&account.name, account.concurrency_max);
        self.seat_of.insert(account.name.clone(), seat);
        self.seats.push(Seat {
            account: Arc::new(account.clone()),
            gate,
            crowded_since: None,
            is_seen: false,
        });
        seat
    }

    fn seat_or_send(&mut self, seat: usize, pending: Box<Pending>, now: Millis) {
        self.seats[seat].is_seen = true;
        if self.window.waiting(seat) == 0
            && self.may_send()
            && let Some(pass) = self.seats[seat].gate.try_enter(self.name)
        {
            return self.send(seat, pending, pass);
        }
        if self.window.overtakes(seat, &pending) {
            self.hold.overtaken();
        }
        self.window.push(seat, pending);
        self.shed(seat, now);
    }

    /// Whether sends may begin: only while their outcomes can be recorded.
    fn may_send(&self) -> bool {
        self.recording
            && !self.shutdown.is_cancelled()
            && self.recorder.unrecorded.load(Ordering::Relaxed) < self.dispatcher.settings.unrecorded_max
    }

    fn start_sends(&mut self, now: Millis) {
        self.note_recording();
        let seats = self.seats.len();
        for index in 0..seats {
            let seat = (self.first + index) % seats;
            while self.window.waiting(seat) > 0 && self.may_send() {
                let Some(pass) = self.seats[seat].gate.try_enter(self.name) else {
                    break;
                };
                let Some(pending) = self.window.pop(seat) else {
                    break;
                };
                match self.ends_unsent(pending, now) {
                    Ok(outcome) => {
                        drop(pass);
                        self.record(outcome);
                    }
                    Err(pending) => self.send(seat, pending, pass),
                }
            }
        }
        // Whoever is cut off by the bound of unrecorded outcomes is not always the same.
        self.first = self.first.wrapping_add(1) % seats.max(1);
    }

    fn note_recording(&mut self) {
        let recording = self.recorder.hopper.is_recording();
        if recording == self.recording {
            return;
        }
        self.recording = recording;
        if recording {
            info!(lane = %self.name, "outcomes can be recorded again: the {} lane goes on", self.name);
            self.state.well();
        } else {
            warn!(lane = %self.name, "outcomes cannot be recorded: the {} lane starts no new send", self.name);
            self.state
                .ill("outcomes cannot be recorded, no new send starts".to_owned());
        }
    }

    fn send(&mut self, seat: usize, pending: Box<Pending>, pass: Pass) {
        let recorder = Arc::clone(&self.recorder);
        let account = Arc::clone(&self.seats[seat].account);
        let place = (pending.ticket.partition(), pending.ticket.offset());
        self.under_way.insert(place);
        let work = async move { recorder.send(pending, account, pass).await };
        self.finish(place, work);
    }

    fn record(&mut self, outcome: Outcome) {
        self.record_counted(outcome, None);
    }

    /// Records an outcome; one of an event with a place in an order says what becomes of the order too.
    fn record_counted(&mut self, outcome: Outcome, counted: Option<Unrecorded>) {
        let Some((mut outcome, counted)) = self.hold_back(outcome, counted) else {
            return;
        };
        let recorder = Arc::clone(&self.recorder);
        let place = (outcome.ticket.partition(), outcome.ticket.offset());
        self.under_way.insert(place);
        self.say_of_order(place, &mut outcome);
        let work = async move {
            let ended = recorder.record(outcome).await;
            drop(counted);
            ended
        };
        self.finish(place, work);
    }

    fn finish(&mut self, place: Place, work: impl Future<Output = Ended> + Send + 'static) {
        // In a box, since a task's own future is copied whole several times.
        self.tasks
            .spawn(Box::pin(finishing(place, work).map(Done::Finished)));
    }

    fn on_done(&mut self, done: Result<Done, JoinError>) {
        // A task ends without a word only when it is aborted, which is the end of this membership.
        let Ok(done) = done else {
            return;
        };
        let Finished { place, ended } = match done {
            Done::Finished(finished) => finished,
            Done::Said(said) => return self.on_said(said, clock::now()),
        };
        let became = match ended {
            Ended::Answered(outcome, counted) => return self.record_counted(outcome, Some(counted)),
            Ended::Recorded => Became::Recorded,
            Ended::Refused(refused) => {
                self.unsettled.keep(place, refused);
                Became::GivenBack
            }
            Ended::GivenBack => Became::GivenBack,
        };
        self.under_way.remove(&place);
        let key = self.order_ended(place, became);
        if let Some(consumed) = self.early.remove(&place) {
            self.admit(consumed, clock::now());
        }
        if let Some(key) = key {
            self.go_on(&key, clock::now());
        }
    }

    /// Finishes what is under way, gives the rest back, and leaves the group.
    async fn drain(mut self, consumer: Box<dyn Consumer>) {
        self.is_draining = true;
        let waiting = self.window.drop_where(|_| true);
        self.early.clear();
        self.ordered.leave(&self.dispatcher.keys);
        debug!(lane = %self.name, waiting, under_way = self.tasks.len(), "the {} lane stops", self.name);
        let drain = Duration::from_millis(self.dispatcher.settings.drain_ms);
        let finish = async {
            let all = async {
                while let Some(done) = self.tasks.join_next().await {
                    self.on_done(done);
                }
            };
            if timeout(drain, all).await.is_err() {
                warn!(
                    lane = %self.name, under_way = self.tasks.len(),
                    "sends did not end within the drain time; whoever takes over repeats them"
                );
                self.tasks.abort_all();
            }
        };
        // The group is left when the last ticket is spent or dropped, so both go on together.
        if timeout(drain * 2, async { tokio::join!(finish, consumer.close()) })
            .await
            .is_err()
        {
            warn!(lane = %self.name, "the consumer did not close in time");
        }
    }
}
