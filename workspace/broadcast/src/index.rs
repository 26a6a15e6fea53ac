//! Where the chunks stand that have not been handed over. Pure.
//!
//! A partition holds the chunks of a broadcast in order, and behind them how far it is. The index keeps a chunk's offset and
//! size; its events stay on the log until their turn.

use std::collections::{BTreeMap, VecDeque};

use posthaste_broker::Assignment;
use posthaste_event::{
    Millis,
    broadcast::{BroadcastGlance, BroadcastProgress, Ended},
};

/// One chunk that was not handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) index: u32,
    pub(crate) offset: i64,
    pub(crate) recipients: u32,
}

/// A broadcast in one of our partitions.
#[derive(Debug, Default)]
struct Open {
    /// Those that were not handed over, in order.
    chunks: VecDeque<Place>,
    done_chunks: u32,
    done_recipients: u64,
    /// When the last of them was handed over.
    done_at: Millis,
    /// When the broker took the first of it that was read here.
    since: Millis,
    is_running: bool,
    /// When it had its last turn.
    turn: u64,
}

/// A partition of ours.
#[derive(Debug)]
struct Held {
    assignment: Assignment,
    /// Everything that stood in it when it became ours has been read.
    is_read: bool,
    /// The next offset to read.
    next: i64,
    committed: i64,
    open: BTreeMap<String, Open>,
}

impl Held {
    /// Everything before it is done with.
    fn position(&self) -> i64 {
        let first = self.open.values().filter_map(|open| open.chunks.front());
        first.map(|place| place.offset).min().unwrap_or(self.next)
    }
}

/// A broadcast of which something may be handed over, in one of our partitions.
#[derive(Debug, Clone)]
pub(crate) struct Ready {
    pub(crate) id: String,
    pub(crate) number: u32,
    pub(crate) turn: u64,
    pub(crate) since: Millis,
}

/// What is next of a broadcast.
#[derive(Debug, Clone)]
pub(crate) struct Next {
    pub(crate) assignment: Assignment,
    /// What a hop commits, to prove that the partition is ours.
    pub(crate) position: i64,
    pub(crate) chunk: Option<Place>,
    pub(crate) done_chunks: u32,
    pub(crate) done_recipients: u64,
    /// When the last of them was handed over, in milliseconds since the Unix epoch.
    pub(crate) done_at: Millis,
    /// Up to where its chunks stand that are known.
    pub(crate) last: i64,
}

/// The partitions of ours.
#[derive(Debug, Default)]
pub(crate) struct Index {
    held: BTreeMap<u32, Held>,
    turns: u64,
}

impl Index {
    pub(crate) fn assigned(&mut self, assignment: Assignment) {
        let held = Held {
            assignment,
            is_read: false,
            next: assignment.committed,
            committed: assignment.committed,
            open: BTreeMap::new(),
        };
        self.held.insert(assignment.partition.number, held);
    }

    pub(crate) fn revoked(&mut self, number: u32) {
        self.held.remove(&number);
    }

    pub(crate) fn at_end(&mut self, number: u32) {
        if let Some(held) = self.held.get_mut(&number) {
            held.is_read = true;
        }
    }

    /// How many partitions are ours, and how many of them have been read.
    pub(crate) fn partitions(&self) -> (usize, usize) {
        let read = self.held.values().filter(|held| held.is_read).count();
        (self.held.len(), read)
    }

