//! One event's way: delivery, retry, failover, dead letter, replay, schedule.

use jiff::Timestamp;
use posthaste_event::clock;
use serde_json::{Value as Json, json};

use crate::{
    on_each_backend,
    system::{Backend, Client, Faults, System},
};

on_each_backend!(
    every_channel_delivers,
    the_request_of_the_base_system_is_taken,
    a_failed_send_is_tried_again,
    a_second_provider_takes_over,
    a_hopeless_event_becomes_a_dead_letter,
    a_replay_sends_once_and_a_second_one_nothing,
    a_scheduled_event_is_never_early,
    a_permanent_error_is_not_tried_again,
);

/// A number as messagebird's interface wants it.
fn digits(number: &str) -> &str {
    number.trim_start_matches('+')
}

fn statuses(timeline: &[Json]) -> Vec<&str> {
    timeline
        .iter()
        .map(|entry| entry["status"].as_str().unwrap())
        .collect()
}

/// A further event that is sent afterwards: whatever could have been sent before it has been by then.
async fn canary(client: &Client) {
    let id = client.accept(&client.sms(&client.number(999_999))).await;
    client.wait(&id, "SENT").await;
}

async fn every_channel_delivers(backend: Backend) {
    let system = System::shared(backend).await;
    let client = system.client();
    let cases = [
        (
            json!({"channel": "sms", "payload": {"message": "hello", "phoneNumber": client.number(1)}}),
            "messagebird",
        ),
        (
            json!({"channel": "email", "payload": {"subject": "s", "body": "b", "to": "to@example.com", "from": "from@example.com"}}),
            "sendgrid",
        ),
        (
            json!({"channel": "push", "payload": {"title": "t", "body": "b", "token": "device-token"}}),
            "firebase",
        ),
        (
            json!({"channel": "slack", "payload": {"channel": "#general", "text": "hello"}}),
            "slack",
        ),
        (
            json!({"channel": "webhook", "payload": {"url": "https://example.com/hook", "body": {"a": 1}}}),
            "webhook",
        ),
        (
            json!({"channel": "in_app", "payload": {"recipient": "u-1", "title": "t", "body": "b"}}),
            "in_app",
        ),
    ];
    for (mut event, provider) in cases {
        // "default" is another word for "normal".
        for (priority, shown) in [
            ("critical", "critical"),
            ("high", "high"),
            ("default", "normal"),
            ("low", "low"),
        ] {
            event["tenant"] = json!(client.tenant);
            event["priority"] = json!(priority);
            let id = client.accept(&event).await;
            let document = client.wait(&id, "SENT").await;
            assert_eq!(document["state"]["provider"], provider, "{document:#}");
            assert_eq!(document["state"]["attempt"], 1, "{document:#}");
            assert_eq!(document["priority"], shown, "{document:#}");
        }
    }
}

async fn the_request_of_the_base_system_is_taken(backend: Backend) {
    let system = System::shared(backend).await;
    let client = system.client();
    let request = r#"{"channel":"sms","payload":{"message":"Test SMS","phoneNumber":"2025555555"},"metadata":{},"priority":"default"}"#;
    let answer = client.send("/event", "application/json", request).await.unwrap();
    assert_eq!(answer.status, 201, "{answer:?}");
    assert_eq!(answer.body["message"], "Event Ingested");
    for field in ["eventId", "correlationId", "status"] {
        assert!(answer.body[field].is_string(), "{field}: {answer:?}");
    }
    let document = client
        .wait(answer.body["eventId"].as_str().unwrap(), "SENT")
        .await;
    let timeline = client.timeline(answer.body["eventId"].as_str().unwrap()).await;
    assert_eq!(statuses(&timeline), ["PENDING", "SENT"], "{document:#}");
}

async fn a_failed_send_is_tried_again(backend: Backend) {
    let system = System::shared(backend).await;
    let (client, sandbox, faults) = (system.client(), system.sandbox(), system.faults().await);
    let number = client.number(1);
    faults
        .set(json!([{"action": "unavailable", "recipient": digits(&number), "times": 1}]))
        .await;
    let id = client.accept(&client.sms(&number)).await;
    let document = client.wait(&id, "SENT").await;
    assert_eq!(document["state"]["attempt"], 2, "{document:#}");
    let timeline = client.timeline(&id).await;
    let seen = statuses(&timeline);
    assert_eq!((seen[0], seen[seen.len() - 1]), ("PENDING", "SENT"), "{seen:?}");
    assert!(seen.contains(&"RETRYING"), "{seen:?}");
    let tries = sandbox.received("event", &id).await;
    assert_eq!(tries.len(), 2, "{tries:#?}");
    // The shipped rule for messagebird waits 2 s; never less.
    assert!(tries[1].at - tries[0].at >= 2_000, "{tries:#?}");
}

