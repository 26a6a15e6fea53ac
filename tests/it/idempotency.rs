//! A request that is sent again counts once: after a crash of intake at the worst moments, from many clients at once, and
//! while the store is away.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use posthaste_event::clock;
use posthaste_killpoint::{APPENDED, CLAIMED};
use posthaste_testkit::{MongoServer, MongoStorage};
use reqwest::StatusCode;
use serde_json::json;

use crate::system::{Backend, Client, PATIENCE, Plan, System};

/// Longer than it takes until the process is dead.
const AHEAD_MS: i64 = 8_000;

/// Sends the same until it is accepted, as a client does after an answer that never came.
async fn insist(client: &Client, key: &str, event: &serde_json::Value) -> serde_json::Value {
    let start = Instant::now();
    loop {
        match client.post_keyed(key, event).await {
            Ok(answer) if answer.status == StatusCode::CREATED => return answer.body,
            other => assert!(start.elapsed() < PATIENCE, "not accepted: {other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn crash_between_claim_and_answer(backend: Backend) {
    let name = match backend {
        Backend::Embedded => "up",
        Backend::Kafka => "ingestion",
    };
    let mut system = Plan::new(backend).await.start().await;
    for (index, point) in [CLAIMED, APPENDED].into_iter().enumerate() {
        let client = system.client();
        let service = system.service(name);
        service.stop().await;
        service.arm(Some(format!("{point}:1:kill")));
        service.launch();
        service.ready().await;
        let mut event = client.sms(&client.number(index));
        // Nothing of it is on its way to the provider when the process dies: such a send may go out again, with its key.
        let later = Timestamp::from_millisecond(clock::now() + AHEAD_MS).unwrap();
        event["scheduledAt"] = json!(later.to_string());
        let lost = client.post_keyed(point, &event).await;
        assert!(lost.is_err(), "it was to die first: {lost:?}");
        let service = system.service(name);
        service.arm(None);
        service.launch();
        service.ready().await;
        let others = client.accept(&client.sms(&client.number(10 + index))).await;
        let (first, second) = tokio::join!(insist(&client, point, &event), insist(&client, point, &event));
        assert_eq!(first["eventId"], second["eventId"], "{point}");
        let id = first["eventId"].as_str().unwrap();
        client.wait(id, "SENT").await;
        client.wait(&others, "SENT").await;
        assert_eq!(system.sandbox().times(id).await, 1, "{point}");
        let events = client.events().await.unwrap();
        assert_eq!(
            events.len(),
            2,
            "{point}: one event, and the other one: {events:?}"
        );
    }
}

#[tokio::test]
async fn a_crash_between_claim_and_answer_makes_one_event_on_kafka() {
    crash_between_claim_and_answer(Backend::Kafka).await;
}

#[tokio::test]
async fn a_crash_between_claim_and_answer_makes_one_event_embedded() {
    crash_between_claim_and_answer(Backend::Embedded).await;
}

crate::on_each_backend!(many_clients_with_one_key_make_one_event);

async fn many_clients_with_one_key_make_one_event(backend: Backend) {
    let system = System::shared(backend).await;
    let client = system.client();
    let event = client.sms(&client.number(1));
    let client = Arc::new(client);
    let mut posts = tokio::task::JoinSet::new();
    for _ in 0..64 {
        let (client, event) = (Arc::clone(&client), event.clone());
        posts.spawn(async move { client.post_keyed("the one", &event).await.unwrap() });
    }
    let answers = posts.join_all().await;
    let first = answers[0].body["eventId"].clone();
    for answer in answers {
        assert_eq!(
            (answer.status, &answer.body["eventId"]),
            (StatusCode::CREATED, &first)
        );
    }
    client.wait(first.as_str().unwrap(), "SENT").await;
    assert_eq!(client.events().await.unwrap().len(), 1);
    let other = client.sms(&client.number(2));
    let refused = client.post_keyed("the one", &other).await.unwrap();
    assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY, "{refused:?}");
}

#[tokio::test]
async fn with_mongodb_down_what_has_a_key_is_refused_and_all_else_goes_on() {
    let mut mongo = MongoServer::start(MongoStorage::File).await.unwrap();
    let system = Plan::new(Backend::Kafka).await.store(&mongo).start().await;
    let (client, sandbox) = (system.client(), system.sandbox());
    let event = client.sms(&client.number(0));
    let before = insist(&client, "before", &event).await;
    mongo.kill();
    let refused = client.post_keyed("during", &event).await.unwrap();
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE, "{refused:?}");
    assert!(refused.headers.contains_key("retry-after"));
    let during = client.accept(&client.sms(&client.number(1))).await;
    let start = Instant::now();
    while sandbox.times(&during).await == 0 {
        assert!(start.elapsed() < PATIENCE, "it was not sent");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    mongo.restart().await.unwrap();
    let again = insist(&client, "before", &event).await;
    assert_eq!(again["eventId"], before["eventId"]);
    let after = insist(&client, "during", &event).await;
    assert_ne!(after["eventId"], before["eventId"]);
    client.wait(after["eventId"].as_str().unwrap(), "SENT").await;
}
