//! Signatures by the Standard Webhooks scheme, version 1.0.0: `v1,` and the base64 of HMAC-SHA256 over `id.timestamp.body`.
//!
//! Source: <https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>.

use aws_lc_rs::hmac;
use base64::{Engine as _, engine::general_purpose::STANDARD};

/// The secrets of one account; during a rotation receivers know one of two, so each signs.
pub(crate) struct Signer {
    keys: Vec<hmac::Key>,
}

impl Signer {
    /// Reads secrets, `whsec_` and base64, separated by spaces.
    pub(crate) fn parse(secrets: &str) -> Result<Self, &'static str> {
        let keys = secrets
            .split_ascii_whitespace()
            .map(|secret| {
                let encoded = secret.strip_prefix("whsec_").unwrap_or(secret);
                let key = STANDARD.decode(encoded).map_err(|_| "the secret is not base64")?;
                // The specification asks for 24 to 64 bytes.
                if !(24..=64).contains(&key.len()) {
                    return Err("the secret does not have 24 to 64 bytes");
                }
                Ok(hmac::Key::new(hmac::HMAC_SHA256, &key))
            })
            .collect::<Result<Vec<_>, _>>()?;
        if keys.is_empty() {
            return Err("there is no secret");
        }
        Ok(Self { keys })
    }

    /// The `webhook-signature` header.
    pub(crate) fn sign(&self, id: &str, timestamp_seconds: i64, body: &[u8]) -> String {
        let head = format!("{id}.{timestamp_seconds}.");
        let mut header = String::new();
        for key in &self.keys {
            let mut context = hmac::Context::with_key(key);
            context.update(head.as_bytes());
            context.update(body);
            if !header.is_empty() {
                header.push(' ');
            }
            header.push_str("v1,");
            STANDARD.encode_string(context.sign(), &mut header);
        }
        header
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vector that every official library tests itself with, such as `libraries/rust/src/lib.rs`.
    #[test]
    fn the_known_example_has_the_known_signature() {
        let signer = Signer::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        assert_eq!(
            signer.sign(
                "msg_p5jXN8AQM9LWM0D4loKWxJek",
                1_614_265_330,
                br#"{"test": 2432232314}"#
            ),
            "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
        );
    }

    #[test]
    fn each_secret_signs_and_a_bad_one_is_refused() {
        let signer =
            Signer::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD")
                .unwrap();
        assert_eq!(signer.sign("a", 1, b"{}").split(' ').count(), 2);
        for bad in ["", "whsec_", "whsec_????", "whsec_c2hvcnQ="] {
            assert!(Signer::parse(bad).is_err(), "{bad}");
        }
    }
}
