//! The order of what comes back: an event with an ordering key goes when the place before its own is done. Pure.
//!
//! Those that come while the one before them is in the lane's hands, or must soon be, wait in memory, a bounded number, so that
//! a key's events follow each other closely. All others are put off, in the wheel.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use posthaste_event::{Millis, keys::OrderKey};

use super::{
    view::Known,
    wait::{Between, Queueing},
};

/// Bounds of what waits in memory.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Events of all keys.
    pub records_max: usize,
    /// Their bytes.
    pub bytes_max: usize,
    /// Longest wait in memory, in milliseconds.
    pub wait_ms_max: Millis,
    /// Of one that is put off; and events of one key.
    pub between: Between,
}

/// What becomes of an event that came back.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict<T> {
    /// It has its turn. Call [`Turns::ended`] when it is over.
    Go(T),
    /// It waits in memory for the one before it.
    Waits,
    /// This one is put off until then: itself, or a later one for which there is no room any more.
    PutOff(T, Millis),
}

/// An event's place.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// Its place.
    pub seq: u64,
    /// The place before it; `None` when it has its turn.
    pub after: Option<u64>,
    /// See [`Spot::nth`](super::view::Spot::nth).
    pub nth: u64,
}

#[derive(Debug)]
struct Held<T> {
    place: Place,
    bytes: usize,
    since: Millis,
    item: T,
}

#[derive(Debug)]
struct State<T> {
    /// Those that have their turn and are in the lane's hands.
    running: BTreeSet<u64>,
    held: BTreeMap<u64, Held<T>>,
    queueing: Queueing,
    /// When something of it was last seen here.
    seen_at: Millis,
}

/// The keys of which something came back.
#[derive(Debug)]
pub struct Turns<T> {
    bounds: Bounds,
    states: HashMap<OrderKey, State<T>>,
    records: usize,
    bytes: usize,
}

/// How long events wait in memory for one that is not in the lane's hands, in milliseconds.
const NEAR_MS: Millis = 2_000;
/// How long the books of a key are kept that nothing is seen of, in milliseconds.
const KEPT_MS: Millis = 60_000;

