//! A real server on a free port, driven by bytes on a connection.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::Request,
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::{Notify, watch},
    task::JoinHandle,
    time::timeout,
};

use super::*;
use crate::{DEFAULTS, Health, Settings, Shutdown};

const PATIENCE: Duration = Duration::from_secs(20);

struct Server {
    address: SocketAddr,
    routers: watch::Sender<Router>,
    shutdown: Shutdown,
    task: JoinHandle<()>,
}

async fn start(routes: Router, health: Health, change: impl FnOnce(&mut Settings)) -> Server {
    let table: toml::Table = toml::from_str(DEFAULTS).unwrap();
    let mut settings: Settings = table["service"].clone().try_into().unwrap();
    change(&mut settings);
    let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = Shutdown::new();
    let router = assemble(routes, health, "here-1".into(), &settings, None);
    let token = shutdown.clone();
    let (routers, watched) = watch::channel(router);
    let task = tokio::spawn(async move { serve(listener, watched, &settings, token).await });
    Server {
        address,
        routers,
        shutdown,
        task,
    }
}

/// Sends `request` as it is and returns all that comes back until the server closes.
async fn exchange(server: &Server, request: &str) -> String {
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut answer))
        .await
        .unwrap()
        .unwrap();
    String::from_utf8(answer).unwrap()
}

async fn ask(server: &Server, method_and_path: &str, headers: &str) -> String {
    exchange(
        server,
        &format!("{method_and_path} HTTP/1.1\r\nhost: h\r\nconnection: close\r\n{headers}\r\n"),
    )
    .await
}

async fn echo(request: Request) -> Response {
    let (parts, body) = request.into_parts();
    match read_body(&parts.headers, body, 10).await {
        Ok(body) => body.into_response(),
        Err(problem) => problem.into_response(),
    }
}

#[tokio::test]
async fn what_is_not_there_is_a_problem_document() {
    let routes = Router::new().route("/one", get(|| async { "1" })).route(
        "/panic",
        get(|| async {
            if std::env::args().count() < 1_000_000 {
                panic!("on purpose")
            }
        }),
    );
    let server = start(routes, Health::default(), |_| {}).await;
    for (line, status) in [("GET /two", "404"), ("POST /one", "405"), ("GET /panic", "500")] {
        let answer = ask(&server, line, "").await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{line}: {answer}"
        );
        assert!(
            answer.contains("content-type: application/problem+json"),
            "{line}: {answer}"
        );
        assert!(answer.contains("x-correlation-id: "), "{line}: {answer}");
    }
    assert!(
        ask(&server, "POST /one", "").await.contains("allow: GET"),
        "405 names what is possible"
    );
    assert!(
        ask(&server, "GET /one", "").await.ends_with("\r\n\r\n1"),
        "a panic leaves the rest running"
    );
}

