//! What the status API says of the paths on which something is asked for: of an event, of the store, of an inbox.

use axum::http::{Method, StatusCode};
use posthaste_event::schema::{
    answer, any_text, boolean, component, count, described, exact, one_of, status, time, written_time,
};
use posthaste_service::api::{Answer, Api, Operation};
use posthaste_store::PAGE_DOCUMENTS_MAX;
use serde_json::{Value as Json, json};

use super::{
    api::{of_event, stored},
    query::LIMIT_DEFAULT,
};
use crate::rebuild::State;

const EVENTS: &str = "Events";
const OPERATIONS: &str = "Operations";
/// An event that waits for its time.
const EVENT: &str = "reminder-4711";

/// What is asked of an event that somebody holds.
fn asked(
    operation: Operation,
    words: &str,
    message: &'static str,
    more: &[(&str, bool, Json)],
    example: Json,
) -> Operation {
    let mut fields = vec![
        ("message", true, one_of([message])),
        ("eventId", true, any_text()),
        ("status", true, described(status(), "Where it stood.")),
    ];
    fields.extend(more.iter().cloned());
    let mut shown = json!({"message": message, "eventId": EVENT, "status": "SCHEDULED"});
    if let (Some(shown), Some(example)) = (shown.as_object_mut(), example.as_object()) {
        shown.extend(example.clone());
    }
    let operation = operation
        .answer(StatusCode::ACCEPTED, Answer::json(words, answer(fields), shown))
        .problem(
            StatusCode::NOT_FOUND,
            "no event \"reminder-4711\" is known. The status follows a moment behind",
        )
        .problem(StatusCode::CONFLICT, "the event is SENT: it waits for nothing")
        .unavailable("something is asked of too many events already; nothing was asked");
    stored(of_event(operation, EVENT))
}

fn reschedule(soon: &str) -> Operation {
    let path = "/events/{id}";
    let operation = Operation::new(
        Method::PATCH,
        path,
        "rescheduleEvent",
        EVENTS,
        "Ask to send a scheduled event at another time",
    )
    .body(
        exact([("scheduledAt", true, described(time(), "When it is to go out."))]),
        json!({"scheduledAt": soon}),
    )
    .refuses(
        StatusCode::BAD_REQUEST,
        "scheduledAt",
        "is not before the event's expiresAt",
        "a time before it",
    );
    asked(
        operation,
        "Whoever holds the event is asked to.",
        "Reschedule Requested",
        &[
            ("scheduledAt", true, written_time()),
            (
                "inForceBy",
                true,
                described(written_time(), "By then whoever holds the event has seen this."),
            ),
        ],
        json!({"scheduledAt": "2030-01-31T09:00:00.000Z", "inForceBy": "2026-11-20T12:00:02.000Z"}),
    )
}

fn retry_now() -> Operation {
    let path = "/events/{id}/retry-now";
    let operation = Operation::new(
        Method::POST,
        path,
        "retryEventNow",
        EVENTS,
        "Ask to let a waiting event go",
    );
    asked(
        operation,
        "Whoever holds the event is asked to.",
        "Retry Requested",
        &[(
            "dueAt",
            true,
            described(written_time(), "When it would have gone out."),
        )],
        json!({"status": "RETRYING", "dueAt": "2026-11-20T12:00:02.000Z"}),
    )
}

fn cancel() -> Operation {
    let operation = Operation::new(
        Method::DELETE,
        "/events/{id}",
        "cancelEvent",
        EVENTS,
        "Ask to withdraw an event",
    )
    .says("What comes of it is in the event's timeline: a send that is under way is not taken back.");
    asked(
        operation,
        "Whoever holds the event is asked to.",
        "Cancel Requested",
        &[],
        json!({}),
    )
}

fn inbox() -> Operation {
    let message = answer([
        ("eventId", true, any_text()),
        ("at", true, written_time()),
        ("title", true, any_text()),
        ("body", true, any_text()),
        ("data", false, json!({"description": "Any JSON."})),
    ]);
    let schema = answer([
        ("tenant", true, any_text()),
        ("recipient", true, any_text()),
        ("messages", true, json!({"type": "array", "items": message})),
    ]);
    let example = json!({
        "tenant": "default", "recipient": "ann",
        "messages": [{
            "eventId": "0199-1", "at": "2026-11-20T12:00:00.000Z", "title": "Your order", "body": "It is on its way."
        }]
    });
    let limit =
        json!({"type": "integer", "minimum": 1, "maximum": PAGE_DOCUMENTS_MAX, "default": LIMIT_DEFAULT});
    let operation = Operation::new(
        Method::GET,
        "/inbox/{recipient}",
        "getInbox",
        "Inbox",
        "The in-app messages of a recipient, newest first",
    )
    .part("recipient", "Whose inbox.", any_text(), json!("ann"))
    .query(
        "tenant",
        "Of which tenant; your own without.",
        json!({"type": "string", "minLength": 1}),
    )
    .query("limit", "How many.", limit)
    .answer(StatusCode::OK, Answer::json("They may be none.", schema, example))
    .refuses(
        StatusCode::BAD_REQUEST,
        "limit",
        "\"0\" cannot be used",
        "1 to 1000",
    );
    stored(operation)
}

