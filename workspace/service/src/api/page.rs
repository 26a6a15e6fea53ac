//! `/openapi.json`, and `/docs`: a page that reads it. All of the page is in this binary: it asks nobody else for anything.

use axum::{
    Router,
    http::{HeaderName, header},
    routing::get,
};
use bytes::Bytes;
use serde_json::Value as Json;

const PAGE: &str = include_str!("page.html");

/// The page has its script and its style in itself, and talks to this service alone.
const POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The paths of a document.
pub fn router(document: &Json) -> Router {
    let text = Bytes::from(document.to_string());
    Router::new()
        .route(
            "/openapi.json",
            get(move || async move { ([(header::CONTENT_TYPE, "application/json")], text) }),
        )
        .route("/docs", get(page))
}

async fn page() -> ([(HeaderName, &'static str); 4], &'static str) {
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    (headers, PAGE)
}
