//! How fast a replay goes: a bucket of tokens whose filling rises slowly at first. Pure.

/// A bucket of letters that may go out now.
#[derive(Debug, Clone)]
pub struct Pace {
    ramp_ms: u64,
    tokens: f64,
    /// How far the time had come when it was last filled, in milliseconds since it began.
    filled_ms: u64,
}

/// What went by unused in this time may go out at once, in seconds.
const BURST_SECONDS: f64 = 0.1;
/// Shortest and longest wait for tokens, in milliseconds.
const WAIT_MS: (f64, f64) = (2.0, 200.0);

impl Pace {
    /// Begins with one letter in it; without a ramp it fills at the full rate from the start.
    pub fn new(ramp_ms: u64) -> Self {
        Self {
            ramp_ms,
            tokens: 1.0,
            filled_ms: 0,
        }
    }

    /// How many letters may go out `now_ms` after the beginning, at this rate per second; without a rate as many as wanted.
    pub fn allows(&mut self, now_ms: u64, rate: Option<f64>, wanted: usize) -> usize {
        let Some(rate) = rate else { return wanted };
        let passed = now_ms.saturating_sub(self.filled_ms) as f64 / 1_000.0;
        let burst = (rate * BURST_SECONDS).max(1.0);
        self.tokens = (self.tokens + passed * self.speed(now_ms, rate)).min(burst);
        self.filled_ms = now_ms.max(self.filled_ms);
        // Never negative, and cut to what is wanted.
        (self.tokens.max(0.0) as usize).min(wanted)
    }

    /// So many went out.
    pub fn spend(&mut self, letters: usize) {
        self.tokens -= letters as f64;
    }

    /// So many of them did not go out after all.
    pub fn give_back(&mut self, letters: usize) {
        self.tokens += letters as f64;
    }

    /// How long to wait before asking again, in milliseconds.
    pub fn wait_ms(&self, rate: f64) -> u64 {
        let missing = (1.0 - self.tokens).max(0.0);
        let wait = missing / self.speed(self.filled_ms, rate).max(0.001) * 1_000.0;
        wait.clamp(WAIT_MS.0, WAIT_MS.1).ceil() as u64
    }

    /// The rate at this moment of the ramp.
    fn speed(&self, now_ms: u64, rate: f64) -> f64 {
        if now_ms >= self.ramp_ms {
            return rate;
        }
        rate * now_ms as f64 / self.ramp_ms as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Letters that go out until `until_ms`, asked every few milliseconds.
    fn out(pace: &mut Pace, rate: f64, from_ms: u64, until_ms: u64) -> usize {
        (from_ms..until_ms)
            .step_by(7)
            .map(|now_ms| {
                let letters = pace.allows(now_ms, Some(rate), 1_000);
                pace.spend(letters);
                letters
            })
            .sum()
    }

    #[test]
    fn the_rate_is_kept() {
        for rate in [0.5, 3.0, 100.0, 20_000.0] {
            let letters = out(&mut Pace::new(0), rate, 0, 20_000) as f64;
            assert!(
                (letters - rate * 20.0).abs() <= rate * 0.2 + 2.0,
                "{rate}: {letters}"
            );
        }
    }

    #[test]
    fn a_ramp_rises_to_the_rate() {
        let mut pace = Pace::new(10_000);
        let first = out(&mut pace, 100.0, 0, 5_000);
        let second = out(&mut pace, 100.0, 5_000, 10_000);
        let third = out(&mut pace, 100.0, 10_000, 15_000);
        assert!((100..160).contains(&first), "{first}");
        assert!((350..400).contains(&second), "{second}");
        assert!((490..515).contains(&third), "{third}");
    }

    #[test]
    fn what_was_missed_is_not_made_up_for() {
        let mut pace = Pace::new(0);
        assert_eq!(out(&mut pace, 10.0, 0, 1_000), 10);
        // An hour without asking, then no more than a burst.
        assert_eq!(pace.allows(3_600_000, Some(10.0), 1_000), 1);
    }

    #[test]
    fn without_a_rate_all_goes_at_once() {
        assert_eq!(Pace::new(0).allows(0, None, 200), 200);
    }

    #[test]
    fn the_wait_is_until_the_next_letter() {
        let mut pace = Pace::new(0);
        pace.spend(1);
        assert_eq!(pace.wait_ms(10.0), 100);
        assert_eq!(pace.wait_ms(0.1), 200);
        assert_eq!(pace.wait_ms(50_000.0), 2);
    }
}
