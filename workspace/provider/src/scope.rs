//! What the expressions of provider files can see, and what they come to.
//!
//! The usual fields are looked up where they are; JSON is made of a message only for the others, and for the template engine.

use std::{borrow::Cow, cell::OnceCell, sync::OnceLock};

use minijinja::{context, value::Value};
use posthaste_event::payload::Payload;
use serde_json::{Value as Json, json};

use crate::{Message, fields, template::TemplateError};

static NULL: Json = Json::Null;

/// What expressions can see.
pub(crate) struct Scope<'a> {
    source: Source<'a>,
    account: &'a Json,
    jinja: OnceCell<Value>,
}

/// Where `payload` and `event` come from.
#[derive(Clone, Copy)]
enum Source<'a> {
    Message(&'a Fields<'a>),
    Json { payload: &'a Json, event: &'a Json },
}

/// A message as expressions see it.
pub(crate) struct Fields<'a> {
    message: &'a Message,
    callback_url: Option<String>,
    payload: OnceLock<Json>,
    event: OnceLock<Json>,
}

impl<'a> Fields<'a> {
    pub(crate) const fn new(message: &'a Message, callback_url: Option<String>) -> Self {
        Self {
            message,
            callback_url,
            payload: OnceLock::new(),
            event: OnceLock::new(),
        }
    }

    fn payload(&self) -> &Json {
        self.payload.get_or_init(|| fields::json(&self.message.payload))
    }

    fn event(&self) -> &Json {
        let message = self.message;
        self.event.get_or_init(|| {
            json!({
                "id": message.event_id,
                "tenant": message.tenant,
                "idempotencyKey": message.idempotency_key,
                "createdAt": message.created_at,
                "expiresAt": message.expires_at,
                "callbackUrl": self.callback_url,
            })
        })
    }

    /// A field of the payload, as far as it is had without making JSON of it.
    fn in_payload(&self, name: &str) -> Option<Found<'_>> {
        match (&self.message.payload, name) {
            (Payload::Sms(sms), "message") => Some(Found::Text(&sms.message)),
            (Payload::Sms(sms), "phoneNumber") => Some(Found::Text(&sms.phone_number)),
            (Payload::Sms(sms), "from") => Some(Found::optional(sms.from.as_deref())),
            (Payload::Webhook(webhook), "url") => Some(Found::Text(&webhook.url)),
            (Payload::Webhook(webhook), "body") => Some(Found::Json(&webhook.body)),
            (Payload::Webhook(webhook), "headers") if webhook.headers.is_empty() => Some(Found::Json(&NULL)),
            _ => None,
        }
    }

    fn in_event(&self, name: &str) -> Option<Found<'_>> {
        match name {
            "id" => Some(Found::Text(&self.message.event_id)),
            "tenant" => Some(Found::Text(&self.message.tenant)),
            "idempotencyKey" => Some(Found::Text(&self.message.idempotency_key)),
            "callbackUrl" => Some(Found::optional(self.callback_url.as_deref())),
            _ => None,
        }
    }
}

impl<'a> Scope<'a> {
    /// Of values at hand.
    pub(crate) const fn new(payload: &'a Json, account: &'a Json, event: &'a Json) -> Self {
        Self {
            source: Source::Json { payload, event },
            account,
            jinja: OnceCell::new(),
        }
    }

    /// Of a message.
    pub(crate) const fn of(message: &'a Fields<'a>, account: &'a Json) -> Self {
        Self {
            source: Source::Message(message),
            account,
            jinja: OnceCell::new(),
        }
    }

    /// The same with other values of the account.
    pub(crate) const fn with_account(&self, account: &'a Json) -> Self {
        Self {
            source: self.source,
            account,
            jinja: OnceCell::new(),
        }
    }

