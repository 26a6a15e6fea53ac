//! The wheel: many events that wait for random times, and how late they arrive.

use std::time::Duration;

use posthaste_event::clock;

use super::{Bench, Cost, Costs, Scenario, end_to_end, retry};
use crate::{
    events::{self, Kind},
    figures::Better,
    load::{Bulk, Taken},
    sink::Arrivals,
    system::{Backend, Calls, Contender, Services, System},
    trouble::Trouble,
};

const NAME: &str = Scenario::Wheel.name();

/// Requests that bring the events.
const REQUESTS: u64 = 4;

/// The first is due so much later than posting begins, so that all are posted by then.
const HEAD_START_MS: i64 = 20_000;
/// The same on Kafka.
const HEAD_START_KAFKA_MS: i64 = 120_000;
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
    let wide = Wave {
        count: bench.size.scheduled,
        span: bench.size.ahead,
    };
    let waited = pass(bench, &system, backend, &wide).await?;
    let memory = system.memory();
    let steep = Wave {
        count: bench.size.at_once,
        span: Duration::from_secs(1),
    };
    let together = pass(bench, &system, backend, &steep).await?;
    let entered = moves(&mut system)?;
    let mut place = bench.figures.of(NAME, backend.name(), &contender.label);
    place.add_latency("late", &waited.late.late);
    place.add("early", "events", Better::Lower, waited.late.early as f64);
    place.add(
        "memory when all wait",
        "MiB",
        Better::Lower,
        waited.memory_waiting_mib,
    );
    place.add("memory at most", "MiB", Better::Lower, memory.peak_mib);
    place.add(
        "posted before the first was due",
        "s",
        Better::Neither,
        waited.posted_before_s,
    );
    place.add(
        "repeated sends",
        "sends",
        Better::Lower,
        (waited.repeated + together.repeated) as f64,
    );
    waited.cost.place(&mut place, wide.count, waited.posting);
    if let Some(entered) = entered {
        place.add(
            "entries into the wheel's topics",
            "records/event",
            Better::Lower,
            entered as f64 / (wide.count + steep.count) as f64,
        );
    }
    place.add_latency("late, all due in one second", &together.late.late);
    let early = together.late.early as f64;
    place.add("early, all due in one second", "events", Better::Lower, early);
    Ok(())
}

/// So many events that are due within a span.
struct Wave {
    count: u64,
    span: Duration,
}

/// What became of a wave.
struct Waited {
    late: retry::Late,
    repeated: u64,
    /// How long before the first was due the last was posted, in seconds.
    posted_before_s: f64,
    memory_waiting_mib: f64,
    posting: Duration,
    cost: Costs,
}

/// Posts a wave, and waits until all of it has come through.
async fn pass(bench: &mut Bench, system: &System, backend: Backend, wave: &Wave) -> Result<Waited, Trouble> {
    let count = wave.count;
    let first = bench.numbers(count);
    let head_start = match backend {
        _ if count <= SMALL => HEAD_START_MS_SMALL,
        Backend::Embedded => HEAD_START_MS,
        Backend::Kafka => HEAD_START_KAFKA_MS,
    };
    let from = clock::now() + head_start;
    let span = u64::try_from(wave.span.as_millis()).unwrap_or(u64::MAX).max(1);
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
    let cost = Cost::begin(system, &bench.sink);
    let Taken::Loaded(loaded) = load.run().await? else {
        return Err(Trouble::said("no events: POST /events is not offered"));
    };
    let posted = clock::now();
    let memory_waiting_mib = system.memory().now_mib;
    arrivals.reach(count, wave.span + bench.size.limit).await?;
    Ok(Waited {
        late: retry::against(&arrivals, first, count, due),
        repeated: arrivals.repeated(),
        posted_before_s: (from - posted) as f64 / 1_000.0,
        memory_waiting_mib,
        posting: loaded.time,
        cost: cost.end(&bench.sink),
    })
}

/// Records that were ever in the wheel's topics, where they can be counted. The system ends by that.
fn moves(system: &mut System) -> Result<Option<u64>, Trouble> {
    let records = system.records()?;
    let moves = records
        .iter()
        .filter(|(topic, _)| topic.contains(".delay."))
        .map(|(_, count)| count)
        .sum();
    Ok((!records.is_empty()).then_some(moves))
}

/// A number that looks like chance, the same each time (splitmix64).
const fn mixed(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
