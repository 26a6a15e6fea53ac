//! `/broadcasts`: one message for many recipients.
//!
//! | path | what |
//! |---|---|
//! | `POST /broadcasts` | JSON: `{message, recipients, name?, tenant?, priority?, scheduledAt?, chunkSize?, chunkDelay?}`; or lines (NDJSON), the first of which is the same without `recipients`, and each other one a recipient |
//! | `GET /broadcasts` | the newest first; `?tenant=`, `?state=`, `?after=`, `?limit=` |
//! | `GET /broadcasts/{id}` | how far it is |
//! | `POST /broadcasts/{id}/pause`, `/resume`, `/cancel` | what it does then |
//!
//! In place of `recipients` may stand `list`, the code of a stored list ([`lists`]).
//!
//! `message` is a request as `POST /event` takes it, or, with a `templateCode`, as `POST /messages/request` does. A recipient is
//! `{payload?, metadata?}`, with a template also `{channel?, locale?}`: what it brings stands over the message's. All is checked and
//! rendered while it is uploaded, and nothing is sent before all of it is durable.

mod lists;
mod said;
mod upload;
mod view;

use std::{collections::HashMap, sync::Arc};

use axum::{
    Extension, Json, Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header, request::Parts},
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use http_body_util::BodyExt as _;
use posthaste_broadcast::{Broadcasts, Known};
use posthaste_broker::AppendError;
use posthaste_event::{
    FieldError,
    broadcast::{Broadcast, BroadcastState},
    clock,
    control::{Control, Wish},
    fields::excerpt,
};
use posthaste_service::{
    Problem,
    auth::Caller,
    http::{CorrelationId, PathParams, QueryParams, read_body},
    metrics::Refusal,
};
use posthaste_store::Lists;
use serde_json::{Map, Value as AnyJson, json, value::RawValue};
use tokio::sync::Semaphore;
use tracing::{error, info};

use self::{said::Said, upload::Upload, view::View};
pub(crate) use self::{
    said::{NAME_CHARS_MAX, NOT_IN_MESSAGE},
    view::STATES,
};
use crate::{
    IDEMPOTENCY_KEY, Intake, Origin, bulk,
    bulk::lines::{Line, Lines},
    defining, nesting,
};

/// Those of a page that asks for no number.
pub(crate) const LIMIT_DEFAULT: usize = 50;
/// Most of a page.
pub(crate) const LIMIT_MAX: usize = 1_000;
/// Levels around what stands in a recipient or a message.
const LEVELS_AROUND: usize = 3;

/// What taking broadcasts needs.
pub(crate) struct Taken {
    pub(crate) known: Arc<Broadcasts>,
    pub(crate) lists: Arc<dyn Lists>,
    pub(crate) settings: posthaste_broadcast::Settings,
    uploads: Arc<Semaphore>,
}

impl Taken {
    pub(crate) fn new(
        known: Arc<Broadcasts>,
        lists: Arc<dyn Lists>,
        settings: posthaste_broadcast::Settings,
    ) -> Self {
        Self {
            known,
            lists,
            uploads: Arc::new(Semaphore::new(settings.uploads_max)),
            settings,
        }
    }
}

pub use lists::sweep as sweep_lists;
pub(crate) use lists::{LIMIT_DEFAULT as LISTS_DEFAULT, LIMIT_MAX as LISTS_MAX};

type Shared = State<Arc<Intake>>;

/// The paths of broadcasts.
pub(crate) fn router(intake: Arc<Intake>) -> Router {
    Router::new()
        .route("/broadcasts", get(list).post(send))
        .route("/broadcasts/{id}", get(one))
        .route("/broadcasts/{id}/{wish}", post(wish))
        .with_state(Arc::clone(&intake))
        .merge(lists::router(intake))
}

/// How the recipients come.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum Form {
    Whole,
    Lines,
}

