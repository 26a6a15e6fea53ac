//! `/messages/*`, also below `/core-slack-worker`.

use axum::http::{Method, StatusCode};
use posthaste_event::{
    Channel,
    fields::Text,
    payload::Payload,
    schema::{answer, any_text, component, count, described, list, name, object, one_of, policy, text, time},
};
use posthaste_service::api::{Answer, Api, Operation, problem_schema};
use serde_json::{Value as Json, json};

use super::{
    Scope,
    event::{both, none_of, priority, tenant},
    events::{NONE_TAKEN, repeated},
};
use crate::{
    attachments::bound,
    idempotency::HEADER,
    messages::{CODE_CHARS_MAX, PLACE_CHARS_MAX, PREFIX, REFERENCES, SENDER_CHARS_MAX},
    request::{EVENT_ID_CHARS_MAX, EVENT_ID_MARKS, ORDERING_KEY_CHARS_MAX, ttl_seconds_max},
    templates::locale_schema,
};

const TAG: &str = "Messages";

fn accepted() -> Json {
    answer([
        ("correlationId", true, any_text()),
        ("eventId", true, described(any_text(), "For `GET /events/{id}`.")),
        ("status", true, one_of(["accepted"])),
        ("message", true, any_text()),
    ])
}

fn entry() -> Json {
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
            described(count(), "What the message alone would have been answered with."),
        ),
        ("correlationId", true, any_text()),
        ("eventId", false, any_text()),
        ("status", true, one_of(["accepted", "refused"])),
        ("message", true, any_text()),
        ("errors", false, errors),
        ("retryAfterSeconds", false, count()),
    ])
}

fn metadata() -> Json {
    let references: Vec<Json> = REFERENCES
        .iter()
        .map(|name| json!({"required": [name]}))
        .collect();
    json!({
        "type": "object", "not": {"anyOf": references},
        "properties": {"provider": {"type": ["string", "null"], "format": "provider"}},
        "description": "Anything of your own; which template and configuration were used is added.",
    })
}

/// One message, for all examples. Its template and its configuration are those of the examples of `PUT`.
fn example() -> Json {
    json!({
        "configCode": "shop-sms", "templateCode": "order-shipped", "channel": "+12025550100",
        "payload": {"name": "Ann", "order": 4711}
    })
}

