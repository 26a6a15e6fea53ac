//! From a message to a request, by a provider's file.

use bytes::Bytes;
use posthaste_event::{
    Channel, Millis,
    payload::{Attachment, Payload},
    web,
};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value as Json, json};
use url::Url;

use crate::{
    Message,
    body::{Body, Form},
    fields,
    file::{Description, FileError, Misplaced, Target, line_of},
    multipart::Multipart,
    scope::{Fields, Found, Scope},
    template::{TemplateError, Text},
};

/// Headers that belong to the connection or to the signature; an event cannot set them.
const OURS: [&str; 15] = [
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authorization",
    "proxy-authenticate",
    "te",
    "trailer",
    "upgrade",
    "expect",
    "webhook-id",
    "webhook-timestamp",
    "webhook-signature",
];

/// The values that an account gives to templates.
#[derive(Clone, Default)]
pub(crate) struct Values {
    /// All but the secrets.
    pub(crate) public: Json,
    /// All.
    pub(crate) all: Json,
    /// Where requests go.
    pub(crate) base_url: String,
    /// The account has no credentials and sends to the sandbox.
    pub(crate) sandboxed: bool,
    /// Public address under which callbacks of providers arrive.
    pub(crate) callback_url: Option<String>,
}

/// A request without its authentication.
pub(crate) struct Outgoing {
    pub(crate) method: reqwest::Method,
    pub(crate) url: Url,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// The address comes from outside.
    pub(crate) foreign: bool,
}

fn misplaced(path: &[&str], problem: impl Into<String>) -> Misplaced {
    (
        path.iter().map(|key| (*key).to_owned()).collect(),
        TemplateError(problem.into()),
    )
}

impl Description {
    /// Builds the request for a message.
    pub(crate) fn build(&self, values: &Values, message: &Message) -> Result<Outgoing, Misplaced> {
        let callback_url = values.callback_url.as_deref().map(|base| {
            let key: String =
                url::form_urlencoded::byte_serialize(message.idempotency_key.as_bytes()).collect();
            format!("{}/callbacks/{}?key={key}", base.trim_end_matches('/'), self.name)
        });
        let fields = Fields::new(message, callback_url);
        let scope = Scope::of(&fields, &values.public);
        let (url, foreign) = self.url(values, &scope)?;
        let mut headers = self.headers(&scope)?;
        let (content_type, body) = self.body(&scope, attachments_of(message))?;
        headers.entry(CONTENT_TYPE).or_insert(content_type);
        Ok(Outgoing {
            method: self.method.clone(),
            url,
            headers,
            body,
            foreign,
        })
    }

    fn url(&self, values: &Values, scope: &Scope<'_>) -> Result<(Url, bool), Misplaced> {
        let base = values.base_url.trim_end_matches('/');
        let at = |key: &'static str| move |error: TemplateError| misplaced(&["request", key], error.0);
        let secret_scope = scope.with_account(&values.all);
        let (key, text, foreign) = match &self.target {
            Target::Path(path) => {
                let path = path.render_path(scope).map_err(at("path"))?;
                ("path", format!("{base}{path}"), false)
            }
            Target::Url(_) | Target::ForeignUrl(_) if values.sandboxed => {
                let path = self.sandbox_path.render_path(scope).map_err(at("url"))?;
                ("url", format!("{base}{path}"), false)
            }
            Target::Url(url) => ("url", url.render(&secret_scope).map_err(at("url"))?, false),
            Target::ForeignUrl(url) => ("url", url.render(scope).map_err(at("url"))?, true),
        };
        // The text itself stays out of the message: it may hold a secret.
        let url =
            web::url(&text).map_err(|error| misplaced(&["request", key], format!("no address: {error}")))?;
        if !["http", "https"].contains(&url.scheme()) || !url.has_host() {
            return Err(misplaced(
                &["request", key],
                "the address cannot be called; accepted: http:// and https:// with a host",
            ));
        }
        Ok((url, foreign))
    }

