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
    /// The slot lies `wait_ms_min` to `wait_ms_max` ahead. Where the account is booked out further than that, events
    /// are spread over the last half of the way and look again then, so that they do not come back all at once.
    pub fn reserve(&mut self, now: Millis, wait_ms_min: u32, wait_ms_max: u32, silent_ms: f64) -> Millis {
        let now_ms = now as f64;
        let slot = self.next_slot.max(now_ms + f64::from(wait_ms_min));
        let last = now_ms + f64::from(wait_ms_max);
        if slot > last {
            let spread = (wait_ms_max / 2).max(1);
            self.late_slots = self.late_slots.wrapping_add(0x9e37_79b9);
            return (last as Millis) - Millis::from(self.late_slots % spread);
        }
        self.next_slot = slot + 1.0 / self.rate_per_ms(silent_ms);
        slot as Millis
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Millis = 1_700_000_000_000;

    #[test]
    fn slots_follow_each_other_at_the_measured_rate() {
        let mut pace = Pace::new(10);
        pace.finished(100.0);
        let slots: Vec<_> = (0..4)
            .map(|_| pace.reserve(NOW, 1_000, 60_000, 0.0) - NOW)
            .collect();
        assert_eq!(slots, [1_000, 1_010, 1_020, 1_030]);
        assert_eq!(pace.reserve(NOW + 50_000, 1_000, 60_000, 0.0), NOW + 51_000);
    }

    #[test]
    fn an_account_that_is_silent_is_slow_before_it_says_so() {
        let pace = Pace::new(10);
        assert_eq!(pace.within(5_000.0, 0.0), 1_000);
        assert_eq!(pace.within(5_000.0, 10_000.0), 10);
    }

    #[test]
    fn a_slot_is_never_further_than_the_longest_wait() {
        let mut pace = Pace::new(1);
        pace.finished(10_000.0);
        let slots: Vec<_> = (0..100)
            .map(|_| pace.reserve(NOW, 1_000, 60_000, 0.0) - NOW)
            .collect();
        assert!(
            slots.iter().all(|slot| (1_000..=60_000).contains(slot)),
            "{slots:?}"
        );
        let late: std::collections::BTreeSet<_> = slots[10..].iter().collect();
        assert!(late.len() > 80, "spread: {late:?}");
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
