//! What each channel's payload holds, and whether it can be sent at all.
//!
//! One file per channel: its fields, their limits and where the limits come from. What is refused here can never be sent;
//! what passes may still be refused by a provider, which knows more.

mod address;
mod email;
mod in_app;
pub mod push;
mod slack;
mod sms;
mod webhook;

use serde_json::value::RawValue;

use crate::{
    Channel, FieldError,
    fields::{Fields, excerpt},
};

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
            Channel::Email => Email::read(&mut fields).map(Self::Email),
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

#[cfg(test)]
mod tests;