async fn send(
    State(intake): Shared,
    Extension(CorrelationId(correlation_id)): Extension<CorrelationId>,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let invalid = intake.metrics.refused(Refusal::Invalid);
    let form = form(&parts.headers).inspect_err(|_| invalid.one())?;
    let body = bulk::decoded(&parts.headers, body).inspect_err(|_| invalid.one())?;
    let origin = Origin::new(correlation_id, &parts).inspect_err(|_| invalid.one())?;
    if origin.key.is_some() {
        invalid.one();
        let problem = "is not taken for broadcasts";
        let accepted = "nothing; after a 503 look at GET /broadcasts before sending again";
        let error = FieldError::new(IDEMPOTENCY_KEY, problem, accepted);
        return Err(defining::refused(vec![error]));
    }
    intake.check_known()?;
    intake.known_broadcasts()?;
    let settings = &intake.broadcasts.settings;
    if intake.broadcasts.known.unfinished() >= settings.unfinished_max {
        intake.metrics.refused(Refusal::Full).one();
        let detail = format!(
            "nothing was sent: {} broadcasts are not at their end, which is all that broadcast.unfinished_max allows",
            settings.unfinished_max
        );
        return Err(Problem::unavailable(
            detail,
            intake.settings.retry_after_seconds.max(1),
        ));
    }
    let place = Arc::clone(&intake.broadcasts.uploads)
        .try_acquire_owned()
        .map_err(|_| intake.full())?;
    // A task of its own: when the client goes away, what it left behind is cleared up all the same.
    let taking = tokio::spawn(async move {
        let taken = match form {
            Form::Whole => whole(intake, origin, &parts, body).await,
            Form::Lines => lines(intake, origin, body).await,
        };
        drop(place);
        taken
    });
    let broadcast = taking.await.map_err(|reason| {
        error!(%reason, "a broadcast was given up on: {reason}");
        let detail = "nothing was sent: it failed inside the service; its log has the reason";
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, detail)
    })??;
    Ok(answer(&broadcast))
}

fn answer(broadcast: &Broadcast) -> Response {
    let location = format!("/broadcasts/{}", broadcast.id);
    let body = json!({
        "message": "Broadcast accepted",
        "broadcastId": broadcast.id,
        "recipients": broadcast.recipients,
        "totalSteps": broadcast.chunks,
    });
    (StatusCode::ACCEPTED, [(header::LOCATION, location)], Json(body)).into_response()
}

fn form(headers: &HeaderMap) -> Result<Form, Problem> {
    let essence = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.as_bytes().split(|byte| *byte == b';').next())
        .unwrap_or_default()
        .trim_ascii()
        .to_ascii_lowercase();
    match essence.as_slice() {
        b"application/json" => Ok(Form::Whole),
        b"application/x-ndjson"
        | b"application/ndjson"
        | b"application/jsonl"
        | b"application/x-jsonlines" => Ok(Form::Lines),
        _ => Err(Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "the Content-Type header is missing or not taken here; accepted: application/json for a broadcast with its recipients, \
             application/x-ndjson for a broadcast and then one recipient a line",
        )),
    }
}

/// Takes a broadcast that was read whole.
async fn whole(intake: Arc<Intake>, origin: Origin, parts: &Parts, body: Body) -> Result<Broadcast, Problem> {
    let body = read_body(&parts.headers, body, intake.settings.bulk_bytes_max)
        .await
        .inspect_err(|problem| intake.count_unread(problem))?;
    let (said, recipients) = intake.said(&body, true)?;
    let recipients: Vec<&RawValue> = match recipients {
        Some(recipients) => serde_json::from_str(recipients.get()).map_err(|_| {
            let error = FieldError::new(
                "recipients",
                "is no list",
                "a list of objects, one for each recipient",
            );
            defining::refused(vec![error])
        })?,
        None => Vec::new(),
    };
    let list = said.list.clone();
    let mut upload = intake.upload(origin, said)?;
    let taken = async {
        if let Some(list) = list {
            upload.take_list(&list).await?;
        }
        for recipient in recipients {
            upload.take(recipient.get().as_bytes()).await?;
        }
        upload.finish().await
    };
    let taken = taken.await;
    if taken.is_err() {
        upload.abandon().await;
    }
    taken
}

/// Takes a broadcast line by line.
async fn lines(intake: Arc<Intake>, origin: Origin, mut body: Body) -> Result<Broadcast, Problem> {
    let mut lines = Lines::new(intake.settings.event_bytes_max);
    let mut origin = Some(origin);
    let mut upload: Option<Upload> = None;
    let taken = async {
        loop {
            let piece = match body.frame().await.transpose() {
                Ok(Some(frame)) => frame.into_data().ok(),
                Ok(None) => break,
                Err(_) => return Err(broke_off("nothing was sent")),
            };
            lines.push(&piece.unwrap_or_default());
            while let Some(line) = lines.next() {
                take_line(&intake, &mut origin, &mut upload, line).await?;
            }
        }
        if let Some(line) = lines.last() {
            take_line(&intake, &mut origin, &mut upload, line).await?;
        }
        match &mut upload {
            Some(upload) => upload.finish().await,
            None => {
                let accepted = "the broadcast in the first line, then one recipient a line";
                Err(defining::refused(vec![FieldError::new(
                    "body", "is empty", accepted,
                )]))
            }
        }
    };
    let taken = taken.await;
    if taken.is_err()
        && let Some(upload) = &upload
    {
        upload.abandon().await;
    }
    taken
}

