//! The ring: keys by id, one of them active, and its text.

use std::{collections::BTreeMap, fmt};

use aws_lc_rs::{
    aead::{AES_256_GCM, RandomizedNonceKey},
    hmac::{self, HMAC_SHA256},
    rand,
};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use posthaste_event::{Millis, time};
use serde::{Deserialize, Serialize};

/// Size of a key, in bytes.
const KEY_BYTES: usize = 32;
/// What the key of digests is derived by.
const DIGEST_KEY: &[u8] = b"posthaste-digest-1";
const KID_CHARS_MAX: usize = 64;
/// Most keys of a ring: one a week for decades.
const KEYS_MAX: usize = 2_048;
/// Random bytes in the id of a key that is made here.
const KID_RANDOM_BYTES: usize = 4;
/// Characters of a date as `2026-11-22`.
const DATE_CHARS: usize = 10;

/// What is wrong with the text of a ring. Never says anything of a key but its id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RingError {
    /// Not JSON, cut off, or of another form.
    #[error(
        "line {line}, column {column}: not a key ring; accepted: {{\"active\": KID, \"keys\": [{{\"kid\": KID, \"key\": 32 bytes in base64}}]}}"
    )]
    Form {
        /// The line, from 1.
        line: usize,
        /// The column, from 1.
        column: usize,
    },
    /// The id of a key cannot be one.
    #[error("the id of key {number} cannot be used; accepted: 1 to {KID_CHARS_MAX} letters, digits and ._-")]
    Kid {
        /// Which of the keys, from 1.
        number: usize,
    },
    /// Two keys with one id.
    #[error("there are two keys {kid}")]
    Twice {
        /// Their id.
        kid: String,
    },
    /// A key of another size, or not base64.
    #[error("key {kid} is not {KEY_BYTES} bytes in base64")]
    Key {
        /// Its id.
        kid: String,
    },
    /// The active key is not among the keys.
    #[error("the active key is not among the keys")]
    Active,
    /// More than [`KEYS_MAX`].
    #[error("there are more than {KEYS_MAX} keys")]
    TooMany,
    /// The machine has no randomness to give, or cannot use the key.
    #[error("the cryptographic library refused")]
    Library,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    active: String,
    keys: Vec<KeyText>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyText {
    kid: String,
    key: String,
}

/// A key, ready to be used.
struct Key {
    material: [u8; KEY_BYTES],
    cipher: RandomizedNonceKey,
}

impl Key {
    fn new(material: [u8; KEY_BYTES]) -> Result<Self, RingError> {
        let cipher = RandomizedNonceKey::new(&AES_256_GCM, &material).map_err(|_| RingError::Library)?;
        Ok(Self { material, cipher })
    }

    fn random() -> Result<Self, RingError> {
        let mut material = [0; KEY_BYTES];
        rand::fill(&mut material).map_err(|_| RingError::Library)?;
        Self::new(material)
    }
}

/// Keys by id. The active one seals; all of them open.
pub struct Ring {
    active: String,
    keys: BTreeMap<String, Key>,
}

