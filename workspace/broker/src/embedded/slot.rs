//! One partition in a member's hands: the records that are ready, out, and given back.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{
    mailbox::{Grant, bytes_of},
    readers::Gap,
};
use crate::{
    Partition, Record,
    completion::{Completion, Reading},
};

/// Room for so many records stays when none is ready.
const ROOM_KEPT: usize = 64;

/// So many records that were given back are read again at once.
const AGAIN_MAX: usize = 512;

/// A partition under one assignment.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) epoch: u64,
    id: i64,
    /// What is finished; `None` when the member keeps its position itself.
    pub(super) completion: Option<Completion>,
    ready: VecDeque<Record>,
    ready_bytes: usize,
    /// Handed out and unfinished, and their bytes. The records themselves are with the holder, and in the file.
    in_hand: BTreeMap<i64, usize>,
    /// Those of them that were given back and are to be read again.
    returned: BTreeSet<i64>,
    /// Those that were read again and wait to be handed out.
    again: VecDeque<Record>,
    /// The offset behind what was put into `ready`.
    next: i64,
    /// The partition's end as far as the writer told.
    end: i64,
    /// Bytes that left `ready` without being handed out.
    pub(super) passed_bytes: usize,
    paused: bool,
    at_end_said: bool,
    /// Being revoked: nothing more goes out.
    pub(super) draining: bool,
}

/// What may be kept ready now.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    /// Records of a partition.
    pub(super) records_max: usize,
    /// Bytes that are left of all there are.
    pub(super) left_bytes: usize,
    /// Bytes that a partition may have whatever the others have: one whose records wait for their time holds up no other.
    pub(super) share_bytes: usize,
}

/// What is no longer held.
#[derive(Debug, Default)]
pub(super) struct Freed {
    pub(super) records: usize,
    pub(super) bytes: usize,
    pub(super) ready_bytes: usize,
}

impl Slot {
    pub(super) fn new(grant: Grant) -> Self {
        Self {
            epoch: grant.assignment.epoch,
            id: grant.id,
            completion: grant.completion,
            ready: VecDeque::new(),
            ready_bytes: 0,
            in_hand: BTreeMap::new(),
            returned: BTreeSet::new(),
            again: VecDeque::new(),
            next: grant.from,
            end: grant.end,
            passed_bytes: 0,
            paused: false,
            at_end_said: false,
            draining: false,
        }
    }

    /// Whether all that was committed is here or went through here.
    pub(super) fn keeps_up(&self) -> bool {
        self.next >= self.end
    }

    /// Whether nothing is in the member's hands.
    pub(super) fn is_idle(&self) -> bool {
        self.in_hand.is_empty()
    }

    /// Bytes that may be added. While nothing is handed out of it, a partition has no more than its share.
    fn room(&self, room: Room) -> usize {
        let own = room.share_bytes.saturating_sub(self.ready_bytes);
        if self.paused {
            own
        } else {
            own.max(room.left_bytes)
        }
    }

    /// Takes records that were just committed, if the slot had all before them and has room. Answers their bytes.
    pub(super) fn publish(&mut self, records: &[Record], end: i64, room: Room) -> usize {
        let mut added = 0;
        if self.keeps_up() && !self.draining {
            let bytes_max = self.room(room);
            for record in records {
                if self.ready.len() >= room.records_max || added >= bytes_max {
                    self.end = end;
                    return added;
                }
                added += bytes_of(record);
                self.ready_bytes += bytes_of(record);
                self.next = record.offset + 1;
                self.ready.push_back(record.clone());
            }
            self.next = end;
        }
        self.end = end;
        added
    }

    /// The part to read from the file next.
    pub(super) fn gap(&self, partition: Partition, room: Room) -> Option<Gap> {
        let needed = !self.keeps_up() && !self.waits(room);
        needed.then_some(Gap {
            partition,
            id: self.id,
            epoch: self.epoch,
            from: self.next,
            until: self.end,
            again: Vec::new(),
            // Not less than a share, so that little room does not make many small reads.
            bytes_max: room.left_bytes.max(room.share_bytes),
        })
    }

    /// Whether records that were given back are to be read again.
    pub(super) fn has_returned(&self) -> bool {
        !self.returned.is_empty()
    }

    /// The records to read again next. They count as in hand already, so no limit holds them up.
    pub(super) fn gap_again(&self, partition: Partition) -> Option<Gap> {
        let again: Vec<_> = self.returned.iter().take(AGAIN_MAX).copied().collect();
        (!again.is_empty()).then_some(Gap {
            partition,
            id: self.id,
            epoch: self.epoch,
            from: self.next,
            until: self.next,
            again,
            bytes_max: 0,
        })
    }

    /// Where reading goes on, and the partition's id in the file, unless there is a reason to wait.
    pub(super) fn reading(&self, room: Room) -> Option<(i64, i64)> {
        (!self.waits(room)).then_some((self.id, self.next))
    }

    fn waits(&self, room: Room) -> bool {
        let is_stocked = self.ready.len() > room.records_max / 2 || self.room(room) == 0;
        self.draining || self.paused || is_stocked
    }

    /// Takes what was read from the file: all of the gap, or its beginning. Answers the bytes.
    pub(super) fn deposit(&mut self, gap: &Gap, records: Vec<Record>, is_all: bool) -> usize {
        if self.draining || self.next != gap.from {
            return 0;
        }
        self.next = match records.last() {
            Some(last) if !is_all => last.offset + 1,
            _ => gap.until,
        };
        let added = records.iter().map(bytes_of).sum();
        self.ready_bytes += added;
        self.ready.extend(records);
        added
    }

