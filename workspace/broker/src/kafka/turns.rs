//! Which partition the next records go to, where their keys are free.
//!
//! librdkafka makes a request of its own for each partition, and a broker answers the requests of one connection one after the
//! other. So a few flights are kept aloft, and what comes meanwhile gathers behind the one that lands first, instead of
//! leaving in a request of its own for every partition. Each partition gets its turn.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use posthaste_event::partition::Place;

/// Flights beyond which records gather: one that the broker works on, and those on their way there and back.
const ALOFT: usize = 4;

/// Records that may gather behind one partition's flights before another partition has its turn.
const RECORDS_A_TURN: usize = 64;

/// The flights of one topic.
#[derive(Debug, Default)]
pub(super) struct Turns(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Partitions with a flight, and how many records were sent after it or a flight before it; first the one that left first.
    aloft: VecDeque<(u32, usize)>,
    next: u32,
}

impl Turns {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the next records should go, of so many partitions.
    pub(super) fn next_place(&self, records: usize, partitions: u32) -> Place {
        let mut state = self.lock();
        let is_full = state.aloft.len() >= ALOFT.min(partitions as usize);
        let may_gather =
            |(number, gathered): &&mut (u32, usize)| *gathered < RECORDS_A_TURN && *number < partitions;
        if is_full && let Some((number, gathered)) = state.aloft.iter_mut().find(may_gather) {
            *gathered += records;
            return Place {
                number: *number,
                partitions,
            };
        }
        let stride = stride(partitions);
        let mut number = state.next % partitions;
        for _ in 1..partitions {
            if state.aloft.iter().all(|(aloft, _)| *aloft != number) {
                break;
            }
            number = (number + stride) % partitions;
        }
        state.next = (number + stride) % partitions;
        Place { number, partitions }
    }

    /// A flight to this partition has left.
    pub(super) fn departed(&self, number: u32) {
        self.lock().aloft.push_back((number, 0));
    }

    /// The flight to this partition has landed, and another one follows at once or not.
    pub(super) fn landed(&self, number: u32, goes_on: bool) {
        let mut state = self.lock();
        let Some(at) = state.aloft.iter().position(|(aloft, _)| *aloft == number) else {
            return;
        };
        let flight = state.aloft.remove(at).filter(|_| goes_on);
        state.aloft.extend(flight);
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
    fn what_comes_alone_takes_turns_through_all_partitions() {
        for partitions in 1..100 {
            let turns = Turns::default();
            let numbers: HashSet<u32> = (0..partitions)
                .map(|_| {
                    let number = turns.next_place(1, partitions).number;
                    turns.departed(number);
                    turns.landed(number, false);
                    number
                })
                .collect();
            assert_eq!(numbers.len(), partitions as usize);
        }
    }

    #[test]
    fn what_comes_together_gathers_behind_the_flight_that_lands_first() {
        let turns = Turns::default();
        let first: Vec<u32> = (0..ALOFT)
            .map(|_| {
                let number = turns.next_place(1, 12).number;
                turns.departed(number);
                number
            })
            .collect();
        assert_eq!(turns.next_place(1, 12).number, first[0]);
        turns.landed(first[0], true);
        assert_eq!(turns.next_place(1, 12).number, first[1]);
        turns.landed(first[1], false);
        assert!(!first.contains(&turns.next_place(1, 12).number), "one may leave");
    }

    #[test]
    fn a_flood_is_spread_over_all_partitions() {
        let turns = Turns::default();
        let mut waiting: HashMap<u32, usize> = HashMap::new();
        let mut aloft = VecDeque::new();
        let mut sent: HashMap<u32, usize> = HashMap::new();
        for round in 0..100_000 {
            let number = turns.next_place(1, 12).number;
            *sent.entry(number).or_default() += 1;
            if aloft.contains(&number) {
                *waiting.entry(number).or_default() += 1;
            } else {
                aloft.push_back(number);
                turns.departed(number);
            }
            if round % 16 == 15
                && let Some(landed) = aloft.pop_front()
            {
                let goes_on = waiting.remove(&landed).is_some();
                turns.landed(landed, goes_on);
                if goes_on {
                    aloft.push_back(landed);
                }
            }
        }
        assert_eq!(sent.len(), 12);
        let (least, most) = (sent.values().min().unwrap(), sent.values().max().unwrap());
        assert!(*most < least * 2, "{sent:?}");
    }
}
