//! `/messages/*`: messages made of a template, as the users of the Slack system send them.
//!
//! | path | body |
//! |---|---|
//! | `POST /messages/request` | one message, see [`compose`] |
//! | `POST /messages/request/bulk` | an array of them; the answer has one entry for each |
//! | `POST /messages/schedule` | `{"request": {…}, "scheduledAt": "2030-01-31T09:00:00Z"}` |
//! | `POST /messages/urgent` | one message, which goes by the critical lanes |
//!
//! Also below `/core-slack-worker`. A message is rendered here, becomes an event, and is taken as any event is: durable before the
//! answer, once per `Idempotency-Key`. What stands in the event is the rendered text and the codes it was made of.

mod compose;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Extension, Json, Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, request::Parts},
    response::{IntoResponse as _, Response},
    routing::post,
};
use bytes::Bytes;
use posthaste_event::{FieldError, clock, fields::Fields, nesting, partition::Place};
use posthaste_service::{
    Problem,
    http::{CorrelationId, json_problem, read_body, require_json},
    metrics::Refusal,
};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::{
    Intake, Origin, Prepared, REPLAYED,
    bulk::{Batch, Outcome},
    idempotency::{Asked, Taken, Taking},
};
use compose::Manner;
pub(crate) use compose::{CODE_CHARS_MAX, CONFIG, PLACE_CHARS_MAX, REFERENCES, SENDER_CHARS_MAX};

/// Before every path, for those who come from the system that had it.
pub(crate) const PREFIX: &str = "/core-slack-worker";

/// So long other requests wait for a thread while messages of a bulk are rendered.
const TURN: Duration = Duration::from_millis(5);

/// What a client gets for a message that is durable.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Accepted {
    correlation_id: String,
    event_id: String,
    status: &'static str,
    message: &'static str,
}

/// One entry of the answer to many; `code` is what one message alone would have been answered with.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    index: u64,
    code: u16,
    correlation_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    event_id: Option<String>,
    status: &'static str,
    message: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<FieldError>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_seconds: Option<u32>,
}

/// The paths of messages.
pub(crate) fn router(intake: Arc<Intake>) -> Router {
    let mut router = Router::new();
    for prefix in ["", PREFIX] {
        router = router
            .route(&format!("{prefix}/messages/request"), post(request))
            .route(&format!("{prefix}/messages/request/bulk"), post(bulk))
            .route(&format!("{prefix}/messages/schedule"), post(schedule))
            .route(&format!("{prefix}/messages/urgent"), post(urgent));
    }
    router.with_state(intake)
}

type Shared = State<Arc<Intake>>;
type Correlation = Extension<CorrelationId>;

async fn request(
    State(intake): Shared,
    Extension(CorrelationId(id)): Correlation,
    request: Request,
) -> Result<Response, Problem> {
    let (origin, body) = intake.message(id, request).await?;
    let taken = intake.one(&origin, text(&body)?, Manner::Plain, &body).await;
    answer(&origin, taken, "Message request accepted")
}

async fn urgent(
    State(intake): Shared,
    Extension(CorrelationId(id)): Correlation,
    request: Request,
) -> Result<Response, Problem> {
    let (origin, body) = intake.message(id, request).await?;
    let request = text(&body)?;
    // Asked for in another manner it is another request.
    let said = format!("{{\"urgent\":{request}}}");
    let taken = intake
        .one(&origin, request, Manner::Urgent, said.as_bytes())
        .await;
    answer(&origin, taken, "Urgent message request accepted")
}

async fn schedule(
    State(intake): Shared,
    Extension(CorrelationId(id)): Correlation,
    request: Request,
) -> Result<Response, Problem> {
    let (origin, body) = intake.message(id, request).await?;
    let (request, at) = scheduled(text(&body)?)
        .map_err(|errors| Problem::fields(StatusCode::BAD_REQUEST, errors))
        .inspect_err(|_| intake.metrics.refused(Refusal::Invalid).one())?;
    let taken = intake.one(&origin, request.get(), Manner::At(at), &body).await;
    answer(&origin, taken, "Message scheduled")
}

/// What is to be sent, and when.
fn scheduled(body: &str) -> Result<(&RawValue, &RawValue), Vec<FieldError>> {
    let mut fields = Fields::of("", body).map_err(|error| vec![error])?;
    let request = fields.required("request", "an object, as POST /messages/request takes it");
    let at = fields.required(
        "scheduledAt",
        "a time with its offset, such as 2030-01-31T09:00:00Z",
    );
    fields.refuse_unknown();
    fields.finish()?;
    request.zip(at).ok_or_else(|| {
        vec![FieldError::new(
            "body",
            "cannot be read",
            "request and scheduledAt",
        )]
    })
}

