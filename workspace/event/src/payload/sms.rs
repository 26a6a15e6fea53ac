//! Text messages.

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::address;
use crate::{
    fields::{Fields, Text},
    schema,
};

/// Longest text, in characters: Twilio takes no more (error 21617).
const MESSAGE_CHARS_MAX: usize = 1_600;

const SENDER_CHARS_MAX: usize = 64;

/// A text message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sms {
    /// The text.
    pub message: String,
    /// Whom to send it to: digits, with or without `+`, spaces, dots, dashes, slashes and brackets.
    pub phone_number: String,
    /// The sender, where the provider's account allows a choice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
}

impl Sms {
    /// The payload as [`Self::read`] takes it.
    pub(super) fn schema() -> Json {
        schema::object([
            ("message", true, schema::text(Text::lines(MESSAGE_CHARS_MAX))),
            ("phoneNumber", true, address::phone_number_schema()),
            ("from", false, schema::text(Text::line(SENDER_CHARS_MAX))),
        ])
    }

    pub(super) fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let message = fields.required_text("message", Text::lines(MESSAGE_CHARS_MAX));
        let phone_number = fields
            .required_text("phoneNumber", Text::line(address::PHONE_CHARS_MAX))
            .filter(|text| match address::phone_number(text) {
                Ok(()) => true,
                Err((problem, accepted)) => {
                    fields.error("phoneNumber", problem, accepted);
                    false
                }
            });
        let from = fields.text("from", Text::line(SENDER_CHARS_MAX));
        Some(Self {
            message: message?.into_owned(),
            phone_number: phone_number?.into_owned(),
            from: from.map(Into::into),
        })
    }
}
