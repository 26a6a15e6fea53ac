//! What hops do to a consumer's table: the fence, the offsets they commit, and what is finished once they did.

use std::collections::HashMap;

use super::{
    holding::{Held, State},
    hops::{Open, Waiting},
    native::Committed,
    positions,
    table::Table,
};
use crate::{HopError, Partition, completion::Completion};

impl Table {
    /// A hop has spent its tickets and waits for its turn.
    pub(super) fn entered(&self, hop: &Open) {
        self.update(|state| {
            state.hops += 1;
            for (partition, epoch, _) in &hop.positions {
                if let Some(held) = state.live(*partition, *epoch) {
                    held.hops += 1;
                }
            }
        });
    }

    /// Answers and removes every hop of which something belongs to an assignment that is over, or is finished already.
    /// Answers whether all that remain may be recorded now; some may have to wait until their partition comes back.
    pub(super) fn refuse_void(&self, hops: &mut Vec<Waiting>) -> bool {
        let (void, are_live) = self.update(|state| {
            let (kept, void) = std::mem::take(hops)
                .into_iter()
                .partition::<Vec<_>, _>(|waiting| state.is_valid(&waiting.hop, true));
            *hops = kept;
            (
                void,
                hops.iter().all(|waiting| state.is_valid(&waiting.hop, false)),
            )
        });
        for waiting in void {
            self.answer(waiting, Err(HopError::Fenced));
        }
        are_live
    }

    /// Next offset and metadata of every partition that these hops change. `token` marks commits of positions, so that a
    /// commit with an unknown result can be recognised. Answers and removes the marks of started records that do not fit.
    pub(super) fn offsets(&self, hops: &mut Vec<Waiting>, token: &str) -> Vec<(Partition, i64, String)> {
        let mut finished: HashMap<Partition, Completion> = HashMap::new();
        let mut positions: HashMap<Partition, i64> = HashMap::new();
        let mut state = self.lock();
        let mut without_room = Vec::new();
        for (index, waiting) in hops.iter().enumerate() {
            for (partition, offset, epoch) in &waiting.hop.completes {
                if let Some(held) = state.live(*partition, *epoch) {
                    let completion = finished
                        .entry(*partition)
                        .or_insert_with(|| held.completion.clone());
                    Held::finish(completion, *offset);
                }
            }
            for (partition, _, next) in &waiting.hop.positions {
                positions.insert(*partition, *next);
            }
            for (partition, epoch) in &waiting.hop.fences {
                if let Some(held) = state.live(*partition, *epoch) {
                    // What is committed there stays as it is; that it may be is the fence.
                    finished
                        .entry(*partition)
                        .or_insert_with(|| held.completion.clone());
                }
            }
            if let Some((partition, offset, epoch)) = &waiting.hop.start
                && let Some(held) = state.live(*partition, *epoch)
                && !finished
                    .entry(*partition)
                    .or_insert_with(|| held.completion.clone())
                    .start(*offset)
            {
                without_room.push(index);
            }
        }
        drop(state);
        for index in without_room.into_iter().rev() {
            self.answer(hops.remove(index), Err(HopError::NoRoom));
        }
        let finished = finished
            .into_iter()
            .map(|(partition, completion)| (partition, completion.committed(), completion.metadata()));
        let positions = positions
            .into_iter()
            .map(|(partition, next)| (partition, next, token.to_owned()));
        finished.chain(positions).collect()
    }

    /// Answers and removes the hops that what the group has committed shows as done. All hops here were in one transaction,
    /// or in none: what shows one of them shows the others.
    pub(super) fn confirm(
        &self,
        hops: &mut Vec<Waiting>,
        committed: &HashMap<Partition, Committed>,
        token: &str,
    ) {
        let mut maps: HashMap<Partition, Completion> = HashMap::new();
        let is_done = hops.iter().any(|waiting| {
            let completes = waiting.hop.completes.iter().any(|(partition, offset, _)| {
                committed.get(partition).is_some_and(|found| {
                    if found.offset < 0 {
                        return false;
                    }
                    let map = maps.entry(*partition).or_insert_with(|| {
                        // Nobody else may write here while our assignment is alive; the offset alone is then no guess.
                        positions::resume(found).unwrap_or_else(|_| Completion::new(found.offset))
                    });
                    map.is_finished(*offset)
                })
            });
            // One that was set before shows nothing.
            let start = waiting.hop.start.is_some_and(|(partition, offset, epoch)| {
                let mut state = self.lock();
                let is_new = state
                    .live(partition, epoch)
                    .is_some_and(|held| !held.completion.is_started(offset));
                drop(state);
                let found = committed.get(&partition).filter(|_| is_new);
                found.is_some_and(|found| positions::resume(found).is_ok_and(|map| map.is_started(offset)))
            });
            completes
                || start
                || waiting.hop.positions.iter().any(|(partition, ..)| {
                    committed
                        .get(partition)
                        .is_some_and(|found| found.metadata == token.as_bytes())
                })
        });
        if is_done {
            self.confirm_all(hops);
        }
    }

    /// The transaction with these hops is durable.
    pub(super) fn confirm_all(&self, hops: &mut Vec<Waiting>) {
        let done = std::mem::take(hops);
        self.update(|state| {
            for waiting in &done {
                for (partition, offset, epoch) in &waiting.hop.completes {
                    if let Some(held) = state.live(*partition, *epoch) {
                        Held::finish(&mut held.completion, *offset);
                        state.forget(*partition, Some(*epoch), *offset);
                    }
                }
                if let Some((partition, offset, epoch)) = waiting.hop.start
                    && let Some(held) = state.live(partition, epoch)
                {
                    held.completion.start(offset);
                }
                state.left(&waiting.hop);
            }
        });
        for waiting in done {
            // Nobody listens if the caller gave up; the hop stands.
            let _ = waiting.done.send(Ok(()));
        }
    }

    /// Answers a hop that did not happen. Its records are read again where they are still ours.
    pub(super) fn answer(&self, waiting: Waiting, result: Result<(), HopError>) {
        self.update(|state| {
            for (partition, offset, epoch) in &waiting.hop.completes {
                state.give_back(*partition, *offset, *epoch);
            }
            state.left(&waiting.hop);
        });
        let _ = waiting.done.send(result);
    }
}

impl State {
    fn is_valid(&mut self, hop: &Open, or_lost: bool) -> bool {
        let completes = hop.completes.iter().all(|(partition, offset, epoch)| {
            self.live(*partition, *epoch)
                .is_some_and(|held| held.is_open(*offset))
                || (or_lost && self.is_lost(*partition, *offset, *epoch))
        });
        // What is about to be started must be ours now, not perhaps again.
        let start = hop.start.is_none_or(|(partition, offset, epoch)| {
            self.live(partition, epoch)
                .is_some_and(|held| held.completion.is_open(offset))
        });
        let positions = hop
            .positions
            .iter()
            .map(|(partition, epoch, _)| (partition, epoch));
        let fences = hop.fences.iter().map(|(partition, epoch)| (partition, epoch));
        completes
            && start
            && positions
                .chain(fences)
                .all(|(partition, epoch)| self.live(*partition, *epoch).is_some())
    }

    fn left(&mut self, hop: &Open) {
        self.hops = self.hops.saturating_sub(1);
        for (partition, epoch, _) in &hop.positions {
            if let Some(held) = self.live(*partition, *epoch) {
                held.hops = held.hops.saturating_sub(1);
            }
        }
    }
}
