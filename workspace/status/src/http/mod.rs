//! The status API: what became of an event, of the events that belong together, of all that match a search.
//!
//! | path | answer |
//! |---|---|
//! | `GET /events/{id}` | one event, see [`answer::Event`]; with a correlation id `{correlationId, events, next?}` |
//! | `GET /events/{id}/timeline` | `{eventId, status, timeline}`; with a correlation id `{correlationId, events, timeline, next?}`, each entry with its `eventId` |
//! | `GET /events` | `{events, next?}`, newest first, without timelines and notes; see [`query`] |
//! | `GET /events?follow=true` | what happens from now on, a line of JSON for each step; see [`Follow`] |
//! | `DELETE /events/{id}` | 202: whoever holds the event is asked to withdraw it; see `cancel.rs` |
//! | `PATCH /events/{id}` | 202: with `{scheduledAt}`, whoever holds the scheduled event is asked to send it then |
//! | `POST /events/{id}/retry-now` | 202: whoever holds the waiting event is asked to let it go |
//! | `POST /status/rebuild` | 202 and a [`crate::rebuild::Report`]: compares the status with the topics and puts it right, `{"dryRun": true}` only compares |
//! | `GET /status/rebuild` | how far it is, or what came of it; `DELETE` ends it |
//! | `GET /messages/stats` | `{tenant?, waiting, delayed, retrying, completed, failed, withdrawn, timestamp}`; also below `/core-slack-worker` |
//! | `GET /inbox/{recipient}` | `{tenant, recipient, messages}`, newest first |
//!
//! Times are RFC 3339 in UTC with milliseconds. The status is eventually consistent: an event may be accepted a moment before
//! it can be found. 404 says so; 503 with `Retry-After` means that the store is away, never that the event is.

pub mod answer;
mod api;
mod api_asking;
mod asking;
mod cancel;
mod follow;
pub mod query;
mod rebuild;
mod reschedule;
mod retry_now;
mod sight;
mod stats;

use std::{collections::HashMap, sync::Arc};

