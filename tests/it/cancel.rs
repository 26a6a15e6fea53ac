//! Withdrawing an event, wherever it is, and scheduling one for another time.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use posthaste_event::clock;
use posthaste_killpoint::{OF_A_CALL, OF_A_HOP};
use reqwest::StatusCode;
use serde_json::{Value as Json, json};

use crate::{
    kill_points::facts,
    load::all_are,
    on_each_backend,
    system::{Backend, Client, PATIENCE, Plan, System},
};

on_each_backend!(
    a_scheduled_event_is_withdrawn,
    an_event_that_is_retried_is_withdrawn_and_one_that_was_sent_is_not,
    a_scheduled_event_goes_at_another_time,
    a_cancel_and_a_kill_at_once_leave_one_end,
);

fn later(seconds: i64) -> String {
    let at = clock::now() + seconds * 1_000;
    jiff::Timestamp::from_millisecond(at).unwrap().to_string()
}

fn scheduled(client: &Client, index: usize, seconds: i64) -> Json {
    let mut event = client.sms(&client.number(index));
    event["scheduledAt"] = json!(later(seconds));
    event
}

async fn a_scheduled_event_is_withdrawn(backend: Backend) {
    let system = System::shared(backend).await;
    let client = system.client();
    // One is due within the horizon, in memory; others wait in tiers of hours and of days.
    for (index, seconds) in [(1, 20), (2, 4 * 3_600), (3, 40 * 86_400)] {
        let id = client.accept_in_time(&scheduled(&client, index, seconds)).await;
        let answer = client.cancel(&id).await;
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{answer:?}");
        assert_eq!(answer.body["message"], "Cancel Requested");
        assert_eq!(
            (&answer.body["eventId"], &answer.body["status"]),
            (&json!(id), &json!("SCHEDULED"))
        );
        let event = client
            .wait_for(&id, "CANCELLED", |event| {
                event["status"] == "CANCELLED" && event["notes"].is_array()
            })
            .await;
        assert_eq!(
            (&event["state"]["step"], &event["state"]["attempt"]),
            (&json!(1), &json!(0))
        );
        assert!(
            event["state"]["error"].is_null() && event["cancelRequested"].is_null(),
            "{event:#}"
        );
        assert_eq!(event["notes"][0]["kind"], "cancelRequested");
        let again = client.cancel(&id).await;
        assert_eq!(again.status, StatusCode::CONFLICT, "{again:?}");
        assert!(
            again.body["detail"].as_str().unwrap().contains("CANCELLED"),
            "{again:?}"
        );
        assert_eq!(system.sandbox().times(&id).await, 0);
    }
}

async fn an_event_that_is_retried_is_withdrawn_and_one_that_was_sent_is_not(backend: Backend) {
    let system = System::shared(backend).await;
    let (client, faults) = (system.client(), system.faults().await);
    let number = client.number(1);
    let rule = json!({
        "action": "rate-limit", "recipient": number.trim_start_matches('+'), "times": 1, "retryAfterSeconds": 25,
    });
    faults.set(json!([rule])).await;
    let mut event = client.sms(&number);
    event["orderingKey"] = json!("k#1");
    let id = client.accept_in_time(&event).await;
    client
        .wait_for(&id, "waiting", |event| event["state"]["dueAt"].is_string())
        .await;
    faults.none().await;
    // Those behind it go on when it is withdrawn.
    let mut behind = client.sms(&client.number(2));
    behind["orderingKey"] = json!("k#1");
    let behind = client.accept_in_time(&behind).await;
    assert_eq!(client.cancel(&id).await.status, StatusCode::ACCEPTED);
    let event = client.wait(&id, "CANCELLED").await;
    assert_eq!(event["state"]["attempt"], 1);
    assert!(
        event["state"]["error"].is_null(),
        "it was refused for certain: {event:#}"
    );
    assert_eq!(system.sandbox().times(&id).await, 0);
    client.wait(&behind, "SENT").await;

    let answer = client.cancel(&behind).await;
    assert_eq!(answer.status, StatusCode::CONFLICT, "{answer:?}");
    assert_eq!(answer.body["eventId"], json!(behind));
    let detail = answer.body["detail"].as_str().unwrap();
    assert!(
        detail.contains("SENT") && detail.contains("cannot be cancelled"),
        "{answer:?}"
    );
}

