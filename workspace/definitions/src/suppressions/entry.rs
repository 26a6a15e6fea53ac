//! A suppression: on the topic `suppression/<tenant>/<channel>/<id>` with a [`Definition`] around its [`Body`], in memory as little
//! as sending needs, and for whoever asks.

use bytes::Bytes;
use posthaste_event::{Channel, Millis, definition::Definition};
use serde::{Deserialize, Serialize};
use serde_json::value::to_raw_value;

use super::recipient::Id;

/// How keys of suppressions begin. Other readers of the topic pass over them.
const KIND: &str = "suppression";

/// Why nothing is sent to somebody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reason {
    /// Messages come back.
    Bounced,
    /// The recipient calls them unwanted.
    Complained,
    /// The recipient wants no more of them. An event can say that it goes nevertheless.
    Unsubscribed,
    /// Somebody decided so.
    Manual,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Bounced, Self::Complained, Self::Unsubscribed, Self::Manual];

    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bounced => "bounced",
            Self::Complained => "complained",
            Self::Unsubscribed => "unsubscribed",
            Self::Manual => "manual",
        }
    }

    /// The code of an event that is skipped for it.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Bounced => "suppressed_bounced",
            Self::Complained => "suppressed_complained",
            Self::Unsubscribed => "suppressed_unsubscribed",
            Self::Manual => "suppressed_manual",
        }
    }

    /// The reason with this name.
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == name)
    }
}

/// What a suppression's record says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Body {
    /// Why.
    pub reason: Reason,
    /// As much of the recipient as may be shown.
    pub recipient: String,
    /// Where it was heard, in its teller's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Until when, in milliseconds since the Unix epoch; without, for good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Millis>,
}

impl Body {
    /// The record's value.
    pub fn encode(&self, by: &str, write: String, at: Millis) -> Bytes {
        // Texts and numbers: there is nothing in it that JSON could refuse.
        let definition = to_raw_value(self).and_then(|body| {
            Definition {
                version: 1,
                at,
                by: by.to_owned(),
                write,
                body,
            }
            .encode()
        });
        definition.unwrap_or_default()
    }
}

/// Whose suppression a record's key names: the tenant, the channel, and who.
pub type Named<'a> = (&'a str, Channel, Id);

/// A record's key.
pub fn key((tenant, channel, id): Named<'_>) -> String {
    format!("{KIND}/{tenant}/{channel}/{id}")
}

/// Reads a record's key; `None` when it names no suppression, `Some(None)` when it begins like one.
pub fn read_key(key: &[u8]) -> Option<Option<Named<'_>>> {
    let rest = std::str::from_utf8(key)
        .ok()?
        .strip_prefix(KIND)?
        .strip_prefix('/')?;
    let named = || {
        let (tenant, rest) = rest.split_once('/')?;
        let (channel, id) = rest.split_once('/')?;
        Some((tenant, channel.parse().ok()?, Id::read(id)?))
    };
    Some(named())
}

/// A suppression in memory: there may be a million of them.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Seconds since the Unix epoch; 0 for good.
    until_s: u32,
    pub reason: Reason,
    /// Only where suppressions are shown.
    pub details: Option<Box<Details>>,
}

/// What is shown of a suppression.
#[derive(Debug, Clone)]
pub struct Details {
    pub recipient: Box<str>,
    pub source: Option<Box<str>>,
    pub by: Box<str>,
    pub at: Millis,
}

impl Entry {
    /// Reads a record's value.
    pub fn read(value: &[u8], with_details: bool) -> Option<Self> {
        let definition = Definition::decode(value).ok()?;
        let body: Body = serde_json::from_str(definition.body.get()).ok()?;
        let details = with_details.then(|| {
            Box::new(Details {
                recipient: body.recipient.into(),
                source: body.source.map(Into::into),
                by: definition.by.into(),
                at: definition.at,
            })
        });
        Some(Self {
            until_s: body.until.map_or(0, |until| {
                u32::try_from(until.saturating_add(999) / 1_000)
                    .unwrap_or(u32::MAX)
                    .max(1)
            }),
            reason: body.reason,
            details,
        })
    }

    /// Until when, in milliseconds since the Unix epoch; `None` is for good.
    pub fn until(&self) -> Option<Millis> {
        (self.until_s != 0).then(|| Millis::from(self.until_s) * 1_000)
    }

    pub fn is_over(&self, now: Millis) -> bool {
        self.until().is_some_and(|until| until <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let id = Id::of("acme", Channel::Email, "ann@example.com");
        let written = key(("acme", Channel::Email, id));
        assert!(!written.contains("ann"));
        assert_eq!(
            read_key(written.as_bytes()),
            Some(Some(("acme", Channel::Email, id)))
        );
        for malformed in [
            "suppression/",
            "suppression/a",
            "suppression/a/fax/00",
            "suppression/a/sms/xyz",
        ] {
            assert_eq!(read_key(malformed.as_bytes()), Some(None), "{malformed}");
        }
        for other in [&b"template/a/b"[..], b"", b"\xff", b"suppressions/a/sms/0"] {
            assert_eq!(read_key(other), None);
        }
        let body = Body {
            reason: Reason::Complained,
            recipient: "a***@example.com".to_owned(),
            source: Some("feedback loop".to_owned()),
            until: Some(1_800_000_000_001),
        };
        let value = body.encode("me", "w".to_owned(), 7);
        let entry = Entry::read(&value, true).unwrap();
        assert_eq!(
            (entry.reason, entry.until()),
            (Reason::Complained, Some(1_800_000_001_000))
        );
        assert!(entry.is_over(1_800_000_001_000) && !entry.is_over(1_800_000_000_999));
        let details = entry.details.unwrap();
        assert_eq!(
            (&*details.recipient, &*details.by, details.at),
            ("a***@example.com", "me", 7)
        );
        assert!(Entry::read(&value, false).unwrap().details.is_none());
        assert!(Entry::read(b"{}", true).is_none());
    }

    #[test]
    fn an_entry_is_small() {
        assert_eq!(size_of::<Entry>(), 16);
    }
}
