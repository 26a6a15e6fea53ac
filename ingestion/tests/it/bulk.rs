//! `POST /events` over HTTP: an answer for each item, bounded memory, and nothing lost between the two.

use std::{
    convert::Infallible,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use async_compression::tokio::write::{GzipEncoder, ZstdEncoder};
use axum::{
    body::{Body, to_bytes},
    http::{Request, StatusCode},
};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use posthaste_broker::{AppendError, NewRecord};
use posthaste_event::{Channel, Priority, record_key};
use posthaste_service::metrics::Refusal;
use serde_json::{Value as Json, json};
use tokio::{
    io::AsyncWriteExt as _,
    sync::{Notify, mpsc},
};
use tower::ServiceExt as _;

use crate::world::{Fixture, Scripted, sms};

const LINES: &str = "application/x-ndjson";

/// An event with this id.
fn event(id: &str) -> Json {
    let mut event: Json = serde_json::from_str(&sms()).unwrap();
    event["eventId"] = id.into();
    event
}

fn lines(events: &[Json]) -> String {
    events.iter().map(|event| format!("{event}\n")).collect()
}

/// A body that comes piece by piece.
fn body_of<T>(pieces: mpsc::Receiver<Result<T, Infallible>>) -> Body
where
    T: Into<Bytes> + Send + 'static,
{
    Body::from_stream(futures_util::stream::unfold(pieces, |mut pieces| async move {
        Some((pieces.recv().await?, pieces))
    }))
}

impl Fixture {
    async fn send(&self, path: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> (StatusCode, Bytes) {
        let mut request = Request::post(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(body.into()).unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        let status = response.status();
        (status, to_bytes(response.into_body(), 64 << 20).await.unwrap())
    }

    async fn send_array(&self, query: &str, body: &Json) -> (StatusCode, Json) {
        let headers = [("content-type", "application/json")];
        let (status, body) = self
            .send(&format!("/events{query}"), &headers, body.to_string())
            .await;
        (status, serde_json::from_slice(&body).unwrap())
    }

    /// The items told of, and the last line.
    async fn send_lines(&self, query: &str, coding: &str, body: impl Into<Body>) -> (Vec<Json>, Json) {
        let headers = [("content-type", LINES), ("content-encoding", coding)];
        let (status, body) = self.send(&format!("/events{query}"), &headers, body).await;
        assert_eq!(status, StatusCode::OK, "{body:?}");
        let mut items = parse(&body);
        let sum = items.pop().unwrap();
        (items, sum)
    }

    fn stored_ids(&self) -> Vec<String> {
        let appended = self.broker.appended.lock().unwrap();
        let id = |record: &NewRecord| record_key::event_id(&record.key).unwrap().to_owned();
        appended.iter().map(id).collect()
    }
}

fn parse(lines: &[u8]) -> Vec<Json> {
    lines
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect()
}

fn codes(items: &[Json]) -> Vec<u64> {
    items.iter().map(|item| item["code"].as_u64().unwrap()).collect()
}

#[tokio::test]
async fn each_event_of_an_array_is_answered_for_itself() {
    let intake = Fixture::new(Scripted::default(), |_| {});
    let bad = json!({ "channel": "fax", "payload": {} });
    let all = json!([event("a"), bad, event("b"), 7]);
    let (status, answer) = intake.send_array("", &all).await;
    assert_eq!(status, StatusCode::MULTI_STATUS);
    assert_eq!((&answer["accepted"], &answer["refused"]), (&json!(2), &json!(2)));
    let items = answer["items"].as_array().unwrap();
    assert_eq!(codes(items), [201, 400, 201, 400]);
    assert_eq!(items[0]["eventId"], "a");
    assert_eq!(items[2]["status"], "PENDING");
    assert_eq!(items[1]["errors"][0]["field"], "channel");
    assert_eq!(intake.stored_ids(), ["a", "b"]);
    assert_eq!(intake.metrics.accepted(Channel::Sms, Priority::Normal).get(), 2);
    assert_eq!(intake.metrics.refused(Refusal::Invalid).get(), 2);

    let (status, _) = intake.send_array("", &json!([event("c")])).await;
    assert_eq!(status, StatusCode::CREATED);
    let (status, _) = intake.send_array("", &json!([{}])).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "none was taken");
}

#[tokio::test]
async fn atomic_takes_all_or_nothing() {
    let intake = Fixture::new(Scripted::default(), |_| {});
    let mut bad = event("b");
    bad["payload"] = json!({});
    let (status, problem) = intake.send_array("?atomic=true", &json!([event("a"), bad])).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    let field = problem["errors"][0]["field"].as_str().unwrap();
    assert!(field.starts_with("[1].payload."), "{problem}");
    assert_eq!(intake.stored(), 0);

    let body = lines(&[event("a"), event("b")]);
    let headers = [("content-type", LINES)];
    let (status, _) = intake.send("/events?atomic=true", &headers, body).await;
    assert_eq!(status, StatusCode::CREATED);
    assert_eq!(intake.stored_ids(), ["a", "b"]);
}

#[tokio::test]
async fn a_stream_of_lines_is_taken_whole_in_order() {
    let intake = Fixture::new(Scripted::default(), |settings| settings.event_bytes_max = 2_048);
    let mut body = String::new();
    for index in 0..5_000 {
        match index {
            1_234 => body.push_str("{broken\n"),
            2_345 => body.push_str(&format!("{{\"metadata\":\"{}\"}}\n\n", "x".repeat(5_000))),
            _ => body.push_str(&format!("{}\r\n", event(&format!("e{index}")))),
        }
    }
    let (items, sum) = intake.send_lines("", "identity", body.clone()).await;
    assert_eq!(sum["accepted"], 4_998);
    assert_eq!(sum["refused"], 2);
    assert_eq!(sum["isComplete"], true);
    assert_eq!(items.len(), 5_000);
    for (index, item) in items.iter().enumerate() {
        assert_eq!(item["index"], index);
        let code = match index {
            1_234 => 400,
            2_345 => 413,
            _ => 201,
        };
        assert_eq!(item["code"], code, "{item}");
    }
    assert_eq!(intake.stored(), 4_998);

    let (items, sum) = intake.send_lines("?answers=refused", "identity", body).await;
    assert_eq!(codes(&items), [400, 413]);
    assert_eq!(sum["accepted"], 4_998);
}

#[tokio::test]
async fn compressed_streams_are_read() {
    let body = lines(&[event("a"), event("b")]);
    let mut gzip = GzipEncoder::new(Vec::new());
    gzip.write_all(body.as_bytes()).await.unwrap();
    gzip.shutdown().await.unwrap();
    let mut zstd = ZstdEncoder::new(Vec::new());
    zstd.write_all(body.as_bytes()).await.unwrap();
    zstd.shutdown().await.unwrap();
    for (coding, body) in [("gzip", gzip.into_inner()), ("zstd", zstd.into_inner())] {
        let intake = Fixture::new(Scripted::default(), |_| {});
        let (items, _) = intake.send_lines("", coding, body.clone()).await;
        assert_eq!(codes(&items), [201, 201], "{coding}");

        let broken = body[..body.len() - 9].to_vec();
        let (_, sum) = intake.send_lines("", coding, broken).await;
        assert_eq!(sum["isComplete"], false, "{coding}");
        assert!(sum["detail"].is_string(), "{coding}");
    }
}

#[tokio::test]
async fn what_decompresses_to_too_much_is_refused_without_being_held() {
    let mut bomb = GzipEncoder::new(Vec::new());
    for _ in 0..64 {
        bomb.write_all(&vec![b' '; 1 << 20]).await.unwrap();
    }
    bomb.shutdown().await.unwrap();
    let bomb = bomb.into_inner();
    let intake = Fixture::new(Scripted::default(), |_| {});
    let headers = [("content-type", "application/json"), ("content-encoding", "gzip")];
    let (status, _) = intake.send("/events", &headers, bomb.clone()).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    let (items, _) = intake.send_lines("", "gzip", bomb).await;
    assert_eq!(codes(&items), [413], "one line that does not end");
}

#[tokio::test]
async fn an_event_is_durable_and_answered_while_the_stream_goes_on() {
    let intake = Fixture::new(Scripted::default(), |_| {});
    let (pieces, receiver) = mpsc::channel::<Result<String, Infallible>>(1);
    let request = Request::post("/events")
        .header("content-type", LINES)
        .body(body_of(receiver))
        .unwrap();
    let mut body = intake.router.clone().oneshot(request).await.unwrap().into_body();
    for id in ["a", "b"] {
        pieces.send(Ok(lines(&[event(id)]))).await.unwrap();
        let frame = body.frame().await.unwrap().unwrap();
        let item = &parse(frame.data_ref().unwrap())[0];
        assert_eq!(item["eventId"], id);
        assert_eq!(intake.stored_ids().last().unwrap(), id);
    }
    drop(pieces);
    let rest = body.collect().await.unwrap().to_bytes();
    assert_eq!(parse(&rest)[0]["accepted"], 2);
}

#[tokio::test]
async fn when_the_broker_does_not_confirm_the_stream_ends_and_says_where() {
    let intake = Fixture::new(Scripted::default(), |_| {});
    *intake.broker.fails.lock().unwrap() = Some(AppendError::Unconfirmed {
        reason: "away".into(),
    });
    let events: Vec<_> = (0..20_000).map(|index| event(&format!("e{index}"))).collect();
    let (items, sum) = intake.send_lines("", "identity", lines(&events)).await;
    assert_eq!(sum["isComplete"], false);
    assert_eq!(sum["accepted"], 0);
    assert!(items.len() < events.len(), "{} were tried", items.len());
    assert!(
        items
            .iter()
            .all(|item| item["code"] == 503 && item["eventId"].is_string())
    );
    let (status, answer) = intake.send_array("", &json!([event("a")])).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{answer}");
}

#[tokio::test]
async fn a_full_broker_slows_a_stream_down_and_refuses_nothing() {
    let intake = Arc::new(Fixture::new(Scripted::default(), |_| {}));
    *intake.broker.fails.lock().unwrap() = Some(AppendError::Full);
    let running = tokio::spawn({
        let intake = Arc::clone(&intake);
        async move { intake.send_lines("", "identity", lines(&[event("a")])).await }
    });
    while intake.broker.tried.load(Ordering::SeqCst) < 2 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    *intake.broker.fails.lock().unwrap() = None;
    let (items, _) = running.await.unwrap();
    assert_eq!(codes(&items), [201]);
}

#[tokio::test]
async fn answers_that_nobody_reads_hold_the_stream_and_not_memory() {
    let intake = Fixture::new(Scripted::default(), |settings| {
        settings.bulk_answers_bytes_max = 1 << 20;
    });
    let piece = Bytes::from(format!("{}\n", sms()).repeat(1_000));
    let (pieces, receiver) = mpsc::channel::<Result<Bytes, Infallible>>(1);
    let request = Request::post("/events")
        .header("content-type", LINES)
        .body(body_of(receiver))
        .unwrap();
    let mut body = intake.router.clone().oneshot(request).await.unwrap().into_body();
    let sender = tokio::spawn(async move {
        for _ in 0..100 {
            pieces.send(Ok(piece.clone())).await.unwrap();
        }
    });
    // Somewhere on the way it stands still.
    let mut before = usize::MAX;
    while before != intake.stored() {
        before = intake.stored();
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(before < 50_000, "{before} were taken in while nobody read");
    assert!(!sender.is_finished());
    let mut bytes = 0;
    while let Some(frame) = body.frame().await {
        bytes += frame.unwrap().into_data().unwrap().len();
    }
    assert!(bytes > 100_000 * 50);
    assert_eq!(intake.stored(), 100_000);
}

#[tokio::test]
async fn when_the_client_goes_nothing_more_is_taken_and_its_place_is_free() {
    let intake = Fixture::new(Scripted::default(), |settings| settings.bulk_requests_max = 1);
    let (pieces, receiver) = mpsc::channel::<Result<String, Infallible>>(1);
    let request = Request::post("/events")
        .header("content-type", LINES)
        .body(body_of(receiver))
        .unwrap();
    let response = intake.router.clone().oneshot(request).await.unwrap();
    pieces.send(Ok(lines(&[event("a")]))).await.unwrap();
    let (status, _) = intake.send_array("", &json!([event("x")])).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "the one place is taken");
    drop(response);
    drop(pieces);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while intake.send_array("", &json!([event("y")])).await.0 != StatusCode::CREATED {
        assert!(tokio::time::Instant::now() < deadline, "the place is still taken");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(!intake.stored_ids().contains(&"x".to_owned()));
}

#[tokio::test]
async fn bad_requests_say_what_would_be_taken() {
    let intake = Fixture::new(Scripted::default(), |settings| {
        settings.bulk_items_max = 3;
        settings.bulk_lines_max = 4;
    });
    let many = json!([event("a"), event("b"), event("c"), event("d")]);
    for (path, content_type, coding, body, expected) in [
        ("/events", "text/csv", "identity", "a,b".to_owned(), 415),
        ("/events", "application/json", "br", "[]".to_owned(), 415),
        ("/events", "application/json", "identity", "[]".to_owned(), 400),
        ("/events", "application/json", "identity", "{}".to_owned(), 400),
        ("/events", "application/json", "identity", "[{}".to_owned(), 400),
        (
            "/events",
            "application/json",
            "identity",
            "[".repeat(1_000_000),
            400,
        ),
        ("/events", "application/json", "identity", many.to_string(), 400),
        (
            "/events?atomic=maybe",
            "application/json",
            "identity",
            "[]".to_owned(),
            400,
        ),
        ("/events?answers=few", LINES, "identity", String::new(), 400),
        ("/events?unheardOf=1", LINES, "identity", String::new(), 400),
        (
            "/events",
            "application/json",
            "identity",
            format!("[{}]", " ".repeat(20 << 20)),
            413,
        ),
    ] {
        let headers = [("content-type", content_type), ("content-encoding", coding)];
        let (status, body) = intake.send(path, &headers, body).await;
        assert_eq!(
            status.as_u16(),
            expected,
            "{path} {content_type} {coding}: {body:?}"
        );
        let problem: Json = serde_json::from_slice(&body).unwrap();
        assert!(!problem["detail"].as_str().unwrap().is_empty());
    }
    assert_eq!(intake.stored(), 0);
    let (items, sum) = intake
        .send_lines("", "identity", lines(&vec![event("a"); 9]))
        .await;
    assert_eq!(codes(&items), [201; 4]);
    assert!(sum["detail"].as_str().unwrap().contains("more than 4"), "{sum}");
    let (items, sum) = intake.send_lines("", "identity", "\n\n  \n").await;
    assert_eq!((items.len(), &sum["accepted"]), (0, &json!(0)));
}

#[tokio::test]
async fn streams_wait_for_a_broker_that_holds_them() {
    let go_on = Arc::new(Notify::new());
    let broker = Scripted {
        holds: Some(Arc::clone(&go_on)),
        ..Scripted::default()
    };
    let intake = Arc::new(Fixture::new(broker, |_| {}));
    let events: Vec<_> = (0..10_000).map(|index| event(&format!("e{index}"))).collect();
    let running = tokio::spawn({
        let intake = Arc::clone(&intake);
        async move {
            intake
                .send_lines("?answers=refused", "identity", lines(&events))
                .await
        }
    });
    while !running.is_finished() {
        assert!(
            intake.broker.waiting.load(Ordering::SeqCst) <= intake.stored() / 1_000 + 1,
            "one batch at a time"
        );
        go_on.notify_one();
        tokio::task::yield_now().await;
    }
    let (_, sum) = running.await.unwrap();
    assert_eq!(sum["accepted"], 10_000);
    assert_eq!(intake.stored_ids()[9_999], "e9999");
}
