//! Calls to an address of the user's.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use super::address;
use crate::{
    fields::{Fields, Text},
    schema,
};

const URL_CHARS_MAX: usize = 2_048;
const HEADERS_MAX: usize = 50;
const HEADER_CHARS_MAX: usize = 4_096;

/// Headers that belong to the connection, or to the signature.
const RESERVED: [&str; 12] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "webhook-id",
    "webhook-signature",
    "webhook-timestamp",
];
/// So begin others.
const RESERVED_PREFIX: &str = "proxy-";

/// A call to an address of the user's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Webhook {
    /// `http` or `https`; private and loopback addresses only where configured.
    pub url: String,
    /// Sent as JSON.
    pub body: Json,
    /// Further headers.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
}

impl Webhook {
    /// The payload as [`Self::read`] takes it.
    pub(super) fn schema() -> Json {
        let value = json!({"type": "string", "pattern": r"^[\u0020-\u007e]*[\u0021-\u007e][\u0020-\u007e]*$", "minLength": 1, "maxLength": HEADER_CHARS_MAX});
        schema::object([
            ("url", true, address::web_url_schema(URL_CHARS_MAX)),
            (
                "body",
                true,
                json!({"description": "Any JSON; it is what is sent."}),
            ),
            (
                "headers",
                false,
                super::headers_schema(HEADERS_MAX, value, &[&RESERVED[..], &[RESERVED_PREFIX]].concat()),
            ),
        ])
    }

    pub(super) fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let url =
            fields
                .required_text("url", Text::line(URL_CHARS_MAX))
                .filter(|text| match address::web_url(text) {
                    Ok(()) => true,
                    Err((problem, accepted)) => {
                        fields.error("url", problem, accepted);
                        false
                    }
                });
        // `null` is a body too.
        let body = match fields.take_any("body") {
            Some(body) => fields.as_json("body", body),
            None => {
                fields.error("body", "is missing", "any JSON value");
                None
            }
        };
        let headers = fields.texts("headers", HEADERS_MAX, Text::line(HEADER_CHARS_MAX));
        for (name, value) in &headers {
            super::refuse_header(fields, name, |lower| {
                RESERVED.contains(&lower) || lower.starts_with(RESERVED_PREFIX)
            });
            if !value.is_ascii() {
                fields.error(
                    &format!("headers.{}", crate::fields::excerpt(name)),
                    "holds a character beyond ASCII",
                    "visible ASCII characters and spaces",
                );
            }
        }
        Some(Self {
            url: url?.into_owned(),
            body: body?,
            headers,
        })
    }
}
