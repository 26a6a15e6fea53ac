//! Latency of critical events beside a backlog of others that is worked off through a provider of 50 ms.

use std::time::Duration;

use super::{Bench, Scenario, end_to_end, latency};
use crate::{
    events::{self, Kind},
    figures::Better,
    load::{Bulk, Taken},
    sink::Arrivals,
    system::{Backend, Calls, Contender, Services},
    trouble::Trouble,
};

const NAME: &str = Scenario::Backlog.name();

/// How long the provider takes.
const DELAY: Duration = Duration::from_millis(50);
/// Requests that bring the backlog.
const REQUESTS: u64 = 4;

pub async fn round(bench: &mut Bench) -> Result<(), Trouble> {
    for (backend, contender) in bench.entries() {
        if let Err(trouble) = measure(bench, backend, &contender).await {
            bench.note(Scenario::Backlog, backend, &contender, &trouble);
        }
    }
    Ok(())
}

async fn measure(bench: &mut Bench, backend: Backend, contender: &Contender) -> Result<(), Trouble> {
    let system = bench
        .system(backend, contender, Services::All, Calls::Out)
        .await?;
    end_to_end::warm_up(bench, &system, Calls::Out).await?;
    let idle = latency::at_low_rate(bench, &system, "critical", DELAY).await?;
    let count = bench.size.backlog;
    let first = bench.numbers(count);
    bench.sink.expect(Arrivals::new(first, 0, DELAY));
    let backlog = Bulk {
        address: system.intake()?,
        line: events::lines(&Kind::Webhook(bench.sink.address()).body("default")),
        requests: REQUESTS.min(count),
        first,
        count,
        limit: bench.size.limit,
    };
    if matches!(backlog.run().await?, Taken::NotOffered) {
        return Err(Trouble::said("no backlog: POST /events is not offered"));
    }
    let pids = system.pids();
    let (before, begun) = (crate::usage::Moment::now(&pids), std::time::Instant::now());
    let beside = latency::at_low_rate(bench, &system, "critical", DELAY).await?;
    let spent = before.until_now(&pids);
    let mut place = bench.figures.of(NAME, backend.name(), &contender.label);
    place.add_latency("critical, idle", &idle.through);
    place.add_latency("critical beside the backlog", &beside.through);
    place.add_latency("answer, idle", &idle.loaded.latency);
    place.add_latency("answer beside the backlog", &beside.loaded.latency);
    let p99 = |measured: &latency::Measured| measured.through.value_at_percentile(99.0) as f64;
    let times = p99(&beside) / p99(&idle).max(1.0);
    place.add("p99 beside the backlog to idle", "times", Better::Lower, times);
    let busy = 100.0 * spent.machine_s / begun.elapsed().as_secs_f64();
    place.add("processors busy meanwhile", "% of a core", Better::Neither, busy);
    Ok(())
}
