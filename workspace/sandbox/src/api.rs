//! What the sandbox says of the paths at which one looks at it. The stand-ins for providers' APIs are described by those.

use axum::http::{Method, StatusCode};
use posthaste_event::schema::{answer, any_text, boolean, component, count, described, list, object, one_of};
use posthaste_service::api::{Answer, Api, Operation};
use serde_json::{Value as Json, json};

use crate::{
    apis,
    behaviour::{Action, DELAY_MS_MAX, RULES_MAX},
    inspect::{LIMIT_DEFAULT, LIMIT_MAX, SENDS_MAX},
};

const TAG: &str = "Sandbox";

fn action() -> Json {
    one_of(Action::ALL.map(|(_, name)| name))
}

fn provider() -> Json {
    one_of(apis::ALL.iter().map(|api| api.name))
}

fn millis() -> Json {
    described(json!({"type": "integer"}), "Milliseconds since the Unix epoch.")
}

fn limit(most: usize) -> Json {
    json!({"type": "integer", "minimum": 1, "maximum": most, "default": LIMIT_DEFAULT})
}

fn rule() -> Json {
    object([
        ("action", true, action()),
        ("provider", false, provider()),
        (
            "recipient",
            false,
            described(
                any_text(),
                "Only this recipient, a number with or without its `+`; `*` at the end stands for anything.",
            ),
        ),
        (
            "percent",
            false,
            described(
                json!({"type": "number", "minimum": 0, "maximum": 100}),
                "Of how many calls in a hundred.",
            ),
        ),
        (
            "times",
            false,
            described(
                json!({"type": "integer", "minimum": 0, "maximum": u64::MAX}),
                "Only so many calls.",
            ),
        ),
        (
            "delayMs",
            false,
            described(
                json!({"type": "integer", "minimum": 0, "maximum": DELAY_MS_MAX}),
                "How late it is answered.",
            ),
        ),
        (
            "retryAfterSeconds",
            false,
            described(
                json!({"type": "integer", "minimum": 0, "maximum": u32::MAX}),
                "What `rate-limit` asks for.",
            ),
        ),
    ])
}

fn rules_shown() -> Answer {
    let shown = answer([("action", true, action()), ("applied", true, count())]);
    let schema = answer([("rules", true, json!({"type": "array", "items": shown}))]);
    let example =
        json!({"rules": [{"action": "unavailable", "provider": "twilio", "times": 2, "applied": 0}]});
    Answer::json("The rules, and how often each was gone by.", schema, example)
}

fn messages() -> [Operation; 2] {
    let path = "/sandbox/messages";
    let message = answer([
        ("provider", true, provider()),
        ("at", true, millis()),
        ("recipient", true, any_text()),
        ("event", false, any_text()),
        ("key", false, any_text()),
        ("action", true, any_text()),
        ("messageId", false, any_text()),
        (
            "attachments",
            false,
            described(
                json!({"type": "array", "items": answer([("filename", true, any_text()), ("bytes", true, count())])}),
                "The files of an email, where the interface tells them apart.",
            ),
        ),
        ("body", true, any_text()),
    ]);
    let page = answer([("messages", true, json!({"type": "array", "items": message}))]);
    let example = json!({
        "messages": [{
            "provider": "twilio", "at": 1_790_000_000_000_i64, "recipient": "+12025550100", "action": "accept",
            "body": "To=%2B12025550100"
        }]
    });
    [
        Operation::new(
            Method::GET,
            path,
            "listSandboxMessages",
            TAG,
            "What the sandbox was given, the newest first",
        )
        .query("provider", "By this interface.", any_text())
        .query(
            "recipient",
            "For this recipient, a number with or without its `+`.",
            any_text(),
        )
        .query("event", "Of this event.", any_text())
        .query("limit", "How many.", limit(LIMIT_MAX))
        .answer(StatusCode::OK, Answer::json("They may be none.", page, example))
        .refuses(
            StatusCode::BAD_REQUEST,
            "limit",
            "is no such number",
            &format!("1 to {LIMIT_MAX}"),
        ),
        Operation::new(
            Method::DELETE,
            path,
            "forgetSandboxMessages",
            TAG,
            "Forget all that the sandbox was given",
        )
        .answer(StatusCode::NO_CONTENT, Answer::empty("It is forgotten.")),
    ]
}

