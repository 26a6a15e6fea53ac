//! `/broadcasts`.

use axum::http::{Method, StatusCode};
use posthaste_event::{
    fields::Text,
    schema::{
        answer, any_text, component, count, described, list, object, one_of, optional,
        priority as written_priority, text, time, written_time,
    },
};
use posthaste_service::api::{Answer, Api, Operation};
use serde_json::{Map, Value as Json, json};

use super::{
    Scope,
    event::{priority, tenant},
};
use crate::{
    IDEMPOTENCY_KEY as HEADER,
    broadcasts::{LIMIT_DEFAULT, LIMIT_MAX, NAME_CHARS_MAX, NOT_IN_MESSAGE, STATES},
};

const TAG: &str = "Broadcasts";
const LINES: &str = "application/x-ndjson";
const ID: &str = "0199aa00-0000-7000-8000-000000000002";

/// What all get, but for what belongs beside it.
fn message() -> Json {
    let nothing: Map<String, Json> = NOT_IN_MESSAGE
        .iter()
        .map(|(name, _)| ((*name).to_owned(), json!(false)))
        .collect();
    let mut message = json!({
        "type": "object", "format": "message",
        "description": "As `POST /event` takes it, or with a `templateCode` as `POST /messages/request` does; what a recipient brings \
                        stands over it. Who gets it and when stands beside it.",
    });
    message["properties"] = Json::Object(nothing);
    message
}

fn recipient() -> Json {
    let any = |words: &str| json!({"type": ["object", "null"], "description": words});
    let mut recipient = object([]);
    recipient["format"] = json!("message-recipient");
    recipient["properties"] = json!({
        "payload": any("Over the message's, field by field."),
        "metadata": any("Over the message's, field by field."),
        "channel": optional(described(any_text(), "With a template: where it goes.")),
        "locale": optional(described(any_text(), "With a template: in which language.")),
        "attachments": {"description": "With a template: the files that go with this email."},
    });
    recipient
}

fn view() -> Json {
    let events = answer(
        ["waiting", "sent", "failed", "skipped", "cancelled", "expired"].map(|name| (name, true, count())),
    );
    let events_words =
        "Of one broadcast: what became of those that were handed over, when the status store answers.";
    let data = answer([
        ("recipients", true, count()),
        ("handedOver", true, count()),
        ("remaining", true, count()),
        ("events", false, described(events, events_words)),
        (
            "eventsProblem",
            false,
            described(any_text(), "Why that is not known."),
        ),
    ]);
    let progress = answer([
        (
            "percentage",
            true,
            json!({"type": "number", "minimum": 0, "maximum": 100}),
        ),
        ("step", true, count()),
        ("totalSteps", true, count()),
        ("currentStep", true, one_of(STATES)),
        ("data", true, data),
    ]);
    answer([
        ("broadcastId", true, any_text()),
        ("name", false, any_text()),
        ("tenant", true, any_text()),
        ("status", true, one_of(STATES)),
        ("createdAt", true, written_time()),
        ("scheduledAt", false, written_time()),
        ("finishedAt", false, written_time()),
        ("priority", false, written_priority()),
        ("chunkSize", true, count()),
        ("chunkDelay", true, described(count(), "Milliseconds.")),
        ("progress", true, progress),
    ])
}

fn example() -> Json {
    json!({
        "broadcastId": ID, "name": "News", "tenant": "default", "status": "sending", "createdAt": "2026-11-20T12:00:00.000Z",
        "chunkSize": 500, "chunkDelay": 0,
        "progress": {
            "percentage": 50.0, "step": 1, "totalSteps": 2, "currentStep": "sending",
            "data": {
                "recipients": 1000, "handedOver": 500, "remaining": 500,
                "events": {"waiting": 20, "sent": 479, "failed": 1, "skipped": 0, "cancelled": 0, "expired": 0}
            }
        }
    })
}

/// What is sent in the examples.
fn news() -> Json {
    json!({"channel": "sms", "payload": {"message": "We are open on Sunday"}})
}

fn taken() -> Answer {
    let taken = answer([
        ("message", true, one_of(["Broadcast accepted"])),
        ("broadcastId", true, any_text()),
        ("recipients", true, count()),
        ("totalSteps", true, count()),
    ]);
    let example =
        json!({"message": "Broadcast accepted", "broadcastId": ID, "recipients": 2, "totalSteps": 1});
    Answer::json("It is durable, and sent chunk by chunk.", taken, example).with("Idempotency-Replayed")
}

fn shown(words: &str) -> Answer {
    Answer::json(words, component("Broadcast"), example())
}

