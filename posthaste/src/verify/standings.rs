//! What the status API says of the run's events.

use std::{collections::HashMap, sync::Arc};

use jiff::Timestamp;
use posthaste_event::{Millis, Status};
use posthaste_verify::{Mix, Posted, Standing, Step};
use serde_json::Value as Json;
use tokio::{sync::Semaphore, task::JoinSet};

use super::target::Target;
use crate::client::{list_of, text};

/// Events in one page, as many as the API gives.
const PAGE: &str = "1000";
/// Timelines that are asked for at once.
const TIMELINES_AT_ONCE: usize = 16;
/// How often a timeline is asked for before it is given up.
const TRIES: usize = 5;

/// Where every event of the run stands.
pub async fn all(target: &Target, mix: &Mix) -> Result<HashMap<u32, Standing>, String> {
    let mut standings = HashMap::new();
    let mut cursor = String::new();
    loop {
        let mut query = vec![("tenant", mix.run.as_str()), ("limit", PAGE)];
        if !cursor.is_empty() {
            query.push(("cursor", &cursor));
        }
        let page = target.ask_status(&["events"], &query).await?;
        for event in list_of(&page, "events") {
            if let Some(index) = mix.index(text(event, "eventId"))
                && let Some(standing) = standing(event)
            {
                standings.insert(index, standing);
            }
        }
        match page["next"].as_str() {
            Some(next) if next != cursor => next.clone_into(&mut cursor),
            _ => return Ok(standings),
        }
    }
}

fn standing(event: &Json) -> Option<Standing> {
    let state = &event["state"];
    Some(Standing {
        status: status(event)?,
        step: number(state, "step")?,
        at: millis(state, "at")?,
        attempt: number(state, "attempt")?,
    })
}

fn status(said: &Json) -> Option<Status> {
    said["status"].as_str()?.parse().ok()
}

fn number(said: &Json, name: &str) -> Option<u32> {
    said[name].as_u64()?.try_into().ok()
}

fn millis(said: &Json, name: &str) -> Option<Millis> {
    let time: Timestamp = said[name].as_str()?.parse().ok()?;
    Some(time.as_millisecond())
}

/// The steps of those events that waited or failed; of all others the standing tells enough.
pub async fn histories(
    target: &Target,
    mix: &Mix,
    posted: &HashMap<u32, Posted>,
    standings: &HashMap<u32, Standing>,
    on_each: impl Fn(usize, usize),
) -> Result<HashMap<u32, Vec<Step>>, String> {
    let is_telling = |index: &u32, standing: &Standing| {
        standing.attempt != 1
            || standing.step > 1
            || posted
                .get(index)
                .is_some_and(|posted| posted.scheduled_at.is_some())
    };
    let wanted: Vec<u32> = standings
        .iter()
        .filter(|(index, standing)| is_telling(index, standing))
        .map(|(index, _)| *index)
        .collect();
    let count = wanted.len();
    let places = Arc::new(Semaphore::new(TIMELINES_AT_ONCE));
    let mut asked = JoinSet::new();
    let mut histories = HashMap::new();
    for index in wanted {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            break;
        };
        let (target, id) = (target.clone(), mix.asked_id(index));
        asked.spawn(async move {
            let history = timeline(&target, &id).await;
            drop(place);
            (index, history)
        });
        while let Some(done) = asked.try_join_next() {
            keep(done, &mut histories)?;
            on_each(histories.len(), count);
        }
    }
    while let Some(done) = asked.join_next().await {
        keep(done, &mut histories)?;
        on_each(histories.len(), count);
    }
    Ok(histories)
}

type Asked = Result<(u32, Result<Vec<Step>, String>), tokio::task::JoinError>;

fn keep(done: Asked, histories: &mut HashMap<u32, Vec<Step>>) -> Result<(), String> {
    let (index, history) = done.map_err(|error| error.to_string())?;
    histories.insert(index, history?);
    Ok(())
}

async fn timeline(target: &Target, id: &str) -> Result<Vec<Step>, String> {
    let mut tries = 0;
    loop {
        tries += 1;
        match target.ask_status(&["events", id, "timeline"], &[]).await {
            Ok(answer) => return Ok(list_of(&answer, "timeline").iter().filter_map(step).collect()),
            Err(error) if tries == TRIES => return Err(format!("the timeline of {id}: {error}")),
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(200)).await,
        }
    }
}

fn step(said: &Json) -> Option<Step> {
    let is_promised = matches!(text(said, "reason"), "scheduled" | "retry");
    Some(Step {
        step: number(said, "step")?,
        at: millis(said, "at")?,
        status: status(said)?,
        due_at: millis(said, "dueAt").filter(|_| is_promised),
        error: serde_json::from_value(said["error"]["kind"].clone()).ok(),
    })
}

#[cfg(test)]
mod tests {
    use posthaste_event::ErrorKind;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_step_is_read_as_the_api_writes_it() {
        let said = json!({
            "step": 2, "at": "2026-11-20T12:00:00.000Z", "status": "RETRYING", "by": "here", "generation": 0, "attempt": 1,
            "dueAt": "2026-11-20T12:00:01.500Z", "reason": "retry", "error": {"kind": "ambiguous", "message": "timed out"},
        });
        let step = step(&said).unwrap();
        assert_eq!(step.due_at, Some(step.at + 1_500));
        assert_eq!(
            (step.step, step.status, step.error),
            (2, Status::Retrying, Some(ErrorKind::Ambiguous))
        );
    }
}
