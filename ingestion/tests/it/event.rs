//! `POST /event` over HTTP: what is answered, and that nothing is stored when it should not be.

use std::sync::{Arc, atomic::Ordering};

use axum::http::StatusCode;
use posthaste_broker::AppendError;
use posthaste_event::{Channel, Priority, Topic, Value};
use posthaste_service::metrics::Refusal;
use serde_json::{Value as Json, json};
use tokio::sync::Notify;

use crate::world::{Fixture, Scripted, sms};

#[tokio::test]
async fn an_event_is_durable_before_it_is_answered() {
    let intake = Fixture::new(Scripted::default(), |_| {});
    let (status, headers, answer) = intake.post("application/json", sms()).await;
    assert_eq!(status, StatusCode::CREATED);
    assert_eq!(headers["x-correlation-id"], "c-1");
    assert_eq!(answer["message"], "Event Ingested");
    assert_eq!(answer["correlationId"], "c-1");
    assert_eq!(answer["status"], "PENDING");
    let appended = intake.broker.appended.lock().unwrap();
    let [record] = appended.as_slice() else {
        panic!("{appended:?}")
    };
    assert_eq!(record.topic, Topic::Default);
    assert_eq!(record.key, answer["eventId"].as_str().unwrap());
    let Value::Work(work) = Value::decode(record.value.as_ref().unwrap()).unwrap() else {
        panic!("not work")
    };
    assert_eq!(work.delivery.id, answer["eventId"].as_str().unwrap());
    assert_eq!(work.delivery.by, "here");
    assert_eq!(work.event.view().unwrap().event_id, work.delivery.id);
}

#[tokio::test]
async fn a_trace_that_is_recorded_goes_with_the_event() {
    let intake = Fixture::new(Scripted::default(), |_| {});
    let recorded = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    for traceparent in [recorded, &recorded.replace("-01", "-00"), "nonsense", ""] {
        let (status, ..) = intake.post_traced("application/json", sms(), traceparent).await;
        assert_eq!(status, StatusCode::CREATED, "{traceparent}");
    }
    let appended = intake.broker.appended.lock().unwrap();
    let traces: Vec<_> = appended
        .iter()
        .map(|record| match Value::decode(record.value.as_ref().unwrap()) {
            Ok(Value::Work(work)) => work.delivery.trace_id().map(str::to_owned),
            other => panic!("{other:?}"),
        })
        .collect();
    let expected = Some("0af7651916cd43dd8448eb211c80319c".to_owned());
    assert_eq!(traces, [expected, None, None, None]);
}

#[tokio::test]
async fn what_is_taken_and_what_is_refused_is_counted() {
    let intake = Fixture::new(Scripted::default(), |_| {});
    let large = "x".repeat(300_000);
    for (content_type, body) in [
        ("application/json", sms()),
        ("text/plain", sms()),
        ("application/json", "{}".to_owned()),
        ("application/json", large),
    ] {
        intake.post(content_type, body).await;
    }
    *intake.broker.fails.lock().unwrap() = Some(AppendError::Full);
    intake.post("application/json", sms()).await;
    let metrics = &intake.metrics;
    assert_eq!(metrics.accepted(Channel::Sms, Priority::Normal).get(), 1);
    let refused = |refusal| metrics.refused(refusal).get();
    assert_eq!(
        (
            refused(Refusal::Invalid),
            refused(Refusal::TooLarge),
            refused(Refusal::Full),
            refused(Refusal::Unconfirmed)
        ),
        (2, 1, 1, 0)
    );
}

#[tokio::test]
async fn priority_and_schedule_choose_the_topic() {
    let intake = Fixture::new(Scripted::default(), |_| {});
    let mut event: Json = serde_json::from_str(&sms()).unwrap();
    event["priority"] = "critical".into();
    intake
        .post("application/json; charset=utf-8", event.to_string())
        .await;
    let later = posthaste_event::clock::now() + 2 * 86_400_000;
    let time = jiff::Timestamp::from_millisecond(later).unwrap().to_string();
    event["scheduledAt"] = time.into();
    let (_, _, answer) = intake.post("application/json", event.to_string()).await;
    assert_eq!(answer["status"], "SCHEDULED");
    let topics: Vec<_> = intake
        .broker
        .appended
        .lock()
        .unwrap()
        .iter()
        .map(|record| record.topic.suffix())
        .collect();
    assert_eq!(topics, ["critical", "delay.1d"]);
}

