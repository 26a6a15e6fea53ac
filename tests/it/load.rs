//! Many events: each goes out once, over several dispatchers, and with a provider that fails now and then.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde_json::{Value as Json, json};

use crate::{
    on_each_backend,
    system::{Backend, Client, Plan},
};

on_each_backend!(
    thousands_of_events_are_sent_once_each,
    with_a_flaky_provider_the_rule_decides_each_end,
);

/// Requests under way at once.
const CLIENTS: usize = 32;

/// Clients that post all the while, each after a pause: a load that lasts as long as what is done to it.
const STEADY_CLIENTS: usize = 4;
const PAUSE: Duration = Duration::from_millis(20);

/// Long enough for two loaded cores and a debug build.
const LIMIT: Duration = Duration::from_secs(180);

/// Posts an SMS for each of these numbers, which are below a million, to a recipient of its own; returns the event ids.
pub async fn post_all(client: &Client, numbers: Range<usize>) -> Vec<String> {
    let client = Arc::new(client.clone());
    let mut workers = tokio::task::JoinSet::new();
    for worker in 0..CLIENTS {
        let client = Arc::clone(&client);
        let numbers = numbers.clone();
        workers.spawn(async move {
            let mut ids = Vec::new();
            for index in numbers.skip(worker).step_by(CLIENTS) {
                ids.push(client.accept(&client.sms(&client.number(index))).await);
            }
            ids
        });
    }
    workers.join_all().await.concat()
}

/// Posts until told to stop; returns the ids of the events that were accepted.
pub async fn post_until(client: Client, stop: Arc<AtomicBool>) -> Vec<String> {
    let mut workers = tokio::task::JoinSet::new();
    for worker in 0..STEADY_CLIENTS {
        let (client, stop) = (client.clone(), Arc::clone(&stop));
        workers.spawn(async move {
            let mut accepted = Vec::new();
            let mut index = worker;
            while !stop.load(Ordering::Relaxed) {
                // Refused, or no answer at all: a kill. The event is not accepted, and not posted again.
                if let Ok(answer) = client.post(&client.sms(&client.number(index))).await
                    && answer.status == reqwest::StatusCode::CREATED
                {
                    accepted.push(answer.body["eventId"].as_str().unwrap().to_owned());
                }
                index += STEADY_CLIENTS;
                tokio::time::sleep(PAUSE).await;
            }
            accepted
        });
    }
    workers.join_all().await.concat()
}

/// Waits until every event that is known is SENT, and these are among them; returns how many there are.
pub async fn all_sent(client: &Client, accepted: &[String]) -> u64 {
    // An event whose answer got lost in a kill may have landed too, and is then sent like any other.
    let holds = |events: &[Json]| {
        let sent: BTreeSet<&str> = events
            .iter()
            .filter(|event| event["state"]["status"] == "SENT")
            .map(id_of)
            .collect();
        sent.len() == events.len() && accepted.iter().all(|id| sent.contains(id.as_str()))
    };
    client.wait_for_all(LIMIT, "all SENT", holds).await.len() as u64
}

/// The id in a document of the status service.
pub fn id_of(event: &Json) -> &str {
    event["eventId"].as_str().unwrap()
}

/// Whether there are this many, each of which has come to one of these ends.
pub fn all_are(events: &[Json], count: usize, ends: &[&str]) -> bool {
    events.len() == count
        && events.iter().all(|event| {
            let status = event["state"]["status"].as_str();
            status.is_some_and(|status| ends.contains(&status))
        })
}

async fn thousands_of_events_are_sent_once_each(backend: Backend) {
    const COUNT: usize = 3_000;
    let system = Plan::new(backend).await.dispatchers(3).start().await;
    let client = system.client();
    let ids = post_all(&client, 0..COUNT).await;
    assert_eq!(ids.len(), COUNT);
    client
        .wait_for_all(LIMIT, "all SENT", |events| all_are(events, COUNT, &["SENT"]))
        .await;
    let counts = system.sandbox().counts().await;
    let count = COUNT as u64;
    assert_eq!(
        (counts.taken, counts.events, counts.keys),
        (count, count, count),
        "{counts:?}"
    );
}

async fn with_a_flaky_provider_the_rule_decides_each_end(backend: Backend) {
    const COUNT: usize = 300;
    // The shipped rule for messagebird, which has no provider to fail over to.
    const TRIES: usize = 2;
    let system = Plan::new(backend).await.start().await;
    let (client, sandbox, faults) = (system.client(), system.sandbox(), system.faults().await);
    faults
        .set(json!([{"action": "unavailable", "provider": "messagebird", "percent": 30}]))
        .await;
    post_all(&client, 0..COUNT).await;
    let events = client
        .wait_for_all(LIMIT, "all at an end", |events| {
            all_are(events, COUNT, &["SENT", "DEAD_LETTERED"])
        })
        .await;
    let mut calls: BTreeMap<String, Vec<bool>> = BTreeMap::new();
    for call in sandbox.received("provider", "messagebird").await {
        calls.entry(call.event).or_default().push(call.accepted);
    }
    let mut dead: u64 = 0;
    for event in &events {
        let accepted = &calls[id_of(event)];
        let attempts = usize::try_from(event["state"]["attempt"].as_u64().unwrap()).unwrap();
        assert_eq!(accepted.len(), attempts, "{event:#}");
        if event["state"]["status"] == "SENT" {
            let expected: Vec<bool> = (1..=attempts).map(|attempt| attempt == attempts).collect();
            assert_eq!(*accepted, expected, "{event:#}");
        } else {
            assert_eq!(*accepted, [false; TRIES], "{event:#}");
            dead += 1;
        }
    }
    // 9% of 300; the chance of none, or of more than 75, is below one in a billion.
    assert!((1..=75).contains(&dead), "{dead} of {COUNT} became dead letters");

    faults.none().await;
    let everything = json!({});
    assert_eq!(client.replay_until(&everything, dead).await, dead);
    client
        .wait_for_all(LIMIT, "all SENT", |events| all_are(events, COUNT, &["SENT"]))
        .await;
    assert_eq!(client.replay(&everything).await, 0);
    let counts = sandbox.counts().await;
    assert_eq!(
        (counts.taken, counts.events),
        (COUNT as u64, COUNT as u64),
        "{counts:?}"
    );
}
