//! The ways in which a message reaches somebody.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{FieldError, fields::excerpt};

/// What kind of message an event is; it decides the payload's shape and which providers can carry it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Channel {
    /// Text message to a phone number.
    Sms,
    /// Email.
    Email,
    /// Push notification to a device, or to a topic that devices follow.
    Push,
    /// Slack message.
    Slack,
    /// HTTP call to an address of the user's.
    Webhook,
    /// Message in the recipient's inbox of this system.
    InApp,
}

impl Channel {
    /// Every channel, in the order in which they are documented.
    pub const ALL: [Self; 6] = [
        Self::Sms,
        Self::Email,
        Self::Push,
        Self::Slack,
        Self::Webhook,
        Self::InApp,
    ];

    /// The name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sms => "sms",
            Self::Email => "email",
            Self::Push => "push",
            Self::Slack => "slack",
            Self::Webhook => "webhook",
            Self::InApp => "in_app",
        }
    }
}

impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Channel {
    type Err = FieldError;

    fn from_str(name: &str) -> Result<Self, FieldError> {
        Self::ALL
            .into_iter()
            .find(|channel| channel.as_str() == name)
            .ok_or_else(|| {
                FieldError::new(
                    "channel",
                    format!("unknown channel {:?}", excerpt(name)),
                    Self::ALL.map(Self::as_str).join(", "),
                )
            })
    }
}
