//! The status API over a store: answers, filters, cursors, and every kind of bad question.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

mod world;

use std::{sync::Arc, time::Duration};

use axum::{
    body::Body,
    http::{Request, StatusCode, header},
};
use expect_test::{expect, expect_file};
use http_body_util::BodyExt as _;
use posthaste_broker::{Broker, NewRecord};
use posthaste_event::{Channel, clock};
use posthaste_service::{Requests, Shutdown};
use posthaste_status::{Follow, Rebuilds};
use posthaste_store::{EmbeddedStore, InboxMessage, Store};
use posthaste_testkit::{
    life::{Life, NOW},
    store_suite::apply_all,
};
use serde_json::{Value as Json, json};
use tempfile::TempDir;
use tower::ServiceExt as _;

use world::{Flaky, store_settings};

struct Api {
    store: Arc<Flaky>,
    broker: Arc<dyn Broker>,
    shutdown: Shutdown,
    requests: Arc<Requests>,
    _dir: TempDir,
}

struct Answer {
    status: StatusCode,
    retry_after: Option<String>,
    kind: String,
    body: Json,
}

impl Api {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = EmbeddedStore::open(dir.path(), &store_settings()).unwrap();
        Self {
            store: Arc::new(Flaky::new(Arc::new(store))),
            broker: world::broker(dir.path().join("log")).await,
            shutdown: Shutdown::new(),
            requests: Arc::default(),
            _dir: dir,
        }
    }

    fn rebuilds(&self) -> Rebuilds {
        let store = self.store.clone();
        Rebuilds::new(
            self.broker.clone(),
            store,
            &store_settings(),
            None,
            self.shutdown.clone(),
        )
    }

    async fn ask(&self, path: &str) -> Answer {
        let follow = Follow::new(self.broker.clone(), self.shutdown.clone());
        let router = posthaste_status::router(
            self.store.clone(),
            follow,
            self.rebuilds(),
            self.requests.clone(),
            366,
            Arc::default(),
        );
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = router.oneshot(request).await.unwrap();
        let text = |name| {
            response
                .headers()
                .get(name)
                .map(|value| value.to_str().unwrap().to_owned())
        };
        Answer {
            status: response.status(),
            retry_after: text(header::RETRY_AFTER),
            kind: text(header::CONTENT_TYPE).unwrap_or_default(),
            body: serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap(),
        }
    }

    async fn get(&self, path: &str) -> Json {
        let answer = self.ask(path).await;
        assert_eq!(answer.status, StatusCode::OK, "{path}: {}", answer.body);
        answer.body
    }

    /// Field and what is accepted, of each error.
    async fn refused(&self, path: &str) -> Vec<(String, String)> {
        let answer = self.ask(path).await;
        assert_eq!(
            (answer.status, answer.kind.as_str()),
            (StatusCode::BAD_REQUEST, "application/problem+json"),
            "{path}"
        );
        let text = |error: &Json, name: &str| error[name].as_str().unwrap().to_owned();
        let errors = answer.body["errors"].as_array().unwrap().iter();
        errors
            .map(|error| (text(error, "field"), text(error, "accepted")))
            .collect()
    }
}

