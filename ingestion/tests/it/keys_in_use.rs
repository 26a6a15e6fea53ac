//! What an old key is needed for, and how it comes to be needed no more.

use std::sync::Arc;

use axum::{body::Body, http::Request};
use posthaste_event::{Status, Value};
use posthaste_ingestion::Resealing;
use posthaste_sealing::{Ring, is_sealed_page};
use posthaste_store::{Fold, List, Store as _};
use serde_json::{Value as Json, json};
use tower::ServiceExt as _;

use crate::world::{Fixture, ask};

const NOW: i64 = 1_790_000_000_000;
const FRIEND: &str = r#"{"payload": {"phoneNumber": "+12025550103"}}"#;

async fn put_list(intake: &Fixture) {
    let request = Request::put("/lists/friends")
        .header("content-type", "application/x-ndjson")
        .body(Body::from(FRIEND))
        .unwrap();
    let response = intake.router.clone().oneshot(request).await.unwrap();
    assert_eq!(response.status().as_u16(), 201);
}

/// A list as it was kept before there were keys.
async fn put_clear_list(intake: &Fixture) {
    let lists = &intake.lists;
    lists
        .put_page("v1", 0, &format!("{FRIEND}\n"), NOW)
        .await
        .unwrap();
    let list = List {
        tenant: "acme".to_owned(),
        code: "old".to_owned(),
        version: "v1".to_owned(),
        recipients: 1,
        pages: 1,
        at: NOW,
        by: "test".to_owned(),
    };
    lists.put_list(&list).await.unwrap();
}

fn sealed() -> Json {
    let payload = json!({"message": "hello", "phoneNumber": "2025555555"});
    json!({"channel": "sms", "payload": payload, "metadata": {"requiresEncryption": true}})
}

/// Takes events in, and lets the store know of them: each stands where it is said.
async fn put_events(intake: &Fixture, statuses: &[Status]) {
    for status in statuses {
        assert_eq!(intake.post("application/json", sealed().to_string()).await.0, 201);
        let record = intake.broker.appended.lock().unwrap().pop().unwrap();
        let mut fold = Fold::default();
        fold.add(Value::decode(&record.value.unwrap()).unwrap());
        let mut changes = fold.into_changes();
        for change in &mut changes {
            change.state.as_mut().unwrap().status = *status;
        }
        intake.events.apply(changes.into(), &[]).await.unwrap();
    }
}

async fn in_use(intake: &Fixture) -> Json {
    let (status, _, answer) = ask(intake, "GET", "/encryption/keys", &[], &Json::Null).await;
    assert_eq!(status.as_u16(), 200, "{answer}");
    answer
}

fn of_kinds(answer: &Json) -> [&Json; 4] {
    ["schedules", "listPages", "waiting", "deadLettered"].map(|kind| {
        assert_eq!(answer[kind]["isComplete"], true, "{answer}");
        &answer[kind]["keys"]
    })
}

#[tokio::test]
async fn what_an_old_key_seals_is_counted_by_kind_and_what_was_not_looked_at_is_said() {
    let mut ring = Ring::generate(NOW).unwrap();
    let old = ring.active().to_owned();
    let intake = Fixture::sealing(Some(Ring::parse(&ring.secret_text()).unwrap()), |_| ());
    put_list(&intake).await;
    let schedule = json!({"cron": "30 9 * * *", "event": sealed()});
    let (status, _, answer) = ask(&intake, "PUT", "/schedules/daily", &[], &schedule).await;
    assert_eq!(status.as_u16(), 201, "{answer}");
    let statuses = [
        Status::Pending,
        Status::Scheduled,
        Status::Retrying,
        Status::DeadLettered,
        Status::Sent,
    ];
    put_events(&intake, &statuses).await;
    ring.rotate(NOW + 1).unwrap();
    let new = ring.active().to_owned();
    intake.keys.take_up(ring);
    put_events(&intake, &[Status::Pending]).await;

    let answer = in_use(&intake).await;
    assert_eq!(
        of_kinds(&answer),
        [
            &json!({&old: 1}),
            &json!({&old: 1}),
            &json!({&old: 3, &new: 1}),
            &json!({&old: 1})
        ],
        "{answer}"
    );
    assert_eq!(
        (&answer["active"], answer["known"].as_array().unwrap().len()),
        (&json!(new), 2)
    );
    assert!(!answer["notLookedAt"].as_array().unwrap().is_empty());
}

#[tokio::test]
async fn lists_are_sealed_anew_a_round_after_a_rotation_and_open_without_the_old_key() {
    let mut ring = Ring::generate(NOW).unwrap();
    let intake = Fixture::sealing(Some(Ring::parse(&ring.secret_text()).unwrap()), |_| ());
    put_list(&intake).await;
    put_clear_list(&intake).await;
    let mut resealing = Resealing::default();
    ring.rotate(NOW + 1).unwrap();
    let new = ring.active().to_owned();
    let ring = Arc::new(ring);
    resealing.round(&*intake.lists, Some(Arc::clone(&ring))).await;
    assert_eq!(
        in_use(&intake).await["listPages"]["keys"][&new],
        Json::Null,
        "others may not have it yet"
    );
    resealing.round(&*intake.lists, Some(Arc::clone(&ring))).await;
    assert_eq!(in_use(&intake).await["listPages"]["keys"], json!({&new: 2}));
    assert!(is_sealed_page(
        &intake.lists.page("v1", 0).await.unwrap().unwrap()
    ));

    let mut text: Json = serde_json::from_str(&ring.secret_text()).unwrap();
    text["keys"]
        .as_array_mut()
        .unwrap()
        .retain(|key| key["kid"] == new.as_str());
    intake.keys.take_up(Ring::parse(&text.to_string()).unwrap());
    for (tenant, list) in [("default", "friends"), ("acme", "old")] {
        let message = json!({"channel": "sms", "payload": {"message": "hello"}});
        let broadcast = json!({"tenant": tenant, "list": list, "message": message});
        let (status, _, answer) = ask(&intake, "POST", "/broadcasts", &[], &broadcast).await;
        assert_eq!(
            (status.as_u16(), &answer["recipients"]),
            (202, &json!(1)),
            "{answer}"
        );
    }
}
