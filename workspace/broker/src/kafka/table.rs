//! What one consumer holds: its partitions, what of them is handed out, and the signals that wait to be taken.
//!
//! Shared by three: the reader's thread fills it, async code takes signals and returns tickets, the hop's thread finishes
//! records. One lock, never held over a call that waits. Tickets are never dropped under it: they come back here.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use super::{
    holding::{Closing, Held, State},
    lease::Lease,
    native::Queue,
};
use crate::{
    Assignment, BrokerError, Consumed, Limits, Partition, Record, Signal, Ticket, Tracking,
    completion::{Completion, Reading},
    contract::TicketReturn,
};

/// The state of one consumer.
pub(super) struct Table {
    pub(super) tracking: Tracking,
    pub(super) lease: Lease,
    limits: Limits,
    state: Mutex<State>,
    ready: Notify,
    waker: Mutex<Option<Arc<Queue>>>,
}

/// A partition about to be ours.
#[derive(Debug)]
pub(super) struct Placed {
    pub(super) partition: Partition,
    /// Where the group stands.
    pub(super) committed: i64,
    /// Where reading begins.
    pub(super) start: i64,
    pub(super) completion: Completion,
    /// See [`Signal::AtEnd`].
    pub(super) end: Option<i64>,
    /// The group has no position here yet: commit this one.
    pub(super) is_new: bool,
}

/// Records on their way into one signal.
#[derive(Default)]
pub(super) struct Batch {
    consumed: Vec<Consumed>,
    read: Vec<Record>,
}

impl Batch {
    pub(super) fn len(&self) -> usize {
        self.consumed.len() + self.read.len()
    }
}