async fn bulk(
    State(intake): Shared,
    Extension(CorrelationId(id)): Correlation,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let invalid = intake.metrics.refused(Refusal::Invalid);
    require_json(&parts.headers).inspect_err(|_| invalid.one())?;
    intake.check_known()?;
    let _place = Arc::clone(intake.bulk.places())
        .try_acquire_owned()
        .map_err(|_| intake.full())?;
    let origin = Origin::new(Arc::clone(&id), &parts).inspect_err(|_| invalid.one())?;
    let body = read_body(&parts.headers, body, intake.settings.bulk_bytes_max)
        .await
        .inspect_err(|problem| intake.count_unread(problem))?;
    let items = items(&body, intake.settings.bulk_items_max).inspect_err(|_| invalid.one())?;
    let mut entries = Vec::with_capacity(items.len());
    let mut batch = Batch::default();
    let mut turn = Instant::now();
    for (index, item) in (0..).zip(&items) {
        if turn.elapsed() > TURN {
            tokio::task::yield_now().await;
            turn = Instant::now();
        }
        let of_item = origin.of_item(index);
        let place = batch.place(&intake);
        batch.take(index, intake.item(&of_item, index, item.get(), place));
        if batch.is_full() {
            entries.extend(settled(&intake, std::mem::take(&mut batch), &origin).await);
        }
    }
    entries.extend(settled(&intake, batch, &origin).await);
    Ok((status(&entries), Json(entries)).into_response())
}

fn items(body: &Bytes, most: usize) -> Result<Vec<&RawValue>, Problem> {
    let items: Vec<&RawValue> = serde_json::from_slice(body).map_err(|error| json_problem(&error))?;
    if (1..=most).contains(&items.len()) {
        return Ok(items);
    }
    let error = FieldError::new(
        "body",
        format!("has {} messages", items.len()),
        format!("1 to {most} messages"),
    );
    Err(Problem::fields(StatusCode::BAD_REQUEST, vec![error]))
}

async fn settled(intake: &Arc<Intake>, batch: Batch, origin: &Origin) -> Vec<Entry> {
    let id = &origin.correlation_id;
    let mut settled = batch.settle(Arc::clone(intake), false).await;
    settled.show_to(&origin.caller);
    let entries = settled.items.into_iter().map(|item| match item.outcome {
        Outcome::Accepted {
            event_id,
            correlation_id,
            ..
        } => Entry {
            index: item.index,
            code: StatusCode::CREATED.as_u16(),
            correlation_id,
            event_id: Some(event_id),
            status: "accepted",
            message: "Message request accepted".to_owned(),
            errors: Vec::new(),
            retry_after_seconds: None,
        },
        Outcome::Refused(problem) => Entry {
            index: item.index,
            code: problem.status.as_u16(),
            correlation_id: of_item(id, item.index),
            event_id: problem.event_id,
            status: "refused",
            message: problem.detail,
            errors: problem.errors,
            retry_after_seconds: problem.retry_after_seconds,
        },
    });
    entries.collect()
}

/// 201 when all are durable, 207 when some are; when none is, what the first was refused with.
fn status(entries: &[Entry]) -> StatusCode {
    let accepted = entries
        .iter()
        .filter(|entry| entry.event_id.is_some() && entry.status == "accepted")
        .count();
    if accepted == entries.len() {
        return StatusCode::CREATED;
    }
    let first = entries
        .first()
        .and_then(|entry| StatusCode::from_u16(entry.code).ok());
    match first {
        Some(code) if accepted == 0 => code,
        _ => StatusCode::MULTI_STATUS,
    }
}

/// The correlation id of one of many: each can be followed by itself.
fn of_item(id: &str, index: u64) -> String {
    format!("{id}.{index}")
}

fn text(body: &Bytes) -> Result<&str, Problem> {
    std::str::from_utf8(body).map_err(|error| {
        let problem = format!("is not UTF-8 from byte {} on", error.valid_up_to());
        let error = FieldError::new("body", problem, "JSON in UTF-8");
        Problem::fields(StatusCode::BAD_REQUEST, vec![error])
    })
}

fn answer(
    origin: &Origin,
    taken: Result<Taken, Problem>,
    message: &'static str,
) -> Result<Response, Problem> {
    let taken = taken.map_err(|problem| origin.told(problem))?;
    let accepted = Accepted {
        correlation_id: taken.correlation_id,
        event_id: origin.caller.shown(&taken.event_id).to_owned(),
        status: "accepted",
        message,
    };
    let mut response = (StatusCode::CREATED, Json(accepted)).into_response();
    if taken.is_again {
        let headers: &mut HeaderMap = response.headers_mut();
        headers.insert(REPLAYED, HeaderValue::from_static("true"));
    }
    Ok(response)
}

