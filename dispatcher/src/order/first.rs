//! The order of first attempts: gives each event with an ordering key its place, and lets one of a key go at a time. Pure.
//!
//! An event's place is its offset. While the one before it is in the lane's hands it waits in memory; when that one leaves
//! unsent (failed, put off), or memory is scarce, or it takes long, those behind it are parked, all in one hop, each naming the place before its
//! own. From then on the key is open and whatever comes is parked too, until the last of them is done.
//!
//! What keeps this right over crashes: when a key has parked events, the lane holds at most one event from before
//! them, and that one has its turn. So an event below the key's tail, read again by whoever takes over, simply goes; and
//! only one hop that moves the tail is under way at a time.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    time::Duration,
};

use posthaste_broker::Partition;
use posthaste_event::{
    Millis,
    keys::{KeyState, OrderKey},
};
use tokio::time::Instant;

use super::{view::Spot, wait::Queueing};

/// How long a record that was given back is waited for. It comes again at once, unless somebody else has finished it.
const AWAITED_MAX: Duration = Duration::from_secs(30);

/// Bounds of what waits in memory.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Events of one key.
    pub key_records_max: usize,
    /// Their bytes.
    pub key_bytes_max: usize,
    /// Events of all keys; past this each further one is parked.
    pub records_max: usize,
    /// Their bytes.
    pub bytes_max: usize,
    /// Longest wait behind one that is in the lane's hands.
    pub wait_max: Duration,
}

/// An event that waits behind another.
#[derive(Debug)]
struct Queued<T> {
    seq: u64,
    bytes: usize,
    since: Instant,
    item: T,
}

/// What to do next for a key.
#[derive(Debug, PartialEq, Eq)]
pub enum Step<T> {
    /// This one has its turn.
    Go(Spot, T),
    /// Park these, in one hop that also says the new tail; the first comes after this place. Then call [`First::parked`].
    Park(u64, Vec<(Spot, T)>),
    /// Nothing waits any more: forget what is written down of it. Then call [`First::forgotten`].
    Forget,
}

/// What became of an event that had its turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It is final.
    Final,
    /// It left the lane and will come back in the other.
    Left,
    /// Nothing was recorded; its record comes again.
    Back,
}

/// How a hop that parks ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parked {
    /// It is durable.
    Durable,
    /// It was refused.
    Refused,
    /// One of its records is larger than the broker takes.
    TooLarge,
}

#[derive(Debug, Clone, Copy)]
struct Head {
    spot: Spot,
    epoch: u64,
    /// What is being recorded of it cannot be added to.
    ending: bool,
    /// It is said to be done, for others to see.
    said: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hopping {
    /// The tail it brings.
    Parks(Spot),
    Forgets,
}

#[derive(Debug)]
struct State<T> {
    partition: Partition,
    /// The last place that left the lane, as far as it is durable.
    tail: Option<Spot>,
    /// Every place up to this one is done; kept, since a view that is read anew knows less.
    reached: Option<u64>,
    head: Option<Head>,
    queue: VecDeque<Queued<T>>,
    bytes: usize,
    hopping: Option<Hopping>,
    /// Given back, and not here again: nothing behind them may go.
    awaited: BTreeMap<u64, Instant>,
    /// The partition went away.
    lost: bool,
    /// A hop of several was too large for the broker: one at a time.
    one_by_one: bool,
    /// Forgetting was refused.
    forget_again: bool,
    queueing: Option<Queueing>,
}

impl<T> State<T> {
    fn new(partition: Partition, tail: Option<Spot>) -> Self {
        Self {
            partition,
            tail,
            reached: None,
            head: None,
            queue: VecDeque::new(),
            bytes: 0,
            hopping: None,
            awaited: BTreeMap::new(),
            lost: false,
            one_by_one: false,
            forget_again: false,
            queueing: None,
        }
    }

    /// Whether the first of those that wait has waited too long.
    fn is_late(&self, bounds: Bounds, now: Instant) -> bool {
        let front = self.queue.front();
        front.is_some_and(|queued| now.duration_since(queued.since) > bounds.wait_max)
    }