async fn a_scheduled_event_goes_at_another_time(backend: Backend) {
    let system = System::shared(backend).await;
    let client = system.client();
    let far = client.accept_in_time(&scheduled(&client, 1, 3_600)).await;
    let near = client.accept_in_time(&scheduled(&client, 2, 15)).await;
    let (soon, day) = (later(3), later(86_400));
    let answer = client.reschedule(&far, &soon).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{answer:?}");
    assert_eq!(answer.body["message"], "Reschedule Requested");
    assert!(answer.body["inForceBy"].is_string(), "{answer:?}");
    assert_eq!(client.reschedule(&near, &day).await.status, StatusCode::ACCEPTED);
    let moved = client
        .wait_for(&near, "put off", |event| event["state"]["step"] == 1)
        .await;
    assert_eq!(
        (&moved["status"], &moved["state"]["step"]),
        (&json!("SCHEDULED"), &json!(1))
    );
    assert_eq!(moved["scheduledAt"], moved["state"]["dueAt"]);
    let sent = client.wait(&far, "SENT").await;
    assert!(sent["state"]["at"].as_str() >= Some(&soon[..19]), "{sent:#}");
    assert_eq!(system.sandbox().times(&far).await, 1);

    let wrong = client.reschedule(&near, "tomorrow").await;
    assert_eq!(wrong.status, StatusCode::BAD_REQUEST, "{wrong:?}");
    assert_eq!(wrong.body["errors"][0]["field"], "scheduledAt");
    let late = client.reschedule(&far, &day).await;
    assert_eq!(late.status, StatusCode::CONFLICT, "{late:?}");
    assert_eq!(client.cancel(&near).await.status, StatusCode::ACCEPTED);
    client.wait(&near, "CANCELLED").await;
}

/// Events are posted and withdrawn a moment later, while whoever sends them is killed where it hurts.
async fn a_cancel_and_a_kill_at_once_leave_one_end(backend: Backend) {
    let mut system = Plan::new(backend).await.start().await;
    let client = system.client();
    let name = if backend == Backend::Embedded {
        "up"
    } else {
        "default"
    };
    let mut posted = 0;
    // Many outcomes may go in one hop.
    let calls = OF_A_CALL.iter().map(|point| (point, 12));
    let hops = OF_A_HOP.iter().map(|point| (point, 2));
    for (round, (point, times)) in calls.chain(hops).enumerate() {
        let service = system.service(name);
        service.stop().await;
        service.arm(Some(format!("{point}:{times}:kill")));
        service.launch();
        system.service(name).ready_or_struck().await;
        posted += post_and_cancel(&mut system, &client, name, round).await;
        let service = system.service(name);
        service.arm(None);
        service.launch();
        system.service(name).ready().await;
    }
    let events = client
        .wait_for_all(PATIENCE, "all at an end", |events| {
            events.len() >= posted && all_are(events, events.len(), &["SENT", "CANCELLED"])
        })
        .await;
    let mut cancelled = 0;
    for event in &events {
        let times = system.sandbox().times(event["eventId"].as_str().unwrap()).await;
        let is_in_doubt = event["state"]["error"]["kind"] == "ambiguous";
        if event["status"] == "CANCELLED" {
            cancelled += 1;
            assert!(times == 0 || is_in_doubt, "sent {times} times: {event:#}");
        } else {
            assert!(times > 0, "not sent: {event:#}");
        }
    }
    println!("{cancelled} of {} events are withdrawn", events.len());
    assert!(cancelled > 0 && cancelled < events.len());
    system.stop_all().await;
    let facts = facts(&system).await;
    let twice: Vec<_> = facts.iter().filter(|(_, times)| **times > 1).collect();
    assert!(twice.is_empty(), "recorded more than once: {twice:#?}");
}

/// Until the service is struck; answers how many were accepted.
async fn post_and_cancel(system: &mut System, client: &Client, name: &str, round: usize) -> usize {
    const EVENTS_MAX: usize = 1_000;
    let struck = system.service(name).strike();
    let start = Instant::now();
    let (mut next, mut accepted) = (round * EVENTS_MAX, 0);
    let mut ids = VecDeque::new();
    while !struck() {
        assert!(start.elapsed() < PATIENCE, "{name} never came by");
        if next < (round + 1) * EVENTS_MAX {
            let mut event = client.sms(&client.number(next));
            // Half of them wait, so that they can be withdrawn in time.
            if next.is_multiple_of(2) {
                event["scheduledAt"] = json!(later(1));
            }
            next += 1;
            if let Ok(answer) = client.post(&event).await
                && let Some(id) = answer.body["eventId"].as_str()
            {
                accepted += usize::from(answer.status == StatusCode::CREATED);
                ids.push_back(id.to_owned());
            }
        }
        if ids.len() > 4
            && let Some(id) = ids.pop_front()
        {
            // Whatever comes of it: this may be what is killed.
            let _ = client.try_cancel(&id).await;
        }
        tokio::time::sleep(Duration::from_millis(40)).await;
    }
    accepted
}