impl Scope<'_> {
    pub(super) fn broadcasts(&self) -> Api {
        let api = Api::new().schema("Broadcast", view());
        let unknown = "no broadcast is known by this id; GET /broadcasts lists those that are";
        let of_id = |operation: Operation| {
            operation
                .part("id", "The broadcast's id.", any_text(), json!(ID))
                .problem(StatusCode::NOT_FOUND, unknown)
                .unavailable("the broadcasts are being read")
        };
        let one = Operation::new(
            Method::GET,
            "/broadcasts/{id}",
            "getBroadcast",
            TAG,
            "How far a broadcast is",
        )
        .answer(StatusCode::OK, shown("It is known."));
        let path = "/broadcasts/{id}/{wish}";
        let wish = Operation::new(
            Method::POST,
            path,
            "steerBroadcast",
            TAG,
            "Pause, resume or cancel a broadcast",
        )
        .part(
            "wish",
            "What it is to do.",
            one_of(["pause", "resume", "cancel"]),
            json!("pause"),
        )
        .answer(StatusCode::OK, shown("It does."))
        .problem(StatusCode::CONFLICT, "the broadcast is done already")
        .unavailable("too many broadcasts were cancelled of which something may wait");
        [self.send(), listed(), of_id(one), of_id(wish)]
            .into_iter()
            .fold(api, Api::operation)
    }

    fn send(&self) -> Operation {
        let broadcast = &self.broadcast;
        let number = |least: u64, most: u64| json!({"type": "integer", "minimum": least, "maximum": most});
        let size = number(1, u64::from(broadcast.chunk_size_max));
        let delay = number(0, broadcast.chunk_delay_seconds_max.saturating_mul(1_000));
        let mut body = object([
            ("message", true, message()),
            (
                "recipients",
                false,
                described(list(recipient(), 1, self.settings.bulk_bytes_max), "Who gets it."),
            ),
            (
                "list",
                false,
                described(any_text(), "Or the code of a stored list."),
            ),
            ("name", false, text(Text::line(NAME_CHARS_MAX))),
            ("tenant", false, tenant()),
            ("priority", false, priority()),
            ("scheduledAt", false, described(time(), "When it begins.")),
            ("chunkSize", false, described(size, "So many recipients at once.")),
            (
                "chunkDelay",
                false,
                described(delay, "So many milliseconds between chunks."),
            ),
        ]);
        body["oneOf"] = json!([{"required": ["recipients"]}, {"required": ["list"]}]);
        let to = |number: &str| json!({"payload": {"phoneNumber": number}});
        let whole = json!({
            "message": news(), "recipients": [to("+12025550100"), to("+12025550101")], "name": "News"
        });
        let lines = format!("{}\n{}\n", json!({"message": news()}), to("+12025550100"));
        Operation::new(Method::POST, "/broadcasts", "sendBroadcast", TAG, "Send one message to many")
            .says(format!(
                "With its recipients; or as lines of JSON ({LINES}), the first of which is the same without them and each other one a \
                 recipient. All is checked before anything is sent: one that cannot be taken refuses all. The body may be compressed \
                 (`Content-Encoding`: gzip or zstd)."
            ))
            .shared(HEADER)
            .body(body, whole)
            .takes(
                LINES,
                true,
                described(any_text(), "The broadcast, then one recipient a line."),
                json!({"lines": {"value": lines}}),
            )
            .answer(
                StatusCode::ACCEPTED,
                taken(),
            )
            .refuses(StatusCode::BAD_REQUEST, "recipients[0].payload.phoneNumber", "is missing", "a phone number")
            .problem(StatusCode::CONFLICT, "nothing was sent: the list was deleted or replaced meanwhile")
            .unavailable("lists are kept in the status store, which does not answer")
            .refuses(StatusCode::UNPROCESSABLE_ENTITY, "message.templateCode", "is not defined", "a code that GET /templates lists")
            .refuses(
                StatusCode::UNPROCESSABLE_ENTITY,
                HEADER,
                "was used before, with another body",
                "the same body, which gets the same answer, or one that was not used for 24 h",
            )
            .problem(StatusCode::CONFLICT, "a request with this key is being taken at this moment; ask again for its answer")
            .unavailable("nothing was sent: with what is being uploaded 101 broadcasts of this tenant are not at their end; broadcast.tenant_unfinished_max allows 100")
            .unavailable("the broadcasts are being read")
    }
}

fn listed() -> Operation {
    let limit = json!({"type": "integer", "minimum": 1, "maximum": LIMIT_MAX, "default": LIMIT_DEFAULT});
    let page = answer([
        (
            "broadcasts",
            true,
            json!({"type": "array", "items": component("Broadcast")}),
        ),
        (
            "next",
            false,
            described(any_text(), "For the next page, if there is one: its `after`."),
        ),
    ]);
    Operation::new(
        Method::GET,
        "/broadcasts",
        "listBroadcasts",
        TAG,
        "Broadcasts, the newest first",
    )
    .query(
        "tenant",
        "Whose; all that you may see without.",
        json!({"type": "string", "minLength": 1}),
    )
    .query("state", "Those in this state.", one_of(STATES))
    .query("after", "`next` of the page before.", any_text())
    .query("limit", "How many.", limit)
    .answer(
        StatusCode::OK,
        Answer::json("They may be none.", page, json!({"broadcasts": [example()]})),
    )
    .refuses(
        StatusCode::BAD_REQUEST,
        "limit",
        "is out of range",
        &format!("1 to {LIMIT_MAX}"),
    )
    .unavailable("the broadcasts are being read")
}
