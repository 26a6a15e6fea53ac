//! Slack messages.

use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json, value::RawValue};

use crate::{
    fields::{Fields, Text, kind_of},
    schema,
};

/// Longest text, in characters: Slack cuts longer ones (`chat.postMessage`).
const TEXT_CHARS_MAX: usize = 40_000;

/// Most blocks of one message (Slack, Block Kit).
const BLOCKS_MAX: usize = 50;

const CHANNEL_CHARS_MAX: usize = 100;
const THREAD_CHARS_MAX: usize = 32;

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

impl Slack {
    /// The payload as [`Self::read`] takes it.
    pub(super) fn schema() -> Json {
        let channel = json!({"type": "string", "pattern": r"^[^\s\u0000-\u001f\u007f-\u009f]+$", "minLength": 1, "maxLength": CHANNEL_CHARS_MAX});
        let block =
            json!({"type": "object", "properties": {"type": {"type": "string"}}, "required": ["type"]});
        let thread = json!({"type": "string", "pattern": r"^[0-9]+\.[0-9]+$", "maxLength": THREAD_CHARS_MAX});
        let mut slack = schema::object([
            (
                "channel",
                true,
                schema::described(channel, "A channel or user, such as #general or C024BE91L."),
            ),
            ("text", false, schema::text(Text::lines(TEXT_CHARS_MAX))),
            ("blocks", false, schema::list(block, 1, BLOCKS_MAX)),
            (
                "threadTs",
                false,
                schema::described(thread, "The `ts` of the message that this one answers."),
            ),
        ]);
        slack["anyOf"] = super::some_of(["text", "blocks"]);
        slack
    }

    pub(super) fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let channel = fields.required_text("channel", Text::line(CHANNEL_CHARS_MAX));
        if channel
            .as_ref()
            .is_some_and(|channel| channel.contains(char::is_whitespace))
        {
            fields.error(
                "channel",
                "holds a space",
                "a channel or user, such as #general or C024BE91L",
            );
        }
        let given = [fields.take("text"), fields.take("blocks")];
        if given.iter().all(Option::is_none) {
            fields.error("text", "is missing", "a text in text, blocks in blocks, or both");
        }
        let text = given[0].and_then(|value| fields.as_text("text", value, Text::lines(TEXT_CHARS_MAX)));
        let blocks = given[1].and_then(|value| blocks(fields, value));
        let thread_ts = fields.checked("threadTs", Text::line(THREAD_CHARS_MAX), |text| {
            let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
            match text.split_once('.') {
                Some((seconds, micros)) if is_number(seconds) && is_number(micros) => Ok(()),
                _ => Err((
                    "is not the time of a message".to_owned(),
                    "the ts of a message, such as 1503435956.000247",
                )),
            }
        });
        Some(Self {
            channel: channel?.into_owned(),
            text: text.map(Into::into),
            blocks,
            thread_ts: thread_ts.map(Into::into),
        })
    }
}

fn blocks(fields: &mut Fields<'_>, value: &RawValue) -> Option<Vec<Json>> {
    const ACCEPTED: &str = "a list of 1 to 50 blocks, each an object with a type";
    let blocks = match fields.as_json("blocks", value)? {
        Json::Array(blocks) => blocks,
        _ => {
            fields.error(
                "blocks",
                format!("must be a list, not {}", kind_of(value.get())),
                ACCEPTED,
            );
            return None;
        }
    };
    if blocks.is_empty() || blocks.len() > BLOCKS_MAX {
        fields.error("blocks", format!("has {} blocks", blocks.len()), ACCEPTED);
        return None;
    }
    if let Some(index) = blocks
        .iter()
        .position(|block| !block.get("type").is_some_and(Json::is_string))
    {
        fields.error(&format!("blocks[{index}]"), "has no type", ACCEPTED);
        return None;
    }
    Some(blocks)
}
