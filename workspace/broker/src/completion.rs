//! Which records of a partition are finished: the watermark, and the map above it that rides in the commit.
//!
//! Records are handed out in offset order and finished in any order. The group commits the lowest unfinished offset, and
//! beside it, in the commit's metadata ([`metadata`]), what is finished above, so that whoever takes the partition over
//! neither loses nor repeats a record. Pure: no I/O, no clock, nothing of Kafka; both backends use it.

mod metadata;
#[cfg(test)]
mod proptests;

use std::collections::VecDeque;

pub use metadata::{METADATA_CHARS_MAX, MetadataError};
use metadata::{Map, RAW_BYTES_MAX, varint_len};

/// Bytes that every encoded map needs besides its runs or bits: version, form and a length.
const OVERHEAD_BYTES: u64 = 1 + 1 + 3;

/// Marks of started records for which a full window still has room.
const STARTS_KEPT: usize = 16;

/// What to do with a record that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// It is unfinished: hand it out.
    Open {
        /// It was marked as started before a crash: what it does may have happened already.
        started: bool,
    },
    /// It was finished before: skip it.
    Finished,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    offset: i64,
    finished: bool,
    started: bool,
}

/// The progress of one partition under one assignment.
#[derive(Debug, Clone)]
pub struct Completion {
    /// Every record that was read, from the lowest unfinished one on, in offset order; the first is unfinished.
    read: VecDeque<Entry>,
    /// The offset after the highest that was read; at first the committed one.
    next: i64,
    /// What the previous owner had finished or started at or above `next`.
    inherited: Map,
    open: usize,
    started: usize,
}

impl Completion {
    /// Starts at a committed offset with nothing finished above it.
    pub fn new(committed: i64) -> Self {
        Self {
            read: VecDeque::new(),
            next: committed,
            inherited: Map::default(),
            open: 0,
            started: 0,
        }
    }

    /// Takes over where a commit left off.
    ///
    /// # Errors
    /// When the metadata cannot be read. It must never be dropped then: the records it names would be repeated.
    pub fn resume(committed: i64, metadata: &str) -> Result<Self, MetadataError> {
        let mut completion = Self::new(committed);
        completion.inherited = Map::decode(committed, metadata)?;
        completion.skip_inherited();
        Ok(completion)
    }

    /// The offset to commit: the lowest unfinished one, else the one after the highest that was read.
    pub fn committed(&self) -> i64 {
        self.read.front().map_or(self.next, |entry| entry.offset)
    }

    /// The offset after the highest that was read.
    pub const fn next(&self) -> i64 {
        self.next
    }

    /// How many records were read and are not finished.
    pub const fn open(&self) -> usize {
        self.open
    }

    /// Whether the record at `offset` may be read now. While it may not, pause: some pattern of finished records would
    /// no longer fit the metadata. There is always room once everything that was read is finished.
    pub fn has_room(&self, offset: i64) -> bool {
        let started = self.started.max(STARTS_KEPT);
        offset < self.next || self.read.is_empty() || self.bytes_bound(offset, started) <= RAW_BYTES_MAX
    }

    /// Takes note of a record that was read from the log. Offsets that were jumped over (markers, compacted, aborted) will
    /// never come and count as finished. Reading again what was read before is allowed and says how it stands.
    pub fn read(&mut self, offset: i64) -> Reading {
        if offset < self.next {
            return match self.find(offset).and_then(|index| self.read.get(index)) {
                Some(entry) if !entry.finished => Reading::Open {
                    started: entry.started,
                },
                _ => Reading::Finished,
            };
        }
        let (finished, started) = self.inherited.pass(offset);
        self.next = offset.saturating_add(1);
        if !(finished && self.read.is_empty()) {
            self.read.push_back(Entry {
                offset,
                finished,
                started,
            });
        }
        self.started += usize::from(started);
        if finished {
            self.skip_inherited();
            return Reading::Finished;
        }
        self.open += 1;
        Reading::Open { started }
    }

    /// Marks a record as finished. Answers whether it was read and unfinished until now.
    pub fn finish(&mut self, offset: i64) -> bool {
        let Some(entry) = self.find(offset).and_then(|index| self.read.get_mut(index)) else {
            return false;
        };
        if entry.finished {
            return false;
        }
        entry.finished = true;
        self.started -= usize::from(entry.started);
        entry.started = false;
        self.open -= 1;
        while self.read.front().is_some_and(|entry| entry.finished) {
            self.read.pop_front();
        }
        self.skip_inherited();
        true
    }