    /// Takes a record in; without a `glance` it says nothing here.
    pub(crate) fn read(
        &mut self,
        number: u32,
        offset: i64,
        appended_at: Millis,
        glance: Option<BroadcastGlance>,
    ) {
        let Some(held) = self.held.get_mut(&number) else {
            return;
        };
        held.next = held.next.max(offset + 1);
        match glance {
            Some(BroadcastGlance::Chunk {
                id,
                index,
                recipients,
            }) => {
                let open = held.open.entry(id).or_insert_with(|| Open {
                    since: appended_at,
                    ..Open::default()
                });
                let expected = open.chunks.back().map_or(open.done_chunks, |last| last.index + 1);
                // The first that is read here need not be the first there was: those before it may have been handed over.
                if index >= expected {
                    open.chunks.push_back(Place {
                        index,
                        offset,
                        recipients,
                    });
                }
            }
            Some(BroadcastGlance::Progress(progress)) => held.progress(&progress),
            Some(BroadcastGlance::Dropped { id }) => {
                held.open.remove(&id);
            }
            None => {}
        }
    }

    /// All of which something may be left to do in partitions that have been read, those first that waited longest.
    pub(crate) fn ready(&self) -> Vec<Ready> {
        let read = self.held.iter().filter(|(_, held)| held.is_read);
        let mut ready: Vec<Ready> = read
            .flat_map(|(number, held)| {
                let open = held.open.iter().filter(|(_, open)| !open.is_running);
                open.map(|(id, open)| Ready {
                    id: id.clone(),
                    number: *number,
                    turn: open.turn,
                    since: open.since,
                })
            })
            .collect();
        ready.sort_by_key(|ready| ready.turn);
        ready
    }

    /// Begins a turn of a broadcast, unless one is under way.
    pub(crate) fn begin(&mut self, number: u32, id: &str) -> bool {
        self.turns += 1;
        let turn = self.turns;
        let open = self.held.get_mut(&number).and_then(|held| held.open.get_mut(id));
        open.is_some_and(|open| {
            open.turn = turn;
            !std::mem::replace(&mut open.is_running, true)
        })
    }

    pub(crate) fn end(&mut self, number: u32, epoch: u64, id: &str) {
        if let Some(open) = self.open(number, epoch, id) {
            open.is_running = false;
        }
    }

    /// What is next of a broadcast.
    pub(crate) fn next(&self, number: u32, id: &str) -> Option<Next> {
        let held = self.held.get(&number).filter(|held| held.is_read)?;
        let open = held.open.get(id)?;
        Some(Next {
            assignment: held.assignment,
            position: held.position(),
            chunk: open.chunks.front().copied(),
            done_chunks: open.done_chunks,
            done_recipients: open.done_recipients,
            done_at: open.done_at,
            last: open.chunks.back().map_or(i64::MIN, |place| place.offset),
        })
    }

    /// It is on the log that it is so far.
    pub(crate) fn progressed(&mut self, number: u32, epoch: u64, progress: &BroadcastProgress) {
        if let Some(held) = self.held.get_mut(&number)
            && held.assignment.epoch == epoch
        {
            held.progress(progress);
        }
    }

    /// Forgets a broadcast that came to nothing.
    pub(crate) fn drop_void(&mut self, number: u32, id: &str) {
        if let Some(held) = self.held.get_mut(&number) {
            held.open.remove(id);
        }
    }

    /// Positions that have moved on since they were committed.
    pub(crate) fn positions_behind(&self) -> Vec<(Assignment, i64)> {
        let held = self.held.values();
        held.filter(|held| held.is_read && held.position() > held.committed)
            .map(|held| (held.assignment, held.position()))
            .collect()
    }

    pub(crate) fn committed(&mut self, assignment: Assignment, position: i64) {
        if let Some(held) = self.held.get_mut(&assignment.partition.number)
            && held.assignment.epoch == assignment.epoch
        {
            held.committed = position;
        }
    }

    fn open(&mut self, number: u32, epoch: u64, id: &str) -> Option<&mut Open> {
        let held = self.held.get_mut(&number)?;
        if held.assignment.epoch != epoch {
            return None;
        }
        held.open.get_mut(id)
    }
}