use axum::{
    Json, Router,
    extract::{FromRef, State},
    http::StatusCode,
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use posthaste_sealing::Keys;
use posthaste_service::{
    Problem, Requests,
    auth::Caller,
    http::{PathParams, QueryParams},
};
use posthaste_store::{Document, KeptCounts, Page, Query, Store, StoreError};
use tracing::error;

pub use api::api;
pub use follow::Follow;

use crate::Rebuilds;

use answer::{Events, Found, FoundTimeline, Inbox};
use query::{Parameters, Search};
use sight::Sight;

/// When to ask again while the store is away, in seconds.
const RETRY_SECONDS: u32 = 2;

/// Events that belong together and are shown at once; the rest follows by `next`.
const TOGETHER_MAX: u32 = 100;

/// Pages without any of them that are passed by at most: each may go through many events of other tenants.
const TOGETHER_LOOKS: usize = 10;

type Asked = QueryParams<Vec<(String, String)>>;

#[derive(Clone)]
struct Api {
    store: Arc<dyn Store>,
    /// By tenant.
    counted: Arc<KeptCounts<Option<String>>>,
    follow: Follow,
    rebuilds: Rebuilds,
    requests: Arc<Requests>,
    ahead_days_max: u32,
    keys: Arc<Keys>,
}

impl FromRef<Api> for Arc<dyn Store> {
    fn from_ref(api: &Api) -> Self {
        Self::clone(&api.store)
    }
}

impl Api {
    fn sight(&self, caller: &Caller) -> Sight {
        Sight::of(caller, &self.keys)
    }
}

/// The paths of the status API. A time that is asked for may lie up to `ahead_days_max` days ahead. What is sealed is shown opened where
/// that can be done with `keys`.
pub fn router(
    store: Arc<dyn Store>,
    follow: Follow,
    rebuilds: Rebuilds,
    requests: Arc<Requests>,
    ahead_days_max: u32,
    keys: Arc<Keys>,
) -> Router {
    let rebuild = post(rebuild::begin).get(rebuild::report).delete(rebuild::stop);
    let one = get(event).delete(cancel::cancel).patch(reschedule::reschedule);
    Router::new()
        .route("/events", get(list))
        .route("/events/{id}", one)
        .route("/events/{id}/timeline", get(timeline))
        .route("/events/{id}/retry-now", post(retry_now::retry_now))
        .route("/inbox/{recipient}", get(inbox))
        .route("/messages/stats", get(stats::stats))
        .route("/core-slack-worker/messages/stats", get(stats::stats))
        .route("/status/rebuild", rebuild)
        .with_state(Api {
            store,
            counted: Arc::default(),
            follow,
            rebuilds,
            requests,
            ahead_days_max,
            keys,
        })
}

async fn list(
    State(api): State<Api>,
    caller: Caller,
    QueryParams(asked): Asked,
) -> Result<Response, Problem> {
    match query::search(Parameters::new(asked)).map_err(refused)? {
        Search::Page(mut query) => {
            caller.narrow(&mut query.tenant, "tenant")?;
            let page = api.store.search(&query).await.map_err(unavailable)?;
            Ok(Json(Events::of(api.sight(&caller).of_page(page))).into_response())
        }
        Search::Follow(mut filter) => {
            caller.narrow(&mut filter.tenant, "tenant")?;
            api.follow.begin(filter, &caller).await
        }
    }
}

async fn event(
    State(api): State<Api>,
    caller: Caller,
    PathParams(id): PathParams<String>,
    QueryParams(asked): Asked,
) -> Result<Json<Found>, Problem> {
    Parameters::new(asked).none().map_err(refused)?;
    let (store, sight) = (api.store.as_ref(), api.sight(&caller));
    if let Some(mut document) = find(store, &caller, &id).await? {
        sight.cover(&mut document);
        return Ok(Json(Found::one(document)));
    }
    let page = together(store, &caller, &id).await?;
    Ok(Json(Found::together(id, sight.of_page(page))))
}

async fn timeline(
    State(api): State<Api>,
    caller: Caller,
    PathParams(id): PathParams<String>,
    QueryParams(asked): Asked,
) -> Result<Json<FoundTimeline>, Problem> {
    Parameters::new(asked).none().map_err(refused)?;
    let (store, sight) = (api.store.as_ref(), api.sight(&caller));
    if let Some(mut document) = find(store, &caller, &id).await? {
        sight.rename(&mut document);
        return Ok(Json(FoundTimeline::one(document)));
    }
    let mut page = together(store, &caller, &id).await?;
    page.events.iter_mut().for_each(|document| sight.rename(document));
    Ok(Json(FoundTimeline::together(id, page)))
}

async fn inbox(
    State(api): State<Api>,
    caller: Caller,
    PathParams(recipient): PathParams<String>,
    QueryParams(asked): Asked,
) -> Result<Json<Inbox>, Problem> {
    let (tenant, limit) = query::inbox(Parameters::new(asked)).map_err(refused)?;
    let mut asked = tenant;
    caller.narrow(&mut asked, "tenant")?;
    let tenant = asked.unwrap_or_else(|| caller.tenant_default().to_owned());
    let mut messages = api
        .store
        .inbox(&tenant, &recipient, limit)
        .await
        .map_err(unavailable)?;
    let sight = api.sight(&caller);
    messages.iter_mut().for_each(|message| sight.open(message));
    Ok(Json(Inbox::of(tenant, recipient, messages)))
}

/// The event that the caller means by this id, if it may know of it.
async fn find(store: &dyn Store, caller: &Caller, id: &str) -> Result<Option<Document>, Problem> {
    let meant = caller.meant(id);
    if let [only] = meant.as_slice() {
        let document = store.event(only).await.map_err(unavailable)?;
        return Ok(document.filter(|document| caller.may_touch(&document.fixed.tenant)));
    }
    let found = store.events(&meant).await.map_err(unavailable)?;
    let mut known: HashMap<String, Document> = found
        .into_iter()
        .filter_map(|(id, document)| Some((id, document?)))
        .filter(|(_, document)| caller.may_touch(&document.fixed.tenant))
        .collect();
    Ok(meant.iter().find_map(|id| known.remove(id)))
}

/// The events with this correlation id, newest first; 404 when there are none.
async fn together(store: &dyn Store, caller: &Caller, correlation_id: &str) -> Result<Page, Problem> {
    let mut query = Query {
        tenant: caller.bound_to().map(str::to_owned),
        correlation_id: Some(correlation_id.to_owned()),
        limit: TOGETHER_MAX,
        ..Query::default()
    };
    let mut page = store.search(&query).await.map_err(unavailable)?;
    // Others may use the same one, and very often.
    for _ in 1..TOGETHER_LOOKS {
        let Some(next) = page.next.take_if(|_| page.events.is_empty()) else {
            break;
        };
        query.after = Some(next);
        page = store.search(&query).await.map_err(unavailable)?;
    }
    if page.events.is_empty() {
        return Err(Problem::new(
            StatusCode::NOT_FOUND,
            "no event with this id or correlation id is known. The status follows a moment behind: an event that was \
             accepted just now can be asked for again in a second. Old events are forgotten (store.retention_days)",
        ));
    }
    Ok(page)
}

fn refused(errors: Vec<posthaste_event::FieldError>) -> Problem {
    Problem::fields(StatusCode::BAD_REQUEST, errors)
}

fn unavailable(problem: StoreError) -> Problem {
    match problem {
        // The reason is in the log and on /ready; it can name hosts.
        StoreError::Unreachable(_) => Problem::unavailable(
            "the status store does not answer. Events are taken and delivered all the same; their status can be asked for \
             when it is back",
            RETRY_SECONDS,
        ),
        StoreError::Refused(reason) => {
            error!(reason, "the status store refused to answer: {reason}");
            Problem::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "the status store refused to answer; the log of the status service has the reason",
            )
        }
    }
}