#[tokio::test]
async fn ready_names_what_is_missing() {
    let health = Health::default();
    let (is_up, watched) = {
        let flag = Arc::new(std::sync::atomic::AtomicBool::new(false));
        (Arc::clone(&flag), flag)
    };
    health.check("broker", move || {
        if watched.load(std::sync::atomic::Ordering::SeqCst) {
            Ok(())
        } else {
            Err("no connection to 127.0.0.1:9092".into())
        }
    });
    health.check_lesser("store", || Err("no MongoDB".into()));
    let server = start(Router::new(), health, |_| {}).await;
    let answer = ask(&server, "GET /ready", "").await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(
        answer.contains(r#"{"name":"broker","reason":"no connection to 127.0.0.1:9092"}"#),
        "{answer}"
    );
    assert!(
        ask(&server, "GET /health", "")
            .await
            .contains(r#""instance":"here-1""#)
    );
    is_up.store(true, std::sync::atomic::Ordering::SeqCst);
    let answer = ask(&server, "GET /ready", "").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(
        answer.contains(r#""missing":[{"name":"store","reason":"no MongoDB"}]"#),
        "{answer}"
    );
}

#[tokio::test]
async fn a_service_that_starts_says_so_and_then_works() {
    let server = start(Router::new(), Health::default(), |_| {}).await;
    let table: toml::Table = toml::from_str(DEFAULTS).unwrap();
    let settings: Settings = table["service"].clone().try_into().unwrap();
    let health = Health::default();
    server
        .routers
        .send(starting(
            Router::new(),
            health.clone(),
            "here-1".into(),
            &settings,
            None,
        ))
        .unwrap();
    for line in ["POST /event", "GET /"] {
        let answer = ask(&server, line, "").await;
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        assert!(answer.contains("retry-after: 1"), "{answer}");
    }
    assert!(ask(&server, "GET /health", "").await.starts_with("HTTP/1.1 200"));
    // No check has failed, but nothing works yet; and who asks again must not stay on this connection.
    let answer = ask(&server, "GET /ready", "").await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(answer.contains("connection: close"), "{answer}");
    let routes = Router::new().route("/event", post(|| async { "taken" }));
    server
        .routers
        .send(assemble(routes, health, "here-1".into(), &settings, None))
        .unwrap();
    assert!(ask(&server, "POST /event", "").await.ends_with("taken"));
    assert!(ask(&server, "GET /ready", "").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_correlation_id_is_kept_made_or_refused() {
    let server = start(Router::new(), Health::default(), |_| {}).await;
    let kept = ask(&server, "GET /health", "x-correlation-id: abc-1\r\n").await;
    assert!(kept.contains("x-correlation-id: abc-1\r\n"), "{kept}");
    for wrong in ["a b", &"x".repeat(129), ""] {
        let answer = ask(&server, "GET /health", &format!("x-correlation-id: {wrong}\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{wrong}: {answer}");
        assert!(answer.contains("x-correlation-id: "), "{wrong}: {answer}");
    }
}

#[tokio::test]
async fn who_leaves_a_body_unread_says_that_the_connection_closes() {
    let server = start(Router::new().route("/", post(echo)), Health::default(), |_| {}).await;
    let head = "POST / HTTP/1.1\r\nhost: h\r\n";
    for rest in [
        "content-length: 1000000\r\n\r\nx",
        "transfer-encoding: chunked\r\n\r\n20\r\n",
    ] {
        let filler = "x".repeat(40);
        let answer = exchange(&server, &format!("{head}{rest}{filler}")).await;
        assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
        assert!(answer.contains("connection: close"), "{answer}");
    }
}

#[tokio::test]
async fn bodies_are_bounded_in_size_and_time() {
    let server = start(
        Router::new().route("/", post(echo)),
        Health::default(),
        |settings| {
            settings.body_timeout_ms = 100;
        },
    )
    .await;
    let head = "POST / HTTP/1.1\r\nhost: h\r\nconnection: close\r\n";
    for (rest, expected) in [
        ("content-length: 10\r\n\r\n0123456789", "200"),
        ("content-length: 11\r\n\r\n", "413"),
        (
            "transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n",
            "200",
        ),
        (
            "transfer-encoding: chunked\r\n\r\n6\r\nabcdef\r\n6\r\nabcdef\r\n",
            "413",
        ),
        ("content-length: 5\r\n\r\nabc", "408"),
    ] {
        let answer = exchange(&server, &format!("{head}{rest}")).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {expected}")),
            "{rest}: {answer}"
        );
    }
}

#[tokio::test]
async fn a_client_that_never_finishes_its_head_is_let_go() {
    let server = start(Router::new(), Health::default(), |settings| {
        settings.header_timeout_ms = 100;
    })
    .await;
    exchange(&server, "GET / HTTP/1.1\r\nhost:").await;
    let answer = exchange(
        &server,
        &format!("GET / HTTP/1.1\r\nlong: {}\r\n\r\n", "x".repeat(40_000)),
    )
    .await;
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 431"),
        "{answer}"
    );
}

#[tokio::test]
async fn a_client_that_never_reads_its_answer_is_let_go() {
    let routes = Router::new().route("/large", get(|| async { vec![b'x'; 64 << 20] }));
    let server = start(routes, Health::default(), |settings| {
        settings.body_timeout_ms = 100;
        settings.connections_max = 1;
    })
    .await;
    let mut deaf = TcpStream::connect(server.address).await.unwrap();
    deaf.write_all(b"GET /large HTTP/1.1\r\nhost: h\r\n\r\n")
        .await
        .unwrap();
    // There is one place: this one is served when the other has lost it.
    let answer = ask(&server, "GET /health", "").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    drop(deaf);
}

#[tokio::test]
async fn requests_under_way_finish_when_stopping() {
    let started = Arc::new(Notify::new());
    let go_on = Arc::new(Notify::new());
    let routes = {
        let (started, go_on) = (Arc::clone(&started), Arc::clone(&go_on));
        Router::new().route(
            "/slow",
            get(move || async move {
                started.notify_one();
                go_on.notified().await;
                "done"
            }),
        )
    };
    let server = start(routes, Health::default(), |_| {}).await;
    let address = server.address;
    let request = tokio::spawn(async move {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream
            .write_all(b"GET /slow HTTP/1.1\r\nhost: h\r\n\r\n")
            .await
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    });
    timeout(PATIENCE, started.notified()).await.unwrap();
    server.shutdown.cancel();
    go_on.notify_one();
    let answer = timeout(PATIENCE, request).await.unwrap().unwrap();
    assert!(answer.ends_with("done"), "{answer}");
    timeout(PATIENCE, server.task).await.unwrap().unwrap();
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn a_port_that_is_taken_is_said_in_words() {
    let server = start(Router::new(), Health::default(), |_| {}).await;
    let error = bind(server.address).await.unwrap_err();
    assert!(error.contains("another process listens there"), "{error}");
}
