//! Which partition a key belongs to: computed here, the same on every backend.

/// Partition of `key` among `partitions`: `(murmur2(key) & 0x7fffffff) % partitions`, as Kafka's Java client does,
/// so that producers in other languages agree with us.
pub fn of(key: &[u8], partitions: u32) -> u32 {
    (murmur2(key) & 0x7fff_ffff) % partitions.max(1)
}

/// A partition that a key can be chosen for, where the key is ours to choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Which partition.
    pub number: u32,
    /// Among how many.
    pub partitions: u32,
}

impl Place {
    /// Whether a record with this key goes there.
    pub fn takes(&self, key: &[u8]) -> bool {
        of(key, self.partitions) == self.number
    }
}

/// MurmurHash2, 32 bit, with the seed of Kafka's `Utils.murmur2` (Apache Kafka, clients, `Utils.java`).
fn murmur2(data: &[u8]) -> u32 {
    const SEED: u32 = 0x9747_b28c;
    const M: u32 = 0x5bd1_e995;
    const R: u32 = 24;

    // Kafka hashes with 32-bit lengths; keys are far shorter than that.
    let mut hash = SEED ^ (data.len() as u32);
    let mut words = data.chunks_exact(4);
    for word in words.by_ref() {
        let mut k = u32::from_le_bytes([word[0], word[1], word[2], word[3]]).wrapping_mul(M);
        k = (k ^ (k >> R)).wrapping_mul(M);
        hash = hash.wrapping_mul(M) ^ k;
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        for (index, byte) in rest.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * index);
        }
        hash = hash.wrapping_mul(M);
    }
    hash = (hash ^ (hash >> 13)).wrapping_mul(M);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values from Kafka's own `UtilsTest.testMurmur2`.
    #[test]
    fn murmur2_agrees_with_kafka() {
        for (key, expected) in [
            ("21", -973_932_308_i32),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(key.as_bytes()) as i32, expected, "{key}");
        }
    }

    #[test]
    fn every_partition_is_in_range() {
        for n in 0..1000_u32 {
            assert!(of(&n.to_be_bytes(), 12) < 12);
        }
        assert_eq!(of(b"x", 0), 0);
    }
}
