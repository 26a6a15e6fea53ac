//! What the replay service says of its HTTP interface.

mod schemas;

use axum::http::{Method, StatusCode};
use posthaste_event::{
    Channel,
    schema::{answer, any_text, boolean, component, described, exact, moment, one_of},
};
use posthaste_service::api::{Answer, Api, Operation};
use serde_json::{Value as Json, json};

use super::replays::{LIMIT_DEFAULT, LIMIT_MAX, STATES};
use crate::{
    Settings,
    request::{PAGE_DEFAULT, PAGE_MAX, RAMP_SECONDS_MAX, RATE_LEAST, RATE_MOST, RATIO_LEAST, TEXT_CHARS_MAX},
};
use schemas::{
    delivery, example_letter, example_view, failure, filter, groups, letter, partitions, replayed, view,
};

const TAG: &str = "Dead letters";
const EVENT: &str = "order-4711";
const REPLAY: &str = "0199aa00-0000-7000-8000-000000000001";

/// What is answered while this instance reads, or has nothing to read.
fn read(operation: Operation) -> Operation {
    operation
        .unavailable("the dead letters are being read: 3 of 12 partitions so far")
        .unavailable("this instance has no partition of the dead letters now; another one may have them")
}

/// A number within these.
fn number(least: f64, most: f64) -> Json {
    json!({"type": "number", "minimum": least, "maximum": most})
}

/// The body of `POST /replay-dead-letter`.
fn wanted(settings: &Settings) -> Json {
    let limit = json!({"type": "integer", "minimum": 1, "maximum": settings.background_limit_max});
    let limit_words = format!(
        "How many go out at most, {} without; up to {} while you wait.",
        settings.limit_default, settings.limit_max
    );
    let ramp = json!({"type": "integer", "minimum": 0, "maximum": RAMP_SECONDS_MAX});
    let mut body = exact([
        (
            "from",
            false,
            described(
                json!({"type": "integer", "minimum": 0, "maximum": u32::MAX}),
                "How many are skipped, the oldest first.",
            ),
        ),
        ("limit", false, described(limit, &limit_words)),
        ("filter", false, component("DeadLetterFilter")),
        (
            "dryRun",
            false,
            described(boolean(), "Only say what would go out."),
        ),
        (
            "rate",
            false,
            described(
                number(RATE_LEAST, RATE_MOST),
                "So many a second; nobody waits then.",
            ),
        ),
        (
            "rampSeconds",
            false,
            described(ramp, "The rate rises from nothing for so long."),
        ),
        (
            "refailureRatio",
            false,
            described(
                number(RATIO_LEAST, 1.0),
                "Stop when more than this part dies again.",
            ),
        ),
        (
            "wait",
            false,
            described(boolean(), "Answer when it is done; the default without a rate."),
        ),
    ]);
    // Who waits asks for less.
    let waits = json!({
        "not": {"anyOf": [{"required": ["rate"]}, {"properties": {"wait": {"const": false}}, "required": ["wait"]}]}
    });
    body["allOf"] = json!([
        {"if": waits, "then": {"properties": {"limit": {"maximum": settings.limit_max}}}},
        {"not": {"properties": {"wait": {"const": true}}, "required": ["wait", "rate"]}},
    ]);
    body["dependentRequired"] = json!({"rampSeconds": ["rate"]});
    body
}

fn replay(settings: &Settings) -> Operation {
    let told = |message: &str, count: u64| json!({"message": message, "count": count, "from": 0, "limit": 1000, "partitions": {"owned": 12, "total": 12}});
    let answered = |words: &str, example: Json| Answer::json(words, component("Replayed"), example);
    let operation = Operation::new(
        Method::POST,
        "/replay-dead-letter",
        "replayDeadLetters",
        TAG,
        "Send dead letters again",
    )
    .says("Of the partitions that this instance has. A letter goes out once, whoever asks and however often.")
    .optional_body(
        wanted(settings),
        json!({"dryRun": true, "filter": {"channel": "sms"}, "limit": 100}),
    )
    .answer(
        StatusCode::CREATED,
        answered(
            "They went out, or go out by and by.",
            told("Dead Letters Replayed", 3),
        ),
    )
    .answer(StatusCode::OK, answered("What would go out.", told("Dry Run", 3)))
    .refuses(
        StatusCode::BAD_REQUEST,
        "filter.channel",
        "is not known",
        "sms, email, push",
    )
    .refuses(
        StatusCode::NOT_FOUND,
        "filter.ids",
        "none of these events was ever given up: order-4712",
        "ids of dead letters, as GET /dead-letters lists them",
    )
    .refuses(
        StatusCode::CONFLICT,
        "filter",
        "means letters that a replay of an operator has not finished with",
        "a filter without them; or wait for it",
    )
    .refuses(
        StatusCode::PAYLOAD_TOO_LARGE,
        "filter.ids",
        "are too many for one record",
        "fewer ids",
    )
    .unavailable("other requests are re-publishing dead letters; come back when they are done");
    read(operation)
}

