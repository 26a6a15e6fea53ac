//! What stands between the writer and one member of a group: what the member is told, the records that are ready for it,
//! and those it has in its hands.
//!
//! The writer puts new records of an owned partition here as it commits them, so that a member that keeps up never reads the
//! file. A member that falls behind lets its buffer overflow: the partition is then read from the file ([`super::readers`])
//! until it has caught up. Which assignments live is decided by the writer alone; here is only what they hold.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

use super::{
    queue::Queue,
    readers::Gap,
    slot::{Room, Slot},
};
use crate::{
    Assignment, BrokerError, Consumed, Limits, Partition, Record, Signal, Ticket, Tracking,
    completion::Completion, contract::TicketReturn,
};

/// How much is kept ready for a member.
#[derive(Debug, Clone, Copy)]
pub(super) struct ReadyLimits {
    /// Per partition.
    pub(super) records_max: usize,
    /// Over all partitions; twice as much when some have used it up and others have their shares.
    pub(super) bytes_max: usize,
}

/// A partition that the writer gives to a member.
#[derive(Debug)]
pub(super) struct Grant {
    pub(super) assignment: Assignment,
    /// The partition's id in the file.
    pub(super) id: i64,
    /// Where reading begins.
    pub(super) from: i64,
    /// The next offset to be written.
    pub(super) end: i64,
    /// What is finished, unless the member keeps its position itself.
    pub(super) completion: Option<Completion>,
}

/// One member's mailbox.
#[derive(Debug)]
pub(super) struct Mailbox {
    pub(super) member: u64,
    limits: Limits,
    ready_limits: ReadyLimits,
    tracking: Tracking,
    state: Mutex<State>,
    wake: Notify,
    queue: Arc<Queue>,
}

#[derive(Debug, Default)]
struct State {
    news: VecDeque<Result<Signal, BrokerError>>,
    slots: BTreeMap<Partition, Slot>,
    /// The partition whose records went out last; the next batch begins behind it.
    last: Option<Partition>,
    /// The partition that was read last; the next read begins behind it. Not the same: where records go out that need no reading, the
    /// turn of one that does might never come.
    last_read: Option<Partition>,
    in_hand_records: usize,
    in_hand_bytes: usize,
    ready_bytes: usize,
    paused: bool,
    reading: bool,
    gone: bool,
    /// Nothing changed since there was nothing to hand out, or nothing to read: who looks again need not search.
    nothing_to_take: bool,
    nothing_to_read: bool,
}

