//! Until when an event is put off that waits for its turn: pure.
//!
//! Nobody tells an event in the wheel that its turn has come: it comes back and looks. So that it neither comes too often nor
//! stays away too long, it is put off until the event whose turn it is may go, and by as many sends as there are before its
//! own, at the pace at which the key moves. The next few come a little early and wait in memory: one that is late would hold
//! up all behind it.

use posthaste_event::Millis;

use super::view::{Known, Spot};

/// Assumed for a key of which nothing was sent yet, in milliseconds.
const PACE_MS_ASSUMED: f64 = 10.0;
/// Slowest pace that is counted on, in milliseconds: coming too early costs two hops, coming too late holds up the key.
const PACE_MS_MAX: f64 = 2_000.0;
/// Weights of a new measurement in the running mean, when the key has become faster or slower.
const PACE_GAINS: (f64, f64) = (0.5, 0.0625);
/// Longest wait when nobody knows what the first of them waits for, in milliseconds.
const BLIND_MS_MAX: Millis = 30_000;
/// The event whose turn it is gets so much of a start before those behind it, in milliseconds.
const START_MS: Millis = 50;

/// Bounds of a wait.
#[derive(Debug, Clone, Copy)]
pub struct Between {
    /// Shortest, in milliseconds.
    pub ms_min: u32,
    /// Longest, in milliseconds.
    pub ms_max: u32,
    /// So many of the next ones may wait in memory.
    pub near: u64,
}

/// How one key's events follow each other.
#[derive(Debug)]
pub struct Queueing {
    pace_ms: f64,
    went_at: Option<Millis>,
    reached: Option<Spot>,
    /// When the key was last seen to move.
    moved_at: Millis,
}

impl Queueing {
    /// A key that is seen for the first time.
    pub const fn new(now: Millis) -> Self {
        Self {
            pace_ms: PACE_MS_ASSUMED,
            went_at: None,
            reached: None,
            moved_at: now,
        }
    }

    /// Every place up to `reached` is known to be done.
    pub fn see(&mut self, reached: Option<Spot>, now: Millis) {
        if reached > self.reached {
            self.reached = reached;
            self.moved_at = now;
        }
    }

    /// Every place up to this one is done.
    pub fn reached(&self) -> Option<u64> {
        self.reached.map(|spot| spot.seq)
    }

    /// How many come before `nth`, without the one whose turn it is.
    pub fn ahead(&self, nth: u64) -> u64 {
        let reached = self.reached.map_or(0, |spot| spot.nth);
        nth.saturating_sub(reached.saturating_add(1))
    }

    /// One of the key goes.
    pub const fn goes(&mut self, now: Millis) {
        self.went_at = Some(now);
        self.moved_at = now;
    }

    /// It is over; `is_final` if the next one may go.
    pub fn ended(&mut self, is_final: bool, now: Millis) {
        self.moved_at = now;
        let Some(before) = self.went_at.take().filter(|_| is_final) else {
            return;
        };
        let took_ms = now.saturating_sub(before).max(0) as f64;
        let gain = if took_ms < self.pace_ms {
            PACE_GAINS.0
        } else {
            PACE_GAINS.1
        };
        self.pace_ms = ((took_ms - self.pace_ms) * gain + self.pace_ms).min(PACE_MS_MAX);
    }

    /// For how long the key has not moved though it could, in milliseconds; `until`: as long as the event waits whose turn it
    /// is.
    pub fn stuck_ms(&self, until: Option<Millis>, now: Millis) -> Millis {
        let since = until.map_or(self.moved_at, |until| until.max(self.moved_at));
        now.saturating_sub(since).max(0)
    }

    /// Puts one off: until when.
    pub fn put_off(&mut self, known: Known, nth: u64, between: Between, now: Millis) -> Millis {
        self.see(known.reached, now);
        let begins = match known.until {
            Some(until) if until > now => until.saturating_add(START_MS),
            _ if self.went_at.is_some() => now,
            // Each further wait is as long as all before.
            until => now.saturating_add(self.stuck_ms(until, now).min(BLIND_MS_MAX)),
        };
        // Half of those that may wait in memory come before they must.
        let ahead = self.ahead(nth).saturating_sub(between.near / 2);
        begins
            .saturating_add((self.pace_ms * ahead as f64) as Millis)
            .max(now.saturating_add(Millis::from(between.ms_min)))
            .min(now.saturating_add(Millis::from(between.ms_max)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Millis = 1_700_000_000_000;
    const BETWEEN: Between = Between {
        ms_min: 1_000,
        ms_max: 900_000,
        near: 128,
    };

    fn known(nth: Option<u64>, until: Option<Millis>) -> Known {
        Known {
            reached: nth.map(|nth| Spot { seq: nth * 10, nth }),
            until,
        }
    }

    #[test]
    fn followers_come_back_one_after_the_other_when_the_first_may_go() {
        let mut queueing = Queueing::new(NOW);
        let waits = known(None, Some(NOW + 600_000));
        let mut wait = |nth| queueing.put_off(waits, nth, BETWEEN, NOW) - NOW;
        assert_eq!(
            [2, 65, 66, 67].map(&mut wait),
            [600_050, 600_050, 600_060, 600_070]
        );
        assert_eq!(wait(100_000), 900_000, "never longer");
        let moved = known(Some(1_000), None);
        let due = queueing.put_off(moved, 2_065, BETWEEN, NOW);
        assert_eq!(due, NOW + 10_000, "whoever put the others off");
        let due = queueing.put_off(moved, 7, BETWEEN, NOW);
        assert_eq!(due, NOW + 1_000, "its turn has passed");
    }

    #[test]
    fn without_a_hint_each_wait_is_as_long_as_the_key_is_stuck() {
        let mut queueing = Queueing::new(NOW);
        let mut waits_ms = Vec::new();
        let mut now = NOW;
        for _ in 0..8 {
            let due = queueing.put_off(known(None, None), 2, BETWEEN, now);
            waits_ms.push((due - now) / 1_000);
            now = due;
        }
        assert_eq!(waits_ms, [1, 1, 2, 4, 8, 16, 30, 30]);
        let moved = known(Some(7), None);
        assert_eq!(queueing.put_off(moved, 9, BETWEEN, now), now + 1_000, "it moved");
        let now = now + 9_000;
        let waited = known(Some(7), Some(now - 3_000));
        assert_eq!(queueing.put_off(waited, 9, BETWEEN, now), now + 3_000);
        queueing.goes(now);
        assert_eq!(
            queueing.put_off(waited, 9, BETWEEN, now),
            now + 1_000,
            "it is being sent"
        );
    }

    #[test]
    fn the_pace_is_that_of_the_sends_alone() {
        let mut queueing = Queueing::new(NOW);
        let mut now = NOW;
        for _ in 0..100 {
            queueing.goes(now);
            queueing.ended(true, now + 100);
            // What comes late, or is in doubt for long, says nothing of the next ones.
            queueing.goes(now + 5_000);
            queueing.ended(false, now + 25_000);
            now += 30_000;
        }
        queueing.goes(now);
        let wait = queueing.put_off(known(None, None), 65 + 50, BETWEEN, now) - now;
        assert!((4_900..=5_000).contains(&wait), "{wait}");
        queueing.ended(true, now + 10);
        queueing.goes(now + 10);
        queueing.ended(true, now + 20);
        let wait = queueing.put_off(known(None, None), 65 + 50, BETWEEN, now) - now;
        assert!(wait < 2_000, "{wait}: a key that becomes faster is followed soon");
    }
}
