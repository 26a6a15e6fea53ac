//! Numbers that look random and come out the same for the same seed, on every machine and in every version.

/// A stream of numbers (splitmix64).
#[derive(Debug, Clone)]
pub struct Chance(u64);

impl Chance {
    /// The stream of this seed.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The stream of one of many things that share a seed: independent of how many of them there are, and of their order.
    pub fn of(seed: u64, thing: u64) -> Self {
        let mut mixed = Self(seed);
        let start = mixed.next_number() ^ thing.wrapping_mul(0xa076_1d64_78bd_642f);
        Self(Self(start).next_number())
    }

    /// The next number.
    pub const fn next_number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From `low` to below `high`; `low` when that is nothing.
    pub const fn between(&mut self, low: u64, high: u64) -> u64 {
        if high <= low {
            return low;
        }
        low + self.next_number() % (high - low)
    }

    /// One of them; `None` of none.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> {
        let index = self.between(0, of.len() as u64);
        of.get(usize::try_from(index).ok()?)
    }

    /// Whether something happens that happens so many times in a hundred.
    pub fn hits(&mut self, percent: f64) -> bool {
        #[expect(
            clippy::cast_precision_loss,
            reason = "53 bits are kept, as many as there are"
        )]
        let draw = (self.next_number() >> 11) as f64 / (1_u64 << 53) as f64;
        draw * 100.0 < percent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_numbers() {
        let numbers = |seed| {
            let mut chance = Chance::new(seed);
            [0; 3].map(|_| chance.between(0, 1_000))
        };
        assert_eq!(numbers(7), numbers(7));
        assert_ne!(numbers(7), numbers(8));
        // A run of an older version must come out the same in a newer one.
        assert_eq!(numbers(7), [487, 804, 346]);
    }

    #[test]
    fn ten_percent_is_one_in_ten() {
        let hits = (0..10_000)
            .filter(|index| Chance::of(3, *index).hits(10.0))
            .count();
        assert!((900..1_100).contains(&hits), "{hits}");
        assert!(!Chance::new(1).hits(0.0) && Chance::new(1).hits(100.0));
    }
}
