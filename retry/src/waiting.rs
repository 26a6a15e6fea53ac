//! What waits in memory for its time: ordered by time for release, and by offset for making room.
//!
//! Pure: time comes in as an argument. Used for the near topics, for the fetched heads of the tiers, and (with a wait of
//! nothing) for failures on their way to a verdict.

use std::collections::{BTreeMap, BTreeSet};

use posthaste_broker::Partition;
use posthaste_event::{Millis, wheel::TIERS_FROM_MS};

/// What is due within this many milliseconds stays when room is made: no tier would take it.
const STAYS_MS: i64 = TIERS_FROM_MS;

/// When room is made, and until when: fractions of the bounds.
const FULL: (usize, usize) = (3, 4);
const ROOM: (usize, usize) = (1, 2);

/// Bounds of what waits; `None` for a kind of record of which no room is made.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Offsets of a partition from the lowest that waits to the highest that was read.
    pub offsets_max: usize,
    /// Bytes over all partitions.
    pub bytes_max: usize,
}

/// Something that waits, taken out.
#[derive(Debug, PartialEq, Eq)]
pub struct Taken<T> {
    /// From which partition.
    pub partition: Partition,
    /// Its size, in bytes.
    pub bytes: usize,
    /// What it is.
    pub item: T,
}

#[derive(Debug)]
struct Held<T> {
    wakes_at: Millis,
    bytes: usize,
    item: T,
}

/// What waits of one partition.
#[derive(Debug)]
struct Share<T> {
    held: BTreeMap<i64, Held<T>>,
    bytes: usize,
    /// The offset after the highest that came.
    next: i64,
    /// Room is made below this offset.
    clear_below: i64,
    /// And until this many bytes are gone.
    clear_bytes: usize,
    /// What is below stays: it was looked at and is due soon.
    looked_below: i64,
}

impl<T> Default for Share<T> {
    fn default() -> Self {
        Self {
            held: BTreeMap::new(),
            bytes: 0,
            next: 0,
            clear_below: 0,
            clear_bytes: 0,
            looked_below: i64::MIN,
        }
    }
}

/// What waits.
#[derive(Debug)]
pub struct Waiting<T> {
    bounds: Option<Bounds>,
    by_time: BTreeSet<(Millis, Partition, i64)>,
    shares: BTreeMap<Partition, Share<T>>,
    bytes: usize,
}

impl<T> Waiting<T> {
    /// Nothing waits yet.
    pub const fn new(bounds: Option<Bounds>) -> Self {
        Self {
            bounds,
            by_time: BTreeSet::new(),
            shares: BTreeMap::new(),
            bytes: 0,
        }
    }

    /// A partition is ours: it gets its share of the bounds.
    pub fn begin(&mut self, partition: Partition) {
        self.forget(partition);
        self.shares.insert(partition, Share::default());
    }

    /// Takes a record in until `wakes_at`. One that is there already, under an older assignment, is replaced.
    pub fn hold(&mut self, partition: Partition, offset: i64, wakes_at: Millis, bytes: usize, item: T) {
        self.remove(partition, offset);
        let share = self.shares.entry(partition).or_default();
        share.next = share.next.max(offset.saturating_add(1));
        share.bytes += bytes;
        self.bytes += bytes;
        self.by_time.insert((wakes_at, partition, offset));
        share.held.insert(
            offset,
            Held {
                wakes_at,
                bytes,
                item,
            },
        );
    }

    /// Wakes those that are wanted now.
    pub fn wake(&mut self, now: Millis, wanted: impl Fn(&T) -> bool) {
        for (partition, share) in &mut self.shares {
            for (offset, held) in &mut share.held {
                if held.wakes_at > now && wanted(&held.item) {
                    self.by_time.remove(&(held.wakes_at, *partition, *offset));
                    held.wakes_at = now;
                    self.by_time.insert((now, *partition, *offset));
                }
            }
        }
    }