impl Ring {
    /// Reads the text of a ring.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, RingError> {
        // What serde says could quote a key.
        let read: Text = serde_json::from_str(text).map_err(|error| RingError::Form {
            line: error.line(),
            column: error.column(),
        })?;
        if read.keys.len() > KEYS_MAX {
            return Err(RingError::TooMany);
        }
        let mut keys = BTreeMap::new();
        for (index, KeyText { kid, key }) in read.keys.into_iter().enumerate() {
            if !is_kid(&kid) {
                return Err(RingError::Kid { number: index + 1 });
            }
            let decoded = BASE64.decode(key).ok().and_then(|bytes| bytes.try_into().ok());
            let material = decoded.ok_or_else(|| RingError::Key { kid: kid.clone() })?;
            if keys.insert(kid.clone(), Key::new(material)?).is_some() {
                return Err(RingError::Twice { kid });
            }
        }
        if !keys.contains_key(&read.active) {
            return Err(RingError::Active);
        }
        Ok(Self {
            active: read.active,
            keys,
        })
    }

    /// A ring of one new key, whose id begins with the day of `now`.
    ///
    /// # Errors
    /// [`RingError::Library`].
    pub fn generate(now: Millis) -> Result<Self, RingError> {
        let mut ring = Self {
            active: String::new(),
            keys: BTreeMap::new(),
        };
        ring.rotate(now)?;
        Ok(ring)
    }

    /// Adds a new key, which is active from then on. The others go on opening.
    ///
    /// # Errors
    /// [`RingError::Library`], or [`RingError::TooMany`].
    pub fn rotate(&mut self, now: Millis) -> Result<(), RingError> {
        if self.keys.len() >= KEYS_MAX {
            return Err(RingError::TooMany);
        }
        let mut random = [0; KID_RANDOM_BYTES];
        rand::fill(&mut random).map_err(|_| RingError::Library)?;
        let written = time::write(now);
        let day = written
            .get(..DATE_CHARS)
            .filter(|day| is_kid(day))
            .unwrap_or("key");
        let kid = format!("{day}-{:08x}", u32::from_be_bytes(random));
        // Two of one day with one number: one in four billion, and never to be shrugged off.
        if self.keys.contains_key(&kid) {
            return Err(RingError::Twice { kid });
        }
        self.keys.insert(kid.clone(), Key::random()?);
        self.active = kid;
        Ok(())
    }

    /// The text, with the keys: for the file alone.
    pub fn secret_text(&self) -> String {
        let keys = self.keys.iter().map(|(kid, key)| KeyText {
            kid: kid.clone(),
            key: BASE64.encode(key.material),
        });
        let text = Text {
            active: self.active.clone(),
            keys: keys.collect(),
        };
        // Texts alone: there is nothing in it that JSON could refuse.
        let mut text = serde_json::to_string_pretty(&text).unwrap_or_default();
        text.push('\n');
        text
    }

    /// The id of the key that seals.
    pub fn active(&self) -> &str {
        &self.active
    }

    /// The ids of all keys, in their order.
    pub fn kids(&self) -> impl Iterator<Item = &str> {
        self.keys.keys().map(String::as_str)
    }

    /// A key that both have, and that is another one here: what it sealed could not be opened any more.
    pub fn contradicts(&self, before: &Self) -> Option<&str> {
        let differs = |(kid, key): &(&String, &Key)| {
            let old = before.keys.get(*kid);
            old.is_some_and(|old| old.material != key.material)
        };
        self.keys.iter().find(differs).map(|(kid, _)| kid.as_str())
    }

    /// A digest that only who has the key can make, which is said in it: `<kid>:<64 hexadecimal digits>`.
    pub fn digest(&self, kid: &str, text: &str) -> Option<String> {
        let Key { material, .. } = self.keys.get(kid)?;
        // A key of its own, so that the one that seals does nothing else.
        let own = hmac::sign(&hmac::Key::new(HMAC_SHA256, material), DIGEST_KEY);
        let tag = hmac::sign(&hmac::Key::new(HMAC_SHA256, own.as_ref()), text.as_bytes());
        let digits: String = tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        Some(format!("{kid}:{digits}"))
    }

    pub(crate) fn sealing(&self) -> Option<(&str, &RandomizedNonceKey)> {
        let key = self.keys.get(&self.active)?;
        Some((&self.active, &key.cipher))
    }

    pub(crate) fn opening(&self, kid: &str) -> Option<&RandomizedNonceKey> {
        self.keys.get(kid).map(|key| &key.cipher)
    }
}

impl PartialEq for Ring {
    fn eq(&self, other: &Self) -> bool {
        let is_same = |(one, other): ((&String, &Key), (&String, &Key))| {
            one.0 == other.0 && one.1.material == other.1.material
        };
        self.active == other.active
            && self.keys.len() == other.keys.len()
            && self.keys.iter().zip(&other.keys).all(is_same)
    }
}

/// Never shows a key.
impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring")
            .field("active", &self.active)
            .field("keys", &self.keys.len())
            .finish()
    }
}