fn letters() -> [Operation; 2] {
    let page = answer([
        (
            "deadLetters",
            true,
            json!({"type": "array", "items": component("DeadLetter")}),
        ),
        ("next", false, any_text()),
        ("partitions", true, partitions()),
    ]);
    let owned = json!({"owned": 12, "total": 12});
    let groups = json!({"groups": [], "groupsTotal": 0, "lettersTotal": 0, "partitions": owned});
    let letters = json!({"deadLetters": [example_letter()], "partitions": owned});
    let summary = "Open dead letters, the newest first";
    let list = Operation::new(Method::GET, "/dead-letters", "listDeadLetters", TAG, summary)
        .answer(StatusCode::OK, Answer::json("A page.", page, letters))
        .answer(
            StatusCode::OK,
            Answer::json(
                "With `groupBy`: groups, the largest first.",
                component("DeadLetterGroups"),
                groups,
            ),
        )
        .refuses(
            StatusCode::BAD_REQUEST,
            "limit",
            "is out of range",
            &format!("1 to {PAGE_MAX}"),
        );
    let summary = "The open dead letter of an event";
    let one = Operation::new(Method::GET, "/dead-letters/{id}", "getDeadLetter", TAG, summary)
        .part(
            "id",
            "The event's id, as it is shown to you.",
            any_text(),
            json!(EVENT),
        )
        .answer(
            StatusCode::OK,
            Answer::json("It is open.", component("DeadLetter"), example_letter()),
        )
        .problem(
            StatusCode::NOT_FOUND,
            "event \"order-4711\" has no open dead letter",
        );
    [read(filtered(list)), read(one)]
}

/// With the parameters of a list.
fn filtered(list: Operation) -> Operation {
    let limit = json!({"type": "integer", "minimum": 1, "maximum": PAGE_MAX, "default": PAGE_DEFAULT});
    let list = list
        .query("limit", "How many.", limit)
        .query(
            "cursor",
            "`next` of the page before.",
            json!({"type": "string", "format": "letter-cursor"}),
        )
        .query(
            "groupBy",
            "Groups of letters with the same error instead.",
            one_of(["fingerprint"]),
        )
        .query(
            "channel",
            "By which way.",
            one_of(Channel::ALL.map(Channel::as_str)),
        )
        .query("from", "Given up at or after this time.", moment())
        .query("until", "Given up before this time.", moment());
    let texts = [
        ("ids", "Of these events, with commas between."),
        ("tenant", "Of this tenant."),
        ("provider", "Given up with this provider or account."),
        ("error", "With this kind of error, code, or fingerprint."),
        ("text", "With this in the error's message."),
    ];
    texts.into_iter().fold(list, |list, (name, description)| {
        let schema = json!({"type": "string", "maxLength": TEXT_CHARS_MAX});
        list.query(name, description, schema)
    })
}

fn replays() -> [Operation; 3] {
    let limit = json!({"type": "integer", "minimum": 1, "maximum": LIMIT_MAX, "default": LIMIT_DEFAULT});
    let page = answer([(
        "replays",
        true,
        json!({"type": "array", "items": component("Replay")}),
    )]);
    let shown = |words: &str| Answer::json(words, component("Replay"), example_view());
    let reading = "the replays are being read";
    let none = "no replay is known by this id; GET /replays lists those that are";
    let of_id = |operation: Operation| {
        operation
            .part("id", "The replay's id.", any_text(), json!(REPLAY))
            .problem(StatusCode::NOT_FOUND, none)
            .unavailable(reading)
    };
    let list = Operation::new(
        Method::GET,
        "/replays",
        "listReplays",
        TAG,
        "Replays, the newest first",
    )
    .query("state", "Those in this state.", one_of(STATES))
    .query("limit", "How many.", limit)
    .answer(
        StatusCode::OK,
        Answer::json("They may be none.", page, json!({"replays": [example_view()]})),
    )
    .refuses(
        StatusCode::BAD_REQUEST,
        "limit",
        "is out of range",
        &format!("1 to {LIMIT_MAX}"),
    )
    .unavailable(reading);
    let one = Operation::new(
        Method::GET,
        "/replays/{id}",
        "getReplay",
        TAG,
        "How far a replay is",
    )
    .answer(StatusCode::OK, shown("It is known."));
    let wish = Operation::new(
        Method::POST,
        "/replays/{id}/{wish}",
        "steerReplay",
        TAG,
        "Pause, resume or cancel a replay",
    )
    .part(
        "wish",
        "What it is to do.",
        one_of(["pause", "resume", "cancel"]),
        json!("pause"),
    )
    .answer(StatusCode::OK, shown("It does."))
    .problem(StatusCode::CONFLICT, "the replay is finished already");
    [list, of_id(one), of_id(wish)]
}

/// The paths of the replay service.
pub fn api(settings: &Settings) -> Api {
    let api = Api::new()
        .schema("DeadLetter", letter())
        .schema("DeadLetterError", failure())
        .schema("DeadLetterFilter", filter())
        .schema("DeadLetterGroups", groups())
        .schema("Delivery", delivery())
        .schema("Replay", view())
        .schema("Replayed", replayed())
        .operation(replay(settings));
    letters().into_iter().chain(replays()).fold(api, Api::operation)
}
