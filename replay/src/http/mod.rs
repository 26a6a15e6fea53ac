//! The paths of the replay service.

mod api;
mod letters;
mod replay;
mod replays;

use std::{collections::HashSet, sync::Arc};

use axum::{
    Router,
    http::StatusCode,
    routing::{get, post},
};
use posthaste_event::control::LetterFilter;
use posthaste_service::{Problem, auth::Caller};
use serde::Serialize;

pub use api::api;

use crate::membership::{IndexError, Membership, Replays};

/// When to come back while the index is being read, in seconds.
const READING_SECONDS: u32 = 2;

/// The paths of the replay service.
pub fn router(replays: Arc<Replays>) -> Router {
    Router::new()
        .route("/replay-dead-letter", post(replay::replay))
        .route("/dead-letters", get(letters::list))
        .route("/dead-letters/{id}", get(letters::one))
        .route("/replays", get(replays::list))
        .route("/replays/{id}", get(replays::one))
        .route("/replays/{id}/{wish}", post(replays::wish))
        .with_state(replays)
}

/// A request does what this instance owns; others own the rest.
#[derive(Serialize, Clone, Copy)]
struct Partitions {
    owned: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    total: Option<u32>,
}

/// The membership, once everything that is ours has been read.
async fn ready(replays: &Replays) -> Result<(Membership, Partitions), Problem> {
    let open = replays.open().map_err(unavailable)?;
    let (owned, read) = open
        .with_index(|index| Ok(index.partitions()))
        .await
        .map_err(unavailable)?;
    if owned == 0 {
        let detail = "this instance has no partition of the dead letters now; another one may have them";
        return Err(Problem::unavailable(detail, READING_SECONDS));
    }
    if read < owned {
        let detail = format!("the dead letters are being read: {read} of {owned} partitions so far");
        return Err(Problem::unavailable(detail, READING_SECONDS));
    }
    let total = replays.partitions_total();
    Ok((open, Partitions { owned, total }))
}

/// Lets a filter mean the events that the caller calls by its ids.
fn mean(caller: &Caller, filter: &mut LetterFilter) {
    if let Some(ids) = &mut filter.ids {
        *ids = ids.iter().flat_map(|id| caller.meant(id)).collect();
    }
}

/// A filter as the caller said it.
fn said(caller: &Caller, filter: &LetterFilter) -> LetterFilter {
    let mut said = filter.clone();
    if let Some(ids) = &mut said.ids {
        let mut seen = HashSet::new();
        *ids = (ids.iter().map(|id| caller.shown(id)))
            .filter(|id| seen.insert((*id).to_owned()))
            .map(str::to_owned)
            .collect();
    }
    said
}

fn refused(errors: Vec<posthaste_event::FieldError>) -> Problem {
    Problem::fields(StatusCode::BAD_REQUEST, errors)
}

fn unavailable(error: IndexError) -> Problem {
    Problem::unavailable(error.to_string(), READING_SECONDS)
}