    /// Marks a record as finished that was not read under this assignment yet, but was under an earlier one of the same
    /// owner. Answers whether it was unfinished until now.
    pub fn finish_unread(&mut self, offset: i64) -> bool {
        if offset < self.next || self.inherited.is_finished(offset) {
            return false;
        }
        self.inherited.finish(offset);
        self.skip_inherited();
        true
    }

    /// Whether the record at `offset` was read and is unfinished.
    pub fn is_open(&self, offset: i64) -> bool {
        self.find(offset)
            .and_then(|index| self.read.get(index))
            .is_some_and(|entry| !entry.finished)
    }

    /// Whether the record at `offset` is finished, as far as is known; `false` for one that was never heard of.
    pub fn is_finished(&self, offset: i64) -> bool {
        offset < self.committed()
            || self.inherited.is_finished(offset)
            || (offset < self.next && !self.is_open(offset))
    }

    /// Whether the record at `offset` is open and marked as started, as far as is known.
    pub fn is_started(&self, offset: i64) -> bool {
        match self.find(offset).and_then(|index| self.read.get(index)) {
            Some(entry) => entry.started,
            None => offset >= self.next && self.inherited.started.binary_search(&offset).is_ok(),
        }
    }

    /// Marks an open record as started, to be committed before its work begins. Answers whether the mark fits; when it does
    /// not, wait until others are finished.
    pub fn start(&mut self, offset: i64) -> bool {
        let fits = self.bytes_bound(self.next - 1, self.started + 1) <= RAW_BYTES_MAX;
        let Some(entry) = self.find(offset).and_then(|index| self.read.get_mut(index)) else {
            return false;
        };
        if entry.finished || entry.started {
            return entry.started;
        }
        if fits {
            entry.started = true;
            self.started += 1;
        }
        fits
    }

    /// What to commit beside [`Self::committed`]; empty when nothing is finished or started above it.
    pub fn metadata(&self) -> String {
        let mut map = Map::default();
        for entry in &self.read {
            // An offset that was jumped over takes the state of the record before it: fewer runs.
            map.extend_or_close(entry.offset, entry.finished);
            if entry.started {
                map.started.push(entry.offset);
            }
        }
        let read_ends_finished = self.read.back().is_some_and(|entry| entry.finished);
        map.close(self.next, read_ends_finished);
        map.append(&self.inherited);
        map.encode(self.committed())
    }

    fn find(&self, offset: i64) -> Option<usize> {
        self.read.binary_search_by_key(&offset, |entry| entry.offset).ok()
    }

    /// When nothing that was read is open, the watermark moves over what the previous owner had finished right there.
    fn skip_inherited(&mut self) {
        if self.read.is_empty() {
            self.next = self.inherited.skip_finished_at(self.next);
        }
    }

