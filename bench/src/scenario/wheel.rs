//! The wheel: many events that wait for random times, and how late they arrive.

use std::time::Duration;

use posthaste_event::clock;

use super::{Bench, Cost, Scenario, end_to_end, retry};
use crate::{
    events::{self, Kind},
    figures::Better,
    load::{Bulk, Taken},
    sink::Arrivals,
    system::{Backend, Calls, Contender, Services},
    trouble::Trouble,
};

const NAME: &str = Scenario::Wheel.name();

/// Requests that bring the events.
const REQUESTS: u64 = 4;

/// The first is due so much later than posting begins, so that all are posted by then.
const HEAD_START_MS: i64 = 20_000;
/// The same when there are but a few.
const HEAD_START_MS_SMALL: i64 = 1_000;
/// A few.
const SMALL: u64 = 1_000;

pub async fn round(bench: &mut Bench) -> Result<(), Trouble> {
    for (backend, contender) in bench.entries() {
        if let Err(trouble) = measure(bench, backend, &contender).await {
            bench.note(Scenario::Wheel, backend, &contender, &trouble);
        }
    }
    Ok(())
}

async fn measure(bench: &mut Bench, backend: Backend, contender: &Contender) -> Result<(), Trouble> {
    let mut system = bench
        .system(backend, contender, Services::All, Calls::Out)
        .await?;
    end_to_end::warm_up(bench, &system, Calls::Out).await?;
    let (count, ahead) = (bench.size.scheduled, bench.size.ahead);
    let first = bench.numbers(count);
    let head_start = if count <= SMALL {
        HEAD_START_MS_SMALL
    } else {
        HEAD_START_MS
    };
    let from = clock::now() + head_start;
    let span = u64::try_from(ahead.as_millis()).unwrap_or(u64::MAX).max(1);
    let due = move |number: u64| from + (mixed(number) % span).cast_signed();
    let body = Kind::Webhook(bench.sink.address()).body_with("default", &events::scheduled_field());
    let arrivals = bench.sink.expect(Arrivals::new(first, count, Duration::ZERO));
    let load = Bulk {
        address: system.intake()?,
        line: events::scheduled_lines(&body, due)?,
        requests: REQUESTS.min(count),
        first,
        count,
        limit: bench.size.limit,
    };
    let cost = Cost::begin(&system, &bench.sink);
    let Taken::Loaded(loaded) = load.run().await? else {
        return Err(Trouble::said("no events: POST /events is not offered"));
    };
    let posted = clock::now();
    let waiting = system.memory().now_mib;
    arrivals.reach(count, ahead + bench.size.limit).await?;
    let cost = cost.end(&bench.sink);
    let memory = system.memory();
    let late = retry::against(&arrivals, first, count, due);
    let records = system.records()?;
    let mut place = bench.figures.of(NAME, backend.name(), &contender.label);
    place.add_latency("late", &late.late);
    place.add("early", "events", Better::Lower, late.early as f64);
    place.add("memory when all wait", "MiB", Better::Lower, waiting);
    place.add("memory at most", "MiB", Better::Lower, memory.peak_mib);
    place.add(
        "posted before the first was due",
        "s",
        Better::Neither,
        (from - posted) as f64 / 1_000.0,
    );
    place.add(
        "repeated sends",
        "sends",
        Better::Lower,
        arrivals.repeated() as f64,
    );
    cost.place(&mut place, count, loaded.time);
    let moves: u64 = records
        .iter()
        .filter(|(topic, _)| topic.contains(".delay."))
        .map(|(_, count)| count)
        .sum();
    if !records.is_empty() {
        place.add(
            "entries into the wheel's topics",
            "records/event",
            Better::Lower,
            moves as f64 / count as f64,
        );
    }
    Ok(())
}

/// A number that looks like chance, the same each time (splitmix64).
const fn mixed(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
