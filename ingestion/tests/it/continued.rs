//! Clients that say `Expect: 100-continue` and send their body when they are told to, as curl does with a large one.

use std::{
    io::{Error, ErrorKind},
    time::Duration,
};

use axum::{
    body::{Body, to_bytes},
    http::{Request, StatusCode},
};
use futures_util::TryStreamExt as _;
use posthaste_service::{
    Shutdown,
    http::{bind, serve},
};
use serde_json::{Value as Json, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::watch,
    time::timeout,
};
use tower::ServiceExt as _;

use crate::world::{Fixture, Scripted, sms};

const PATIENCE: Duration = Duration::from_secs(20);
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// A connection to a server of this intake.
async fn connected(intake: &Fixture) -> TcpStream {
    let table: toml::Table = toml::from_str(posthaste_service::DEFAULTS).unwrap();
    let settings: posthaste_service::Settings = table["service"].clone().try_into().unwrap();
    let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (_, routers) = watch::channel(intake.router.clone());
    tokio::spawn(async move { serve(listener, routers, &settings, Shutdown::new()).await });
    TcpStream::connect(address).await.unwrap()
}

async fn read_whole(stream: &mut TcpStream) -> String {
    let mut answer = String::new();
    let read = stream.read_to_string(&mut answer);
    timeout(PATIENCE, read).await.unwrap().unwrap();
    answer
}

fn head(path: &str, kind: &str, bytes: usize) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nhost: h\r\nconnection: close\r\nexpect: 100-continue\r\n\
         content-type: {kind}\r\ncontent-length: {bytes}\r\n\r\n"
    )
}

#[tokio::test]
async fn a_client_that_waits_for_it_is_told_to_send_its_body() {
    let events = format!("{}\n{}\n", sms(), sms());
    let array = format!("[{}]", sms());
    let message = json!({"message": {"channel": "sms", "payload": {"message": "hello"}}});
    let recipient = json!({"payload": {"phoneNumber": "+12025550100"}});
    let recipients = format!("{recipient}\n");
    let broadcast = format!("{message}\n{recipient}\n");
    let lines = "application/x-ndjson";
    for (path, kind, body, status, says) in [
        ("/events", lines, &events, "200", r#""accepted":2"#),
        ("/events?atomic=true", lines, &events, "201", r#""accepted":2"#),
        ("/events", "application/json", &array, "201", r#""accepted":1"#),
        ("/event", "application/json", &sms(), "201", "Event Ingested"),
        ("/broadcasts", lines, &broadcast, "202", r#""recipients":1"#),
        ("/broadcasts", lines, &recipients, "400", "is missing"),
    ] {
        let intake = Fixture::new(Scripted::default(), |_| {});
        let mut stream = connected(&intake).await;
        let head = head(path, kind, body.len());
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut told = [0; CONTINUE.len()];
        timeout(PATIENCE, stream.read_exact(&mut told))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(told, CONTINUE, "{}", String::from_utf8_lossy(&told));
        stream.write_all(body.as_bytes()).await.unwrap();
        let answer = read_whole(&mut stream).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        assert!(answer.contains(says), "{answer}");
    }
}

#[tokio::test]
async fn what_is_refused_by_its_head_is_not_asked_for() {
    let intake = Fixture::new(Scripted::default(), |_| {});
    for (path, kind, status) in [
        ("/events", "text/csv", "415"),
        ("/events?atomic=perhaps", "application/x-ndjson", "400"),
        ("/events", "application/json", "413"),
        ("/event", "application/json", "413"),
        ("/broadcasts", "text/csv", "415"),
        ("/broadcasts", "application/json", "413"),
        ("/nowhere", "application/json", "404"),
    ] {
        let mut stream = connected(&intake).await;
        let head = head(path, kind, 1 << 30);
        stream.write_all(head.as_bytes()).await.unwrap();
        let answer = read_whole(&mut stream).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{path}: {answer}"
        );
        assert!(answer.contains("connection: close"), "{path}: {answer}");
    }
    assert_eq!(intake.stored(), 0);
}

#[tokio::test]
async fn who_was_told_to_send_and_does_not_is_let_go() {
    let intake = Fixture::new(Scripted::default(), |settings| settings.bulk_requests_max = 1);
    for _ in 0..2 {
        // So does it end when nothing comes for too long.
        let late = futures_util::stream::once(async { Err::<Vec<u8>, _>(ErrorKind::TimedOut) });
        let request = Request::post("/events")
            .header("content-type", "application/x-ndjson")
            .header("expect", "100-continue")
            .body(Body::from_stream(late.map_err(Error::from)))
            .unwrap();
        let response = intake.router.clone().oneshot(request).await.unwrap();
        assert_eq!(
            response.status(),
            StatusCode::OK,
            "the second has the first one's place"
        );
        let said = to_bytes(response.into_body(), 1 << 20).await.unwrap();
        let sum: Json = serde_json::from_slice(&said).unwrap();
        assert_eq!(
            (&sum["isComplete"], &sum["accepted"]),
            (&json!(false), &json!(0)),
            "{sum}"
        );
    }
}
