//! `/schedules`: events that are sent again and again, over HTTP.
//!
//! | path | answer |
//! |---|---|
//! | `GET /schedules` | `{tenant, items: [{code, version, updatedAt, updatedBy}], next?}`, by code; `?tenant=`, `?after=`, `?limit=` |
//! | `GET /schedules/{code}` | `{code, tenant, version, updatedAt, updatedBy, schedule, next}`, with an `ETag`; `next` are its next times |
//! | `PUT /schedules/{code}` | 201 when it is new, 200 when it replaces another; `If-Match` and `If-None-Match: *` are honoured |
//! | `DELETE /schedules/{code}` | 204; 404 when there was none |
//!
//! A `PUT` plans the first firing, a scheduled event; the retry service plans each next one when it takes one out of the wheel.
//! The firing is written before the definition, so that no schedule that was taken is without one.

mod said;
mod sealed;

pub(crate) use said::NOT_ITS_OWN;

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Extension, Json, Router,
    extract::{Request, State},
    http::{HeaderMap, StatusCode},
    response::Response,
    routing::get,
};
use posthaste_broker::NewRecord;
use posthaste_definitions::{Definition, Key, Kind, schedule::Schedule};
use posthaste_event::{
    FieldError, Millis, Value, Work, clock,
    firing::{self, Firing},
    time,
};
use posthaste_sealing::Ring;
use posthaste_service::{
    Problem,
    auth::{Caller, Role},
    http::{CorrelationId, PathParams, QueryParams},
};
use serde_json::{Value as Json_, json, value::RawValue};

use crate::{
    Intake, Origin, Prepared,
    defining::{self, Asked, AskedMany, refused},
};

/// How many of its next times are shown.
const NEXT: usize = 5;

type Shared = State<Arc<Intake>>;

/// The paths of schedules.
pub(crate) fn router(intake: Arc<Intake>) -> Router {
    Router::new()
        .route("/schedules", get(list))
        .route("/schedules/{code}", get(one).put(put).delete(delete))
        .with_state(intake)
}

async fn list(
    State(intake): Shared,
    caller: Caller,
    QueryParams(asked): QueryParams<AskedMany>,
) -> Result<Json<Json_>, Problem> {
    intake.catalog.defining().list(Kind::Schedule, &caller, asked)
}

async fn one(
    State(intake): Shared,
    caller: Caller,
    PathParams(code): PathParams<String>,
    QueryParams(asked): QueryParams<Asked>,
) -> Result<Response, Problem> {
    let defining = intake.catalog.defining();
    let (key, definition) = defining.get(Kind::Schedule, &caller, asked, &code)?;
    let ring = intake.ring_for(&caller);
    Ok(shown(
        StatusCode::OK,
        &key,
        &definition,
        ring.as_deref(),
        clock::now(),
    ))
}

async fn put(
    State(intake): Shared,
    Extension(CorrelationId(correlation_id)): Extension<CorrelationId>,
    caller: Caller,
    PathParams(code): PathParams<String>,
    QueryParams(asked): QueryParams<Asked>,
    request: Request,
) -> Result<Response, Problem> {
    let defining = intake.catalog.defining();
    let key = defining.key(Kind::Schedule, &caller, asked, &code)?;
    let (parts, body) = request.into_parts();
    let expected = defining::expected(&parts.headers)?;
    let body = defining.read(&parts, body).await?;
    let now = clock::now();
    let schedule = said::read(&body, &intake.settings, now).map_err(refused)?;
    let mut origin = Origin::new(correlation_id, &parts)?;
    origin.firing_id = Some(sealed::firing_id(&schedule, key.code()));
    let model = intake.model(&schedule.event, key.tenant(), &origin, now)?;
    let first = first(&schedule, now).map_err(|error| refused(vec![error]))?;
    let before = defining.as_expected(&key, &expected)?;
    let ring = intake.sealer.ring();
    let is_same = |before: &Arc<Definition>| {
        let before = read(before);
        before
            .is_some_and(|kept| sealed::says_the_same(&kept, &schedule, &model, key.code(), ring.as_deref()))
    };
    if let Some(before) = before.as_ref().filter(|before| is_same(before)) {
        let ring = intake.ring_for(&caller);
        return Ok(shown(StatusCode::OK, &key, before, ring.as_deref(), now));
    }
    defining.check_room(&key)?;
    if !schedule.paused {
        intake.plan(&model, &schedule, key.code(), first, now).await?;
    }
    let body = sealed::kept(&schedule, &model).and_then(|kept| serde_json::value::to_raw_value(&kept).ok());
    let body = body.ok_or_else(|| {
        Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the schedule cannot be written",
        )
    })?;
    let written = defining.put(&key, body, &expected, &caller).await?;
    let status = if before.is_none() {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    let ring = intake.ring_for(&caller);
    Ok(shown(status, &key, &written, ring.as_deref(), now))
}

async fn delete(
    State(intake): Shared,
    caller: Caller,
    PathParams(code): PathParams<String>,
    QueryParams(asked): QueryParams<Asked>,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    let defining = intake.catalog.defining();
    defining
        .delete(Kind::Schedule, &caller, asked, &code, &headers)
        .await
}

