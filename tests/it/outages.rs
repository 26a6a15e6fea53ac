//! A broker or a store that is away: what goes on, what is answered, and that all is well again afterwards.

use std::time::{Duration, Instant};

use posthaste_testkit::{KafkaServer, MongoServer, MongoStorage, SlowLink};
use reqwest::StatusCode;

use crate::{
    load::post_all,
    system::{Backend, PATIENCE, Plan},
};

#[tokio::test]
async fn with_mongodb_down_events_go_out_and_status_catches_up() {
    let mut mongo = MongoServer::start(MongoStorage::File).await.unwrap();
    let system = Plan::new(Backend::Kafka).await.store(&mongo).start().await;
    let (client, sandbox) = (system.client(), system.sandbox());
    let before = client.accept(&client.sms(&client.number(0))).await;
    client.wait(&before, "SENT").await;

    mongo.kill();
    let mut during = Vec::new();
    for index in 1..=20 {
        during.push(client.accept(&client.sms(&client.number(index))).await);
    }
    let start = Instant::now();
    for id in &during {
        while sandbox.times(id).await == 0 {
            assert!(
                start.elapsed() < PATIENCE,
                "{id} was not sent while MongoDB was down"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    let answer = client.get(&format!("/events/{}", during[0])).await.unwrap();
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{answer:?}");
    assert!(answer.headers.contains_key("retry-after"), "{answer:?}");

    mongo.restart().await.unwrap();
    for id in during.iter().chain([&before]) {
        client.wait(id, "SENT").await;
    }
}

#[tokio::test]
async fn with_mongodb_slow_events_go_out_all_the_same_and_status_follows() {
    const COUNT: usize = 400;
    let mongo = MongoServer::start(MongoStorage::Memory).await.unwrap();
    // One by one, 400 documents would take longer than anybody waits here.
    let link = SlowLink::to(&mongo.address(), Duration::from_millis(400))
        .await
        .unwrap();
    let plan = Plan::new(Backend::Kafka).await;
    let system = plan
        .store_at(format!("mongodb://{}", link.address()))
        .start()
        .await;
    let (client, sandbox) = (system.client(), system.sandbox());
    post_all(&client, 0..COUNT).await;
    let start = Instant::now();
    while sandbox.counts().await.events < COUNT as u64 {
        assert!(start.elapsed() < PATIENCE, "a slow store holds up the sending");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    client
        .wait_for_all(PATIENCE, "all SENT", |events| {
            events.len() == COUNT && events.iter().all(|event| event["state"]["status"] == "SENT")
        })
        .await;
    let counts = sandbox.counts().await;
    assert_eq!(counts.taken, COUNT as u64, "{counts:?}");
}

#[tokio::test]
async fn with_the_broker_hanging_intake_answers_503_and_recovers() {
    let mut kafka = KafkaServer::start().await.unwrap();
    let system = Plan::new(Backend::Kafka).await.broker(&kafka).start().await;
    let client = system.client();
    let before = client.accept(&client.sms(&client.number(0))).await;
    client.wait(&before, "SENT").await;

    kafka.pause();
    let answer = client.post(&client.sms(&client.number(1))).await.unwrap();
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{answer:?}");
    assert!(answer.headers.contains_key("retry-after"), "{answer:?}");
    assert!(answer.body["eventId"].is_string(), "{answer:?}");
    assert_eq!(answer.headers["content-type"], "application/problem+json");
    kafka.resume();

    let id = client.accept_in_time(&client.sms(&client.number(2))).await;
    client.wait(&id, "SENT").await;
}

#[tokio::test]
async fn after_a_kill_of_the_broker_every_accepted_event_is_sent() {
    let mut kafka = KafkaServer::start().await.unwrap();
    let system = Plan::new(Backend::Kafka).await.broker(&kafka).start().await;
    let client = system.client();
    let mut accepted = Vec::new();
    for index in 0..50 {
        accepted.push(client.accept(&client.sms(&client.number(index))).await);
    }
    kafka.kill();
    let answer = client.post(&client.sms(&client.number(100))).await.unwrap();
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{answer:?}");
    kafka.restart().await.unwrap();
    accepted.push(client.accept_in_time(&client.sms(&client.number(101))).await);
    for id in &accepted {
        client.wait(id, "SENT").await;
    }
}
