//! `/encryption/keys`.

use axum::http::{Method, StatusCode};
use posthaste_event::schema::{answer, any_text, boolean, component, count, described};
use posthaste_service::api::{Answer, Api, Operation};
use serde_json::{Value as Json, json};

fn found_schema() -> Json {
    let keys = json!({"type": "object", "additionalProperties": count()});
    answer([
        ("lookedAt", true, described(count(), "Sealed or not.")),
        (
            "isComplete",
            true,
            described(boolean(), "Whether these are all that there are."),
        ),
        ("problem", false, described(any_text(), "Why they are not.")),
        (
            "keys",
            true,
            described(keys, "How many each key seals, by its id."),
        ),
    ])
}

fn in_use() -> Json {
    let texts = || json!({"type": "array", "items": any_text()});
    let found = |words: &str| described(component("SealedFound"), words);
    answer([
        ("active", false, described(any_text(), "The key that seals.")),
        ("known", true, described(texts(), "The keys that are here.")),
        (
            "schedules",
            true,
            found("Put again, one is sealed by the active key."),
        ),
        (
            "listPages",
            true,
            found("Stored lists are sealed anew within two hours."),
        ),
        (
            "waiting",
            true,
            found("Events that are not final, as far as the store knows."),
        ),
        (
            "deadLettered",
            true,
            found("Events that may be replayed, as far as the store knows."),
        ),
        (
            "notLookedAt",
            true,
            described(texts(), "What may need a key, too."),
        ),
    ])
}

/// What is said of what the keys are needed for.
pub(super) fn encryption() -> Api {
    let old = "2026-10-01-5f0c22";
    let found = |looked: u64, keys: Json| json!({"lookedAt": looked, "isComplete": true, "keys": keys});
    let example = json!({
        "active": "2026-11-20-a91b07", "known": [old, "2026-11-20-a91b07"],
        "schedules": found(2, json!({})), "listPages": found(4, json!({})), "waiting": found(120, json!({old: 3})),
        "deadLettered": found(1, json!({old: 1})), "notLookedAt": ["what was sent"]
    });
    let operation = Operation::new(
        Method::GET,
        "/encryption/keys",
        "getEncryptionKeys",
        "Encryption",
        "What the keys of sealed payloads are needed for",
    )
    .says("As far as that can be looked at: it never says that a key can go. It shows no key.")
    .answer(
        StatusCode::OK,
        Answer::json("What was found.", component("EncryptionKeys"), example),
    )
    .unavailable("somebody else is looking, or what is defined is not read yet");
    Api::new()
        .schema("SealedFound", found_schema())
        .schema("EncryptionKeys", in_use())
        .operation(operation)
}