    /// When the next one wakes.
    pub fn next_wake(&self) -> Option<Millis> {
        self.by_time.first().map(|(wakes_at, _, _)| *wakes_at)
    }

    /// Takes out what has woken by `now`, the earliest first, at most `records_max`.
    pub fn take_due(&mut self, now: Millis, records_max: usize) -> Vec<Taken<T>> {
        let mut taken = Vec::new();
        while taken.len() < records_max
            && let Some((wakes_at, partition, offset)) = self.by_time.first().copied()
            && wakes_at <= now
        {
            taken.extend(self.remove(partition, offset));
        }
        taken
    }

    /// Takes out what must go to make room, lowest offsets first, at most `records_max`. Nothing while less than three
    /// quarters of the bounds are used; once they are, until half of them is free.
    pub fn take_overflow(&mut self, now: Millis, records_max: usize) -> Vec<Taken<T>> {
        let Some(bounds) = self.bounds else {
            return Vec::new();
        };
        let room = share_of(bounds.bytes_max / self.shares.len().max(1), ROOM);
        let is_full = self.bytes > share_of(bounds.bytes_max, FULL);
        let mut chosen = Vec::new();
        for (partition, share) in &mut self.shares {
            if is_full {
                share.clear_bytes = share.clear_bytes.max(share.bytes.saturating_sub(room));
            }
            share.note_span(bounds.offsets_max);
            let left = records_max - chosen.len();
            share.choose(now, left, |offset| chosen.push((*partition, offset)));
        }
        chosen
            .into_iter()
            .filter_map(|(partition, offset)| self.remove(partition, offset))
            .collect()
    }

    /// A partition is no longer ours: what waits of it is dropped.
    pub fn forget(&mut self, partition: Partition) {
        if let Some(share) = self.shares.remove(&partition) {
            self.bytes -= share.bytes;
            for (offset, held) in &share.held {
                self.by_time.remove(&(held.wakes_at, partition, *offset));
            }
        }
    }

    fn remove(&mut self, partition: Partition, offset: i64) -> Option<Taken<T>> {
        let share = self.shares.get_mut(&partition)?;
        let held = share.held.remove(&offset)?;
        share.bytes -= held.bytes;
        self.bytes -= held.bytes;
        self.by_time.remove(&(held.wakes_at, partition, offset));
        Some(Taken {
            partition,
            bytes: held.bytes,
            item: held.item,
        })
    }
}

impl<T> Share<T> {
    fn note_span(&mut self, offsets_max: usize) {
        let Some((lowest, _)) = self.held.first_key_value() else {
            return;
        };
        let span = usize::try_from(self.next.saturating_sub(*lowest)).unwrap_or(usize::MAX);
        if span > share_of(offsets_max, FULL) {
            let room = i64::try_from(share_of(offsets_max, ROOM)).unwrap_or(i64::MAX);
            self.clear_below = self.clear_below.max(self.next.saturating_sub(room));
        }
    }

    /// Looks at each record once: one that is due too soon to be moved will not be due later.
    fn choose(&mut self, now: Millis, records_max: usize, mut chosen: impl FnMut(i64)) {
        let mut count = 0;
        for (offset, held) in self.held.range(self.looked_below..) {
            let wanted = *offset < self.clear_below || self.clear_bytes > 0;
            if !wanted || count >= records_max {
                return;
            }
            self.looked_below = offset.saturating_add(1);
            if held.wakes_at.saturating_sub(now) > STAYS_MS {
                chosen(*offset);
                count += 1;
                self.clear_bytes = self.clear_bytes.saturating_sub(held.bytes);
            }
        }
        // All that is left is due soon.
        self.clear_bytes = 0;
    }
}

const fn share_of(whole: usize, (part, of): (usize, usize)) -> usize {
    // Divided first: the bounds may be as large as they like.
    whole / of * part
}

#[cfg(test)]
mod tests;
