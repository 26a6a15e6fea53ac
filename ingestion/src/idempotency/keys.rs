//! By what a request is recognised, and what it said.

use aws_lc_rs::digest::{Context, SHA256};
use axum::http::HeaderMap;
use posthaste_event::{FieldError, Millis};
use posthaste_sealing::Ring;
use serde_json::Value as Json;

/// The header with a key of the client's own
/// (<https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/>).
pub const HEADER: &str = "Idempotency-Key";

/// Longest key, in characters, which are ASCII.
pub(crate) const KEY_CHARS_MAX: usize = 255;

/// By what a request is recognised, besides the id of its event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Key {
    /// A client's `Idempotency-Key`.
    Header(String),
    /// A place on the inbox, and the time there, since a topic may be made anew. An event id of its own says more.
    Inbox {
        partition: u32,
        offset: i64,
        appended_at: Millis,
    },
    /// A CloudEvent: its source and its id are one event's
    /// (<https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md#id>).
    CloudEvent { source: String, id: String },
}

/// What a key is: the beginning of a claim's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Said {
    Header,
    EventId,
    CloudEvent,
}

const EVENT_ID: &str = "event";
const REQUEST: &str = "request";
const ITEM: &str = "item";
const BROADCAST: &str = "broadcast";
const INBOX: &str = "inbox";
const CLOUD_EVENT: &str = "cloudevent";

impl Said {
    pub(crate) fn of(id: &str) -> Self {
        match id.split('/').next() {
            Some(EVENT_ID) => Self::EventId,
            Some(CLOUD_EVENT) => Self::CloudEvent,
            _ => Self::Header,
        }
    }
}

/// The keys of one event, and a digest of what was asked for with them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Keys {
    /// Of claims. A tenant has no slash, so no two kinds of keys meet.
    pub(crate) ids: Vec<String>,
    pub(crate) request: String,
    /// The same without a key.
    plain: String,
}

impl Keys {
    /// Of an event with this body; `None` when it says nothing to be recognised by. `item` is its place in a request with many.
    pub(crate) fn of(
        key: Option<&Key>,
        item: Option<u64>,
        event_id: Option<&str>,
        tenant: &str,
        body: &[u8],
    ) -> Option<Self> {
        let key = key.and_then(|key| match (key, item) {
            (Key::Header(key), None) => Some(format!("{REQUEST}/{tenant}/{key}")),
            (Key::Header(key), Some(index)) => Some(format!("{ITEM}/{tenant}/{index}/{key}")),
            (Key::Inbox { .. }, _) if event_id.is_some() => None,
            (
                Key::Inbox {
                    partition,
                    offset,
                    appended_at,
                },
                _,
            ) => Some(format!("{INBOX}/{partition}/{offset}/{appended_at}")),
            (Key::CloudEvent { source, id }, _) => {
                Some(format!("{CLOUD_EVENT}/{}", digest(&[tenant, source, id])))
            }
        });
        // As it is kept, so that each tenant has ids of its own.
        let event_id = event_id.map(|id| format!("{EVENT_ID}/{id}"));
        let ids: Vec<String> = key.into_iter().chain(event_id).collect();
        (!ids.is_empty()).then(|| {
            let plain = digest_of(tenant, body);
            Self {
                ids,
                request: plain.clone(),
                plain,
            }
        })
    }

    /// Of a broadcast; `plain` is the digest of what is said of it.
    pub(crate) fn of_broadcast(key: &str, tenant: &str, plain: String) -> Self {
        Self {
            ids: vec![format!("{BROADCAST}/{tenant}/{key}")],
            request: plain.clone(),
            plain,
        }
    }

    /// Of an event that is sealed: whoever reads the claims must not be able to try what its payload may have been.
    pub(crate) fn covered(mut self, ring: &Ring) -> Self {
        if let Some(request) = ring.digest(ring.active(), &self.plain) {
            self.request = request;
        }
        self
    }

    /// Whether a digest is that of the same request; the key may have been rotated since.
    pub(crate) fn are_of(&self, request: &str, ring: Option<&Ring>) -> bool {
        if request == self.request || request == self.plain {
            return true;
        }
        let kid = request.split_once(':').map(|(kid, _)| kid);
        let again = kid.and_then(|kid| ring?.digest(kid, &self.plain));
        again.is_some_and(|again| again == request)
    }
}

/// The key in the header.
///
/// # Errors
/// When it is none, or there are several.
pub(crate) fn header(headers: &HeaderMap) -> Result<Option<&str>, FieldError> {
    let mut values = headers.get_all(HEADER).iter();
    let Some(first) = values.next() else {
        return Ok(None);
    };
    let key = first.to_str().unwrap_or_default();
    let is_key = (1..=KEY_CHARS_MAX).contains(&key.len()) && values.next().is_none();
    is_key.then_some(Some(key)).ok_or_else(|| {
        FieldError::new(
            HEADER,
            "is not one key",
            format!("one of 1 to {KEY_CHARS_MAX} visible ASCII characters, such as a UUID"),
        )
    })
}

