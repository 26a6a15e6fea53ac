//! What a client says of a schedule, checked field by field. Pure.

use posthaste_definitions::schedule::{Missed, Schedule};
use posthaste_event::{
    FieldError, Millis,
    fields::{Fields, Text},
};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::{Settings, request::time};

/// For texts whose own check says what is accepted better than a length could.
const ANY: Text = Text {
    chars_min: 0,
    chars_max: usize::MAX,
    lines: true,
};

/// Fields of an event that each firing has of its own, or cannot have.
pub(crate) const NOT_ITS_OWN: [(&str, &str); 4] = [
    ("eventId", "each firing gets an id of its own; leave it out"),
    ("scheduledAt", "the schedule says when; leave it out"),
    ("expiresAt", "ttl, which counts from each firing on"),
    (
        "orderingKey",
        "an event without: those behind it would have to wait for its time",
    ),
];

/// Reads the body of `PUT /schedules/{code}`: a plan of its own, made `now`.
///
/// # Errors
/// One per field that cannot be taken; never empty.
pub(super) fn read(body: &str, settings: &Settings, now: Millis) -> Result<Schedule, Vec<FieldError>> {
    let mut fields = Fields::of("", body).map_err(|error| vec![error])?;
    let cron = fields.required_text("cron", ANY);
    let time_zone = fields.text("timeZone", ANY);
    let missed = missed(&mut fields);
    let starts_at = time(&mut fields, "startsAt", settings, now);
    let ends_at = time(&mut fields, "endsAt", settings, now);
    if let (Some(starts), Some(ends)) = (starts_at, ends_at)
        && ends < starts
    {
        fields.error("endsAt", "is before startsAt", "a time after startsAt");
    }
    let paused = match fields.take("paused").map(RawValue::get) {
        None | Some("false") => false,
        Some("true") => true,
        Some(_) => {
            fields.error("paused", "must be true or false", "true or false");
            false
        }
    };
    let event = fields.required("event", "an event, as POST /event takes it");
    fields.refuse_unknown();
    if let Some(event) = event {
        refuse_its_own(&mut fields, event);
    }
    let schedule = cron.zip(event).map(|(cron, event)| Schedule {
        plan: Uuid::new_v4(),
        planned_at: now,
        cron: cron.trim().to_owned(),
        time_zone: time_zone.map_or_else(|| "UTC".to_owned(), Into::into),
        missed: missed.unwrap_or_default(),
        starts_at,
        ends_at,
        paused,
        event: event.to_owned(),
    });
    if let Some(error) = schedule.as_ref().and_then(|schedule| schedule.timing().err()) {
        fields.push(error);
    }
    fields.finish()?;
    schedule.ok_or_else(|| vec![FieldError::new("body", "cannot be read", "a schedule")])
}

fn missed(fields: &mut Fields<'_>) -> Option<Missed> {
    let value = fields.take("missed")?;
    let text = fields.as_text("missed", value, ANY)?;
    let found = Missed::ALL.into_iter().find(|missed| missed.as_str() == text);
    if found.is_none() {
        let accepted = Missed::ALL.map(Missed::as_str).join(", ");
        fields.error("missed", "is not known", accepted);
    }
    found
}

fn refuse_its_own(fields: &mut Fields<'_>, event: &RawValue) {
    match Fields::of("event.", event.get()) {
        Ok(mut of_event) => {
            for (name, accepted) in NOT_ITS_OWN {
                if of_event.take(name).is_some() {
                    fields.error(
                        &format!("event.{name}"),
                        "cannot be given in a schedule",
                        accepted,
                    );
                }
            }
        }
        Err(error) => fields.push(error),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: Millis = 1_790_000_000_000;

    fn errors(body: &serde_json::Value) -> Vec<String> {
        let settings = settings();
        let errors = read(&body.to_string(), &settings, NOW).err().unwrap_or_default();
        errors.into_iter().map(|error| error.field).collect()
    }

    fn settings() -> Settings {
        #[derive(serde::Deserialize)]
        struct File {
            ingestion: Settings,
        }
        toml::from_str::<File>(crate::DEFAULTS).unwrap().ingestion
    }

    #[test]
    fn what_is_left_out_has_a_default() {
        let body = json!({"cron": " 0 9 * * MON-FRI ", "event": {"channel": "sms"}}).to_string();
        let schedule = read(&body, &settings(), NOW).unwrap();
        assert_eq!(
            (schedule.cron.as_str(), schedule.time_zone.as_str()),
            ("0 9 * * MON-FRI", "UTC")
        );
        assert_eq!((schedule.missed, schedule.paused), (Missed::Once, false));
        assert_eq!((schedule.starts_at, schedule.ends_at), (None, None));
    }

    #[test]
    fn every_field_that_cannot_be_taken_is_named() {
        assert_eq!(errors(&json!({})), ["cron", "event"]);
        let hostile = json!({
            "cron": "61 * * * *", "timeZone": "Mars/Base", "missed": "maybe", "startsAt": "tomorrow",
            "endsAt": 5, "paused": "no", "tick": 1, "event": [1],
        });
        let mut named = errors(&hostile);
        named.sort();
        assert_eq!(
            named,
            ["cron", "endsAt", "event", "missed", "paused", "startsAt", "tick"]
        );
        let zone = json!({"cron": "@daily", "timeZone": "../../etc/passwd", "event": {}});
        assert_eq!(errors(&zone), ["timeZone"]);
        let own = json!({"cron": "@daily", "event": {
            "eventId": "e1", "scheduledAt": "2030-01-01T00:00:00Z", "expiresAt": "2030-01-01T00:00:00Z", "orderingKey": "k",
        }});
        let mut named = errors(&own);
        named.sort();
        assert_eq!(
            named,
            [
                "event.eventId",
                "event.expiresAt",
                "event.orderingKey",
                "event.scheduledAt"
            ]
        );
        let over = json!({
            "cron": "@daily", "event": {}, "startsAt": "2026-12-02T00:00:00Z", "endsAt": "2026-12-01T00:00:00Z",
        });
        assert_eq!(errors(&over), ["endsAt"]);
    }
}