async fn a_second_provider_takes_over(backend: Backend) {
    let system = System::shared(backend).await;
    let (client, sandbox, faults) = (system.client(), system.sandbox(), system.faults().await);
    let token = format!("device-{}", client.tenant);
    faults
        .set(json!([{"action": "unavailable", "provider": "firebase", "recipient": token}]))
        .await;
    let event = json!({
        "channel": "push",
        "tenant": client.tenant,
        "payload": {"title": "t", "body": "b", "token": token},
    });
    let id = client.accept(&event).await;
    let document = client.wait(&id, "SENT").await;
    assert_eq!(document["state"]["provider"], "onesignal", "{document:#}");
    let tries: Vec<(String, bool)> = sandbox
        .received("recipient", &token)
        .await
        .into_iter()
        .map(|call| (call.provider, call.accepted))
        .collect();
    let firebase = ("firebase".to_owned(), false);
    assert_eq!(
        tries,
        [firebase.clone(), firebase, ("onesignal".to_owned(), true)]
    );
}

async fn dead_letter(client: &Client, faults: &Faults<'_>, number: &str) -> (String, Json) {
    faults
        .set(json!([{"action": "unavailable", "recipient": digits(number)}]))
        .await;
    let id = client.accept(&client.sms(number)).await;
    let document = client.wait(&id, "DEAD_LETTERED").await;
    (id, document)
}

async fn a_hopeless_event_becomes_a_dead_letter(backend: Backend) {
    let system = System::shared(backend).await;
    let (client, faults) = (system.client(), system.faults().await);
    let (id, document) = dead_letter(&client, &faults, &client.number(1)).await;
    assert_eq!(document["state"]["attempt"], 2, "{document:#}");
    assert!(document["state"]["error"]["message"].is_string(), "{document:#}");
    assert_eq!(system.sandbox().received("event", &id).await.len(), 2);
    client.wait_for_letter(&id).await;
}

async fn a_permanent_error_is_not_tried_again(backend: Backend) {
    let system = System::shared(backend).await;
    let client = system.client();
    // A number that the sandbox takes for one that cannot exist.
    let id = client.accept(&client.sms("+15005550001")).await;
    let document = client.wait(&id, "DEAD_LETTERED").await;
    assert_eq!(document["state"]["error"]["kind"], "permanent", "{document:#}");
    assert_eq!(system.sandbox().received("event", &id).await.len(), 1);
}

async fn a_replay_sends_once_and_a_second_one_nothing(backend: Backend) {
    let system = System::shared(backend).await;
    let (client, sandbox, faults) = (system.client(), system.sandbox(), system.faults().await);
    let (id, _) = dead_letter(&client, &faults, &client.number(1)).await;
    client.wait_for_letter(&id).await;
    faults.none().await;

    let filter = json!({"filter": {"ids": [id]}});
    assert_eq!(client.replay(&filter).await, 1);
    let document = client.wait(&id, "SENT").await;
    assert_eq!(document["state"]["generation"], 1, "{document:#}");
    assert_eq!(sandbox.times(&id).await, 1);

    assert_eq!(client.replay(&filter).await, 0);
    canary(&client).await;
    assert_eq!(sandbox.times(&id).await, 1);
    let timeline = client.timeline(&id).await;
    let seen = statuses(&timeline);
    let replayed = seen.iter().skip_while(|status| **status != "DEAD_LETTERED");
    assert_eq!(
        replayed.copied().collect::<Vec<_>>(),
        ["DEAD_LETTERED", "PENDING", "SENT"]
    );
}

async fn a_scheduled_event_is_never_early(backend: Backend) {
    let system = System::shared(backend).await;
    let (client, sandbox) = (system.client(), system.sandbox());
    let mut due = Vec::new();
    for (index, wait_ms) in [300, 1_500, 3_500].into_iter().enumerate() {
        let number = client.number(index);
        let mut event = client.sms(&number);
        let at = clock::now() + wait_ms;
        event["scheduledAt"] = json!(Timestamp::from_millisecond(at).unwrap().to_string());
        let id = client.accept(&event).await;
        due.push((id, at));
    }
    let (last, _) = &due[2];
    client.wait(last, "SCHEDULED").await;
    assert_eq!(sandbox.times(last).await, 0);
    for (id, at) in due {
        client.wait(&id, "SENT").await;
        let calls = sandbox.received("event", &id).await;
        assert_eq!(calls.len(), 1, "{calls:#?}");
        assert!(calls[0].at >= at, "sent {} ms early", at - calls[0].at);
    }
}
