//! A histogram of durations: fixed bounds, counted without a lock.
//!
//! The library's own holds a mutex while it counts; dispatchers count from many tasks at once.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// Upper bounds, in milliseconds: fine where promises are made (p99 of a first attempt, lateness under 100 ms), and up to
/// the days that a retry may take.
const BOUNDS_MS: [u64; 19] = [
    1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 30_000, 60_000, 300_000, 1_800_000,
    14_400_000, 86_400_000,
];

const MICROS: u64 = 1_000;

/// How long something took, over and over.
#[derive(Debug, Default)]
pub struct Histogram {
    /// One for each bound, and one for what lies above all.
    buckets: [AtomicU64; BOUNDS_MS.len() + 1],
    sum_micros: AtomicU64,
}

/// What a histogram held at one moment.
pub(super) struct Shown {
    /// In seconds.
    pub sum: f64,
    pub count: u64,
    /// Upper bounds in seconds, the last of which is infinite, with what lies between it and the one before.
    pub buckets: Vec<(f64, u64)>,
}

impl Histogram {
    /// Counts a difference of two times, in milliseconds. One that went backwards, by clocks that differ, counts as nothing.
    pub fn observe_ms(&self, ms: i64) {
        self.count(u64::try_from(ms).unwrap_or(0).saturating_mul(MICROS));
    }

    /// Counts a duration.
    pub fn observe(&self, duration: Duration) {
        self.count(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX));
    }

    fn count(&self, micros: u64) {
        let bucket = BOUNDS_MS.partition_point(|bound| bound * MICROS < micros);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum_micros.fetch_add(micros, Ordering::Relaxed);
    }

    /// How many were counted.
    pub fn total(&self) -> u64 {
        self.buckets
            .iter()
            .map(|bucket| bucket.load(Ordering::Relaxed))
            .sum()
    }

    /// `None` when nothing was counted.
    pub(super) fn shown(&self) -> Option<Shown> {
        let counts: Vec<u64> = self
            .buckets
            .iter()
            .map(|bucket| bucket.load(Ordering::Relaxed))
            .collect();
        let count = counts.iter().sum();
        let bounds = BOUNDS_MS.iter().map(|ms| *ms as f64 / 1e3).chain([f64::INFINITY]);
        (count > 0).then(|| Shown {
            sum: self.sum_micros.load(Ordering::Relaxed) as f64 / 1e6,
            count,
            buckets: bounds.zip(counts).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_on_a_bound_belongs_below_it_and_none_gets_lost() {
        let histogram = Histogram::default();
        assert!(histogram.shown().is_none());
        for ms in [-5, 0, 1, 2, 3, 86_400_000, 86_400_001] {
            histogram.observe_ms(ms);
        }
        let shown = histogram.shown().unwrap();
        assert_eq!(shown.count, 7);
        let counts: Vec<u64> = shown.buckets.iter().map(|(_, count)| *count).collect();
        assert_eq!(
            (counts[0], counts[1], counts[2], counts[18], counts[19]),
            (3, 1, 1, 1, 1)
        );
    }

    #[test]
    fn the_sum_keeps_fractions_of_a_millisecond() {
        let histogram = Histogram::default();
        histogram.observe(Duration::from_micros(1_500));
        histogram.observe(Duration::from_micros(250));
        assert_eq!(histogram.shown().unwrap().sum, 0.001_75);
    }
}
