//! The commit metadata, version 1: what is finished and what is started, relative to the committed offset.
//!
//! Base64url without padding, at most [`METADATA_CHARS_MAX`] characters (Kafka's default `offset.metadata.max.bytes`):
//!
//! | bytes | what |
//! |---|---|
//! | u8 | version: 1 |
//! | u8 | form: 0 bitmap, 1 runs; the writer takes the smaller |
//! | varint | bytes of the bitmap, or number of runs |
//! | ... | bitmap: bit n (lowest first) is set when committed + n is finished; the last byte is not 0. Runs: lengths as varints, all above 0, unfinished and finished in turn, unfinished first, finished last |
//! | ... | to the end: started offsets, ascending, each as the varint distance to the one before; the first to the committed one |
//!
//! Varints are LEB128, unsigned, shortest form. An empty text means that nothing is finished or started.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};

/// The longest text that a commit may carry, in characters.
pub const METADATA_CHARS_MAX: usize = 4_096;

/// What fits into [`METADATA_CHARS_MAX`] characters of base64, in bytes.
pub(super) const RAW_BYTES_MAX: u64 = (METADATA_CHARS_MAX / 4 * 3) as u64;

const VERSION: u8 = 1;
const BITMAP: u8 = 0;
const RUNS: u8 = 1;

/// Why commit metadata cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MetadataError {
    /// Longer than any map is.
    #[error("{chars} characters long; at most {METADATA_CHARS_MAX} are accepted")]
    TooLong {
        /// Its length.
        chars: usize,
    },
    /// Not base64url.
    #[error("not base64url")]
    Text,
    /// Written by another version of Posthaste, or by somebody else.
    #[error("version {found}; this program reads version {VERSION}")]
    Version {
        /// The version that was found.
        found: u8,
    },
    /// It breaks off or contradicts itself.
    #[error("{0}")]
    Broken(&'static str),
}

/// Finished ranges and started offsets, both ascending and absolute.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Map {
    /// Start and end (exclusive) of each range of finished offsets; no two touch.
    pub(super) finished: std::collections::VecDeque<(i64, i64)>,
    pub(super) started: Vec<i64>,
    /// Where a finished range is being built from.
    since: Option<i64>,
}

impl Map {
    /// The offset after the last that is named, or the lowest possible.
    pub(super) fn end(&self) -> i64 {
        let finished = self.finished.back().map_or(i64::MIN, |(_, end)| *end);
        let started = self.started.last().map_or(i64::MIN, |offset| offset + 1);
        finished.max(started)
    }

    /// Says how `offset` stands and forgets everything up to it.
    pub(super) fn pass(&mut self, offset: i64) -> (bool, bool) {
        while self.finished.front().is_some_and(|(_, end)| *end <= offset) {
            self.finished.pop_front();
        }
        let finished = match self.finished.front_mut() {
            Some(range) if range.0 <= offset => {
                range.0 = offset + 1;
                true
            }
            _ => false,
        };
        if self.finished.front().is_some_and(|(start, end)| start >= end) {
            self.finished.pop_front();
        }
        let passed = self.started.partition_point(|started| *started < offset);
        let started = self.started.get(passed) == Some(&offset);
        self.started.drain(..passed + usize::from(started));
        (finished, started)
    }

    /// Whether `offset` lies in a finished range.
    pub(super) fn is_finished(&self, offset: i64) -> bool {
        let range = self.finished.partition_point(|(_, end)| *end <= offset);
        self.finished
            .get(range)
            .is_some_and(|(start, _)| *start <= offset)
    }

    /// Adds an offset to the finished ones.
    pub(super) fn finish(&mut self, offset: i64) {
        self.started.retain(|started| *started != offset);
        let at = self.finished.partition_point(|(_, end)| *end < offset);
        match self.finished.get_mut(at) {
            Some((start, end)) if *end == offset || *start == offset + 1 => {
                *start = (*start).min(offset);
                *end = (*end).max(offset + 1);
            }
            _ => self.finished.insert(at, (offset, offset + 1)),
        }
        if let (Some(range), Some(next)) =
            (self.finished.get(at).copied(), self.finished.get(at + 1).copied())
            && range.1 == next.0
        {
            self.finished.remove(at + 1);
            if let Some(range) = self.finished.get_mut(at) {
                range.1 = next.1;
            }
        }
    }

    /// The first offset from `next` on that is not finished; forgets the range it jumps over.
    pub(super) fn skip_finished_at(&mut self, next: i64) -> i64 {
        match self.finished.front() {
            Some((start, end)) if *start <= next && next < *end => {
                let end = *end;
                self.finished.pop_front();
                end
            }
            _ => next,
        }
    }

