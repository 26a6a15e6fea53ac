//! `POST /events/{id}/retry-now`: asks whoever holds a waiting event to let it go.

use axum::{Json, extract::State, http::StatusCode};
use jiff::Timestamp;
use posthaste_broker::NewRecord;
use posthaste_event::{
    Millis, Status, Topic, clock,
    control::{Control, RetryNow},
};
use posthaste_service::{Problem, auth::Caller, http::PathParams};
use posthaste_store::{Document, State as Stands};
use serde::Serialize;
use serde_json::json;

use super::{Api, asking};

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
    caller: Caller,
    PathParams(asked_id): PathParams<String>,
) -> Result<(StatusCode, Json<Asked>), Problem> {
    let document = asking::document(&api, &caller, &asked_id).await?;
    let id = &document.id;
    let (state, due) = waits(&document).map_err(|why| asking::conflict(&asked_id, why))?;
    let now = clock::now();
    let wish = Control::RetryNow(RetryNow {
        event_id: id.clone(),
        step: state.step,
        at: now,
        unknown: Default::default(),
    });
    // Texts and numbers: there is nothing in it that JSON could refuse.
    let record = NewRecord::new(Topic::Control, wish.key(), wish.encode().unwrap_or_default());
    let data = json!({"step": state.step, "dueAt": due});
    asking::ask(&api, &document, record, "retryRequested", data, now).await?;
    let asked = Asked {
        message: "Retry Requested",
        event_id: asked_id,
        status: state.status,
        due_at: Timestamp::from_millisecond(due).map_or_else(|_| due.to_string(), |due| format!("{due:.3}")),
    };
    Ok((StatusCode::ACCEPTED, Json(asked)))
}

/// The wait that an event is in, if it may be ended; else why not.
fn waits(document: &Document) -> Result<(&Stands, Millis), String> {
    let state = asking::open(document)?;
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