fn ids(events: &Json) -> Vec<&str> {
    events["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| event["eventId"].as_str().unwrap())
        .collect()
}

#[tokio::test]
async fn an_event_is_shown_whole() {
    let api = Api::new().await;
    apply_all(api.store.as_ref(), &Life::new("e1").everything(), 100).await;
    let event = api.get("/events/e1").await;
    expect_file!["golden/event.json"].assert_eq(&format!("{event:#}\n"));
    let timeline = api.get("/events/e1/timeline").await;
    assert_eq!(timeline["timeline"], event["timeline"]);
    assert_eq!(
        (&timeline["eventId"], &timeline["status"]),
        (&json!("e1"), &json!("SENT"))
    );
}

#[tokio::test]
async fn a_correlation_id_finds_all_that_belong_together() {
    let api = Api::new().await;
    for (number, id) in ["first", "second", "third"].into_iter().enumerate() {
        let life = Life::new(id)
            .correlation("order 7/ü")
            .created_at(NOW + number as i64);
        apply_all(api.store.as_ref(), &life.straight(), 10).await;
    }
    let found = api.get("/events/order%207%2F%C3%BC").await;
    assert_eq!(ids(&found), ["third", "second", "first"]);
    assert_eq!(found["correlationId"], "order 7/ü");
    assert_eq!(found["events"][0]["timeline"].as_array().unwrap().len(), 2);
    let timeline = api.get("/events/order%207%2F%C3%BC/timeline").await;
    let steps = timeline["timeline"].as_array().unwrap().iter();
    let steps: Vec<_> = steps
        .map(|step| format!("{} {}", step["eventId"], step["status"]))
        .collect();
    expect![[r#"
        [
            "\"first\" \"PENDING\"",
            "\"second\" \"PENDING\"",
            "\"third\" \"PENDING\"",
            "\"first\" \"SENT\"",
            "\"second\" \"SENT\"",
            "\"third\" \"SENT\"",
        ]
    "#]]
    .assert_debug_eq(&steps);
    assert_eq!(
        timeline["events"][0],
        json!({"eventId": "third", "status": "SENT"})
    );
    api.store.ends_early(9);
    assert_eq!(ids(&api.get("/events/order%207%2F%C3%BC").await).len(), 3);
}

#[tokio::test]
async fn pages_follow_each_other_by_the_cursor() {
    let api = Api::new().await;
    for number in 0..7 {
        let life = Life::new(&format!("e{number}")).created_at(NOW + number / 2);
        apply_all(api.store.as_ref(), &life.straight(), 10).await;
    }
    let mut seen = Vec::new();
    let mut path = "/events?limit=3".to_owned();
    loop {
        let page = api.get(&path).await;
        seen.extend(ids(&page).into_iter().map(ToOwned::to_owned));
        assert!(page["events"][0].get("timeline").is_none(), "listings are light");
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/events?limit=3&cursor={next}");
    }
    assert_eq!(seen, ["e6", "e5", "e4", "e3", "e2", "e1", "e0"]);
}

#[tokio::test]
async fn every_filter_can_be_asked_for() {
    let api = Api::new().await;
    let ours = Life::new("ours")
        .tenant("acme")
        .channel(Channel::Email)
        .correlation("c");
    apply_all(api.store.as_ref(), &ours.straight(), 10).await;
    apply_all(
        api.store.as_ref(),
        &[Life::new("other").created_at(NOW + 1_000).accepted()],
        10,
    )
    .await;
    // NOW is 2026-09-21T14:13:20Z.
    for (path, found) in [
        ("/events", vec!["other", "ours"]),
        ("/events?status=SENT", vec!["ours"]),
        (
            "/events?status=sent&tenant=acme&channel=email&provider=twilio&correlationId=c",
            vec!["ours"],
        ),
        ("/events?status=PENDING&tenant=acme", vec![]),
        ("/events?from=1790000000500", vec!["other"]),
        (
            "/events?from=2026-09-21T14:13:20Z&until=2026-09-21T14:13:21.000Z",
            vec!["ours"],
        ),
        ("/events?until=2026-09-21T16:13:20.001%2B02:00", vec!["ours"]),
    ] {
        assert_eq!(ids(&api.get(path).await), found, "{path}");
    }
}

#[tokio::test]
async fn what_cannot_be_asked_is_named() {
    let api = Api::new().await;
    for (path, field, accepted) in [
        (
            "/events?status=GONE",
            "status",
            "PENDING, SCHEDULED, RETRYING, SENT",
        ),
        ("/events?channel=fax", "channel", "sms, email"),
        ("/events?limit=0", "limit", "1 to 1000"),
        ("/events?limit=1001", "limit", "1 to 1000"),
        ("/events?limit=many", "limit", "1 to 1000"),
        ("/events?from=yesterday", "from", "RFC 3339"),
        ("/events?until=2026-13-01T00:00:00Z", "until", "RFC 3339"),
        ("/events?cursor=abc", "cursor", "`next` of the page before"),
        ("/events?cursor=", "cursor", "`next`"),
        ("/events?tenant=", "tenant", "not empty"),
        ("/events?follow=yes", "follow", "true, false"),
        ("/events?follow=true&limit=3", "limit", "status, channel"),
        ("/events?state=SENT", "state", "status, channel"),
        ("/events?limit=1&limit=2", "limit", "status, channel"),
        ("/events/e1?verbose=1", "verbose", "no parameters"),
        ("/events/e1/timeline?limit=1", "limit", "no parameters"),
        ("/inbox/me?status=SENT", "status", "tenant, limit"),
    ] {
        let errors = api.refused(path).await;
        assert_eq!(errors.len(), 1, "{path}");
        assert!(
            errors[0].0 == field && errors[0].1.contains(accepted),
            "{path}: {errors:?}"
        );
    }
    let all = api.refused("/events?status=x&channel=y&limit=z&zzz=1").await;
    assert_eq!(all.len(), 4, "all at once: {all:?}");
}

#[tokio::test]
async fn what_is_not_known_says_that_the_status_follows() {
    let api = Api::new().await;
    for path in ["/events/nobody", "/events/nobody/timeline"] {
        let answer = api.ask(path).await;
        assert_eq!(
            (answer.status, answer.kind.as_str()),
            (StatusCode::NOT_FOUND, "application/problem+json")
        );
        assert!(
            answer.body["detail"]
                .as_str()
                .unwrap()
                .contains("a moment behind"),
            "{}",
            answer.body
        );
    }
}

#[tokio::test]
async fn a_store_that_is_away_is_503_with_a_time_to_come_back() {
    let api = Api::new().await;
    api.store.away(true);
    for path in [
        "/events",
        "/events/e1",
        "/events/e1/timeline",
        "/inbox/me",
        "/messages/stats",
    ] {
        let answer = api.ask(path).await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{path}");
        assert_eq!(answer.retry_after.as_deref(), Some("2"));
        assert!(
            !answer.body.to_string().contains("for a test"),
            "reasons stay inside: {}",
            answer.body
        );
    }
}

#[tokio::test]
async fn events_are_counted_by_where_they_stand_with_the_time_when_they_were() {
    let api = Api::new().await;
    for (id, tenant) in [("a", "acme"), ("b", "acme"), ("c", "globex")] {
        apply_all(api.store.as_ref(), &Life::new(id).tenant(tenant).straight(), 10).await;
    }
    apply_all(
        api.store.as_ref(),
        &[Life::new("d").tenant("acme").accepted()],
        10,
    )
    .await;
    for (path, completed, waiting) in [
        ("/messages/stats", 3, 1),
        ("/messages/stats?tenant=acme", 2, 1),
        ("/core-slack-worker/messages/stats?tenant=globex", 1, 0),
        ("/messages/stats?tenant=nobody", 0, 0),
    ] {
        let before = clock::now();
        let stats = api.get(path).await;
        let found = (stats["completed"].as_u64(), stats["waiting"].as_u64());
        assert_eq!(found, (Some(completed), Some(waiting)), "{path}: {stats}");
        let at: jiff::Timestamp = stats["timestamp"].as_str().unwrap().parse().unwrap();
        assert!(at.as_millisecond() >= before, "{path}: {stats}");
    }
    let nobody = api.ask("/messages/stats?tenant=").await;
    assert_eq!(nobody.status, StatusCode::BAD_REQUEST);
    assert_eq!(nobody.body["errors"][0]["field"], "tenant", "{}", nobody.body);
}

#[tokio::test]
async fn an_inbox_shows_its_newest_messages() {
    let api = Api::new().await;
    for at in 0..3 {
        let message = InboxMessage {
            id: format!("e{at}"),
            tenant: "default".into(),
            recipient: "ann".into(),
            title: "Hello".into(),
            body: "World".into(),
            data: (at == 2).then(|| json!({"a": 1})),
            at: NOW + at,
        };
        api.store.put_inbox(&message).await.unwrap();
    }
    let inbox = api.get("/inbox/ann?limit=2").await;
    expect![[r#"{"messages":[{"at":"2026-09-21T14:13:20.002Z","body":"World","data":{"a":1},"eventId":"e2","title":"Hello"},{"at":"2026-09-21T14:13:20.001Z","body":"World","eventId":"e1","title":"Hello"}],"recipient":"ann","tenant":"default"}"#]]
        .assert_eq(&inbox.to_string());
    assert_eq!(api.get("/inbox/ann?tenant=acme").await["messages"], json!([]));
}

/// The lines of a stream, one by one; `None` at its end.
struct Lines {
    body: Body,
    rest: String,
}

impl Lines {
    async fn next(&mut self) -> Option<Json> {
        loop {
            if let Some((line, rest)) = self.rest.split_once('\n') {
                let (line, rest) = (line.to_owned(), rest.to_owned());
                self.rest = rest;
                if !line.is_empty() {
                    return Some(serde_json::from_str(&line).unwrap());
                }
                continue;
            }
            let frame = tokio::time::timeout(Duration::from_secs(20), self.body.frame());
            let data = frame.await.unwrap()?.unwrap().into_data().unwrap();
            self.rest.push_str(std::str::from_utf8(&data).unwrap());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happens_can_be_followed() {
    let api = Api::new().await;
    let append = async |values: Vec<posthaste_event::Value>| {
        let records = values
            .iter()
            .map(|value| NewRecord::new(posthaste_event::Topic::Status, "k", value.encode().unwrap()));
        api.broker.append(records.collect()).await.unwrap();
    };
    append(Life::new("before").straight()).await;
    let open = async |path: &str| {
        let follow = Follow::new(api.broker.clone(), api.shutdown.clone());
        let router = posthaste_status::router(
            api.store.clone(),
            follow,
            api.rebuilds(),
            api.requests.clone(),
            366,
            Arc::default(),
        );
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = router.oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/x-ndjson");
        Lines {
            body: response.into_body(),
            rest: String::new(),
        }
    };
    let mut all = open("/events?follow=true").await;
    let mut ours = open("/events?follow=true&tenant=acme&status=SENT").await;
    append(Life::new("theirs").straight()).await;
    append(Life::new("ours").tenant("acme").straight()).await;
    let mut seen = Vec::new();
    for _ in 0..4 {
        let line = all.next().await.unwrap();
        seen.push(format!("{} {}", line["eventId"], line["status"]));
    }
    seen.sort();
    expect![[r#"
        [
            "\"ours\" \"PENDING\"",
            "\"ours\" \"SENT\"",
            "\"theirs\" \"PENDING\"",
            "\"theirs\" \"SENT\"",
        ]
    "#]]
    .assert_debug_eq(&seen);
    let line = ours.next().await.unwrap();
    assert_eq!(
        (&line["eventId"], &line["tenant"], &line["provider"]),
        (&json!("ours"), &json!("acme"), &json!("twilio"))
    );
    // A stopping service does not wait for who still listens.
    api.shutdown.cancel();
    assert_eq!(all.next().await, None);
    assert_eq!(ours.next().await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rebuild_is_begun_watched_and_ended_over_http() {
    let api = Api::new().await;
    apply_all(api.store.as_ref(), &Life::new("a").straight(), 10).await;
    let follow = Follow::new(api.broker.clone(), api.shutdown.clone());
    let router = posthaste_status::router(
        api.store.clone(),
        follow,
        api.rebuilds(),
        api.requests.clone(),
        366,
        Arc::default(),
    );
    let ask = async |method: &str, body: &str| {
        let request = Request::builder()
            .method(method)
            .uri("/status/rebuild")
            .header(header::CONTENT_TYPE, "application/json");
        let request = request.body(Body::from(body.to_owned())).unwrap();
        let response = router.clone().oneshot(request).await.unwrap();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice::<Json>(&body).unwrap())
    };
    for method in ["GET", "DELETE"] {
        assert_eq!(ask(method, "").await.0, StatusCode::NOT_FOUND, "{method}");
    }
    assert_eq!(
        ask("POST", r#"{"dry_run": true}"#).await.0,
        StatusCode::BAD_REQUEST
    );
    api.store.away(true);
    let (status, begun) = ask("POST", r#"{"dryRun": true}"#).await;
    assert_eq!(
        (status, &begun["state"]),
        (StatusCode::ACCEPTED, &json!("reading"))
    );
    let (status, problem) = ask("POST", "").await;
    assert_eq!(status, StatusCode::CONFLICT);
    assert!(
        problem["detail"]
            .as_str()
            .unwrap()
            .contains(begun["rebuildId"].as_str().unwrap())
    );
    assert_eq!(ask("DELETE", "").await.0, StatusCode::ACCEPTED);
    world::until(async || ask("GET", "").await.1["state"] == "stopped").await;
    let (status, ended) = ask("GET", "").await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(ended["rebuildId"], begun["rebuildId"]);
    assert!(
        ended["finishedAt"].is_string() && ended["reason"].is_string(),
        "{ended}"
    );
}
