//! How fast one account takes messages, and the slots that follow from it. Pure: time comes in as an argument.

use posthaste_event::Millis;

/// Assumed for an account that has not answered yet, in milliseconds: a quick HTTP call. Its silence soon says otherwise,
/// while too low a guess would park a first burst for nothing.
const LATENCY_MS_ASSUMED: f64 = 50.0;

/// Weight of a new measurement in the running mean.
const LATENCY_GAIN: f64 = 1.0 / 16.0;

/// The measured pace of one account, and the next slot that is free.
#[derive(Debug)]
pub struct Pace {
    concurrency: f64,
    latency_ms: f64,
    measured: bool,
    next_slot: f64,
    late_slots: u32,
}

impl Pace {
    /// For an account that takes `concurrency` sends at once.
    pub fn new(concurrency: usize) -> Self {
        Self {
            concurrency: concurrency.max(1) as f64,
            latency_ms: LATENCY_MS_ASSUMED,
            measured: false,
            next_slot: 0.0,
            late_slots: 0,
        }
    }

    /// A send was answered, or given up, after this time.
    pub fn finished(&mut self, took_ms: f64) {
        let took_ms = took_ms.max(0.1);
        if self.measured {
            self.latency_ms += (took_ms - self.latency_ms) * LATENCY_GAIN;
        } else {
            self.measured = true;
            self.latency_ms = took_ms;
        }
    }

    /// Sends per millisecond when every place is taken (Little's law), whether or not they are taken now.
    /// `silent_ms`: how long sends have been under way without one of them ending; a provider that hangs is slow
    /// before its first timeout says so.
    pub fn rate_per_ms(&self, silent_ms: f64) -> f64 {
        self.concurrency / self.latency_ms.max(silent_ms)
    }

    /// How many events can expect to be sent within `wait_ms`; never fewer than fill the places once.
    pub fn within(&self, wait_ms: f64, silent_ms: f64) -> usize {
        (self.rate_per_ms(silent_ms) * wait_ms).max(self.concurrency) as usize
    }

    /// Takes the next free slot: the time at which an event that is parked now can expect a place.
    ///
    /// How far ahead is an estimate, and may be far off: an account is slow while the machine is busy, other dispatchers come.
    /// So nothing is parked for longer than it has waited already, nor for longer than its account has had no room, and
    /// waits in all at most about twice as long as it had to. Where the account is booked out further than that, events
    /// are spread over the last half of the way and look again then, so that they do not come back all at once.
    pub fn reserve(&mut self, stay: &Stay, park_ms: (u32, u32), now: Millis, silent_ms: f64) -> Millis {
        let (park_ms_min, park_ms_max) = park_ms;
        let crowded_ms = now.saturating_sub(stay.waits_since.max(stay.crowded_since));
        let wait_ms_max = u32::try_from(crowded_ms.max(0))
            .unwrap_or(u32::MAX)
            .max(park_ms_min.saturating_mul(2))
            .min(park_ms_max);
        let slot = self.next_free(now, park_ms_min, wait_ms_max, silent_ms);
        // A slot that did not hold: each further wait is twice as long, so that no event comes and goes in a loop.
        let again_ms = stay.parked_for_ms.unwrap_or(0).saturating_mul(2);
        slot.max(now + again_ms.min(Millis::from(wait_ms_max)))
    }

    fn next_free(&mut self, now: Millis, wait_ms_min: u32, wait_ms_max: u32, silent_ms: f64) -> Millis {
        let now_ms = now as f64;
        let slot = self.next_slot.max(now_ms + f64::from(wait_ms_min));
        let last = now_ms + f64::from(wait_ms_max);
        if slot > last {
            let spread = u64::from((wait_ms_max / 2).min(wait_ms_max - wait_ms_min));
            // Steps of the golden ratio: however many, they lie evenly.
            self.late_slots = self.late_slots.wrapping_add(0x9e37_79b9);
            let earlier = (u64::from(self.late_slots) * spread) >> 32;
            return (last as Millis) - earlier.cast_signed();
        }
        self.next_slot = slot + 1.0 / self.rate_per_ms(silent_ms);
        slot as Millis
    }
}

