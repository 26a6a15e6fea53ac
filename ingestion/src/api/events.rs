//! `POST /event` and `POST /events`.

use axum::http::{Method, StatusCode};
use posthaste_event::{
    Channel,
    payload::Payload,
    schema::{answer, any_text, boolean, component, count, described, list, one_of, status},
};
use posthaste_service::api::{Answer, Api, Operation, problem_schema};
use serde_json::{Value as Json, json};

use super::Scope;
use crate::idempotency::HEADER;

const TAG: &str = "Events";
const LINES: &str = "application/x-ndjson";

/// What the first of many may be refused with, and so all.
pub(super) const NONE_TAKEN: [StatusCode; 6] = [
    StatusCode::BAD_REQUEST,
    StatusCode::FORBIDDEN,
    StatusCode::CONFLICT,
    StatusCode::PAYLOAD_TOO_LARGE,
    StatusCode::UNPROCESSABLE_ENTITY,
    StatusCode::SERVICE_UNAVAILABLE,
];

fn ingested() -> Json {
    answer([
        ("message", true, one_of(["Event Ingested"])),
        ("eventId", true, described(any_text(), "For `GET /events/{id}`.")),
        ("correlationId", true, any_text()),
        ("status", true, status()),
    ])
}

/// What became of one of many.
fn item() -> Json {
    let errors = problem_schema()["properties"]["errors"].clone();
    answer([
        (
            "index",
            true,
            described(count(), "Its place in the request, from 0."),
        ),
        (
            "code",
            true,
            described(count(), "What `POST /event` would have answered."),
        ),
        ("eventId", false, any_text()),
        ("status", false, status()),
        ("detail", false, any_text()),
        ("errors", false, errors),
        ("retryAfterSeconds", false, count()),
    ])
}

fn items() -> Json {
    answer([
        ("accepted", true, described(count(), "How many are durable.")),
        ("refused", true, count()),
        (
            "isComplete",
            true,
            described(boolean(), "Whether the request was read to its end."),
        ),
        ("correlationId", true, any_text()),
        (
            "items",
            true,
            json!({"type": "array", "items": component("BulkItem")}),
        ),
    ])
}

impl Scope<'_> {
    pub(super) fn events(&self) -> Api {
        let api = Api::new()
            .schema("Ingested", ingested())
            .schema("BulkItem", item())
            .schema("BulkAnswer", items())
            .operation(self.one())
            .operation(self.many());
        self.event_schemas(api, "", &[])
    }

    fn one(&self) -> Operation {
        let mut examples: Vec<(&str, Json)> = Channel::ALL
            .map(|channel| {
                let event = json!({"channel": channel, "payload": Payload::example(channel)});
                (channel.as_str(), event)
            })
            .into();
        let sms = Payload::example(Channel::Sms);
        examples.push((
            "withAllThatMayBeSaid",
            json!({
                "channel": "sms", "payload": sms, "metadata": {"order": 4711}, "priority": "high", "tenant": "default",
                "eventId": "order-4711", "orderingKey": "ann", "policy": "no-duplicate", "ttl": 86_400,
            }),
        ));
        examples.push((
            "scheduled",
            json!({"channel": "sms", "payload": sms, "eventId": "reminder-4711", "scheduledAt": self.soon}),
        ));
        let example = json!({
            "message": "Event Ingested", "eventId": "order-4711", "correlationId": "checkout-1", "status": "PENDING"
        });
        let operation = Operation::new(Method::POST, "/event", "ingestEvent", TAG, "Hand in an event")
            .says("201 means that the event is durable; it goes out from then on, whatever happens.")
            .shared(HEADER)
            .body_examples(component("Event"), examples)
            .answer(
                StatusCode::CREATED,
                Answer::json("The event is durable.", component("Ingested"), example)
                    .with("Idempotency-Replayed"),
            )
            .refuses(
                StatusCode::BAD_REQUEST,
                "payload.phoneNumber",
                "has 3 digits",
                "7 to 15 digits with an optional + before and spaces, dots, dashes, slashes or brackets between",
            );
        repeated(operation)
    }

    fn many(&self) -> Operation {
        let most = self.settings.bulk_items_max;
        let event = |text: &str| {
            let payload = json!({"message": text, "phoneNumber": "+12025550100"});
            json!({"channel": "sms", "payload": payload})
        };
        let lines = format!("{}\n{}\n", event("Your code is 4711"), event("Your code is 4712"));
        let operation = Operation::new(Method::POST, "/events", "ingestEvents", TAG, "Hand in many events")
            .says(format!(
                "An array of up to {most} events, each answered for itself; or lines of JSON ({LINES}), as many as you like, which \
                 are taken as they come and answered by lines, the last of which is the sum. The body may be compressed \
                 (`Content-Encoding`: gzip or zstd)."
            ))
            .shared(HEADER)
            .query("atomic", "All or nothing: one that cannot be taken refuses all.", boolean())
            .query(
                "answers",
                "Which lines a stream is answered with, before the sum.",
                one_of(["all", "refused"]),
            )
            .body(
                list(component("Event"), 1, most),
                json!([event("Your code is 4711"), event("Your code is 4712")]),
            )
            .takes(
                LINES,
                true,
                described(any_text(), "One event a line."),
                json!({"lines": {"value": lines}}),
            )
            .refuses(
                StatusCode::BAD_REQUEST,
                "body",
                "has 0 events",
                &format!("1 to {most} events; more as application/x-ndjson without atomic"),
            );
        repeated(answered_in_bulk(operation))
    }
}

