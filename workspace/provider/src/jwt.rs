//! Tokens that an account signs itself and every request carries: a JWT by ES256 with an EC key on P-256.
//!
//! Source: <https://developer.apple.com/documentation/usernotifications/establishing-a-token-based-connection-to-apns> (a token
//! is refused an hour after its `iat`, and so are tokens that change more than once in 20 minutes).

use std::sync::{Mutex, PoisonError};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use posthaste_event::Millis;
use serde::Serialize;

/// A token this old is replaced.
const RENEWED_AFTER_MS: Millis = 40 * 60 * 1_000;
/// A token that was refused is replaced, but not before it is this old.
const RENEWED_AFTER_REFUSAL_MS: Millis = 20 * 60 * 1_000;

/// Makes tokens, and remembers the newest.
pub(crate) struct Signed {
    key: EncodingKey,
    key_id: String,
    issuer: String,
    newest: Mutex<Option<Token>>,
}

struct Token {
    header: String,
    made_at: Millis,
    refused: bool,
}

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    iat: i64,
}

impl Signed {
    /// `key` is a private key in PEM form (PKCS #8), as in a `.p8` file; none: a throw-away one, for the sandbox.
    ///
    /// # Errors
    /// What is wrong with the key. Never quotes it.
    pub(crate) fn new(key: Option<&str>, key_id: String, issuer: String) -> Result<Self, &'static str> {
        let key = match key {
            Some(pem) => EncodingKey::from_ec_pem(pem.as_bytes()).map_err(|_| "is no EC key in PEM form")?,
            None => {
                let made =
                    EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
                        .map_err(|_| "cannot be made")?;
                EncodingKey::from_ec_der(made.as_ref())
            }
        };
        let signed = Self {
            key,
            key_id,
            issuer,
            newest: Mutex::new(None),
        };
        // A key of another curve shows here, not at the first message.
        signed.sign(0).ok_or("is no key on the curve P-256")?;
        Ok(signed)
    }

    /// The `Authorization` header. By the wall clock, as the other side judges: a machine may have slept.
    pub(crate) fn header(&self, now: Millis) -> Option<String> {
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(token) = newest.as_ref() {
            let renewed_after = match token.refused {
                true => RENEWED_AFTER_REFUSAL_MS,
                false => RENEWED_AFTER_MS,
            };
            if (0..renewed_after).contains(&(now - token.made_at)) {
                return Some(token.header.clone());
            }
        }
        let header = format!("bearer {}", self.sign(now)?);
        *newest = Some(Token {
            header: header.clone(),
            made_at: now,
            refused: false,
        });
        Some(header)
    }

    /// The other side did not take this header.
    pub(crate) fn refused(&self, header: &str) {
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(token) = newest.as_mut().filter(|token| token.header == header) {
            token.refused = true;
        }
    }

    fn sign(&self, now: Millis) -> Option<String> {
        let header = Header {
            kid: Some(self.key_id.clone()),
            ..Header::new(Algorithm::ES256)
        };
        let claims = Claims {
            iss: &self.issuer,
            iat: now / 1_000,
        };
        jsonwebtoken::encode(&header, &claims, &self.key).ok()
    }
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
    use serde_json::{Value as Json, json};

    use super::*;

    const MINUTE: Millis = 60_000;

    fn signed() -> Signed {
        Signed::new(None, "KEY1234567".to_owned(), "TEAM123456".to_owned()).unwrap()
    }

    #[test]
    fn a_token_says_who_and_when() {
        let header = signed().header(1_700_000_000_999).unwrap();
        let token = header.strip_prefix("bearer ").unwrap();
        let parts: Vec<&str> = token.split('.').collect();
        let part = |index: usize| -> Json {
            serde_json::from_slice(&URL_SAFE_NO_PAD.decode(parts[index]).unwrap()).unwrap()
        };
        assert_eq!(
            part(0),
            json!({"alg": "ES256", "kid": "KEY1234567", "typ": "JWT"})
        );
        assert_eq!(part(1), json!({"iss": "TEAM123456", "iat": 1_700_000_000}));
        // Two numbers of 32 bytes, as JWS has them (RFC 7518, section 3.4), not ASN.1.
        assert_eq!(URL_SAFE_NO_PAD.decode(parts[2]).unwrap().len(), 64);
    }

    #[test]
    fn a_token_lasts_between_20_and_60_minutes() {
        let signed = signed();
        let first = signed.header(0).unwrap();
        assert_eq!(signed.header(39 * MINUTE).unwrap(), first);
        let second = signed.header(40 * MINUTE).unwrap();
        assert_ne!(second, first);
        // Refused too early, it is kept, since another one would be refused too.
        signed.refused(&second);
        signed.refused(&first);
        assert_eq!(signed.header(59 * MINUTE).unwrap(), second);
        let third = signed.header(60 * MINUTE).unwrap();
        assert_ne!(third, second);
        assert_eq!(signed.header(99 * MINUTE).unwrap(), third);
        // A clock that went back would make tokens of the future.
        assert_ne!(signed.header(0).unwrap(), third);
    }

    #[test]
    fn keys_that_cannot_sign_are_refused() {
        let other = EcdsaKeyPair::generate_pkcs8(
            &aws_lc_rs::signature::ECDSA_P384_SHA384_FIXED_SIGNING,
            &SystemRandom::new(),
        )
        .unwrap();
        let pem = |der: &[u8]| {
            let text = base64::engine::general_purpose::STANDARD.encode(der);
            format!("-----BEGIN PRIVATE KEY-----\n{text}\n-----END PRIVATE KEY-----\n")
        };
        let good =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new()).unwrap();
        let made = |key: &str| Signed::new(Some(key), String::new(), String::new()).map(|_| ());
        assert_eq!(made(&pem(good.as_ref())), Ok(()));
        for bad in ["", "secret", &pem(b"secret"), &pem(other.as_ref())] {
            assert!(made(bad).is_err());
        }
    }
}