#[tokio::test]
async fn bad_input_is_a_problem_that_names_the_field_and_stores_nothing() {
    let intake = Fixture::new(Scripted::default(), |_| {});
    let large = format!("{{\"metadata\":\"{}\"}}", "x".repeat(300_000));
    let deep = "[".repeat(200_000);
    let mut cases: Vec<(&str, Vec<u8>, u16, &str)> = vec![
        ("text/plain", sms().into(), 415, ""),
        ("application/jsonp", sms().into(), 415, ""),
        ("application/json", large.into(), 413, ""),
        ("application/json", deep.into(), 400, "body"),
        (
            "application/json",
            b"{\"channel\":\"\xff\"}".to_vec(),
            400,
            "body",
        ),
        ("application/json", b"{".to_vec(), 400, "body"),
        ("application/json", Vec::new(), 400, "body"),
        ("application/json", b"null".to_vec(), 400, "body"),
    ];
    for (field, value) in [
        ("channel", json!("fax")),
        ("channel", json!(null)),
        ("payload", json!({ "message": "m" })),
        ("payload", json!({ "message": "m", "phoneNumber": "1" })),
        ("priority", json!("asap")),
        ("provider", json!("fax-co")),
        ("eventId", json!("a/b")),
        ("tenant", json!("a/b")),
        ("orderingKey", json!("")),
        ("scheduledAt", json!("soon")),
        ("expiresAt", json!("2020-01-01T00:00:00Z")),
        ("unheardOf", json!(1)),
    ] {
        let mut event: Json = serde_json::from_str(&sms()).unwrap();
        event[field] = value;
        cases.push(("application/json", event.to_string().into(), 400, field));
    }
    for (content_type, body, expected, field) in cases {
        let shown = String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned();
        let (status, headers, problem) = intake.post(content_type, body).await;
        assert_eq!(status.as_u16(), expected, "{shown}: {problem}");
        assert_eq!(headers["content-type"], "application/problem+json", "{shown}");
        assert_eq!(problem["status"], expected);
        if !field.is_empty() {
            let named = problem["errors"][0]["field"].as_str().unwrap();
            assert!(named.starts_with(field), "{shown}: {problem}");
            assert!(!problem["errors"][0]["accepted"].as_str().unwrap().is_empty());
        }
    }
    assert_eq!(intake.stored(), 0);
}

#[tokio::test]
async fn what_is_not_durable_is_never_a_2xx() {
    let unconfirmed = AppendError::Unconfirmed {
        reason: "timed out".into(),
    };
    for (error, expected, names_event) in [
        (AppendError::Full, 503, false),
        (unconfirmed, 503, true),
        (AppendError::TooLarge { bytes: 1_000_001 }, 413, false),
    ] {
        let intake = Fixture::new(Scripted::default(), |_| {});
        *intake.broker.fails.lock().unwrap() = Some(error);
        let mut event: Json = serde_json::from_str(&sms()).unwrap();
        event["eventId"] = "order:42".into();
        let (status, headers, problem) = intake.post("application/json", event.to_string()).await;
        assert_eq!(status.as_u16(), expected);
        assert_eq!(headers.contains_key("retry-after"), expected == 503);
        assert_eq!(problem["eventId"] == "order:42", names_event, "{problem}");
    }
}

#[tokio::test]
async fn past_the_limit_of_events_in_flight_intake_says_so_at_once() {
    let go_on = Arc::new(Notify::new());
    let broker = Scripted {
        holds: Some(Arc::clone(&go_on)),
        ..Scripted::default()
    };
    let intake = Arc::new(Fixture::new(broker, |settings| settings.in_flight_max = 1));
    let first = tokio::spawn({
        let intake = Arc::clone(&intake);
        async move { intake.post("application/json", sms()).await.0 }
    });
    while intake.broker.waiting.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    let (status, headers, _) = intake.post("application/json", sms()).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(headers["retry-after"], "1");
    go_on.notify_one();
    assert_eq!(first.await.unwrap(), StatusCode::CREATED);
    go_on.notify_one();
    assert_eq!(
        intake.post("application/json", sms()).await.0,
        StatusCode::CREATED
    );
}
