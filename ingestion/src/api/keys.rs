//! `/keys`.

use axum::http::{Method, StatusCode};
use posthaste_event::{
    Channel,
    fields::Text,
    schema::{
        answer, any_text, channel, component, described, list, object, one_of, text, time, written_time,
    },
};
use posthaste_service::{
    api::{Answer, Api, Operation},
    auth::{CONFIGS_MAX, Role},
};
use serde_json::{Value as Json, json};

use super::Scope;
use crate::{
    defining::{PAGE_DEFAULT, PAGE_MAX},
    keys::{DAYS_MAX, NAME_CHARS_MAX, OVERLAP_SECONDS, OVERLAP_SECONDS_MAX},
    templates::code_schema,
};

const TAG: &str = "API keys";
const ID: &str = "a3f9c1b7d042";

fn distinct(items: Json, most: usize) -> Json {
    let mut list = list(items, 1, most);
    list["uniqueItems"] = json!(true);
    list
}

fn roles() -> Json {
    distinct(one_of(Role::ALL.map(Role::as_str)), Role::ALL.len())
}

fn channels() -> Json {
    let words = "The channels that it may send on; without, all.";
    described(distinct(channel(), Channel::ALL.len()), words)
}

fn configs() -> Json {
    let words = "The codes of the configurations by which it may send (`configCode`), and by nothing else; without, it may send \
                 anything.";
    described(distinct(code_schema(), CONFIGS_MAX), words)
}

fn shown(secret: bool) -> Json {
    let words = "The whole key. It is shown this once, and kept nowhere.";
    let secret = secret.then(|| ("key", true, described(any_text(), words)));
    let former = json!({"type": "array", "items": written_time()});
    let fields = [
        ("id", true, any_text()),
        ("prefix", true, described(any_text(), "What the key begins with.")),
        ("tenant", true, any_text()),
        ("name", true, any_text()),
        ("roles", true, roles()),
        ("channels", false, channels()),
        ("configs", false, configs()),
        ("expiresAt", false, written_time()),
        ("createdAt", true, written_time()),
        (
            "createdBy",
            true,
            described(any_text(), "Whose credentials; without any, the instance."),
        ),
        ("updatedAt", true, written_time()),
        ("updatedBy", true, any_text()),
        (
            "formerUntil",
            false,
            described(former, "Until when secrets that were replaced are good, too."),
        ),
    ];
    answer(fields.into_iter().chain(secret))
}

fn example(secret: bool) -> Json {
    let mut example = json!({
        "id": ID, "prefix": format!("ph_{ID}_"), "tenant": "default", "name": "shop", "roles": ["send", "read"],
        "createdAt": "2026-11-20T12:00:00.000Z", "createdBy": "boss", "updatedAt": "2026-11-20T12:00:00.000Z", "updatedBy": "boss"
    });
    if secret {
        example["key"] = json!(format!("ph_{ID}_5iYxq0uVYc8mRUZ3sP2nJ7wQbX1tK4dE9hLgA6oMfNs"));
    }
    example
}

fn common(operation: Operation) -> Operation {
    operation
        .shared("tenant")
        .unavailable("what is defined is not read yet")
}

fn of_id(operation: Operation) -> Operation {
    common(operation)
        .part("id", "As lists show it.", any_text(), json!(ID))
        .problem(
            StatusCode::NOT_FOUND,
            &format!("there is no key {ID:?} of this tenant"),
        )
}

fn over_rights(operation: Operation) -> Operation {
    operation
        .refuses(
            StatusCode::FORBIDDEN,
            "channels",
            "these credentials are held to some channels, and so is what they give",
            "sms",
        )
        .refuses(
            StatusCode::FORBIDDEN,
            "configs",
            "these credentials are held to some configurations, and so is what they give",
            "order-sms",
        )
}