    fn is_idle(&self) -> bool {
        self.head.is_none() && self.queue.is_empty() && self.hopping.is_none() && self.awaited.is_empty()
    }
}

/// The keys that have something in the lane's hands, or are open.
#[derive(Debug)]
pub struct First<T> {
    bounds: Bounds,
    states: HashMap<OrderKey, State<T>>,
    records: usize,
    bytes: usize,
}

impl<T> First<T> {
    /// Nothing yet.
    pub fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            states: HashMap::new(),
            records: 0,
            bytes: 0,
        }
    }

    /// A partition is ours, and these of its keys are open, with their tails.
    pub fn synced(&mut self, partition: Partition, open: Vec<(OrderKey, Spot)>) {
        for state in self
            .states
            .values_mut()
            .filter(|state| state.partition == partition)
        {
            // Still in our hands since before the partition went away.
            state.tail = None;
            state.lost = false;
        }
        for (key, tail) in open {
            let state = self
                .states
                .entry(key)
                .or_insert_with(|| State::new(partition, None));
            state.tail = Some(tail);
        }
    }

    /// A partition goes away: those that wait are dropped, what is being sent or recorded is finished.
    pub fn revoked(&mut self, partition: Partition) {
        let (records, bytes) = (&mut self.records, &mut self.bytes);
        self.states.retain(|_, state| {
            if state.partition != partition {
                return true;
            }
            *records -= state.queue.len();
            *bytes -= state.bytes;
            (state.bytes, state.lost) = (0, true);
            state.queue.clear();
            state.awaited.clear();
            state.head.is_some() || state.hopping.is_some()
        });
    }

    /// An event was read. Call [`Self::next`] until it has nothing more.
    pub fn admit(
        &mut self,
        key: &OrderKey,
        partition: Partition,
        seq: u64,
        (bytes, item): (usize, T),
        now: Instant,
    ) {
        let state = match self.states.get_mut(key) {
            Some(state) => state,
            None => self
                .states
                .entry(key.clone())
                .or_insert_with(|| State::new(partition, None)),
        };
        state.awaited.remove(&seq);
        let at = state.queue.partition_point(|queued| queued.seq < seq);
        let queued = Queued {
            seq,
            bytes,
            since: now,
            item,
        };
        state.queue.insert(at, queued);
        state.bytes += bytes;
        self.records += 1;
        self.bytes += bytes;
    }

    /// What to do for a key now. `reached`: every place up to this one is known to be done. `epoch`: of the partition's
    /// assignment.
    pub fn next(
        &mut self,
        key: &OrderKey,
        reached: Option<u64>,
        epoch: u64,
        now: Instant,
    ) -> Option<Step<T>> {
        let is_full = self.records > self.bounds.records_max || self.bytes > self.bounds.bytes_max;
        let bounds = self.bounds;
        let state = self.states.get_mut(key)?;
        if state.lost || state.hopping.is_some() {
            return None;
        }
        state
            .awaited
            .retain(|_, since| now.duration_since(*since) < AWAITED_MAX);
        let front = state.queue.front().map(|queued| queued.seq);
        if state
            .awaited
            .keys()
            .next()
            .is_some_and(|seq| front.is_none_or(|front| *seq < front))
        {
            return None;
        }
        state.reached = state.reached.max(reached);
        let is_open = state
            .tail
            .is_some_and(|tail| state.reached.is_none_or(|reached| reached < tail.seq));
        if let Some(head) = state.head {
            let too_many =
                is_full || state.queue.len() > bounds.key_records_max || state.bytes > bounds.key_bytes_max;
            if head.ending || front.is_none() || !(too_many || is_open || state.is_late(bounds, now)) {
                return None;
            }
            return Some(self.park(key, Some(head.spot)));
        }
        match front {
            None if is_open => None,
            None if state.tail.is_some() => {
                state.hopping = Some(Hopping::Forgets);
                Some(Step::Forget)
            }
            None => {
                self.states.remove(key);
                None
            }
            // Below the tail there is only the one that had its turn when its holder died.
            Some(front) if is_open && state.tail.is_some_and(|tail| front > tail.seq) => {
                Some(self.park(key, None))
            }
            Some(_) => {
                let queued = state.queue.pop_front()?;
                state.bytes -= queued.bytes;
                self.records -= 1;
                self.bytes -= queued.bytes;
                let spot = Spot {
                    seq: queued.seq,
                    nth: state.tail.map_or(0, |tail| tail.nth).saturating_add(1),
                };
                state.head = Some(Head {
                    spot,
                    epoch,
                    ending: false,
                    said: false,
                });
                Some(Step::Go(spot, queued.item))
            }
        }
    }

    /// Those that wait come after the tail, or after the `head` that is still in the lane's hands.
    fn park(&mut self, key: &OrderKey, head: Option<Spot>) -> Step<T> {
        let Some(state) = self.states.get_mut(key) else {
            return Step::Park(0, Vec::new());
        };
        let after = state.tail.max(head).unwrap_or(Spot { seq: 0, nth: 0 });
        let mut last = after;
        let count = if state.one_by_one { 1 } else { state.queue.len() };
        let mut items = Vec::with_capacity(count);
        for queued in state.queue.drain(..count) {
            self.records -= 1;
            self.bytes -= queued.bytes;
            state.bytes -= queued.bytes;
            last = Spot {
                seq: queued.seq,
                nth: last.nth.saturating_add(1),
            };
            items.push((last, queued.item));
        }
        state.one_by_one &= !state.queue.is_empty();
        state.hopping = Some(Hopping::Parks(last));
        Step::Park(after.seq, items)
    }

    /// Whether the outcome of the event that had its turn may be recorded now. While a hop that parks those behind it is under
    /// way, nobody knows whether they will wait for it: ask again when that is over. Nothing more is parked until then.
    pub fn may_end(&mut self, key: &OrderKey) -> bool {
        let Some(state) = self.states.get_mut(key) else {
            return true;
        };
        if let Some(head) = &mut state.head {
            head.ending = true;
        }
        state.hopping.is_none()
    }

    /// What is about to be recorded of the event that had its turn; answers what else must be said in that hop.
    pub fn ending(
        &mut self,
        key: &OrderKey,
        is_final: bool,
        epoch: u64,
        tail_seen: Option<Spot>,
    ) -> Option<KeyState> {
        let state = self.states.get_mut(key)?;
        let tail = state.tail;
        let head = state.head.as_mut()?;
        head.ending = true;
        // Another may have had the partition in between, and parked something behind this event.
        let is_late = head.epoch != epoch;
        let tail = if is_late { tail.max(tail_seen) } else { tail };
        let Spot { seq, nth } = head.spot;
        let is_behind = tail.is_none_or(|tail| tail.seq <= seq);
        if is_final {
            head.said = is_late || !is_behind;
            head.said.then_some(KeyState::Done { seq, nth })
        } else {
            (tail.is_none_or(|tail| tail.seq < seq)).then_some(KeyState::Tail {
                seq,
                partition: state.partition.number,
                nth,
            })
        }
    }

    /// The event that had its turn was recorded, or was not. Call [`Self::next`] afterwards.
    pub fn ended(&mut self, key: &OrderKey, how: Ended, now: Instant) {
        let Some(state) = self.states.get_mut(key) else {
            return;
        };
        let Some(head) = state.head.take() else {
            return;
        };
        match how {
            // So that what was said is forgotten again.
            Ended::Final if head.said => state.tail = state.tail.max(Some(head.spot)),
            Ended::Final => {}
            Ended::Left => state.tail = state.tail.max(Some(head.spot)),
            Ended::Back if state.lost => {}
            Ended::Back => {
                state.awaited.insert(head.spot.seq, now);
            }
        }
        self.tidy(key);
    }

    /// The hop that parked these places is durable, or was refused: then they come again.
    pub fn parked(&mut self, key: &OrderKey, seqs: &[u64], how: Parked, now: Instant) {
        let Some(state) = self.states.get_mut(key) else {
            return;
        };
        if let Some(Hopping::Parks(last)) = state.hopping.take() {
            if how == Parked::Durable {
                state.tail = state.tail.max(Some(last));
            } else if !state.lost {
                state.awaited.extend(seqs.iter().map(|seq| (*seq, now)));
            }
            state.one_by_one |= how == Parked::TooLarge;
        }
        self.tidy(key);
    }

    /// What was written down of a key is forgotten; `all` of it, or there is more, or it was refused and is tried again.
    pub fn forgotten(&mut self, key: &OrderKey, all: bool) {
        let Some(state) = self.states.get_mut(key) else {
            return;
        };
        state.hopping = None;
        state.forget_again = !all;
        if all {
            state.tail = None;
        }
        self.tidy(key);
    }

    fn tidy(&mut self, key: &OrderKey) {
        if let Some(state) = self.states.get(key)
            && state.is_idle()
            && (state.lost || state.tail.is_none())
        {
            self.states.remove(key);
        }
    }

    /// How a key's events follow each other.
    pub fn queueing(&mut self, key: &OrderKey, now: Millis) -> Option<&mut Queueing> {
        let state = self.states.get_mut(key)?;
        Some(state.queueing.get_or_insert_with(|| Queueing::new(now)))
    }

    /// Where a key's events are.
    pub fn partition(&self, key: &OrderKey) -> Option<Partition> {
        self.states.get(key).map(|state| state.partition)
    }

    /// The keys that nothing will be heard of: they wait for a record which may never come, to be forgotten, or too long.
    pub fn unheard(&self, now: Instant) -> Vec<OrderKey> {
        let unheard = self.states.iter();
        unheard
            .filter(|(_, state)| {
                state.forget_again || !state.awaited.is_empty() || state.is_late(self.bounds, now)
            })
            .map(|(key, _)| key.clone())
            .collect()
    }

    /// Events that wait in memory.
    #[cfg(test)]
    pub const fn len(&self) -> usize {
        self.records
    }
}
