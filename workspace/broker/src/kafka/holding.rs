//! The books of a consumer's table: each partition under its assignment, and what of it is in hand.

use std::{
    collections::{HashMap, VecDeque},
    time::Instant,
};

use crate::{BrokerError, Consumed, Limits, Partition, Signal, Ticket, Tracking, completion::Completion};

/// Offsets for which there must be room again before a partition whose window was full goes on.
const ROOM_TO_RESUME: i64 = 512;

#[derive(Default)]
pub(super) struct State {
    pub(super) partitions: HashMap<Partition, Held>,
    /// Taken away, and perhaps coming back.
    pub(super) lost: HashMap<Partition, Lost>,
    pub(super) signals: VecDeque<Signal>,
    pub(super) errors: VecDeque<BrokerError>,
    /// In hand over all partitions.
    pub(super) records: usize,
    pub(super) bytes: usize,
    /// Over a high mark, and not yet down to half of it.
    pub(super) full: bool,
    pub(super) paused: usize,
    /// Pauses may have to change, or something must be read again.
    pub(super) stale: bool,
    /// Somebody waits for tickets to come back.
    pub(super) draining: bool,
    pub(super) closing: Option<Closing>,
    /// The drain time is over: nothing more is recorded.
    pub(super) ended: bool,
    /// The reader has left the group.
    pub(super) left: bool,
    /// Hops that were not answered yet.
    pub(super) hops: usize,
}

/// How a consumer ends.
#[derive(Debug, Clone, Copy)]
pub(super) struct Closing {
    /// When it ends at the latest.
    pub(super) deadline: Instant,
    /// Its broker ends too: tickets are not waited for, only hops.
    pub(super) with_broker: bool,
}

/// One partition under one assignment.
pub(super) struct Held {
    pub(super) epoch: u64,
    /// Earlier assignments of ours whose tickets are still good, because nobody else had the partition's records in between
    /// or finished those.
    earlier: Vec<u64>,
    pub(super) completion: Completion,
    /// Handed out and not finished: offset and bytes. With positions: not taken yet.
    pub(super) in_hand: HashMap<i64, usize>,
    /// Hops under way that commit a position here.
    pub(super) hops: usize,
    pub(super) revoking: bool,
    /// Where the client reads next, unless it is to rewind.
    pub(super) position: i64,
    /// Read again from here, which lies before the position: a ticket came back, or a record came when there was no room.
    pub(super) rewind: Option<i64>,
    pub(super) full: bool,
    pub(super) paused: bool,
    /// What stood in the partition at assignment ends here; `None` once that was said.
    pub(super) end: Option<i64>,
}

/// What was in hand of a partition that was taken away while the broker did not hear us. Its holders may have sent by then;
/// if the partition comes back to us, and nobody else has finished those records, their outcomes are recorded after all.
pub(super) struct Lost {
    epochs: Vec<u64>,
    in_hand: HashMap<i64, usize>,
    until: Instant,
}

impl Held {
    pub(super) fn new(epoch: u64, completion: Completion, position: i64, end: Option<i64>) -> Self {
        Self {
            epoch,
            earlier: Vec::new(),
            completion,
            in_hand: HashMap::new(),
            hops: 0,
            revoking: false,
            position,
            rewind: None,
            full: false,
            paused: false,
            end,
        }
    }

    /// Whether a ticket of this assignment for this record may be hopped now.
    pub(super) fn is_open(&self, offset: i64) -> bool {
        self.completion.is_open(offset) || self.is_awaited(offset)
    }

    /// In hand since before the partition was lost, and not read again yet.
    fn is_awaited(&self, offset: i64) -> bool {
        offset >= self.completion.next()
            && self.in_hand.contains_key(&offset)
            && !self.completion.is_finished(offset)
    }

    /// Marks a record as finished, whether it was read under this assignment or not yet.
    pub(super) fn finish(completion: &mut Completion, offset: i64) {
        if !completion.finish(offset) {
            completion.finish_unread(offset);
        }
    }

    pub(super) fn mark(&mut self, limits: &Limits, tracking: Tracking) {
        let next = self
            .rewind
            .unwrap_or_else(|| self.completion.next())
            .max(self.completion.next());
        let has_room = |ahead: i64| {
            tracking == Tracking::Position || self.completion.has_room(next.saturating_add(ahead))
        };
        if self.in_hand.len() >= limits.partition_records_max || !has_room(0) {
            self.full = true;
        } else if self.in_hand.len() <= limits.partition_records_max / 2 && has_room(ROOM_TO_RESUME) {
            self.full = false;
        }
    }
}

impl State {
    /// The assignment that this epoch names, or followed on it, if it is alive.
    pub(super) fn live(&mut self, partition: Partition, epoch: u64) -> Option<&mut Held> {
        self.partitions
            .get_mut(&partition)
            .filter(|held| held.epoch == epoch || held.earlier.contains(&epoch))
    }

    /// Whether this ticket's record is ours and nobody has finished it: a partition that was lost may have been somebody
    /// else's before it came back.
    pub(super) fn holds(&mut self, ticket: &Ticket) -> bool {
        self.live(ticket.partition(), ticket.epoch())
            .is_some_and(|held| held.is_open(ticket.offset()))
    }

    /// Whether this record was in hand when its partition was lost, and may still come back.
    pub(super) fn is_lost(&self, partition: Partition, offset: i64, epoch: u64) -> bool {
        self.lost.get(&partition).is_some_and(|lost| {
            lost.epochs.contains(&epoch) && lost.in_hand.contains_key(&offset) && Instant::now() < lost.until
        })
    }

