//! Load on HTTP, from this process: closed-loop for throughput, open-loop for latency.

mod bulk;
mod closed;
mod open;

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;

use crate::trouble::Trouble;

pub use bulk::{Bulk, Line, Taken};
pub use closed::Closed;
pub use open::Open;

/// Longest latency that a histogram tells apart, in microseconds: ten minutes.
const LATENCY_MAX_US: u64 = 600_000_000;

/// How many ids of answers are kept, at most: to look some events up afterwards.
const IDS_MAX: usize = 512;

/// An empty histogram of microseconds, to three digits.
#[expect(
    clippy::expect_used,
    reason = "the bounds are constants that the crate takes; a test makes one"
)]
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_MAX_US, 3).expect("constants in range")
}

/// What became of a load.
#[derive(Debug)]
pub struct Loaded {
    /// Answered with 2xx.
    pub accepted: u64,
    /// Answered with anything else, or not at all.
    pub failed: u64,
    /// What the first of those said.
    pub first_failure: Option<String>,
    /// From the first request to the last answer.
    pub elapsed: Duration,
    /// When the first request went out.
    pub begun: Instant,
    /// From when a request went out (closed) or should have gone out (open) to its answer, in microseconds.
    pub latency: Histogram<u64>,
    /// How late requests went out, in microseconds (open).
    pub lateness: Histogram<u64>,
    /// Processor time of the generator.
    pub time: Duration,
    /// Ids of some events that were accepted, the last of each connection among them.
    pub ids: Vec<String>,
}

impl Loaded {
    fn new(begun: Instant) -> Self {
        Self {
            accepted: 0,
            failed: 0,
            first_failure: None,
            elapsed: Duration::ZERO,
            begun,
            latency: histogram(),
            lateness: histogram(),
            time: Duration::ZERO,
            ids: Vec::new(),
        }
    }

    /// Answers a second.
    pub fn rate(&self) -> f64 {
        self.accepted as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }

    /// Itself, unless something was not accepted.
    ///
    /// # Errors
    /// When a request failed, with what was said.
    pub fn all_accepted(self) -> Result<Self, Trouble> {
        match &self.first_failure {
            None => Ok(self),
            Some(said) => Err(Trouble::said(format!(
                "{} of {} requests failed; the first: {said}",
                self.failed,
                self.failed + self.accepted
            ))),
        }
    }

    fn fail(&mut self, said: impl Into<String>) {
        self.failed += 1;
        self.first_failure.get_or_insert_with(|| said.into());
    }

    fn merge(&mut self, other: Self) {
        self.accepted += other.accepted;
        self.failed += other.failed;
        self.first_failure = self.first_failure.take().or(other.first_failure);
        self.time += other.time;
        // Both have the same bounds.
        let _ = self.latency.add(&other.latency);
        let _ = self.lateness.add(&other.lateness);
        let room = IDS_MAX.saturating_sub(self.ids.len());
        self.ids.extend(other.ids.into_iter().take(room));
    }
}

/// When each event's request went out, or should have.
#[derive(Debug)]
pub struct Times {
    base: Instant,
    first: u64,
    slots: Box<[AtomicU64]>,
}

impl Times {
    /// For events numbered from `first` on.
    pub fn new(first: u64, count: u64) -> Self {
        Self {
            base: Instant::now(),
            first,
            slots: (0..count).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// Notes this time unless one is noted; false for a number that is not among them.
    pub fn note(&self, number: u64, at: Instant) -> bool {
        let Some(slot) = self.slot(number) else {
            return false;
        };
        // One more: zero stands for none.
        let nanos = u64::try_from(at.duration_since(self.base).as_nanos()).unwrap_or(u64::MAX - 1) + 1;
        slot.compare_exchange(0, nanos, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
    }

    /// The time noted.
    pub fn of(&self, number: u64) -> Option<Instant> {
        match self.slot(number)?.load(Ordering::Relaxed) {
            0 => None,
            nanos => Some(self.base + Duration::from_nanos(nanos - 1)),
        }
    }

    fn slot(&self, number: u64) -> Option<&AtomicU64> {
        self.slots
            .get(usize::try_from(number.checked_sub(self.first)?).ok()?)
    }
}

/// Whole microseconds.
fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Puts a duration into a histogram, at its end if it is longer than that.
pub fn record(histogram: &mut Histogram<u64>, duration: Duration) {
    histogram.saturating_record(micros(duration).max(1));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_time_of_an_event_is_kept() {
        let times = Times::new(10, 2);
        let (first, second) = (Instant::now(), Instant::now() + Duration::from_secs(1));
        assert!(times.note(11, first) && !times.note(11, second));
        assert!(!times.note(12, first) && !times.note(9, first));
        assert_eq!((times.of(10), times.of(12)), (None, None));
        assert!(times.of(11).is_some_and(|at| at < second));
    }

    #[test]
    fn what_is_longer_than_a_histogram_is_at_its_end() {
        let mut latency = histogram();
        record(&mut latency, Duration::from_secs(10_000));
        assert!(latency.max() >= LATENCY_MAX_US);
    }
}
