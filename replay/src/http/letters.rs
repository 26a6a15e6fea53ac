//! `GET /dead-letters`, one by one or grouped by what went wrong, and `GET /dead-letters/{id}`.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use posthaste_event::{Delivery, Millis, Value};
use posthaste_service::{
    Problem,
    auth::Caller,
    http::{PathParams, QueryParams},
};
use serde::Serialize;

use super::{Partitions, mean, ready, refused, unavailable};
use crate::{
    index::{Index, Stored, groups::Groups},
    membership::Replays,
    request::{ListRequest, cursor},
};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Page {
    dead_letters: Vec<DeadLetter>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
    partitions: Partitions,
}

#[derive(Serialize)]
struct Grouped {
    #[serde(flatten)]
    summary: Groups,
    partitions: Partitions,
}

/// A dead letter, without what it would have sent.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct DeadLetter {
    partition: u32,
    offset: i64,
    at: Millis,
    /// Why it is here, in words.
    reason: String,
    /// Whether a replay can send it.
    replayable: bool,
    /// The delivery, with the error and the log of failures.
    #[serde(skip_serializing_if = "Option::is_none")]
    delivery: Option<Box<Delivery>>,
    /// A record that could not be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    foreign: Option<ForeignSource>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ForeignSource {
    topic: String,
    partition: u32,
    offset: i64,
    truncated: bool,
}

impl DeadLetter {
    /// What cannot be read belongs to no tenant that we know of.
    fn may_be_seen(&self, caller: &Caller) -> bool {
        match &self.delivery {
            Some(delivery) => caller.may_touch(&delivery.tenant),
            None => caller.bound_to().is_none(),
        }
    }

    /// What there is to show of a letter to this caller, who names its event as its tenant does.
    pub(super) fn of(stored: &Stored, caller: &Caller) -> Self {
        let (reason, delivery, foreign) = match Value::decode(&stored.value) {
            Ok(Value::Work(mut work)) => {
                work.delivery.id = caller.shown(&work.delivery.id).to_owned();
                let reason = work.delivery.error.as_ref().map(|error| error.message.clone());
                (reason.unwrap_or_default(), Some(Box::new(work.delivery)), None)
            }
            Ok(Value::Foreign(foreign)) => {
                let source = ForeignSource {
                    topic: foreign.topic,
                    partition: foreign.partition,
                    offset: foreign.offset,
                    truncated: foreign.truncated,
                };
                (foreign.reason, None, Some(source))
            }
            _ => ("cannot be read".to_owned(), None, None),
        };
        Self {
            partition: stored.place.0,
            offset: stored.place.1,
            at: stored.at,
            reason,
            replayable: delivery.is_some(),
            delivery,
            foreign,
        }
    }
}

/// `GET /dead-letters`.
pub(super) async fn list(
    State(replays): State<Arc<Replays>>,
    caller: Caller,
    QueryParams(query): QueryParams<Vec<(String, String)>>,
) -> Result<Response, Problem> {
    let mut request = ListRequest::read(&query).map_err(refused)?;
    caller.narrow(&mut request.filter.tenant, "tenant")?;
    mean(&caller, &mut request.filter);
    let (open, partitions) = ready(&replays).await?;
    if request.grouped {
        let groups = move |index: &mut Index| index.groups(&request.filter, request.limit);
        let summary = open.with_index(groups).await.map_err(unavailable)?;
        return Ok(Json(Grouped { summary, partitions }).into_response());
    }
    let limit = request.limit;
    let page = move |index: &mut Index| index.list(&request.filter, request.after, limit + 1);
    let mut letters = open.with_index(page).await.map_err(unavailable)?;
    let more = letters.len() > limit;
    letters.truncate(limit);
    let next = letters
        .last()
        .filter(|_| more)
        .map(|last| cursor(last.at, last.place));
    let page = Page {
        dead_letters: letters
            .iter()
            .map(|letter| DeadLetter::of(letter, &caller))
            .collect(),
        next,
        partitions,
    };
    Ok(Json(page).into_response())
}

/// `GET /dead-letters/{id}`.
pub(super) async fn one(
    State(replays): State<Arc<Replays>>,
    caller: Caller,
    PathParams(id): PathParams<String>,
) -> Result<Json<DeadLetter>, Problem> {
    let (open, partitions) = ready(&replays).await?;
    let meant = caller.meant(&id);
    let find = move |index: &mut Index| {
        meant
            .iter()
            .map(|id| index.of_event(id))
            .collect::<Result<Vec<_>, _>>()
    };
    let found = open.with_index(find).await.map_err(unavailable)?;
    let found = found
        .iter()
        .flatten()
        .map(|letter| DeadLetter::of(letter, &caller))
        .find(|letter| letter.may_be_seen(&caller));
    found.map(Json).ok_or_else(|| {
        let asked = match partitions.total {
            Some(total) if (total as usize) > partitions.owned => {
                format!(" in the {} of {total} partitions that this instance has", partitions.owned)
            }
            _ => String::new(),
        };
        Problem::new(
            StatusCode::NOT_FOUND,
            format!(
                "event {:?} has no open dead letter{asked}: it was never given up, or it was replayed; GET /events/{{id}} \
                 says where it stands",
                posthaste_event::fields::excerpt(&id)
            ),
        )
    })
}
