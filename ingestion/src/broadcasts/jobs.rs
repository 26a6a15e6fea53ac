//! Broadcasts that are known: shown, listed, and told to rest, go on or end.

use std::{collections::HashMap, sync::Arc};

use axum::{Json, extract::State, http::StatusCode};
use posthaste_broadcast::Known;
use posthaste_broker::AppendError;
use posthaste_event::{
    broadcast::{Broadcast, BroadcastState},
    clock,
    control::{Control, Wish},
    fields::excerpt,
};
use posthaste_service::{
    Problem,
    auth::Caller,
    http::{Listing, PathParams, QueryParams},
};
use serde_json::{Map, Value as AnyJson, json};
use tracing::info;

use super::{
    LIMIT_DEFAULT, LIMIT_MAX, Shared,
    tally::NO_STORE,
    view::{self, STATES, View},
};
use crate::{Intake, defining};

const LISTING: Listing = Listing {
    others: &["tenant", "after"],
    states: &STATES,
    limit_default: LIMIT_DEFAULT,
    limit_max: LIMIT_MAX,
};

pub(super) async fn one(
    State(intake): Shared,
    caller: Caller,
    PathParams(id): PathParams<String>,
) -> Result<Json<View>, Problem> {
    let (_, broadcast) = intake.broadcast(&caller, &id)?;
    let tally = match intake.claims.is_reachable() {
        Ok(()) => intake.broadcasts.tallied.of(&broadcast).await,
        Err(_) => Err(NO_STORE),
    };
    // As it is now: counting may have taken a while.
    let (known, broadcast) = intake.broadcast(&caller, &id)?;
    Ok(Json(View::of(&known, &broadcast, clock::now()).with(tally)))
}

pub(super) async fn list(
    State(intake): Shared,
    caller: Caller,
    QueryParams(mut query): QueryParams<HashMap<String, String>>,
) -> Result<Json<AnyJson>, Problem> {
    intake.known_broadcasts()?;
    let (state, limit) = LISTING.read(&mut query).map_err(defining::refused)?;
    let mut tenant = query.remove("tenant");
    caller.narrow(&mut tenant, "tenant")?;
    let after = query.remove("after");
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

pub(super) async fn wish(
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
    // What was handed over and is not sent yet can be withdrawn when all of it was.
    let is_too_late = known.is_over() && wish != Wish::Cancelled;
    if is_too_late || known.wish() == Wish::Cancelled {
        let status = view::status(&known, &broadcast, now);
        let detail = format!("broadcast {id} is {status} already");
        return Err(Problem::new(StatusCode::CONFLICT, detail));
    }
    let broadcasts = &intake.broadcasts;
    let retry = intake.settings.retry_after_seconds.max(1);
    if wish == Wish::Cancelled && !broadcasts.known.may_cancel(&broadcasts.settings, now) {
        let detail = "too many broadcasts were cancelled of which something may wait (broadcast.cancelled_kept_max); pause it, or ask later";
        return Err(Problem::unavailable(detail, retry));
    }
    let state = BroadcastState {
        id: id.clone(),
        state: wish,
        at: now,
        tenant: (wish == Wish::Cancelled).then(|| broadcast.tenant.clone()),
        unknown: Map::new(),
    };
    let told = Control::BroadcastState(state);
    let telling = broadcasts.known.tell(&intake.broker, told).await;
    telling.map_err(|error: AppendError| {
        let detail = format!("broadcast {id} could not be told: {error}; ask again");
        Problem::unavailable(detail, retry)
    })?;
    let (known, broadcast) = intake.broadcast(&caller, &id)?;
    info!(broadcast.id = %id, "broadcast {id} is {} now", view::status(&known, &broadcast, now));
    Ok(Json(View::of(&known, &broadcast, now)))
}

impl Intake {
    pub(super) fn known_broadcasts(&self) -> Result<(), Problem> {
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