impl Scope<'_> {
    pub(super) fn messages(&self) -> Api {
        let operations = [self.request(), self.urgent(), self.schedule(), self.bulk()];
        let api = Api::new()
            .schema("MessageRequest", self.message_schema())
            .schema("MessageAccepted", accepted())
            .schema("MessageEntry", entry());
        let older = operations.each_ref().map(|operation| {
            let (_, path) = operation.route();
            operation.also(format!("{PREFIX}{path}"), older_id(path))
        });
        operations.into_iter().chain(older).fold(api, Api::operation)
    }

    fn message_schema(&self) -> Json {
        let ttl = json!({"type": "integer", "minimum": 1, "maximum": ttl_seconds_max(self.settings)});
        let mut message = object([
            (
                "configCode",
                true,
                described(
                    text(Text::line(CODE_CHARS_MAX)),
                    "The configuration: by which channel, from whom.",
                ),
            ),
            (
                "templateCode",
                true,
                described(text(Text::line(CODE_CHARS_MAX)), "The template: what it says."),
            ),
            (
                "channel",
                false,
                described(
                    text(Text::line(PLACE_CHARS_MAX)),
                    "Where it goes: a phone number, an address, a Slack channel, as the configuration's channel has it; the \
                     configuration's `destination` without.",
                ),
            ),
            (
                "payload",
                false,
                json!({"type": "object", "description": "The template's variables."}),
            ),
            ("tenant", false, tenant()),
            ("locale", false, locale_schema()),
            (
                "from",
                false,
                described(
                    text(Text::line(SENDER_CHARS_MAX)),
                    "A sender that the configuration allows.",
                ),
            ),
            (
                "threadTs",
                false,
                json!({"type": "string", "pattern": r"^[0-9]+\.[0-9]+$", "description": "On Slack: the message that this one answers."}),
            ),
            ("attachments", false, self.files()),
            ("metadata", false, metadata()),
            ("priority", false, priority()),
            ("eventId", false, name(EVENT_ID_MARKS, EVENT_ID_CHARS_MAX)),
            ("orderingKey", false, text(Text::line(ORDERING_KEY_CHARS_MAX))),
            ("expiresAt", false, time()),
            ("ttl", false, ttl),
            ("policy", false, policy()),
        ]);
        let given = json!({"type": "string"});
        message["not"] = none_of(vec![both(
            ("ttl", json!({"type": "integer"})),
            ("expiresAt", given),
        )]);
        message
    }

    fn files(&self) -> Json {
        let email = bound(Payload::schema(Channel::Email), self.settings);
        described(
            email["properties"]["attachments"].clone(),
            "Files that go with it; only by a configuration of the channel `email`.",
        )
    }

    fn request(&self) -> Operation {
        let operation = Operation::new(
            Method::POST,
            "/messages/request",
            "requestMessage",
            TAG,
            "Send a message made of a template",
        )
        .says("It is rendered and checked here, becomes an event, and is taken as any event is.")
        .body(component("MessageRequest"), example());
        taken(operation, "Message request accepted")
    }

    fn urgent(&self) -> Operation {
        let operation = Operation::new(
            Method::POST,
            "/messages/urgent",
            "requestUrgentMessage",
            TAG,
            "Send a message by the critical lanes",
        )
        .body(component("MessageRequest"), example());
        taken(operation, "Urgent message request accepted")
    }

    fn schedule(&self) -> Operation {
        let body = object([
            ("request", true, component("MessageRequest")),
            ("scheduledAt", true, described(time(), "When it is to go out.")),
        ]);
        let operation = Operation::new(
            Method::POST,
            "/messages/schedule",
            "scheduleMessage",
            TAG,
            "Send a message at a time",
        )
        .body(body, json!({"request": example(), "scheduledAt": self.soon}));
        taken(operation, "Message scheduled")
    }

    fn bulk(&self) -> Operation {
        let most = self.settings.bulk_items_max;
        let entries = || json!({"type": "array", "items": component("MessageEntry")});
        let taken = |index: u64| {
            json!({
                "index": index, "code": 201, "correlationId": format!("checkout-1.{index}"), "eventId": format!("e-{index}"),
                "status": "accepted", "message": "Message request accepted"
            })
        };
        let refused = |code: u64| {
            json!({
                "index": 0, "code": code, "correlationId": "checkout-1.0", "status": "refused",
                "message": "why it is refused"
            })
        };
        let mut operation = Operation::new(
            Method::POST,
            "/messages/request/bulk",
            "requestMessages",
            TAG,
            "Send many messages made of templates",
        )
        .says("Each is answered for itself, in the order of the request.")
        .shared(HEADER)
        .body(
            list(component("MessageRequest"), 1, most),
            json!([example(), example()]),
        )
        .answer(
            StatusCode::CREATED,
            Answer::json("All are durable.", entries(), json!([taken(0), taken(1)])),
        )
        .answer(
            StatusCode::MULTI_STATUS,
            Answer::json("Some are durable.", entries(), json!([refused(422), taken(1)])),
        )
        .refuses(
            StatusCode::BAD_REQUEST,
            "body",
            "has 0 messages",
            &format!("1 to {most} messages"),
        );
        for status in NONE_TAKEN {
            let words = "None is durable: the status is what the first was refused with.";
            let code = u64::from(status.as_u16());
            operation = operation.answer(status, Answer::json(words, entries(), json!([refused(code)])));
        }
        repeated(operation)
    }
}

fn older_id(path: &str) -> &'static str {
    match path.rsplit('/').next() {
        Some("request") => "requestMessageAsBefore",
        Some("urgent") => "requestUrgentMessageAsBefore",
        Some("schedule") => "scheduleMessageAsBefore",
        _ => "requestMessagesAsBefore",
    }
}

/// One message that is taken, and what may be wrong with it.
fn taken(operation: Operation, message: &str) -> Operation {
    let example = json!({
        "correlationId": "checkout-1", "eventId": "0199-1", "status": "accepted", "message": message
    });
    let operation = operation
        .shared(HEADER)
        .answer(
            StatusCode::CREATED,
            Answer::json("The message is durable.", component("MessageAccepted"), example)
                .with("Idempotency-Replayed"),
        )
        .refuses(
            StatusCode::BAD_REQUEST,
            "configCode",
            "is missing",
            &format!("one line of text, 1 to {CODE_CHARS_MAX} characters"),
        )
        .refuses(
            StatusCode::FORBIDDEN,
            "configCode",
            "these credentials may not send by this configuration",
            "order-sms",
        )
        .refuses(
            StatusCode::UNPROCESSABLE_ENTITY,
            "templateCode",
            "\"hello\" is not defined",
            "a code that GET /templates lists",
        )
        .refuses(
            StatusCode::UNPROCESSABLE_ENTITY,
            "payload.name",
            "is missing",
            "a value: the template's text needs it",
        );
    repeated(operation)
}
