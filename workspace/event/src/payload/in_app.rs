//! Messages in the recipient's inbox of this system.

use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use crate::{
    fields::{Fields, Text},
    schema,
};

const RECIPIENT_CHARS_MAX: usize = 256;
const TITLE_CHARS_MAX: usize = 1_024;
const BODY_CHARS_MAX: usize = 65_536;

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

impl InApp {
    /// The payload as [`Self::read`] takes it.
    pub(super) fn schema() -> Json {
        schema::object([
            ("recipient", true, schema::text(Text::line(RECIPIENT_CHARS_MAX))),
            ("title", true, schema::text(Text::line(TITLE_CHARS_MAX))),
            ("body", true, schema::text(Text::lines(BODY_CHARS_MAX))),
            ("data", false, json!({"description": "Any JSON."})),
        ])
    }

    pub(super) fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let recipient = fields.required_text("recipient", Text::line(RECIPIENT_CHARS_MAX));
        let title = fields.required_text("title", Text::line(TITLE_CHARS_MAX));
        let body = fields.required_text("body", Text::lines(BODY_CHARS_MAX));
        let data = fields
            .take("data")
            .and_then(|value| fields.as_json("data", value));
        Some(Self {
            recipient: recipient?.into_owned(),
            title: title?.into_owned(),
            body: body?.into_owned(),
            data,
        })
    }
}