impl<T> Turns<T> {
    /// Nothing yet.
    pub fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            states: HashMap::new(),
            records: 0,
            bytes: 0,
        }
    }

    /// An event came back.
    pub fn admit(
        &mut self,
        key: &OrderKey,
        place: Place,
        (bytes, item): (usize, T),
        known: Known,
        now: Millis,
    ) -> Verdict<T> {
        let state = match self.states.get_mut(key) {
            Some(state) => state,
            None => self.states.entry(key.clone()).or_insert_with(|| State {
                running: BTreeSet::new(),
                held: BTreeMap::new(),
                queueing: Queueing::new(now),
                seen_at: now,
            }),
        };
        state.seen_at = now;
        state.queueing.see(known.reached, now);
        if is_next(place, state.queueing.reached()) {
            state.running.insert(place.seq);
            state.queueing.goes(now);
            return Verdict::Go(item);
        }
        let between = self.bounds.between;
        let is_near = state.queueing.ahead(place.nth) <= between.near
            && (!state.running.is_empty() || state.is_moving(known.until, now));
        let has_room = (state.held.len() as u64) < between.near
            && self.records < self.bounds.records_max
            && self.bytes.saturating_add(bytes) <= self.bounds.bytes_max;
        if is_near && has_room {
            self.records += 1;
            self.bytes += bytes;
            state.hold(place, (bytes, item), now);
            return Verdict::Waits;
        }
        // The first ones stay.
        let (nth, item) = match state.held.last_entry() {
            Some(last) if is_near && *last.key() > place.seq && last.get().bytes >= bytes => {
                let last = last.remove();
                self.bytes = self.bytes - last.bytes + bytes;
                state.hold(place, (bytes, item), now);
                (last.place.nth, last.item)
            }
            _ => (place.nth, item),
        };
        let due = state.queueing.put_off(known, nth, between, now);
        Verdict::PutOff(item, due)
    }

    /// Takes out one that waits in memory and has its turn now.
    pub fn next(&mut self, key: &OrderKey, known: Known, now: Millis) -> Option<T> {
        let state = self.states.get_mut(key)?;
        state.queueing.see(known.reached, now);
        let entry = state.held.first_entry()?;
        if !is_next(entry.get().place, state.queueing.reached()) {
            return None;
        }
        let held = entry.remove();
        self.records -= 1;
        self.bytes -= held.bytes;
        state.seen_at = now;
        state.running.insert(held.place.seq);
        state.queueing.goes(now);
        Some(held.item)
    }

    /// One that had its turn is no longer in the lane's hands.
    pub fn ended(&mut self, key: &OrderKey, seq: u64, is_final: bool, now: Millis) {
        if let Some(state) = self.states.get_mut(key)
            && state.running.remove(&seq)
        {
            state.queueing.ended(is_final, now);
        }
    }

    /// Takes out those that wait in memory for nothing that is in the lane's hands, or too long, with the times until which
    /// they are put off. Also forgets keys of which nothing is seen any more.
    pub fn look(&mut self, now: Millis, known: impl Fn(&OrderKey) -> Known) -> Vec<(T, Millis)> {
        let (records, bytes, bounds) = (&mut self.records, &mut self.bytes, self.bounds);
        let mut put_off = Vec::new();
        self.states.retain(|key, state| {
            if let Some(first) = state.held.values().next().map(|held| held.place) {
                let known = known(key);
                state.queueing.see(known.reached, now);
                let is_late = |held: &Held<T>| now.saturating_sub(held.since) > bounds.wait_ms_max;
                let waits_for_none = state.running.is_empty()
                    && !is_next(first, state.queueing.reached())
                    && !state.is_moving(known.until, now);
                if waits_for_none || state.held.values().any(is_late) {
                    for held in std::mem::take(&mut state.held).into_values() {
                        *records -= 1;
                        *bytes -= held.bytes;
                        let due = state.queueing.put_off(known, held.place.nth, bounds.between, now);
                        put_off.push((held.item, due));
                    }
                }
            }
            !state.running.is_empty() || !state.held.is_empty() || now.saturating_sub(state.seen_at) < KEPT_MS
        });
        put_off
    }

    /// Drops those in memory that `gone` names.
    pub fn drop_where(&mut self, gone: impl Fn(&T) -> bool) {
        let (records, bytes) = (&mut self.records, &mut self.bytes);
        for state in self.states.values_mut() {
            state.held.retain(|_, held| {
                let goes = gone(&held.item);
                if goes {
                    *records -= 1;
                    *bytes -= held.bytes;
                }
                !goes
            });
        }
    }

    /// The keys with something in memory.
    #[cfg(test)]
    pub fn waiting(&self) -> Vec<OrderKey> {
        let waiting = self.states.iter().filter(|(_, state)| !state.held.is_empty());
        waiting.map(|(key, _)| key.clone()).collect()
    }

    /// Events that wait in memory.
    #[cfg(test)]
    pub const fn len(&self) -> usize {
        self.records
    }
}

impl<T> State<T> {
    /// Whether the one whose turn it is must soon be here.
    fn is_moving(&self, until: Option<Millis>, now: Millis) -> bool {
        until.is_none_or(|until| until <= now) && self.queueing.stuck_ms(until, now) < NEAR_MS
    }

    fn hold(&mut self, place: Place, (bytes, item): (usize, T), now: Millis) {
        let held = Held {
            place,
            bytes,
            since: now,
            item,
        };
        self.held.insert(place.seq, held);
    }
}

fn is_next(place: Place, reached: Option<u64>) -> bool {
    place
        .after
        .is_none_or(|after| reached.is_some_and(|reached| reached >= after))
}

#[cfg(test)]
mod tests {
    use super::{super::view::Spot, *};

    const NOW: Millis = 1_700_000_000_000;
    const BOUNDS: Bounds = Bounds {
        records_max: 5,
        bytes_max: 1_000,
        wait_ms_max: 30_000,
        between: Between {
            ms_min: 1_000,
            ms_max: 900_000,
            near: 3,
        },
    };

    fn key(text: &str) -> OrderKey {
        OrderKey {
            key: text.to_owned(),
            critical: false,
        }
    }

    fn place(seq: u64, after: Option<u64>) -> Place {
        Place { seq, after, nth: seq }
    }

    fn known(reached: Option<u64>, until: Option<Millis>) -> Known {
        Known {
            reached: reached.map(|seq| Spot { seq, nth: seq }),
            until,
        }
    }

    fn admit(
        turns: &mut Turns<u64>,
        text: &str,
        seq: u64,
        after: Option<u64>,
        reached: Option<u64>,
    ) -> Verdict<u64> {
        turns.admit(
            &key(text),
            place(seq, after),
            (10, seq),
            known(reached, None),
            NOW,
        )
    }

