//! Push notifications.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use super::address;
use crate::{
    fields::{Fields, Text},
    schema,
};

/// Longest title and body, in characters: a whole push message has 4,096 bytes at Firebase and Apple.
const TITLE_CHARS_MAX: usize = 1_024;
const BODY_CHARS_MAX: usize = 4_096;
const URL_CHARS_MAX: usize = 2_048;
/// Longest token of a device, in characters.
pub const TOKEN_CHARS_MAX: usize = 4_096;
const TOPIC_CHARS_MAX: usize = 900;
/// Longest name of a user, in characters.
pub const USER_CHARS_MAX: usize = 256;
const DATA_ENTRIES_MAX: usize = 100;
/// A value of `data`.
const DATA: Text = Text {
    chars_min: 0,
    chars_max: BODY_CHARS_MAX,
    lines: true,
};

/// A push notification. One of `token`, `topic` and `user` says to whom.
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
    /// The user, whose devices are registered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Further values for the app.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub data: BTreeMap<String, String>,
}

impl Push {
    /// The payload as [`Self::read`] takes it.
    pub(super) fn schema() -> Json {
        let token = json!({"type": "string", "pattern": r"^[^\s\u0000-\u001f\u007f-\u009f]+$", "minLength": 1, "maxLength": TOKEN_CHARS_MAX});
        let data = json!({
            "type": "object",
            "maxProperties": DATA_ENTRIES_MAX,
            "additionalProperties": schema::text(DATA),
        });
        let mut push = schema::object([
            ("title", true, schema::text(Text::line(TITLE_CHARS_MAX))),
            ("body", true, schema::text(Text::lines(BODY_CHARS_MAX))),
            ("image", false, address::web_url_schema(URL_CHARS_MAX)),
            ("link", false, address::link_schema(URL_CHARS_MAX)),
            ("token", false, schema::described(token, "The device's token.")),
            (
                "topic",
                false,
                schema::described(
                    schema::name("-_.~%", TOPIC_CHARS_MAX),
                    "A topic that devices follow.",
                ),
            ),
            (
                "user",
                false,
                schema::described(
                    schema::text(Text::line(USER_CHARS_MAX)),
                    "The user, whose devices are registered.",
                ),
            ),
            ("data", false, data),
        ]);
        push["oneOf"] = super::some_of(["token", "topic", "user"]);
        push
    }

    pub(super) fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let title = fields.required_text("title", Text::line(TITLE_CHARS_MAX));
        let body = fields.required_text("body", Text::lines(BODY_CHARS_MAX));
        let image = fields.checked("image", Text::line(URL_CHARS_MAX), address::web_url);
        let link = fields.checked("link", Text::line(URL_CHARS_MAX), address::link);
        let token = fields.take("token");
        let topic = fields.take("topic");
        let user = fields.take("user");
        let given = [("token", token), ("topic", topic), ("user", user)];
        let mut given = given.into_iter().filter_map(|(name, value)| value.map(|_| name));
        match (given.next(), given.next()) {
            (None, _) => fields.error(
                "token",
                "is missing",
                "a device's token in token, a topic in topic, or a user with registered devices in user",
            ),
            (Some(first), Some(second)) => {
                fields.error(
                    second,
                    format!("is given beside {first}"),
                    "one of token, topic and user",
                );
            }
            _ => {}
        }
        let token = token.and_then(|value| fields.as_text("token", value, Text::line(TOKEN_CHARS_MAX)));
        if let Some((problem, accepted)) = token.as_deref().and_then(|token| check_token(token).err()) {
            fields.error("token", problem, accepted);
        }
        let user = user.and_then(|value| fields.as_text("user", value, Text::line(USER_CHARS_MAX)));
        let topic = topic.and_then(|value| fields.as_text("topic", value, Text::line(TOPIC_CHARS_MAX)));
        let is_topic = |c: char| c.is_ascii_alphanumeric() || "-_.~%".contains(c);
        if topic.as_ref().is_some_and(|topic| !topic.chars().all(is_topic)) {
            fields.error(
                "topic",
                "holds a character that no topic has",
                "letters, digits and -_.~%",
            );
        }
        let data = fields.texts("data", DATA_ENTRIES_MAX, DATA);
        Some(Self {
            title: title?.into_owned(),
            body: body?.into_owned(),
            image: image.map(Into::into),
            link: link.map(Into::into),
            token: token.map(Into::into),
            topic: topic.map(Into::into),
            user: user.map(Into::into),
            data,
        })
    }
}

/// Whether this can be a device's token.
///
/// # Errors
/// What is wrong, and what is accepted.
pub fn check_token(token: &str) -> Result<(), (String, &'static str)> {
    if token.contains(char::is_whitespace) {
        return Err(("holds a space".to_owned(), "the token as the device got it"));
    }
    Ok(())
}
