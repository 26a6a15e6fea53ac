//! `GET /replays`, `GET /replays/{id}`, and `POST /replays/{id}/pause`, `/resume`, `/cancel`.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use axum::{Json, extract::State, http::StatusCode};
use jiff::Timestamp;
use posthaste_event::{
    Millis, clock,
    control::{Control, LetterFilter, Replay, ReplayState, Wish},
    fields::excerpt,
};
use posthaste_service::{
    Problem,
    auth::Caller,
    http::{Listing, PathParams, QueryParams},
};
use serde::Serialize;
use tracing::info;

use super::{READING_SECONDS, refused, said};
use crate::{
    index::marks::Counts,
    jobs::{Known, progress::Progress},
    membership::Replays,
};

/// Replays in one answer, unless the request says otherwise, and at most.
pub(super) const LIMIT_DEFAULT: usize = 50;
/// Most of one answer.
pub(super) const LIMIT_MAX: usize = 1_000;

/// What a replay may be doing.
pub(super) const STATES: [&str; 5] = ["running", "paused", "stopped", "cancelled", "finished"];

#[derive(Serialize)]
pub(super) struct Page {
    replays: Vec<View>,
}

const LISTING: Listing = Listing {
    others: &[],
    states: &STATES,
    limit_default: LIMIT_DEFAULT,
    limit_max: LIMIT_MAX,
};

/// A replay as people see it. Times are RFC 3339.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct View {
    replay_id: String,
    state: &'static str,
    /// Why it stopped by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    created_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    finished_at: Option<String>,
    filter: LetterFilter,
    from: u64,
    limit: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    rate: Option<f64>,
    ramp_seconds: u64,
    refailure_ratio_max: f64,
    /// Letters that were meant.
    total: u64,
    /// Those that went out, those of them that died again, and which part that is.
    replayed: u64,
    refailed: u64,
    refailure_ratio: f64,
    /// Those that cannot go out, such as those too large for the broker.
    not_replayed: u64,
    /// Those that went out otherwise before their turn.
    gone: u64,
    remaining: u64,
    percent: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    seconds_left: Option<f64>,
}

impl View {
    fn of(
        caller: &Caller,
        known: &Known,
        replay: &Replay,
        counted: &BTreeMap<u32, Counts>,
        now: Millis,
    ) -> Self {
        let progress = Progress::of(known, replay, counted);
        Self {
            replay_id: replay.id.clone(),
            state: state_of(known),
            reason: known.state.as_ref().and_then(|state| state.reason.clone()),
            created_at: time(replay.at),
            finished_at: progress.finished_at.map(time),
            filter: said(caller, &replay.filter),
            from: replay.from,
            limit: replay.limit,
            rate: replay.rate,
            ramp_seconds: replay.ramp_ms / 1_000,
            refailure_ratio_max: replay.refailure_ratio,
            total: progress.total,
            replayed: progress.replayed,
            refailed: progress.refailed,
            refailure_ratio: progress.refailure_ratio(),
            not_replayed: progress.skipped,
            gone: progress.gone,
            remaining: progress.remaining(),
            percent: progress.percent(),
            seconds_left: progress.seconds_left(known, replay, now),
        }
    }
}

/// What a replay is doing, in a word.
pub(super) fn state_of(known: &Known) -> &'static str {
    match known.wish() {
        _ if known.is_finished() => "finished",
        Wish::Running => "running",
        Wish::Paused => "paused",
        Wish::Stopped => "stopped",
        Wish::Cancelled => "cancelled",
    }
}

/// `GET /replays`.
pub(super) async fn list(
    State(replays): State<Arc<Replays>>,
    caller: Caller,
    QueryParams(mut query): QueryParams<HashMap<String, String>>,
) -> Result<Json<Page>, Problem> {
    let (state, limit) = LISTING.read(&mut query).map_err(refused)?;
    known_now(&replays)?;
    let mut page = Vec::new();
    let all = replays.jobs.all();
    let wanted = all
        .iter()
        .filter(|known| may_see(&caller, known))
        .filter(|known| state.as_ref().is_none_or(|state| state == state_of(known)));
    for known in wanted.take(limit) {
        page.extend(view(&replays, &caller, known).await);
    }
    Ok(Json(Page { replays: page }))
}

