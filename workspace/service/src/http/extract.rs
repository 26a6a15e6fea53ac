//! Reads requests; what cannot be read becomes a problem document.

use std::time::Duration;

use axum::{
    body::Body,
    extract::{FromRequest, FromRequestParts, Path, Query, Request},
    http::{HeaderMap, StatusCode, header, request::Parts},
};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use posthaste_event::failure::cut;
use serde::de::DeserializeOwned;

use crate::Problem;

/// Largest JSON body that [`JsonBody`] reads, in bytes.
const JSON_BYTES_MAX: usize = 1 << 20;

/// Longest time for a whole body, however steadily it trickles.
const BODY_TIME_MAX: Duration = Duration::from_secs(60);

/// Longest part of a parser's message that is repeated to the client: it may quote the input.
const MESSAGE_BYTES_MAX: usize = 300;

/// Reads a whole body of at most `bytes_max` bytes. A body of one piece, as most are, is not copied.
///
/// # Errors
/// 413 when it is larger, before anything is read if its length was announced; 408 when it does not come;
/// 400 when it breaks off.
pub async fn read_body(headers: &HeaderMap, body: Body, bytes_max: usize) -> Result<Bytes, Problem> {
    let announced = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > bytes_max as u64) {
        return Err(too_large(bytes_max));
    }
    tokio::time::timeout(BODY_TIME_MAX, collect(body, announced, bytes_max))
        .await
        .unwrap_or_else(|_| Err(too_slow()))
}

async fn collect(mut body: Body, announced: Option<u64>, bytes_max: usize) -> Result<Bytes, Problem> {
    let mut first = Bytes::new();
    let mut rest: Option<BytesMut> = None;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            // The time limit between two pieces, set for every route.
            if tower_http_timed_out(&error) {
                too_slow()
            } else {
                Problem::new(StatusCode::BAD_REQUEST, "the body broke off")
            }
        })?;
        let Ok(data) = frame.into_data() else { continue };
        let length = first.len() + rest.as_ref().map_or(0, BytesMut::len) + data.len();
        if length > bytes_max {
            return Err(too_large(bytes_max));
        }
        match &mut rest {
            Some(rest) => rest.extend_from_slice(&data),
            None if first.is_empty() => first = data,
            None => {
                let expected = announced.and_then(|length| usize::try_from(length).ok());
                let mut all = BytesMut::with_capacity(expected.unwrap_or(0).max(length));
                all.extend_from_slice(&first);
                all.extend_from_slice(&data);
                first = Bytes::new();
                rest = Some(all);
            }
        }
    }
    Ok(rest.map_or(first, BytesMut::freeze))
}

fn tower_http_timed_out(error: &axum::Error) -> bool {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = source {
        if error.is::<tower_http::timeout::TimeoutError>() {
            return true;
        }
        source = error.source();
    }
    false
}

fn too_large(bytes_max: usize) -> Problem {
    Problem::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        format!("the body is too large; accepted: up to {bytes_max} bytes"),
    )
}

fn too_slow() -> Problem {
    Problem::new(StatusCode::REQUEST_TIMEOUT, "the body did not come in time")
}

/// Checks that the request says that it carries JSON.
///
/// # Errors
/// 415 for any other content type, or none.
pub fn require_json(headers: &HeaderMap) -> Result<(), Problem> {
    let value = headers.get(header::CONTENT_TYPE).map(|value| value.as_bytes());
    let essence = value
        .and_then(|value| value.split(|byte| *byte == b';').next())
        .unwrap_or_default()
        .trim_ascii();
    let is_json = essence.eq_ignore_ascii_case(b"application/json")
        || (essence.len() > 17
            && essence[..12].eq_ignore_ascii_case(b"application/")
            && essence[essence.len() - 5..].eq_ignore_ascii_case(b"+json"));
    if is_json {
        return Ok(());
    }
    let problem = if value.is_none() {
        "the Content-Type header is missing"
    } else {
        "the body has a content type that is not taken here"
    };
    Err(Problem::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        format!("{problem}; accepted: application/json"),
    ))
}

/// The problem for JSON that cannot be read. What it repeats of the input is cut short and printable.
pub fn json_problem(error: &serde_json::Error) -> Problem {
    let message = error.to_string();
    let printable: String = cut(&message, MESSAGE_BYTES_MAX)
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    Problem::new(
        StatusCode::BAD_REQUEST,
        format!("the body cannot be read: {printable}"),
    )
}

/// A JSON body of up to 1 MiB. An empty body reads as `{}`.
#[derive(Debug, Clone, Copy)]
pub struct JsonBody<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for JsonBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        let bytes = read_body(&parts.headers, body, JSON_BYTES_MAX).await?;
        let text: &[u8] = if bytes.is_empty() {
            b"{}"
        } else {
            require_json(&parts.headers)?;
            &bytes
        };
        serde_json::from_slice(text)
            .map(Self)
            .map_err(|error| json_problem(&error))
    }
}

/// The query string, read as `T`.
#[derive(Debug, Clone, Copy)]
pub struct QueryParams<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for QueryParams<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Query::try_from_uri(&parts.uri)
            .map(|Query(query)| Self(query))
            .map_err(|error| {
                let detail = error.body_text();
                Problem::new(StatusCode::BAD_REQUEST, cut(&detail, MESSAGE_BYTES_MAX))
            })
    }
}

/// The parts of the path, read as `T`.
#[derive(Debug, Clone, Copy)]
pub struct PathParams<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for PathParams<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        Path::from_request_parts(parts, state)
            .await
            .map(|Path(path)| Self(path))
            .map_err(|error| {
                let detail = error.body_text();
                Problem::new(StatusCode::BAD_REQUEST, cut(&detail, MESSAGE_BYTES_MAX))
            })
    }
}