/// The same for the same JSON of the same tenant, however it is written.
fn digest_of(tenant: &str, body: &[u8]) -> String {
    let mut digest = Digest::new(tenant);
    digest.add(body);
    digest.finish()
}

/// A digest of what one tenant says in one or more pieces of JSON.
pub(crate) struct Digest(Context);

impl Digest {
    pub(crate) fn new(tenant: &str) -> Self {
        let mut context = Context::new(&SHA256);
        context.update(tenant.as_bytes());
        Self(context)
    }

    /// Adds a piece, however it is written.
    pub(crate) fn add(&mut self, json: &[u8]) {
        // What was found to be good is JSON. Its objects come out sorted by name.
        let sorted = serde_json::from_slice::<Json>(json).map(|json| json.to_string());
        // No tenant has a line end in its name, and no JSON in this form.
        self.0.update(b"\n");
        self.0.update(sorted.as_ref().map_or(json, String::as_bytes));
    }

    pub(crate) fn finish(self) -> String {
        in_hex(self.0)
    }
}

/// Of some lines of text.
fn digest(lines: &[&str]) -> String {
    let mut context = Context::new(&SHA256);
    context.update(lines.join("\n").as_bytes());
    in_hex(context)
}

fn in_hex(context: Context) -> String {
    let bytes = context.finish();
    bytes.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn the_same_json_has_the_same_digest_and_other_json_another() {
        let digest = digest_of("t", br#"{"a": 1, "b": {"x": [1, 2], "y": "\u00e4"}}"#);
        assert_eq!(digest.len(), 64);
        assert_eq!(
            digest_of("t", "{\"b\":{\"y\":\"\u{e4}\",\"x\":[1,2]},\"a\":1}".as_bytes()),
            digest
        );
        for other in [
            r#"{"a": 1}"#,
            r#"{"a": 1, "b": {"x": [2, 1], "y": "\u00e4"}}"#,
            "",
        ] {
            assert_ne!(digest_of("t", other.as_bytes()), digest);
        }
        assert_ne!(digest_of("s", b"{}"), digest_of("t", b"{}"));
        let of_lines = |lines: &[&[u8]]| {
            let mut digest = Digest::new("t");
            lines.iter().for_each(|line| digest.add(line));
            digest.finish()
        };
        assert_eq!(
            of_lines(&[b"{}", br#"{"a": 1}"#]),
            of_lines(&[b"{}", br#"{"a":1}"#])
        );
        assert_ne!(of_lines(&[b"{}", b"{}"]), of_lines(&[b"{}"]));
    }

    #[test]
    fn keys_of_different_kinds_tenants_and_places_never_meet() {
        let of = |header: Option<&str>, item, event_id, tenant| {
            let key = header.map(|key| Key::Header(key.to_owned()));
            Keys::of(key.as_ref(), item, event_id, tenant, b"{}").map_or(vec![], |keys| keys.ids)
        };
        let other = |key, event_id, tenant| {
            Keys::of(Some(&key), None, event_id, tenant, b"{}").map_or(vec![], |keys| keys.ids)
        };
        let place = |offset| Key::Inbox {
            partition: 0,
            offset,
            appended_at: 0,
        };
        let cloud = |source: &str, id: &str| Key::CloudEvent {
            source: source.to_owned(),
            id: id.to_owned(),
        };
        assert_eq!(of(None, None, None, "a"), Vec::<String>::new());
        let all = [
            Keys::of_broadcast("k", "a", String::new()).ids,
            of(Some("k"), None, None, "a"),
            of(Some("k"), None, None, "b"),
            of(Some("k"), Some(0), None, "a"),
            of(Some("k"), Some(1), None, "a"),
            of(Some("1/k"), None, None, "a"),
            of(None, None, Some("k"), "a"),
            other(place(1), None, "a"),
            other(place(2), None, "a"),
            other(cloud("s", "k"), None, "a"),
            other(cloud("k", "s"), None, "a"),
            other(cloud("s", "k"), None, "b"),
        ];
        let mut ids: Vec<&String> = all.iter().flatten().collect();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), all.len());
        assert_eq!(other(place(1), Some("k"), "a"), of(None, None, Some("k"), "a"));
        let both = of(Some("k"), None, Some("e"), "a");
        assert_eq!(
            both.iter().map(|id| Said::of(id)).collect::<Vec<_>>(),
            [Said::Header, Said::EventId]
        );
    }

    #[test]
    fn a_header_is_one_key_of_bounded_length() {
        let with = |values: &[&[u8]]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(HEADER, HeaderValue::from_bytes(value).unwrap());
            }
            header(&headers).map(|key| key.map(str::to_owned))
        };
        assert_eq!(with(&[]).unwrap(), None);
        assert_eq!(with(&[b"a b/c"]).unwrap().as_deref(), Some("a b/c"));
        for bad in [
            &[b"".as_slice()][..],
            &[b"a", b"b"],
            &[&[b'x'; 256]],
            &["\u{e4}".as_bytes()],
        ] {
            assert_eq!(with(bad).unwrap_err().field, HEADER);
        }
    }
}