/// What is known of the wait of an event that is to be parked.
#[derive(Debug, Clone, Copy)]
pub struct Stay {
    /// Since when it waits to be sent.
    pub waits_since: Millis,
    /// Since when its account has no room.
    pub crowded_since: Millis,
    /// How long it was parked last, in milliseconds, if it comes from there.
    pub parked_for_ms: Option<Millis>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Millis = 1_700_000_000_000;

    const PARK_MS: (u32, u32) = (1_000, 60_000);

    /// An event that has waited for so long, at an account that has had no room for so long.
    fn stay(waited_ms: Millis, crowded_ms: Millis) -> Stay {
        Stay {
            waits_since: NOW - waited_ms,
            crowded_since: NOW - crowded_ms,
            parked_for_ms: None,
        }
    }

    fn slow() -> Pace {
        let mut pace = Pace::new(1);
        pace.finished(10_000.0);
        pace
    }

    fn slots(pace: &mut Pace, stay: &Stay, count: usize) -> Vec<Millis> {
        std::iter::repeat_with(|| pace.reserve(stay, PARK_MS, NOW, 0.0) - NOW)
            .take(count)
            .collect()
    }

    #[test]
    fn slots_follow_each_other_at_the_measured_rate() {
        let mut pace = Pace::new(10);
        pace.finished(100.0);
        let long = stay(60_000, 60_000);
        assert_eq!(slots(&mut pace, &long, 4), [1_000, 1_010, 1_020, 1_030]);
        let later = NOW + 50_000;
        assert_eq!(pace.reserve(&long, PARK_MS, later, 0.0), later + 1_000);
    }

    #[test]
    fn an_account_that_is_silent_is_slow_before_it_says_so() {
        let pace = Pace::new(10);
        assert_eq!(pace.within(5_000.0, 0.0), 1_000);
        assert_eq!(pace.within(5_000.0, 10_000.0), 10);
    }

    #[test]
    fn a_slot_is_never_further_than_the_event_and_its_account_have_waited() {
        for (waited_ms, crowded_ms, most) in [
            (0, 600_000, 2_000),
            (600_000, 0, 2_000),
            (8_000, 600_000, 8_000),
            (600_000, 8_000, 8_000),
            (600_000, 600_000, 60_000),
            (-5_000, -5_000, 2_000),
        ] {
            let slots = slots(&mut slow(), &stay(waited_ms, crowded_ms), 100);
            assert!(
                slots.iter().all(|slot| (1_000..=most).contains(slot)),
                "{waited_ms}, {crowded_ms}: {slots:?}"
            );
            let late: std::collections::BTreeSet<_> = slots[10..].iter().collect();
            assert!(late.len() > 80, "spread: {late:?}");
        }
    }

    #[test]
    fn one_whose_slot_did_not_hold_waits_twice_as_long_within_its_bound() {
        let mut pace = Pace::new(10);
        let again = |waited_ms| Stay {
            parked_for_ms: Some(1_500),
            ..stay(waited_ms, waited_ms)
        };
        assert_eq!(slots(&mut pace, &again(10_000), 1), [3_000]);
        assert_eq!(slots(&mut pace, &again(2_500), 1), [2_500]);
    }

    #[test]
    fn whoever_has_room_only_after_a_while_is_parked_a_few_times_and_waits_at_most_twice_as_long() {
        let needed_ms = 300_000;
        let (mut waited_ms, mut parks) = (0, 0);
        while waited_ms < needed_ms {
            waited_ms +=
                pace_of_a_flood().reserve(&stay(waited_ms, waited_ms), (1_000, 900_000), NOW, 0.0) - NOW;
            parks += 1;
        }
        assert!(
            waited_ms <= 2 * needed_ms && parks <= 16,
            "{waited_ms} ms, {parks} parks"
        );
    }

    /// Booked out for longer than anything is parked.
    fn pace_of_a_flood() -> Pace {
        let mut pace = slow();
        pace.next_slot = (NOW + 10_000_000) as f64;
        pace
    }

    #[test]
    fn the_mean_follows_a_change() {
        let mut pace = Pace::new(1);
        for _ in 0..100 {
            pace.finished(10.0);
        }
        for _ in 0..100 {
            pace.finished(1_000.0);
        }
        assert!(pace.rate_per_ms(0.0) < 1.0 / 900.0);
    }
}