fn counts() -> Operation {
    let sums = || {
        answer([
            ("total", true, count()),
            ("distinct", true, count()),
            ("repeats", true, count()),
            ("exact", true, boolean()),
            (
                "byTimes",
                true,
                json!({"type": "object", "additionalProperties": count()}),
            ),
        ])
    };
    let provider = answer([
        ("calls", true, count()),
        ("refused", true, count()),
        (
            "actions",
            true,
            json!({"type": "object", "additionalProperties": count()}),
        ),
        ("keys", true, sums()),
    ]);
    let summary = answer([
        ("calls", true, count()),
        ("events", true, sums()),
        (
            "repeatedEvents",
            true,
            json!({"type": "array", "items": any_text()}),
        ),
        (
            "providers",
            true,
            json!({"type": "object", "additionalProperties": provider}),
        ),
    ]);
    let of_event = answer([
        ("event", true, any_text()),
        ("times", true, json!({"type": ["integer", "null"], "minimum": 0})),
    ]);
    let none = json!({"total": 0, "distinct": 0, "repeats": 0, "exact": true, "byTimes": {}});
    Operation::new(
        Method::GET,
        "/sandbox/counts",
        "getSandboxCounts",
        TAG,
        "How often what came",
    )
    .query("event", "Only how often this event came.", any_text())
    .answer(
        StatusCode::OK,
        Answer::json(
            "Of all.",
            summary,
            json!({"calls": 0, "events": none, "repeatedEvents": [], "providers": {}}),
        ),
    )
    .answer(
        StatusCode::OK,
        Answer::json(
            "Of one event.",
            of_event,
            json!({"event": "order-4711", "times": 1}),
        ),
    )
    .refuses(StatusCode::BAD_REQUEST, "events", "unknown parameter", "event")
}

fn sends() -> Operation {
    let line = answer([
        ("at", true, millis()),
        ("provider", true, provider()),
        ("action", true, action()),
        (
            "taken",
            true,
            described(boolean(), "Whether the message was taken, whatever was answered."),
        ),
        ("event", false, any_text()),
        ("key", false, any_text()),
    ]);
    let schema = answer([
        (
            "memory",
            true,
            described(any_text(), "Another one than before: numbers began again."),
        ),
        ("now", true, millis()),
        ("first", true, described(count(), "The oldest that is kept.")),
        ("next", true, described(count(), "What to ask for next.")),
        ("sends", true, json!({"type": "array", "items": line})),
    ]);
    let example = json!({"memory": "5f", "now": 1_790_000_000_000_i64, "first": 0, "next": 0, "sends": []});
    Operation::new(
        Method::GET,
        "/sandbox/sends",
        "listSandboxSends",
        TAG,
        "Every call, in order",
    )
    .query(
        "from",
        "`next` of the answer before, or 0.",
        json!({"type": "integer", "minimum": 0, "maximum": u64::MAX}),
    )
    .query("prefix", "Of events whose ids begin so.", any_text())
    .query("limit", "How many.", limit(SENDS_MAX))
    .answer(StatusCode::OK, Answer::json("They may be none.", schema, example))
    .refuses(
        StatusCode::BAD_REQUEST,
        "limit",
        "is no such number",
        &format!("1 to {SENDS_MAX}"),
    )
}

fn behaviour() -> [Operation; 3] {
    let path = "/sandbox/behaviour";
    let body = json!({
        "type": "object", "properties": {"rules": list(component("SandboxRule"), 0, RULES_MAX)}, "required": ["rules"],
        "additionalProperties": false,
    });
    [
        Operation::new(
            Method::PUT,
            path,
            "putSandboxBehaviour",
            TAG,
            "Tell the sandbox how to behave",
        )
        .says("The first rule that fits a call is gone by.")
        .body(
            body,
            json!({"rules": [{"action": "unavailable", "provider": "twilio", "times": 2}]}),
        )
        .answer(StatusCode::OK, rules_shown())
        .refuses(
            StatusCode::UNPROCESSABLE_ENTITY,
            "rules[0].action",
            "is not known",
            "accept, slow, hang",
        ),
        Operation::new(
            Method::GET,
            path,
            "getSandboxBehaviour",
            TAG,
            "How the sandbox behaves",
        )
        .answer(StatusCode::OK, rules_shown()),
        Operation::new(
            Method::DELETE,
            path,
            "resetSandboxBehaviour",
            TAG,
            "Let the sandbox behave well",
        )
        .answer(
            StatusCode::NO_CONTENT,
            Answer::empty("It takes everything from now on."),
        ),
    ]
}

/// The paths.
pub fn api() -> Api {
    let api = Api::new().schema("SandboxRule", rule());
    messages()
        .into_iter()
        .chain([counts(), sends()])
        .chain(behaviour())
        .fold(api, Api::operation)
}
