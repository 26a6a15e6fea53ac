//! Latency of one event at a low rate, from when it should have been posted to its arrival at the provider.

use std::{sync::Arc, time::Duration};

use hdrhistogram::Histogram;

use super::{Bench, Scenario, end_to_end};
use crate::{
    events::Kind,
    figures::Better,
    load::{Loaded, Open, Times, histogram, record},
    sink::Arrivals,
    system::{Backend, Calls, Contender, Services, System},
    trouble::Trouble,
};

const NAME: &str = Scenario::Latency.name();

/// Events a second.
const RATE: f64 = 200.0;
/// Connections that take turns: an answer that takes up to a third of a second holds up no other.
const CONNECTIONS: u64 = 64;

pub async fn round(bench: &mut Bench) -> Result<(), Trouble> {
    for (backend, contender) in bench.entries() {
        if let Err(trouble) = measure(bench, backend, &contender).await {
            bench.note(Scenario::Latency, backend, &contender, &trouble);
        }
    }
    Ok(())
}

async fn measure(bench: &mut Bench, backend: Backend, contender: &Contender) -> Result<(), Trouble> {
    let system = bench
        .system(backend, contender, Services::All, Calls::Out)
        .await?;
    end_to_end::warm_up(bench, &system, Calls::Out).await?;
    if backend == Backend::Kafka {
        // The broker's Java machine compiles for half a minute more at this rate, on the processors that it is measured on.
        at_low_rate(bench, &system, "default", Duration::ZERO).await?;
    }
    for (priority, case) in [("default", ""), ("critical", ", critical")] {
        let measured = at_low_rate(bench, &system, priority, Duration::ZERO).await?;
        let mut place = bench.figures.of(NAME, backend.name(), &contender.label);
        place.add_latency(&format!("HTTP to provider{case}"), &measured.through);
        place.add_latency(&format!("answer{case}"), &measured.loaded.latency);
        let late = measured.loaded.lateness.value_at_percentile(99.0) as f64 / 1_000.0;
        place.add(&format!("posts late p99{case}"), "ms", Better::Neither, late);
    }
    Ok(())
}

/// Latencies at the low rate.
pub struct Measured {
    /// From when an event should have been posted to its arrival, in microseconds.
    pub through: Histogram<u64>,
    /// The posts.
    pub loaded: Loaded,
}

/// Posts at the rate for as long as is measured, to a provider that takes so long to answer.
///
/// # Errors
/// When not all events arrive.
pub async fn at_low_rate(
    bench: &mut Bench,
    system: &System,
    priority: &str,
    delay: Duration,
) -> Result<Measured, Trouble> {
    let count = (bench.size.latency_s * RATE).ceil() as u64;
    let first = bench.numbers(count);
    let sent = Arc::new(Times::new(first, count));
    let arrivals = bench.sink.expect(Arrivals::new(first, count, delay));
    let intake = system.intake()?;
    let load = Open {
        address: intake,
        template: Kind::Webhook(bench.sink.address()).request(intake, priority),
        connections: CONNECTIONS.min(count),
        first,
        count,
        rate: RATE,
        sent: Some(Arc::clone(&sent)),
    };
    let loaded = load.run().await?.all_accepted()?;
    arrivals.reach(count, bench.size.limit).await?;
    let mut through = histogram();
    for number in first..first + count {
        if let (Some(out), Some(arrived)) = (sent.of(number), arrivals.taken.of(number)) {
            record(&mut through, arrived.saturating_duration_since(out));
        }
    }
    Ok(Measured { through, loaded })
}
