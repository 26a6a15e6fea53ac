//! `/broadcasts`: one message for many recipients.
//!
//! | path | what |
//! |---|---|
//! | `POST /broadcasts` | JSON: `{message, recipients, name?, tenant?, priority?, scheduledAt?, chunkSize?, chunkDelay?}`; or lines (NDJSON), the first of which is the same without `recipients`, and each other one a recipient |
//! | `GET /broadcasts` | the newest first; `?tenant=`, `?state=`, `?after=`, `?limit=` |
//! | `GET /broadcasts/{id}` | how far it is, and what became of its events as far as the store knows |
//! | `POST /broadcasts/{id}/pause`, `/resume`, `/cancel` | what it does then |
//!
//! In place of `recipients` may stand `list`, the code of a stored list ([`lists`]).
//!
//! `message` is a request as `POST /event` takes it, or, with a `templateCode`, as `POST /messages/request` does. A recipient is
//! `{payload?, metadata?}`, with a template also `{channel?, locale?}`: what it brings stands over the message's. All is checked and
//! rendered while it is uploaded, and nothing is sent before all of it is durable.

mod jobs;
mod keyed;
mod lists;
mod reseal;
mod room;
mod said;
mod tally;
mod upload;
mod view;

use std::sync::Arc;

use axum::{
    Extension, Json, Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use posthaste_broadcast::Broadcasts;
use posthaste_event::{FieldError, clock, nesting};
use posthaste_service::{
    Problem,
    http::{CorrelationId, read_body},
    metrics::Refusal,
};
use posthaste_store::{Lists, Tallies};
use serde_json::{json, value::RawValue};
use tracing::error;

use self::{
    room::{Place, Uploads},
    said::Said,
    tally::Tallied,
    upload::Upload,
};
pub(crate) use self::{
    said::{NAME_CHARS_MAX, NOT_IN_MESSAGE},
    view::STATES,
};
use crate::{
    Intake, Origin, REPLAYED, bulk,
    bulk::{
        Form,
        lines::{BodyLines, BrokeOff, Line},
    },
    defining,
    messages::CONFIG,
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
    uploads: Uploads,
    tallied: Tallied,
}

impl Taken {
    pub(crate) fn new(
        known: Arc<Broadcasts>,
        lists: Arc<dyn Lists>,
        tallies: Arc<dyn Tallies>,
        settings: posthaste_broadcast::Settings,
    ) -> Self {
        Self {
            known,
            lists,
            uploads: Uploads::new(settings.uploads_max, settings.tenant_uploads_max),
            tallied: Tallied::new(tallies),
            settings,
        }
    }
}

pub use lists::sweep as sweep_lists;
pub(crate) use lists::{LIMIT_DEFAULT as LISTS_DEFAULT, LIMIT_MAX as LISTS_MAX};
pub use reseal::Resealing;

type Shared = State<Arc<Intake>>;

/// The paths of broadcasts.
pub(crate) fn router(intake: Arc<Intake>) -> Router {
    Router::new()
        .route("/broadcasts", get(jobs::list).post(send))
        .route("/broadcasts/{id}", get(jobs::one))
        .route("/broadcasts/{id}/{wish}", post(jobs::wish))
        .with_state(Arc::clone(&intake))
        .merge(lists::router(intake))
}

/// What the content types that are taken are for.
const FORMS: &str = "application/json for a broadcast with its recipients, application/x-ndjson for a broadcast and then one \
                     recipient a line";

async fn send(
    State(intake): Shared,
    Extension(CorrelationId(correlation_id)): Extension<CorrelationId>,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let invalid = intake.metrics.refused(Refusal::Invalid);
    let (form, body) = bulk::opened(&parts.headers, body, FORMS).inspect_err(|_| invalid.one())?;
    let origin = Origin::new(correlation_id, &parts).inspect_err(|_| invalid.one())?;
    if origin.key.is_some() {
        intake.check_claims()?;
    }
    intake.check_known()?;
    intake.known_broadcasts()?;
    let mut place = intake.broadcasts.uploads.place().ok_or_else(|| intake.full())?;
    if let Some(tenant) = origin.caller.bound_to() {
        intake.check_room(&mut place, tenant)?;
    }
    // A task of its own: when the client goes away, what it left behind is cleared up all the same.
    let taking = tokio::spawn(async move {
        match form {
            Form::Whole => whole(intake, origin, place, &parts, body).await,
            Form::Lines => lines(intake, origin, place, body).await,
        }
    });
    let taken = taking.await.map_err(|reason| {
        error!(%reason, "a broadcast was given up on: {reason}");
        let detail = "nothing was sent: it failed inside the service; its log has the reason";
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, detail)
    })??;
    Ok(answer(&taken))
}