async fn take_line(
    intake: &Arc<Intake>,
    origin: &mut Option<Origin>,
    upload: &mut Option<Upload>,
    line: Line,
) -> Result<(), Problem> {
    match (upload, line) {
        (Some(upload), Line::Item(json)) => upload.take(&json).await,
        (Some(upload), Line::TooLong) => Err(upload.take_too_long()),
        (first, Line::Item(json)) => {
            let (said, _) = intake.said(&json, false)?;
            if let Some(origin) = origin.take() {
                *first = Some(intake.upload(origin, said)?);
            }
            Ok(())
        }
        (None, Line::TooLong) => {
            let accepted = format!("up to {} bytes", intake.settings.event_bytes_max);
            let error = FieldError::new("body", "has a first line that is too long", accepted);
            Err(Problem::fields(StatusCode::PAYLOAD_TOO_LARGE, vec![error]))
        }
    }
}

fn broke_off(so: &str) -> Problem {
    let detail = format!("{so}: the body broke off, paused for too long, or cannot be decompressed");
    Problem::new(StatusCode::BAD_REQUEST, detail)
}

impl Intake {
    /// Reads what is said of a broadcast.
    fn said<'a>(
        &self,
        json: &'a [u8],
        has_recipients: bool,
    ) -> Result<(Said, Option<&'a RawValue>), Problem> {
        let invalid = self.metrics.refused(Refusal::Invalid);
        let refused = |error| {
            invalid.one();
            defining::refused(vec![error])
        };
        let text = std::str::from_utf8(json).map_err(|error| {
            let problem = format!("is not UTF-8 from byte {} on", error.valid_up_to());
            refused(FieldError::new("body", problem, "JSON in UTF-8"))
        })?;
        let depth_max = self.settings.nesting_max + LEVELS_AROUND;
        if nesting::is_deeper(text, depth_max) {
            let problem = format!("is nested deeper than {depth_max} levels");
            return Err(refused(FieldError::new("body", problem, "less nesting")));
        }
        let settings = &self.broadcasts.settings;
        said::read(text, has_recipients, settings, &self.settings, clock::now()).map_err(|errors| {
            invalid.one();
            defining::refused(errors)
        })
    }

    fn upload(self: &Arc<Self>, origin: Origin, mut said: Said) -> Result<Upload, Problem> {
        let mut tenant = said.tenant.take();
        origin.caller.narrow(&mut tenant, "tenant")?;
        let tenant = tenant.unwrap_or_else(|| origin.caller.tenant_default().to_owned());
        Ok(Upload::new(Arc::clone(self), origin, said, tenant))
    }

    fn known_broadcasts(&self) -> Result<(), Problem> {
        if self.broadcasts.known.is_read() {
            return Ok(());
        }
        let retry = self.settings.retry_after_seconds.max(1);
        Err(Problem::unavailable("the broadcasts are being read", retry))
    }

    fn broadcast(&self, caller: &Caller, id: &str) -> Result<(Known, Arc<Broadcast>), Problem> {
        let known = self.broadcasts.known.get(id);
        let found = known.and_then(|known| {
            let broadcast = known.broadcast.clone()?;
            caller.may_touch(&broadcast.tenant).then_some((known, broadcast))
        });
        if let Some(found) = found {
            return Ok(found);
        }
        self.known_broadcasts()?;
        let detail = format!(
            "no broadcast {:?} is known; GET /broadcasts lists those that are. Old ones are forgotten (broadcast.finished_kept_max)",
            excerpt(id)
        );
        Err(Problem::new(StatusCode::NOT_FOUND, detail))
    }
}

async fn one(
    State(intake): Shared,
    caller: Caller,
    PathParams(id): PathParams<String>,
) -> Result<Json<View>, Problem> {
    let (known, broadcast) = intake.broadcast(&caller, &id)?;
    Ok(Json(View::of(&known, &broadcast, clock::now())))
}