/// When it fires first; also of one that rests, since one that never fires is a mistake.
fn first(schedule: &Schedule, now: Millis) -> Result<Millis, FieldError> {
    let timing = schedule.timing()?;
    timing.after(now).ok_or_else(|| {
        let (field, accepted) = match schedule.ends_at {
            Some(_) => ("endsAt", "a time after the first firing"),
            None => ("cron", "a pattern that some day in the future fits"),
        };
        FieldError::new(field, "it would never fire", accepted)
    })
}

fn read(definition: &Definition) -> Option<Schedule> {
    serde_json::from_str(definition.body.get()).ok()
}

impl Intake {
    /// What this caller may see sealed payloads with.
    fn ring_for(&self, caller: &Caller) -> Option<Arc<Ring>> {
        self.sealer.ring().filter(|_| caller.has(Role::ReadPayload))
    }

    /// The event that each firing is like, checked as `POST /event` checks it.
    fn model(&self, event: &RawValue, tenant: &str, origin: &Origin, now: Millis) -> Result<Work, Problem> {
        let named = |problem: Problem| {
            if problem.errors.is_empty() {
                return problem;
            }
            let mut errors = problem.errors;
            for error in &mut errors {
                error.field = format!("event.{}", error.field);
            }
            // The detail names the fields as well.
            Problem::fields(problem.status, errors)
        };
        let unreadable = || {
            let error = FieldError::new("event", "cannot be read", "an event, as POST /event takes it");
            refused(vec![error])
        };
        let mut fields: BTreeMap<String, Box<RawValue>> =
            serde_json::from_str(event.get()).map_err(|_| unreadable())?;
        let ours = serde_json::value::to_raw_value(tenant).map_err(|_| unreadable())?;
        let own = fields.entry("tenant".to_owned()).or_insert(ours);
        if serde_json::from_str::<&str>(own.get()).ok() != Some(tenant) {
            let accepted = format!("{tenant:?}, whose schedule it is, or none");
            let error = FieldError::new("event.tenant", "is another tenant", accepted);
            return Err(refused(vec![error]));
        }
        let body = serde_json::to_vec(&fields).map_err(|_| unreadable())?;
        let Prepared { record, .. } = self
            .prepare(&body, &body, origin, None, None, now)
            .map_err(named)?;
        match record.value.as_ref().map(Value::decode) {
            Some(Ok(Value::Work(work))) => Ok(work),
            _ => Err(unreadable()),
        }
    }

    /// Makes the first firing durable.
    async fn plan(
        &self,
        model: &Work,
        schedule: &Schedule,
        code: &str,
        at: Millis,
        now: Millis,
    ) -> Result<(), Problem> {
        let firing = Firing {
            schedule: code.to_owned(),
            plan: schedule.plan,
            planned_at: schedule.planned_at,
            at,
        };
        let failed = |reason: &dyn std::fmt::Display| {
            Problem::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                format!("the first firing cannot be written: {reason}"),
            )
        };
        let planned = firing::plan(model, firing, &self.instance, now).map_err(|error| failed(&error))?;
        let id = planned.work.delivery.id.clone();
        let value = Value::Work(planned.work)
            .encode()
            .map_err(|error| failed(&error))?;
        let record = NewRecord::new(planned.topic, planned.key, value);
        let appended = self.broker.append(vec![record]).await;
        // What it answers tells of an event; it is none of the client's as long as the schedule is not there.
        appended.map_err(|error| Problem {
            event_id: None,
            ..self.not_durable(&id, &error)
        })
    }
}

/// A sealed event is shown opened to who has the `ring` for it.
fn shown(
    status: StatusCode,
    key: &Key,
    definition: &Definition,
    ring: Option<&Ring>,
    now: Millis,
) -> Response {
    let schedule = read(definition);
    let opened = schedule
        .as_ref()
        .and_then(|schedule| sealed::opened(schedule, key.tenant(), key.code(), ring?));
    let schedule = opened.or(schedule);
    let next = schedule
        .as_ref()
        .map(|schedule| next(schedule, now))
        .unwrap_or_default();
    let said = schedule.map(|schedule| {
        let mut said = json!({
            "cron": schedule.cron,
            "timeZone": schedule.time_zone,
            "missed": schedule.missed,
            "paused": schedule.paused,
            "event": schedule.event,
        });
        for (name, time) in [("startsAt", schedule.starts_at), ("endsAt", schedule.ends_at)] {
            if let Some(time) = time {
                said[name] = json!(time::write(time));
            }
        }
        said
    });
    defining::shown(
        status,
        key,
        definition,
        [("schedule", json!(said)), ("next", json!(next))],
    )
}

/// Its next times.
fn next(schedule: &Schedule, now: Millis) -> Vec<String> {
    let Ok(timing) = schedule.timing() else {
        return Vec::new();
    };
    let first = timing.after(now).filter(|_| !schedule.paused);
    let times = std::iter::successors(first, |last| timing.after(*last));
    times.take(NEXT).map(time::write).collect()
}
