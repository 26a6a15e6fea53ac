//! Twenty SIGKILLs under load: every accepted event is sent, none is lost, and none that was recorded goes out again.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde_json::json;

use crate::{
    load::{all_sent, post_until},
    on_each_backend,
    system::{Backend, Plan, System},
};

on_each_backend!(nothing_is_lost_over_twenty_kills, a_clean_stop_repeats_nothing);

const KILLS: usize = 20;
const STOPS: usize = 5;

/// Between two kills: long enough for work to be under way again, short enough that recovery itself gets killed too.
const BETWEEN: Duration = Duration::from_millis(1_200);

/// So many events fail at their first try.
const FAILING: usize = 100;

async fn nothing_is_lost_over_twenty_kills(backend: Backend) {
    let mut system = Plan::new(backend).await.dispatchers(2).start().await;
    let (client, sandbox) = (system.client(), system.sandbox());
    // So that retries, too, are under way when a kill comes.
    let failing = (0..FAILING).map(|index| {
        let number = client.number(index);
        json!({"action": "unavailable", "recipient": number.trim_start_matches('+'), "times": 1})
    });
    system.faults().await.set(failing.collect()).await;
    let stop = Arc::new(AtomicBool::new(false));
    let load = tokio::spawn(post_until(client.clone(), Arc::clone(&stop)));
    interrupt(&mut system, KILLS, Interruption::Kill).await;
    stop.store(true, Ordering::Relaxed);
    let accepted = load.await.unwrap();
    assert!(
        accepted.len() > KILLS * 10,
        "only {} were accepted",
        accepted.len()
    );
    let events = all_sent(&client, &accepted).await;

    let before = sandbox.counts().await;
    let repeats = before.taken - before.events;
    println!(
        "{} accepted, {events} stored, {repeats} sends repeated over {KILLS} kills",
        accepted.len()
    );
    // Sent are these and no others, and what was repeated after a crash bore the key of the first time.
    assert_eq!((before.events, before.keys), (events, events), "{before:?}");

    // What is recorded never goes out again, though every process dies at once.
    system.restart_all().await;
    let canary = client.accept_in_time(&client.sms(&client.number(999_999))).await;
    client.wait(&canary, "SENT").await;
    assert_eq!(sandbox.counts().await.taken, before.taken + 1);
}

async fn a_clean_stop_repeats_nothing(backend: Backend) {
    let mut system = Plan::new(backend).await.dispatchers(2).start().await;
    let (client, sandbox) = (system.client(), system.sandbox());
    let slow = json!([{"action": "slow", "delayMs": 200}]);
    system.faults().await.set(slow).await;
    let stop = Arc::new(AtomicBool::new(false));
    let load = tokio::spawn(post_until(client.clone(), Arc::clone(&stop)));
    interrupt(&mut system, STOPS, Interruption::Terminate).await;
    stop.store(true, Ordering::Relaxed);
    let accepted = load.await.unwrap();
    let events = all_sent(&client, &accepted).await;
    system.stop_all().await;
    let counts = sandbox.counts().await;
    assert_eq!((counts.taken, counts.events), (events, events), "{counts:?}");
}

#[derive(Debug, Clone, Copy)]
enum Interruption {
    Kill,
    Terminate,
}

/// Interrupts so many random processes, one after the other, and starts each again at once.
async fn interrupt(system: &mut System, count: usize, how: Interruption) {
    let names = system.names();
    // Not a fixed order, and printed, so that a failure can be told apart from another.
    let mut random = u64::from(std::process::id()).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    for _ in 0..count {
        tokio::time::sleep(BETWEEN).await;
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let name = &names[usize::try_from(random % names.len() as u64).unwrap()];
        println!("{how:?} {name}");
        let service = system.service(name);
        match how {
            Interruption::Kill => service.kill(),
            Interruption::Terminate => service.stop().await,
        }
        service.launch();
    }
    for name in names {
        system.service(&name).ready().await;
    }
}