    fn headers(&self, scope: &Scope<'_>) -> Result<HeaderMap, Misplaced> {
        let mut headers = HeaderMap::new();
        // What the file sets comes after what the event brings, and so replaces it.
        for (name, text) in self.headers.iter().filter(|(name, _)| name == "*") {
            each_member(text, scope, |name, value| {
                let name = HeaderName::from_bytes(name.as_bytes())
                    .map_err(|_| "a header's name has characters that names cannot have".to_owned())?;
                if OURS.contains(&name.as_str()) {
                    return Err(format!("the header {name} cannot be set by an event"));
                }
                let value = HeaderValue::from_str(value)
                    .map_err(|_| format!("the header {name} has characters that headers cannot have"))?;
                headers.insert(name, value);
                Ok(())
            })
            .map_err(|problem| misplaced(&["request", "headers", name], problem))?;
        }
        for (name, text) in self.headers.iter().filter(|(name, _)| name != "*") {
            let at = |problem: String| misplaced(&["request", "headers", name], problem);
            let found = text.eval(scope).map_err(|error| at(error.0))?;
            if found.is_none() {
                continue;
            }
            let value = HeaderValue::from_str(&found.text().map_err(|error| at(error.0))?)
                .map_err(|_| at("has characters that headers cannot have".to_owned()))?;
            let key =
                HeaderName::from_bytes(name.as_bytes()).map_err(|_| at("is no header name".to_owned()))?;
            headers.insert(key, value);
        }
        Ok(headers)
    }

    fn body(&self, scope: &Scope<'_>, files: &[Attachment]) -> Result<(HeaderValue, Bytes), Misplaced> {
        if !files.is_empty() && !self.body.takes_files() {
            return Err(misplaced(
                &["payload", "attachments"],
                "this provider cannot carry attachments: its file does not say where they go",
            ));
        }
        match &self.body {
            Body::Json(node) => {
                let mut out = Vec::with_capacity(512);
                node.write(scope, &mut out)
                    .map_err(|error| misplaced(&["request", "json"], error.0))?;
                Ok((HeaderValue::from_static("application/json"), out.into()))
            }
            Body::Form(form) if files.is_empty() => {
                let mut out = url::form_urlencoded::Serializer::new(String::with_capacity(256));
                form.each(scope, |name, value| {
                    out.append_pair(name, value);
                })?;
                Ok((
                    HeaderValue::from_static("application/x-www-form-urlencoded"),
                    out.finish().into(),
                ))
            }
            Body::Form(form) => form.with_files(scope, files),
        }
    }

    /// Builds requests from sample payloads, so that a file's mistakes show when it is loaded.
    pub(crate) fn try_samples(&self, file: &str, text: &str) -> Result<(), FileError> {
        let values = self.sample_values();
        for channel in &self.channels {
            for payload in fields::samples(*channel) {
                let mut message = sample_message(*channel, payload, 0);
                if let (Payload::Email(email), false) = (&mut message.payload, self.body.takes_files()) {
                    // Such emails are refused.
                    email.attachments.clear();
                }
                self.build(&values, &message).map_err(|(path, error)| FileError {
                    file: file.to_owned(),
                    line: line_of(text, &path),
                    problem: format!(
                        "{} (tried with a sample of channel {channel}): {error}",
                        path.join(".")
                    ),
                })?;
            }
        }
        Ok(())
    }

    pub(crate) fn sample_values(&self) -> Values {
        let mut values = Values {
            base_url: "http://sandbox.invalid".to_owned(),
            callback_url: Some("http://callbacks.invalid".to_owned()),
            sandboxed: true,
            public: json!({"project_id": "project"}),
            all: json!({"project_id": "project"}),
        };
        for (name, setting) in &self.settings {
            let value = setting.sandbox.clone().or_else(|| setting.default.clone());
            let value = Json::from(value.unwrap_or_else(|| "value".to_owned()));
            if !setting.secret {
                values.public[name] = value.clone();
            }
            values.all[name] = value;
        }
        values
    }
}

