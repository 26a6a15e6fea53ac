//! What the document says of operations that are made for it.

use axum::http::{Method, StatusCode};
use posthaste_event::schema;
use serde_json::{Value as Json, json};

use super::*;

fn document_of(operation: Operation, is_guarded: bool) -> Json {
    document(&Api::new().operation(operation), is_guarded)
}

#[test]
fn the_role_and_what_credentials_can_be_refused_with_come_from_the_table() {
    let post = || Operation::new(Method::POST, "/event", "postEvent", "Events", "Hand in an event");
    let guarded = document_of(post().body(schema::any_text(), json!("x")), true);
    let operation = &guarded["paths"]["/event"]["post"];
    assert_eq!(
        operation["security"],
        json!([{"bearer": ["send"]}, {"apiKey": ["send"]}])
    );
    for status in ["400", "401", "403", "408", "413", "415", "429", "500", "503"] {
        let answer = &operation["responses"][status]["content"]["application/problem+json"];
        assert_eq!(
            answer["schema"]["$ref"], "#/components/schemas/Problem",
            "{status}: {answer}"
        );
        let example = &answer["examples"]["example1"]["value"];
        assert_eq!(example["status"].to_string(), status);
    }
    let open = document_of(post(), false);
    assert_eq!(open["paths"]["/event"]["post"]["security"], json!([]));
    assert_eq!(open["components"]["securitySchemes"], Json::Null);
    let health = document(&own(), true);
    assert_eq!(health["paths"]["/health"]["get"]["security"], json!([]));
    assert_eq!(health["paths"]["/health"]["get"]["responses"]["401"], Json::Null);
}

#[test]
fn several_answers_of_one_status_are_all_told() {
    let answer = |name: &str| Answer::json(name, schema::component(name), json!({name: 1}));
    let operation = Operation::new(Method::GET, "/events", "a", "b", "c")
        .answer(StatusCode::OK, answer("One"))
        .answer(StatusCode::OK, answer("Two"));
    let told = document_of(operation, false);
    let told = &told["paths"]["/events"]["get"]["responses"]["200"];
    assert_eq!(told["description"], "One\n\nTwo");
    let content = &told["content"]["application/json"];
    assert_eq!(content["schema"]["anyOf"].as_array().map(Vec::len), Some(2));
    assert_eq!(content["examples"].as_object().map(serde_json::Map::len), Some(2));
}

#[test]
fn a_time_for_examples_lies_ahead_and_within_a_year() {
    for (now, expected) in [
        ("2026-11-22T02:00:00Z", "2027-01-01T09:00:00Z"),
        ("2026-12-05T02:00:00Z", "2027-07-01T09:00:00Z"),
        ("2027-02-01T00:00:00Z", "2027-07-01T09:00:00Z"),
        ("2027-06-15T00:00:00Z", "2028-01-01T09:00:00Z"),
    ] {
        let now = posthaste_event::time::read("now", now, 36_600, 0).unwrap();
        assert_eq!(soon(now), expected);
    }
}
