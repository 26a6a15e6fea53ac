//! Errors of the HTTP interfaces, as RFC 9457 problem documents.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use posthaste_event::FieldError;
use serde::Serialize;

/// Most errors of one answer; an email may have as many recipients.
const ERRORS_MAX: usize = 1_000;
/// Most of them that the detail repeats.
const SAID_MAX: usize = 16;

/// A problem document (`application/problem+json`). `type` is `about:blank`: the status says what kind of problem it is.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// The HTTP status.
    #[serde(serialize_with = "status_as_number")]
    pub status: StatusCode,
    /// The status in words.
    pub title: String,
    /// What is wrong here, and what to do.
    pub detail: String,
    /// The fields that cannot be taken, with what would be accepted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
    /// The event that this is about, where one was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event_id: Option<String>,
    /// When to try again, in seconds; also sent as `Retry-After`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after_seconds: Option<u32>,
}

impl Problem {
    /// A problem with this status.
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            status,
            title: status.canonical_reason().unwrap_or("Error").to_owned(),
            detail: detail.into(),
            errors: Vec::new(),
            event_id: None,
            retry_after_seconds: None,
        }
    }

    /// 400 or 422 for fields that cannot be taken: the first thousand, and the first few in the detail, too.
    pub fn fields(status: StatusCode, mut errors: Vec<FieldError>) -> Self {
        let mut said: Vec<String> = errors.iter().take(SAID_MAX).map(ToString::to_string).collect();
        if errors.len() > SAID_MAX {
            said.push(format!("and {} more", errors.len() - SAID_MAX));
        }
        errors.truncate(ERRORS_MAX);
        let detail = said.join("; ");
        Self {
            errors,
            ..Self::new(status, detail)
        }
    }

    /// 503 that says when to come back.
    pub fn unavailable(detail: impl Into<String>, retry_after_seconds: u32) -> Self {
        Self {
            retry_after_seconds: Some(retry_after_seconds),
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, detail)
        }
    }

    /// The same, about this event.
    #[must_use]
    pub fn about(mut self, event_id: impl Into<String>) -> Self {
        self.event_id = Some(event_id.into());
        self
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let retry_after = self.retry_after_seconds;
        let mut response = (self.status, Json(self)).into_response();
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        if let Some(seconds) = retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn status_as_number<S: serde::Serializer>(status: &StatusCode, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u16(status.as_u16())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_names_many_errors_and_not_any_number() {
        let errors = |count: usize| vec![FieldError::new("a", "is wrong", "b"); count];
        let problem = Problem::fields(StatusCode::BAD_REQUEST, errors(2));
        assert_eq!(
            problem.detail,
            "a: is wrong; accepted: b; a: is wrong; accepted: b"
        );
        let problem = Problem::fields(StatusCode::BAD_REQUEST, errors(100_000));
        assert_eq!(problem.errors.len(), ERRORS_MAX);
        assert!(problem.detail.ends_with("; and 99984 more"), "{}", problem.detail);
    }
}
