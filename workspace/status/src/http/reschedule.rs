//! `PATCH /events/{id}` with `{"scheduledAt"}`: asks whoever holds a scheduled event to send it at another time.

use axum::{Json, extract::State, http::StatusCode};
use posthaste_broker::NewRecord;
use posthaste_event::{
    FieldError, Millis, Status, Topic, clock,
    control::{Control, Reschedule},
    fields::excerpt,
    time, wheel,
};
use posthaste_service::{
    Problem,
    auth::Caller,
    http::{JsonBody, PathParams},
    requests::RESCHEDULES_MAX,
};
use posthaste_store::Document;
use serde::Serialize;
use serde_json::{Value as Body, json};

use super::{Api, answer::Time, asking};

/// What was asked for.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Asked {
    message: &'static str,
    event_id: String,
    status: Status,
    /// When it is to go out.
    scheduled_at: Time,
    /// By then whoever holds the event has seen this: an event deep in the wheel is looked at only now and then.
    in_force_by: Time,
}

pub(super) async fn reschedule(
    State(api): State<Api>,
    caller: Caller,
    PathParams(asked_id): PathParams<String>,
    JsonBody(body): JsonBody<Body>,
) -> Result<(StatusCode, Json<Asked>), Problem> {
    let now = clock::now();
    let due = scheduled_at(&body, api.ahead_days_max, now).map_err(|error| super::refused(vec![error]))?;
    let document = asking::document(&api, &caller, &asked_id).await?;
    let id = &document.id;
    let (entered_at, was_due) = waits(&document).map_err(|why| asking::conflict(&asked_id, why))?;
    if document.fixed.expires_at.is_some_and(|expires| expires <= due) {
        return Err(super::refused(vec![FieldError::new(
            "scheduledAt",
            "is not before the event's expiresAt",
            "a time before it",
        )]));
    }
    let open = api.requests.of(id);
    if open.is_some_and(|open| open.reschedules.len() >= RESCHEDULES_MAX) {
        return Err(asking::conflict(
            &asked_id,
            format!("{RESCHEDULES_MAX} times are asked for already and none is in force yet"),
        ));
    }
    let request = Control::Reschedule(Reschedule {
        event_id: id.clone(),
        created_at: document.fixed.created_at,
        scheduled_at: due,
        at: now,
        unknown: Default::default(),
    });
    // Texts and numbers: there is nothing in it that JSON could refuse.
    let record = NewRecord::new(
        Topic::Control,
        request.key(),
        request.encode().unwrap_or_default(),
    );
    let data = json!({"scheduledAt": due});
    asking::ask(&api, &document, record, "rescheduleRequested", data, now).await?;
    let asked = Asked {
        message: "Reschedule Requested",
        event_id: asked_id,
        status: Status::Scheduled,
        scheduled_at: Time(due),
        in_force_by: Time(wheel::seen_by(entered_at, was_due, now)),
    };
    Ok((StatusCode::ACCEPTED, Json(asked)))
}

fn scheduled_at(body: &Body, ahead_days_max: u32, now: Millis) -> Result<Millis, FieldError> {
    const ACCEPTED: &str = "an object such as {\"scheduledAt\": \"2030-01-31T09:00:00Z\"}";
    let Some(body) = body.as_object() else {
        return Err(FieldError::new("body", "is not an object", ACCEPTED));
    };
    if let Some(name) = body.keys().find(|name| *name != "scheduledAt") {
        return Err(FieldError::new(excerpt(name), "cannot be changed", "scheduledAt"));
    }
    match body.get("scheduledAt") {
        None => Err(FieldError::new("scheduledAt", "is missing", ACCEPTED)),
        Some(Body::String(text)) => time::read("scheduledAt", text, ahead_days_max, now),
        Some(_) => Err(FieldError::new("scheduledAt", "must be text", ACCEPTED)),
    }
}

/// Since when the event waits and until when, if it waits for the time that its sender asked for; else why not.
fn waits(document: &Document) -> Result<(Millis, Millis), String> {
    let state = asking::open(document)?;
    if state.status != Status::Scheduled {
        return Err(format!(
            "the event is {}, not SCHEDULED: its time has come",
            state.status
        ));
    }
    let due = state.due_at.unwrap_or(state.at);
    Ok((state.at, due))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_asked_for_is_named() {
        let now = 1_790_000_000_000;
        let asked = |body: Body| scheduled_at(&body, 366, now);
        assert_eq!(
            asked(json!({"scheduledAt": "2026-09-21T13:33:20Z"})),
            Ok(now - 2_400_000)
        );
        for (body, field) in [
            (json!([]), "body"),
            (json!({}), "scheduledAt"),
            (json!({"scheduledAt": 7}), "scheduledAt"),
            (json!({"scheduledAt": null}), "scheduledAt"),
            (json!({"scheduledAt": "tomorrow"}), "scheduledAt"),
            (json!({"scheduledAt": "2026-09-21T13:33:20"}), "scheduledAt"),
            (json!({"scheduledAt": "2036-09-21T13:33:20Z"}), "scheduledAt"),
            (
                json!({"scheduledAt": "2026-09-21T13:33:20Z", "priority": "low"}),
                "priority",
            ),
        ] {
            assert_eq!(asked(body.clone()).unwrap_err().field, field, "{body}");
        }
    }
}