    /// While building: from `offset` on, offsets are finished or not.
    pub(super) fn extend_or_close(&mut self, offset: i64, finished: bool) {
        if finished {
            self.since.get_or_insert(offset);
        } else if let Some(since) = self.since.take() {
            self.finished.push_back((since, offset));
        }
    }

    /// Ends building at `end`.
    pub(super) fn close(&mut self, end: i64, finished: bool) {
        self.extend_or_close(end, false);
        debug_assert!(!finished || self.finished.back().is_some_and(|(_, last)| *last == end));
    }

    /// Adds what comes after everything here.
    pub(super) fn append(&mut self, later: &Self) {
        let mut ranges = later.finished.iter().copied();
        if let (Some(last), Some(first)) = (self.finished.back_mut(), later.finished.front())
            && last.1 == first.0
        {
            last.1 = first.1;
            ranges.next();
        }
        self.finished.extend(ranges);
        self.started.extend_from_slice(&later.started);
    }

    /// The text for a commit at `committed`, which lies before every range.
    pub(super) fn encode(&self, committed: i64) -> String {
        if self.finished.is_empty() && self.started.is_empty() {
            return String::new();
        }
        let mut runs = Vec::new();
        let mut at = committed;
        for (start, end) in &self.finished {
            put_varint(&mut runs, distance(at, *start));
            put_varint(&mut runs, distance(*start, *end));
            at = *end;
        }
        let mut raw = vec![VERSION];
        let bitmap_bytes = distance(committed, at).div_ceil(8);
        if bitmap_bytes < runs.len() as u64 {
            raw.push(BITMAP);
            put_varint(&mut raw, bitmap_bytes);
            self.put_bitmap(&mut raw, committed, bitmap_bytes as usize);
        } else {
            raw.push(RUNS);
            put_varint(&mut raw, 2 * self.finished.len() as u64);
            raw.append(&mut runs);
        }
        let mut at = committed;
        for offset in &self.started {
            put_varint(&mut raw, distance(at, *offset));
            at = *offset;
        }
        BASE64.encode(raw)
    }

    fn put_bitmap(&self, raw: &mut Vec<u8>, committed: i64, bytes: usize) {
        let first = raw.len();
        raw.resize(first + bytes, 0);
        let Some(bitmap) = raw.get_mut(first..) else {
            return;
        };
        for (start, end) in &self.finished {
            for bit in distance(committed, *start)..distance(committed, *end) {
                if let Some(byte) = bitmap.get_mut((bit / 8) as usize) {
                    *byte |= 1 << (bit % 8);
                }
            }
        }
    }

    /// Reads the text of a commit at `committed`.
    pub(super) fn decode(committed: i64, text: &str) -> Result<Self, MetadataError> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        if text.len() > METADATA_CHARS_MAX {
            return Err(MetadataError::TooLong { chars: text.len() });
        }
        let raw = BASE64.decode(text).map_err(|_| MetadataError::Text)?;
        let (version, rest) = raw.split_first().ok_or(MetadataError::Broken("it is empty"))?;
        if *version != VERSION {
            return Err(MetadataError::Version { found: *version });
        }
        let (form, rest) = rest
            .split_first()
            .ok_or(MetadataError::Broken("it has no form"))?;
        let mut rest = rest;
        let length = take_varint(&mut rest)?;
        let mut map = Self::default();
        match *form {
            BITMAP => map.take_bitmap(committed, length, &mut rest)?,
            RUNS => map.take_runs(committed, length, &mut rest)?,
            _ => return Err(MetadataError::Broken("its form is neither bitmap nor runs")),
        }
        map.take_started(committed, rest)?;
        Ok(map)
    }

    fn take_bitmap(&mut self, committed: i64, bytes: u64, rest: &mut &[u8]) -> Result<(), MetadataError> {
        const SHORT: MetadataError = MetadataError::Broken("the bitmap breaks off");
        let bytes = usize::try_from(bytes).map_err(|_| SHORT)?;
        let (bitmap, after) = rest.split_at_checked(bytes).ok_or(SHORT)?;
        if bitmap.last() == Some(&0) {
            return Err(MetadataError::Broken("the bitmap ends in nothing"));
        }
        let mut offset = committed;
        for byte in bitmap {
            for bit in 0..8 {
                self.extend_or_close(offset, byte >> bit & 1 == 1);
                offset = later(offset, 1)?;
            }
        }
        self.extend_or_close(offset, false);
        *rest = after;
        Ok(())
    }

    fn take_runs(&mut self, committed: i64, runs: u64, rest: &mut &[u8]) -> Result<(), MetadataError> {
        if !runs.is_multiple_of(2) {
            return Err(MetadataError::Broken("the runs do not end finished"));
        }
        let mut at = committed;
        for _ in 0..runs / 2 {
            let unfinished = take_varint(rest)?;
            let finished = take_varint(rest)?;
            if unfinished == 0 || finished == 0 {
                return Err(MetadataError::Broken("a run is empty"));
            }
            let start = later(at, unfinished)?;
            at = later(start, finished)?;
            self.finished.push_back((start, at));
        }
        Ok(())
    }

    fn take_started(&mut self, committed: i64, mut rest: &[u8]) -> Result<(), MetadataError> {
        let mut at = committed;
        while !rest.is_empty() {
            let distance = take_varint(&mut rest)?;
            if distance == 0 && !self.started.is_empty() {
                return Err(MetadataError::Broken("a started offset comes twice"));
            }
            at = later(at, distance)?;
            if self.is_finished(at) {
                return Err(MetadataError::Broken("an offset is both started and finished"));
            }
            self.started.push(at);
        }
        Ok(())
    }
}

