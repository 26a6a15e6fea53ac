//! Intake: single events over 64 connections, each answered when it is durable.
//!
//! Twice: with the lanes at a standstill, where no other service runs, and with all running.

use std::time::Duration;

use super::{Bench, Cost, Scenario};
use crate::{
    events::{self, Kind},
    figures::{Better, harmonic_sum},
    limits::{self, AT_ONCE},
    load::{Bulk, Closed, Loaded, Taken},
    sink::Arrivals,
    system::{Backend, Calls, Contender, Services, System},
    trouble::Trouble,
};

const NAME: &str = Scenario::Intake.name();

/// Requests of lines at once, and how many more events they bring than single posts, which take longer.
const BULK_REQUESTS: u64 = 4;
const BULK_FACTOR: u64 = 4;

/// What else runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lanes {
    Standing,
    Running,
}

impl Lanes {
    /// What the figures' names say of it.
    const fn case(self) -> &'static str {
        match self {
            Self::Standing => "",
            Self::Running => ", all running",
        }
    }
}

pub async fn round(bench: &mut Bench) -> Result<(), Trouble> {
    let kind = Kind::Webhook(bench.sink.address());
    let http = limits::http(&bench.program.clone(), load(bench, kind)).await?;
    add_limit(bench, "axum", http);
    let value = events::record(kind)?;
    let sqlite = limits::sqlite(value.clone(), bench.size.requests * 4).await?;
    add_limit(bench, "SQLite, 64 a commit", sqlite);
    let mut kafka = None;
    if let Some(topic) = bench.topic() {
        let limit = limits::kafka(&topic, value, bench.size.requests).await?;
        add_limit(bench, "rdkafka, 64 awaited", limit);
        kafka = Some(limit);
    }
    for (backend, contender) in bench.entries() {
        let append = match backend {
            Backend::Embedded => Some(sqlite),
            Backend::Kafka => kafka,
        };
        let limit = harmonic_sum(&[http.rate, append.map_or(f64::NAN, |append| append.rate)]);
        bench
            .figures
            .of(NAME, backend.name(), "limit")
            .add("accepted", "events/s", Better::Neither, limit);
        for lanes in [Lanes::Standing, Lanes::Running] {
            if let Err(trouble) = measure(bench, backend, &contender, lanes, limit).await {
                bench.note(Scenario::Intake, backend, &contender, &trouble);
            }
        }
    }
    Ok(())
}

fn load(bench: &mut Bench, kind: Kind) -> Closed {
    let count = bench.size.requests;
    Closed {
        address: bench.sink.address(),
        template: kind.request(bench.sink.address(), "default"),
        connections: AT_ONCE as u64,
        first: bench.numbers(count),
        count,
        limit: bench.size.limit,
        sent: None,
    }
}

async fn measure(
    bench: &mut Bench,
    backend: Backend,
    contender: &Contender,
    lanes: Lanes,
    limit: f64,
) -> Result<(), Trouble> {
    let services = match lanes {
        Lanes::Standing => Services::Intake,
        Lanes::Running => Services::All,
    };
    let case = lanes.case();
    let system = bench.system(backend, contender, services, Calls::Out).await?;
    let mut load = load(bench, Kind::Webhook(bench.sink.address()));
    load.address = system.intake()?;
    bench.sink.expect(Arrivals::new(0, 0, Duration::ZERO));
    let warm = Closed {
        first: bench.numbers(bench.size.warm_up),
        count: bench.size.warm_up,
        ..load.clone()
    };
    warm.run().await?.all_accepted()?;
    let cost = Cost::begin(&system, &bench.sink);
    let loaded = load.run().await?.all_accepted()?;
    let cost = cost.end(&bench.sink);
    let bulk = bulk(bench, &system).await?;
    let mut place = bench.figures.of(NAME, backend.name(), &contender.label);
    if let Some(bulk) = bulk {
        let name = format!("accepted in bulk{case}");
        place.add(&name, "events/s", Better::Higher, bulk.rate());
    }
    place.add(
        &format!("accepted{case}"),
        "events/s",
        Better::Higher,
        loaded.rate(),
    );
    let share = 100.0 * loaded.rate() / limit;
    place.add(&format!("share of the limit{case}"), "%", Better::Higher, share);
    place.add_latency(&format!("answer{case}"), &loaded.latency);
    if lanes == Lanes::Standing {
        cost.place(&mut place, loaded.accepted, loaded.time);
    }
    Ok(())
}

/// Lines of JSON, as many again; `None` where that is not offered.
async fn bulk(bench: &mut Bench, system: &System) -> Result<Option<Loaded>, Trouble> {
    let count = bench.size.requests * BULK_FACTOR;
    let load = Bulk {
        address: system.intake()?,
        line: events::lines(&Kind::Webhook(bench.sink.address()).body("default")),
        requests: BULK_REQUESTS,
        first: bench.numbers(count),
        count,
        limit: bench.size.limit,
    };
    match load.run().await? {
        Taken::Loaded(loaded) => Ok(Some(*loaded)),
        Taken::NotOffered => Ok(None),
    }
}

/// Notes a stage of the limit.
pub(super) fn add_limit_to(bench: &mut Bench, scenario: &str, stage: &str, limit: limits::Limit) {
    let mut place = bench.figures.of(scenario, "machine", stage);
    place.add("rate", "events/s", Better::Neither, limit.rate);
}

fn add_limit(bench: &mut Bench, stage: &str, limit: limits::Limit) {
    add_limit_to(bench, NAME, stage, limit);
}
