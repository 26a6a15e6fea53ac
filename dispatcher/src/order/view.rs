//! How far each ordering key has come, as the keys topic says: pure.
//!
//! Places only rise, so what is known may be old and is still true: it never lets an event go too early. Records may come
//! again after an outage of the broker.

use std::collections::{BTreeMap, HashMap};

use posthaste_event::{
    Millis,
    keys::{KeyState, OrderKey, Part},
};

/// A place among the events of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Spot {
    /// The place.
    pub seq: u64,
    /// How many of the key were put off before it since it waits; says only how long to wait.
    pub nth: u64,
}

/// How far a key has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Known {
    /// Every place up to this one is done.
    pub reached: Option<Spot>,
    /// Until when the event waits whose turn it is.
    pub until: Option<Millis>,
}

/// What is known of the keys that are open.
#[derive(Debug, Default)]
pub struct View {
    keys: HashMap<OrderKey, Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    /// With its partition.
    tail: Option<(Spot, u32)>,
    done: bool,
    /// Every place up to this one is done.
    reached: Option<Spot>,
    /// Places that were done before their turn, each with the one before it.
    gone: BTreeMap<u64, (u64, u64)>,
    wait: Option<(u64, Millis)>,
}

impl Seen {
    fn reach(&mut self, spot: Spot) {
        let mut reached = self.reached.map_or(spot, |reached| reached.max(spot));
        // The next in line is the lowest of those beyond, if it is there at all.
        while let Some((seq, (after, nth))) = self.gone.range(reached.seq.saturating_add(1)..).next()
            && *after <= reached.seq
        {
            reached = Spot { seq: *seq, nth: *nth };
        }
        self.reached = Some(reached);
    }

    fn is_nothing(&self) -> bool {
        self.tail.is_none() && !self.done && self.gone.is_empty() && self.wait.is_none()
    }
}

impl View {
    /// Takes in what a record says of a key; `None` forgets the part.
    pub fn apply(&mut self, key: &OrderKey, part: Part, state: Option<KeyState>) {
        let seen = match (self.keys.get_mut(key), state) {
            (Some(seen), _) => seen,
            (None, None) => return,
            (None, Some(_)) => self.keys.entry(key.clone()).or_default(),
        };
        match state {
            Some(KeyState::Tail { seq, partition, nth }) => seen.tail = Some((Spot { seq, nth }, partition)),
            Some(KeyState::Done { seq, nth }) => {
                seen.done = true;
                seen.reach(Spot { seq, nth });
            }
            Some(KeyState::Gone { seq, after, nth }) => {
                seen.gone.insert(seq, (after, nth));
                if let Some(reached) = seen.reached {
                    seen.reach(reached);
                }
            }
            Some(KeyState::Wait { seq, until }) => seen.wait = Some((seq, until)),
            None => match part {
                Part::Tail => seen.tail = None,
                Part::Done => seen.done = false,
                Part::Gone(seq) => {
                    seen.gone.remove(&seq);
                }
                Part::Wait => seen.wait = None,
            },
        }
        if seen.is_nothing() {
            self.keys.remove(key);
        }
    }

    /// How far the key has come.
    pub fn known(&self, key: &OrderKey) -> Known {
        let Some(seen) = self.keys.get(key) else {
            return Known::default();
        };
        let reached = seen.reached;
        let is_ahead = |seq| reached.is_none_or(|reached| reached.seq < seq);
        Known {
            reached,
            until: seen
                .wait
                .filter(|(seq, _)| is_ahead(*seq))
                .map(|(_, until)| until),
        }
    }

    /// The last place that left the lane of first attempts.
    pub fn tail(&self, key: &OrderKey) -> Option<Spot> {
        self.keys.get(key)?.tail.map(|(spot, _)| spot)
    }

    /// Up to `limit` places that were done before their turn.
    pub fn gone(&self, key: &OrderKey, limit: usize) -> Vec<u64> {
        let seen = self.keys.get(key);
        seen.into_iter()
            .flat_map(|seen| seen.gone.keys().copied())
            .take(limit)
            .collect()
    }

    /// The open keys of this partition of first attempts, with their tails.
    pub fn open_in(&self, critical: bool, partition: u32) -> Vec<(OrderKey, Spot)> {
        let of_lane = self.keys.iter().filter(|(key, _)| key.critical == critical);
        of_lane
            .filter_map(|(key, seen)| Some((key, seen.tail?)))
            .filter(|(_, (_, of))| *of == partition)
            .map(|(key, (spot, _))| (key.clone(), spot))
            .collect()
    }

