//! What the status API says of itself.

use axum::http::{Method, StatusCode};
use posthaste_event::{
    Channel, ErrorKind, Millis, Status,
    schema::{
        answer, any_text, boolean, channel, component, count, described, moment, one_of, policy, priority,
        status, written_time,
    },
};
use posthaste_service::api::{Answer, Api, Operation, soon};
use posthaste_store::PAGE_DOCUMENTS_MAX;
use serde_json::{Value as Json, json};

use super::query::LIMIT_DEFAULT;

const TAG: &str = "Events";
const LINES: &str = "application/x-ndjson";
const EVENT: &str = "order-4711";

fn failure() -> Json {
    answer([
        ("kind", true, one_of(ErrorKind::ALL.map(ErrorKind::as_str))),
        ("code", false, described(any_text(), "The provider's own code.")),
        ("message", true, any_text()),
        (
            "fingerprint",
            true,
            described(any_text(), "What equal failures share."),
        ),
        (
            "retryAfterMs",
            false,
            described(count(), "How long the provider asked us to wait."),
        ),
    ])
}

fn standing() -> Json {
    answer([
        ("step", true, count()),
        ("status", true, status()),
        ("at", true, written_time()),
        (
            "generation",
            true,
            described(count(), "How often it was replayed."),
        ),
        ("attempt", true, described(count(), "Sends in this generation.")),
        ("provider", false, any_text()),
        ("dueAt", false, described(written_time(), "Until when it waits.")),
        ("providerMessageId", false, any_text()),
        ("error", false, component("Failure")),
    ])
}

fn step() -> Json {
    answer([
        (
            "eventId",
            false,
            described(
                any_text(),
                "Only where the steps of several events stand together.",
            ),
        ),
        ("step", true, count()),
        ("at", true, written_time()),
        ("status", true, status()),
        ("by", true, described(any_text(), "The instance that wrote it.")),
        ("generation", true, count()),
        ("attempt", true, count()),
        ("provider", false, any_text()),
        ("account", false, any_text()),
        ("dueAt", false, written_time()),
        ("reason", false, described(any_text(), "Why it waits.")),
        (
            "rule",
            false,
            described(any_text(), "The rule that decided, as `id@version`."),
        ),
        ("replay", false, any_text()),
        ("providerMessageId", false, any_text()),
        ("error", false, component("Failure")),
    ])
}

fn event() -> Json {
    let note = answer([
        ("id", true, any_text()),
        ("kind", true, any_text()),
        ("at", true, written_time()),
    ]);
    answer([
        ("eventId", true, any_text()),
        ("status", true, status()),
        ("tenant", true, any_text()),
        ("channel", true, channel()),
        ("priority", false, priority()),
        ("correlationId", false, any_text()),
        ("createdAt", true, written_time()),
        ("scheduledAt", false, written_time()),
        ("expiresAt", false, written_time()),
        ("orderingKey", false, any_text()),
        (
            "replayOf",
            false,
            described(any_text(), "The event that this one replays in an edited form."),
        ),
        ("policy", false, policy()),
        (
            "cancelRequested",
            false,
            described(
                written_time(),
                "When somebody asked to cancel it, while that is open.",
            ),
        ),
        ("state", false, component("Standing")),
        (
            "receipt",
            false,
            json!({"type": "object", "description": "What a provider reported after accepting it."}),
        ),
        (
            "payload",
            false,
            json!({"description": "As it was handed in; only for the role `read-payload`. The content of attachments is left out: \
                                   `contentBytes` says how long it was."}),
        ),
        (
            "metadata",
            false,
            json!({"description": "As it was handed in; only for the role `read-payload`."}),
        ),
        (
            "timeline",
            false,
            json!({"type": "array", "items": component("Step"), "description": "In order. Not in lists."}),
        ),
        (
            "notes",
            false,
            json!({"type": "array", "items": note, "description": "Not in lists."}),
        ),
    ])
}

fn next() -> Json {
    described(
        any_text(),
        "For the next page, if there is one: its `cursor`. A page may have fewer entries than asked for, or none, and still have a next one: where few \
         are meant of many, a part of them is looked through at a time.",
    )
}

fn schemas() -> Api {
    let events = || json!({"type": "array", "items": component("EventStatus")});
    let together = answer([
        ("correlationId", true, any_text()),
        ("events", true, events()),
        ("next", false, next()),
    ]);
    let steps = || json!({"type": "array", "items": component("Step")});
    let summary = answer([("eventId", true, any_text()), ("status", true, status())]);
    let timelines = answer([
        ("correlationId", true, any_text()),
        ("events", true, json!({"type": "array", "items": summary})),
        ("timeline", true, steps()),
        ("next", false, next()),
    ]);
    let timeline = answer([
        ("eventId", true, any_text()),
        ("status", true, status()),
        ("timeline", true, steps()),
    ]);
    Api::new()
        .schema("Failure", failure())
        .schema("Standing", standing())
        .schema("Step", step())
        .schema("EventStatus", event())
        .schema(
            "EventPage",
            answer([("events", true, events()), ("next", false, next())]),
        )
        .schema("EventsTogether", together)
        .schema("Timeline", timeline)
        .schema("TimelinesTogether", timelines)
}

