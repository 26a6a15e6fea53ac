//! Which partition the next records go to, where their keys are free.
//!
//! librdkafka makes a request of its own for each partition, and a broker answers the requests of one connection one after the
//! other. Whatever reads the records and hops them on costs a request, and a mark in the log, for each partition too. So records
//! that come one after the other go to one partition, and those that come while its request is under way gather for the next.
//! Each partition gets its turn, and none of them for long: its broker may be away.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use posthaste_event::partition::Place;

/// A turn is over after so many records, or after this time.
const RECORDS_A_TURN: usize = 256;
const TURN: Duration = Duration::from_millis(100);

/// Whose turn it is, of the partitions of one topic.
#[derive(Debug, Default)]
pub(super) struct Turns(Mutex<Turn>);

#[derive(Debug, Default)]
struct Turn {
    number: u32,
    records: usize,
    /// `None` before the first record of all.
    began: Option<Instant>,
}

impl Turns {
    /// Where the next records should go, of so many partitions.
    pub(super) fn next_place(&self, records: usize, partitions: u32, now: Instant) -> Place {
        let mut turn = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_over = turn.records >= RECORDS_A_TURN
            || turn
                .began
                .is_none_or(|began| now.saturating_duration_since(began) >= TURN);
        if is_over {
            *turn = Turn {
                number: (turn.number + stride(partitions)) % partitions,
                records: 0,
                began: Some(now),
            };
        }
        turn.records = turn.records.saturating_add(records);
        Place {
            number: turn.number % partitions,
            partitions,
        }
    }
}

/// How far it is from one turn's partition to the next one's: neighbours mostly belong to the same consumer, so not to a
/// neighbour, and such that every partition gets its turn.
fn stride(partitions: u32) -> u32 {
    let far = (partitions * 5 / 8).max(1);
    let coprime = (1..=far).rev().find(|stride| gcd(*stride, partitions) == 1);
    coprime.unwrap_or(1) % partitions.max(1)
}

const fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use super::*;

    #[test]
    fn what_comes_now_and_then_takes_turns_through_all_partitions() {
        for partitions in 1..100 {
            let turns = Turns::default();
            let start = Instant::now();
            let numbers: HashSet<u32> = (0..partitions)
                .map(|turn| turns.next_place(1, partitions, start + TURN * turn).number)
                .collect();
            assert_eq!(numbers.len(), partitions as usize);
        }
    }

    #[test]
    fn what_comes_together_goes_together_for_a_while() {
        let turns = Turns::default();
        let start = Instant::now();
        let first = turns.next_place(1, 12, start).number;
        let soon = start + TURN / 2;
        assert_eq!(turns.next_place(1, 12, soon).number, first);
        assert_eq!(turns.next_place(RECORDS_A_TURN, 12, soon).number, first);
        assert_ne!(turns.next_place(1, 12, soon).number, first, "enough for one turn");
    }

    #[test]
    fn a_flood_is_spread_over_all_partitions() {
        let turns = Turns::default();
        let now = Instant::now();
        let mut sent: HashMap<u32, usize> = HashMap::new();
        for _ in 0..100_000 {
            *sent.entry(turns.next_place(1, 12, now).number).or_default() += 1;
        }
        assert_eq!(sent.len(), 12);
        let (least, most) = (sent.values().min().unwrap(), sent.values().max().unwrap());
        assert!(*most < least * 2, "{sent:?}");
    }
}
