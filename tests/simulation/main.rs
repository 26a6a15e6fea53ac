//! The deterministic simulation: a cluster with crashes, zombies, rebalances, outages and lost answers on a virtual clock, all
//! of it drawn from one seed, around the product's own rules, wheel, watermark, scheduler and state machine.
//!
//! After each run the promises are checked: every accepted event ends exactly once per generation and is in exactly one place at
//! every moment; a recorded send is never repeated, and one in doubt goes out with the same key, or, for `no-duplicate`, not
//! at all; nothing is tried more often than the rules say, sent early, or sent after it expired; what was withdrawn is not sent
//! afterwards, and where it may have been sent before, it says so; no watermark passes an unfinished record.
//!
//! `POSTHASTE_SIMULATION_EVENTS=1000000 cargo test -p posthaste-tests --release --test simulation -- --nocapture` runs a million
//! events. A seed that fails says how it is run again.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod cluster;
mod lane;
mod ledger;
mod log;
mod node;
mod random;
mod replay;
mod traffic;
mod wheel;
mod withdraw;

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use posthaste_event::{Status, Topic};
use posthaste_store::Fold;

use cluster::{Cluster, Plan, Sabotage};

/// Events of one run.
const EVENTS_A_RUN: usize = 2_000;

/// Events in all, unless the environment asks for more: a few seconds in a debug build.
const EVENTS_DEFAULT: usize = 8_000;

/// What the runs added up to.
#[derive(Default)]
struct Sum {
    events: usize,
    calls: usize,
    repeated: u64,
    replayed: u64,
    steps: u64,
    faults: BTreeMap<&'static str, u64>,
    seen: BTreeMap<&'static str, u64>,
    ends: BTreeMap<Status, u64>,
}

fn plan(seed: u64) -> Plan {
    Plan {
        seed,
        events: EVENTS_A_RUN,
        faults: true,
        nodes: 3,
        partitions: 3,
        sabotage: Sabotage::None,
    }
}

fn number(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    Some(
        value
            .parse()
            .unwrap_or_else(|_| panic!("{variable}={value:?} is no number")),
    )
}

/// One run; a broken promise says how to see it again.
fn run(plan: Plan) -> Cluster {
    let mut cluster = Cluster::new(plan);
    if let Err(broken) = cluster.run() {
        panic!(
            "{broken}\nat {} ms of seed {seed}; again: POSTHASTE_SIMULATION_SEED={seed} POSTHASTE_SIMULATION_EVENTS={events} \
             cargo test -p posthaste-tests --test simulation promises -- --nocapture",
            cluster.now - cluster::BEGIN,
            seed = plan.seed,
            events = plan.events,
        );
    }
    cluster
}

#[test]
fn promises_hold_over_crashes_zombies_rebalances_and_lost_answers() {
    let first = number("POSTHASTE_SIMULATION_SEED").unwrap_or(1);
    let events = number("POSTHASTE_SIMULATION_EVENTS").map_or(EVENTS_DEFAULT, |events| events as usize);
    let runs = events.div_ceil(EVENTS_A_RUN).max(1) as u64;
    let next = AtomicU64::new(0);
    let sum = Mutex::new(Sum::default());
    let began = Instant::now();
    let work = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= runs {
                return;
            }
            let cluster = run(Plan {
                events: events.min(EVENTS_A_RUN),
                ..plan(first + number)
            });
            let mut sum = sum.lock().unwrap();
            sum.events += cluster.ledger.lives().len();
            sum.calls += cluster.ledger.calls();
            sum.repeated += cluster.ledger.repeated;
            sum.replayed += cluster.ledger.replayed;
            sum.steps += cluster.steps;
            for (name, count) in &cluster.faults {
                *sum.faults.entry(name).or_default() += count;
            }
            for (what, count) in &cluster.seen {
                *sum.seen.entry(what).or_default() += count;
            }
            for life in cluster.ledger.lives() {
                *sum.ends.entry(life.status).or_default() += 1;
            }
        }
    };
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            if let Err(panic) = worker.join() {
                std::panic::resume_unwind(panic);
            }
        }
    });
    let sum = sum.into_inner().unwrap();
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "{} events in {runs} runs from seed {first}: {} steps, {} sends ({} repeated after a fault), {} replays, {:?}, {:?}, {:?}; \
         {seconds:.1} s, {:.0} events/s",
        sum.events,
        sum.steps,
        sum.calls,
        sum.repeated,
        sum.replayed,
        sum.faults,
        sum.seen,
        sum.ends,
        sum.events as f64 / seconds,
    );
    // The faults were there, and so was every way to end.
    if events >= EVENTS_DEFAULT {
        assert!(sum.repeated > 0 && sum.replayed > 0);
        assert_eq!(sum.ends.len(), 4, "{:?}", sum.ends);
        assert!(sum.faults.len() >= 5, "{:?}", sum.faults);
        assert!(sum.seen.len() >= 9, "{:?}", sum.seen);
    }
}

#[test]
fn without_faults_nothing_is_repeated_and_the_wheel_is_punctual() {
    for seed in 1..=3 {
        let cluster = run(Plan {
            events: 1_000,
            faults: false,
            ..plan(seed)
        });
        assert_eq!(cluster.ledger.repeated, 0, "seed {seed}");
        assert!(
            cluster.late_ms_max < 100,
            "{} ms late with seed {seed}",
            cluster.late_ms_max
        );
    }
}

#[test]
fn the_same_seed_is_the_same_run() {
    let records = |seed| {
        let cluster = run(Plan {
            events: 500,
            ..plan(seed)
        });
        let values: Vec<_> = cluster
            .log
            .everything()
            .map(|record| record.value.clone())
            .collect();
        (values, cluster.steps)
    };
    assert!(records(7) == records(7));
    assert!(records(7) != records(8));
}

/// What the projector makes of the topics is what became of the events.
#[test]
fn the_status_says_what_became_of_every_event() {
    let cluster = run(Plan {
        events: 1_000,
        ..plan(11)
    });
    let mut fold = Fold::default();
    let told = |record: &&posthaste_broker::Record| record.partition.topic != Topic::Cancel;
    for record in cluster.log.everything().filter(told) {
        fold.add(record.decode("events").unwrap());
    }
    let changes = fold.into_changes();
    assert_eq!(changes.len(), 1_000);
    for change in changes {
        let life = &cluster.ledger.lives()[ledger::number_of(&change.id)];
        let state = change.state.unwrap();
        assert_eq!(
            (state.step, state.status),
            (life.step(), life.status),
            "{}",
            change.id
        );
        assert!(
            change.timeline.iter().map(|(step, _)| *step).eq(0..=life.step()),
            "{}",
            change.id
        );
    }
}

/// The checks find what is broken on purpose.
#[test]
fn what_is_broken_on_purpose_is_found() {
    for sabotage in [
        Sabotage::LosesAnOutcome,
        Sabotage::HasNoFence,
        Sabotage::IsEarly,
        Sabotage::ForgetsTheMap,
        Sabotage::SendsAgain,
    ] {
        let mut happened = 0;
        for seed in 1..=6 {
            let mut cluster = Cluster::new(Plan {
                events: 500,
                sabotage,
                ..plan(seed)
            });
            let found = cluster.run();
            if cluster.sabotages > 0 {
                happened += 1;
                assert!(found.is_err(), "{sabotage:?} is not found with seed {seed}");
                println!("{sabotage:?}: {}", found.unwrap_err());
            }
        }
        assert!(happened > 1, "{sabotage:?} did not happen");
    }
}
