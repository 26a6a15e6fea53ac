//! A lane and the events with an ordering key: what waits for its turn, and what the lane says of keys in its hops.

mod saying;
mod takeover;

use std::{collections::HashMap, sync::Arc, time::Duration};

use posthaste_broker::{Assignment, HopError, Partition};
use posthaste_event::{
    Millis, Topic, clock,
    delivery::Order,
    keys::{KeyState, OrderKey, Part},
};
use serde_json::Map;
use tokio::time::Instant;

use super::{Done, Lane};
use crate::{
    Dispatcher, Settings,
    order::{
        first::{self, First, Step},
        keys::{Keys, Listener},
        turns::{self, Turns, Verdict},
        view::Spot,
        wait::Between,
    },
    pending::{Outcome, Pending, note},
    send::Unrecorded,
    unsettled::Place,
};

/// Part of the lane's window that may wait for turns: one in so many.
const WINDOW_SHARE: usize = 4;
/// Part of the time after which an event counts as lost sight of that it may wait in memory: one in so many.
const STALL_SHARE: u64 = 4;
/// Bytes of one key's events that wait in memory; they are parked in one hop.
const KEY_BYTES_MAX: usize = 1 << 20;
/// Places that one hop forgets.
const FORGOTTEN_MAX: usize = 500;

/// What a lane holds of ordering keys.
pub struct Ordered {
    listener: Arc<Listener>,
    first: First<Box<Pending>>,
    turns: Turns<Box<Pending>>,
    /// The events that have their turn and are in the lane's hands.
    places: HashMap<Place, Turn>,
    /// The partitions of first attempts that are ours.
    partitions: HashMap<Partition, Owned>,
    /// What was asked for, to know that all that was said of keys before is known.
    barrier: Option<(String, Vec<Assignment>)>,
    /// Outcomes that wait until a hop of the same key is over; see [`First::may_end`].
    held_back: HashMap<OrderKey, (Outcome, Option<Unrecorded>)>,
    /// Records for which not even the parked form is small enough, with their bytes.
    too_large: HashMap<Place, usize>,
}

/// An event that has its turn.
struct Turn {
    key: OrderKey,
    seq: u64,
    nth: u64,
    is_first: bool,
    is_final: bool,
    /// What its hop says of the key.
    said: Option<KeyState>,
}

struct Owned {
    assignment: Assignment,
    /// Everything that was said of its keys before it was ours is known.
    is_synced: bool,
    /// What came before that.
    #[expect(clippy::vec_box, reason = "they move on as they are")]
    early: Vec<Box<Pending>>,
}

/// How a record's finishing ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Became {
    /// Its outcome is durable.
    Recorded,
    /// Its record comes again, if it is still ours.
    GivenBack,
}

/// What was said of keys, and how that ended.
pub enum Said {
    /// Events were parked.
    Parked {
        key: OrderKey,
        items: Vec<(u64, Place)>,
        result: Result<(), HopError>,
    },
    /// What was written down of a key was forgotten.
    Forgot {
        key: OrderKey,
        parts: Vec<Part>,
        is_all: bool,
        done: bool,
    },
    /// A barrier was written.
    Barrier { name: String, done: bool },
}

impl Ordered {
    /// Nothing yet.
    pub fn new(dispatcher: &Dispatcher) -> Self {
        let settings = &dispatcher.settings;
        let records_max = settings.window_records_max / WINDOW_SHARE;
        let bytes_max = settings.window_bytes_max / WINDOW_SHARE;
        let wait_ms_max = settings.stall_ms / STALL_SHARE;
        Self {
            listener: dispatcher.keys.listen(),
            first: First::new(first::Bounds {
                key_records_max: settings.key_records_max,
                key_bytes_max: KEY_BYTES_MAX,
                records_max,
                bytes_max,
                wait_max: Duration::from_millis(wait_ms_max),
            }),
            turns: Turns::new(turns::Bounds {
                records_max,
                bytes_max,
                wait_ms_max: Millis::try_from(wait_ms_max).unwrap_or(Millis::MAX),
                between: between(settings),
            }),
            places: HashMap::new(),
            partitions: HashMap::new(),
            barrier: None,
            held_back: HashMap::new(),
            too_large: HashMap::new(),
        }
    }

    /// Waits until something is heard of keys.
    pub async fn heard(&self) {
        self.listener.wait().await;
    }

    /// Gives back what waits, and hears no more.
    pub fn leave(&mut self, keys: &Keys) {
        keys.leave(&self.listener);
        let partitions: Vec<Partition> = self.partitions.drain().map(|(partition, _)| partition).collect();
        for partition in partitions {
            self.first.revoked(partition);
        }
        self.turns.drop_where(|_| true);
    }
}

