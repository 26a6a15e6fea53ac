//! Whether a member may act on what it holds.
//!
//! A process that stands still for longer than its session (stopped, or its machine was asleep) has lost its partitions, and
//! goes on as if nothing had been: what it does in the moment before the broker tells it, somebody else has done already. So
//! after standing still nothing new is begun until the broker has had the time to say.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// The reader's thread looks around at least every half second. Longer than this is standing still, and far shorter than a
/// session (6 s for critical events, else 10 s).
const STILL: Duration = Duration::from_secs(2);
/// How long to be unsure then: several heartbeats, the first of which is sent at once.
const DOUBT: Duration = Duration::from_secs(2);
/// How long whoever is not sure waits to be, and how often it looks.
const UNSURE_MAX: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Written by the reader's thread, read by whoever is about to act. Times in milliseconds since `began`.
#[derive(Debug)]
pub(super) struct Lease {
    began: Instant,
    looked: AtomicU64,
    unsure_until: AtomicU64,
    /// The latest assignment that was taken away without our having given it up. None has the number 0.
    lost: AtomicU64,
}

impl Lease {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            began: now,
            looked: AtomicU64::new(0),
            unsure_until: AtomicU64::new(0),
            lost: AtomicU64::new(0),
        }
    }

    fn at(&self, now: Instant) -> u64 {
        u64::try_from(now.duration_since(self.began).as_millis()).unwrap_or(u64::MAX)
    }

    /// The reader's thread is at work. Answers for how long it was not, if it stood still.
    pub(super) fn look(&self, now: Instant) -> Option<Duration> {
        let at = self.at(now);
        let still = Duration::from_millis(at.saturating_sub(self.looked.load(Ordering::Relaxed)));
        let stood = (still > STILL).then_some(still);
        if stood.is_some() {
            // Before the look is seen, or somebody would be sure for a moment.
            self.unsure_until
                .store(at + DOUBT.as_millis() as u64, Ordering::Release);
        }
        self.looked.store(at, Ordering::Release);
        stood
    }

    /// Whether what is held is held, as far as can be known.
    pub(super) fn is_sure(&self, now: Instant) -> bool {
        let at = self.at(now);
        let looked = self.looked.load(Ordering::Acquire);
        at.saturating_sub(looked) <= STILL.as_millis() as u64
            && at >= self.unsure_until.load(Ordering::Acquire)
    }

    /// The assignment of this epoch was taken away.
    pub(super) fn lose(&self, epoch: u64) {
        self.lost.fetch_max(epoch, Ordering::AcqRel);
    }

    /// Whether the assignment of this epoch may have been taken away, so that the table must be asked. That of every assignment
    /// up to the last one that was; the table knows which.
    pub(super) fn was_lost(&self, epoch: u64) -> bool {
        epoch <= self.lost.load(Ordering::Acquire)
    }

    /// Waits until that is so. Answers whether it is: the reader's thread may have ended.
    pub(super) async fn until_sure(&self) -> bool {
        let until = Instant::now() + UNSURE_MAX;
        while !self.is_sure(Instant::now()) {
            if Instant::now() > until {
                return false;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_stood_still_is_unsure_for_a_while() {
        let began = Instant::now();
        let at = |ms: u64| began + Duration::from_millis(ms);
        let lease = Lease::new(began);
        for turn in 1..=10 {
            assert_eq!(lease.look(at(turn * 500)), None);
            assert!(lease.is_sure(at(turn * 500 + 499)));
        }
        assert!(!lease.is_sure(at(17_000)), "before the reader is back at work");
        assert_eq!(lease.look(at(17_000)), Some(Duration::from_secs(12)));
        for turn in 34..38 {
            assert!(!lease.is_sure(at(turn * 500)), "{turn}");
            assert_eq!(lease.look(at(turn * 500)), None);
        }
        assert!(!lease.is_sure(at(18_999)));
        lease.look(at(19_000));
        assert!(lease.is_sure(at(19_000)));
    }

    #[test]
    fn what_was_lost_is_looked_up_and_what_came_after_it_is_not() {
        let lease = Lease::new(Instant::now());
        assert!(!lease.was_lost(1));
        lease.lose(3);
        lease.lose(2);
        assert_eq!([1, 3, 4].map(|epoch| lease.was_lost(epoch)), [true, true, false]);
    }
}
