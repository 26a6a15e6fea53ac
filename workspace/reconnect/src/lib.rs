//! The waits between attempts to reach a broker or a store again.
//!
//! The one place that uses the `backoff` crate, which is unmaintained (RUSTSEC-2025-0012; see `deny.toml`): nothing of it
//! shows in this interface. Retries of events are not made here; the rule engine computes those itself.

use std::time::Duration;

use backoff::{ExponentialBackoff, ExponentialBackoffBuilder, backoff::Backoff as _};

/// An endless series of waits that double from `first` up to `max`, each varied by up to a half so that many processes
/// do not come back at once.
#[derive(Debug)]
pub struct Reconnect {
    waits: ExponentialBackoff,
    max: Duration,
}

impl Reconnect {
    /// Starts a series.
    pub fn new(first: Duration, max: Duration) -> Self {
        let waits = ExponentialBackoffBuilder::new()
            .with_initial_interval(first)
            .with_max_interval(max)
            .with_multiplier(2.0)
            .with_randomization_factor(0.5)
            .with_max_elapsed_time(None)
            .build();
        Self { waits, max }
    }

    /// How long to wait before the next attempt.
    pub fn next_wait(&mut self) -> Duration {
        self.waits.next_backoff().unwrap_or(self.max)
    }

    /// Starts over, after an attempt that succeeded.
    pub fn reset(&mut self) {
        self.waits.reset();
    }
}

impl Default for Reconnect {
    /// From 100 ms up to 5 s.
    fn default() -> Self {
        Self::new(Duration::from_millis(100), Duration::from_secs(5))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_never_end_and_start_over() {
        let mut waits = Reconnect::new(Duration::from_millis(100), Duration::from_secs(1));
        let first = waits.next_wait();
        assert!(first <= Duration::from_millis(150), "{first:?}");
        for _ in 0..100 {
            assert!(waits.next_wait() <= Duration::from_millis(1_500));
        }
        assert!(waits.next_wait() >= Duration::from_millis(500));
        waits.reset();
        assert!(waits.next_wait() <= Duration::from_millis(150));
    }
}