fn stats() -> Operation {
    let schema = answer([
        ("tenant", false, any_text()),
        (
            "waiting",
            true,
            described(count(), "Accepted, and not tried yet."),
        ),
        (
            "delayed",
            true,
            described(count(), "Waits for a time that was asked for."),
        ),
        (
            "retrying",
            true,
            described(count(), "Was tried, and will be again."),
        ),
        (
            "completed",
            true,
            described(count(), "Sent, and what came after."),
        ),
        ("failed", true, described(count(), "Given up.")),
        (
            "withdrawn",
            true,
            described(count(), "Withdrawn, expired, or not sent on purpose."),
        ),
        (
            "timestamp",
            true,
            described(
                written_time(),
                "When they were counted. A count is told for ten times as long as it took.",
            ),
        ),
    ]);
    let example = json!({
        "waiting": 2, "delayed": 1, "retrying": 0, "completed": 4711, "failed": 3, "withdrawn": 0,
        "timestamp": "2026-11-20T12:00:00.000Z"
    });
    let operation = Operation::new(
        Method::GET,
        "/messages/stats",
        "getMessageStats",
        "Messages",
        "How many events stand where",
    )
    .query(
        "tenant",
        "Whose; all that you may see without.",
        json!({"type": "string", "minLength": 1}),
    )
    .answer(
        StatusCode::OK,
        Answer::json("All of the tenant's events.", schema, example),
    );
    stored(operation)
}

fn report() -> Json {
    let states = [
        State::Reading,
        State::Comparing,
        State::Finished,
        State::Stopped,
        State::Failed,
    ];
    let states: Vec<Json> = states.iter().map(|state| json!(state)).collect();
    let difference = answer([
        ("eventId", true, any_text()),
        ("kind", true, one_of(["missing", "different", "unreadable"])),
        ("fields", false, json!({"type": "array", "items": any_text()})),
        ("repaired", true, boolean()),
        ("reason", false, any_text()),
    ]);
    let counted = |name| (name, true, count());
    answer([
        ("rebuildId", true, any_text()),
        ("state", true, json!({"type": "string", "enum": states})),
        ("dryRun", true, boolean()),
        ("startedAt", true, written_time()),
        ("finishedAt", false, written_time()),
        (
            "reason",
            false,
            described(any_text(), "What it waits for, or why it did not finish."),
        ),
        (
            "percent",
            true,
            json!({"type": "number", "minimum": 0, "maximum": 100}),
        ),
        counted("records"),
        counted("unreadableRecords"),
        counted("compared"),
        counted("events"),
        counted("missing"),
        counted("different"),
        counted("repaired"),
        counted("changing"),
        counted("refused"),
        counted("forgotten"),
        ("older", false, count()),
        ("statusBehind", true, boolean()),
        ("differences", true, json!({"type": "array", "items": difference})),
        counted("differencesUnnamed"),
    ])
}

fn rebuild() -> [Operation; 3] {
    let path = "/status/rebuild";
    let example = json!({
        "rebuildId": "0199-2", "state": "reading", "dryRun": true, "startedAt": "2026-11-20T12:00:00.000Z", "percent": 12.5,
        "records": 1000, "unreadableRecords": 0, "compared": 0, "events": 0, "missing": 0, "different": 0, "repaired": 0,
        "changing": 0, "refused": 0, "forgotten": 0, "statusBehind": false, "differences": [], "differencesUnnamed": 0
    });
    let told = |words: &str| Answer::json(words, component("Rebuild"), example.clone());
    let none = "this process has rebuilt nothing since it started; POST /status/rebuild begins";
    [
        Operation::new(
            Method::POST,
            path,
            "beginRebuild",
            OPERATIONS,
            "Compare the status with the topics, and put it right",
        )
        .optional_body(
            exact([("dryRun", false, described(boolean(), "Only compare."))]),
            json!({"dryRun": true}),
        )
        .answer(StatusCode::ACCEPTED, told("It has begun."))
        .refuses(
            StatusCode::BAD_REQUEST,
            "dryRun",
            "is not a boolean",
            "true or false",
        )
        .problem(
            StatusCode::CONFLICT,
            "rebuild 0199-2 runs here, and there is one at a time",
        ),
        Operation::new(
            Method::GET,
            path,
            "getRebuild",
            OPERATIONS,
            "How far the rebuild is, or what came of it",
        )
        .answer(StatusCode::OK, told("The newest of this process."))
        .problem(StatusCode::NOT_FOUND, none),
        Operation::new(Method::DELETE, path, "stopRebuild", OPERATIONS, "End the rebuild")
            .answer(StatusCode::ACCEPTED, told("It ends."))
            .problem(StatusCode::NOT_FOUND, none),
    ]
}

/// The paths; times in examples are `soon`.
pub(super) fn api(soon: &str) -> Api {
    let older = stats().also("/core-slack-worker/messages/stats", "getMessageStatsAsBefore");
    let operations = [reschedule(soon), retry_now(), cancel(), inbox(), stats(), older];
    operations
        .into_iter()
        .chain(rebuild())
        .fold(Api::new().schema("Rebuild", report()), Api::operation)
}
