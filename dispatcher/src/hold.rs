//! When to stop reading for a moment instead of parking. Pure: time comes in as an argument.
//!
//! While a quick account is merely busy, its queue is empty again soon: leaving the rest on the log costs nothing, parking it
//! costs two more hops an event. But what others have behind it on the log waits too. So reading stops for a while, then looks
//! a little further: where that finds only more of what waits already, it stops again at once; where it finds events that
//! could go before those, it reads on for as long as it had stopped.

use std::time::Duration;

use tokio::time::Instant;

/// Longest time for which reading stops at a stretch, for the sake of an account that empties its queue soon,
pub const BRIEFLY: Duration = Duration::from_secs(2);
/// and of one that does not: what waits for it is parked in the end, but never so much at once that nothing else gets done.
pub const HARDLY: Duration = Duration::from_millis(100);

/// Records that are looked at before reading stops again because none of them could have gone before others.
const LOOK_RECORDS: u32 = 256;

/// Whether reading has stopped, and for how long it may.
#[derive(Debug)]
pub struct Hold {
    /// Time held, less the time read since.
    held: Duration,
    holding: bool,
    last: Instant,
    /// Reading goes on, though it was wanted to stop.
    looking: bool,
    /// Records that were read since then, and whether one of them was of another kind than those that wait.
    looked: u32,
    found: bool,
}

impl Hold {
    /// Reading goes on.
    pub const fn new(now: Instant) -> Self {
        Self {
            held: Duration::ZERO,
            holding: false,
            last: now,
            looking: false,
            looked: 0,
            found: false,
        }
    }

    /// A record was read that has to wait. `is_other`: those that wait are of another account, tenant or priority.
    pub const fn read(&mut self, is_other: bool) {
        self.looked = self.looked.saturating_add(1);
        self.found |= is_other;
    }

    /// Whether reading stops now. `wanted`: for how long at a stretch, if that would help.
    pub fn holds(&mut self, wanted: Option<Duration>, now: Instant) -> bool {
        let held_max = wanted.unwrap_or(BRIEFLY);
        let passed = now.saturating_duration_since(self.last);
        self.last = now;
        if self.holding {
            self.held = (self.held + passed).min(held_max);
            if self.held == held_max {
                (self.looking, self.looked, self.found) = (true, 0, false);
            }
        } else {
            self.held = self.held.saturating_sub(passed);
            if self.looked >= LOOK_RECORDS && !self.found {
                self.held = Duration::ZERO;
            }
            self.looking &= !self.held.is_zero();
        }
        self.holding = wanted.is_some() && !self.looking;
        self.holding
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How long reading stops when each millisecond that it does not brings ten records.
    fn held_ms(wanted: impl Fn(u64) -> bool, is_other: bool, until_ms: u64) -> u64 {
        let start = Instant::now();
        let mut hold = Hold::new(start);
        let mut held = 0;
        for ms in 0..until_ms {
            if hold.holds(wanted(ms).then_some(BRIEFLY), start + Duration::from_millis(ms)) {
                held += 1;
            } else {
                (0..10).for_each(|_| hold.read(is_other));
            }
        }
        held
    }

    #[test]
    fn a_burst_is_held_whole_and_a_flood_half_of_the_time() {
        assert_eq!(held_ms(|_| false, true, 1_000), 0);
        assert_eq!(held_ms(|ms| ms < 1_500, true, 10_000), 1_500);
        let flood = held_ms(|_| true, true, 62_000);
        assert!((31_500..=32_500).contains(&flood), "{flood}");
    }

    #[test]
    fn a_flood_that_hides_nobody_is_held_but_for_a_look_now_and_then() {
        let flood = held_ms(|_| true, false, 62_000);
        let looks = 62_000 - flood;
        assert!((25 * 30..=30 * 32).contains(&looks), "{looks}");
    }

    #[test]
    fn a_slow_account_is_waited_for_no_more_than_a_moment() {
        let start = Instant::now();
        let mut hold = Hold::new(start);
        let held = (0..1_000).filter(|ms| hold.holds(Some(HARDLY), start + Duration::from_millis(*ms)));
        assert!((490..=510).contains(&held.count()));
    }
}
