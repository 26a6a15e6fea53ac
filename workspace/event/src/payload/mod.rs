//! What each channel's payload holds, and whether it can be sent at all.
//!
//! One file per channel: its fields, their limits and where the limits come from. What is refused here can never be sent;
//! what passes may still be refused by a provider, which knows more.

mod address;
mod attachments;
mod email;
mod in_app;
pub mod push;
mod slack;
mod sms;
mod webhook;

use serde_json::{Value as Json, json, value::RawValue};

use crate::{
    Channel, FieldError,
    fields::{Fields, excerpt},
    schema,
};

pub use attachments::{ATTACHMENTS_MAX, Attachment, Disposition, leave_contents_out};
pub use email::{Addresses, Email};
pub use in_app::InApp;
pub use push::Push;
pub use slack::Slack;
pub use sms::Sms;
pub use webhook::Webhook;

/// A payload, read.
#[derive(Debug, Clone, PartialEq)]
pub enum Payload {
    /// See [`Sms`].
    Sms(Sms),
    /// See [`Email`].
    Email(Email),
    /// See [`Push`].
    Push(Push),
    /// See [`Slack`].
    Slack(Slack),
    /// See [`Webhook`].
    Webhook(Webhook),
    /// See [`InApp`].
    InApp(InApp),
}

impl Payload {
    /// Reads the payload of an event that was accepted. Fields that this version does not know are passed over: during an
    /// upgrade a newer intake may have accepted them.
    ///
    /// # Errors
    /// One [`FieldError`] per field that is missing, of the wrong type, or cannot be what it should be.
    pub fn parse(channel: Channel, raw: &RawValue) -> Result<Self, Vec<FieldError>> {
        Self::read(channel, raw, false)
    }

    /// Reads and checks a payload that a client sends. A field that does not exist is refused too: a misspelt optional field
    /// would be lost without a word.
    ///
    /// # Errors
    /// As [`Payload::parse`], and one for each field that is not a field.
    pub fn accept(channel: Channel, raw: &RawValue) -> Result<Self, Vec<FieldError>> {
        Self::read(channel, raw, true)
    }

    fn read(channel: Channel, raw: &RawValue, strictly: bool) -> Result<Self, Vec<FieldError>> {
        let mut fields = Fields::of("payload.", raw.get()).map_err(|error| vec![error])?;
        let payload = match channel {
            Channel::Sms => Sms::read(&mut fields).map(Self::Sms),
            Channel::Email => Email::read(&mut fields, strictly).map(Self::Email),
            Channel::Push => Push::read(&mut fields).map(Self::Push),
            Channel::Slack => Slack::read(&mut fields).map(Self::Slack),
            Channel::Webhook => Webhook::read(&mut fields).map(Self::Webhook),
            Channel::InApp => InApp::read(&mut fields).map(Self::InApp),
        };
        if strictly {
            fields.refuse_unknown();
        }
        fields.finish()?;
        // Every `None` above has said why; this is what is left if one had not.
        payload.ok_or_else(|| {
            vec![FieldError::new(
                "payload",
                "cannot be read",
                format!("the payload of channel {channel}"),
            )]
        })
    }

    /// Whether it is for a user, whose devices are registered.
    pub const fn is_for_user(&self) -> bool {
        matches!(self, Self::Push(push) if push.user.is_some())
    }

    /// What [`Self::accept`] takes for a channel, as a JSON Schema.
    pub fn schema(channel: Channel) -> Json {
        match channel {
            Channel::Sms => Sms::schema(),
            Channel::Email => Email::schema(),
            Channel::Push => Push::schema(),
            Channel::Slack => Slack::schema(),
            Channel::Webhook => Webhook::schema(),
            Channel::InApp => InApp::schema(),
        }
    }

    /// A payload that can be sent.
    pub fn example(channel: Channel) -> Json {
        match channel {
            Channel::Sms => json!({"message": "Your code is 4711", "phoneNumber": "+12025550100"}),
            Channel::Email => json!({
                "subject": "Your order", "body": "It is on its way.", "to": "ann@example.com",
                "from": "Shop <no-reply@example.com>"
            }),
            Channel::Push => {
                json!({"title": "Your order", "body": "It is on its way.", "token": "fcm-token-1"})
            }
            Channel::Slack => json!({"channel": "#general", "text": "Deployed version 1.2.3"}),
            Channel::Webhook => json!({"url": "https://example.com/hook", "body": {"order": 4711}}),
            Channel::InApp => json!({"recipient": "ann", "title": "Your order", "body": "It is on its way."}),
        }
    }

    /// The channel that this payload is for.
    pub const fn channel(&self) -> Channel {
        match self {
            Self::Sms(_) => Channel::Sms,
            Self::Email(_) => Channel::Email,
            Self::Push(_) => Channel::Push,
            Self::Slack(_) => Channel::Slack,
            Self::Webhook(_) => Channel::Webhook,
            Self::InApp(_) => Channel::InApp,
        }
    }
}

fn refuse_header(fields: &mut Fields<'_>, name: &str, is_reserved: impl FnOnce(&str) -> bool) {
    let path = format!("headers.{}", excerpt(name));
    if !address::is_header_name(name) {
        fields.error(
            &path,
            "is not a header's name",
            "1 to 126 letters, digits and dashes",
        );
    } else if is_reserved(&name.to_ascii_lowercase()) {
        fields.error(
            &path,
            "cannot be set here",
            "headers that delivery does not write itself",
        );
    }
}

/// One of these fields is there and not `null`; with `oneOf` exactly one of them.
fn some_of<const N: usize>(names: [&str; N]) -> Json {
    let one = |name: &str| json!({"properties": {name: {"not": {"type": "null"}}}, "required": [name]});
    names.map(one).into_iter().collect()
}

/// Headers of the client's own; not these, whatever their case, nor those that begin with one that ends in a dash.
fn headers_schema(most: usize, value: Json, reserved: &[&str]) -> Json {
    let any_case = |name: &&str| -> String {
        let each = name.chars().map(|c| match c.is_ascii_alphabetic() {
            true => format!("[{}{c}]", c.to_ascii_uppercase()),
            false => format!(r"\{c}"),
        });
        let rest = if name.ends_with('-') { ".*" } else { "" };
        each.chain([rest.to_owned()]).collect()
    };
    let reserved: Vec<String> = reserved.iter().map(any_case).collect();
    schema::described(
        json!({
            "type": "object",
            "maxProperties": most,
            "propertyNames": {
                "pattern": r"^[A-Za-z0-9!#$%&'*+.^_`|~\-]{1,126}$",
                "not": {"pattern": format!("^({})$", reserved.join("|"))},
            },
            "additionalProperties": value,
        }),
        "Headers of your own; not those that delivery writes itself.",
    )
}

#[cfg(test)]
mod tests;
