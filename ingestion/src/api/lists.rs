//! `/lists`.

use axum::http::{Method, StatusCode};
use posthaste_event::schema::{answer, any_text, component, count, described, written_time};
use posthaste_service::api::{Answer, Api, Operation};
use serde_json::{Value as Json, json};

use super::Scope;
use crate::{
    broadcasts::{LISTS_DEFAULT, LISTS_MAX},
    templates::code_schema,
};

const TAG: &str = "Lists";
const LINES: &str = "application/x-ndjson";
const CODE: &str = "newsletter";

fn list() -> Json {
    answer([
        ("code", true, any_text()),
        ("tenant", true, any_text()),
        ("recipients", true, count()),
        ("updatedAt", true, written_time()),
        (
            "updatedBy",
            true,
            described(any_text(), "Whose credentials; without any, the instance."),
        ),
    ])
}

fn example() -> Json {
    json!({
        "code": CODE, "tenant": "default", "recipients": 2, "updatedAt": "2026-11-20T12:00:00.000Z", "updatedBy": "shop"
    })
}

fn shown(words: &str) -> Answer {
    Answer::json(words, component("List"), example())
}

impl Scope<'_> {
    pub(super) fn lists(&self) -> Api {
        let of_code = |operation: Operation| {
            operation
                .part("code", "Its code.", code_schema(), json!(CODE))
                .shared("tenant")
        };
        let unknown = |operation: Operation| {
            let detail = format!("there is no list {CODE:?} of this tenant");
            of_code(operation).problem(StatusCode::NOT_FOUND, &detail)
        };
        let path = "/lists/{code}";
        let one = Operation::new(Method::GET, path, "getList", TAG, "How many are on a list")
            .answer(StatusCode::OK, shown("It is there."));
        let delete = Operation::new(Method::DELETE, path, "deleteList", TAG, "Forget a list")
            .answer(StatusCode::NO_CONTENT, Answer::empty("It is gone."));
        [of_code(put(path)), listed(), unknown(one), unknown(delete)]
            .into_iter()
            .map(|operation| {
                operation.unavailable("lists are kept in the status store, which does not answer")
            })
            .fold(Api::new().schema("List", list()), Api::operation)
    }
}

fn put(path: &'static str) -> Operation {
    let to = |number: &str| json!({"payload": {"phoneNumber": number}});
    let lines = format!("{}\n{}\n", to("+12025550100"), to("+12025550101"));
    let mut body = described(any_text(), "One recipient a line.");
    body["format"] = json!("recipient-lines");
    Operation::new(Method::PUT, path, "putList", TAG, "Keep recipients for broadcasts")
        .says(format!(
            "A recipient a line ({LINES}), as `POST /broadcasts` takes them. The list is there, or replaces the one before, when all of it is \
             durable. The body may be compressed (`Content-Encoding`: gzip or zstd)."
        ))
        .takes(
            LINES,
            true,
            body,
            json!({"lines": {"value": lines}}),
        )
        .answer(StatusCode::CREATED, shown("It is new."))
        .answer(StatusCode::OK, shown("It replaces the one before."))
        .refuses(
            StatusCode::BAD_REQUEST,
            "recipients[0].payload",
            "must be an object, not text",
            "a JSON object",
        )
        .problem(
            StatusCode::INSUFFICIENT_STORAGE,
            "the tenant has 1000 lists, which is all that broadcast.lists_max allows",
        )
}

fn listed() -> Operation {
    let limit = json!({"type": "integer", "minimum": 1, "maximum": LISTS_MAX, "default": LISTS_DEFAULT});
    let page = answer([
        ("tenant", true, any_text()),
        (
            "items",
            true,
            json!({"type": "array", "items": component("List")}),
        ),
        (
            "next",
            false,
            described(any_text(), "For the next page, if there is one: its `after`."),
        ),
    ]);
    Operation::new(
        Method::GET,
        "/lists",
        "listLists",
        TAG,
        "Those of a tenant, by code",
    )
    .shared("tenant")
    .query("after", "`next` of the page before.", any_text())
    .query("limit", "How many.", limit)
    .answer(
        StatusCode::OK,
        Answer::json(
            "A page.",
            page,
            json!({"tenant": "default", "items": [example()]}),
        ),
    )
    .refuses(
        StatusCode::BAD_REQUEST,
        "limit",
        "is out of range",
        &format!("1 to {LISTS_MAX}"),
    )
}
