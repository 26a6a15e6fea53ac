//! The paths that every service has.

use axum::http::{Method, StatusCode};
use posthaste_event::schema::{answer, any_text, list, one_of};
use serde_json::{Value as Json, json};

use super::{Answer, Api, Operation, document::VERSION};

const TAG: &str = "Service";

fn get(path: &str, id: &'static str, summary: &'static str) -> Operation {
    Operation::new(Method::GET, path, id, TAG, summary)
}

fn health() -> Operation {
    let schema = answer([
        ("status", true, one_of(["ok"])),
        ("instance", true, any_text()),
        ("version", true, any_text()),
    ]);
    let example = json!({"status": "ok", "instance": "here-1", "version": "0.1.0"});
    get("/health", "getHealth", "Whether the process lives")
        .answer(StatusCode::OK, Answer::json("It does.", schema, example))
}

fn ready() -> Operation {
    let missing = || {
        list(
            answer([("name", true, any_text()), ("reason", true, any_text())]),
            0,
            1_000,
        )
    };
    let lacks = |status: &str, words: &str| {
        let schema = answer([("status", true, one_of([status])), ("missing", true, missing())]);
        let store = json!([{"name": "store", "reason": "no MongoDB answers at 127.0.0.1:27017"}]);
        Answer::json(words, schema, json!({"status": status, "missing": store}))
    };
    let well = answer([("status", true, one_of(["ready"]))]);
    get(
        "/ready",
        "getReadiness",
        "Whether the service can work, and what it waits for",
    )
    .answer(
        StatusCode::OK,
        Answer::json("It can.", well, json!({"status": "ready"})),
    )
    .answer(
        StatusCode::OK,
        lacks("degraded", "It can, and does without something."),
    )
    .answer(StatusCode::SERVICE_UNAVAILABLE, lacks("not ready", "It cannot."))
}

fn described() -> [Operation; 2] {
    let document = answer([
        ("openapi", true, one_of([VERSION])),
        ("paths", true, json!({"type": "object"})),
    ]);
    let example: Json = json!({"openapi": VERSION, "paths": {}});
    let page = Answer::json("A page.", any_text(), json!("<!doctype html>")).of_type("text/html");
    [
        get("/openapi.json", "getOpenApi", "This document")
            .answer(StatusCode::OK, Answer::json("OpenAPI 3.1.", document, example)),
        get("/docs", "getDocs", "This document as a page, to read and to try").answer(StatusCode::OK, page),
    ]
}

/// The paths that every service has, whatever else it does.
pub fn own() -> Api {
    let metrics = Answer::json("In the OpenMetrics text format.", any_text(), json!("# EOF\n"))
        .of_type("application/openmetrics-text");
    let metrics = get("/metrics", "getMetrics", "Metrics, for Prometheus").answer(StatusCode::OK, metrics);
    [health(), ready(), metrics]
        .into_iter()
        .chain(described())
        .fold(Api::new(), Api::operation)
}