impl Held {
    fn progress(&mut self, progress: &BroadcastProgress) {
        match progress.ended {
            Some(Ended::Done | Ended::Cancelled) => {
                self.open.remove(&progress.id);
            }
            None => {
                let Some(open) = self.open.get_mut(&progress.id) else {
                    return;
                };
                open.done_chunks = open.done_chunks.max(progress.chunks);
                open.done_recipients = open.done_recipients.max(progress.recipients);
                open.done_at = open.done_at.max(progress.at);
                while open
                    .chunks
                    .front()
                    .is_some_and(|place| place.index < open.done_chunks)
                {
                    open.chunks.pop_front();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use posthaste_broker::Partition;
    use posthaste_event::Topic;
    use serde_json::Map;

    use super::*;

    fn assignment(epoch: u64, committed: i64) -> Assignment {
        let partition = Partition {
            topic: Topic::Broadcasts,
            number: 1,
        };
        Assignment {
            partition,
            epoch,
            committed,
        }
    }

    fn chunk(id: &str, index: u32) -> Option<BroadcastGlance> {
        Some(BroadcastGlance::Chunk {
            id: id.to_owned(),
            index,
            recipients: 10,
        })
    }

    fn progress(id: &str, chunks: u32, ended: Option<Ended>) -> BroadcastProgress {
        BroadcastProgress {
            id: id.to_owned(),
            chunks,
            recipients: u64::from(chunks) * 10,
            ended,
            at: 0,
            by: "here".to_owned(),
            unknown: Map::new(),
        }
    }

    #[test]
    fn nothing_is_ready_before_all_was_read_and_the_position_stays_at_the_first_that_is_left() {
        let mut index = Index::default();
        index.assigned(assignment(1, 5));
        index.read(1, 5, 0, chunk("a", 0));
        index.read(1, 6, 0, chunk("b", 0));
        index.read(1, 7, 0, chunk("a", 1));
        assert!(index.ready().is_empty());
        index.at_end(1);
        assert_eq!(index.ready().len(), 2);
        assert!(index.positions_behind().is_empty());
        index.progressed(1, 1, &progress("a", 1, None));
        let next = index.next(1, "a").unwrap();
        assert_eq!(
            (next.chunk.unwrap().index, next.done_recipients, next.position),
            (1, 10, 6)
        );
        index.progressed(1, 1, &progress("b", 1, Some(Ended::Done)));
        assert_eq!(index.positions_behind(), [(assignment(1, 5), 7)]);
        // What an assignment says that is over counts for nothing.
        index.progressed(1, 0, &progress("a", 2, Some(Ended::Done)));
        assert!(index.next(1, "a").is_some());
        index.progressed(1, 1, &progress("a", 2, Some(Ended::Done)));
        assert_eq!(index.positions_behind(), [(assignment(1, 5), 8)]);
    }

    #[test]
    fn whoever_begins_in_the_middle_finds_how_far_it_was() {
        let mut index = Index::default();
        index.assigned(assignment(1, 6));
        index.read(1, 6, 0, chunk("a", 1));
        index.read(1, 7, 0, chunk("a", 2));
        // Behind it stands what a predecessor did.
        for chunks in [1, 2] {
            let glance = BroadcastGlance::Progress(progress("a", chunks, None));
            index.read(1, 8, 0, Some(glance));
        }
        index.at_end(1);
        let next = index.next(1, "a").unwrap();
        assert_eq!(
            (next.done_chunks, next.done_recipients, next.chunk.unwrap().index),
            (2, 20, 2)
        );
    }

    #[test]
    fn a_chunk_that_is_there_twice_counts_once() {
        let mut index = Index::default();
        index.assigned(assignment(1, 0));
        for (offset, number) in [(0, 0), (1, 0), (2, 1)] {
            index.read(1, offset, 0, chunk("a", number));
        }
        index.at_end(1);
        index.progressed(1, 1, &progress("a", 1, None));
        assert_eq!(index.next(1, "a").unwrap().chunk.unwrap().offset, 2);
        index.progressed(1, 1, &progress("a", 2, None));
        assert_eq!(index.next(1, "a").unwrap().chunk, None);
    }
}
