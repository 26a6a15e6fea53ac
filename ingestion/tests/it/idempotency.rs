//! Said twice, taken once: keys, event ids, several instances, and appends of which nobody knows what became.

use std::{
    collections::HashSet,
    sync::{Arc, atomic::Ordering},
};

use axum::http::StatusCode;
use posthaste_broker::{AppendError, NewRecord};
use posthaste_event::{Value, partition, record_key};
use posthaste_store::Store as _;
use serde_json::{Value as Json, json};

use crate::world::{Fixture, Scripted, sms};

const JSON: &str = "application/json";

fn event(id: &str) -> Json {
    let mut event: Json = serde_json::from_str(&sms()).unwrap();
    event["eventId"] = id.into();
    event
}

fn with(mut event: Json, field: &str, value: &str) -> String {
    event[field] = value.into();
    event.to_string()
}

fn unconfirmed() -> AppendError {
    AppendError::Unconfirmed {
        reason: "timed out".into(),
    }
}

#[tokio::test]
async fn the_same_key_and_body_get_the_same_answer() {
    let intake = Fixture::new(Scripted::default(), |_| {});
    let (status, headers, first) = intake.post_keyed("/event", "k 1", sms()).await;
    assert_eq!(status, StatusCode::CREATED, "{first}");
    assert!(!headers.contains_key("idempotency-replayed"));
    let spelled = sms()
        .replace("\"channel\":\"sms\",", "")
        .replacen('{', "{ \"channel\" : \"sms\",", 1);
    for body in [sms(), spelled] {
        let (status, headers, again) = intake.post_keyed("/event", "k 1", body).await;
        assert_eq!((status, &again), (StatusCode::CREATED, &first));
        assert_eq!(headers["idempotency-replayed"], "true");
    }
    assert_eq!(intake.stored(), 1);
    let (_, _, other) = intake.post_keyed("/event", "k 2", sms()).await;
    assert_ne!(other["eventId"], first["eventId"]);
    let (status, _, _) = intake
        .post_keyed("/event", "k 1", with(event("x"), "tenant", "acme"))
        .await;
    assert_eq!(status, StatusCode::CREATED, "another tenant's keys are its own");
    assert_eq!(intake.stored(), 3);
}

