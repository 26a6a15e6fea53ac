//! When to stop reading for a moment instead of parking. Pure: time comes in as an argument.
//!
//! While a quick account is merely busy, its queue is empty again within a second: leaving the rest on the log costs
//! nothing, parking it costs two more hops an event. But what others have behind it on the log waits too. So reading
//! stops for a burst, and for half of the time at most when the flood goes on.

use std::time::Duration;

use tokio::time::Instant;

/// Longest time for which reading stops at a stretch.
const HELD_MAX: Duration = Duration::from_secs(2);

/// Whether reading has stopped, and for how long it may.
#[derive(Debug)]
pub struct Hold {
    /// Time held, less the time read since.
    held: Duration,
    holding: bool,
    last: Instant,
}

impl Hold {
    /// Reading goes on.
    pub const fn new(now: Instant) -> Self {
        Self {
            held: Duration::ZERO,
            holding: false,
            last: now,
        }
    }

    /// Whether reading stops now; `wanted` says whether it would help.
    pub fn holds(&mut self, wanted: bool, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.last);
        self.last = now;
        if self.holding {
            self.held = (self.held + passed).min(HELD_MAX);
        } else {
            self.held = self.held.saturating_sub(passed);
        }
        self.holding = wanted && self.held < HELD_MAX;
        self.holding
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held_ms(wanted: impl Fn(u64) -> bool, until_ms: u64) -> u64 {
        let start = Instant::now();
        let mut hold = Hold::new(start);
        (0..until_ms)
            .filter(|ms| hold.holds(wanted(*ms), start + Duration::from_millis(*ms)))
            .count() as u64
    }

    #[test]
    fn a_burst_is_held_whole_and_a_flood_half_of_the_time() {
        assert_eq!(held_ms(|_| false, 1_000), 0);
        assert_eq!(held_ms(|ms| ms < 1_500, 10_000), 1_500);
        let flood = held_ms(|_| true, 62_000);
        assert!((31_500..=32_500).contains(&flood), "{flood}");
    }
}