/// `GET /replays/{id}`.
pub(super) async fn one(
    State(replays): State<Arc<Replays>>,
    caller: Caller,
    PathParams(id): PathParams<String>,
) -> Result<Json<View>, Problem> {
    let known = find(&replays, &caller, &id)?;
    let view = view(&replays, &caller, &known).await;
    view.map(Json).ok_or_else(|| unknown(&id))
}

/// `POST /replays/{id}/pause`, `/resume` and `/cancel`.
pub(super) async fn wish(
    State(replays): State<Arc<Replays>>,
    caller: Caller,
    PathParams((id, wish)): PathParams<(String, String)>,
) -> Result<Json<View>, Problem> {
    let wish = match wish.as_str() {
        "pause" => Wish::Paused,
        "resume" => Wish::Running,
        "cancel" => Wish::Cancelled,
        other => {
            let detail = format!(
                "a replay cannot be asked to {:?}; accepted: pause, resume, cancel",
                excerpt(other)
            );
            return Err(Problem::new(StatusCode::NOT_FOUND, detail));
        }
    };
    let known = find(&replays, &caller, &id)?;
    let Some(now) = view(&replays, &caller, &known).await else {
        return Err(unknown(&id));
    };
    if known.wish() == wish {
        return Ok(Json(now));
    }
    // Paused is a wait that an operator asked for; one that stopped by itself waits already.
    if known.is_over() || (known.wish() == Wish::Stopped && wish == Wish::Paused) {
        let detail = format!("replay {id} is {} already", now.state);
        return Err(Problem::new(StatusCode::CONFLICT, detail));
    }
    let state = ReplayState {
        id: id.clone(),
        state: wish,
        at: clock::now(),
        reason: None,
        replayed: now.replayed,
        refailed: now.refailed,
        unknown: Default::default(),
    };
    replays
        .jobs
        .tell(&replays.broker, Control::ReplayState(state))
        .await
        .map_err(|error| {
            let detail = format!("replay {id} could not be told: {error}; ask again");
            Problem::unavailable(detail, READING_SECONDS)
        })?;
    let known = find(&replays, &caller, &id)?;
    info!(replay.id = %id, "replay {id} is {} now", state_of(&known));
    let view = view(&replays, &caller, &known).await;
    view.map(Json).ok_or_else(|| unknown(&id))
}

async fn view(replays: &Replays, caller: &Caller, known: &Known) -> Option<View> {
    let replay = known.replay.clone()?;
    let id = replay.id.clone();
    // Without an index, as just after a start, there is what the control topic says.
    let counted = match replays.open() {
        Ok(open) => open.with_index(move |index| index.counts(&id)).await,
        Err(error) => Err(error),
    };
    Some(View::of(
        caller,
        known,
        &replay,
        &counted.unwrap_or_default(),
        clock::now(),
    ))
}

/// Whoever is bound to a tenant sees the replays that mean its letters alone.
pub(super) fn may_see(caller: &Caller, known: &Known) -> bool {
    let of = |replay: &Arc<Replay>| replay.filter.tenant.as_deref() == caller.bound_to();
    caller.bound_to().is_none() || known.replay.as_ref().is_some_and(of)
}

fn find(replays: &Replays, caller: &Caller, id: &str) -> Result<Known, Problem> {
    if let Some(known) = replays.jobs.get(id).filter(|known| may_see(caller, known)) {
        return Ok(known);
    }
    known_now(replays)?;
    Err(unknown(id))
}

fn known_now(replays: &Replays) -> Result<(), Problem> {
    if replays.jobs.is_read() {
        return Ok(());
    }
    Err(Problem::unavailable(
        "the replays are being read",
        READING_SECONDS,
    ))
}

fn unknown(id: &str) -> Problem {
    Problem::new(
        StatusCode::NOT_FOUND,
        format!(
            "no replay {:?} is known; GET /replays lists those that are. Old ones are forgotten (replay.finished_kept_max)",
            excerpt(id)
        ),
    )
}

fn time(at: Millis) -> String {
    Timestamp::from_millisecond(at).map_or_else(|_| at.to_string(), |at| format!("{at:.3}"))
}