#[tokio::test]
async fn another_body_is_refused_and_says_why() {
    let intake = Fixture::new(Scripted::default(), |_| {});
    let other = with(serde_json::from_str(&sms()).unwrap(), "priority", "high");
    intake.post_keyed("/event", "k", sms()).await;
    let (status, _, problem) = intake.post_keyed("/event", "k", other.clone()).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{problem}");
    assert_eq!(problem["errors"][0]["field"], "Idempotency-Key");

    let (_, _, first) = intake.post(JSON, event("order:1").to_string()).await;
    let (status, headers, again) = intake.post(JSON, event("order:1").to_string()).await;
    assert_eq!((status, &again), (StatusCode::CREATED, &first));
    assert_eq!(headers["idempotency-replayed"], "true");
    let (status, _, problem) = intake
        .post(JSON, with(event("order:1"), "priority", "high"))
        .await;
    assert_eq!(status, StatusCode::CONFLICT, "{problem}");
    assert_eq!(problem["errors"][0]["field"], "eventId");
    assert_eq!(intake.stored(), 2);

    for key in ["", &"x".repeat(256)] {
        let (status, _, problem) = intake.post_keyed("/event", key, sms()).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{problem}");
        assert_eq!(problem["errors"][0]["field"], "Idempotency-Key");
    }
    let (status, _, _) = intake.post_keyed("/event", "bad", "{}").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    let (status, _, _) = intake.post_keyed("/event", "bad", sms()).await;
    assert_eq!(
        status,
        StatusCode::CREATED,
        "what was refused has not used its key"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_at_once_over_several_instances_one_is_taken() {
    let instances = Fixture::several(Arc::default(), 3, |_| {});
    let posts = (0..64).map(|n| instances[n % 3].post_keyed("/event", "the one", sms()));
    let answers = futures_util::future::join_all(posts).await;
    assert_eq!(instances[0].stored(), 1);
    let id = &answers[0].2["eventId"];
    for (status, _, answer) in &answers {
        assert_eq!(
            (*status, &answer["eventId"]),
            (StatusCode::CREATED, id),
            "{answer}"
        );
    }
    let first = answers
        .iter()
        .filter(|(_, headers, _)| !headers.contains_key("idempotency-replayed"));
    assert_eq!(first.count(), 1);
}

#[tokio::test]
async fn what_may_have_been_appended_is_looked_for_and_not_appended_again() {
    for lands in [true, false] {
        let broker = Scripted {
            lands: lands.into(),
            ..Scripted::default()
        };
        let intake = Fixture::new(broker, |_| {});
        *intake.broker.fails.lock().unwrap() = Some(unconfirmed());
        let (status, headers, problem) = intake.post_keyed("/event", "k", sms()).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(headers.contains_key("retry-after"));
        let id = problem["eventId"].clone();
        *intake.broker.fails.lock().unwrap() = None;
        // Others, before and behind.
        intake.post(JSON, sms()).await;
        let (status, headers, answer) = intake.post_keyed("/event", "k", sms()).await;
        assert_eq!(
            (status, &answer["eventId"]),
            (StatusCode::CREATED, &id),
            "{answer}"
        );
        assert_eq!(headers.contains_key("idempotency-replayed"), lands);
        let appended = intake.broker.appended.lock().unwrap().clone();
        let values = appended
            .iter()
            .map(|record| Value::decode(record.value.as_ref().unwrap()));
        let times = values
            .filter(|value| matches!(value, Ok(Value::Work(work)) if json!(work.delivery.id) == id && json!(work.event.view().unwrap().event_id) == id))
            .count();
        assert_eq!((times, appended.len()), (1, 2), "lands: {lands}");
    }
}

#[tokio::test]
async fn whoever_takes_a_claim_over_appends_where_the_next_one_looks() {
    for (key, body) in [("k", sms()), ("", event("mine").to_string())] {
        let intake = Fixture::new(Scripted::default(), |_| {});
        let post = || async {
            match key {
                "" => intake.post(JSON, body.clone()).await,
                key => intake.post_keyed("/event", key, body.clone()).await,
            }
        };
        *intake.broker.fails.lock().unwrap() = Some(unconfirmed());
        for lands in [false, true] {
            intake.broker.lands.store(lands, Ordering::SeqCst);
            let (status, _, problem) = post().await;
            assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{problem}");
            assert_eq!(intake.broker.appended.lock().unwrap().len(), usize::from(lands));
        }
        *intake.broker.fails.lock().unwrap() = None;
        let (status, headers, answer) = post().await;
        assert_eq!(status, StatusCode::CREATED, "{answer}");
        assert_eq!(headers["idempotency-replayed"], "true");
        assert_eq!(intake.broker.appended.lock().unwrap().len(), 1, "{key}");
    }
}

#[tokio::test]
async fn items_with_ids_of_their_own_travel_together() {
    let intake = Fixture::new(Scripted::default(), |_| {});
    let items: Vec<Json> = (0..40).map(|number| event(&format!("mine-{number}"))).collect();
    let (status, _, answer) = intake.post_many("/events", None, &json!(items)).await;
    assert_eq!(status, StatusCode::CREATED, "{answer}");
    let appended = intake.broker.appended.lock().unwrap().clone();
    let places: HashSet<u32> = appended
        .iter()
        .map(|record| partition::of(&record.key, 12))
        .collect();
    assert_eq!((appended.len(), places.len()), (40, 1));
    let of = |record: &NewRecord| record_key::event_id(&record.key).map(str::to_owned);
    let ids: HashSet<_> = appended.iter().filter_map(of).collect();
    assert!(ids.len() == 40 && ids.contains("mine-7"), "{ids:?}");
}

#[tokio::test]
async fn what_was_surely_not_appended_leaves_its_key_free() {
    let intake = Fixture::new(Scripted::default(), |_| {});
    *intake.broker.fails.lock().unwrap() = Some(AppendError::Full);
    let (status, _, _) = intake.post_keyed("/event", "k", sms()).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    *intake.broker.fails.lock().unwrap() = None;
    let (status, headers, _) = intake.post_keyed("/event", "k", sms()).await;
    assert_eq!(status, StatusCode::CREATED);
    assert!(!headers.contains_key("idempotency-replayed"));
    assert_eq!(intake.stored(), 1);
}

#[tokio::test]
async fn without_the_store_only_what_has_a_key_is_refused() {
    let intake = Fixture::without_store();
    let (status, headers, problem) = intake.post_keyed("/event", "k", sms()).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{problem}");
    assert!(headers.contains_key("retry-after"));
    let (status, _, _) = intake.post(JSON, event("mine").to_string()).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(intake.stored(), 0);
    let (status, _, _) = intake.post(JSON, sms()).await;
    assert_eq!(status, StatusCode::CREATED);
    let mixed = json!([event("mine"), serde_json::from_str::<Json>(&sms()).unwrap()]);
    let (status, _, answer) = intake.post_many("/events", None, &mixed).await;
    assert_eq!(status, StatusCode::MULTI_STATUS, "{answer}");
    assert_eq!(
        (&answer["items"][0]["code"], &answer["items"][1]["code"]),
        (&json!(503), &json!(201))
    );
}

#[tokio::test]
async fn a_request_with_many_can_be_sent_again_from_its_beginning() {
    let intake = Fixture::new(Scripted::default(), |_| {});
    let plain: Json = serde_json::from_str(&sms()).unwrap();
    let short = json!([plain, {"channel": "sms"}, event("mine"), event("mine")]);
    let (status, _, first) = intake.post_many("/events", Some("upload"), &short).await;
    assert_eq!(status, StatusCode::MULTI_STATUS);
    let code = |answer: &Json, index: usize| answer["items"][index]["code"].clone();
    assert_eq!(
        [code(&first, 0), code(&first, 1), code(&first, 2)],
        [201, 400, 201]
    );
    assert_eq!(
        first["items"][3]["eventId"], "mine",
        "said twice in one request, taken once"
    );
    assert_eq!(intake.stored(), 2);
    let longer = json!([plain, plain, event("mine"), event("mine"), plain]);
    let (status, _, again) = intake.post_many("/events", Some("upload"), &longer).await;
    assert_eq!(status, StatusCode::CREATED, "{again}");
    assert_eq!(again["items"][0], first["items"][0]);
    assert_eq!(intake.stored(), 4, "only what was not taken before");
    let other = json!([plain, plain, {"channel": "slack"}, event("mine"), event("other")]);
    let (status, _, answer) = intake
        .post_many("/events?atomic=true", Some("upload"), &other)
        .await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{answer}");
    let high = with(plain.clone(), "priority", "high");
    let other = json!([
        event("fresh"),
        serde_json::from_str::<Json>(&high).unwrap(),
        plain
    ]);
    let (status, _, answer) = intake
        .post_many("/events?atomic=true", Some("upload"), &other)
        .await;
    assert!([409, 422].contains(&status.as_u16()), "{answer}");
    assert_eq!(answer["accepted"], 0);
    assert_eq!(intake.stored(), 4, "all or nothing");
    let (status, _, answer) = intake.post(JSON, event("fresh").to_string()).await;
    assert_eq!(status, StatusCode::CREATED, "its key was given back: {answer}");
}

#[tokio::test]
async fn an_id_is_its_tenants_own() {
    let intake = Fixture::new(Scripted::default(), |_| {});
    let of = |tenant: &str| with(event("order:9"), "tenant", tenant);
    for (tenant, id) in [
        ("default", "order:9"),
        ("acme", "acme~order:9"),
        ("globex", "globex~order:9"),
    ] {
        let (status, _, answer) = intake.post(JSON, of(tenant)).await;
        assert_eq!((status, &answer["eventId"]), (StatusCode::CREATED, &json!(id)));
        let (_, headers, answer) = intake.post(JSON, of(tenant)).await;
        assert_eq!(answer["eventId"], id);
        assert_eq!(headers["idempotency-replayed"], "true");
        let mut other = event("order:9");
        other["priority"] = "high".into();
        let other = with(other, "tenant", tenant);
        let (status, _, problem) = intake.post(JSON, other).await;
        assert_eq!(
            (status, &problem["errors"][0]["field"]),
            (StatusCode::CONFLICT, &json!("eventId"))
        );
    }
    assert_eq!(intake.stored(), 3);
    // No client says the whole of it.
    let (status, _, problem) = intake.post(JSON, event("acme~order:9").to_string()).await;
    assert_eq!(
        (status, &problem["errors"][0]["field"]),
        (StatusCode::BAD_REQUEST, &json!("eventId"))
    );
}

#[tokio::test]
async fn what_was_taken_when_ids_were_one_space_is_neither_taken_again_nor_taken_over() {
    let of = |tenant: &str, id: &str| with(event(id), "tenant", tenant);
    let first = Fixture::new(Scripted::default(), |_| {});
    first.post(JSON, of("acme", "order:9")).await;
    let value = first.broker.appended.lock().unwrap()[0].value.clone().unwrap();
    let mut fold = posthaste_store::Fold::default();
    fold.add(Value::decode(&value).unwrap());
    let mut known = fold.into_changes();
    // As it was kept then. Its claim is of no use, or over.
    known[0].id = "order:9".to_owned();
    let intake = Fixture::new(Scripted::default(), |_| {});
    intake.events.apply(known.clone().into(), &[]).await.unwrap();
    for tenant in ["acme", "default"] {
        let (status, _, problem) = intake.post(JSON, of(tenant, "order:9")).await;
        assert_eq!(
            (status, &problem["errors"][0]["field"]),
            (StatusCode::CONFLICT, &json!("eventId")),
            "{tenant}"
        );
    }
    let (status, _, _) = intake.post_keyed("/event", "k9", of("default", "order:9")).await;
    assert_eq!(status, StatusCode::CONFLICT);
    let (status, _, answer) = intake.post_keyed("/event", "k9", sms()).await;
    assert_eq!(status, StatusCode::CREATED, "its key was given back: {answer}");
    let (status, _, _) = intake.post(JSON, of("globex", "order:9")).await;
    assert_eq!(status, StatusCode::CREATED);
    let many = format!("[{}, {}]", of("default", "order:9"), of("default", "order:10"));
    let (_, _, answer) = intake.post_keyed("/events", "k", many).await;
    assert_eq!(
        (&answer["items"][0]["code"], &answer["items"][1]["code"]),
        (&json!(409), &json!(201)),
        "{answer}"
    );
    let ids = (0..50).map(|number| format!("order:{number}"));
    let posted = ids.map(|id| {
        let body = of("default", &id);
        let post = intake.post(JSON, body);
        async move { (id, post.await.0) }
    });
    for (id, status) in futures_util::future::join_all(posted).await {
        let expected = match id.as_str() {
            "order:9" => StatusCode::CONFLICT,
            _ => StatusCode::CREATED,
        };
        assert_eq!(status, expected, "{id}, looked for together with others");
    }
    // Long after, it is no repetition.
    known[0].fixed.created_at -= 25 * 3_600_000;
    let intake = Fixture::new(Scripted::default(), |_| {});
    intake.events.apply(known.clone().into(), &[]).await.unwrap();
    let (status, _, answer) = intake.post(JSON, of("acme", "order:9")).await;
    assert_eq!(
        (status, &answer["eventId"]),
        (StatusCode::CREATED, &json!("acme~order:9"))
    );
    let (status, _, _) = intake.post(JSON, of("default", "order:9")).await;
    assert_eq!(status, StatusCode::CONFLICT, "it would be shown as the other's");
}
