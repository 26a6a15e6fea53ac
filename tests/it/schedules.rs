//! Events that are sent again and again: each time once, whoever is killed, until the schedule is withdrawn.

use std::time::Duration;

use posthaste_killpoint::OF_A_HOP;
use reqwest::StatusCode;
use serde_json::{Value as Json, json};

use crate::{
    on_each_backend,
    system::{Backend, Client, PATIENCE, Plan, System},
};

on_each_backend!(
    a_schedule_fires_until_it_is_withdrawn,
    a_kill_of_whoever_plans_loses_and_repeats_no_firing,
);

fn every_second(client: &Client, missed: &str) -> Json {
    let event = client.sms(&client.number(1));
    json!({"cron": "* * * * * *", "timeZone": "Europe/Berlin", "missed": missed, "event": event})
}

fn path(client: &Client, code: &str) -> String {
    client.intake(&format!("/schedules/{code}?tenant={}", client.tenant()))
}

fn with_status<'a>(events: &'a [Json], status: &str) -> Vec<&'a Json> {
    events.iter().filter(|event| event["status"] == status).collect()
}

async fn a_schedule_fires_until_it_is_withdrawn(backend: Backend) {
    let system = System::shared(backend).await;
    let client = system.client();
    let path = path(&client, "each-second");
    let put = client
        .ask("PUT", &path, Some(&every_second(&client, "once")))
        .await;
    assert_eq!(put.status, StatusCode::CREATED, "{put:?}");
    assert_eq!(put.body["next"].as_array().unwrap().len(), 5, "{put:?}");
    let again = client
        .ask("PUT", &path, Some(&every_second(&client, "once")))
        .await;
    assert_eq!(
        (again.status, &again.body["version"]),
        (StatusCode::OK, &json!(1))
    );
    let events = client
        .wait_for_all(PATIENCE, "three firings", |events| {
            with_status(events, "SENT").len() >= 3
        })
        .await;
    for event in with_status(&events, "SENT") {
        assert_eq!(
            event["correlationId"], events[0]["correlationId"],
            "they belong together"
        );
        assert!(
            event["state"]["at"].as_str() >= event["scheduledAt"].as_str(),
            "early: {event:#}"
        );
    }

    let mut resting = every_second(&client, "once");
    resting["paused"] = json!(true);
    let paused = client.ask("PUT", &path, Some(&resting)).await;
    assert_eq!(
        (paused.status, &paused.body["next"]),
        (StatusCode::OK, &json!([])),
        "{paused:?}"
    );
    let rests = |events: &[Json]| with_status(events, "SCHEDULED").is_empty();
    let before = client
        .wait_for_all(PATIENCE, "nothing planned", rests)
        .await
        .len();
    let other = json!({"cron": "@yearly", "event": client.sms(&client.number(2))});
    assert_eq!(
        client.ask("PUT", &path, Some(&other)).await.status,
        StatusCode::OK
    );
    let events = client
        .wait_for_all(PATIENCE, "next year's", |events| {
            with_status(events, "SCHEDULED").len() == 1
        })
        .await;
    assert_eq!(events.len(), before + 1, "nothing was sent meanwhile");

    assert_eq!(
        client.ask("DELETE", &path, None).await.status,
        StatusCode::NO_CONTENT
    );
    let events = client.wait_for_all(PATIENCE, "nothing planned", rests).await;
    assert_eq!(events.len(), before + 1);
    assert_eq!(client.ask("GET", &path, None).await.status, StatusCode::NOT_FOUND);
}

async fn a_kill_of_whoever_plans_loses_and_repeats_no_firing(backend: Backend) {
    let mut system = Plan::new(backend).await.start().await;
    let client = system.client();
    let name = match backend {
        Backend::Embedded => "up",
        Backend::Kafka => "retry",
    };
    let path = path(&client, "each-second");
    let put = client
        .ask("PUT", &path, Some(&every_second(&client, "all")))
        .await;
    assert_eq!(put.status, StatusCode::CREATED, "{put:?}");
    for point in OF_A_HOP {
        let service = system.service(name);
        service.stop().await;
        // The wheel's hops, and of one process the dispatcher's as well.
        service.arm(Some(format!("{point}:3:kill")));
        service.launch();
        service.ready_or_struck().await;
        let struck = system.service(name).strike();
        let start = std::time::Instant::now();
        while !struck() {
            assert!(start.elapsed() < PATIENCE, "{name} never came by {point}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let service = system.service(name);
        service.arm(None);
        service.launch();
        service.ready().await;
    }
    // What was missed is made up for by now: what is planned lies in the future.
    let seconds = OF_A_HOP.len();
    client
        .wait_for_all(PATIENCE, "all made up for", |events| {
            with_status(events, "SENT").len() > seconds
        })
        .await;
    assert_eq!(
        client.ask("DELETE", &path, None).await.status,
        StatusCode::NO_CONTENT
    );
    let events = client
        .wait_for_all(PATIENCE, "all at an end", |events| {
            events
                .iter()
                .all(|event| event["status"] == "SENT" || event["status"] == "CANCELLED")
        })
        .await;
    let mut times: Vec<jiff::Timestamp> = events
        .iter()
        .map(|event| event["scheduledAt"].as_str().unwrap().parse().unwrap())
        .collect();
    times.sort();
    for pair in times.windows(2) {
        let apart = pair[1].as_second() - pair[0].as_second();
        assert_eq!(apart, 1, "between {} and {}", pair[0], pair[1]);
    }
    let cancelled = with_status(&events, "CANCELLED");
    assert!(cancelled.len() <= 1, "the one that was planned: {cancelled:#?}");
    for event in with_status(&events, "SENT") {
        let sent = system.sandbox().times(event["eventId"].as_str().unwrap()).await;
        assert!(sent >= 1, "not sent: {event:#}");
    }
}
