//! `/suppressions`.

use axum::http::{Method, StatusCode};
use posthaste_definitions::suppressions::{Id, RECIPIENT_BYTES_MAX, Reason};
use posthaste_event::{
    Channel,
    fields::Text,
    schema::{
        answer, any_text, channel, component, described, list, object, one_of, text, time, written_time,
    },
};
use posthaste_service::{
    api::{Answer, Api, Operation},
    auth::TENANT_DEFAULT,
};
use serde_json::{Value as Json, json};

use super::{Scope, event::tenant};
use crate::suppressions::{ITEMS_MAX, LIMIT_DEFAULT, LIMIT_MAX, SOURCE_CHARS_MAX, shown_id};

const TAG: &str = "Suppressions";
const RECIPIENT: &str = "ann@example.com";

/// That of the example of `PUT`.
fn id() -> String {
    let id = Id::of(TENANT_DEFAULT, Channel::Email, RECIPIENT);
    shown_id(Channel::Email, id)
}

fn reason() -> Json {
    one_of(Reason::ALL.map(Reason::as_str))
}

/// Which form it has depends on the channel, and the other fields of the channel's payload tell it.
fn recipient() -> Json {
    json!({
        "type": "string", "format": "recipient", "minLength": 1, "maxLength": RECIPIENT_BYTES_MAX,
        "description": "A phone number, an address, a token, a channel or a name, as the channel has it.",
    })
}

fn wanted() -> Json {
    object([
        ("channel", true, channel()),
        ("recipient", true, recipient()),
        ("reason", true, described(reason(), "Why nothing is sent there.")),
        (
            "until",
            false,
            described(time(), "When it is over; without, it is for good."),
        ),
        (
            "source",
            false,
            described(
                text(Text::line(SOURCE_CHARS_MAX)),
                "Where it was heard, in your words.",
            ),
        ),
        ("tenant", false, tenant()),
    ])
}

fn item() -> Json {
    answer([
        ("id", true, any_text()),
        ("channel", true, channel()),
        (
            "recipient",
            true,
            described(any_text(), "As little of it as is kept: `a***@example.com`."),
        ),
        ("reason", true, reason()),
        ("source", false, any_text()),
        ("until", false, written_time()),
        ("by", true, any_text()),
        ("at", true, written_time()),
    ])
}

fn example() -> Json {
    json!({
        "id": id(), "channel": "email", "recipient": "a***@example.com", "reason": "unsubscribed", "source": "preference page",
        "by": "shop", "at": "2026-11-20T12:00:00.000Z"
    })
}

fn items() -> Json {
    json!({"type": "array", "items": component("Suppression")})
}

fn done(words: &str, message: &'static str) -> Answer {
    let schema = answer([
        ("message", true, one_of([message])),
        ("suppressions", true, items()),
    ]);
    Answer::json(
        words,
        schema,
        json!({"message": message, "suppressions": [example()]}),
    )
}

fn nobody(operation: Operation) -> Operation {
    operation.problem(StatusCode::NOT_FOUND, "nobody is suppressed by this name")
}

fn put() -> Operation {
    let one = json!({
        "channel": "email", "recipient": RECIPIENT, "reason": "unsubscribed", "source": "preference page"
    });
    let several = json!([one, {"channel": "sms", "recipient": "+12025550100", "reason": "manual"}]);
    let schema = json!({"oneOf": [component("SuppressionWanted"), list(component("SuppressionWanted"), 1, ITEMS_MAX)]});
    Operation::new(Method::PUT, "/suppressions", "suppress", TAG, "Send nothing more to these recipients")
        .says(format!("One, or up to {ITEMS_MAX}: all or none."))
        .body_examples(schema, [("one", one), ("several", several)])
        .answer(StatusCode::OK, done("Nothing is sent there from now on.", "Recipients Suppressed"))
        .refuses(
            StatusCode::BAD_REQUEST,
            "recipient",
            "can be no recipient of this channel",
            "an address such as a@example.com",
        )
        .problem(
            StatusCode::INSUFFICIENT_STORAGE,
            "there are too many suppressions; nothing was written. definitions.suppressions_max says how many may be",
        )
        .unavailable("the broker is busy; nothing was written")
}

fn get() -> Operation {
    let limit = json!({"type": "integer", "minimum": 1, "maximum": LIMIT_MAX, "default": LIMIT_DEFAULT});
    let page = answer([
        ("suppressions", true, items()),
        (
            "next",
            false,
            described(any_text(), "For the next page, if there is one: its `cursor`."),
        ),
    ]);
    Operation::new(
        Method::GET,
        "/suppressions",
        "listSuppressions",
        TAG,
        "Who is suppressed",
    )
    .says("With `recipient`, which needs `channel`, that one alone; `limit` and `cursor` are for lists.")
    .shared("tenant")
    .query(
        "channel",
        "By which way.",
        one_of(Channel::ALL.map(Channel::as_str)),
    )
    .query("recipient", "Whom.", recipient())
    .query("limit", "How many.", limit)
    .query(
        "cursor",
        "`next` of the page before.",
        json!({"type": "string", "format": "suppression-id"}),
    )
    .answer(
        StatusCode::OK,
        Answer::json("A page.", page, json!({"suppressions": [example()]})),
    )
    .refuses(
        StatusCode::BAD_REQUEST,
        "channel",
        "is missing",
        "sms, email, push",
    )
    .unavailable("the suppressions are not read yet")
}

fn delete() -> Operation {
    let query = |name: &str, words: &str, schema: Json, example: &str| {
        json!({
            "name": name, "in": "query", "required": true, "description": words, "schema": schema, "example": example
        })
    };
    let operation = Operation::new(
        Method::DELETE,
        "/suppressions",
        "release",
        TAG,
        "Send to a recipient again",
    )
    .shared("tenant")
    .given(query(
        "channel",
        "By which way.",
        one_of(Channel::ALL.map(Channel::as_str)),
        "email",
    ))
    .given(query("recipient", "Whom.", recipient(), RECIPIENT))
    .answer(
        StatusCode::OK,
        done("Messages go there again.", "Recipient Released"),
    )
    .refuses(
        StatusCode::BAD_REQUEST,
        "recipient",
        "is missing",
        "an address such as a@example.com",
    )
    .unavailable("the suppressions are not read yet");
    nobody(operation)
}

fn by_id(operation: Operation) -> Operation {
    let operation = operation
        .part("id", "As lists show it.", any_text(), json!(id()))
        .shared("tenant")
        .unavailable("the suppressions are not read yet");
    nobody(operation)
}

impl Scope<'_> {
    #[expect(clippy::unused_self, reason = "one of the describers")]
    pub(super) fn suppressions(&self) -> Api {
        let path = "/suppressions/{id}";
        let one = Operation::new(Method::GET, path, "getSuppression", TAG, "One, by its id").answer(
            StatusCode::OK,
            Answer::json("It is in force.", component("Suppression"), example()),
        );
        let release = Operation::new(
            Method::DELETE,
            path,
            "releaseById",
            TAG,
            "Send to a recipient again, by the id",
        )
        .answer(
            StatusCode::OK,
            done("Messages go there again.", "Recipient Released"),
        );
        let api = Api::new()
            .schema("SuppressionWanted", wanted())
            .schema("Suppression", item());
        [put(), get(), by_id(one), delete(), by_id(release)]
            .into_iter()
            .fold(api, Api::operation)
    }
}
