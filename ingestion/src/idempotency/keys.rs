//! By what a request is recognised, and what it said.

use aws_lc_rs::digest::{Context, SHA256};
use axum::http::HeaderMap;
use posthaste_event::FieldError;
use serde_json::Value as Json;

/// The header with a key of the client's own
/// (<https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/>).
pub const HEADER: &str = "Idempotency-Key";

const KEY_CHARS_MAX: usize = 255;

/// What a key is: the beginning of a claim's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Said {
    Header,
    EventId,
}

const EVENT_ID: &str = "event";
const REQUEST: &str = "request";
const ITEM: &str = "item";

impl Said {
    pub(crate) fn of(id: &str) -> Self {
        match id.split('/').next() {
            Some(EVENT_ID) => Self::EventId,
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
}

impl Keys {
    /// Of an event with this body; `None` when it says nothing to be recognised by. `item` is its place in a request with many.
    pub(crate) fn of(
        header: Option<&str>,
        item: Option<u64>,
        event_id: Option<&str>,
        tenant: &str,
        body: &[u8],
    ) -> Option<Self> {
        let header = header.map(|key| match item {
            None => format!("{REQUEST}/{tenant}/{key}"),
            Some(index) => format!("{ITEM}/{tenant}/{index}/{key}"),
        });
        // Events are looked up by their ids alone, so an id is one event's, whoever says it.
        let event_id = event_id.map(|id| format!("{EVENT_ID}/{id}"));
        let ids: Vec<String> = header.into_iter().chain(event_id).collect();
        (!ids.is_empty()).then(|| Self {
            ids,
            request: digest_of(tenant, body),
        })
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
    // What was found to be an event is JSON. Its objects come out sorted by name.
    let sorted = serde_json::from_slice::<Json>(body).map(|json| json.to_string());
    let mut context = Context::new(&SHA256);
    // No tenant has a line end in its name.
    context.update(tenant.as_bytes());
    context.update(b"\n");
    context.update(sorted.as_ref().map_or(body, String::as_bytes));
    context
        .finish()
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
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
    }

    #[test]
    fn keys_of_different_kinds_tenants_and_places_never_meet() {
        let of = |header, item, event_id, tenant| {
            Keys::of(header, item, event_id, tenant, b"{}").map_or(vec![], |keys| keys.ids)
        };
        assert_eq!(of(None, None, None, "a"), Vec::<String>::new());
        let all = [
            of(Some("k"), None, None, "a"),
            of(Some("k"), None, None, "b"),
            of(Some("k"), Some(0), None, "a"),
            of(Some("k"), Some(1), None, "a"),
            of(Some("1/k"), None, None, "a"),
            of(None, None, Some("k"), "a"),
        ];
        let mut ids: Vec<&String> = all.iter().flatten().collect();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), all.len());
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