impl Mailbox {
    pub(super) fn new(
        member: u64,
        tracking: Tracking,
        limits: Limits,
        ready_limits: ReadyLimits,
        queue: Arc<Queue>,
    ) -> Self {
        Self {
            member,
            limits,
            ready_limits,
            tracking,
            state: Mutex::default(),
            wake: Notify::new(),
            queue,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something may have come to hand out or to read.
    fn stir(&self, mut state: MutexGuard<'_, State>) {
        (state.nothing_to_take, state.nothing_to_read) = (false, false);
        drop(state);
        self.wake.notify_one();
    }

    /// Whether a member that has too much in its hands may go on.
    const fn is_low(&self, state: &State) -> bool {
        state.in_hand_records <= self.limits.records_max / 2
            && state.in_hand_bytes <= self.limits.bytes_max / 2
    }

    // --- The writer's side.

    /// Gives partitions to the member.
    pub(super) fn grant(&self, grants: Vec<Grant>) {
        let mut state = self.lock();
        let mut assigned = Vec::with_capacity(grants.len());
        for grant in grants {
            assigned.push(grant.assignment);
            state.slots.insert(grant.assignment.partition, Slot::new(grant));
        }
        state.news.push_back(Ok(Signal::Assigned(assigned)));
        self.stir(state);
    }

    /// Says that the member cannot have a partition.
    pub(super) fn refuse(&self, error: BrokerError) {
        self.lock().news.push_back(Err(error));
        self.wake.notify_one();
    }

    /// Hands out no more records of these partitions; answers which of them have nothing in the member's hands.
    pub(super) fn revoke(&self, partitions: &[Partition]) -> Vec<Partition> {
        let mut state = self.lock();
        let mut idle = Vec::new();
        let mut told = Vec::new();
        for &partition in partitions {
            let Some(slot) = state.slots.get_mut(&partition) else {
                idle.push(partition);
                continue;
            };
            let (epoch, freed) = (slot.epoch, slot.drain());
            if slot.is_idle() {
                idle.push(partition);
            }
            state.ready_bytes -= freed.ready_bytes;
            state.in_hand_records -= freed.records;
            state.in_hand_bytes -= freed.bytes;
            // A member that never heard of the assignment need not hear of its end.
            if !state.is_unheard(partition, epoch) {
                told.push(partition);
            }
        }
        if !told.is_empty() {
            state.news.push_back(Ok(Signal::Revoking(told)));
        }
        self.stir(state);
        idle
    }

    /// Whether the member holds no more records of a partition that is being revoked.
    pub(super) fn is_idle(&self, partition: Partition) -> bool {
        self.lock().slots.get(&partition).is_none_or(Slot::is_idle)
    }

    /// Takes partitions away: what is held of them is void.
    pub(super) fn remove(&self, partitions: &[Partition]) {
        let mut state = self.lock();
        let mut told = Vec::new();
        for &partition in partitions {
            let Some(mut slot) = state.slots.remove(&partition) else {
                continue;
            };
            let freed = slot.void();
            state.ready_bytes -= freed.ready_bytes;
            state.in_hand_records -= freed.records;
            state.in_hand_bytes -= freed.bytes;
            if !state.forget_unheard(partition, slot.epoch) {
                told.push(partition);
            }
        }
        if !told.is_empty() {
            state.news.push_back(Ok(Signal::Revoked(told)));
        }
        self.stir(state);
    }

    /// Puts new records of a partition here, whose end is now `end`.
    pub(super) fn publish(&self, partition: Partition, records: &[Record], end: i64) {
        let mut state = self.lock();
        let room = state.room(self.ready_limits);
        let Some(slot) = state.slots.get_mut(&partition) else {
            return;
        };
        let added = slot.publish(records, end, room);
        state.ready_bytes += added;
        self.stir(state);
    }

    /// What is finished in a partition, for trying out a hop; `None` under another assignment.
    pub(super) fn completion(&self, partition: Partition, epoch: u64) -> Option<Completion> {
        let state = self.lock();
        let slot = state.slots.get(&partition).filter(|slot| slot.epoch == epoch)?;
        slot.completion.clone()
    }

    /// The oldest unfinished record of each partition.
    pub(super) fn unfinished(&self) -> Vec<(Partition, i64)> {
        let state = self.lock();
        let slots = state.slots.iter();
        let open = slots.filter_map(|(partition, slot)| Some((*partition, slot.completion.as_ref()?)));
        open.filter(|(_, completion)| completion.open() > 0)
            .map(|(partition, completion)| (partition, completion.committed()))
            .collect()
    }

    /// Where reading goes on, in each partition that has no reason to wait: it, its id in the file, and the offset.
    pub(super) fn reading(&self) -> Vec<(Partition, i64, i64)> {
        let state = self.lock();
        if state.gone || state.paused {
            return Vec::new();
        }
        let room = state.room(self.ready_limits);
        let flowing = state
            .slots
            .iter()
            .filter_map(|(partition, slot)| Some((*partition, slot.reading(room)?)));
        flowing
            .map(|(partition, (id, next))| (partition, id, next))
            .collect()
    }

    /// Takes note of records whose hop, or whose mark as started, is durable.
    pub(super) fn note(&self, partition: Partition, epoch: u64, finished: &[i64], started: &[i64]) {
        let mut state = self.lock();
        let Some(slot) = state.slots.get_mut(&partition).filter(|slot| slot.epoch == epoch) else {
            return;
        };
        slot.start(started);
        let freed = slot.finish(finished);
        let drained = slot.draining && slot.is_idle();
        // Only who was held up has something to look for.
        let was_held_up = slot.resume_below(self.limits.partition_records_max / 2) || slot.has_ready();
        state.in_hand_records -= freed.records;
        state.in_hand_bytes -= freed.bytes;
        if was_held_up || (state.paused && self.is_low(&state)) {
            self.stir(state);
        } else {
            drop(state);
        }
        if drained {
            self.queue.attend();
        }
    }

    /// Whether the member left without a word.
    pub(super) fn is_gone(&self) -> bool {
        self.lock().gone
    }

    /// Says that nothing will come any more, because the broker is closed.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.news.clear();
        state.slots.clear();
        state.gone = true;
        drop(state);
        self.wake.notify_one();
    }

    // --- The member's side.

    /// Leaves the group without a word: partitions are taken away at once.
    pub(super) fn leave(&self) {
        self.lock().gone = true;
        self.queue.attend();
    }

    /// Waits until something may have changed.
    pub(super) async fn changed(&self) {
        self.wake.notified().await;
    }

    /// The next signal, if there is one.
    pub(super) fn take(self: &Arc<Self>) -> Option<Result<Signal, BrokerError>> {
        let mut state = self.lock();
        if state.gone {
            return Some(Err(BrokerError::Refused("the broker is closed".to_owned())));
        }
        if let Some(news) = state.news.pop_front() {
            return Some(news);
        }
        if state.nothing_to_take {
            return None;
        }
        let taken = match self.tracking {
            Tracking::Completion => self.take_completed(&mut state),
            Tracking::Position => self.take_read(&mut state),
        };
        state.nothing_to_take = taken.is_none();
        state.nothing_to_read &= taken.is_none();
        taken.map(Ok)
    }

    fn take_completed(self: &Arc<Self>, state: &mut State) -> Option<Signal> {
        let limits = &self.limits;
        state.paused &= !self.is_low(state);
        let mut batch = Vec::new();
        for partition in state.turn(state.last, Slot::has_any) {
            let Some(slot) = state.slots.get_mut(&partition) else {
                continue;
            };
            slot.resume_below(limits.partition_records_max / 2);
            while batch.len() < limits.batch_records_max.max(1) {
                // What was given back was in hand before and counts already: it goes out whatever the limits say.
                let (record, is_new) = match slot.take_returned() {
                    Some(record) => (record, false),
                    None if state.paused => break,
                    None => match slot.take_open(limits.partition_records_max) {
                        Some((record, passed_bytes)) => {
                            state.ready_bytes -= passed_bytes;
                            (record, true)
                        }
                        None => break,
                    },
                };
                let is_started = slot.is_started(record.offset);
                if is_new {
                    state.in_hand_records += 1;
                    state.in_hand_bytes += bytes_of(&record);
                }
                let ticket = Ticket::issue(
                    partition,
                    record.offset,
                    slot.epoch,
                    is_started,
                    Arc::clone(self) as Arc<dyn TicketReturn>,
                );
                batch.push(Consumed { record, ticket });
                state.last = Some(partition);
                state.paused =
                    state.in_hand_records >= limits.records_max || state.in_hand_bytes >= limits.bytes_max;
            }
            state.ready_bytes -= std::mem::take(&mut slot.passed_bytes);
        }
        (!batch.is_empty()).then_some(Signal::Records(batch))
    }

    fn take_read(&self, state: &mut State) -> Option<Signal> {
        let mut batch = Vec::new();
        let mut bytes = 0;
        for partition in state.turn(state.last, |slot| slot.has_any() || slot.is_at_unsaid_end()) {
            let Some(slot) = state.slots.get_mut(&partition) else {
                continue;
            };
            while batch.len() < self.limits.batch_records_max.max(1)
                && bytes < self.limits.bytes_max
                && let Some(record) = slot.take_ready()
            {
                bytes += bytes_of(&record);
                batch.push(record);
                state.last = Some(partition);
            }
            if batch.is_empty() && slot.reaches_end() {
                return Some(Signal::AtEnd(partition));
            }
        }
        state.ready_bytes -= bytes;
        (!batch.is_empty()).then_some(Signal::Read(batch))
    }

    /// What to read from the file now, if anything; the caller reads it and calls [`Self::deposit`]. One at a time.
    pub(super) fn begin_reading(&self) -> Option<Gap> {
        let mut state = self.lock();
        if state.nothing_to_read || state.reading {
            return None;
        }
        let gap = state.gap_again().or_else(|| {
            if state.paused {
                return None;
            }
            let room = state.room(self.ready_limits);
            let behind = state.turn(state.last_read, |slot| !slot.keeps_up());
            behind
                .into_iter()
                .find_map(|partition| state.slots.get(&partition)?.gap(partition, room))
        });
        state.nothing_to_read = gap.is_none();
        state.reading = gap.is_some();
        state.last_read = gap.as_ref().map(|gap| gap.partition).or(state.last_read);
        gap
    }

    /// Takes what was read from the file; `None` when reading failed.
    pub(super) fn deposit(&self, gap: Gap, records: Option<Vec<Record>>, is_all: bool) {
        let mut state = self.lock();
        state.reading = false;
        if let Some(records) = records
            && let Some(slot) = state.slots.get_mut(&gap.partition)
            && slot.epoch == gap.epoch
        {
            if gap.again.is_empty() {
                let added = slot.deposit(&gap, records, is_all);
                state.ready_bytes += added;
            } else {
                let freed = slot.deposit_again(&gap, records);
                state.in_hand_records -= freed.records;
                state.in_hand_bytes -= freed.bytes;
            }
        }
        self.stir(state);
    }
}

impl State {
    fn room(&self, limits: ReadyLimits) -> Room {
        Room {
            records_max: limits.records_max,
            left_bytes: limits.bytes_max.saturating_sub(self.ready_bytes),
            share_bytes: limits.bytes_max / self.slots.len().max(1),
        }
    }