    /// How many keys something is known of.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.keys.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key() -> OrderKey {
        OrderKey {
            key: "t/k".to_owned(),
            critical: false,
        }
    }

    fn reached(view: &View) -> Option<u64> {
        view.known(&key()).reached.map(|spot| spot.seq)
    }

    fn say(view: &mut View, state: KeyState) {
        view.apply(&key(), state.part(), Some(state));
    }

    #[test]
    fn what_went_before_its_turn_is_passed_over_when_its_turn_comes() {
        let mut view = View::default();
        say(
            &mut view,
            KeyState::Tail {
                seq: 9,
                partition: 1,
                nth: 4,
            },
        );
        say(
            &mut view,
            KeyState::Gone {
                seq: 5,
                after: 3,
                nth: 2,
            },
        );
        say(
            &mut view,
            KeyState::Gone {
                seq: 6,
                after: 5,
                nth: 3,
            },
        );
        assert_eq!(reached(&view), None);
        say(&mut view, KeyState::Done { seq: 2, nth: 0 });
        assert_eq!(reached(&view), Some(2));
        say(&mut view, KeyState::Done { seq: 3, nth: 1 });
        assert_eq!(reached(&view), Some(6));
        assert_eq!(view.known(&key()).reached.map(|spot| spot.nth), Some(3));
        say(
            &mut view,
            KeyState::Gone {
                seq: 9,
                after: 6,
                nth: 4,
            },
        );
        assert_eq!(reached(&view), Some(9));
    }

    #[test]
    fn a_wait_counts_until_its_event_is_done() {
        let mut view = View::default();
        say(&mut view, KeyState::Wait { seq: 4, until: 1_000 });
        say(&mut view, KeyState::Done { seq: 3, nth: 1 });
        assert_eq!(view.known(&key()).until, Some(1_000));
        say(&mut view, KeyState::Done { seq: 4, nth: 0 });
        assert_eq!(view.known(&key()).until, None);
    }

    #[test]
    fn a_key_that_is_forgotten_occupies_nothing() {
        let mut view = View::default();
        for state in [
            KeyState::Tail {
                seq: 9,
                partition: 1,
                nth: 4,
            },
            KeyState::Gone {
                seq: 5,
                after: 3,
                nth: 2,
            },
            KeyState::Done { seq: 9, nth: 4 },
            KeyState::Wait { seq: 4, until: 1 },
        ] {
            say(&mut view, state);
        }
        assert_eq!(view.open_in(false, 1), [(key(), Spot { seq: 9, nth: 4 })]);
        assert_eq!((view.open_in(false, 0), view.open_in(true, 1)), (vec![], vec![]));
        assert_eq!(view.gone(&key(), 10), [5]);
        for part in [Part::Gone(5), Part::Done, Part::Wait, Part::Tail] {
            view.apply(&key(), part, None);
        }
        assert_eq!(
            (view.len(), view.known(&key()), view.tail(&key())),
            (0, Known::default(), None)
        );
    }

    proptest! {
        /// Whatever order records of different parts come in, and however often, the same is known in the end, and at no
        /// time more than is true.
        #[test]
        fn it_is_never_ahead_of_the_truth(
            gone in proptest::collection::vec(any::<bool>(), 2..40),
            order in any::<proptest::sample::Index>(),
            shuffles in proptest::collection::vec(any::<proptest::sample::Index>(), 80),
        ) {
            // Places 10, 20, 30, ...: some end before their turn, the others in their turn, in order.
            let place = |index: usize| (index as u64 + 1) * 10;
            let mut dones = Vec::new();
            let mut gones = Vec::new();
            for (index, gone) in gone.iter().enumerate() {
                if *gone && index > 0 {
                    gones.push(KeyState::Gone { seq: place(index), after: place(index - 1), nth: index as u64 });
                } else {
                    dones.push(KeyState::Done { seq: place(index), nth: index as u64 });
                }
            }
            let last_done = dones.len() - 1;
            let upto = order.index(dones.len()).min(last_done);
            let mut records: Vec<_> = dones[..=upto].iter().copied().chain(gones.iter().copied()).collect();
            let truth = {
                let mut reached = match dones[upto] { KeyState::Done { seq, .. } => seq, _ => unreachable!() };
                while gones.iter().any(|state| matches!(state, KeyState::Gone { after, .. } if *after == reached)) {
                    reached += 10;
                }
                reached
            };
            for (index, shuffle) in shuffles.iter().enumerate().take(records.len()) {
                let other = shuffle.index(records.len());
                records.swap(index, other);
            }
            let mut view = View::default();
            for round in 0..2 {
                for state in &records {
                    say(&mut view, *state);
                    let reached = reached(&view).unwrap_or(0);
                    prop_assert!(reached <= truth);
                    prop_assert!(round == 0 || reached == truth);
                }
            }
            prop_assert_eq!(reached(&view), Some(truth));
        }
    }
}
