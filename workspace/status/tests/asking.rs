//! Asking for an event to be withdrawn, or sent at another time: what is written, what is refused, what is forgotten.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

mod world;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    http::{Method, Request, StatusCode, header},
};
use http_body_util::BodyExt as _;
use posthaste_event::{Topic, Value, cancel::Cancel, clock, control::Control};
use posthaste_service::{Requests, Shutdown, requests};
use posthaste_status::{Follow, Rebuilds};
use posthaste_testkit::{
    broker_suite::contents,
    life::{Life, NOW},
    store_suite::apply_all,
};
use serde_json::{Value as Json, json};
use tower::ServiceExt as _;

use world::{Flaky, World, store_settings, until};

struct Api {
    world: World,
    store: Arc<Flaky>,
    requests: Arc<Requests>,
    router: Router,
}

impl Api {
    async fn new() -> Self {
        let world = World::new().await;
        let store = Arc::new(Flaky::new(world.store.clone()));
        let (shutdown, asked) = (Shutdown::new(), Arc::<Requests>::default());
        let rebuilds = Rebuilds::new(
            world.broker.clone(),
            store.clone(),
            &store_settings(),
            None,
            shutdown.clone(),
        );
        let follow = Follow::new(world.broker.clone(), shutdown.clone());
        let router = posthaste_status::router(
            store.clone(),
            follow,
            rebuilds,
            asked.clone(),
            366,
            Arc::default(),
        );
        let (broker, heard) = (world.broker.clone(), asked.clone());
        tokio::spawn(async move { requests::follow(&broker, &heard, &shutdown).await });
        asked.known().await;
        Self {
            world,
            store,
            requests: asked,
            router,
        }
    }

    async fn knows(&self, values: &[Value]) {
        apply_all(self.store.as_ref(), values, 100).await;
    }

    async fn ask(&self, method: Method, id: &str, body: Option<Json>) -> (StatusCode, Json) {
        let request = Request::builder().method(method).uri(format!("/events/{id}"));
        let request = match body {
            Some(body) => request
                .header(header::CONTENT_TYPE, "application/json")
                .body(Body::from(body.to_string())),
            None => request.body(Body::empty()),
        };
        let response = self.router.clone().oneshot(request.unwrap()).await.unwrap();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap())
    }

    async fn cancel(&self, id: &str) -> (StatusCode, Json) {
        self.ask(Method::DELETE, id, None).await
    }

    async fn reschedule(&self, id: &str, at: &str) -> (StatusCode, Json) {
        self.ask(Method::PATCH, id, Some(json!({"scheduledAt": at})))
            .await
    }

    async fn written(&self, topic: Topic) -> Vec<(String, Option<bytes::Bytes>)> {
        let records = contents(self.world.broker.as_ref(), topic).await;
        let key = |key: Option<bytes::Bytes>| String::from_utf8(key.unwrap().to_vec()).unwrap();
        records.into_iter().map(|one| (key(one.key), one.value)).collect()
    }
}

#[tokio::test]
async fn what_is_not_final_is_asked_to_be_withdrawn_once() {
    let api = Api::new().await;
    api.knows(&[Life::new("e1").scheduled(NOW + 3_600_000)]).await;
    let (status, answer) = api.cancel("e1").await;
    assert_eq!(status, StatusCode::ACCEPTED, "{answer}");
    assert_eq!(
        answer,
        json!({"message": "Cancel Requested", "eventId": "e1", "status": "SCHEDULED"})
    );
    until(async || api.requests.of("e1").is_some()).await;
    assert_eq!(api.cancel("e1").await.0, StatusCode::ACCEPTED);
    let written = api.written(Topic::Cancel).await;
    let [(key, Some(value))] = written.as_slice() else {
        unreachable!("{written:?}")
    };
    let asked = Cancel::decode(value).unwrap();
    assert_eq!((key.as_str(), asked.event_id.as_str()), ("default/key#e1", "e1"));
    assert_eq!((asked.created_at, asked.generation), (NOW, 0));
    // The status shows it, as soon as the note is projected.
    let notes = api.written(Topic::Status).await;
    let note = Value::decode(notes[0].1.as_ref().unwrap()).unwrap();
    api.knows(&[note]).await;
    let (_, event) = api.ask(Method::GET, "e1", None).await;
    assert_eq!(event["status"], "SCHEDULED");
    assert!(event["cancelRequested"].is_string(), "{event:#}");
}

#[tokio::test]
async fn what_is_final_or_unknown_is_refused_and_nothing_is_written() {
    let api = Api::new().await;
    api.knows(&Life::new("sent").everything()).await;
    let (status, problem) = api.cancel("sent").await;
    assert_eq!(
        (status, &problem["eventId"]),
        (StatusCode::CONFLICT, &json!("sent"))
    );
    let detail = problem["detail"].as_str().unwrap();
    assert!(
        detail.contains("SENT") && detail.contains("cancelled"),
        "{detail}"
    );
    assert_eq!(api.cancel("nobody").await.0, StatusCode::NOT_FOUND);
    let soon = "2026-09-22T00:00:00Z";
    assert_eq!(api.reschedule("sent", soon).await.0, StatusCode::CONFLICT);
    assert_eq!(api.reschedule("nobody", soon).await.0, StatusCode::NOT_FOUND);
    api.store.away(true);
    assert_eq!(api.cancel("sent").await.0, StatusCode::SERVICE_UNAVAILABLE);
    api.store.away(false);
    assert!(api.written(Topic::Cancel).await.is_empty() && api.written(Topic::Control).await.is_empty());
}

#[tokio::test]
async fn a_scheduled_event_is_asked_to_go_at_another_time() {
    let api = Api::new().await;
    let now = clock::now();
    let life = Life::new("e1").created_at(now);
    api.knows(&[life.scheduled(now + 20 * 3_600_000)]).await;
    let time = |at: i64| jiff::Timestamp::from_millisecond(at).unwrap().to_string();
    let (status, answer) = api.reschedule("e1", &time(now + 60_000)).await;
    assert_eq!(status, StatusCode::ACCEPTED, "{answer}");
    // It waits in the tier of eight hours.
    let by: jiff::Timestamp = answer["inForceBy"].as_str().unwrap().parse().unwrap();
    assert_eq!(by.as_millisecond(), now + 8 * 3_600_000);
    let written = api.written(Topic::Control).await;
    let [(key, Some(value))] = written.as_slice() else {
        unreachable!("{written:?}")
    };
    let Control::Reschedule(asked) = Control::decode(value).unwrap() else {
        unreachable!("{value:?}")
    };
    assert_eq!((asked.scheduled_at, asked.created_at), (now + 60_000, now));
    assert!(key.starts_with("reschedule/e1/"), "{key}");
    for wrong in [
        json!({"scheduledAt": "tomorrow"}),
        json!({}),
        json!({"priority": "low"}),
    ] {
        let (status, problem) = api.ask(Method::PATCH, "e1", Some(wrong)).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{problem}");
        assert!(problem["errors"][0]["accepted"].is_string(), "{problem}");
    }
    let (status, _) = api.reschedule("e1", &time(now + 367 * 86_400_000)).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    tokio::time::timeout(Duration::from_secs(20), api.requests.known())
        .await
        .unwrap();
}
