//! The interfaces that the sandbox speaks: one file each, one line each in [`ALL`].
//!
//! Each checks what the real one checks of a request's shape, and answers as the real one does; the sources are those named in
//! the provider's file in `workspace/provider/providers/`.

mod apns;
pub(crate) mod firebase;
mod mailgun;
mod messagebird;
mod onesignal;
mod sendgrid;
mod slack;
mod slack_webhook;
pub(crate) mod smtp;
mod teams;
mod twilio;
mod webhook;

use std::collections::BTreeMap;

use crate::form::{self, File};
use axum::{
    body::{Body, Bytes},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Serialize;
use serde_json::{Value as Json, json};

/// Every interface.
pub(crate) const ALL: &[Api] = &[
    apns::API,
    firebase::API,
    mailgun::API,
    messagebird::API,
    onesignal::API,
    sendgrid::API,
    slack::API,
    slack_webhook::API,
    smtp::API,
    teams::API,
    twilio::API,
    webhook::API,
];

/// A provider's interface.
pub(crate) struct Api {
    /// The provider's name.
    pub(crate) name: &'static str,
    /// Its paths, in the form of axum's routes.
    pub(crate) paths: &'static [&'static str],
    /// Checks credentials and fields as the real one would, or gives its refusal.
    pub(crate) read: fn(&Call, &Content) -> Result<Sent, Reply>,
    /// The answer to a message that was taken, with its id (32 hexadecimal digits).
    pub(crate) accepted: fn(&Sent, &str) -> Reply,
    /// The answer to a recipient that can never be reached.
    pub(crate) invalid: fn(&Sent) -> Reply,
    /// The answer to too many calls; `Retry-After` is added.
    pub(crate) limited: fn(&Sent) -> Reply,
    /// 503.
    pub(crate) unavailable: fn() -> Reply,
    /// 500.
    pub(crate) failed: fn() -> Reply,
}

/// A call as it came in.
pub(crate) struct Call {
    /// The variable parts of the path.
    pub(crate) params: Vec<String>,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// What an interface understood.
#[derive(Debug, Default)]
pub(crate) struct Sent {
    pub(crate) recipient: String,
    /// Our idempotency key, where the interface has a place for one.
    pub(crate) key: Option<String>,
    /// The id of a message with the same key, where the interface itself tells repetitions.
    pub(crate) same_id: Option<String>,
    /// For answers that repeat it.
    pub(crate) echo: Json,
    /// The files of an email, as far as the interface shows them.
    pub(crate) attachments: Vec<Attached>,
}

/// A file that came with an email.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Attached {
    pub(crate) filename: String,
    pub(crate) bytes: usize,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) content_type: &'static str,
    /// One header more.
    pub(crate) extra: Option<(&'static str, String)>,
    pub(crate) body: Bytes,
}

impl Reply {
    pub(crate) fn json(status: u16, body: &Json) -> Self {
        Self::new(status, "application/json", body.to_string())
    }

    pub(crate) fn text(status: u16, body: &str) -> Self {
        Self::new(status, "text/plain; charset=utf-8", body.to_owned())
    }

    fn new(status: u16, content_type: &'static str, body: String) -> Self {
        Self {
            status,
            content_type,
            extra: None,
            body: body.into(),
        }
    }

    pub(crate) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.extra = Some((name, value.into()));
        self
    }
}

impl IntoResponse for Reply {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.body));
        *response.status_mut() =
            StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        if let Some((name, value)) = self.extra
            && let Ok(value) = HeaderValue::try_from(value)
        {
            headers.insert(name, value);
        }
        response
    }
}

/// A body, taken apart by its content type.
pub(crate) enum Content {
    Form(BTreeMap<String, Vec<String>>),
    /// With files.
    Multipart(BTreeMap<String, Vec<String>>, Vec<File>),
    Json(Json),
    /// Neither, or broken.
    Other,
}

impl Content {
    pub(crate) fn read(headers: &HeaderMap, body: &Bytes) -> Self {
        let content_type = headers
            .get(header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        let kind = content_type.split(';').next().unwrap_or_default().trim();
        if kind.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
            let mut form: BTreeMap<String, Vec<String>> = BTreeMap::new();
            for (name, value) in url::form_urlencoded::parse(body) {
                form.entry(name.into_owned())
                    .or_default()
                    .push(value.into_owned());
            }
            return Self::Form(form);
        }
        if kind.eq_ignore_ascii_case("multipart/form-data") {
            let read = form::read(content_type, body);
            return read.map_or(Self::Other, |(fields, files)| Self::Multipart(fields, files));
        }
        if kind.eq_ignore_ascii_case("application/json") || kind.ends_with("+json") {
            return serde_json::from_slice(body).map_or(Self::Other, Self::Json);
        }
        Self::Other
    }

    /// The first value of a form's field, if it is not empty.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        match self {
            Self::Form(form) | Self::Multipart(form, _) => form
                .get(name)?
                .first()
                .map(String::as_str)
                .filter(|value| !value.is_empty()),
            Self::Json(_) | Self::Other => None,
        }
    }

    /// A text in a JSON body, by its pointer (RFC 6901), if it is not empty.
    pub(crate) fn at(&self, pointer: &str) -> Option<&str> {
        match self {
            Self::Json(json) => json.pointer(pointer)?.as_str().filter(|value| !value.is_empty()),
            Self::Form(_) | Self::Multipart(..) | Self::Other => None,
        }
    }

    /// A JSON body; `null` for any other.
    pub(crate) fn json(&self) -> &Json {
        match self {
            Self::Json(json) => json,
            Self::Form(_) | Self::Multipart(..) | Self::Other => &Json::Null,
        }
    }

    /// The files of a form.
    pub(crate) fn files(&self) -> &[File] {
        match self {
            Self::Multipart(_, files) => files,
            Self::Form(_) | Self::Json(_) | Self::Other => &[],
        }
    }
}

impl Call {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }

    /// The credentials of `Authorization: <scheme> <credentials>`, if they are there.
    pub(crate) fn authorization(&self, scheme: &str) -> Option<&str> {
        let (given, credentials) = self.header("authorization").split_once(' ')?;
        (given.eq_ignore_ascii_case(scheme) && !credentials.is_empty()).then_some(credentials)
    }

    /// User and password of basic authentication.
    pub(crate) fn basic(&self) -> Option<(String, String)> {
        let pair = STANDARD.decode(self.authorization("Basic")?).ok()?;
        let pair = String::from_utf8(pair).ok()?;
        let (user, password) = pair.split_once(':')?;
        (!password.is_empty()).then(|| (user.to_owned(), password.to_owned()))
    }
}

/// The value of `key` in the query of an address.
pub(crate) fn key_in_query(address: &str) -> Option<String> {
    let (_, query) = address.split_once('?')?;
    url::form_urlencoded::parse(query.as_bytes())
        .find(|(name, _)| name == "key")
        .map(|(_, value)| value.into_owned())
}

/// `{"message"}`, as several interfaces answer errors.
pub(crate) fn message(status: u16, text: &str) -> Reply {
    Reply::json(status, &json!({ "message": text }))
}
