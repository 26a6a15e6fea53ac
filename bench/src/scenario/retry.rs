//! The retry path: every event is refused once and taken at its second try, which must come when the rule says.

use std::time::Duration;

use hdrhistogram::Histogram;
use jiff::Timestamp;
use serde_json::Value as Json;
use tokio::task::JoinSet;

use super::{Bench, Cost, Scenario, end_to_end};
use crate::{
    events::{self, Kind},
    figures::Better,
    limits::AT_ONCE,
    load::{Closed, histogram, record},
    sink::Arrivals,
    system::{Backend, Calls, Contender, Services, System},
    trouble::Trouble,
};

const NAME: &str = Scenario::Retry.name();

pub async fn round(bench: &mut Bench) -> Result<(), Trouble> {
    for (backend, contender) in bench.entries() {
        if let Err(trouble) = measure(bench, backend, &contender).await {
            bench.note(Scenario::Retry, backend, &contender, &trouble);
        }
    }
    Ok(())
}

async fn measure(bench: &mut Bench, backend: Backend, contender: &Contender) -> Result<(), Trouble> {
    let mut system = bench
        .system(backend, contender, Services::All, Calls::Out)
        .await?;
    end_to_end::warm_up(bench, &system, Calls::Out).await?;
    let count = bench.size.failing;
    let first = bench.numbers(count);
    let arrivals = bench
        .sink
        .expect(Arrivals::new(first, count, Duration::ZERO).refusing_first());
    let intake = system.intake()?;
    let body = Kind::Webhook(bench.sink.address()).body_with("default", &events::id_field());
    let load = Closed {
        address: intake,
        template: crate::wire::Template::post(intake, "/event", "application/json", &body),
        connections: AT_ONCE as u64,
        first,
        count,
        limit: bench.size.limit,
        sent: None,
    };
    let cost = Cost::begin(&system, &bench.sink);
    let loaded = load.run().await?.all_accepted()?;
    arrivals.reach(count, bench.size.limit).await?;
    let elapsed = loaded.begun.elapsed().as_secs_f64();
    let cost = cost.end(&bench.sink);
    let ids: Vec<String> = (first..first + count).map(events::id).collect();
    system
        .all_have(
            &ids[ids.len().saturating_sub(AT_ONCE)..],
            "SENT",
            bench.size.limit,
        )
        .await?;
    let late = lateness(&system, &arrivals, first, count).await?;
    let records = system.records()?;
    let mut place = bench.figures.of(NAME, backend.name(), &contender.label);
    place.add_latency("second try late", &late.late);
    place.add("second try early", "events", Better::Lower, late.early as f64);
    let accepted = loaded.elapsed.as_secs_f64();
    place.add("accepted after", "s", Better::Lower, accepted);
    place.add("through after", "s", Better::Lower, elapsed);
    place.add(
        "repeated sends",
        "sends",
        Better::Lower,
        arrivals.repeated() as f64,
    );
    cost.place(&mut place, count, loaded.time);
    if !records.is_empty() {
        // The warm-up's events take two each.
        let all: u64 = records.iter().map(|(_, count)| count).sum();
        let of_these = all.saturating_sub(2 * bench.size.warm_up) as f64 / count as f64;
        place.add("records of an event", "records", Better::Lower, of_these);
    }
    Ok(())
}

/// How late (or early) events arrived.
pub struct Late {
    /// Microseconds after they were due.
    pub late: Histogram<u64>,
    /// How many came before.
    pub early: u64,
}

impl Late {
    fn note(&mut self, behind_ms: i64) {
        // The clock counts whole milliseconds, so one that is due now may show as due a millisecond ago.
        if behind_ms < -1 {
            self.early += 1;
        }
        record(
            &mut self.late,
            Duration::from_millis(behind_ms.max(0).unsigned_abs()),
        );
    }
}

/// Of events whose due times are known.
pub fn against(arrivals: &Arrivals, first: u64, count: u64, due: impl Fn(u64) -> i64) -> Late {
    let mut late = Late {
        late: histogram(),
        early: 0,
    };
    for number in first..first + count {
        if let Some(at) = arrivals.taken_at(number) {
            late.note(at - due(number));
        }
    }
    late
}

/// Of events whose timelines say when they were due.
async fn lateness(system: &System, arrivals: &Arrivals, first: u64, count: u64) -> Result<Late, Trouble> {
    let url = system.url("status")?;
    let http = reqwest::Client::new();
    let mut asked = JoinSet::new();
    for part in 0..AT_ONCE as u64 {
        let (url, http) = (url.clone(), http.clone());
        asked.spawn(async move {
            let mut due = Vec::new();
            for number in (first + part..first + count).step_by(AT_ONCE) {
                let path = format!("{url}/events/{}/timeline", events::id(number));
                let answer = http.get(path).timeout(Duration::from_secs(10)).send().await;
                let body = answer.map_err(Trouble::doing("get a timeline"))?.bytes().await;
                let body = body.map_err(Trouble::doing("get a timeline"))?;
                due.extend(due_of(&body).map(|due| (number, due)));
            }
            Ok::<_, Trouble>(due)
        });
    }
    let mut due = std::collections::HashMap::new();
    while let Some(done) = asked.join_next().await {
        due.extend(done.map_err(Trouble::doing("get timelines"))??);
    }
    if (due.len() as u64) < count {
        return Err(Trouble::said(format!(
            "{} of {count} timelines say when a try was due",
            due.len()
        )));
    }
    Ok(against(arrivals, first, count, |number| {
        due.get(&number).copied().unwrap_or(0)
    }))
}

/// When the timeline says that the second try was due.
fn due_of(body: &[u8]) -> Option<i64> {
    let answer: Json = serde_json::from_slice(body).ok()?;
    let steps = answer["timeline"].as_array()?;
    let due = steps.iter().rev().find_map(|step| step["dueAt"].as_str())?;
    let due: Timestamp = due.parse().ok()?;
    Some(due.as_millisecond())
}