    /// Takes what was read again of the gap. What the log has no more is finished: nobody can be given it.
    pub(super) fn deposit_again(&mut self, gap: &Gap, records: Vec<Record>) -> Freed {
        let mut freed = Freed::default();
        if self.draining {
            return freed;
        }
        let mut records = records.into_iter().peekable();
        for offset in &gap.again {
            let found = records.next_if(|record| record.offset == *offset);
            if !self.returned.remove(offset) {
                continue;
            }
            match found {
                Some(record) => self.again.push_back(record),
                None => {
                    if let Some(completion) = &mut self.completion {
                        completion.finish(*offset);
                    }
                    self.let_go(*offset, &mut freed);
                }
            }
        }
        freed
    }

    /// Goes on when few enough are out; answers whether it does since now.
    pub(super) fn resume_below(&mut self, low: usize) -> bool {
        let resumes = self.paused && self.in_hand.len() <= low;
        self.paused &= !resumes;
        resumes
    }

    /// Whether records wait that were not handed out yet.
    pub(super) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Whether anything waits to be handed out.
    pub(super) fn has_any(&self) -> bool {
        !self.ready.is_empty() || !self.again.is_empty()
    }

    /// Whether its end is to be told.
    pub(super) fn is_at_unsaid_end(&self) -> bool {
        !self.at_end_said && self.keeps_up()
    }

    /// A record that was given back and read again.
    pub(super) fn take_returned(&mut self) -> Option<Record> {
        if self.draining {
            return None;
        }
        pop(&mut self.again)
    }

    /// The next unfinished record, and its bytes; pauses at `most` in hand and while the map of finished records has no room.
    pub(super) fn take_open(&mut self, most: usize) -> Option<(Record, usize)> {
        if self.draining || self.paused {
            return None;
        }
        let completion = self.completion.as_mut()?;
        while let Some(record) = self.ready.front() {
            if !completion.has_room(record.offset) {
                return None;
            }
            let reading = completion.read(record.offset);
            let record = pop(&mut self.ready)?;
            let bytes = bytes_of(&record);
            self.ready_bytes -= bytes;
            match reading {
                Reading::Finished => self.passed_bytes += bytes,
                Reading::Open { .. } => {
                    self.in_hand.insert(record.offset, bytes);
                    self.paused = self.in_hand.len() >= most.max(1);
                    return Some((record, bytes));
                }
            }
        }
        None
    }

    /// The next record for a member that keeps its position itself.
    pub(super) fn take_ready(&mut self) -> Option<Record> {
        if self.draining {
            return None;
        }
        let record = pop(&mut self.ready)?;
        self.ready_bytes -= bytes_of(&record);
        Some(record)
    }

    /// Whether the end is reached for the first time.
    pub(super) fn reaches_end(&mut self) -> bool {
        let reached = !self.at_end_said && !self.draining && self.ready.is_empty() && self.keeps_up();
        self.at_end_said |= reached;
        reached
    }

    /// Whether a record that is out is marked as started.
    pub(super) fn is_started(&self, offset: i64) -> bool {
        let completion = self.completion.as_ref();
        completion.is_some_and(|completion| completion.is_started(offset))
    }

    /// Takes note of started records.
    pub(super) fn start(&mut self, offsets: &[i64]) {
        for offset in offsets {
            if let Some(completion) = &mut self.completion {
                completion.start(*offset);
            }
        }
    }

    /// Takes note of finished records.
    pub(super) fn finish(&mut self, offsets: &[i64]) -> Freed {
        let mut freed = Freed::default();
        for offset in offsets {
            if let Some(completion) = &mut self.completion {
                completion.finish(*offset);
            }
            self.let_go(*offset, &mut freed);
        }
        freed
    }

    /// A ticket was dropped: the record goes out again, or is let go while the partition is being revoked.
    pub(super) fn give_back(&mut self, offset: i64) -> Freed {
        let mut freed = Freed::default();
        if self.draining {
            self.let_go(offset, &mut freed);
        } else if self.in_hand.contains_key(&offset) {
            self.returned.insert(offset);
        }
        freed
    }

    /// Begins to be revoked.
    pub(super) fn drain(&mut self) -> Freed {
        self.draining = true;
        let mut freed = self.clear_ready();
        let again = std::mem::take(&mut self.again);
        let again = again.into_iter().map(|record| record.offset);
        for offset in std::mem::take(&mut self.returned).into_iter().chain(again) {
            self.let_go(offset, &mut freed);
        }
        freed
    }

    /// Ends, whatever is still out.
    pub(super) fn void(&mut self) -> Freed {
        let mut freed = self.clear_ready();
        freed.records = self.in_hand.len();
        freed.bytes = self.in_hand.values().sum();
        self.in_hand.clear();
        freed
    }

    fn clear_ready(&mut self) -> Freed {
        self.ready.clear();
        Freed {
            ready_bytes: std::mem::take(&mut self.ready_bytes),
            ..Freed::default()
        }
    }

    fn let_go(&mut self, offset: i64, freed: &mut Freed) {
        if let Some(bytes) = self.in_hand.remove(&offset) {
            freed.records += 1;
            freed.bytes += bytes;
        }
    }
}

/// Takes the first out. When none is left, the room goes back that a burst needed.
fn pop(records: &mut VecDeque<Record>) -> Option<Record> {
    let record = records.pop_front()?;
    if records.is_empty() && records.capacity() > ROOM_KEPT {
        records.shrink_to(ROOM_KEPT);
    }
    Some(record)
}
