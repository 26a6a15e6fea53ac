//! One message for many: each recipient gets it once, whoever is killed, and nobody gets anything of an upload that broke off.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use posthaste_killpoint::{BROADCAST_SAID, BROADCAST_UNSAID, CHUNK_APPENDED, CLAIMED, OF_A_HOP};
use reqwest::StatusCode;
use serde_json::{Value as Json, json};

use crate::{
    kill_points::facts,
    load, on_each_backend,
    system::{Backend, Client, PATIENCE, Plan, System},
};

on_each_backend!(
    a_broadcast_goes_out_in_chunks_and_rests_and_ends_when_told,
    a_stored_list_is_sent_to_as_it_is,
    a_cancel_withdraws_what_was_handed_over_and_not_sent,
    a_kill_at_any_point_reaches_everybody_once,
    a_kill_in_mid_upload_sends_nothing_and_one_before_the_answer_all,
    a_key_makes_one_broadcast_of_a_request_whose_answer_was_lost,
);

const LIMIT: Duration = Duration::from_secs(120);

fn head(client: &Client, chunk_size: usize, chunk_delay_ms: u64) -> Json {
    json!({
        "tenant": client.tenant(), "chunkSize": chunk_size, "chunkDelay": chunk_delay_ms,
        "message": {"channel": "sms", "payload": {"message": "To many"}},
    })
}

/// A line for each of these numbers.
fn lines(client: &Client, numbers: std::ops::Range<usize>) -> String {
    numbers
        .map(|index| json!({"payload": {"phoneNumber": client.number(index)}}).to_string() + "\n")
        .collect()
}

/// Posts a broadcast to these numbers; returns its id.
async fn post(client: &Client, head: &Json, numbers: std::ops::Range<usize>) -> String {
    let body = format!("{head}\n{}", lines(client, numbers));
    let answer = client
        .send("/broadcasts", "application/x-ndjson", body)
        .await
        .unwrap();
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{answer:?}");
    answer.body["broadcastId"].as_str().unwrap().to_owned()
}

async fn seen(client: &Client, id: &str) -> Json {
    client
        .ask("GET", &client.intake(&format!("/broadcasts/{id}")), None)
        .await
        .body
}

