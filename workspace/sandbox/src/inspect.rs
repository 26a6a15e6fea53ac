//! Looking at the sandbox, and telling it how to behave.

use std::sync::Arc;

use axum::{
    Json,
    extract::{RawQuery, Request, State},
    http::{StatusCode, Uri},
};
use posthaste_event::FieldError;
use posthaste_service::{Problem, http::read_body};
use serde_json::{Value, json};

use crate::{apis, behaviour, received::Filter, sends, serve::Sandbox};

/// Messages shown unless asked for otherwise.
pub(crate) const LIMIT_DEFAULT: usize = 100;
/// Most messages shown at once.
pub(crate) const LIMIT_MAX: usize = 1_000;
/// Most calls shown at once; they are short.
pub(crate) const SENDS_MAX: usize = 10_000;

fn query(raw: Option<String>, known: &[&str]) -> Result<Vec<(String, String)>, Problem> {
    let raw = raw.unwrap_or_default();
    let mut pairs = Vec::new();
    for (name, value) in url::form_urlencoded::parse(raw.as_bytes()) {
        if !known.contains(&name.as_ref()) {
            return Err(wrong(&name, "unknown parameter", &known.join(", ")));
        }
        if !value.is_empty() {
            pairs.push((name.into_owned(), value.into_owned()));
        }
    }
    Ok(pairs)
}

fn wrong(field: &str, problem: &str, accepted: &str) -> Problem {
    Problem::fields(
        StatusCode::BAD_REQUEST,
        vec![FieldError::new(field, problem, accepted)],
    )
}

pub(crate) async fn messages(
    State(sandbox): State<Arc<Sandbox>>,
    RawQuery(raw): RawQuery,
) -> Result<Json<Value>, Problem> {
    let mut filter = Filter {
        limit: LIMIT_DEFAULT,
        ..Filter::default()
    };
    for (name, value) in query(raw, &["provider", "recipient", "event", "limit"])? {
        match name.as_str() {
            "provider" => filter.provider = Some(value),
            "recipient" => filter.recipient = Some(value),
            "event" => filter.event = Some(value),
            _ => filter.limit = limit_of(&value, LIMIT_MAX)?,
        }
    }
    Ok(Json(json!({ "messages": sandbox.state().ring.find(&filter) })))
}

pub(crate) async fn forget(State(sandbox): State<Arc<Sandbox>>) -> StatusCode {
    sandbox.forget();
    StatusCode::NO_CONTENT
}

pub(crate) async fn counts(
    State(sandbox): State<Arc<Sandbox>>,
    RawQuery(raw): RawQuery,
) -> Result<Json<Value>, Problem> {
    let state = sandbox.state();
    if let Some((_, event)) = query(raw, &["event"])?.pop() {
        let times = state.counts.times(&event);
        return Ok(Json(json!({ "event": event, "times": times })));
    }
    Ok(Json(json!(state.counts.summary())))
}

pub(crate) async fn sends(
    State(sandbox): State<Arc<Sandbox>>,
    RawQuery(raw): RawQuery,
) -> Result<Json<sends::Answer>, Problem> {
    let (mut from, mut prefix, mut limit) = (0, None, LIMIT_DEFAULT);
    for (name, value) in query(raw, &["from", "prefix", "limit"])? {
        match name.as_str() {
            "from" => {
                from = value
                    .parse()
                    .map_err(|_| wrong("from", "is no such number", "`next` of the answer before, or 0"))?;
            }
            "prefix" => prefix = Some(value),
            _ => limit = limit_of(&value, SENDS_MAX)?,
        }
    }
    let sends = &sandbox.state().sends;
    Ok(Json(sends.from(from, prefix.as_deref(), limit)))
}

fn limit_of(value: &str, max: usize) -> Result<usize, Problem> {
    let limit = value.parse().ok().filter(|limit| (1..=max).contains(limit));
    limit.ok_or_else(|| wrong("limit", "is no such number", &format!("1 to {max}")))
}

pub(crate) async fn behaviour(State(sandbox): State<Arc<Sandbox>>) -> Json<Value> {
    let rules: Vec<Value> = sandbox
        .behaviour
        .rules()
        .into_iter()
        .map(|(rule, applied)| {
            let mut json = json!(rule);
            json["applied"] = applied.into();
            json
        })
        .collect();
    Json(json!({ "rules": rules }))
}

pub(crate) async fn behave(
    State(sandbox): State<Arc<Sandbox>>,
    request: Request,
) -> Result<Json<Value>, Problem> {
    let (parts, body) = request.into_parts();
    let body = read_body(&parts.headers, body, sandbox.request_bytes_max()).await?;
    let rules = behaviour::parse(&body)
        .map_err(|errors| Problem::fields(StatusCode::UNPROCESSABLE_ENTITY, errors))?;
    sandbox.behaviour.replace(rules);
    Ok(behaviour(State(sandbox)).await)
}

pub(crate) async fn behave_well(State(sandbox): State<Arc<Sandbox>>) -> StatusCode {
    sandbox.behaviour.replace(Vec::new());
    StatusCode::NO_CONTENT
}

pub(crate) async fn unknown_path(uri: Uri) -> Problem {
    let known: Vec<String> = apis::ALL
        .iter()
        .flat_map(|api| api.paths)
        .map(|path| format!("POST /sandbox{path}"))
        .collect();
    Problem::new(
        StatusCode::NOT_FOUND,
        format!(
            "no interface here speaks {}; there are {}",
            uri.path(),
            known.join(", ")
        ),
    )
}
