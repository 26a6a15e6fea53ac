//! What went wrong with an attempt, in a form that rules, people and grouping can use.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

use crate::{FieldError, Millis, fields::excerpt};

/// Longest message kept in a delivery's `error`, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 512;

/// Longest message kept in the failure log, in bytes.
pub const LOGGED_MESSAGE_BYTES_MAX: usize = 256;

/// What kind of failure it was; it decides what may be done next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// Definite: nothing was sent. Another try, or another provider, cannot send it twice.
    Rejected,
    /// The request left, the answer did not come: it may have been sent.
    Ambiguous,
    /// No try can succeed, such as an invalid recipient.
    Permanent,
    /// The provider asked us to slow down.
    RateLimited,
    /// Its time passed.
    Expired,
    /// The rules gave up, such as at `maxAge`.
    Rules,
    /// The record could not be read.
    Unreadable,
}

impl ErrorKind {
    /// Every kind.
    pub const ALL: [Self; 7] = [
        Self::Rejected,
        Self::Ambiguous,
        Self::Permanent,
        Self::RateLimited,
        Self::Expired,
        Self::Rules,
        Self::Unreadable,
    ];

    /// The name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rejected => "rejected",
            Self::Ambiguous => "ambiguous",
            Self::Permanent => "permanent",
            Self::RateLimited => "rate_limited",
            Self::Expired => "expired",
            Self::Rules => "rules",
            Self::Unreadable => "unreadable",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for ErrorKind {
    type Err = FieldError;

    fn from_str(name: &str) -> Result<Self, FieldError> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.as_str() == name)
            .ok_or_else(|| {
                FieldError::new(
                    "error",
                    format!("unknown error kind {:?}", excerpt(name)),
                    Self::ALL.map(Self::as_str).join(", "),
                )
            })
    }
}

/// What a provider's refusal says of the recipient, and so of all messages to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reported {
    /// There is no such recipient any more.
    Bounced,
    /// The recipient wants no more messages.
    Unsubscribed,
}

/// The newest error of a delivery.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// What kind of failure.
    pub kind: ErrorKind,
    /// The provider's own code, such as an HTTP status or an API error number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// What it said, at most [`MESSAGE_BYTES_MAX`] bytes. Never a secret, never a payload.
    pub message: String,
    /// 16 hexadecimal digits that equal failures share; see [`fingerprint`].
    pub fingerprint: String,
    /// How long the provider asked us to wait, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u32>,
    /// What it says of the recipient, while the provider's answer is at hand; it is in no record.
    #[serde(skip)]
    pub reported: Option<Reported>,
    /// Fields that this version does not know.
    #[serde(flatten)]
    pub unknown: Map<String, Json>,
}

impl Failure {
    /// A failure at `provider`, its message cut to size and its fingerprint computed.
    pub fn new(kind: ErrorKind, provider: &str, code: Option<String>, message: &str) -> Self {
        let fingerprint = fingerprint(kind, provider, code.as_deref(), message);
        Self {
            kind,
            code,
            message: cut(message, MESSAGE_BYTES_MAX).to_owned(),
            fingerprint,
            retry_after_ms: None,
            reported: None,
            unknown: Map::new(),
        }
    }

    /// The same with the wait that the provider asked for, in milliseconds.
    #[must_use]
    pub fn retry_after(mut self, wait_ms: Option<u32>) -> Self {
        self.retry_after_ms = wait_ms;
        self
    }

    /// The same with what the refusal says of the recipient.
    #[must_use]
    pub const fn reporting(mut self, reported: Option<Reported>) -> Self {
        self.reported = reported;
        self
    }
}

/// One line of the failure log that travels with a delivery.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LoggedFailure {
    /// The step that recorded it.
    pub step: u32,
    /// Which attempt of its generation it was, from 1.
    pub attempt: u32,
    /// The provider that was asked.
    pub provider: String,
    /// The account it was asked with.
    pub account: String,
    /// When, in milliseconds since the Unix epoch.
    pub at: Millis,
    /// What kind of failure.
    pub kind: ErrorKind,
    /// The provider's own code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// What it said, at most [`LOGGED_MESSAGE_BYTES_MAX`] bytes.
    pub message: String,
    /// Fields that this version does not know.
    #[serde(flatten)]
    pub unknown: Map<String, Json>,
}

/// A digest that is the same for failures with the same cause: kind, provider, code, and the message with its
/// numbers and identifiers taken out. 16 hexadecimal digits (FNV-1a, 64 bit).
pub fn fingerprint(kind: ErrorKind, provider: &str, code: Option<&str>, message: &str) -> String {
    let mut hash = Fnv::new();
    for part in [kind.as_str(), provider, code.unwrap_or("")] {
        hash.write(part.as_bytes());
        hash.write(&[0]);
    }
    // A word with a digit in it names one message, number or request, not the cause.
    for word in message.split(|c: char| !c.is_alphanumeric()) {
        if !word.is_empty() && !word.bytes().any(|byte| byte.is_ascii_digit()) {
            hash.write(word.to_lowercase().as_bytes());
            hash.write(b" ");
        }
    }
    format!("{:016x}", hash.0)
}

struct Fnv(u64);

impl Fnv {
    fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}

/// The longest prefix of `text` of at most `bytes_max` bytes that ends between characters.
pub fn cut(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_ignores_what_differs_from_message_to_message() {
        let one = fingerprint(
            ErrorKind::Permanent,
            "twilio",
            Some("21211"),
            "the 'To' number +1202555 is not valid",
        );
        let two = fingerprint(
            ErrorKind::Permanent,
            "twilio",
            Some("21211"),
            "The 'To' number +4930123 is not valid",
        );
        assert_eq!(one, two);
        assert_eq!(one.len(), 16);
        assert_ne!(
            one,
            fingerprint(ErrorKind::Permanent, "twilio", Some("21610"), "blocked")
        );
    }

    #[test]
    fn long_messages_are_cut_between_characters() {
        let failure = Failure::new(ErrorKind::Rejected, "x", None, &"ä".repeat(400));
        assert_eq!(failure.message.len(), 512);
        assert_eq!(cut("äää", 3), "ä");
    }
}
