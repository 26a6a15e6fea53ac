//! What is the same on every service: health paths, and problems for what is not there.

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::Request,
    http::{HeaderValue, StatusCode, header},
    middleware,
    response::{IntoResponse as _, Response},
    routing::{any, get},
};
use serde_json::json;

use super::attend::AttendLayer;
use crate::{Health, Missing, Problem, Settings, auth::Guard};

/// Completes a service's routes: `/health`, `/ready`, problems for unknown paths and methods, for panics and for slow bodies,
/// and the correlation id. With a `guard`, whoever asks must bring credentials.
pub fn assemble(
    routes: Router,
    health: Health,
    instance: Arc<str>,
    settings: &Settings,
    guard: Option<Arc<Guard>>,
) -> Router {
    complete(routes, move || health.missing(), instance, settings, guard)
}

fn complete(
    routes: Router,
    missing: impl Fn() -> Vec<Missing> + Clone + Send + Sync + 'static,
    instance: Arc<str>,
    settings: &Settings,
    guard: Option<Arc<Guard>>,
) -> Router {
    let well = json!({ "status": "ok", "instance": instance, "version": env!("CARGO_PKG_VERSION") });
    routes
        .route("/health", get(move || async move { Json(well) }))
        .route("/ready", get(move || async move { ready(missing()) }))
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        // One layer does all: each costs every request a few allocations.
        .layer(AttendLayer::new(
            Duration::from_millis(settings.body_timeout_ms),
            guard,
        ))
}

/// What is served while the service cannot work yet, for example since its broker is away: health paths, `always`, and 503
/// for all else.
pub fn starting(
    always: Router,
    health: Health,
    instance: Arc<str>,
    settings: &Settings,
    guard: Option<Arc<Guard>>,
) -> Router {
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
    complete(routes, missing, instance, settings, guard).layer(middleware::map_response(closing))
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

pub(super) async fn no_such_path() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "there is nothing at this path")
}

async fn no_such_method(request: Request) -> Problem {
    let detail = format!("{} is not possible here; see the Allow header", request.method());
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, detail)
}
