//! What clients ask over HTTP: bodies, headers, query strings.

use std::sync::LazyLock;

use axum::{
    Router,
    body::{Body, Bytes},
    extract::Request,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode},
    routing::post,
};
use posthaste_event::{Channel, Delivery, FieldError, Millis, Topic, Value, Work, payload::Payload, trace};
use posthaste_ingestion::request;
use posthaste_replay::request::{ListRequest, ReplayRequest};
use posthaste_service::{
    Health, Problem,
    http::{JsonBody, assemble, read_body, require_json},
};
use posthaste_status::http::query::{Parameters, Search, cursor, inbox, search};
use serde::Deserialize;
use serde_json::Value as Json;
use tokio::runtime::Runtime;
use tower::ServiceExt as _;

use super::NOW;

/// Days that a client's time may lie ahead, and then some.
const YEARS_MS: Millis = 11 * 366 * 86_400_000;

/// Most errors that one answer may hold.
const ERRORS_MAX: usize = 4_096;

fn refused(errors: &[FieldError]) {
    assert!((1..=ERRORS_MAX).contains(&errors.len()));
    for error in errors {
        assert!(!error.problem.is_empty() && !error.to_string().is_empty());
        assert!(!error.to_string().contains(char::is_control), "{error}");
        assert!(error.field.len() <= 1_000, "{error}");
    }
}

/// The body of `POST /event`, and of `POST /replay-dead-letter`.
pub fn request(data: &[u8]) -> bool {
    static INTAKE: LazyLock<posthaste_ingestion::Settings> = LazyLock::new(|| {
        #[derive(Deserialize)]
        struct File {
            ingestion: posthaste_ingestion::Settings,
        }
        toml::from_str::<File>(posthaste_ingestion::DEFAULTS)
            .unwrap()
            .ingestion
    });
    static REPLAY: LazyLock<posthaste_replay::Settings> = LazyLock::new(|| {
        #[derive(Deserialize)]
        struct File {
            replay: posthaste_replay::Settings,
        }
        toml::from_str::<File>(posthaste_replay::DEFAULTS).unwrap().replay
    });
    static PROVIDERS: LazyLock<request::ProviderNames> = LazyLock::new(|| {
        Channel::ALL
            .map(|channel| (channel, vec!["twilio".to_owned()]))
            .into()
    });
    let is_event = match request::check(data, "c-1", &PROVIDERS, &INTAKE, NOW, None) {
        Ok(checked) => {
            taken(checked);
            true
        }
        Err(errors) => {
            refused(&errors);
            false
        }
    };
    if let Ok(body) = serde_json::from_slice(data) {
        match ReplayRequest::read(&body, &REPLAY) {
            Ok(request) => {
                assert!(request.limit > 0 && request.rate.is_none_or(|rate| rate > 0.0));
                assert!(request.background || request.limit <= REPLAY.limit_max.max(REPLAY.limit_default));
            }
            Err(errors) => refused(&errors),
        }
    }
    is_event
}

fn taken(checked: request::Checked) {
    assert!(!checked.key.is_empty());
    let view = checked.event.view().unwrap();
    assert_eq!(view.event_id, checked.accepted.id);
    for time in [view.scheduled_at, view.expires_at].into_iter().flatten() {
        assert!(time < NOW + YEARS_MS);
    }
    Payload::parse(view.channel, view.payload).unwrap();
    let (delivery, topic) = Delivery::accepted(checked.accepted, "here", NOW);
    assert!(topic.is_delay() || topic == Topic::first_attempt(delivery.priority));
    let work = Value::Work(Work {
        delivery,
        event: checked.event,
    });
    assert_eq!(Value::decode(&work.encode().unwrap()).unwrap(), work);
}

/// Headers of a request: `name: value` lines.
pub fn headers(data: &[u8]) -> bool {
    let mut headers = HeaderMap::new();
    for line in data.split(|byte| *byte == b'\n').take(32) {
        let colon = line.iter().position(|byte| *byte == b':').unwrap_or(0);
        let (name, value) = line.split_at(colon);
        let value = value.strip_prefix(b":").unwrap_or(value).trim_ascii();
        let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) else {
            continue;
        };
        if name == "traceparent"
            && let Ok(text) = value.to_str()
            && let Some(known) = trace::sampled(text)
        {
            assert_eq!(trace::trace_id(known).unwrap().len(), 32);
            assert!(text.starts_with(known));
        }
        headers.append(name, value);
    }
    if let Err(problem) = require_json(&headers) {
        assert!(!problem.detail.is_empty());
    }
    served(headers, data)
}

/// A whole request with these headers, through all that every service does with requests. Says whether it was answered well.
fn served(headers: HeaderMap, body: &[u8]) -> bool {
    static SERVED: LazyLock<(Runtime, Router)> = LazyLock::new(|| {
        #[derive(Deserialize)]
        struct File {
            service: posthaste_service::Settings,
        }
        let settings = toml::from_str::<File>(posthaste_service::DEFAULTS)
            .unwrap()
            .service;
        let routes = Router::new().route("/raw", post(raw)).route(
            "/json",
            post(async |JsonBody(body): JsonBody<Json>| axum::Json(body)),
        );
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let router = assemble(routes, Health::default(), "here".into(), &settings, None);
        (runtime, router)
    });
    let (runtime, router) = &*SERVED;
    let mut answered = false;
    for path in ["/raw", "/json", "/none"] {
        let mut request = Request::post(path).body(Body::from(body.to_vec())).unwrap();
        *request.headers_mut() = headers.clone();
        let answer = runtime.block_on(router.clone().oneshot(request)).unwrap();
        let status = answer.status();
        assert!(
            status.is_success() || status.is_client_error(),
            "{path}: {status}"
        );
        let correlated = answer.headers().get("x-correlation-id");
        assert!(correlated.is_some() || status == StatusCode::BAD_REQUEST);
        answered |= status.is_success();
    }
    answered
}

async fn raw(request: Request) -> Result<Bytes, Problem> {
    let (parts, body) = request.into_parts();
    let read = read_body(&parts.headers, body, 256).await?;
    assert!(read.len() <= 256);
    Ok(read)
}

/// A query string, as each path that takes one reads it.
pub fn query(data: &[u8]) -> bool {
    let given: Vec<(String, String)> = url::form_urlencoded::parse(data).into_owned().collect();
    let mut taken = false;
    match search(Parameters::new(given.clone())) {
        Ok(Search::Page(page)) => {
            taken = true;
            assert!((1..=posthaste_store::PAGE_DOCUMENTS_MAX).contains(&page.limit));
            if let Some(after) = &page.after {
                let again = Parameters::new(vec![("cursor".to_owned(), cursor(after))]);
                match search(again) {
                    Ok(Search::Page(again)) => assert_eq!(again.after, page.after),
                    other => panic!("{other:?}"),
                }
            }
        }
        Ok(Search::Follow(_)) => {}
        Err(errors) => refused(&errors),
    }
    if let Err(errors) = inbox(Parameters::new(given.clone())) {
        refused(&errors);
    }
    if let Err(errors) = Parameters::new(given.clone()).none() {
        refused(&errors);
    }
    match ListRequest::read(&given) {
        Ok(list) => {
            taken = true;
            if let Some((at, place)) = list.after {
                let again = vec![("cursor".to_owned(), posthaste_replay::request::cursor(at, place))];
                assert_eq!(ListRequest::read(&again).unwrap().after, list.after);
            }
        }
        Err(errors) => refused(&errors),
    }
    taken
}