/// A message for trying.
pub(crate) fn sample_message(channel: Channel, payload: Payload, created_at: Millis) -> Message {
    Message {
        event_id: "01890000-0000-7000-8000-000000000000".to_owned(),
        tenant: "default".to_owned(),
        payload,
        sealed: None,
        idempotency_key: format!("01890000-0000-7000-8000-000000000000:{channel}:0"),
        created_at,
        expires_at: None,
    }
}

impl Form {
    /// Calls `append` with the name and the value of each field.
    fn each(&self, scope: &Scope<'_>, mut append: impl FnMut(&str, &str)) -> Result<(), Misplaced> {
        self.fields.iter().try_for_each(|(key, text)| {
            write_field(&mut append, key, text, scope)
                .map_err(|problem| misplaced(&["request", "form", key], problem))
        })
    }

    /// The form with an email's files, each in the field for its disposition. A file that the HTML shows goes by the name that it has
    /// there.
    fn with_files(&self, scope: &Scope<'_>, files: &[Attachment]) -> Result<(HeaderValue, Bytes), Misplaced> {
        let mut out = Multipart::new();
        self.each(scope, |name, value| out.field(name, value))?;
        for (index, file) in files.iter().enumerate() {
            let at = |problem: &str| misplaced(&["payload", "attachments", &index.to_string()], problem);
            let field = self
                .files
                .iter()
                .find(|(_, disposition)| *disposition == file.disposition);
            let (field, _) = field.ok_or_else(|| at("has no place in the form"))?;
            let bytes = file.bytes().ok_or_else(|| at("has no content"))?;
            let name = file.content_id.as_ref().unwrap_or(&file.filename);
            out.file(field, name, &file.content_type, &bytes);
        }
        let (content_type, body) = out.finish();
        let content_type = HeaderValue::try_from(content_type)
            .map_err(|_| misplaced(&["request", "files"], "the form has no content type"))?;
        Ok((content_type, body.into()))
    }
}

/// The files that go with a message.
fn attachments_of(message: &Message) -> &[Attachment] {
    match &message.payload {
        Payload::Email(email) => &email.attachments,
        _ => &[],
    }
}

/// A form field: left out if `none`, repeated if a list, one per member if its name ends in `*`.
fn write_field(
    append: &mut impl FnMut(&str, &str),
    key: &str,
    text: &Text,
    scope: &Scope<'_>,
) -> Result<(), String> {
    if let Some(prefix) = key.strip_suffix('*') {
        return each_member(text, scope, |name, value| {
            append(&format!("{prefix}{name}"), value);
            Ok(())
        });
    }
    let found = text.eval(scope).map_err(|error| error.0)?;
    if found.is_none() {
        return Ok(());
    }
    if let Ok(text) = found.text() {
        append(key, &text);
        return Ok(());
    }
    match found.to_json().map_err(|error| error.0)?.as_ref() {
        Json::Array(items) => {
            for item in items {
                let item = Found::Json(item);
                let text = item.text().map_err(|error| error.0)?;
                append(key, &text);
            }
            Ok(())
        }
        _ => Err("is not text, a number, a truth value or a list of them".to_owned()),
    }
}

/// Calls `take` with each member of the object that `text` comes to; `none` has none.
fn each_member(
    text: &Text,
    scope: &Scope<'_>,
    mut take: impl FnMut(&str, &str) -> Result<(), String>,
) -> Result<(), String> {
    let found = text.eval(scope).map_err(|error| error.0)?;
    match found.to_json().map_err(|error| error.0)?.as_ref() {
        Json::Null => Ok(()),
        Json::Object(members) => members.iter().try_for_each(|(name, value)| {
            let value = Found::Json(value);
            let value = value.text().map_err(|error| error.0)?;
            take(name, &value)
        }),
        _ => Err("is not an object".to_owned()),
    }
}
