//! Dead letters that are sent again: as fast as it goes, and at a rate.

use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};

use super::{Bench, Scenario, end_to_end};
use crate::{
    events::{self, Kind},
    figures::Better,
    limits::AT_ONCE,
    load::Closed,
    sink::Arrivals,
    system::{Backend, Calls, Contender, Services, System},
    trouble::Trouble,
    wire::Template,
};

const NAME: &str = Scenario::Replay.name();

/// How often a replay is asked how far it is.
const LOOK: Duration = Duration::from_millis(20);
/// How long the replay at a rate takes, by that rate; and with few letters.
const AT_A_RATE_S: f64 = 5.0;
const AT_A_RATE_S_FEW: f64 = 1.0;
/// Few.
const FEW: u64 = 100;

pub async fn round(bench: &mut Bench) -> Result<(), Trouble> {
    for (backend, contender) in bench.entries() {
        if let Err(trouble) = measure(bench, backend, &contender).await {
            bench.note(Scenario::Replay, backend, &contender, &trouble);
        }
    }
    Ok(())
}

async fn measure(bench: &mut Bench, backend: Backend, contender: &Contender) -> Result<(), Trouble> {
    let system = bench
        .system(backend, contender, Services::All, Calls::Out)
        .await?;
    end_to_end::warm_up(bench, &system, Calls::Out).await?;
    let count = bench.size.letters;
    let unlimited = replay(bench, &system, count, None).await?;
    let count_at_rate = (count / 4).max(1);
    let seconds = if count_at_rate < FEW {
        AT_A_RATE_S_FEW
    } else {
        AT_A_RATE_S
    };
    let rate = count_at_rate as f64 / seconds;
    let paced = replay(bench, &system, count_at_rate, Some(rate)).await?;
    let mut place = bench.figures.of(NAME, backend.name(), &contender.label);
    let per_second = |events: u64, seconds: f64| events as f64 / seconds.max(1e-9);
    place.add(
        "re-published",
        "events/s",
        Better::Higher,
        per_second(count, unlimited.published_s),
    );
    place.add(
        "delivered",
        "events/s",
        Better::Higher,
        per_second(count, unlimited.delivered_s),
    );
    place.add(
        "repeated sends",
        "sends",
        Better::Lower,
        unlimited.repeated as f64,
    );
    let held = 100.0 * per_second(count_at_rate, paced.delivered_s) / rate;
    place.add(
        "delivered at a set rate, of that rate",
        "%",
        Better::Neither,
        held,
    );
    Ok(())
}

struct Replayed {
    published_s: f64,
    delivered_s: f64,
    repeated: u64,
}

/// Makes dead letters, and replays them.
async fn replay(
    bench: &mut Bench,
    system: &System,
    count: u64,
    rate: Option<f64>,
) -> Result<Replayed, Trouble> {
    let limit = bench.size.limit;
    let first = bench.numbers(count);
    bench
        .sink
        .expect(Arrivals::new(first, count, Duration::ZERO).refusing_for_good());
    let intake = system.intake()?;
    let body = Kind::Webhook(bench.sink.address()).body_with("default", &events::id_field());
    let load = Closed {
        address: intake,
        template: Template::post(intake, "/event", "application/json", &body),
        connections: AT_ONCE as u64,
        first,
        count,
        limit,
        sent: None,
    };
    load.run().await?.all_accepted()?;
    all_listed(system, count, limit).await?;
    let arrivals = bench.sink.expect(Arrivals::new(first, count, Duration::ZERO));
    let begun = Instant::now();
    let mut request = json!({"limit": count, "wait": false});
    if let Some(rate) = rate {
        request["rate"] = rate.into();
    }
    let answer = system.post("replay", "/replay-dead-letter", &request).await?;
    let id = answer["replayId"]
        .as_str()
        .ok_or_else(|| Trouble::said(format!("a replay has no id: {answer}")))?;
    let published = over(system, id, limit).await?;
    arrivals.reach(count, limit).await?;
    let last = (first..first + count)
        .filter_map(|number| arrivals.taken.of(number))
        .max();
    let delivered = last.map_or(Duration::ZERO, |last| last.saturating_duration_since(begun));
    Ok(Replayed {
        published_s: published.saturating_duration_since(begun).as_secs_f64(),
        delivered_s: delivered.as_secs_f64(),
        repeated: arrivals.repeated(),
    })
}

/// Waits until so many letters are open, as a dry run counts them.
async fn all_listed(system: &System, count: u64, limit: Duration) -> Result<(), Trouble> {
    let begun = Instant::now();
    loop {
        let request = json!({"limit": count, "wait": false, "dryRun": true});
        let answer = system.post("replay", "/replay-dead-letter", &request).await;
        if answer.as_ref().is_ok_and(|answer| answer["count"] == count) {
            return Ok(());
        }
        if begun.elapsed() > limit {
            let said = answer.map(|answer| answer["count"].clone());
            return Err(Trouble::said(format!(
                "not {count} dead letters after {limit:?}: {said:?}"
            )));
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Waits until a replay is over; answers when that was seen.
async fn over(system: &System, id: &str, limit: Duration) -> Result<Instant, Trouble> {
    let begun = Instant::now();
    loop {
        let job: Json = system.get("replay", &format!("/replays/{id}")).await?;
        if job["state"] == "finished" {
            return Ok(Instant::now());
        }
        if begun.elapsed() > limit {
            return Err(Trouble::said(format!(
                "a replay is not over after {limit:?}: {job}"
            )));
        }
        tokio::time::sleep(LOOK).await;
    }
}