impl Lane<'_> {
    /// These partitions go. Those of their events that had their turn and did not begin went with the window.
    pub(super) fn order_revoked(&mut self, partitions: &[Partition]) {
        let went = self.ordered.places.keys().copied();
        let went: Vec<Place> = went
            .filter(|place| partitions.contains(&place.0) && !self.under_way.contains(place))
            .collect();
        for place in went {
            self.order_ended(place, Became::GivenBack);
        }
        for partition in partitions {
            self.ordered.partitions.remove(partition);
            self.ordered.first.revoked(*partition);
        }
        self.ordered
            .turns
            .drop_where(|pending| partitions.contains(&pending.ticket.partition()));
        self.ordered
            .too_large
            .retain(|(partition, _), _| !partitions.contains(partition));
    }

    /// Takes in an event with an ordering key.
    pub(super) fn admit_ordered(&mut self, pending: Box<Pending>, now: Millis) {
        if self.is_draining {
            return;
        }
        let partition = pending.ticket.partition();
        if is_first(partition.topic) {
            let Some(owned) = self.ordered.partitions.get_mut(&partition) else {
                return;
            };
            if owned.is_synced {
                self.place_first(pending, now);
            } else {
                owned.early.push(pending);
            }
            return;
        }
        let delivery = &pending.work.delivery;
        let (Some(order), Some(key)) = (&delivery.order, OrderKey::of(delivery)) else {
            // It was replayed: those behind it have gone on, and it goes by itself.
            return self.begin(pending, now);
        };
        if pending.ticket.is_started() || self.unsettled.had_turn(pending.place(), delivery) {
            // It had its turn, whatever the view has heard of that yet; only what came of it must be recorded.
            return self.take_turn(key, pending, now);
        }
        let place = turns::Place {
            seq: order.seq,
            after: order.after,
            nth: order.nth,
        };
        let known = self.dispatcher.keys.known(&key);
        let bytes = pending.bytes;
        match self
            .ordered
            .turns
            .admit(&key, place, (bytes, pending), known, now)
        {
            Verdict::Go(pending) => self.take_turn(key, pending, now),
            Verdict::Waits => {}
            Verdict::PutOff(pending, due) => self.wait_for_turn(pending, due, now),
        }
    }

    fn place_first(&mut self, pending: Box<Pending>, now: Millis) {
        let (partition, offset) = (pending.ticket.partition(), pending.ticket.offset());
        let key = OrderKey {
            key: String::from_utf8_lossy(&pending.key).into_owned(),
            critical: pending.work.delivery.priority.is_critical(),
        };
        let seq = u64::try_from(offset).unwrap_or(0);
        let bytes = pending.bytes;
        self.ordered
            .first
            .admit(&key, partition, seq, (bytes, pending), Instant::now());
        self.go_on(&key, now);
    }

    /// Lets go what may of a key.
    pub(super) fn go_on(&mut self, key: &OrderKey, now: Millis) {
        if self.is_draining {
            return;
        }
        let known = self.dispatcher.keys.known(key);
        let reached = known.reached.map(|spot| spot.seq);
        while let Some(partition) = self.ordered.first.partition(key)
            && let Some(owned) = self.ordered.partitions.get(&partition)
            && owned.is_synced
        {
            let epoch = owned.assignment.epoch;
            match self.ordered.first.next(key, reached, epoch, Instant::now()) {
                Some(Step::Go(spot, pending)) => self.go_first(key, spot, pending, now),
                Some(Step::Park(after, items)) => self.park_behind(key, after, items, known, now),
                Some(Step::Forget) => self.forget(key),
                None => break,
            }
        }
        while let Some(pending) = self.ordered.turns.next(key, known, now) {
            self.take_turn(key.clone(), pending, now);
        }
    }

    fn go_first(&mut self, key: &OrderKey, spot: Spot, mut pending: Box<Pending>, now: Millis) {
        pending.work.delivery.order = Some(order(key, spot, None));
        let turn = Turn {
            key: key.clone(),
            seq: spot.seq,
            nth: spot.nth,
            is_first: true,
            is_final: false,
            said: None,
        };
        self.ordered.places.insert(pending.place(), turn);
        self.begin(pending, now);
    }

    fn take_turn(&mut self, key: OrderKey, mut pending: Box<Pending>, now: Millis) {
        pending.work.delivery.take_turn();
        let order = pending.work.delivery.order.as_ref();
        let turn = Turn {
            key,
            seq: order.map_or(0, |order| order.seq),
            nth: order.map_or(0, |order| order.nth),
            is_first: false,
            is_final: false,
            said: None,
        };
        self.ordered.places.insert(pending.place(), turn);
        self.begin(pending, now);
    }

    /// Puts off an event that came back before its turn.
    fn wait_for_turn(&mut self, pending: Box<Pending>, due: Millis, now: Millis) {
        let outcome = self.ends_unsent(pending, now).unwrap_or_else(|pending| {
            self.route(&pending.work.delivery).parked.one();
            pending.waits_for_turn(due, &self.dispatcher.instance, now)
        });
        self.record(outcome);
    }

    /// Keeps an outcome that cannot be recorded yet. Answers it if it can.
    pub(super) fn hold_back(
        &mut self,
        outcome: Outcome,
        counted: Option<Unrecorded>,
    ) -> Option<(Outcome, Option<Unrecorded>)> {
        let place = (outcome.ticket.partition(), outcome.ticket.offset());
        let Some(turn) = self.ordered.places.get(&place).filter(|turn| turn.is_first) else {
            return Some((outcome, counted));
        };
        if self.ordered.first.may_end(&turn.key) {
            return Some((outcome, counted));
        }
        self.under_way.insert(place);
        self.ordered
            .held_back
            .insert(turn.key.clone(), (outcome, counted));
        None
    }

    /// Adds to an outcome what becomes of the order with it.
    pub(super) fn say_of_order(&mut self, place: Place, outcome: &mut Outcome) {
        let Some(turn) = self.ordered.places.get_mut(&place) else {
            return;
        };
        turn.is_final = outcome.is_final();
        turn.said = if turn.is_first {
            let owned = self.ordered.partitions.get(&place.0);
            let epoch = owned.map_or_else(|| outcome.ticket.epoch(), |owned| owned.assignment.epoch);
            let tail = self.dispatcher.keys.look(|view| view.tail(&turn.key));
            self.ordered.first.ending(&turn.key, turn.is_final, epoch, tail)
        } else {
            turn.is_final.then_some(KeyState::Done {
                seq: turn.seq,
                nth: turn.nth,
            })
        };
        let said = turn.said.map(|state| note(turn.key.record(state)));
        outcome.notes.extend(said);
    }

    /// The finishing of a record ended; answers its key, of which others may go now.
    pub(super) fn order_ended(&mut self, place: Place, became: Became) -> Option<OrderKey> {
        let turn = self.ordered.places.remove(&place)?;
        let how = match became {
            Became::GivenBack => first::Ended::Back,
            Became::Recorded if turn.is_final => first::Ended::Final,
            Became::Recorded => first::Ended::Left,
        };
        if became == Became::Recorded
            && let Some(state) = turn.said
        {
            self.dispatcher.keys.note(&turn.key, state.part(), Some(state));
        }
        if turn.is_first {
            self.ordered.first.ended(&turn.key, how, Instant::now());
        } else {
            let is_final = how == first::Ended::Final;
            self.ordered
                .turns
                .ended(&turn.key, turn.seq, is_final, clock::now());
        }
        Some(turn.key)
    }

    /// Looks at what was heard of keys.
    pub(super) fn on_heard(&mut self, now: Millis) {
        let heard = self.ordered.listener.take();
        if heard.lost {
            self.ordered.barrier = None;
        }
        for name in heard.passed {
            self.on_barrier(&name, now);
        }
        for key in heard.changed {
            self.go_on(&key, now);
        }
        self.ask_for_barrier();
    }

    /// What nobody tells: events in memory whose predecessor has left, records that never came again.
    pub(super) fn look_after_order(&mut self, now: Millis) {
        let keys = Arc::clone(&self.dispatcher.keys);
        let put_off = self.ordered.turns.look(now, |key| keys.known(key));
        for (pending, due) in put_off {
            self.wait_for_turn(pending, due, now);
        }
        for key in self.ordered.first.unheard(Instant::now()) {
            self.go_on(&key, now);
        }
        self.ask_for_barrier();
    }
}

const fn is_first(topic: Topic) -> bool {
    matches!(topic, Topic::Default | Topic::Critical)
}

fn between(settings: &Settings) -> Between {
    Between {
        ms_min: settings.park_ms_min,
        ms_max: settings.park_ms_max,
        near: settings.key_records_max as u64,
    }
}

fn order(key: &OrderKey, Spot { seq, nth }: Spot, after: Option<u64>) -> Order {
    Order {
        key: key.key.clone(),
        seq,
        after,
        nth,
        unknown: Map::new(),
    }
}
