//! `DELETE /events/{id}`: asks whoever holds an event to withdraw it.

use axum::{Json, extract::State, http::StatusCode};
use posthaste_broker::NewRecord;
use posthaste_event::{
    Status, Topic,
    cancel::{self, Cancel},
    clock,
};
use posthaste_service::{Problem, auth::Caller, http::PathParams};
use posthaste_store::Document;
use serde::Serialize;
use serde_json::json;

use super::{Api, asking};

/// What was asked for.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Asked {
    message: &'static str,
    event_id: String,
    /// Where it stood.
    status: Status,
}

pub(super) async fn cancel(
    State(api): State<Api>,
    caller: Caller,
    PathParams(asked_id): PathParams<String>,
) -> Result<(StatusCode, Json<Asked>), Problem> {
    let document = asking::document(&api, &caller, &asked_id).await?;
    let id = &document.id;
    let state = asking::open(&document)
        .map_err(|why| asking::conflict(&asked_id, format!("{why}, and cannot be cancelled any more")))?;
    let request = Cancel {
        event_id: id.clone(),
        created_at: document.fixed.created_at,
        generation: state.generation,
        at: clock::now(),
        unknown: Default::default(),
    };
    let open = api.requests.of(id).and_then(|open| open.cancel);
    let is_asked_already = open
        .is_some_and(|open| (open.created_at, open.generation) == (request.created_at, request.generation));
    if !is_asked_already {
        let now = request.at;
        let data = json!({"generation": request.generation});
        let key = cancel::key(&record_key(&document), id);
        // Texts and numbers: there is nothing in it that JSON could refuse.
        let record = NewRecord::new(Topic::Cancel, key, request.encode().unwrap_or_default());
        asking::ask(&api, &document, record, "cancelRequested", data, now).await?;
    }
    let asked = Asked {
        message: "Cancel Requested",
        event_id: asked_id,
        status: state.status,
    };
    Ok((StatusCode::ACCEPTED, Json(asked)))
}

/// The key of the event's records, without what may be added to an id: the request is found by either.
fn record_key(document: &Document) -> String {
    match &document.fixed.ordering_key {
        Some(key) => format!("{}/{key}", document.fixed.tenant),
        None => document.id.clone(),
    }
}