/// Whether this may be the id of a key.
pub(crate) fn is_kid(text: &str) -> bool {
    let fits = |c: u8| c.is_ascii_alphanumeric() || b"._-".contains(&c);
    (1..=KID_CHARS_MAX).contains(&text.len()) && text.bytes().all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Millis = 1_790_000_000_000;

    #[test]
    fn a_ring_is_written_and_read_again() {
        let mut ring = Ring::generate(NOW).unwrap();
        let first = ring.active().to_owned();
        assert!(first.starts_with("2026-09-21-"), "{first}");
        ring.rotate(NOW).unwrap();
        assert_ne!(ring.active(), first);
        let read = Ring::parse(&ring.secret_text()).unwrap();
        assert_eq!(read, ring);
        assert_eq!(read.kids().count(), 2);
        assert!(read.kids().any(|kid| kid == first));
    }

    #[test]
    fn a_text_that_is_cut_off_anywhere_is_refused() {
        let mut ring = Ring::generate(NOW).unwrap();
        ring.rotate(NOW).unwrap();
        let text = ring.secret_text();
        for length in 0..text.trim_end().len() {
            assert!(
                matches!(Ring::parse(&text[..length]), Err(RingError::Form { .. })),
                "{length}"
            );
        }
    }

    #[test]
    fn what_is_wrong_is_named_and_no_key_is_told() {
        let good = BASE64.encode([7; 32]);
        let one =
            |kid: &str, key: &str| format!(r#"{{"active":"a","keys":[{{"kid":"{kid}","key":"{key}"}}]}}"#);
        let secret = "c2VjcmV0LXNlY3JldA==";
        for (text, expected) in [
            (String::new(), "line 1, column 0: not a key ring"),
            ("[]".to_owned(), "not a key ring"),
            (format!("\"{secret}\""), "not a key ring"),
            (format!(r#"{{"active":"a","keys":"{secret}"}}"#), "not a key ring"),
            (
                format!(r#"{{"active":"a","keys":[],"{secret}":1}}"#),
                "not a key ring",
            ),
            (
                r#"{"active":"a","keys":[]}"#.to_owned(),
                "the active key is not among",
            ),
            (one("b", &good), "the active key is not among"),
            (one("a", secret), "key a is not 32 bytes"),
            (one("a", "x!"), "key a is not 32 bytes"),
            (one("", &good), "the id of key 1"),
            (one("a b", &good), "the id of key 1"),
            (one(&"k".repeat(65), &good), "the id of key 1"),
            (
                format!(
                    r#"{{"active":"a","keys":[{{"kid":"a","key":"{good}"}},{{"kid":"a","key":"{good}"}}]}}"#
                ),
                "two keys a",
            ),
        ] {
            let error = Ring::parse(&text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
            assert!(!error.contains(secret) && !error.contains(&good), "{error}");
        }
        let ring = Ring::parse(&one("a", &good)).unwrap();
        assert!(!format!("{ring:?}").contains(&good[..8]));
    }

    #[test]
    fn a_digest_is_the_keys() {
        let mut ring = Ring::generate(NOW).unwrap();
        let first = ring.active().to_owned();
        let digest = ring.digest(&first, "a").unwrap();
        ring.rotate(NOW).unwrap();
        assert_eq!(ring.digest(&first, "a"), Some(digest.clone()));
        assert_ne!(ring.digest(&first, "b"), Some(digest.clone()));
        let other = ring.digest(ring.active(), "a").unwrap();
        assert_ne!(
            other.split_once(':').unwrap().1,
            digest.split_once(':').unwrap().1
        );
        assert_eq!((digest.len(), ring.digest("none", "a")), (first.len() + 65, None));
    }

    #[test]
    fn a_key_that_became_another_is_found() {
        let before = Ring::generate(NOW).unwrap();
        let mut after = Ring::parse(&before.secret_text()).unwrap();
        after.rotate(NOW).unwrap();
        assert_eq!(after.contradicts(&before), None);
        let text = before.secret_text();
        let key = text.split('"').find(|part| part.len() == 44).unwrap();
        let other = Ring::parse(&text.replace(key, &BASE64.encode([1; 32]))).unwrap();
        assert_eq!(other.contradicts(&before), Some(before.active()));
    }
}