async fn wait(client: &Client, id: &str, wanted: &str, holds: impl Fn(&Json) -> bool) -> Json {
    let start = Instant::now();
    loop {
        let broadcast = seen(client, id).await;
        if holds(&broadcast) {
            return broadcast;
        }
        assert!(start.elapsed() < PATIENCE, "not {wanted}: {broadcast:#}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn wish(client: &Client, id: &str, wish: &str) -> Json {
    let url = client.intake(&format!("/broadcasts/{id}/{wish}"));
    let answer = client.ask("POST", &url, None).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    answer.body
}

/// What became of a broadcast's events, when so many were sent and so many withdrawn.
fn tally(sent: usize, cancelled: usize) -> Json {
    json!({"waiting": 0, "sent": sent, "failed": 0, "skipped": 0, "cancelled": cancelled, "expired": 0})
}

/// Whether all have such an end and are whole: how an event ended stands on another topic than what it is, and either may be
/// known first.
fn all_are(events: &[Json], count: usize, ends: &[&str]) -> bool {
    load::all_are(events, count, ends) && events.iter().all(|event| event["payload"].is_object())
}

/// How often each of the tenant's events goes to each number.
fn by_number(events: &[Json]) -> BTreeMap<&str, usize> {
    let mut numbers = BTreeMap::new();
    for event in events {
        *numbers
            .entry(event["payload"]["phoneNumber"].as_str().unwrap())
            .or_default() += 1;
    }
    numbers
}

fn each_once(client: &Client, events: &[Json], numbers: std::ops::Range<usize>) {
    let expected: BTreeSet<String> = numbers.map(|index| client.number(index)).collect();
    let found = by_number(events);
    let twice: Vec<_> = found.iter().filter(|(_, times)| **times != 1).collect();
    assert!(twice.is_empty(), "{twice:?}");
    let found: BTreeSet<String> = found.into_keys().map(str::to_owned).collect();
    assert_eq!(found, expected);
}

async fn a_broadcast_goes_out_in_chunks_and_rests_and_ends_when_told(backend: Backend) {
    let system = System::shared(backend).await;
    let client = system.client();
    let id = post(&client, &head(&client, 20, 0), 0..110).await;
    let done = wait(&client, &id, "done", |seen| seen["status"] == "done").await;
    let progress = json!({"percentage": 100.0, "step": 6, "totalSteps": 6, "currentStep": "done"});
    for (name, value) in progress.as_object().unwrap() {
        assert_eq!(done["progress"][name], *value);
    }
    let all = json!({"recipients": 110, "handedOver": 110, "remaining": 0, "events": tally(110, 0)});
    wait(&client, &id, "sent", |seen| seen["progress"]["data"] == all).await;
    let events = client
        .wait_for_all(PATIENCE, "all SENT", |events| all_are(events, 110, &["SENT"]))
        .await;
    each_once(&client, &events, 0..110);
    assert!(events.iter().all(|event| event["correlationId"] == id.as_str()));

    // The next chunk is an hour away: it rests, goes on, and is cancelled with what was not handed over.
    let slow = post(&client, &head(&client, 5, 3_600_000), 200..220).await;
    wait(&client, &slow, "one chunk", |seen| {
        seen["progress"]["step"] == 1 && seen["progress"]["data"]["events"]["sent"] == 5
    })
    .await;
    assert_eq!(wish(&client, &slow, "pause").await["status"], "paused");
    assert_eq!(wish(&client, &slow, "resume").await["status"], "sending");
    wish(&client, &slow, "cancel").await;
    let ended = wait(&client, &slow, "cancelled", |seen| seen["status"] == "cancelled").await;
    let counts = json!({"recipients": 20, "handedOver": 5, "remaining": 15, "events": tally(5, 0)});
    assert_eq!(ended["progress"]["data"], counts, "{ended:#}");

    // At rest from the first moment on, it goes when it is resumed.
    let mut later = head(&client, 100, 0);
    later["scheduledAt"] = json!("2027-01-01T00:00:00Z");
    let later = post(&client, &later, 300..310).await;
    assert_eq!(seen(&client, &later).await["status"], "scheduled");
    wish(&client, &later, "cancel").await;
    wait(&client, &later, "cancelled", |seen| seen["status"] == "cancelled").await;
    let events = client
        .wait_for_all(PATIENCE, "all SENT", |events| all_are(events, 115, &["SENT"]))
        .await;
    assert_eq!(events.len(), 115);
    for event in &events {
        assert_eq!(
            system.sandbox().times(event["eventId"].as_str().unwrap()).await,
            1
        );
    }
}

async fn a_cancel_withdraws_what_was_handed_over_and_not_sent(backend: Backend) {
    let mut system = Plan::new(backend).await.start().await;
    let client = system.client();
    let busy = json!([{"action": "rate-limit", "retryAfterSeconds": 300}]);
    system.faults().await.set(busy).await;
    let id = post(&client, &head(&client, 20, 0), 0..60).await;
    wait(&client, &id, "waiting for another try", |seen| {
        seen["status"] == "done" && seen["progress"]["data"]["events"]["waiting"] == 60
    })
    .await;
    client
        .wait_for_all(PATIENCE, "all tried", |events| all_are(events, 60, &["RETRYING"]))
        .await;
    assert_eq!(wish(&client, &id, "cancel").await["status"], "cancelled");
    // Whoever comes back after a crash knows of it.
    system.restart_all().await;
    system.faults().await.none().await;
    let events = client
        .wait_for_all(PATIENCE, "all withdrawn", |events| {
            all_are(events, 60, &["CANCELLED"])
        })
        .await;
    each_once(&client, &events, 0..60);
    let counted = wait(&client, &id, "counted", |seen| {
        seen["progress"]["data"]["events"] == tally(0, 60)
    })
    .await;
    assert_eq!(counted["status"], "cancelled");
    assert_eq!(system.sandbox().counts().await.events, 0);
    // Others are not touched, and what was sent stays sent.
    let other = post(&client, &head(&client, 20, 0), 100..130).await;
    wait(&client, &other, "sent", |seen| {
        seen["progress"]["data"]["events"] == tally(30, 0)
    })
    .await;
    wish(&client, &other, "cancel").await;
    let after = seen(&client, &other).await;
    assert_eq!(after["progress"]["data"]["events"], tally(30, 0));
}

async fn a_stored_list_is_sent_to_as_it_is(backend: Backend) {
    let system = System::shared(backend).await;
    let client = system.client();
    let path = format!("/lists/friends?tenant={}", client.tenant());
    let url = client.intake(&path);
    for (numbers, status) in [(0..3_000, StatusCode::CREATED), (100..160, StatusCode::OK)] {
        let count = numbers.len();
        let answer = client.put_lines(&path, &lines(&client, numbers)).await;
        assert_eq!(
            (answer.status, &answer.body["recipients"]),
            (status, &json!(count)),
            "{answer:?}"
        );
    }
    let mut body = head(&client, 25, 0);
    body["list"] = json!("friends");
    let taken = client
        .ask("POST", &client.intake("/broadcasts"), Some(&body))
        .await;
    assert_eq!(
        (taken.status, &taken.body["totalSteps"]),
        (StatusCode::ACCEPTED, &json!(3)),
        "{taken:?}"
    );
    let events = client
        .wait_for_all(PATIENCE, "all SENT", |events| all_are(events, 60, &["SENT"]))
        .await;
    each_once(&client, &events, 100..160);

    assert_eq!(
        client.ask("DELETE", &url, None).await.status,
        StatusCode::NO_CONTENT
    );
    assert_eq!(client.ask("GET", &url, None).await.status, StatusCode::NOT_FOUND);
    let gone = client
        .ask("POST", &client.intake("/broadcasts"), Some(&body))
        .await;
    assert_eq!(
        (gone.status, &gone.body["errors"][0]["field"]),
        (StatusCode::UNPROCESSABLE_ENTITY, &json!("list")),
        "{gone:?}"
    );
}

async fn a_kill_at_any_point_reaches_everybody_once(backend: Backend) {
    let mut system = Plan::new(backend).await.start().await;
    let client = system.client();
    let name = match backend {
        Backend::Embedded => "up",
        Backend::Kafka => "ingestion",
    };
    let mut ids = Vec::new();
    let mut next = 0;
    for (round, point) in OF_A_HOP.iter().enumerate() {
        let service = system.service(name);
        service.stop().await;
        // Not always the first chunk; in one process other services come by as well.
        service.arm(Some(format!("{point}:{}:kill", 2 + 2 * round)));
        service.launch();
        service.ready_or_struck().await;
        let struck = system.service(name).strike();
        let start = Instant::now();
        while !struck() {
            assert!(start.elapsed() < LIMIT, "{name} never came by {point}");
            // No answer: it may have been taken or not. What is known of it says which.
            let body = format!("{}\n{}", head(&client, 7, 0), lines(&client, next..next + 50));
            let answer = client.send("/broadcasts", "application/x-ndjson", body).await;
            match answer {
                Ok(answer) if answer.status == StatusCode::ACCEPTED => {
                    ids.push(answer.body["broadcastId"].as_str().unwrap().to_owned());
                }
                _ => {}
            }
            next += 50;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let service = system.service(name);
        service.arm(None);
        service.launch();
        service.ready().await;
    }
    assert!(!ids.is_empty());
    for id in &ids {
        wait(&client, id, "done", |seen| seen["status"] == "done").await;
    }
    let url = client.intake(&format!("/broadcasts?tenant={}&limit=1000", client.tenant()));
    let known = client.ask("GET", &url, None).await.body["broadcasts"]
        .as_array()
        .unwrap()
        .len();
    assert!(known >= ids.len());
    let all = known * 50;
    let events = client
        .wait_for_all(LIMIT, "all SENT", |events| all_are(events, all, &["SENT"]))
        .await;
    assert_eq!(events.len(), all, "50 for each broadcast that was taken");
    let numbers = by_number(&events);
    assert!(numbers.values().all(|times| *times == 1), "{numbers:?}");
    let counts = system.sandbox().counts().await;
    // What was at the provider when the process died bore its key again.
    assert_eq!(
        (counts.events, counts.keys),
        (all as u64, all as u64),
        "{counts:?}"
    );
    system.stop_all().await;
    let facts = facts(&system).await;
    let twice: Vec<_> = facts.iter().filter(|(_, times)| **times > 1).collect();
    assert!(twice.is_empty(), "recorded more than once: {twice:#?}");
}

async fn a_kill_in_mid_upload_sends_nothing_and_one_before_the_answer_all(backend: Backend) {
    let mut system = Plan::new(backend)
        .await
        .setting("POSTHASTE_BROKER__PARTITIONS", "1")
        .start()
        .await;
    let client = system.client();
    let name = match backend {
        Backend::Embedded => "up",
        Backend::Kafka => "ingestion",
    };
    for (round, point) in [CHUNK_APPENDED, BROADCAST_UNSAID].iter().enumerate() {
        let service = system.service(name);
        service.stop().await;
        service.arm(Some(format!("{point}:{}:kill", if round == 0 { 3 } else { 1 })));
        service.launch();
        service.ready().await;
        let first = round * 100;
        let body = format!("{}\n{}", head(&client, 10, 0), lines(&client, first..first + 100));
        let answer = client.send("/broadcasts", "application/x-ndjson", body).await;
        assert!(answer.is_err(), "the process died over it: {answer:?}");
        let service = system.service(name);
        service.arm(None);
        service.launch();
        service.ready().await;
    }

    // Behind it, in the same partition, others are not held up; one that was said is sent, answered or not.
    let id = post(&client, &head(&client, 10, 0), 1_000..1_100).await;
    wait(&client, &id, "done", |seen| seen["status"] == "done").await;
    let service = system.service(name);
    service.stop().await;
    service.arm(Some(format!("{BROADCAST_SAID}:1:kill")));
    service.launch();
    service.ready().await;
    let body = format!("{}\n{}", head(&client, 10, 0), lines(&client, 1_100..1_200));
    let answer = client.send("/broadcasts", "application/x-ndjson", body).await;
    assert!(answer.is_err(), "the process died over it: {answer:?}");
    let service = system.service(name);
    service.arm(None);
    service.launch();
    service.ready().await;
    let events = client
        .wait_for_all(LIMIT, "all SENT", |events| all_are(events, 200, &["SENT"]))
        .await;
    each_once(&client, &events, 1_000..1_200);
    let url = client.intake(&format!("/broadcasts?tenant={}", client.tenant()));
    let known = client.ask("GET", &url, None).await;
    assert_eq!(known.body["broadcasts"].as_array().unwrap().len(), 2);
    let counts = system.sandbox().counts().await;
    assert_eq!((counts.events, counts.keys), (200, 200), "{counts:?}");
}

async fn a_key_makes_one_broadcast_of_a_request_whose_answer_was_lost(backend: Backend) {
    let mut system = Plan::new(backend).await.start().await;
    let client = system.client();
    let name = match backend {
        Backend::Embedded => "up",
        Backend::Kafka => "ingestion",
    };
    let points = [CLAIMED, BROADCAST_SAID];
    for (round, point) in points.iter().enumerate() {
        let service = system.service(name);
        service.stop().await;
        service.arm(Some(format!("{point}:1:kill")));
        service.launch();
        service.ready().await;
        let (first, key) = (round * 100, format!("key {round}"));
        let body = format!("{}\n{}", head(&client, 10, 0), lines(&client, first..first + 30));
        let post = async || {
            client
                .send_keyed("/broadcasts", "application/x-ndjson", &key, body.clone())
                .await
        };
        let answer = post().await;
        assert!(answer.is_err(), "the process died over it: {answer:?}");
        let service = system.service(name);
        service.arm(None);
        service.launch();
        service.ready().await;
        let start = Instant::now();
        // Until the claim of the one that died is looked into.
        let answer = loop {
            let answer = post().await.unwrap();
            if answer.status == StatusCode::ACCEPTED {
                break answer;
            }
            assert!(start.elapsed() < LIMIT, "{answer:?}");
        };
        assert_eq!(post().await.unwrap().body, answer.body);
        let id = answer.body["broadcastId"].as_str().unwrap();
        wait(&client, id, "done", |seen| seen["status"] == "done").await;
    }
    let all = 30 * points.len();
    let events = client
        .wait_for_all(LIMIT, "all SENT", |events| all_are(events, all, &["SENT"]))
        .await;
    let numbers = by_number(&events);
    assert_eq!(numbers.len(), all);
    assert!(numbers.values().all(|times| *times == 1), "{numbers:?}");
    let url = client.intake(&format!("/broadcasts?tenant={}", client.tenant()));
    let known = client.ask("GET", &url, None).await;
    assert_eq!(known.body["broadcasts"].as_array().unwrap().len(), points.len());
}