impl Origin {
    /// Of one of many.
    fn of_item(&self, index: u64) -> Self {
        Self {
            caller: self.caller.clone(),
            correlation_id: of_item(&self.correlation_id, index).into(),
            traceparent: self.traceparent.clone(),
            key: self.key.clone(),
            firing_id: self.firing_id.clone(),
        }
    }
}

impl Intake {
    /// Reads a request with one message.
    async fn message(&self, correlation_id: Arc<str>, request: Request) -> Result<(Origin, Bytes), Problem> {
        let (parts, body): (Parts, Body) = request.into_parts();
        let invalid = self.metrics.refused(Refusal::Invalid);
        require_json(&parts.headers).inspect_err(|_| invalid.one())?;
        self.check_known()?;
        if self.places.available_permits() == 0 {
            return Err(self.full());
        }
        let body = read_body(&parts.headers, body, self.settings.event_bytes_max)
            .await
            .inspect_err(|problem| self.count_unread(problem))?;
        let origin = Origin::new(correlation_id, &parts).inspect_err(|_| invalid.one())?;
        let depth_max = self.settings.nesting_max;
        if nesting::is_deeper(&String::from_utf8_lossy(&body), depth_max) {
            invalid.one();
            let problem = format!("is nested deeper than {depth_max} levels");
            let error = FieldError::new("body", problem, "less nesting");
            return Err(Problem::fields(StatusCode::BAD_REQUEST, vec![error]));
        }
        Ok((origin, body))
    }

    /// Before all definitions are known none is said not to be there.
    pub(crate) fn check_known(&self) -> Result<(), Problem> {
        if self.catalog.is_known() {
            return Ok(());
        }
        self.metrics.refused(Refusal::Full).one();
        Err(Problem::unavailable(
            "templates and configurations are not read yet; nothing was stored",
            self.settings.retry_after_seconds.max(1),
        ))
    }

    /// Takes one message. `said` is what an idempotency key stands for.
    async fn one(
        &self,
        origin: &Origin,
        request: &str,
        manner: Manner<'_>,
        said: &[u8],
    ) -> Result<Taken, Problem> {
        let _place = self.places.try_acquire().map_err(|_| self.full())?;
        let place = self.broker.next_place(1);
        let prepared = self.prepare_message(origin, request, manner, said, None, place)?;
        let Prepared {
            delivery,
            record,
            keys,
            ..
        } = prepared;
        if let Some(keys) = keys {
            let asked = Asked {
                delivery,
                record,
                keys,
            };
            return Box::pin(Taking::new(self, asked, self.patience()).take()).await;
        }
        if let Err(error) = self.broker.append(vec![record]).await {
            return Err(self.not_durable(&delivery.id, &error));
        }
        self.accepted(&delivery);
        Ok(Taken {
            event_id: delivery.id,
            correlation_id: delivery.correlation_id,
            status: delivery.status,
            is_again: false,
        })
    }

    fn item(
        &self,
        origin: &Origin,
        index: u64,
        item: &str,
        place: Option<Place>,
    ) -> Result<Prepared, Problem> {
        let (bytes_max, depth_max) = (self.settings.event_bytes_max, self.settings.nesting_max);
        if item.len() > bytes_max || nesting::is_deeper(item, depth_max) {
            self.metrics.refused(Refusal::TooLarge).one();
            return Err(Problem::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!(
                    "the message is larger than {bytes_max} bytes, or nested deeper than {depth_max} levels"
                ),
            ));
        }
        self.prepare_message(origin, item, Manner::Plain, item.as_bytes(), Some(index), place)
    }

    /// Renders one message of many that go out together; it is known by their id, not by what it says.
    pub(crate) fn prepare_one_of(
        &self,
        origin: &Origin,
        request: &str,
        place: Option<Place>,
    ) -> Result<Prepared, Problem> {
        self.prepare_message(origin, request, Manner::Plain, &[], None, place)
    }

    /// Renders a message, and checks the event that it makes.
    fn prepare_message(
        &self,
        origin: &Origin,
        request: &str,
        manner: Manner<'_>,
        said: &[u8],
        item: Option<u64>,
        place: Option<Place>,
    ) -> Result<Prepared, Problem> {
        let composed = compose::compose(&self.catalog, &self.settings, &origin.caller, request, manner)
            .inspect_err(|_| self.metrics.refused(Refusal::Invalid).one())?;
        self.prepare_composed(composed.event.as_bytes(), said, origin, item, place, clock::now())
            .map_err(|problem| composed.explain(problem))
    }
}