impl Table {
    pub(super) fn new(tracking: Tracking, limits: Limits) -> Arc<Self> {
        Arc::new(Self {
            tracking,
            lease: Lease::new(Instant::now()),
            limits,
            state: Mutex::default(),
            ready: Notify::new(),
            waker: Mutex::default(),
        })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_waker(&self, queue: Option<Arc<Queue>>) {
        *self.waker.lock().unwrap_or_else(PoisonError::into_inner) = queue;
    }

    /// Makes the reader look around.
    pub(super) fn wake(&self) {
        if let Some(queue) = &*self.waker.lock().unwrap_or_else(PoisonError::into_inner) {
            queue.wake();
        }
    }

    /// The next signal, or the next error. Cancel-safe.
    pub(super) async fn next(&self) -> Result<Signal, BrokerError> {
        loop {
            if let Some(next) = self.take() {
                return next;
            }
            self.ready.notified().await;
        }
    }

    fn take(&self) -> Option<Result<Signal, BrokerError>> {
        let mut state = self.lock();
        if let Some(error) = state.errors.pop_front() {
            return Some(Err(error));
        }
        if state.closing.is_some_and(|closing| closing.with_broker) {
            return Some(Err(BrokerError::Refused("the broker is closed".to_owned())));
        }
        let signal = state.signals.pop_front()?;
        if let Signal::Read(records) = &signal {
            for record in records {
                state.forget(record.partition, None, record.offset);
            }
            let wake = state.should_wake();
            drop(state);
            if wake {
                self.wake();
            }
        }
        Some(Ok(signal))
    }

    fn say(&self, signal: Signal) {
        self.lock().signals.push_back(signal);
        self.ready.notify_one();
    }

    pub(super) fn fail(&self, error: BrokerError) {
        self.lock().errors.push_back(error);
        self.ready.notify_one();
    }

    /// Takes partitions over.
    pub(super) fn assign(&self, placed: Vec<Placed>, epoch: &mut dyn FnMut() -> u64) {
        let mut assignments = Vec::with_capacity(placed.len());
        let mut state = self.lock();
        for placed in placed {
            let epoch = epoch();
            assignments.push(Assignment {
                partition: placed.partition,
                epoch,
                committed: placed.committed,
            });
            let held = Held::new(epoch, placed.completion, placed.start, placed.end);
            state.take_over(placed.partition, held);
        }
        // What was lost and did not come back has gone to somebody else.
        state.lost.clear();
        state.stale = true;
        drop(state);
        if !assignments.is_empty() {
            self.say(Signal::Assigned(assignments));
        }
    }

    /// Takes a record that was read into the batch, unless it is finished, in hand already, or there is no room for it.
    pub(super) fn read(self: &Arc<Self>, record: Record, batch: &mut Batch) {
        let bytes = record.key.as_ref().map_or(0, bytes::Bytes::len)
            + record.value.as_ref().map_or(0, bytes::Bytes::len);
        let limits = self.limits;
        let mut state = self.lock();
        let is_full =
            state.closing.is_some() || state.records >= limits.records_max || state.bytes >= limits.bytes_max;
        let Some(held) = state.partitions.get_mut(&record.partition) else {
            return;
        };
        if held.revoking || held.rewind.is_some_and(|rewind| rewind <= record.offset) {
            return;
        }
        held.position = record.offset.saturating_add(1);
        if self.tracking == Tracking::Completion && held.in_hand.contains_key(&record.offset) {
            // In hand already: since before a returned ticket made us read again, or before the partition was lost.
            held.completion.read(record.offset);
            return;
        }
        let has_room = held.in_hand.len() < limits.partition_records_max
            && (self.tracking == Tracking::Position || held.completion.has_room(record.offset));
        if is_full || !has_room {
            held.rewind = Some(record.offset);
            state.stale = true;
            return;
        }
        let mut is_started = false;
        if self.tracking == Tracking::Completion {
            match held.completion.read(record.offset) {
                Reading::Finished => return,
                Reading::Open { started } => is_started = started,
            }
        }
        held.in_hand.insert(record.offset, bytes);
        let epoch = held.epoch;
        let part_full = held.in_hand.len() >= limits.partition_records_max;
        state.records += 1;
        state.bytes += bytes;
        state.stale |= part_full || state.records >= limits.records_max || state.bytes >= limits.bytes_max;
        drop(state);
        match self.tracking {
            Tracking::Position => batch.read.push(record),
            Tracking::Completion => {
                let returns = Arc::clone(self) as Arc<dyn TicketReturn>;
                let ticket = Ticket::issue(record.partition, record.offset, epoch, is_started, returns);
                batch.consumed.push(Consumed { record, ticket });
            }
        }
    }

    /// Says what the batch holds.
    pub(super) fn flush(&self, batch: &mut Batch) {
        if !batch.consumed.is_empty() {
            self.say(Signal::Records(std::mem::take(&mut batch.consumed)));
        }
        if !batch.read.is_empty() {
            self.say(Signal::Read(std::mem::take(&mut batch.read)));
        }
    }

    /// The reader has come to `offset` and there is nothing behind it.
    pub(super) fn reached(&self, partition: Partition, offset: i64) {
        let mut state = self.lock();
        let Some(held) = state.partitions.get_mut(&partition) else {
            return;
        };
        if held.rewind.is_some() || held.revoking {
            return;
        }
        // What lies between the last record and here is never delivered.
        held.position = held.position.max(offset);
        // An open transaction may keep us from the end that we saw; then this comes again.
        if held.end.is_none_or(|end| offset < end) {
            return;
        }
        held.end = None;
        drop(state);
        self.say(Signal::AtEnd(partition));
    }

    /// How many records of a partition may be read now.
    pub(super) fn room(&self, partition: Partition) -> usize {
        let state = self.lock();
        let Some(held) = state.partitions.get(&partition) else {
            return 0;
        };
        let limits = self.limits;
        let is_held_up = state.full || held.paused || held.revoking || held.rewind.is_some();
        if is_held_up || state.closing.is_some() || state.bytes >= limits.bytes_max {
            return 0;
        }
        let of_all = limits.records_max.saturating_sub(state.records);
        of_all.min(limits.partition_records_max.saturating_sub(held.in_hand.len()))
    }

    /// Looks again which partitions pause. Answers where reading goes back to.
    pub(super) fn flow(&self) -> Vec<(Partition, i64)> {
        let mut seek = Vec::new();
        let mut state = self.lock();
        if !std::mem::take(&mut state.stale) {
            return seek;
        }
        let limits = self.limits;
        let state = &mut *state;
        if state.records >= limits.records_max || state.bytes >= limits.bytes_max {
            state.full = true;
        } else if state.records <= limits.records_max / 2 && state.bytes <= limits.bytes_max / 2 {
            state.full = false;
        }
        for (partition, held) in &mut state.partitions {
            if held.revoking {
                continue;
            }
            held.mark(&limits, self.tracking);
            let pause = state.full || held.full;
            if pause != held.paused {
                held.paused = pause;
                if pause {
                    state.paused += 1;
                } else {
                    state.paused -= 1;
                }
            }
            if let (false, Some(offset)) = (pause, held.rewind) {
                seek.push((*partition, offset));
            }
        }
        seek
    }

    /// The client reads from `offset` again, or could not be made to.
    pub(super) fn sought(&self, partition: Partition, offset: i64, done: bool) {
        let mut state = self.lock();
        if let Some(held) = state.partitions.get_mut(&partition) {
            // A ticket that came back meanwhile may lie before.
            if done && held.rewind.is_some_and(|rewind| rewind >= offset) {
                held.rewind = None;
                held.position = offset;
            }
            state.stale |= held.rewind.is_some();
        }
    }

    /// Hands out nothing more of these partitions. Records that nobody took yet are dropped from the queue.
    pub(super) fn revoke(&self, partitions: &[Partition]) {
        let mut state = self.lock();
        for partition in partitions {
            if let Some(held) = state.partitions.get_mut(partition) {
                held.revoking = true;
            }
        }
        state.draining = true;
        let dropped = state.withdraw(partitions);
        drop(state);
        drop(dropped);
        self.say(Signal::Revoking(partitions.to_vec()));
    }

    /// Whether nothing of these partitions is in hand or in a hop.
    pub(super) fn is_drained(&self, partitions: &[Partition]) -> bool {
        let state = self.lock();
        partitions
            .iter()
            .filter_map(|partition| state.partitions.get(partition))
            .all(|held| held.hops == 0 && (self.tracking == Tracking::Position || held.in_hand.is_empty()))
    }

    /// Ends these assignments: from here on nothing of them can be recorded. With `returns_until` they were taken away from
    /// us while the broker did not hear us: if they come back by then, what was in hand is still in hand.
    pub(super) fn void(&self, partitions: &[Partition], returns_until: Option<Instant>) {
        let mut state = self.lock();
        let dropped = state.withdraw(partitions);
        for partition in partitions {
            let epoch = state.end(*partition, returns_until);
            if let (Some(epoch), Some(_)) = (epoch, returns_until) {
                self.lease.lose(epoch);
            }
        }
        state.draining = state.partitions.values().any(|held| held.revoking);
        state.stale = true;
        drop(state);
        drop(dropped);
        self.say(Signal::Revoked(partitions.to_vec()));
    }

    /// Hands out nothing more at all, and leaves the group when nothing is in hand any more or the drain time is over.
    pub(super) fn close(&self, drain: Duration, with_broker: bool) {
        let mut state = self.lock();
        let deadline = Instant::now() + drain;
        let before = state.closing;
        state.closing = Some(Closing {
            deadline: before.map_or(deadline, |before| before.deadline.min(deadline)),
            with_broker: with_broker || before.is_some_and(|before| before.with_broker),
        });
        state.draining = true;
        let dropped = std::mem::take(&mut state.signals);
        drop(state);
        drop(dropped);
        self.ready.notify_one();
        self.wake();
    }

    pub(super) fn is_closing(&self) -> bool {
        self.lock().closing.is_some()
    }

    /// Whether it is time to leave the group.
    pub(super) fn is_closed(&self) -> bool {
        let state = self.lock();
        let Some(closing) = state.closing else {
            return false;
        };
        let tickets = self.tracking == Tracking::Completion
            && !closing.with_broker
            && state.partitions.values().any(|held| !held.in_hand.is_empty());
        (state.hops == 0 && !tickets) || Instant::now() >= closing.deadline
    }

    /// The reader has left the group.
    pub(super) fn leave(&self) {
        self.lock().left = true;
    }

    pub(super) fn has_left(&self) -> bool {
        self.lock().left
    }

    pub(super) fn end(&self) {
        self.lock().ended = true;
    }

    pub(super) fn is_ended(&self) -> bool {
        self.lock().ended
    }

    /// The oldest unfinished record of each partition.
    pub(super) fn unfinished(&self) -> Vec<(Partition, i64)> {
        if self.tracking == Tracking::Position {
            return Vec::new();
        }
        let state = self.lock();
        let open = state
            .partitions
            .iter()
            .filter(|(_, held)| held.completion.open() > 0);
        open.map(|(partition, held)| (*partition, held.completion.committed()))
            .collect()
    }

    /// Where reading goes on, in each partition that has no reason to wait.
    pub(super) fn reading(&self) -> Vec<(Partition, i64)> {
        let state = self.lock();
        if state.full || state.closing.is_some() {
            return Vec::new();
        }
        let flowing = state
            .partitions
            .iter()
            .filter(|(_, held)| !held.revoking && !held.paused && !held.full);
        flowing
            .map(|(partition, held)| (*partition, held.rewind.unwrap_or(held.position)))
            .collect()
    }

    pub(super) fn partitions(&self) -> Vec<Partition> {
        self.lock().partitions.keys().copied().collect()
    }

    /// Runs `change` under the lock and wakes the reader if that concerns it.
    pub(super) fn update<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.lock();
        let result = change(&mut state);
        let wake = state.should_wake();
        drop(state);
        if wake {
            self.wake();
        }
        result
    }
}

