//! How long to wait between the tries of one provider.

use crate::duration::MS_MAX;

/// Jitter is kept in millionths, so that all else is whole numbers.
pub(crate) const JITTER_ONE: u32 = 1_000_000;

/// The series of waits.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Series {
    /// Always the same, in milliseconds.
    Fixed(u64),
    /// `first * factor^n`, at most `cap`; both in milliseconds.
    Exponential { first: u64, factor: f64, cap: u64 },
    /// One for each try, in milliseconds; the last again and again. Never empty.
    List(Vec<u64>),
}

/// A series of waits, and how far each may swing.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Backoff {
    pub(crate) series: Series,
    /// In millionths of the wait, at most [`JITTER_ONE`].
    pub(crate) jitter: u32,
}

/// Where within the jitter a wait falls, from -1,000,000 (shortest) to 1,000,000 (longest).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Swing(i64);

impl Swing {
    pub(crate) const SHORTEST: Self = Self(-(JITTER_ONE as i64));
    pub(crate) const MIDDLE: Self = Self(0);
    pub(crate) const LONGEST: Self = Self(JITTER_ONE as i64);

    /// Spreads seeds evenly, neighbours far apart (SplitMix64: Steele, Lea, Flood 2014).
    pub(crate) fn from_seed(seed: u64) -> Self {
        let mut mixed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        let span = 2 * u64::from(JITTER_ONE) + 1;
        Self((mixed % span) as i64 - i64::from(JITTER_ONE))
    }

    /// The same distance, but only towards longer: for waits that must not be cut.
    pub(crate) const fn upwards(self) -> Self {
        Self(self.0.abs())
    }
}

impl Backoff {
    /// The wait after `tries` sends, in milliseconds, at most [`MS_MAX`].
    pub(crate) fn wait_ms(&self, tries: u32, swing: Swing) -> u64 {
        let index = tries.saturating_sub(1);
        let wait = match &self.series {
            Series::Fixed(delay) => *delay,
            Series::Exponential { first, factor, cap } => {
                let exponent = i32::try_from(index).unwrap_or(i32::MAX);
                // A float as large as it likes: the conversion ends at the largest integer, the cap below that.
                ((*first as f64 * factor.powi(exponent)) as u64).min(*cap)
            }
            Series::List(delays) => {
                let index = usize::try_from(index).unwrap_or(usize::MAX);
                delays.get(index).or(delays.last()).copied().unwrap_or(0)
            }
        };
        let wait = self.jittered(wait, swing);
        match self.series {
            Series::Exponential { cap, .. } => wait.min(cap),
            Series::Fixed(_) | Series::List(_) => wait,
        }
    }

    /// `wait_ms` moved within the jitter.
    pub(crate) fn jittered(&self, wait_ms: u64, swing: Swing) -> u64 {
        let wait = i128::from(wait_ms.min(MS_MAX));
        let one = i128::from(JITTER_ONE);
        let moved = wait + wait * i128::from(self.jitter) * i128::from(swing.0) / (one * one);
        u64::try_from(moved).unwrap_or(0).min(MS_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waits(series: Series, swing: Swing) -> Vec<u64> {
        let backoff = Backoff {
            series,
            jitter: 200_000,
        };
        [0, 1, 2, 3, 4, u32::MAX]
            .into_iter()
            .map(|tries| backoff.wait_ms(tries, swing))
            .collect()
    }

    #[test]
    fn each_series_goes_its_way_and_stays_within_its_cap() {
        let growing = Series::Exponential {
            first: 1_000,
            factor: 2.0,
            cap: 7_000,
        };
        assert_eq!(
            waits(growing.clone(), Swing::MIDDLE),
            [1_000, 1_000, 2_000, 4_000, 7_000, 7_000]
        );
        assert_eq!(
            waits(growing, Swing::LONGEST),
            [1_200, 1_200, 2_400, 4_800, 7_000, 7_000]
        );
        assert_eq!(waits(Series::Fixed(500), Swing::SHORTEST), [400; 6]);
        assert_eq!(
            waits(Series::List(vec![10, 100]), Swing::MIDDLE),
            [10, 10, 100, 100, 100, 100]
        );
    }

    #[test]
    fn seeds_spread_over_the_whole_swing() {
        let swings: Vec<_> = (0..1_000).map(|seed| Swing::from_seed(seed).0).collect();
        assert!(swings.iter().all(|swing| swing.abs() <= i64::from(JITTER_ONE)));
        let low = swings.iter().filter(|swing| **swing < 0).count();
        assert!((400..600).contains(&low), "{low} of 1000 below the middle");
        assert!(Swing::from_seed(3).upwards().0 >= 0);
    }
}
