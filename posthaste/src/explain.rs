//! `posthaste rules explain`: which rule decides on a failure, and the whole schedule that follows.

use jiff::Timestamp;
use posthaste_event::delivery::Policy;
use posthaste_rules::Case;
use serde_json::{Value as Json, json};

use crate::{
    cli::{Common, Explain},
    client::{self, list_of, text},
    command::{print, print_json, read_rules},
    failure::Failure,
};

/// Explains the failure that the options describe, or the last one of an event.
pub fn explain(common: &Common, explain: &Explain) -> Result<(), Failure> {
    let (rules, _) = read_rules(common, explain.rules.as_deref())?;
    let case = match &explain.event {
        Some(id) => last_failure(&client::event_of(&explain.url, id)?).map_err(Failure::Runtime)?,
        None => described(explain)?,
    };
    let explanation = rules.explain(&Case {
        pinned: explain.pinned,
        ..case
    });
    if explain.json {
        print_json(&json!(explanation))
    } else {
        print(&explanation.to_string())
    }
}

fn described(explain: &Explain) -> Result<Case, Failure> {
    let (Some(channel), Some(provider)) = (explain.channel, &explain.provider) else {
        // The parser does not let this through.
        return Err(Failure::Usage("--channel and --provider are needed".to_owned()));
    };
    Ok(Case {
        channel,
        provider: provider.clone(),
        tenant: explain.tenant.clone(),
        priority: explain.priority,
        kind: explain.kind,
        code: explain.code.clone(),
        retry_after_ms: explain.retry_after_ms,
        tries: explain.tries,
        age_ms: explain.age_ms,
        pinned: false,
        policy: explain.policy,
    })
}

/// What `GET /events/{id}` tells of an event's newest failure.
fn last_failure(event: &Json) -> Result<Case, String> {
    let id = text(event, "eventId");
    let generation = &event["state"]["generation"];
    let timeline = list_of(event, "timeline");
    let failures: Vec<&Json> = timeline
        .iter()
        .filter(|step| step["generation"] == *generation && step["status"] == "RETRYING")
        .filter(|step| step["error"].is_object())
        .collect();
    let Some(last) = failures.last() else {
        return Err(format!(
            "event {id} is {} and has not failed: there is nothing to explain",
            text(event, "status")
        ));
    };
    let provider = text(last, "provider");
    let tries = failures
        .iter()
        .filter(|step| step["provider"] == last["provider"])
        .count();
    let error = &last["error"];
    let wrong = |what: &str| format!("the status of event {id} has no {what} that this version knows");
    Ok(Case {
        channel: text(event, "channel").parse().map_err(|_| wrong("channel"))?,
        provider: provider.to_owned(),
        tenant: text(event, "tenant").to_owned(),
        priority: text(event, "priority").parse().map_err(|_| wrong("priority"))?,
        kind: text(error, "kind").parse().map_err(|_| wrong("kind of error"))?,
        code: error["code"].as_str().map(str::to_owned),
        retry_after_ms: error["retryAfterMs"].as_u64().and_then(|ms| ms.try_into().ok()),
        tries: u32::try_from(tries).unwrap_or(u32::MAX),
        age_ms: age_ms(event, last, timeline),
        pinned: false,
        policy: match event["policy"].as_str() {
            Some(name) => name.parse().map_err(|_| wrong("policy"))?,
            None => Policy::default(),
        },
    })
}

/// As `maxAge` counts: from when it was accepted, scheduled for, or replayed, whichever is latest.
fn age_ms(event: &Json, last: &Json, timeline: &[Json]) -> u64 {
    let time = |value: &Json| value.as_str()?.parse::<Timestamp>().ok();
    let replays = timeline.iter().filter(|step| step["replay"].is_string());
    let since = replays
        .map(|step| time(&step["at"]))
        .chain([time(&event["createdAt"]), time(&event["scheduledAt"])])
        .flatten()
        .max();
    let (Some(since), Some(at)) = (since, time(&last["at"])) else {
        return 0;
    };
    u64::try_from(at.as_millisecond() - since.as_millisecond()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(timeline: &Json) -> Json {
        json!({
            "eventId": "e1", "status": "RETRYING", "channel": "sms", "tenant": "acme", "priority": "high",
            "createdAt": "2026-11-20T12:00:00.000Z", "state": {"generation": 1}, "timeline": timeline,
        })
    }

    fn failure(generation: u32, provider: &str, second: u32) -> Json {
        json!({
            "generation": generation, "status": "RETRYING", "provider": provider,
            "at": format!("2026-11-20T12:01:{second:02}.000Z"),
            "error": {"kind": "rate_limited", "code": "429", "retryAfterMs": 900},
        })
    }

    #[test]
    fn the_newest_failure_is_read_from_the_timeline() {
        let replayed =
            json!({"generation": 1, "status": "PENDING", "replay": "r1", "at": "2026-11-20T12:01:00.000Z"});
        let verdict =
            json!({"generation": 1, "status": "RETRYING", "provider": "messagebird", "rule": "a@1"});
        let timeline = json!([
            failure(0, "twilio", 1),
            replayed,
            failure(1, "messagebird", 2),
            failure(1, "twilio", 3),
            verdict,
            failure(1, "twilio", 5),
        ]);
        let case = last_failure(&event(&timeline)).unwrap();
        assert_eq!(
            (case.provider.as_str(), case.tries, case.age_ms),
            ("twilio", 2, 5_000)
        );
        assert_eq!(
            (case.kind.as_str(), case.code.as_deref(), case.retry_after_ms),
            ("rate_limited", Some("429"), Some(900))
        );
        assert_eq!((case.tenant.as_str(), case.priority.as_str()), ("acme", "high"));
    }

    #[test]
    fn an_event_that_never_failed_says_so() {
        let error = last_failure(&event(&json!([]))).unwrap_err();
        assert!(error.contains("has not failed"), "{error}");
    }
}