impl Scope<'_> {
    pub(super) fn keys(&self) -> Api {
        let api = Api::new()
            .schema("Key", shown(false))
            .schema("KeyMade", shown(true));
        let api = api
            .operation(over_rights(common(make())))
            .operation(common(listed()));
        let one = Operation::new(
            Method::GET,
            "/keys/{id}",
            "getKey",
            TAG,
            "One, without its secret",
        )
        .answer(
            StatusCode::OK,
            Answer::json("It is there.", component("Key"), example(false)),
        );
        let revoke = Operation::new(Method::DELETE, "/keys/{id}", "revokeKey", TAG, "Revoke a key")
            .says("It is refused where this is asked when it is answered, everywhere a moment later. What was made with it is the tenant's: schedules, broadcasts and scheduled events go on until they are deleted or cancelled.")
            .answer(StatusCode::NO_CONTENT, Answer::empty("It is good no more."));
        [one, over_rights(rotate()), revoke]
            .into_iter()
            .map(of_id)
            .fold(api, Api::operation)
    }
}

fn made(words: &str) -> Answer {
    Answer::json(words, component("KeyMade"), example(true))
}

fn make() -> Operation {
    let in_days = format!("When it is over, at most {DAYS_MAX} days ahead; without, never.");
    let wanted = object([
        ("name", true, text(Text::line(NAME_CHARS_MAX))),
        ("roles", true, roles()),
        ("channels", false, channels()),
        ("configs", false, configs()),
        ("expiresAt", false, described(time(), &in_days)),
    ]);
    Operation::new(Method::POST, "/keys", "makeKey", TAG, "Make a key")
        .says("For one tenant, with no more than who asks has. In force where it was made when it is answered, everywhere a moment later.")
        .body(wanted, json!({"name": "shop", "roles": ["send", "read"]}))
        .answer(StatusCode::CREATED, made("It is good."))
        .refuses(StatusCode::BAD_REQUEST, "roles[0]", "\"root\" is none", "send, read, read-payload, operate, admin")
        .problem(
            StatusCode::INSUFFICIENT_STORAGE,
            "the tenant has 100 api-keys, which is all that ingestion.api_keys_max allows",
        )
}

fn listed() -> Operation {
    let page = answer([
        ("tenant", true, any_text()),
        ("items", true, json!({"type": "array", "items": component("Key")})),
        (
            "next",
            false,
            described(any_text(), "For the next page, if there is one: its `after`."),
        ),
    ]);
    let limit = json!({"type": "integer", "minimum": 1, "maximum": PAGE_MAX, "default": PAGE_DEFAULT});
    let example = json!({"tenant": "default", "items": [example(false)]});
    Operation::new(Method::GET, "/keys", "listKeys", TAG, "Those of a tenant, by id")
        .says("Those that were made here; keys of the configuration are not among them.")
        .query("after", "`next` of the page before.", any_text())
        .query("limit", "How many.", limit)
        .answer(StatusCode::OK, Answer::json("A page.", page, example))
        .refuses(
            StatusCode::BAD_REQUEST,
            "limit",
            "is out of range",
            &format!("1 to {PAGE_MAX}"),
        )
}

fn rotate() -> Operation {
    let seconds = json!({
        "type": "integer", "minimum": 0, "maximum": OVERLAP_SECONDS_MAX, "default": OVERLAP_SECONDS,
        "description": "For how long what was good before is good still; 0 ends it at once.",
    });
    let body = object([("overlapSeconds", false, seconds)]);
    Operation::new(
        Method::POST,
        "/keys/{id}/rotate",
        "rotateKey",
        TAG,
        "Another secret for a key",
    )
    .optional_body(body, json!({"overlapSeconds": 3_600}))
    .answer(
        StatusCode::OK,
        made("The new one is good, and what was before for some time."),
    )
    .refuses(
        StatusCode::BAD_REQUEST,
        "overlapSeconds",
        "is no whole number of seconds within bounds",
        &format!("0 to {OVERLAP_SECONDS_MAX}"),
    )
    .problem(StatusCode::CONFLICT, "the key has expired; make another instead")
    .problem(
        StatusCode::INSUFFICIENT_STORAGE,
        "nothing was written: definitions may take 134217728 bytes (definitions.bytes_max)",
    )
}
