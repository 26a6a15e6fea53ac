//! Status documents a second: the status service catches up with events that went through without it.
//!
//! On Kafka it is killed while they go through. The one process of the embedded backend is made to forget its status instead,
//! and reads the log again.

use std::time::Instant;

use super::{Bench, Scenario, end_to_end};
use crate::{
    events::Kind,
    figures::Better,
    limits::AT_ONCE,
    load::Closed,
    sink::Arrivals,
    system::{Backend, Calls, Contender, Services},
    trouble::Trouble,
};

const NAME: &str = Scenario::Projector.name();

pub async fn round(bench: &mut Bench) -> Result<(), Trouble> {
    for (backend, contender) in bench.entries() {
        if let Err(trouble) = measure(bench, backend, &contender).await {
            bench.note(Scenario::Projector, backend, &contender, &trouble);
        }
    }
    Ok(())
}

async fn measure(bench: &mut Bench, backend: Backend, contender: &Contender) -> Result<(), Trouble> {
    let mut system = bench
        .system(backend, contender, Services::All, Calls::Out)
        .await?;
    end_to_end::warm_up(bench, &system, Calls::Out).await?;
    if backend == Backend::Kafka {
        system.kill("status");
    }
    let (count, limit) = (bench.size.events, bench.size.limit);
    let first = bench.numbers(count);
    let arrivals = bench
        .sink
        .expect(Arrivals::new(first, count, std::time::Duration::ZERO));
    let intake = system.intake()?;
    let load = Closed {
        address: intake,
        template: Kind::Webhook(bench.sink.address()).request(intake, "default"),
        connections: AT_ONCE as u64,
        first,
        count,
        limit,
        sent: None,
    };
    let loaded = load.run().await?.all_accepted()?;
    arrivals.reach(count, limit).await?;
    let without = count as f64 / loaded.begun.elapsed().as_secs_f64();
    let begun = Instant::now();
    let documents = match backend {
        Backend::Kafka => {
            system.launch("status").await?;
            count
        }
        Backend::Embedded => {
            system.all_have(&loaded.ids, "SENT", limit).await?;
            system.forget_status().await?;
            count + bench.size.warm_up
        }
    };
    let ready = Instant::now();
    system.all_have(&loaded.ids, "SENT", limit).await?;
    let mut place = bench.figures.of(NAME, backend.name(), &contender.label);
    let rate = documents as f64 / ready.elapsed().as_secs_f64().max(1e-9);
    place.add("documents", "documents/s", Better::Higher, rate);
    place.add(
        "all right after",
        "s",
        Better::Lower,
        begun.elapsed().as_secs_f64(),
    );
    if backend == Backend::Kafka {
        place.add(
            "delivered with the status service away",
            "events/s",
            Better::Higher,
            without,
        );
    }
    Ok(())
}