async fn list(
    State(intake): Shared,
    caller: Caller,
    QueryParams(mut query): QueryParams<HashMap<String, String>>,
) -> Result<Json<AnyJson>, Problem> {
    intake.known_broadcasts()?;
    let mut tenant = query.remove("tenant");
    caller.narrow(&mut tenant, "tenant")?;
    let (state, after, limit) = asked(query).map_err(defining::refused)?;
    let now = clock::now();
    let is_meant = |known: &Known| {
        known.broadcast.as_ref().is_some_and(|broadcast| {
            tenant.as_ref().is_none_or(|tenant| *tenant == broadcast.tenant)
                && after.as_ref().is_none_or(|after| broadcast.id < *after)
                && state
                    .as_ref()
                    .is_none_or(|state| state == view::status(known, broadcast, now))
        })
    };
    let mut found = intake.broadcasts.known.list(limit + 1, is_meant);
    let has_more = found.len() > limit;
    found.truncate(limit);
    let last = found
        .last()
        .and_then(|known| Some(known.broadcast.as_ref()?.id.clone()));
    let views: Vec<View> = found
        .iter()
        .filter_map(|known| Some(View::of(known, known.broadcast.as_ref()?, now)))
        .collect();
    let mut answer = json!({ "broadcasts": views });
    if let Some(last) = last.filter(|_| has_more) {
        answer["next"] = json!(last);
    }
    Ok(Json(answer))
}

type Asked = (Option<String>, Option<String>, usize);

fn asked(mut query: HashMap<String, String>) -> Result<Asked, Vec<FieldError>> {
    let mut errors = Vec::new();
    let state = query.remove("state");
    if state.as_deref().is_some_and(|state| !STATES.contains(&state)) {
        errors.push(FieldError::new("state", "is not known", STATES.join(", ")));
    }
    let after = query.remove("after");
    let limit = query
        .remove("limit")
        .map_or(Some(LIMIT_DEFAULT), |limit| limit.parse().ok());
    let limit = limit
        .filter(|limit| (1..=LIMIT_MAX).contains(limit))
        .unwrap_or_else(|| {
            errors.push(FieldError::new(
                "limit",
                "is out of range",
                format!("1 to {LIMIT_MAX}"),
            ));
            LIMIT_DEFAULT
        });
    for name in query.keys() {
        errors.push(FieldError::new(
            excerpt(name),
            "is not known",
            "tenant, state, after, limit",
        ));
    }
    if errors.is_empty() {
        Ok((state, after, limit))
    } else {
        Err(errors)
    }
}

async fn wish(
    State(intake): Shared,
    caller: Caller,
    PathParams((id, wish)): PathParams<(String, String)>,
) -> Result<Json<View>, Problem> {
    let wish = match wish.as_str() {
        "pause" => Wish::Paused,
        "resume" => Wish::Running,
        "cancel" => Wish::Cancelled,
        other => {
            let detail = format!(
                "a broadcast cannot be asked to {:?}; accepted: pause, resume, cancel",
                excerpt(other)
            );
            return Err(Problem::new(StatusCode::NOT_FOUND, detail));
        }
    };
    let (known, broadcast) = intake.broadcast(&caller, &id)?;
    let now = clock::now();
    if known.wish() == wish {
        return Ok(Json(View::of(&known, &broadcast, now)));
    }
    if known.is_over() || known.wish() == Wish::Cancelled {
        let status = view::status(&known, &broadcast, now);
        let detail = format!("broadcast {id} is {status} already");
        return Err(Problem::new(StatusCode::CONFLICT, detail));
    }
    let state = BroadcastState {
        id: id.clone(),
        state: wish,
        at: now,
        unknown: Map::new(),
    };
    let told = Control::BroadcastState(state);
    let telling = intake.broadcasts.known.tell(&intake.broker, told).await;
    telling.map_err(|error: AppendError| {
        let detail = format!("broadcast {id} could not be told: {error}; ask again");
        Problem::unavailable(detail, intake.settings.retry_after_seconds.max(1))
    })?;
    let (known, broadcast) = intake.broadcast(&caller, &id)?;
    info!(broadcast.id = %id, "broadcast {id} is {} now", view::status(&known, &broadcast, now));
    Ok(Json(View::of(&known, &broadcast, now)))
}
