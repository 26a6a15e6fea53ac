//! What is asked of an event that others hold: nobody here holds it, so these write a request and a note, and answer 202.
//! What comes of it is in the event's timeline.

use axum::http::StatusCode;
use posthaste_broker::{AppendError, NewRecord};
use posthaste_event::{Millis, Status, Topic, Value, fields::excerpt, record::Note};
use posthaste_service::{Problem, auth::Caller};
use posthaste_store::{Document, State as Stands};
use serde_json::Value as Json;
use uuid::Uuid;

use super::{Api, RETRY_SECONDS};

/// The event that is meant, if the caller may know of it.
pub(super) async fn document(api: &Api, caller: &Caller, id: &str) -> Result<Document, Problem> {
    super::find(api.store.as_ref(), caller, id).await?.ok_or_else(|| {
        Problem::new(
            StatusCode::NOT_FOUND,
            format!(
                "no event {:?} is known. The status follows a moment behind: an event that was accepted just now can be \
                 asked for again in a second",
                excerpt(id)
            ),
        )
    })
}

/// Where an event stands that is not final; else why nothing can be asked of it.
pub(super) fn open(document: &Document) -> Result<&Stands, String> {
    let Some(state) = &document.state else {
        return Err("nothing is known of where this event stands yet".to_owned());
    };
    if state.status.is_final() {
        let more = if state.status == Status::DeadLettered {
            "; POST /replay-dead-letter sends it again"
        } else {
            ""
        };
        return Err(format!(
            "the event is {}: it waits for nothing{more}",
            state.status
        ));
    }
    Ok(state)
}

/// 409 that says why.
pub(super) fn conflict(id: &str, why: impl Into<String>) -> Problem {
    Problem::new(StatusCode::CONFLICT, why).about(id)
}

/// Makes a request durable, with a note for the status.
pub(super) async fn ask(
    api: &Api,
    document: &Document,
    request: NewRecord,
    kind: &str,
    data: Json,
    now: Millis,
) -> Result<(), Problem> {
    if api.requests.is_full() {
        return Err(Problem::unavailable(
            "something is asked of too many events already; nothing was asked",
            RETRY_SECONDS,
        ));
    }
    let note = Value::Note(Note {
        id: Uuid::now_v7().to_string(),
        kind: kind.to_owned(),
        event_id: document.id.clone(),
        tenant: document.fixed.tenant.clone(),
        channel: document.fixed.channel,
        created_at: document.fixed.created_at,
        at: now,
        data,
        unknown: Default::default(),
    });
    // Texts and numbers: there is nothing in it that JSON could refuse.
    let note = note.encode().unwrap_or_default();
    let note = NewRecord::new(Topic::Status, document.id.clone(), note);
    api.follow
        .broker()
        .append(vec![request, note])
        .await
        .map_err(|error| match error {
            AppendError::Full | AppendError::TooLarge { .. } => {
                Problem::unavailable(format!("{error}; nothing was asked"), RETRY_SECONDS)
            }
            AppendError::Unconfirmed { .. } => {
                Problem::unavailable(format!("{error}; asking again is safe"), RETRY_SECONDS)
            }
        })
}
