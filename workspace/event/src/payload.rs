//! What each channel's payload holds, and whether it can be sent at all.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, value::RawValue};

use crate::{Channel, FieldError};

/// A text message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sms {
    /// The text.
    pub message: String,
    /// Whom to send it to: digits, with or without `+`, spaces, dots, dashes and brackets.
    pub phone_number: String,
    /// The sender, where the provider's account allows a choice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
}

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
}

/// A push notification. One of `token` and `topic` says to whom.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Push {
    /// The first line.
    pub title: String,
    /// The text.
    pub body: String,
    /// Address of a picture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// What opens on a tap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
    /// The device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// The topic that devices follow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// Further values for the app.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub data: BTreeMap<String, String>,
}

/// A Slack message. One of `text` and `blocks` must be there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Slack {
    /// Channel or user, such as `#general` or `C024BE91L`.
    pub channel: String,
    /// The text, in Slack's mrkdwn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Block Kit blocks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocks: Option<Vec<Json>>,
    /// The message that this one answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thread_ts: Option<String>,
}

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

/// A message in the recipient's inbox of this system.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InApp {
    /// Whose inbox.
    pub recipient: String,
    /// The first line.
    pub title: String,
    /// The text.
    pub body: String,
    /// Further values for the app.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Json>,
}

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
    /// Reads and checks a payload.
    ///
    /// # Errors
    /// One [`FieldError`] per field that is missing, of the wrong type, or cannot be what it should be.
    pub fn parse(channel: Channel, raw: &RawValue) -> Result<Self, Vec<FieldError>> {
        let text = raw.get();
        let parsed = match channel {
            Channel::Sms => serde_json::from_str(text).map(Self::Sms),
            Channel::Email => serde_json::from_str(text).map(Self::Email),
            Channel::Push => serde_json::from_str(text).map(Self::Push),
            Channel::Slack => serde_json::from_str(text).map(Self::Slack),
            Channel::Webhook => serde_json::from_str(text).map(Self::Webhook),
            Channel::InApp => serde_json::from_str(text).map(Self::InApp),
        };
        parsed.map_err(|error| {
            vec![FieldError::new(
                "payload",
                error.to_string(),
                "see the channel's payload",
            )]
        })
    }
}