    fn payload(&self) -> &'a Json {
        match self.source {
            Source::Message(message) => message.payload(),
            Source::Json { payload, .. } => payload,
        }
    }

    fn event(&self) -> &'a Json {
        match self.source {
            Source::Message(message) => message.event(),
            Source::Json { event, .. } => event,
        }
    }

    /// The value with these names, the first of which is one of the three.
    pub(crate) fn find(&self, names: &[String]) -> Option<Found<'a>> {
        let (root, rest) = names.split_first()?;
        if let (Source::Message(message), [name]) = (self.source, rest) {
            let found = match root.as_str() {
                "payload" => message.in_payload(name),
                "event" => message.in_event(name),
                _ => None,
            };
            if found.is_some() {
                return found;
            }
        }
        let root = match root.as_str() {
            "payload" => self.payload(),
            "account" => self.account,
            "event" => self.event(),
            _ => return None,
        };
        let found = rest.iter().try_fold(root, |place, name| place.get(name));
        found.map(Found::Json)
    }

    /// Converted once per message, and only if a file needs more than plain paths.
    pub(crate) fn jinja(&self) -> &Value {
        self.jinja.get_or_init(|| {
            use minijinja::value::Serde;
            context! {
                payload => Value::from(Serde(self.payload())),
                account => Value::from(Serde(self.account)),
                event => Value::from(Serde(self.event())),
            }
        })
    }
}

/// What an expression came to.
pub(crate) enum Found<'a> {
    /// A value of the scope itself.
    Json(&'a Json),
    /// A text of the message.
    Text(&'a str),
    /// A computed value.
    Computed(Value),
}

impl<'a> Found<'a> {
    fn optional(text: Option<&'a str>) -> Self {
        text.map_or(Self::Json(&NULL), Self::Text)
    }

    pub(crate) fn is_none(&self) -> bool {
        match self {
            Self::Json(json) => json.is_null(),
            Self::Text(_) => false,
            Self::Computed(value) => value.is_none(),
        }
    }

    /// The text, if it is one.
    pub(crate) fn as_str(&self) -> Option<&str> {
        match self {
            Self::Json(json) => json.as_str(),
            Self::Text(text) => Some(text),
            Self::Computed(value) => value.as_str(),
        }
    }

    /// The value as text; lists and objects are none.
    pub(crate) fn text(&self) -> Result<Cow<'_, str>, TemplateError> {
        match self {
            Self::Json(Json::String(text)) => Ok(text.into()),
            Self::Text(text) => Ok((*text).into()),
            Self::Json(json @ (Json::Number(_) | Json::Bool(_))) => Ok(json.to_string().into()),
            Self::Computed(value)
                if value.as_str().is_some() || value.is_number() || bool::try_from(value.clone()).is_ok() =>
            {
                Ok(value.to_string().into())
            }
            _ => Err(TemplateError("is not text, a number or a truth value".to_owned())),
        }
    }

    /// The value as JSON.
    pub(crate) fn to_json(&self) -> Result<Cow<'_, Json>, TemplateError> {
        match self {
            Self::Json(json) => Ok(Cow::Borrowed(*json)),
            Self::Text(text) => Ok(Cow::Owned(Json::from(*text))),
            Self::Computed(value) => serde_json::to_value(value)
                .map(Cow::Owned)
                .map_err(|_| TemplateError("cannot be written as JSON".to_owned())),
        }
    }

    pub(crate) fn write_json(&self, out: &mut Vec<u8>) -> Result<(), TemplateError> {
        match self {
            Self::Json(json) => serde_json::to_writer(out, json),
            Self::Text(text) => serde_json::to_writer(out, text),
            Self::Computed(value) => serde_json::to_writer(out, value),
        }
        .map_err(|_| TemplateError("cannot be written as JSON".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use posthaste_event::Channel;

    use super::*;
    use crate::build::sample_message;

    #[test]
    fn what_is_looked_up_in_place_is_what_the_json_says() {
        for channel in Channel::ALL {
            for payload in fields::samples(channel) {
                for callback_url in [None, Some("http://callbacks.invalid".to_owned())] {
                    let message = sample_message(channel, payload.clone(), 0);
                    let seen = Fields::new(&message, callback_url);
                    let in_place = Scope::of(&seen, &NULL);
                    let in_json = Scope::new(seen.payload(), &NULL, seen.event());
                    for (root, json) in [("payload", seen.payload()), ("event", seen.event())] {
                        for name in json.as_object().unwrap().keys() {
                            let names = [root.to_owned(), name.clone()];
                            let [one, other] = [&in_place, &in_json].map(|scope| {
                                let found = scope.find(&names).unwrap();
                                let written = found.to_json().unwrap().into_owned();
                                (written, found.is_none(), found.as_str().map(str::to_owned))
                            });
                            assert_eq!(one, other, "{root}.{name} of {channel}");
                        }
                    }
                    assert!(
                        in_place
                            .find(&["payload".to_owned(), "nope".to_owned()])
                            .is_none()
                    );
                }
            }
        }
    }
}