    #[test]
    fn followers_wait_for_the_one_before_them_and_go_in_order() {
        let mut turns = Turns::new(BOUNDS);
        assert_eq!(admit(&mut turns, "a", 1, None, None), Verdict::Go(1));
        assert_eq!(admit(&mut turns, "a", 2, Some(1), None), Verdict::Waits);
        assert_eq!(admit(&mut turns, "a", 4, Some(2), None), Verdict::Waits);
        assert_eq!(admit(&mut turns, "b", 2, Some(1), Some(1)), Verdict::Go(2));
        let next = |turns: &mut Turns<u64>, reached| turns.next(&key("a"), known(reached, None), NOW);
        assert_eq!(next(&mut turns, None), None);
        turns.ended(&key("a"), 1, true, NOW);
        assert_eq!(next(&mut turns, Some(1)), Some(2));
        assert_eq!(
            next(&mut turns, None),
            None,
            "a view that is read anew knows less"
        );
        turns.ended(&key("a"), 2, true, NOW);
        assert_eq!(next(&mut turns, Some(2)), Some(4));
        assert_eq!((turns.records, turns.bytes), (0, 0));
    }

    #[test]
    fn memory_is_bounded_and_the_others_are_put_off() {
        let mut turns = Turns::new(BOUNDS);
        admit(&mut turns, "a", 1, None, None);
        for seq in [3, 4] {
            assert_eq!(admit(&mut turns, "a", seq, Some(seq - 1), None), Verdict::Waits);
        }
        let far = admit(&mut turns, "a", 5, Some(4), None);
        assert!(matches!(far, Verdict::PutOff(5, _)), "{far:?}");
        let mut total = 2;
        for text in ["b", "c", "d", "e"] {
            admit(&mut turns, text, 1, None, None);
            total += usize::from(admit(&mut turns, text, 2, Some(1), None) == Verdict::Waits);
        }
        assert_eq!((total, turns.len()), (5, 5));
        let earlier = admit(&mut turns, "a", 2, Some(1), None);
        assert!(
            matches!(earlier, Verdict::PutOff(4, _)),
            "the first ones stay: {earlier:?}"
        );
        assert_eq!((turns.len(), turns.bytes), (5, 50));
    }

    #[test]
    fn a_follower_of_something_elsewhere_is_put_off_until_that_may_be_done() {
        let mut turns = Turns::new(BOUNDS);
        let until = Some(NOW + 600_000);
        let verdict = turns.admit(&key("a"), place(5, Some(1)), (10, 5), known(None, until), NOW);
        assert_eq!(verdict, Verdict::PutOff(5, NOW + 600_080));
    }

    #[test]
    fn what_waits_in_memory_for_something_that_does_not_come_is_put_off() {
        let mut turns = Turns::new(BOUNDS);
        admit(&mut turns, "a", 1, None, None);
        admit(&mut turns, "a", 2, Some(1), None);
        admit(&mut turns, "a", 3, Some(2), None);
        turns.ended(&key("a"), 1, false, NOW);
        let none = known(None, None);
        assert_eq!(turns.look(NOW, |_| none), [], "it may be on its way");
        let now = NOW + NEAR_MS;
        let put_off = turns.look(now, |_| known(None, Some(now + 60_000)));
        assert_eq!(put_off, [(2, now + 60_050), (3, now + 60_060)]);
        assert_eq!((turns.len(), turns.bytes), (0, 0));
        let verdict = turns.admit(&key("a"), place(4, Some(3)), (10, 4), none, now);
        assert!(matches!(verdict, Verdict::PutOff(4, _)), "{verdict:?}");
        turns.look(now + 2 * KEPT_MS, |_| none);
        assert!(turns.states.is_empty());
    }

    #[test]
    fn nobody_waits_too_long_in_memory() {
        let mut turns = Turns::new(BOUNDS);
        admit(&mut turns, "a", 1, None, None);
        admit(&mut turns, "a", 2, Some(1), None);
        let none = known(None, None);
        let now = NOW + BOUNDS.wait_ms_max;
        assert_eq!(turns.look(now, |_| none), []);
        assert_eq!(turns.look(now + 1, |_| none), [(2, now + 1 + 1_000)]);
        assert_eq!((turns.len(), turns.bytes), (0, 0));
    }

    #[test]
    fn a_partition_that_goes_takes_its_events_along() {
        let mut turns = Turns::new(BOUNDS);
        admit(&mut turns, "a", 1, None, None);
        admit(&mut turns, "a", 2, Some(1), None);
        turns.drop_where(|item| *item == 2);
        assert_eq!((turns.len(), turns.bytes, turns.waiting().len()), (0, 0, 0));
    }
}
