//! What is the same on every service: health paths, problems for what is not there, correlation, panics.

use std::{any::Any, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::HttpBody as _,
    extract::Request,
    http::{HeaderName, HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse as _, Response},
    routing::{any, get},
};
use serde_json::json;
use tower_http::{catch_panic::CatchPanicLayer, timeout::RequestBodyTimeoutLayer};
use tracing::{debug, error};

use crate::{Health, Missing, Problem, Settings};

/// Names what belongs together for the client; given back with every answer.
pub const CORRELATION_HEADER: HeaderName = HeaderName::from_static("x-correlation-id");

/// Longest correlation id taken from a client, in bytes.
const CORRELATION_BYTES_MAX: usize = 128;

/// A body of at most this many bytes comes with the head, so that nothing of it is left unread.
const BODY_BYTES_AT_ONCE: u64 = 4_096;

/// The correlation id of a request: the client's, or one made here. In the extensions of every request.
#[derive(Debug, Clone)]
pub struct CorrelationId(pub Arc<str>);

/// Completes a service's routes: `/health`, `/ready`, problems for unknown paths and methods, for panics and for slow bodies,
/// and the correlation id.
pub fn assemble(routes: Router, health: Health, instance: Arc<str>, settings: &Settings) -> Router {
    complete(routes, move || health.missing(), instance, settings)
}

fn complete(
    routes: Router,
    missing: impl Fn() -> Vec<Missing> + Clone + Send + Sync + 'static,
    instance: Arc<str>,
    settings: &Settings,
) -> Router {
    let well = json!({ "status": "ok", "instance": instance, "version": env!("CARGO_PKG_VERSION") });
    routes
        .route("/health", get(move || async move { Json(well) }))
        .route("/ready", get(move || async move { ready(missing()) }))
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        // In one go, outermost first: each call of `layer` costs every request a few allocations.
        .layer((
            middleware::from_fn(correlate),
            CatchPanicLayer::custom(panicked),
            RequestBodyTimeoutLayer::new(Duration::from_millis(settings.body_timeout_ms)),
        ))
}

/// What is served while the service cannot work yet, for example since its broker is away: health paths, `always`, and 503
/// for all else.
pub fn starting(always: Router, health: Health, instance: Arc<str>, settings: &Settings) -> Router {
    let routes = always.route("/", any(not_yet)).route("/{*path}", any(not_yet));
    let missing = move || {
        // Checks are added while the service starts: that none fails yet does not mean that it can work.
        let mut missing = health.missing();
        missing.push(Missing {
            name: "start".to_owned(),
            reason: "the service is starting".to_owned(),
            is_needed: true,
        });
        missing
    };
    complete(routes, missing, instance, settings).layer(middleware::map_response(closing))
}

async fn not_yet() -> Problem {
    Problem::unavailable("the service is starting; /ready says what it waits for", 1)
}

/// The next connection may already be served in full.
async fn closing(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

fn ready(missing: Vec<Missing>) -> Response {
    let is_ready = !missing.iter().any(|missing| missing.is_needed);
    let missing: Vec<_> = missing
        .into_iter()
        .map(|missing| json!({ "name": missing.name, "reason": missing.reason }))
        .collect();
    match (is_ready, missing.is_empty()) {
        (true, true) => Json(json!({ "status": "ready" })).into_response(),
        (true, false) => Json(json!({ "status": "degraded", "missing": missing })).into_response(),
        (false, _) => {
            let body = json!({ "status": "not ready", "missing": missing });
            (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response()
        }
    }
}

async fn no_such_path() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "there is nothing at this path")
}

async fn no_such_method(request: Request) -> Problem {
    let detail = format!("{} is not possible here; see the Allow header", request.method());
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, detail)
}

#[expect(clippy::needless_pass_by_value, reason = "the layer hands the box over")]
fn panicked(panic: Box<dyn Any + Send + 'static>) -> Response {
    let reason = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no reason given");
    error!(reason, "a request handler panicked: {reason}");
    Problem::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        "the request failed inside the service; its log has the reason",
    )
    .into_response()
}

async fn correlate(mut request: Request, next: Next) -> Response {
    let given = request.headers().get(&CORRELATION_HEADER);
    let header = match given {
        Some(value) if is_correlation(value) => value.clone(),
        Some(_) => {
            return Problem::new(
                StatusCode::BAD_REQUEST,
                format!(
                    "X-Correlation-ID cannot be taken; accepted: 1 to {CORRELATION_BYTES_MAX} visible ASCII characters"
                ),
            )
            .into_response();
        }
        None => made_up(),
    };
    // Both forms are ASCII by now.
    let id: Arc<str> = header.to_str().unwrap_or_default().into();
    let (method, path) = if tracing::enabled!(tracing::Level::DEBUG) {
        (request.method().clone(), request.uri().path().to_owned())
    } else {
        Default::default()
    };
    request.extensions_mut().insert(CorrelationId(Arc::clone(&id)));
    let length = request.body().size_hint().upper();
    let mut response = next.run(request).await;
    // An error may come before the whole body was read, and then hyper closes the connection; the client must know, or its
    // next request on it gets lost.
    let failed = response.status().is_client_error() || response.status().is_server_error();
    if failed && length.is_none_or(|bytes| bytes > BODY_BYTES_AT_ONCE) {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
    }
    debug!(%method, path, status = response.status().as_u16(), correlation.id = %id, "answered {method} {path}");
    response.headers_mut().insert(CORRELATION_HEADER, header);
    response
}

fn is_correlation(value: &HeaderValue) -> bool {
    let bytes = value.as_bytes();
    (1..=CORRELATION_BYTES_MAX).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic)
}

fn made_up() -> HeaderValue {
    let mut buffer = uuid::Uuid::encode_buffer();
    let text = uuid::Uuid::now_v7().hyphenated().encode_lower(&mut buffer);
    // Hexadecimal digits and dashes are always a header value.
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static("none"))
}
