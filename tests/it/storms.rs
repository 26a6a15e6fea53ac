//! Everything at once: every process killed under load, and members that come and go all the time.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use posthaste_event::clock;
use serde_json::json;

use crate::{
    load::{all_sent, post_all, post_until},
    on_each_backend,
    scaling::until_busy,
    system::{Backend, Plan},
};

on_each_backend!(nothing_is_lost_when_every_process_is_killed_at_once);

const KILLS: usize = 4;

/// Members that join and leave: more than the partitions of the topic, so that some have none for a while.
const COMERS: usize = 5;
const ROUNDS: usize = 3;

/// More than two dispatchers send while one of them stands still.
const HELD: usize = 500;

/// Longer than a session on the default lane (10 s), so that another has the partitions by then.
const STILL: Duration = Duration::from_secs(13);

/// What was begun arrives within this, in milliseconds, on a busy machine. Shorter than a dispatcher that stood still waits
/// before it begins anything (2 s), and far shorter than a session, after which others take over.
const ARRIVES: i64 = 1_500;

/// Sends under way at a time. As many may be caught between the last look and the socket.
const UNDER_WAY: usize = 4;

async fn nothing_is_lost_when_every_process_is_killed_at_once(backend: Backend) {
    let mut system = Plan::new(backend).await.dispatchers(2).start().await;
    let (client, sandbox) = (system.client(), system.sandbox());
    let stop = Arc::new(AtomicBool::new(false));
    let load = tokio::spawn(post_until(client.clone(), Arc::clone(&stop)));
    for _ in 0..KILLS {
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        system.restart_all().await;
    }
    stop.store(true, Ordering::Relaxed);
    let accepted = load.await.unwrap();
    let events = all_sent(&client, &accepted).await;
    let counts = sandbox.counts().await;
    println!(
        "{} accepted, {events} stored, {} sends repeated over {KILLS} kills of everything",
        accepted.len(),
        counts.taken - counts.events
    );
    // A repeated send bears the key of the first.
    assert_eq!((counts.events, counts.keys), (events, events), "{counts:?}");
}

#[tokio::test]
async fn dispatchers_that_join_and_leave_all_the_time_repeat_nothing() {
    let mut system = Plan::new(Backend::Kafka).await.start().await;
    let (client, sandbox) = (system.client(), system.sandbox());
    let stop = Arc::new(AtomicBool::new(false));
    let load = tokio::spawn(post_until(client.clone(), Arc::clone(&stop)));
    let comers = system.add_dispatchers(COMERS);
    for round in 0..ROUNDS {
        for (index, name) in comers.iter().enumerate() {
            // Some leave before they are ready, and each again as another joins.
            if (round + index) % 2 == 0 {
                system.service(name).ready().await;
            }
            system.service(name).stop().await;
            system.service(name).launch();
        }
    }
    for name in &comers {
        system.service(name).ready().await;
        system.service(name).stop().await;
    }
    stop.store(true, Ordering::Relaxed);
    let accepted = load.await.unwrap();
    let events = all_sent(&client, &accepted).await;
    let counts = sandbox.counts().await;
    assert_eq!((counts.taken, counts.events), (events, events), "{counts:?}");
}

/// What a dispatcher holds when it stands still belongs to others by the time it goes on, and was sent by them.
#[tokio::test]
async fn a_dispatcher_that_stood_still_sends_nothing_that_others_have_sent() {
    let mut system = Plan::new(Backend::Kafka)
        .await
        .setting(
            "POSTHASTE_PROVIDERS__MESSAGEBIRD__CONCURRENCY_MAX",
            &UNDER_WAY.to_string(),
        )
        // All of them wait in memory.
        .setting("POSTHASTE_DISPATCHER__QUEUE_WAIT_MS_MAX", "600000")
        .start()
        .await;
    let (client, sandbox) = (system.client(), system.sandbox());
    let names = system.add_dispatchers(1);
    let name = names.first().unwrap();
    system.service(name).ready().await;
    let slow = json!([{"action": "slow", "delayMs": 200}]);
    system.faults().await.set(slow).await;
    let accepted = post_all(&client, 0..HELD).await;
    until_busy(&system, name).await;

    system.service(name).pause();
    let stopped_at = clock::now();
    tokio::time::sleep(STILL).await;
    let resumed_at = clock::now();
    system.service(name).resume();
    all_sent(&client, &accepted).await;
    let mut first: BTreeMap<String, i64> = BTreeMap::new();
    let mut caught = 0;
    for call in sandbox.received("provider", "messagebird").await {
        if let Some(first) = first.get(&call.event) {
            // Under way when it was stopped: the first or the second of them.
            let is_second = *first >= stopped_at + ARRIVES;
            assert!(
                !is_second || call.at < resumed_at + ARRIVES,
                "{call:?} was sent before, at {first}; stopped at {stopped_at}, resumed at {resumed_at}"
            );
            caught += usize::from(is_second);
        } else {
            first.insert(call.event, call.at);
        }
    }
    assert!(caught <= UNDER_WAY, "{caught} were sent again");
}
