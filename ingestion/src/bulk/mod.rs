//! `POST /events`: many events in one request, and an answer for each.
//!
//! A JSON array is read whole, within bounds, and answered at once. A stream of lines (NDJSON) is taken in as it comes: a batch
//! is made durable while the next one is read, and as soon as the client pauses; the answers go back as lines in the meantime.

mod answer;
mod batch;
mod keyed;
pub(crate) mod lines;
mod stream;

use std::{io, sync::Arc};

use async_compression::{
    tokio::bufread::{GzipDecoder, ZstdDecoder},
    zstd::DParameter,
};
use axum::{
    Extension, Json,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use futures_util::StreamExt as _;
use posthaste_event::FieldError;
use posthaste_service::{
    Problem,
    http::{CorrelationId, QueryParams, json_problem, read_body},
    metrics::Refusal,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::sync::Semaphore;
use tokio_util::io::{ReaderStream, StreamReader};

use self::answer::{Item, Sum};
pub(crate) use self::{
    answer::Outcome,
    batch::{Batch, append},
};
use crate::{Intake, Origin, Settings};

/// Largest window of a zstd stream, as a power of two: 8 MiB, what RFC 8878 asks every decoder to support. Each open
/// stream may need as much memory.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;

/// What all requests in bulk share.
#[derive(Debug)]
pub(crate) struct Bulk {
    /// One per request that is being taken.
    places: Arc<Semaphore>,
    /// Bytes of answers that their clients have not read yet.
    unread: Arc<Semaphore>,
}

impl Bulk {
    pub(crate) fn new(settings: &Settings) -> Self {
        Self {
            places: Arc::new(Semaphore::new(settings.bulk_requests_max)),
            unread: Arc::new(Semaphore::new(settings.bulk_answers_bytes_max as usize)),
        }
    }

    /// One per request that is being taken.
    pub(crate) const fn places(&self) -> &Arc<Semaphore> {
        &self.places
    }
}

/// The query of `POST /events`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Query {
    /// All or nothing: one item that cannot be taken refuses all.
    #[serde(default)]
    atomic: bool,
    /// Which items a stream's answer tells of.
    #[serde(default)]
    answers: Told,
}

#[derive(Debug, Default, PartialEq, Eq, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Told {
    #[default]
    All,
    Refused,
}

/// How the items of a body come.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub(crate) enum Form {
    /// As one JSON.
    Whole,
    /// One a line.
    Lines,
}

pub(crate) async fn ingest_many(
    State(intake): State<Arc<Intake>>,
    Extension(CorrelationId(correlation_id)): Extension<CorrelationId>,
    QueryParams(query): QueryParams<Query>,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let invalid = intake.metrics.refused(Refusal::Invalid);
    let accepted = "application/json for an array of events, application/x-ndjson for one event a line";
    let (form, body) = opened(&parts.headers, body, accepted).inspect_err(|_| invalid.one())?;
    let place = Arc::clone(&intake.bulk.places)
        .try_acquire_owned()
        .map_err(|_| intake.full())?;
    let origin = Origin::new(correlation_id, &parts)
        .inspect_err(|_| intake.metrics.refused(Refusal::Invalid).one())?;
    if form == Form::Lines && !query.atomic {
        let is_awaited = parts.headers.contains_key(header::EXPECT);
        let body = if is_awaited {
            stream::begun(body).await
        } else {
            body
        };
        return Ok(stream::take(intake, origin, body, query.answers, place));
    }
    let body = read_body(&parts.headers, body, intake.settings.bulk_bytes_max)
        .await
        .inspect_err(|problem| intake.count_unread(problem))?;
    let items = items(form, &body, &intake.settings).inspect_err(|_| invalid.one())?;
    if query.atomic {
        all_or_nothing(&intake, origin, &items).await
    } else {
        Ok(each(&intake, origin, &items).await)
    }
}

/// How the items of a body come, and the body without its compression. `accepted` says what each form is for.
pub(crate) fn opened(headers: &HeaderMap, body: Body, accepted: &str) -> Result<(Form, Body), Problem> {
    let essence = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.as_bytes().split(|byte| *byte == b';').next())
        .unwrap_or_default()
        .trim_ascii()
        .to_ascii_lowercase();
    let form = match essence.as_slice() {
        b"application/json" => Form::Whole,
        b"application/x-ndjson"
        | b"application/ndjson"
        | b"application/jsonl"
        | b"application/x-jsonlines" => Form::Lines,
        _ => {
            let detail =
                format!("the Content-Type header is missing or not taken here; accepted: {accepted}");
            return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail));
        }
    };
    Ok((form, decoded(headers, body)?))
}