impl TicketReturn for Table {
    fn returned(&self, partition: Partition, offset: i64, epoch: u64) {
        self.update(|state| state.give_back(partition, offset, epoch));
    }
}

#[cfg(test)]
mod tests {
    use posthaste_event::Topic;

    use super::*;

    const PARTITION: Partition = Partition {
        topic: Topic::Default,
        number: 0,
    };

    fn table() -> Arc<Table> {
        let table = Table::new(Tracking::Completion, Limits::default());
        let placed = Placed {
            partition: PARTITION,
            committed: 0,
            start: 0,
            completion: Completion::new(0),
            end: None,
            is_new: false,
        };
        table.assign(vec![placed], &mut || 1);
        table
    }

    fn read(table: &Arc<Table>, offsets: std::ops::Range<i64>) -> Vec<Consumed> {
        let mut batch = Batch::default();
        for offset in offsets {
            let record = Record {
                partition: PARTITION,
                offset,
                key: None,
                value: None,
                appended_at: 0,
                headers: None,
            };
            table.read(record, &mut batch);
        }
        batch.consumed
    }

    #[test]
    fn a_ticket_that_comes_back_while_earlier_records_are_read_again_jumps_over_none_of_them() {
        let table = table();
        let mut held = read(&table, 0..10);
        drop(held.remove(3));
        assert_eq!(table.flow(), [(PARTITION, 3)]);
        table.sought(PARTITION, 3, true);
        // Both lie ahead of the client now: of those before 7, only what is in hand may be passed over.
        drop(held.remove(6));
        drop(held.remove(1));
        assert_eq!(table.flow(), [(PARTITION, 1)]);
        table.sought(PARTITION, 1, true);
        let again = read(&table, 1..10);
        let offsets: Vec<i64> = again.iter().map(|consumed| consumed.record.offset).collect();
        assert_eq!(offsets, [1, 3, 7]);
    }
}