    /// The most bytes that the map could need once `offset` was read too, whatever is finished by then.
    fn bytes_bound(&self, offset: i64, started: usize) -> u64 {
        let end = self.inherited.end().max(offset.saturating_add(1));
        let span = end.saturating_sub(self.committed()).unsigned_abs();
        let varint = varint_len(span);
        let runs = (self.read.len() + 2 * self.inherited.finished.len() + 2) as u64 * varint;
        let starts = (started + self.inherited.started.len()) as u64 * varint;
        OVERHEAD_BYTES + span.div_ceil(8).min(runs) + starts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPEN: Reading = Reading::Open { started: false };

    #[test]
    fn the_lowest_unfinished_is_committed() {
        let mut completion = Completion::new(10);
        assert_eq!(completion.committed(), 10);
        for offset in [10, 11, 13] {
            assert_eq!(completion.read(offset), OPEN);
        }
        assert!(completion.finish(11));
        assert_eq!(completion.committed(), 10);
        assert!(completion.finish(10));
        assert_eq!(completion.committed(), 13, "12 was never there");
        assert!(completion.finish(13));
        assert_eq!((completion.committed(), completion.open()), (14, 0));
        assert!(!completion.finish(13), "only once");
        assert!(!completion.finish(20), "never read");
    }

    #[test]
    fn what_was_finished_above_is_skipped_after_a_take_over() {
        let mut first = Completion::new(0);
        for offset in 0..10 {
            first.read(offset);
        }
        for offset in [3, 4, 7] {
            first.finish(offset);
        }
        let mut second = Completion::resume(first.committed(), &first.metadata()).unwrap();
        let finished: Vec<i64> = (0..12).filter(|offset| second.is_finished(*offset)).collect();
        assert_eq!(finished, [3, 4, 7]);
        let open: Vec<i64> = (0..12).filter(|offset| second.read(*offset) == OPEN).collect();
        assert_eq!(open, [0, 1, 2, 5, 6, 8, 9, 10, 11]);
    }

    #[test]
    fn what_was_inherited_and_not_read_yet_is_handed_on() {
        let mut first = Completion::new(0);
        for offset in 0..10 {
            first.read(offset);
        }
        first.finish(5);
        let mut second = Completion::resume(first.committed(), &first.metadata()).unwrap();
        second.read(0);
        second.finish(0);
        let mut third = Completion::resume(second.committed(), &second.metadata()).unwrap();
        assert_eq!(third.committed(), 1);
        let open: Vec<i64> = (1..10).filter(|offset| third.read(*offset) == OPEN).collect();
        assert_eq!(open, [1, 2, 3, 4, 6, 7, 8, 9]);
    }

    #[test]
    fn the_watermark_moves_over_what_was_inherited() {
        let mut first = Completion::new(0);
        for offset in 0..4 {
            first.read(offset);
        }
        for offset in 1..4 {
            first.finish(offset);
        }
        let mut second = Completion::resume(first.committed(), &first.metadata()).unwrap();
        second.read(0);
        second.finish(0);
        assert_eq!((second.committed(), second.metadata()), (4, String::new()));
    }

    #[test]
    fn a_record_may_be_finished_before_it_is_read_again() {
        let mut completion = Completion::new(10);
        for offset in [12, 10, 14, 13] {
            assert!(completion.finish_unread(offset));
            assert!(!completion.finish_unread(offset), "only once");
        }
        assert_eq!(completion.committed(), 11);
        let open: Vec<i64> = (11..16)
            .filter(|offset| completion.read(*offset) == OPEN)
            .collect();
        assert_eq!(open, [11, 15]);
        assert!(!completion.finish_unread(11), "it was read");
    }

    #[test]
    fn a_started_record_is_known_after_a_take_over_until_it_is_finished() {
        let mut first = Completion::new(100);
        for offset in 100..110 {
            first.read(offset);
        }
        assert!(first.start(103));
        assert!(first.start(109));
        assert!(!first.start(200), "never read");
        assert!(first.is_started(103) && !first.is_started(104));
        let mut second = Completion::resume(first.committed(), &first.metadata()).unwrap();
        assert!(second.is_started(103) && second.is_started(109), "not read yet");
        assert!(!second.is_started(104));
        let started: Vec<i64> = (100..110)
            .filter(|offset| second.read(*offset) == Reading::Open { started: true })
            .collect();
        assert_eq!(started, [103, 109]);
        second.finish(103);
        assert!(!second.is_started(103));
        let mut third = Completion::resume(second.committed(), &second.metadata()).unwrap();
        assert_eq!(third.read(103), Reading::Finished);
        assert_eq!(third.read(109), Reading::Open { started: true });
    }

    #[test]
    fn a_full_window_still_fits_with_every_second_record_finished() {
        let mut completion = Completion::new(0);
        let mut offset = 0;
        while completion.has_room(offset) {
            completion.read(offset);
            offset += 1;
        }
        assert!(offset > 24_000, "a window of {offset} records");
        for finished in (1..offset).step_by(2) {
            completion.finish(finished);
        }
        assert!(completion.metadata().len() <= METADATA_CHARS_MAX);
        for started in (0..offset).step_by(2) {
            completion.start(started);
        }
        let metadata = completion.metadata();
        assert!(metadata.len() <= METADATA_CHARS_MAX, "{}", metadata.len());
        Completion::resume(0, &metadata).unwrap();
    }

    #[test]
    fn a_wide_gap_narrows_the_window_but_never_shuts_it() {
        let mut completion = Completion::new(0);
        completion.read(0);
        let mut offset = 1 << 40;
        let mut count = 0;
        while completion.has_room(offset) {
            completion.read(offset);
            completion.finish(offset);
            offset += 2;
            count += 1;
            completion.read(offset);
            offset += 1;
        }
        assert!(count > 100, "{count}");
        assert!(completion.metadata().len() <= METADATA_CHARS_MAX);
    }
}