/// The body without its compression.
fn decoded(headers: &HeaderMap, body: Body) -> Result<Body, Problem> {
    let Some(coding) = headers.get(header::CONTENT_ENCODING) else {
        return Ok(body);
    };
    let reader = |body: Body| {
        StreamReader::new(
            body.into_data_stream()
                .map(|piece| piece.map_err(io::Error::other)),
        )
    };
    match coding.as_bytes().trim_ascii().to_ascii_lowercase().as_slice() {
        b"identity" => Ok(body),
        b"gzip" => {
            let mut decoder = GzipDecoder::new(reader(body));
            decoder.multiple_members(true);
            Ok(Body::from_stream(ReaderStream::with_capacity(decoder, 1 << 16)))
        }
        b"zstd" => {
            let limits = [DParameter::window_log_max(ZSTD_WINDOW_LOG_MAX)];
            let mut decoder = ZstdDecoder::with_params(reader(body), &limits);
            decoder.multiple_members(true);
            Ok(Body::from_stream(ReaderStream::with_capacity(decoder, 1 << 16)))
        }
        _ => Err(Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "the Content-Encoding is not taken here; accepted: gzip, zstd, identity",
        )),
    }
}

/// The items of a body that was read whole.
fn items<'a>(form: Form, body: &'a Bytes, settings: &Settings) -> Result<Vec<&'a [u8]>, Problem> {
    let items: Vec<&[u8]> = match form {
        Form::Whole => serde_json::from_slice::<Vec<&RawValue>>(body)
            .map_err(|error| json_problem(&error))?
            .into_iter()
            .map(|item| item.get().as_bytes())
            .collect(),
        Form::Lines => body
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.trim_ascii().is_empty())
            .collect(),
    };
    let most = settings.bulk_items_max;
    if items.is_empty() || items.len() > most {
        let problem = format!("has {} events", items.len());
        let accepted = format!("1 to {most} events; more as application/x-ndjson without atomic");
        let error = FieldError::new("body", problem, accepted);
        return Err(Problem::fields(StatusCode::BAD_REQUEST, vec![error]));
    }
    Ok(items)
}

/// What is answered to an array.
#[derive(Debug, Serialize)]
struct Answer {
    #[serde(flatten)]
    sum: Sum,
    items: Vec<Item>,
}

impl Answer {
    fn new(correlation_id: Arc<str>, items: Vec<Item>) -> Self {
        let mut sum = Sum::new(correlation_id);
        sum.count(&items);
        Self { sum, items }
    }

    /// 201 when all are durable, 207 when some are; when none is, what the first was refused with.
    fn status(&self) -> StatusCode {
        if self.sum.refused == 0 {
            return StatusCode::CREATED;
        }
        match self.items.first().map(|item| &item.outcome) {
            Some(Outcome::Refused(problem)) if self.sum.accepted == 0 => problem.status,
            _ => StatusCode::MULTI_STATUS,
        }
    }
}

/// Takes each item for itself.
async fn each(intake: &Arc<Intake>, origin: Origin, items: &[&[u8]]) -> Response {
    let mut settled = Vec::with_capacity(items.len());
    let mut batch = Batch::default();
    for (index, item) in (0..).zip(items) {
        batch.add(intake, &origin, index, item);
        if batch.is_full() {
            settled.extend(shown(intake, &origin, std::mem::take(&mut batch), false).await);
        }
    }
    settled.extend(shown(intake, &origin, batch, false).await);
    let answer = Answer::new(origin.correlation_id, settled);
    (answer.status(), Json(answer)).into_response()
}

/// What became of a batch, as whoever asked is told of it.
async fn shown(intake: &Arc<Intake>, origin: &Origin, batch: Batch, all_or_nothing: bool) -> Vec<Item> {
    let mut settled = batch.settle(Arc::clone(intake), all_or_nothing).await;
    settled.show_to(&origin.caller);
    settled.items
}

/// Takes all or none.
async fn all_or_nothing(intake: &Arc<Intake>, origin: Origin, items: &[&[u8]]) -> Result<Response, Problem> {
    let mut batch = Batch::default();
    for (index, item) in (0..).zip(items) {
        batch.add(intake, &origin, index, item);
    }
    if let Some(faults) = batch.faults() {
        let mut problem = Problem::fields(StatusCode::BAD_REQUEST, faults);
        problem.detail.insert_str(0, "nothing was stored: ");
        return Err(problem);
    }
    let settled = shown(intake, &origin, batch, true).await;
    let answer = Answer::new(origin.correlation_id, settled);
    Ok((answer.status(), Json(answer)).into_response())
}
