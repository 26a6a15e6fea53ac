//! What a configuration looks like, as a JSON Schema.

use posthaste_event::{
    Channel, Priority,
    fields::Text,
    schema::{described, list, object, one_of, text},
};
use serde_json::{Value as Json, json};

use super::{Config, NAME_CHARS_MAX, NAMES_MAX, TTL_SECONDS_MAX};
use crate::{ProviderNames, templates::locale_schema};

/// Longest sender of a text message, as the channel takes it.
const SMS_SENDER_CHARS_MAX: usize = 64;

impl Config {
    /// What [`Self::new`] takes: a schema for each channel.
    pub(crate) fn schema(providers: &ProviderNames) -> Json {
        let of_channel = |channel: Channel| schema_of(channel, providers);
        json!({"oneOf": Channel::ALL.map(of_channel), "discriminator": {"propertyName": "channel"}})
    }
}

fn name() -> Json {
    text(Text::line(NAME_CHARS_MAX))
}

fn schema_of(channel: Channel, providers: &ProviderNames) -> Json {
    let known = providers.get(&channel).map(Vec::as_slice).unwrap_or_default();
    let priorities = [
        Priority::Low,
        Priority::Normal,
        Priority::High,
        Priority::Critical,
    ]
    .map(Priority::as_str);
    let ttl = json!({"type": "integer", "minimum": 1, "maximum": TTL_SECONDS_MAX});
    let lasts = "After how many seconds a message is of no use any more.";
    let places = list(name(), 1, NAMES_MAX);
    let mut fields = vec![
        (
            "channel",
            true,
            json!({"type": "string", "const": channel.as_str()}),
        ),
        ("description", false, name()),
        ("provider", false, one_of(known.iter().map(String::as_str))),
        (
            "destination",
            false,
            described(name(), "Where a message goes that says nothing else."),
        ),
        (
            "destinations",
            false,
            described(places, "Where messages may go; anywhere without."),
        ),
        ("locale", false, locale_schema()),
        (
            "priority",
            false,
            one_of(priorities.into_iter().chain(["default"])),
        ),
        ("ttl", false, described(ttl, lasts)),
    ];
    fields.extend(senders(channel));
    let mut config = object(fields);
    if channel == Channel::Email {
        let given = |name: &str| json!({"properties": {name: {"not": {"type": "null"}}}, "required": [name]});
        config["anyOf"] = json!([given("from"), given("senders")]);
    }
    config
}

/// Who may send, where the channel has senders.
fn senders(channel: Channel) -> Vec<(&'static str, bool, Json)> {
    let sender = || match channel {
        Channel::Email => json!({"type": "string", "format": "email-or-named", "maxLength": NAME_CHARS_MAX}),
        _ => text(Text::line(SMS_SENDER_CHARS_MAX)),
    };
    if !matches!(channel, Channel::Email | Channel::Sms) {
        return Vec::new();
    }
    let others = list(sender(), 1, NAMES_MAX);
    let mut fields = vec![
        (
            "from",
            false,
            described(sender(), "The sender of a message that names none."),
        ),
        (
            "senders",
            false,
            described(others, "Who else may be named as the sender."),
        ),
    ];
    if channel == Channel::Email {
        fields.push(("replyTo", false, sender()));
    }
    fields
}