    /// The partitions that `has` something, beginning behind the one that had its turn last.
    fn turn(&self, last: Option<Partition>, has: impl Fn(&Slot) -> bool) -> Vec<Partition> {
        let (mut behind, mut before) = (Vec::new(), Vec::new());
        for (partition, slot) in &self.slots {
            if !has(slot) {
                continue;
            }
            if last.is_none_or(|last| *partition > last) {
                behind.push(*partition);
            } else {
                before.push(*partition);
            }
        }
        behind.append(&mut before);
        behind
    }

    /// Records that were given back, of one partition.
    fn gap_again(&self) -> Option<Gap> {
        let given_back = self.turn(self.last_read, Slot::has_returned);
        let partition = given_back.first()?;
        self.slots.get(partition)?.gap_again(*partition)
    }

    fn is_unheard(&self, partition: Partition, epoch: u64) -> bool {
        self.news.iter().any(|news| {
            matches!(news, Ok(Signal::Assigned(assigned))
                if assigned.iter().any(|one| one.partition == partition && one.epoch == epoch))
        })
    }

    /// Drops an assignment that the member was not told of yet, so that its news cannot pile up.
    fn forget_unheard(&mut self, partition: Partition, epoch: u64) -> bool {
        let unheard = self.is_unheard(partition, epoch);
        if unheard {
            for news in &mut self.news {
                if let Ok(Signal::Assigned(assigned)) = news {
                    assigned.retain(|one| one.partition != partition || one.epoch != epoch);
                }
            }
            self.news
                .retain(|news| !matches!(news, Ok(Signal::Assigned(assigned)) if assigned.is_empty()));
        }
        unheard
    }
}

impl TicketReturn for Mailbox {
    fn returned(&self, partition: Partition, offset: i64, epoch: u64) {
        let mut state = self.lock();
        let Some(slot) = state.slots.get_mut(&partition).filter(|slot| slot.epoch == epoch) else {
            return;
        };
        let freed = slot.give_back(offset);
        let drained = slot.draining && slot.is_idle();
        state.in_hand_records -= freed.records;
        state.in_hand_bytes -= freed.bytes;
        self.stir(state);
        if drained {
            self.queue.attend();
        }
    }
}

/// Bytes of key and value.
pub(super) fn bytes_of(record: &Record) -> usize {
    record.key.as_ref().map_or(0, bytes::Bytes::len) + record.value.as_ref().map_or(0, bytes::Bytes::len)
}
