//! Emails.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json, value::RawValue};

use super::{
    address,
    attachments::{self, Attachment},
};
use crate::{
    fields::{Fields, Text, kind_of},
    schema,
};

/// Longest line of a header, in characters (RFC 5322, section 2.1.1).
const LINE_CHARS_MAX: usize = 998;

/// Most recipients of one email, all kinds together: SendGrid and Mailgun take 1,000.
const RECIPIENTS_MAX: usize = 1_000;

/// Most further headers.
const HEADERS_MAX: usize = 50;

/// Longest text or HTML part, in characters; the limit of a whole event is usually reached first.
const PART_CHARS_MAX: usize = 10_000_000;

/// Headers that the fields, or the providers themselves, write.
const RESERVED: [&str; 16] = [
    "from",
    "to",
    "cc",
    "bcc",
    "subject",
    "reply-to",
    "sender",
    "date",
    "received",
    "return-path",
    "dkim-signature",
    "mime-version",
    "content-type",
    "content-transfer-encoding",
    "x-sg-id",
    "x-sg-eid",
];

/// One address, or several.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Addresses {
    /// `"a@example.com"` or `"Name <a@example.com>"`.
    One(String),
    /// Several of them.
    Many(Vec<String>),
}

impl Addresses {
    /// The addresses as a slice.
    pub fn as_slice(&self) -> &[String] {
        match self {
            Self::One(address) => std::slice::from_ref(address),
            Self::Many(addresses) => addresses,
        }
    }
}

/// An email.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Email {
    /// The subject line.
    pub subject: String,
    /// The text part. Either this or `html` must be there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// The HTML part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub html: Option<String>,
    /// Recipients.
    pub to: Addresses,
    /// The sender.
    pub from: String,
    /// Recipients of a copy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cc: Option<Addresses>,
    /// Recipients of a copy that the others do not see.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bcc: Option<Addresses>,
    /// Where answers go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<String>,
    /// Further headers.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// Files that go with it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attachments: Vec<Attachment>,
}

impl Email {
    /// The payload as [`Self::read`] takes it.
    pub(super) fn schema() -> Json {
        let address = || address::email_schema(LINE_CHARS_MAX);
        let addresses = || json!({"oneOf": [address(), schema::list(address(), 1, RECIPIENTS_MAX)]});
        let part = || schema::text(Text::lines(PART_CHARS_MAX));
        let headers = super::headers_schema(HEADERS_MAX, schema::text(Text::line(LINE_CHARS_MAX)), &RESERVED);
        let mut email = schema::object([
            ("subject", true, schema::text(Text::line(LINE_CHARS_MAX))),
            ("body", false, schema::described(part(), "The text.")),
            ("html", false, part()),
            ("to", true, addresses()),
            ("from", true, address()),
            ("cc", false, addresses()),
            ("bcc", false, addresses()),
            ("replyTo", false, address()),
            ("headers", false, headers),
            ("attachments", false, attachments::schema()),
        ]);
        email["anyOf"] = super::some_of(["body", "html"]);
        email
    }

    pub(super) fn read(fields: &mut Fields<'_>, strictly: bool) -> Option<Self> {
        let subject = fields.required_text("subject", Text::line(LINE_CHARS_MAX));
        let parts_before = [fields.take("body"), fields.take("html")];
        let [body, html] = [("body", parts_before[0]), ("html", parts_before[1])].map(|(name, part)| {
            part.and_then(|part| fields.as_text(name, part, Text::lines(PART_CHARS_MAX)))
                .map(Into::into)
        });
        if parts_before.iter().all(Option::is_none) {
            fields.error("body", "is missing", "a text in body, HTML in html, or both");
        }
        let to = match fields.required("to", "an address or a list of addresses") {
            Some(to) => addresses(fields, "to", to),
            None => None,
        };
        let from = match fields.required("from", "an address") {
            Some(from) => one_address(fields, "from", from),
            None => None,
        };
        let [cc, bcc] = ["cc", "bcc"].map(|name| {
            let value = fields.take(name)?;
            addresses(fields, name, value)
        });
        let reply_to = fields
            .take("replyTo")
            .and_then(|value| one_address(fields, "replyTo", value));
        let headers = headers(fields);
        let attachments = attachments::read(fields, strictly);
        let count = |some: &Option<Addresses>| some.as_ref().map_or(0, |some| some.as_slice().len());
        if count(&to) + count(&cc) + count(&bcc) > RECIPIENTS_MAX {
            fields.error(
                "to",
                "has too many recipients together with cc and bcc",
                format!("up to {RECIPIENTS_MAX}"),
            );
        }
        Some(Self {
            subject: subject?.into_owned(),
            body,
            html,
            to: to?,
            from: from?,
            cc,
            bcc,
            reply_to,
            headers,
            attachments,
        })
    }
}

fn one_address(fields: &mut Fields<'_>, name: &str, value: &RawValue) -> Option<String> {
    let Ok(text) = serde_json::from_str::<String>(value.get()) else {
        fields.error(
            name,
            format!("must be an address, not {}", kind_of(value.get())),
            "an address such as a@example.com",
        );
        return None;
    };
    if text.chars().any(char::is_control) || text.len() > LINE_CHARS_MAX {
        fields.error(
            name,
            "holds a line break or another control character, or is too long",
            "an address such as a@example.com or Name <a@example.com>",
        );
        return None;
    }
    match address::email(&text) {
        Ok(()) => Some(text),
        Err((problem, accepted)) => {
            fields.error(name, problem, accepted);
            None
        }
    }
}

fn addresses(fields: &mut Fields<'_>, name: &'static str, value: &RawValue) -> Option<Addresses> {
    if !value.get().starts_with('[') {
        return one_address(fields, name, value).map(Addresses::One);
    }
    let values: Vec<&RawValue> = serde_json::from_str(value.get()).ok()?;
    if values.is_empty() || values.len() > RECIPIENTS_MAX {
        fields.error(
            name,
            format!("has {} addresses", values.len()),
            format!("1 to {RECIPIENTS_MAX} addresses"),
        );
        return None;
    }
    // All are looked at, so that all that are wrong are named.
    let read: Vec<Option<String>> = values
        .iter()
        .enumerate()
        .map(|(index, value)| one_address(fields, &format!("{name}[{index}]"), value))
        .collect();
    read.into_iter().collect::<Option<Vec<_>>>().map(Addresses::Many)
}

fn headers(fields: &mut Fields<'_>) -> BTreeMap<String, String> {
    let headers = fields.texts("headers", HEADERS_MAX, Text::line(LINE_CHARS_MAX));
    for name in headers.keys() {
        super::refuse_header(fields, name, |lower| RESERVED.contains(&lower));
    }
    headers
}
