//! Cost as the work grows: processor time, memory and throughput for more and more events, and for more dispatchers with a
//! provider that takes 50 ms.

use std::time::Duration;

use super::{Bench, Cost, Scenario, end_to_end};
use crate::{
    events::{self, Kind},
    figures::Better,
    load::{Bulk, Taken},
    sink::Arrivals,
    system::{Backend, Calls, Contender, Services},
    trouble::Trouble,
};

const NAME: &str = Scenario::Growth.name();

/// Dispatchers that are compared; on Kafka only, since the embedded log belongs to one process.
const DISPATCHERS: [usize; 3] = [1, 2, 4];
/// How long the provider takes meanwhile.
const DELAY: Duration = Duration::from_millis(50);
/// Requests that bring the events.
const REQUESTS: u64 = 4;

pub async fn round(bench: &mut Bench) -> Result<(), Trouble> {
    for (backend, contender) in bench.entries() {
        for events in bench.size.growth {
            if let Err(trouble) = more_events(bench, backend, &contender, events).await {
                bench.note(Scenario::Growth, backend, &contender, &trouble);
            }
        }
        if backend == Backend::Kafka {
            for dispatchers in DISPATCHERS {
                if let Err(trouble) = more_dispatchers(bench, &contender, dispatchers).await {
                    bench.note(Scenario::Growth, backend, &contender, &trouble);
                }
            }
        }
    }
    Ok(())
}

async fn more_events(
    bench: &mut Bench,
    backend: Backend,
    contender: &Contender,
    events: u64,
) -> Result<(), Trouble> {
    let system = bench
        .system(backend, contender, Services::All, Calls::Out)
        .await?;
    end_to_end::warm_up(bench, &system, Calls::Out).await?;
    let cost = Cost::begin(&system, &bench.sink);
    let run = end_to_end::Run::of(bench, &system, Calls::Out, events).await?;
    let cost = cost.end(&bench.sink);
    let mut place = bench.figures.of(NAME, backend.name(), &contender.label);
    let rate = events as f64 / run.settled.as_secs_f64();
    place.add(
        &format!("through, {events} events"),
        "events/s",
        Better::Higher,
        rate,
    );
    let per = cost.own_per_100k(events);
    place.add(
        &format!("processor time, {events} events"),
        "core-s/100k",
        Better::Lower,
        per,
    );
    let peak = system.memory().peak_mib;
    place.add(
        &format!("memory at most, {events} events"),
        "MiB",
        Better::Lower,
        peak,
    );
    Ok(())
}

async fn more_dispatchers(
    bench: &mut Bench,
    contender: &Contender,
    dispatchers: usize,
) -> Result<(), Trouble> {
    let backend = Backend::Kafka;
    let system = bench
        .system(backend, contender, Services::Dispatchers(dispatchers), Calls::Out)
        .await?;
    end_to_end::warm_up(bench, &system, Calls::Out).await?;
    let count = bench.size.events;
    let first = bench.numbers(count);
    let arrivals = bench.sink.expect(Arrivals::new(first, count, DELAY));
    let load = Bulk {
        address: system.intake()?,
        line: events::lines(&Kind::Webhook(bench.sink.address()).body("default")),
        requests: REQUESTS.min(count),
        first,
        count,
        limit: bench.size.limit,
    };
    let cost = Cost::begin(&system, &bench.sink);
    let Taken::Loaded(loaded) = load.run().await? else {
        return Err(Trouble::said("no events: POST /events is not offered"));
    };
    arrivals.reach(count, bench.size.limit).await?;
    let elapsed = loaded.begun.elapsed().as_secs_f64();
    let cost = cost.end(&bench.sink);
    let mut place = bench.figures.of(NAME, backend.name(), &contender.label);
    let name = format!("provider of 50 ms, {dispatchers} dispatchers");
    place.add(
        &format!("delivered, {name}"),
        "events/s",
        Better::Higher,
        count as f64 / elapsed,
    );
    place.add(
        &format!("processor time, {name}"),
        "core-s/100k",
        Better::Lower,
        cost.own_per_100k(count),
    );
    Ok(())
}
