//! API keys: what they look like, and how one is known again without being kept.
//!
//! `ph_<id>_<secret>`: the id is shown and logged, the secret is 256 random bits. Only the SHA-256 of the whole is kept, which is
//! enough for a secret that nobody can guess.

use std::{collections::BTreeMap, fmt::Write as _, sync::Arc};

use aws_lc_rs::{constant_time, digest, rand};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use posthaste_event::Millis;

use super::{principal::Principal, settings::Client};

/// What every key begins with, so that scanners of secrets know it.
pub const PREFIX: &str = "ph_";

const ID_BYTES: usize = 6;
const SECRET_BYTES: usize = 32;
const DIGEST_BYTES: usize = 32;

/// The SHA-256 of a key.
pub(super) type Digest = [u8; DIGEST_BYTES];

/// A new key. The text is shown once and kept nowhere.
pub struct Minted {
    /// The part that is shown.
    pub id: String,
    /// The whole key.
    pub key: String,
    /// What is kept of it: its SHA-256 in hexadecimal digits.
    pub hash: String,
}

/// Makes a key.
///
/// # Errors
/// When the system has no randomness.
pub fn mint() -> Result<Minted, String> {
    let mut bytes = [0; ID_BYTES];
    rand::fill(&mut bytes).map_err(no_randomness)?;
    // An id of digits alone would be a number in an environment variable, and refused there. So it begins with a letter.
    bytes[0] |= 0xa0;
    mint_again(&hex(&bytes))
}

/// Another secret for a key with this id.
///
/// # Errors
/// When the system has no randomness.
pub fn mint_again(id: &str) -> Result<Minted, String> {
    let mut secret = [0; SECRET_BYTES];
    rand::fill(&mut secret).map_err(no_randomness)?;
    let id = id.to_owned();
    let key = format!("{PREFIX}{id}_{}", BASE64.encode(secret));
    let hash = hex(&digest_of(key.as_bytes()));
    Ok(Minted { id, key, hash })
}

fn no_randomness(_: aws_lc_rs::error::Unspecified) -> String {
    "the system gives no randomness".to_owned()
}

pub(super) fn digest_of(text: &[u8]) -> Digest {
    let mut out = [0; DIGEST_BYTES];
    out.copy_from_slice(digest::digest(&digest::SHA256, text).as_ref());
    out
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Reads the hash of a key; `None` when it is none.
pub(super) fn read_hash(text: &str) -> Option<Digest> {
    let mut out = [0; DIGEST_BYTES];
    if text.len() != 2 * DIGEST_BYTES || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    for (index, byte) in out.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * index..2 * index + 2)?, 16).ok()?;
    }
    Some(out)
}

/// The id in a key, if it has the form of one.
pub(super) fn id_of(key: &str) -> Option<&str> {
    let (id, secret) = key.strip_prefix(PREFIX)?.split_once('_')?;
    let is_id = id.len() == 2 * ID_BYTES && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    (is_id && !secret.is_empty()).then_some(id)
}

/// The id may be written down as it is, or with what stands before it in a key.
pub(super) fn read_id(text: &str) -> Option<&str> {
    let id = text.strip_prefix(PREFIX).unwrap_or(text);
    let is_id = id.len() == 2 * ID_BYTES && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_id.then_some(id)
}

/// Keys that are known, by id.
#[derive(Debug, Default)]
pub(super) struct Known(BTreeMap<Box<str>, (Digest, Arc<Principal>)>);

/// What came of looking a key up.
#[derive(Debug)]
pub(super) enum Found<'a> {
    /// It is good.
    Good(&'a Arc<Principal>),
    /// It was.
    Over,
    /// There is none like it.
    Unknown,
}

impl Known {
    /// Those of the configuration.
    pub(super) fn configured<'a>(clients: impl Iterator<Item = (&'a str, &'a Client)>) -> Self {
        let read = clients.filter_map(|(name, client)| {
            let id = read_id(&client.key_id)?;
            Some((id.into(), (read_hash(&client.hash)?, client.principal(name)?)))
        });
        Self(read.collect())
    }

    /// Looks a key up. Takes the same time whether or not there is one with its id.
    pub(super) fn find(&self, key: &str, now: Millis) -> Found<'_> {
        let digest = digest_of(key.as_bytes());
        let kept = id_of(key).and_then(|id| self.0.get(id));
        let nobody = [0; DIGEST_BYTES];
        let hash = kept.map_or(&nobody, |(hash, _)| hash);
        let is_same = constant_time::verify_slices_are_equal(&digest, hash).is_ok();
        match kept {
            Some((_, principal)) if is_same => match principal.until {
                Some(until) if until <= now => Found::Over,
                _ => Found::Good(principal),
            },
            _ => Found::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_keys_are_the_same_and_each_is_known_by_its_hash() {
        let (one, other) = (mint().unwrap(), mint().unwrap());
        assert_ne!(one.key, other.key);
        assert_eq!(id_of(&one.key), Some(one.id.as_str()));
        assert_eq!(read_hash(&one.hash), Some(digest_of(one.key.as_bytes())));
        assert!(!one.hash.contains(&one.key) && one.key.len() > 50);
        assert_eq!(read_id(&format!("ph_{}", one.id)), Some(one.id.as_str()));
        for _ in 0..1_000 {
            assert!(mint().unwrap().id.starts_with(['a', 'b', 'e', 'f']));
        }
    }

    #[test]
    fn what_is_no_key_is_none() {
        for wrong in [
            "",
            "ph_",
            "ph_0011223344",
            "ph_001122334455_",
            "ph_00112233445x_s",
            "xx_001122334455_s",
        ] {
            assert_eq!(id_of(wrong), None, "{wrong}");
        }
        for wrong in [
            "",
            "00",
            &"0".repeat(63),
            &"g".repeat(64),
            &"ä".repeat(32),
            &"+0".repeat(32),
        ] {
            assert_eq!(read_hash(wrong), None, "{wrong}");
        }
    }
}
