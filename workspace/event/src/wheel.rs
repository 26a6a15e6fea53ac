//! Where an event waits: the pure half of the delay wheel.

use crate::{Delivery, Millis, Priority, Tier, Topic};

/// Events due within this many milliseconds go to the near topic, whose holder releases them to the millisecond.
pub const HORIZON_MS: i64 = 30_000;

/// The topic in which an event of `priority` waits from `now` until `due`.
///
/// At or past its time there is nothing to wait for and the answer is `None`. Up to [`HORIZON_MS`] it is the near topic;
/// beyond, the tier of [`tier_within`], so that the event is judged again before it is due.
pub fn waits_in(priority: Priority, due: Millis, now: Millis) -> Option<Topic> {
    let remains = due.saturating_sub(now);
    if remains <= 0 {
        return None;
    }
    if remains <= HORIZON_MS {
        return Some(if priority.is_critical() {
            Topic::DelayNearCritical
        } else {
            Topic::DelayNear
        });
    }
    tier_within(remains).map(Topic::Delay)
}

/// Events due within this many milliseconds are within no tier.
pub const TIERS_FROM_MS: i64 = least_ms(Tier::ALL[0]);

/// The largest tier within `remains_ms`: when its time is over, a quarter of it is left.
///
/// A tier is left in the order in which it was entered. What came in one burst is to be moved in one burst, and those of it that
/// are due first may stand at its end: they need the time that it takes to move the others.
pub fn tier_within(remains_ms: i64) -> Option<Tier> {
    Tier::ALL
        .into_iter()
        .rev()
        .find(|tier| least_ms(*tier) <= remains_ms)
}

const fn least_ms(tier: Tier) -> i64 {
    tier.delay_ms() + tier.delay_ms() / 4
}

/// When the wheel must look at a waiting event again: the earlier of due and expiry.
pub fn wakes_at(delivery: &Delivery) -> Millis {
    let due = delivery.due_at.unwrap_or(delivery.at);
    delivery.expires_at.map_or(due, |expires| due.min(expires))
}

/// When whoever holds an event that entered the wheel at `entered_at`, until `due`, looks at it next, if that is not before
/// `now`: in a near topic it is in its hands all the time, in a tier when the tier's time is over.
pub fn seen_by(entered_at: Millis, due: Millis, now: Millis) -> Millis {
    let mut at = entered_at;
    // Each turn takes two seconds at least, and halves what remains or so: a year has some thirty of them.
    while at < now
        && let remains = due.saturating_sub(at)
        && remains > HORIZON_MS
        && let Some(tier) = tier_within(remains)
    {
        at = at.saturating_add(tier.delay_ms());
    }
    at.max(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_a_tier_is_seen_when_its_time_is_over() {
        const HOUR: i64 = 3_600_000;
        // Near, or entered a moment ago, or on its way for years.
        assert_eq!(seen_by(0, 20_000, 5_000), 5_000);
        assert_eq!(seen_by(0, 30 * HOUR, 1), 24 * HOUR);
        // 20 h remain: 8 h, then 8 h, then 2 h, then not 2 h again but half hours.
        assert_eq!(seen_by(0, 20 * HOUR, HOUR), 8 * HOUR);
        assert_eq!(seen_by(0, 20 * HOUR, 9 * HOUR), 16 * HOUR);
        assert_eq!(seen_by(0, 20 * HOUR, 17 * HOUR), 18 * HOUR);
        assert_eq!(seen_by(0, 20 * HOUR, 18 * HOUR + 1), 18 * HOUR + HOUR / 2);
        assert_eq!(seen_by(0, 20 * HOUR, 21 * HOUR), 21 * HOUR);
    }

    #[test]
    fn the_largest_tier_that_leaves_a_quarter_of_it_is_taken() {
        for (remains, expected) in [
            (-5, None),
            (0, None),
            (1, Some("delay.near")),
            (30_000, Some("delay.near")),
            (30_001, Some("delay.8s")),
            (37_499, Some("delay.8s")),
            (37_500, Some("delay.30s")),
            (74_999, Some("delay.30s")),
            (75_000, Some("delay.1m")),
            (149_999, Some("delay.1m")),
            (150_000, Some("delay.2m")),
            (300_000, Some("delay.4m")),
            (107_999_999, Some("delay.8h")),
            (108_000_000, Some("delay.1d")),
            (365 * 86_400_000, Some("delay.1d")),
        ] {
            let topic = waits_in(Priority::Normal, 1_000_000 + remains, 1_000_000);
            assert_eq!(topic.map(Topic::suffix), expected, "{remains} ms");
        }
        assert_eq!(
            waits_in(Priority::Critical, 10, 0),
            Some(Topic::DelayNearCritical)
        );
    }
}