/// What is answered to many.
fn answered_in_bulk(operation: Operation) -> Operation {
    let taken = |index: u64| json!({"index": index, "code": 201, "eventId": format!("e-{index}"), "status": "PENDING"});
    let refused = json!({
        "index": 1, "code": 400, "detail": "channel: is missing; accepted: sms, email",
        "errors": [{"field": "channel", "problem": "is missing", "accepted": "sms, email"}]
    });
    let answered = |accepted: u64, refused: u64, items: Json| {
        json!({
            "accepted": accepted, "refused": refused, "isComplete": true, "correlationId": "checkout-1", "items": items
        })
    };
    let bulk = |words: &str, example: Json| Answer::json(words, component("BulkAnswer"), example);
    let sum = json!({"accepted": 1, "refused": 0, "isComplete": true, "correlationId": "checkout-1"});
    let lines = json!(format!("{}\n{sum}\n", taken(0)));
    let streamed = Answer::json("To lines: a line for each, and the sum.", any_text(), lines).of_type(LINES);
    let operation = operation
        .answer(
            StatusCode::CREATED,
            bulk("All are durable.", answered(2, 0, json!([taken(0), taken(1)]))),
        )
        .answer(
            StatusCode::MULTI_STATUS,
            bulk("Some are durable.", answered(1, 1, json!([taken(0), refused]))),
        )
        .answer(StatusCode::OK, streamed);
    let none = "None is durable: the status is what the first was refused with.";
    NONE_TAKEN.into_iter().fold(operation, |operation, status| {
        let one = json!([{"index": 0, "code": status.as_u16(), "detail": "why it is refused"}]);
        operation.answer(status, bulk(none, answered(0, 1, one)))
    })
}

/// What whoever brings a key or an id may be told, and that nothing can be taken at the moment.
pub(super) fn repeated(operation: Operation) -> Operation {
    operation
        .refuses(
            StatusCode::CONFLICT,
            "eventId",
            "was used before, for another event",
            "the same body, which gets the same answer, or one that was not used for 24 h",
        )
        .refuses(
            StatusCode::UNPROCESSABLE_ENTITY,
            HEADER,
            "was used before, with another body",
            "the same body, which gets the same answer, or one that was not used for 24 h",
        )
        .unavailable("too many events are being taken at the moment; nothing was stored")
        .unavailable(
            "the event was not confirmed in time and may still go out; look this eventId up before sending it again",
        )
}