    /// Begins an assignment. What was in hand when the same partition was lost is in hand again, unless it was finished.
    pub(super) fn take_over(&mut self, partition: Partition, mut held: Held) {
        if let Some(lost) = self.lost.remove(&partition)
            && Instant::now() < lost.until
        {
            held.earlier = lost.epochs;
            held.in_hand = lost.in_hand;
            let completion = &held.completion;
            held.in_hand.retain(|offset, _| !completion.is_finished(*offset));
            if held.in_hand.is_empty() {
                held.earlier.clear();
            }
            self.records += held.in_hand.len();
            self.bytes += held.in_hand.values().sum::<usize>();
        }
        self.partitions.insert(partition, held);
    }

    /// Ends an assignment. Answers its epoch.
    pub(super) fn end(&mut self, partition: Partition, returns_until: Option<Instant>) -> Option<u64> {
        let held = self.partitions.remove(&partition)?;
        let epoch = held.epoch;
        self.records -= held.in_hand.len();
        self.bytes -= held.in_hand.values().sum::<usize>();
        self.paused -= usize::from(held.paused);
        if let Some(until) = returns_until {
            let mut epochs = held.earlier;
            epochs.push(epoch);
            let in_hand = held.in_hand;
            self.lost.insert(
                partition,
                Lost {
                    epochs,
                    in_hand,
                    until,
                },
            );
        }
        Some(epoch)
    }

    /// A record is no longer in hand.
    pub(super) fn forget(&mut self, partition: Partition, epoch: Option<u64>, offset: i64) -> bool {
        let held = match epoch {
            Some(epoch) => self.live(partition, epoch),
            None => self.partitions.get_mut(&partition),
        };
        let Some(bytes) = held.and_then(|held| held.in_hand.remove(&offset)) else {
            if let (Some(epoch), Some(lost)) = (epoch, self.lost.get_mut(&partition))
                && lost.epochs.contains(&epoch)
            {
                lost.in_hand.remove(&offset);
            }
            return false;
        };
        self.records -= 1;
        self.bytes -= bytes;
        self.stale |= self.paused > 0;
        true
    }

    /// A record comes back unfinished: it is read again, unless its partition is on its way out.
    pub(super) fn give_back(&mut self, partition: Partition, offset: i64, epoch: u64) {
        if !self.forget(partition, Some(epoch), offset) || self.closing.is_some() {
            return;
        }
        // Ahead of the position it is read again anyway. To go there now would jump over what lies between, and that may
        // be waiting to be read again too.
        if let Some(held) = self.live(partition, epoch)
            && !held.revoking
            && offset < held.position
        {
            held.rewind = Some(held.rewind.map_or(offset, |rewind| rewind.min(offset)));
            self.stale = true;
        }
    }

    pub(super) fn should_wake(&self) -> bool {
        self.draining || self.stale
    }

    /// Takes the records of these partitions out of the queue, for the caller to drop without the lock.
    pub(super) fn withdraw(&mut self, partitions: &[Partition]) -> Vec<Consumed> {
        let mut dropped = Vec::new();
        for signal in &mut self.signals {
            match signal {
                Signal::Records(records) => {
                    let (gone, kept) = std::mem::take(records)
                        .into_iter()
                        .partition(|consumed| partitions.contains(&consumed.record.partition));
                    *records = kept;
                    dropped.extend::<Vec<_>>(gone);
                }
                Signal::Read(records) => {
                    let mut gone = Vec::new();
                    records.retain(|record| {
                        let keep = !partitions.contains(&record.partition);
                        if !keep {
                            gone.push((record.partition, record.offset));
                        }
                        keep
                    });
                    for (partition, offset) in gone {
                        if let Some(bytes) = self
                            .partitions
                            .get_mut(&partition)
                            .and_then(|held| held.in_hand.remove(&offset))
                        {
                            self.records -= 1;
                            self.bytes -= bytes;
                        }
                    }
                }
                _ => {}
            }
        }
        self.signals.retain(|signal| match signal {
            Signal::Records(records) => !records.is_empty(),
            Signal::Read(records) => !records.is_empty(),
            _ => true,
        });
        dropped
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use posthaste_event::Topic;

    use super::*;
    use crate::contract::TicketReturn;

    const PARTITION: Partition = Partition {
        topic: Topic::Default,
        number: 0,
    };

    struct Nowhere;

    impl TicketReturn for Nowhere {
        fn returned(&self, _: Partition, _: i64, _: u64) {}
    }

    fn ticket(offset: i64, epoch: u64) -> Ticket {
        Ticket::issue(PARTITION, offset, epoch, false, Arc::new(Nowhere))
    }

    #[test]
    fn of_a_partition_that_came_back_only_what_nobody_has_finished_is_held() {
        let mut state = State::default();
        let mut held = Held::new(1, Completion::new(0), 0, None);
        for offset in 0..3 {
            held.completion.read(offset);
            held.in_hand.insert(offset, 10);
        }
        (state.records, state.bytes) = (3, 30);
        state.partitions.insert(PARTITION, held);
        let [first, second, third] = [0, 1, 2].map(|offset| ticket(offset, 1));
        assert!(state.holds(&first) && state.holds(&second) && state.holds(&third));

        let until = Instant::now() + Duration::from_secs(60);
        assert_eq!(state.end(PARTITION, Some(until)), Some(1));
        assert!(!state.holds(&first), "it may be somebody else's");
        // Somebody finished the first two of them in between.
        state.take_over(PARTITION, Held::new(2, Completion::new(2), 2, None));
        assert!(!state.holds(&first) && !state.holds(&second));
        assert!(state.holds(&third));
        assert!(!state.holds(&ticket(2, 3)), "of no assignment of ours");
    }
}
