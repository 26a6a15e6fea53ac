//! What is filtered by, and shown, of dead letters and replays.

use posthaste_event::{
    Channel, ErrorKind, Lane,
    schema::{
        answer, any_text, boolean, channel, component, count, described, exact, moment, one_of, policy,
        priority, status, written_time,
    },
};
use serde_json::{Value as Json, json};

use super::REPLAY;
use crate::{
    http::replays::STATES,
    request::{IDS_MAX, TEXT_CHARS_MAX},
};

fn millis() -> Json {
    described(json!({"type": "integer"}), "Milliseconds since the Unix epoch.")
}

fn words(description: &str) -> Json {
    described(
        json!({"type": "string", "maxLength": TEXT_CHARS_MAX}),
        description,
    )
}

pub(super) fn filter() -> Json {
    let id = json!({"type": "string", "maxLength": TEXT_CHARS_MAX});
    exact([
        (
            "ids",
            false,
            json!({"type": "array", "items": id, "maxItems": IDS_MAX}),
        ),
        ("tenant", false, words("Of this tenant.")),
        ("channel", false, one_of(Channel::ALL.map(Channel::as_str))),
        (
            "provider",
            false,
            words("Given up with this provider or account."),
        ),
        (
            "error",
            false,
            words("With this kind of error, code, or fingerprint."),
        ),
        ("from", false, moment()),
        ("until", false, moment()),
        ("text", false, words("With this in the error's message.")),
    ])
}

pub(super) fn partitions() -> Json {
    described(
        answer([("owned", true, count()), ("total", false, count())]),
        "How many of the topic's partitions this instance has, and so answers for.",
    )
}

pub(super) fn failure() -> Json {
    answer([
        ("kind", true, one_of(ErrorKind::ALL.map(ErrorKind::as_str))),
        ("code", false, any_text()),
        ("message", true, any_text()),
        ("fingerprint", true, any_text()),
        ("retryAfterMs", false, count()),
    ])
}

pub(super) fn delivery() -> Json {
    let lanes = [Lane::Critical, Lane::Default, Lane::Retry, Lane::RetryCritical];
    let lanes: Vec<Json> = lanes.iter().map(|lane| json!(lane)).collect();
    answer([
        ("v", true, count()),
        ("id", true, any_text()),
        ("correlationId", true, any_text()),
        ("tenant", true, any_text()),
        ("channel", true, channel()),
        ("priority", true, priority()),
        ("createdAt", true, millis()),
        ("step", true, count()),
        ("generation", true, count()),
        ("attempt", true, count()),
        ("status", true, status()),
        ("at", true, millis()),
        ("by", true, any_text()),
        ("since", true, millis()),
        ("policy", true, policy()),
        ("lane", true, json!({"type": "string", "enum": lanes})),
        ("provider", false, any_text()),
        ("pinned", true, boolean()),
        (
            "sends",
            true,
            json!({"type": "object", "additionalProperties": {"type": "object"}}),
        ),
        ("error", false, component("DeadLetterError")),
        (
            "failures",
            true,
            json!({"type": "array", "items": {"type": "object"}}),
        ),
    ])
}

pub(super) fn letter() -> Json {
    let foreign = answer([
        ("topic", true, any_text()),
        ("partition", true, count()),
        ("offset", true, count()),
        ("truncated", true, boolean()),
    ]);
    answer([
        ("partition", true, count()),
        ("offset", true, count()),
        ("at", true, millis()),
        ("reason", true, described(any_text(), "Why it is here, in words.")),
        (
            "replayable",
            true,
            described(boolean(), "Whether a replay can send it."),
        ),
        ("delivery", false, component("Delivery")),
        (
            "foreign",
            false,
            described(foreign, "A record that could not be read."),
        ),
    ])
}

pub(super) fn example_letter() -> Json {
    json!({"partition": 0, "offset": 12, "at": 1_790_000_000_000_i64, "reason": "not a mobile number", "replayable": true})
}

pub(super) fn groups() -> Json {
    let group = answer([
        (
            "fingerprint",
            false,
            described(any_text(), "A filter's `error` takes it."),
        ),
        ("kind", true, any_text()),
        ("code", false, any_text()),
        ("reason", true, any_text()),
        ("count", true, count()),
        ("replayable", true, count()),
        ("first", true, millis()),
        ("last", true, millis()),
    ]);
    answer([
        ("groups", true, json!({"type": "array", "items": group})),
        ("groupsTotal", true, count()),
        ("lettersTotal", true, count()),
        ("partitions", true, partitions()),
    ])
}

pub(super) fn replayed() -> Json {
    let route = answer([
        ("topic", true, any_text()),
        ("channel", true, channel()),
        ("provider", false, any_text()),
        ("pinned", true, boolean()),
        ("count", true, count()),
    ]);
    answer([
        (
            "message",
            true,
            one_of(["Dead Letters Replayed", "Replay Started", "Dry Run"]),
        ),
        ("count", true, described(count(), "How many went out, or would.")),
        ("from", true, count()),
        ("limit", true, count()),
        ("replayId", false, any_text()),
        (
            "notReplayed",
            false,
            described(count(), "Letters that were meant and did not go out."),
        ),
        (
            "leftInDoubt",
            false,
            described(
                count(),
                "Letters that are left alone, since their events may have gone out and must not twice.",
            ),
        ),
        ("partitions", true, partitions()),
        ("notOpen", false, json!({"type": "array", "items": any_text()})),
        (
            "sample",
            false,
            json!({"type": "array", "items": component("DeadLetter")}),
        ),
        ("routes", false, json!({"type": "array", "items": route})),
    ])
}

pub(super) fn view() -> Json {
    let counted = |name| (name, true, count());
    let number = || json!({"type": "number", "minimum": 0});
    answer([
        ("replayId", true, any_text()),
        ("state", true, one_of(STATES)),
        (
            "reason",
            false,
            described(any_text(), "Why it stopped by itself."),
        ),
        ("createdAt", true, written_time()),
        ("finishedAt", false, written_time()),
        ("filter", true, json!({"type": "object"})),
        counted("from"),
        counted("limit"),
        ("rate", false, number()),
        counted("rampSeconds"),
        ("refailureRatioMax", true, number()),
        counted("total"),
        counted("replayed"),
        counted("refailed"),
        ("refailureRatio", true, number()),
        counted("notReplayed"),
        counted("gone"),
        counted("remaining"),
        ("percent", true, number()),
        ("secondsLeft", false, number()),
    ])
}

pub(super) fn example_view() -> Json {
    json!({
        "replayId": REPLAY, "state": "running", "createdAt": "2026-11-20T12:00:00.000Z", "filter": {"channel": "sms"}, "from": 0,
        "limit": 1000, "rate": 10.0, "rampSeconds": 0, "refailureRatioMax": 0.5, "total": 1000, "replayed": 250, "refailed": 1,
        "refailureRatio": 0.004, "notReplayed": 0, "gone": 0, "remaining": 750, "percent": 25.0, "secondsLeft": 75.0
    })
}
