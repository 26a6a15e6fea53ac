//! A slow provider delays its own events alone, and these only for as long as it is slow.

use std::time::{Duration, Instant};

use reqwest::StatusCode;
use serde_json::json;

use crate::{
    on_each_backend,
    system::{Backend, Client, Plan, Sandbox},
};

on_each_backend!(a_flood_at_a_slow_provider_is_overtaken_and_goes_out_when_there_is_room);

const FLOOD: u64 = 4_000;

/// Events in one request.
const CHUNK: usize = 250;

/// How late the slow provider answers: sending the flood through it would take minutes.
const LATENCY_MS: u64 = 5_000;

/// As many as two for each partition, or so.
const BEHIND: usize = 24;

/// Shortest bound of a parked event's wait, by default twice `dispatcher.park_ms_min`.
const PARKED: Duration = Duration::from_secs(2);

const LIMIT: Duration = Duration::from_secs(300);

async fn a_flood_at_a_slow_provider_is_overtaken_and_goes_out_when_there_is_room(backend: Backend) {
    let system = Plan::new(backend).await.start().await;
    let (client, sandbox) = (system.client(), system.sandbox());
    let faults = system.faults().await;

    let began = Instant::now();
    flood(&client, "messagebird").await;
    until_taken(&sandbox, FLOOD).await;
    let quick = began.elapsed();

    faults
        .set(json!([{"action": "slow", "provider": "twilio", "delayMs": LATENCY_MS}]))
        .await;
    let flooded = Instant::now();
    flood(&client, "twilio").await;
    let began = Instant::now();
    let mut behind = Vec::new();
    for index in 0..BEHIND {
        let mut event = client.sms(&client.number(index));
        event["provider"] = "messagebird".into();
        behind.push(client.accept(&event).await);
    }
    for id in &behind {
        while sandbox.times(id).await == 0 {
            assert!(began.elapsed() < LIMIT, "event {id} was not sent");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    let late = began.elapsed();
    let overtaken = 2 * FLOOD + BEHIND as u64 - sandbox.counts().await.taken;

    let waited = flooded.elapsed();
    faults.none().await;
    let began = Instant::now();
    until_taken(&sandbox, 2 * FLOOD + BEHIND as u64).await;
    let room = began.elapsed();
    println!(
        "{FLOOD} events through a quick provider took {quick:?}; behind as many for a slow one others were {late:?} late and \
         overtook {overtaken}; when there was room after {waited:?} the flood was out in {room:?}"
    );
    assert!(overtaken > FLOOD / 2, "{overtaken}");
    // Passing an event by costs about as much as sending it, and half of the time is kept for sending.
    assert!(late < quick * 3, "{late:?} late, {quick:?} without waiting");
    // What is parked waits as long again at most, and is then sent beside the hops of the wheel.
    assert!(
        room < 2 * waited.max(PARKED) + 6 * quick,
        "{room:?} after {waited:?} without room, {quick:?} without waiting"
    );
}

/// Posts as many events for this provider as make a flood.
async fn flood(client: &Client, provider: &str) {
    let numbers: Vec<u64> = (0..FLOOD).collect();
    for chunk in numbers.chunks(CHUNK) {
        let event = |index: &u64| {
            let mut event = client.sms(&client.number(usize::try_from(*index).unwrap()));
            event["provider"] = provider.into();
            event
        };
        let events: Vec<_> = chunk.iter().map(event).collect();
        let body = serde_json::to_string(&events).unwrap();
        let answer = client.send("/events", "application/json", body).await.unwrap();
        assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
    }
}

async fn until_taken(sandbox: &Sandbox, wanted: u64) {
    let began = Instant::now();
    loop {
        let taken = sandbox.counts().await.taken;
        if taken >= wanted {
            return;
        }
        assert!(began.elapsed() < LIMIT, "{taken} of {wanted} sent");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