/// A broadcast that is known.
struct Accepted {
    id: String,
    recipients: u64,
    chunks: u32,
    /// It was taken before, with the same key.
    is_again: bool,
}

fn answer(accepted: &Accepted) -> Response {
    let location = format!("/broadcasts/{}", accepted.id);
    let body = json!({
        "message": "Broadcast accepted",
        "broadcastId": accepted.id,
        "recipients": accepted.recipients,
        "totalSteps": accepted.chunks,
    });
    let mut response = (StatusCode::ACCEPTED, [(header::LOCATION, location)], Json(body)).into_response();
    if accepted.is_again {
        let headers = response.headers_mut();
        headers.insert(REPLAYED, HeaderValue::from_static("true"));
    }
    response
}

/// Takes a broadcast that was read whole.
async fn whole(
    intake: Arc<Intake>,
    origin: Origin,
    place: Place,
    parts: &Parts,
    body: Body,
) -> Result<Accepted, Problem> {
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
    let mut upload = intake.upload(origin, said, place)?;
    upload.is_recognised_by(&body);
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
    upload.leave().await;
    taken
}

/// Takes a broadcast line by line.
async fn lines(intake: Arc<Intake>, origin: Origin, place: Place, body: Body) -> Result<Accepted, Problem> {
    let mut lines = BodyLines::new(body, intake.settings.event_bytes_max);
    let first = lines
        .next()
        .await
        .map_err(|BrokeOff| broke_off("nothing was sent"))?;
    let first = match first {
        Some(Line::Item(first)) => first,
        Some(Line::TooLong) => {
            let accepted = format!("up to {} bytes", intake.settings.event_bytes_max);
            let error = FieldError::new("body", "has a first line that is too long", accepted);
            return Err(Problem::fields(StatusCode::PAYLOAD_TOO_LARGE, vec![error]));
        }
        None => {
            let accepted = "the broadcast in the first line, then one recipient a line";
            let error = FieldError::new("body", "is empty", accepted);
            return Err(defining::refused(vec![error]));
        }
    };
    let (said, _) = intake.said(&first, false)?;
    let mut upload = intake.upload(origin, said, place)?;
    upload.is_recognised_by(&first);
    let taken = async {
        loop {
            let line = lines
                .next()
                .await
                .map_err(|BrokeOff| broke_off("nothing was sent"))?;
            match line {
                Some(Line::Item(json)) => {
                    upload.is_recognised_by(&json);
                    upload.take(&json).await?;
                }
                Some(Line::TooLong) => return Err(upload.take_too_long()),
                None => return upload.finish().await,
            }
        }
    };
    let taken = taken.await;
    upload.leave().await;
    taken
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

    fn upload(self: &Arc<Self>, origin: Origin, mut said: Said, mut place: Place) -> Result<Upload, Problem> {
        let mut tenant = said.tenant.take();
        origin.caller.narrow(&mut tenant, "tenant")?;
        let config = said.message.config();
        // Before a list or a recipient is looked at: nothing of it may go out.
        origin
            .caller
            .may_send_by(config.as_deref(), &format!("message.{CONFIG}"))
            .inspect_err(|_| self.metrics.refused(Refusal::Invalid).one())?;
        let tenant = tenant.unwrap_or_else(|| origin.caller.tenant_default().to_owned());
        self.check_room(&mut place, &tenant)?;
        Ok(Upload::new(Arc::clone(self), origin, said, tenant, place))
    }

    /// Whether this tenant may begin one more, which it says in `place`.
    fn check_room(&self, place: &mut Place, tenant: &str) -> Result<(), Problem> {
        let settings = &self.broadcasts.settings;
        let (all, own) = self.broadcasts.known.unfinished(tenant);
        // What is being uploaded now will be unfinished then.
        let problem = match place.is_of(tenant) {
            None => {
                let most = settings.tenant_uploads_max;
                format!(
                    "{most} uploads of this tenant are under way, which is all that broadcast.tenant_uploads_max allows"
                )
            }
            Some(uploads) if own + uploads > settings.tenant_unfinished_max => format!(
                "with what is being uploaded {} broadcasts of this tenant are not at their end; broadcast.tenant_unfinished_max allows {}",
                own + uploads,
                settings.tenant_unfinished_max
            ),
            Some(_) if all >= settings.unfinished_max => format!(
                "{all} broadcasts of all tenants are not at their end, which is all that broadcast.unfinished_max allows"
            ),
            Some(_) => return Ok(()),
        };
        self.metrics.refused(Refusal::Full).one();
        let retry = self.settings.retry_after_seconds.max(1);
        Err(Problem::unavailable(
            format!("nothing was sent: {problem}"),
            retry,
        ))
    }
}
