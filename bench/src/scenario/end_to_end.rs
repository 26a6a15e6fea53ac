//! End to end: single posts over 64 connections, through the dispatcher to the provider, until the status says so.
//!
//! Twice: to a bare sink outside, and as it ships, to the sandbox, whose own work then counts as Posthaste's.

use std::time::Duration;

use super::{Bench, Cost, Scenario, intake::add_limit_to};
use crate::{
    events::{self, Kind},
    figures::{Better, harmonic_sum},
    limits::{self, AT_ONCE, Limit},
    load::{Closed, Loaded},
    sink::Arrivals,
    system::{Backend, Calls, Contender, Services, System},
    trouble::Trouble,
};

const NAME: &str = Scenario::EndToEnd.name();

/// Who carries the events, and what the figures' names say of it.
const CASES: [(Calls, &str); 2] = [(Calls::Out, ""), (Calls::Sandbox, ", sandbox")];

pub async fn round(bench: &mut Bench) -> Result<(), Trouble> {
    let limits = Limits::measure(bench).await?;
    for (backend, contender) in bench.entries() {
        let limit = limits.of(backend);
        bench
            .figures
            .of(NAME, backend.name(), "limit")
            .add("through", "events/s", Better::Neither, limit);
        for (calls, case) in CASES {
            if let Err(trouble) = measure(bench, backend, &contender, calls, case, limit).await {
                bench.note(Scenario::EndToEnd, backend, &contender, &trouble);
            }
        }
    }
    Ok(())
}

/// The stages of an event's way, bare. The event and its outcome are appended; the status is written once.
struct Limits {
    http: Limit,
    sqlite: Limit,
    documents: Limit,
    call: Limit,
    kafka: Option<(Limit, Limit)>,
}

impl Limits {
    async fn measure(bench: &mut Bench) -> Result<Self, Trouble> {
        let kind = Kind::Webhook(bench.sink.address());
        let count = bench.size.requests;
        let load = load(bench, kind, count);
        let value = events::record(kind)?;
        let body = kind.body("default").into_bytes();
        let http = limits::http(&bench.program, load).await?;
        let sqlite = limits::sqlite(value.clone(), count * 4).await?;
        let documents = limits::sqlite_documents(value.clone(), count * 4).await?;
        let call = limits::client(&bench.sink, body, count).await?;
        let mut kafka = None;
        if let Some(topic) = bench.topic() {
            let awaited = limits::kafka(&topic, value.clone(), count).await?;
            let bulk = limits::kafka_bulk(&topic, value, count * 4).await?;
            add_limit_to(bench, NAME, "rdkafka, 64 awaited", awaited);
            add_limit_to(bench, NAME, "rdkafka, bulk", bulk);
            kafka = Some((awaited, bulk));
        }
        add_limit_to(bench, NAME, "axum", http);
        add_limit_to(bench, NAME, "SQLite, 64 a commit", sqlite);
        add_limit_to(bench, NAME, "SQLite documents, 64 a commit", documents);
        add_limit_to(bench, NAME, "reqwest to the sink", call);
        Ok(Self {
            http,
            sqlite,
            documents,
            call,
            kafka,
        })
    }

    /// On Kafka the status is counted as SQLite would write it: the bare driver and the stand-in are not measured.
    fn of(&self, backend: Backend) -> f64 {
        let (event, outcome) = match (backend, self.kafka) {
            (Backend::Kafka, Some((awaited, bulk))) => (awaited.rate, bulk.rate),
            _ => (self.sqlite.rate, self.sqlite.rate),
        };
        harmonic_sum(&[
            self.http.rate,
            event,
            self.call.rate,
            outcome,
            self.documents.rate,
        ])
    }
}

fn load(bench: &mut Bench, kind: Kind, count: u64) -> Closed {
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
    calls: Calls,
    case: &str,
    limit: f64,
) -> Result<(), Trouble> {
    let mut system = bench.system(backend, contender, Services::All, calls).await?;
    warm_up(bench, &system, calls).await?;
    let cost = Cost::begin(&system, &bench.sink);
    let run = Run::of(bench, &system, calls, bench.size.events).await?;
    let cost = cost.end(&bench.sink);
    let mut place = bench.figures.of(NAME, backend.name(), &contender.label);
    place.add(
        &format!("accepted{case}"),
        "events/s",
        Better::Neither,
        run.loaded.rate(),
    );
    if let Some(delivered) = run.delivered {
        let rate = run.events as f64 / delivered.as_secs_f64();
        place.add(&format!("delivered{case}"), "events/s", Better::Higher, rate);
        place.add("repeated sends", "sends", Better::Lower, run.repeated as f64);
    }
    let rate = run.events as f64 / run.settled.as_secs_f64();
    place.add(
        &format!("through, status written{case}"),
        "events/s",
        Better::Higher,
        rate,
    );
    if calls == Calls::Out {
        place.add("share of the limit", "%", Better::Higher, 100.0 * rate / limit);
        cost.place(&mut place, run.events, run.loaded.time);
        let behind = run.settled.saturating_sub(run.delivered.unwrap_or_default());
        place.add(
            "status behind the last delivery",
            "ms",
            Better::Lower,
            behind.as_secs_f64() * 1_000.0,
        );
        place.add("memory at most", "MiB", Better::Lower, system.memory().peak_mib);
        let records: u64 = system.records()?.iter().map(|(_, count)| count).sum();
        if records > 0 {
            // The warm-up's events take two each.
            let of_these = records.saturating_sub(2 * bench.size.warm_up) as f64 / run.events as f64;
            let mut place = bench.figures.of(NAME, backend.name(), &contender.label);
            place.add("records of an event", "records", Better::Lower, of_these);
        }
    }
    Ok(())
}

/// Sends some events through, so that connections are open and code and caches are warm.
///
/// # Errors
/// When they do not come through.
pub async fn warm_up(bench: &mut Bench, system: &System, calls: Calls) -> Result<(), Trouble> {
    let count = bench.size.warm_up;
    Run::of(bench, system, calls, count).await.map(drop)
}

/// Events that went through.
pub struct Run {
    /// How many.
    pub events: u64,
    /// Their posts.
    pub loaded: Loaded,
    /// From the first post to the last arrival at the sink, if they went there.
    pub delivered: Option<Duration>,
    /// From the first post until the status of the last ones said so.
    pub settled: Duration,
    /// Sends of events that had been sent.
    pub repeated: u64,
}

impl Run {
    /// Posts so many, and waits until they are through.
    ///
    /// # Errors
    /// When they are not in time.
    pub async fn of(bench: &mut Bench, system: &System, calls: Calls, events: u64) -> Result<Self, Trouble> {
        let kind = match calls {
            Calls::Out => Kind::Webhook(bench.sink.address()),
            Calls::Sandbox => Kind::Sms,
        };
        let mut load = load(bench, kind, events);
        let intake = system.intake()?;
        (load.address, load.template) = (intake, kind.request(intake, "default"));
        let arrivals = bench
            .sink
            .expect(Arrivals::new(load.first, events, Duration::ZERO));
        let limit = load.limit;
        let loaded = load.run().await?.all_accepted()?;
        let mut delivered = None;
        if calls == Calls::Out {
            arrivals.reach(events, limit).await?;
            delivered = Some(loaded.begun.elapsed());
        }
        system.all_have(&loaded.ids, "SENT", limit).await?;
        Ok(Self {
            events,
            delivered,
            settled: loaded.begun.elapsed(),
            repeated: arrivals.repeated(),
            loaded,
        })
    }
}
