//! Credentials that are no good, counted by the address that they come from. Pure: the time is an argument.
//!
//! The table never grows: an address is a slot of it, found by a hash with a random key, so nobody can choose whom to share one
//! with. What a slot decides is never about credentials that are known to be good.

use std::{
    hash::{BuildHasher as _, RandomState},
    sync::atomic::{AtomicU64, Ordering},
};

use posthaste_event::Millis;

use super::{
    address::Origin,
    rate::{Left, Quota},
};

/// Slots; half a megabyte.
const SLOTS: usize = 1 << 16;

/// Most failures of a window that a slot can count.
pub(super) const COUNTED_MAX: u32 = u16::MAX as u32;

/// What it cost to find out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cost {
    /// A digest or a look at a text.
    Little,
    /// A signature was checked, or an issuer asked.
    Much,
}

/// So many failures of an address in a window of time; windows are the same for all.
pub(super) struct Failures {
    quota: Quota,
    /// Each: the number of the window (32 bits), failures, and those among them that cost much (16 bits each).
    slots: Box<[AtomicU64]>,
    hasher: RandomState,
    /// The last window in which an address was spoken of in the log.
    told: AtomicU64,
}

impl std::fmt::Debug for Failures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Failures")
            .field("quota", &self.quota)
            .finish_non_exhaustive()
    }
}

/// What a slot says of the present window.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Counted {
    all: u16,
    dear: u16,
}

impl Failures {
    /// `quota.requests` are the failures that an address may have in a window, [`COUNTED_MAX`] at most.
    pub(super) fn new(quota: Quota) -> Self {
        Self {
            quota,
            slots: std::iter::repeat_with(AtomicU64::default).take(SLOTS).collect(),
            hasher: RandomState::new(),
            told: AtomicU64::default(),
        }
    }

    pub(super) const fn quota(&self) -> Quota {
        self.quota
    }

    /// Whether what costs much is done for this address no more until the window is over.
    pub(super) fn is_shut(&self, origin: Origin, now: Millis) -> bool {
        let counted = read(self.slot(origin).load(Ordering::Relaxed), self.window(now));
        u32::from(counted.dear) >= self.quota.requests
    }

    /// What is left to the address, with nothing counted.
    pub(super) fn left(&self, origin: Origin, now: Millis) -> Left {
        let counted = read(self.slot(origin).load(Ordering::Relaxed), self.window(now));
        self.left_of(counted, now)
    }

    /// Counts a failure. It is over when there were as many as are allowed before it.
    pub(super) fn count(&self, origin: Origin, cost: Cost, now: Millis) -> Left {
        let window = self.window(now);
        let more = |slot: u64| {
            let before = read(slot, window);
            Counted {
                all: before.all.saturating_add(1),
                dear: before.dear.saturating_add(u16::from(cost == Cost::Much)),
            }
        };
        let slot = self.slot(origin);
        let before = slot
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |slot| {
                Some(write(more(slot), window))
            })
            .unwrap_or_default();
        let mut left = self.left_of(more(before), now);
        left.is_over = u32::from(read(before, window).all) >= self.quota.requests;
        left
    }

    /// Whether the log has not heard of any address in this window.
    pub(super) fn is_news(&self, now: Millis) -> bool {
        let window = u64::from(self.window(now));
        self.told.swap(window, Ordering::Relaxed) != window
    }

    fn left_of(&self, counted: Counted, now: Millis) -> Left {
        let requests = self.quota.requests.saturating_sub(u32::from(counted.all));
        let seconds = i64::from(self.quota.seconds);
        // Within a window, so it fits.
        let left = seconds - now.div_euclid(1_000).rem_euclid(seconds);
        Left {
            requests,
            seconds: u32::try_from(left).unwrap_or(self.quota.seconds),
            is_over: requests == 0,
        }
    }

    /// Another number after each window, and after a clock was set back.
    fn window(&self, now: Millis) -> u32 {
        // What is lost are windows of another age, billions of them away.
        (now.div_euclid(i64::from(self.quota.seconds) * 1_000) & i64::from(u32::MAX)) as u32
    }

    fn slot(&self, origin: Origin) -> &AtomicU64 {
        let hash = self.hasher.hash_one(origin);
        // Less than SLOTS, which any platform's size holds.
        &self.slots[(hash % SLOTS as u64) as usize]
    }
}

const fn read(slot: u64, window: u32) -> Counted {
    if (slot >> 32) as u32 != window {
        return Counted { all: 0, dear: 0 };
    }
    Counted {
        all: ((slot >> 16) & 0xffff) as u16,
        dear: (slot & 0xffff) as u16,
    }
}

fn write(counted: Counted, window: u32) -> u64 {
    u64::from(window) << 32 | u64::from(counted.all) << 16 | u64::from(counted.dear)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Millis = 1_800_000_000_000;

    fn failures() -> Failures {
        Failures::new(Quota {
            requests: 3,
            seconds: 60,
        })
    }

    fn origin(text: &str) -> Origin {
        Origin::of(text.parse().unwrap())
    }

    #[test]
    fn an_address_has_so_many_failures_until_the_window_is_over() {
        let (failures, bad) = (failures(), origin("192.0.2.1"));
        let count = |now| {
            let left = failures.count(bad, Cost::Little, now);
            (left.requests, left.seconds, left.is_over)
        };
        assert_eq!(count(NOW), (2, 60, false));
        assert_eq!(count(NOW + 1_000), (1, 59, false));
        assert_eq!(count(NOW + 1_500), (0, 59, false));
        assert_eq!(count(NOW + 59_999), (0, 1, true));
        // What cost little shuts out nothing that costs much.
        assert!(!failures.is_shut(bad, NOW + 59_999));
        assert_eq!(count(NOW + 60_000), (2, 60, false));
        // A clock that is set back locks nobody out.
        assert_eq!(count(NOW - 600_000), (2, 60, false));
    }

    #[test]
    fn what_costs_much_is_counted_by_itself_and_by_address() {
        let (failures, bad, other) = (failures(), origin("2001:db8:1:2::7"), origin("2001:db8:1:3::7"));
        for _ in 0..3 {
            assert!(!failures.is_shut(bad, NOW));
            failures.count(bad, Cost::Much, NOW);
        }
        assert!(failures.is_shut(bad, NOW) && failures.left(bad, NOW).is_over);
        assert!(
            failures.is_shut(origin("2001:db8:1:2:ffff::1"), NOW),
            "the same /64"
        );
        assert!(!failures.is_shut(bad, NOW + 60_000));
        // They could share a slot, by a chance of one in 65,536.
        assert!(!failures.is_shut(other, NOW));
    }

    #[test]
    fn any_number_of_failures_and_addresses_takes_the_same_memory() {
        let failures = Failures::new(Quota {
            requests: COUNTED_MAX,
            seconds: 1,
        });
        for number in 0..200_000_u32 {
            failures.count(
                Origin::of(std::net::Ipv4Addr::from(number).into()),
                Cost::Much,
                NOW,
            );
            failures.count(origin("192.0.2.1"), Cost::Much, NOW);
        }
        assert!(failures.is_shut(origin("192.0.2.1"), NOW));
        assert_eq!(failures.slots.len(), SLOTS);
        assert!(failures.is_news(NOW) && !failures.is_news(NOW) && failures.is_news(NOW + 1_000));
    }
}