fn example_event() -> Json {
    json!({
        "eventId": EVENT, "status": "SENT", "tenant": "default", "channel": "sms", "priority": "high",
        "correlationId": "checkout-1", "createdAt": "2026-11-20T12:00:00.000Z",
        "state": {
            "step": 1, "status": "SENT", "at": "2026-11-20T12:00:00.040Z", "generation": 0, "attempt": 1,
            "provider": "twilio", "providerMessageId": "SM1"
        }
    })
}

fn example_step() -> Json {
    json!({
        "step": 1, "at": "2026-11-20T12:00:00.040Z", "status": "SENT", "by": "here-1", "generation": 0, "attempt": 1,
        "provider": "twilio"
    })
}

/// An operation on one event.
pub(super) fn of_event(operation: Operation, example: &str) -> Operation {
    operation.part("id", "The event's id, as it is shown to you: an id of its client's own is `tenant~id` to whoever sees all tenants.", any_text(), json!(example))
}

/// What the store's absence is answered with.
pub(super) fn stored(operation: Operation) -> Operation {
    operation.unavailable(
        "the status store does not answer. Events are taken and delivered all the same; their status can be asked for when \
         it is back",
    )
}

fn list() -> Operation {
    let limit =
        json!({"type": "integer", "minimum": 1, "maximum": PAGE_DOCUMENTS_MAX, "default": LIMIT_DEFAULT});
    let text = || json!({"type": "string", "minLength": 1});
    let operation = Operation::new(Method::GET, "/events", "listEvents", TAG, "Search events, newest first")
        .says(format!(
            "Without timelines and notes. With `follow=true` what happens from now on is streamed instead, a line of JSON \
             ({LINES}) for each step and an empty one now and then, for as long as you read; only `status`, `channel`, `tenant`, \
             `provider` and `correlationId` filter then."
        ))
        .query("status", "Where they stand.", one_of(Status::ALL.map(Status::as_str)))
        .query("channel", "How they go.", one_of(Channel::ALL.map(Channel::as_str)))
        .query("tenant", "Whose; all that you may see without.", text())
        .query("provider", "The provider used last, or to use next.", text())
        .query("correlationId", "What belongs together.", text())
        .query("from", "Accepted at or after this time.", moment())
        .query("until", "Accepted before this time.", moment())
        .query("limit", "How many.", limit)
        .query("cursor", "`next` of the page before, with the same filters.", json!({"type": "string", "format": "cursor"}))
        .query("follow", "Stream what happens from now on.", boolean())
        .answer(
            StatusCode::OK,
            Answer::json("A page.", component("EventPage"), json!({"events": [example_event()]})),
        )
        .answer(
            StatusCode::OK,
            Answer::json("With `follow=true`: lines.", any_text(), json!(format!("{}\n", example_step())))
                .of_type(LINES),
        )
        .refuses(StatusCode::BAD_REQUEST, "limit", "\"0\" cannot be used", &format!("1 to {PAGE_DOCUMENTS_MAX}"));
    stored(operation)
}

fn one() -> Operation {
    let summary = "What became of an event, or of those with a correlation id";
    let operation = Operation::new(Method::GET, "/events/{id}", "getEvent", TAG, summary)
        .says("The status follows a moment behind: an event that was accepted just now may be unknown for a second.")
        .answer(
            StatusCode::OK,
            Answer::json("The event with this id.", component("EventStatus"), example_event()),
        )
        .answer(
            StatusCode::OK,
            Answer::json(
                "The events with this correlation id, newest first.",
                component("EventsTogether"),
                json!({"correlationId": "checkout-1", "events": [example_event()]}),
            ),
        )
        .problem(StatusCode::NOT_FOUND, "no event with this id or correlation id is known");
    stored(of_event(operation, EVENT))
}

fn timeline() -> Operation {
    let summary = "The steps of an event, or of those with a correlation id";
    let operation = Operation::new(Method::GET, "/events/{id}/timeline", "getTimeline", TAG, summary)
        .answer(
            StatusCode::OK,
            Answer::json(
                "Of the event with this id.",
                component("Timeline"),
                json!({"eventId": EVENT, "status": "SENT", "timeline": [example_step()]}),
            ),
        )
        .answer(
            StatusCode::OK,
            Answer::json(
                "Of the events with this correlation id.",
                component("TimelinesTogether"),
                json!({
                    "correlationId": "checkout-1", "events": [{"eventId": EVENT, "status": "SENT"}],
                    "timeline": [example_step()]
                }),
            ),
        )
        .problem(
            StatusCode::NOT_FOUND,
            "no event with this id or correlation id is known",
        );
    stored(of_event(operation, EVENT))
}

/// The paths of the status API. Times in examples lie after `now`.
pub fn api(now: Millis) -> Api {
    let looking = [list(), one(), timeline()].into_iter();
    looking
        .fold(schemas(), Api::operation)
        .and(super::api_asking::api(&soon(now)))
}
