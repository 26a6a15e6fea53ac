//! `POST /events/{id}/retry-now`: asks whoever holds a waiting event to let it go.
//!
//! Nobody here holds the event, so this writes a request and a note, and answers 202: what comes of it is in the event's
//! timeline.

use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode};
use jiff::Timestamp;
use posthaste_broker::{AppendError, NewRecord};
use posthaste_event::{
    Millis, Status, Topic, Value, clock,
    control::{Control, RetryNow},
    fields::excerpt,
    record::Note,
};
use posthaste_service::{Problem, http::PathParams};
use posthaste_store::{Document, State as Stands, Store};
use serde::Serialize;
use serde_json::json;
use uuid::Uuid;

use super::{Api, RETRY_SECONDS, unavailable};

/// What was asked for.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Asked {
    message: &'static str,
    event_id: String,
    status: Status,
    /// When it would have gone out.
    due_at: String,
}

pub(super) async fn retry_now(
    State(api): State<Api>,
    PathParams(id): PathParams<String>,
) -> Result<(StatusCode, Json<Asked>), Problem> {
    let store: &Arc<dyn Store> = &api.store;
    let Some(document) = store.event(&id).await.map_err(unavailable)? else {
        return Err(Problem::new(
            StatusCode::NOT_FOUND,
            format!(
                "no event {:?} is known. The status follows a moment behind: an event that was accepted just now can be \
                 asked for again in a second",
                excerpt(&id)
            ),
        ));
    };
    let (state, due) = waits(&document).map_err(|why| Problem::new(StatusCode::CONFLICT, why).about(&id))?;
    let now = clock::now();
    let wish = Control::RetryNow(RetryNow {
        event_id: id.clone(),
        step: state.step,
        at: now,
        unknown: Default::default(),
    });
    let note = Value::Note(Note {
        id: Uuid::now_v7().to_string(),
        kind: "retryRequested".to_owned(),
        event_id: id.clone(),
        tenant: document.fixed.tenant.clone(),
        channel: document.fixed.channel,
        created_at: document.fixed.created_at,
        at: now,
        data: json!({"step": state.step, "dueAt": due}),
        unknown: Default::default(),
    });
    // Texts and numbers: there is nothing in them that JSON could refuse.
    let records = vec![
        NewRecord::new(Topic::Control, wish.key(), wish.encode().unwrap_or_default()),
        NewRecord::new(Topic::Status, id.clone(), note.encode().unwrap_or_default()),
    ];
    api.follow
        .broker()
        .append(records)
        .await
        .map_err(|error| match error {
            AppendError::Full | AppendError::TooLarge { .. } => {
                Problem::unavailable(format!("{error}; nothing was asked"), RETRY_SECONDS)
            }
            AppendError::Unconfirmed { .. } => {
                Problem::unavailable(format!("{error}; asking again is safe"), RETRY_SECONDS)
            }
        })?;
    let asked = Asked {
        message: "Retry Requested",
        event_id: id,
        status: state.status,
        due_at: Timestamp::from_millisecond(due).map_or_else(|_| due.to_string(), |due| format!("{due:.3}")),
    };
    Ok((StatusCode::ACCEPTED, Json(asked)))
}

/// The wait that an event is in, if it may be ended; else why not.
fn waits(document: &Document) -> Result<(&Stands, Millis), String> {
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
    let entry = document.timeline.get(&state.step.to_string());
    match entry.and_then(|entry| entry.reason.as_deref()) {
        Some("scheduled") => {
            return Err("the event waits for the time that its sender asked for, and goes then".to_owned());
        }
        Some("order") => {
            return Err(
                "the event waits for an earlier one of its ordering key, and goes after it".to_owned(),
            );
        }
        Some("paused") => return Err("the event waits since it is paused; resume it".to_owned()),
        _ => {}
    }
    match state.due_at {
        Some(due) => Ok((state, due)),
        None => Err(format!(
            "the event is {} and on its way: it waits for nothing at this moment",
            state.status
        )),
    }
}