/// Length of a varint, in bytes.
pub(super) const fn varint_len(value: u64) -> u64 {
    let bits = 64 - value.leading_zeros() as u64;
    if bits == 0 { 1 } else { bits.div_ceil(7) }
}

fn put_varint(raw: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        raw.push(value as u8 | 0x80);
        value >>= 7;
    }
    raw.push(value as u8);
}

fn take_varint(rest: &mut &[u8]) -> Result<u64, MetadataError> {
    let mut value = 0_u64;
    for shift in (0..63).step_by(7) {
        let (byte, after) = rest
            .split_first()
            .ok_or(MetadataError::Broken("a number breaks off"))?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return if *byte == 0 && shift > 0 {
                Err(MetadataError::Broken("a number is longer than it must be"))
            } else {
                Ok(value)
            };
        }
    }
    Err(MetadataError::Broken("a number is too large"))
}

/// How far `to` is above `from`; ranges are ascending, so never negative.
fn distance(from: i64, to: i64) -> u64 {
    debug_assert!(from <= to);
    to.saturating_sub(from).unsigned_abs()
}

fn later(offset: i64, distance: u64) -> Result<i64, MetadataError> {
    // The highest offset is left free: one after it must exist.
    offset
        .checked_add_unsigned(distance)
        .filter(|offset| *offset < i64::MAX)
        .ok_or(MetadataError::Broken("an offset is too large"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(finished: &[(i64, i64)], started: &[i64]) -> Map {
        Map {
            finished: finished.iter().copied().collect(),
            started: started.to_vec(),
            since: None,
        }
    }

    #[test]
    fn the_text_is_frozen() {
        for (finished, started, text) in [
            (vec![], vec![], ""),
            (vec![(1_003, 1_005)], vec![], "AQABGA"),
            (vec![(1_003, 1_300)], vec![], "AQECA6kC"),
            (
                vec![(1_001, 1_002), (1_003, 1_004), (1_008, 1_009)],
                vec![],
                "AQACCgE",
            ),
            (vec![(1_003, 1_005)], vec![1_000, 1_200], "AQABGADIAQ"),
            (vec![], vec![1_007], "AQEABw"),
        ] {
            let map = map(&finished, &started);
            assert_eq!(map.encode(1_000), text, "{map:?}");
            assert_eq!(Map::decode(1_000, text), Ok(map));
        }
    }

    #[test]
    fn what_is_not_ours_is_an_error_and_never_dropped() {
        for (text, expected) in [
            ("somebody else's", "not base64url"),
            ("AQABGA==", "not base64url"),
            ("AgABGA", "version 2; this program reads version 1"),
            ("AQ", "it has no form"),
            ("AQJBGA", "its form is neither bitmap nor runs"),
            ("AQACGA", "the bitmap breaks off"),
            ("AQABAA", "the bitmap ends in nothing"),
            ("AQECAw", "a number breaks off"),
            ("AQEBAw", "the runs do not end finished"),
            ("AQECAAM", "a run is empty"),
            ("AQEC______________8B", "a number is too large"),
            ("AQEAgAA", "a number is longer than it must be"),
            ("AQEABwA", "a started offset comes twice"),
            ("AQABGAM", "an offset is both started and finished"),
        ] {
            let error = Map::decode(1_000, text).unwrap_err();
            assert_eq!(error.to_string(), expected, "{text}");
        }
        let error = Map::decode(0, &"A".repeat(4_097)).unwrap_err();
        assert_eq!(error, MetadataError::TooLong { chars: 4_097 });
        let error = Map::decode(i64::MAX - 2, "AQECAgI").unwrap_err();
        assert_eq!(error.to_string(), "an offset is too large");
    }
}
