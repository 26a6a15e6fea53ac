//! The engine against servers that behave badly: what is known decides the kind of the failure.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use posthaste_event::{Channel, ErrorKind, Failure, payload::Payload};
use serde_json::{Value as Json, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Mutex,
};

use super::{Inboxes, settings_with};
use crate::{Message, Receipt, Registry, build::sample_message, fields};

/// A server that answers each request with the same bytes, however wrong, and then does as it is told.
struct Server {
    address: String,
    requests: Arc<Mutex<Vec<String>>>,
    connections: Arc<AtomicUsize>,
}

#[derive(Clone, Copy)]
enum Then {
    Close,
    Stay,
    /// Sends the bytes again and again.
    Flood,
}

impl Server {
    async fn start(answer: &'static str, then: Then) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self {
            address: listener.local_addr().unwrap().to_string(),
            requests: Arc::default(),
            connections: Arc::default(),
        };
        let (requests, connections) = (server.requests.clone(), server.connections.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                connections.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(serve(stream, answer, then, requests.clone()));
            }
        });
        server
    }
}

async fn serve(mut stream: TcpStream, answer: &'static str, then: Then, requests: Arc<Mutex<Vec<String>>>) {
    let mut text = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(read) => text.extend_from_slice(&buffer[..read]),
        }
        let found = String::from_utf8_lossy(&text).into_owned();
        let Some((head, body)) = found.split_once("\r\n\r\n") else {
            continue;
        };
        let length = head
            .lines()
            .find_map(|line| {
                line.to_lowercase()
                    .strip_prefix("content-length: ")?
                    .parse::<usize>()
                    .ok()
            })
            .unwrap_or(0);
        if body.len() < length {
            continue;
        }
        requests.lock().await.push(found);
        text.clear();
        let _ = stream.write_all(answer.as_bytes()).await;
        match then {
            Then::Close => return,
            Then::Stay => {}
            Then::Flood => while stream.write_all(&[b'x'; 4096]).await.is_ok() {},
        }
    }
}

fn registry(changes: &str) -> Registry {
    let common = "[provider]\nconnect_timeout_ms = 300\n";
    let settings = settings_with(&format!("{common}{changes}"));
    Registry::load(
        &settings,
        Some("http://127.0.0.1:9"),
        Arc::new(Inboxes::default()),
    )
    .unwrap()
}

/// Sends an SMS through an account of twilio at this address.
async fn send_to(base_url: &str) -> Result<Receipt, Failure> {
    let registry = registry(&format!(
        "[providers.twilio]\nbase_url = {base_url:?}\naccount_sid = \"AC1\"\nauth_token = \"hush-hush-token\"\n\
         from = \"+12025550100\"\ntimeout_ms = 1000\n"
    ));
    let [_, bare] = fields::samples(Channel::Sms);
    registry
        .account("twilio")
        .unwrap()
        .provider
        .send(&sample_message(Channel::Sms, bare, 0))
        .await
}

async fn fails(base_url: &str, kind: ErrorKind, code: &str) -> Failure {
    let failure = send_to(base_url).await.unwrap_err();
    assert_eq!(
        (failure.kind, failure.code.as_deref()),
        (kind, Some(code)),
        "{failure:?}"
    );
    assert!(!failure.message.contains("hush"), "{failure:?}");
    failure
}

#[tokio::test]
async fn before_the_request_left_nothing_was_sent() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let free = listener.local_addr().unwrap();
    drop(listener);
    let failure = fails(&format!("http://{free}"), ErrorKind::Rejected, "connect").await;
    assert!(failure.message.contains("refused"), "{}", failure.message);

    // A server that does not speak TLS.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let plain = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    fails(&format!("https://{plain}"), ErrorKind::Rejected, "connect").await;

    let failure = send_to("http://nowhere.invalid").await.unwrap_err();
    assert_eq!(failure.kind, ErrorKind::Rejected, "{failure:?}");
}

#[tokio::test]
async fn a_connection_that_is_never_made_is_given_up_in_time() {
    // A full backlog: the kernel does not answer further connections.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut held = Vec::new();
    for _ in 0..8 {
        let connecting = TcpStream::connect(address);
        if let Ok(Ok(stream)) = tokio::time::timeout(Duration::from_millis(100), connecting).await {
            held.push(stream);
        }
    }
    fails(
        &format!("http://{address}"),
        ErrorKind::Rejected,
        "connect_timeout",
    )
    .await;
}

#[tokio::test]
async fn after_the_request_left_it_may_have_been_sent() {
    for (answer, then, code) in [
        ("", Then::Stay, "timeout"),
        ("", Then::Close, "connection_lost"),
        ("HTTP/1.1 201 Crea", Then::Close, "connection_lost"),
        ("\u{1}\u{2}nonsense\r\n\r\n", Then::Close, "connection_lost"),
        (
            "HTTP/1.1 201 Created\r\ncontent-length: 50\r\n\r\n{\"sid\": ",
            Then::Close,
            "answer_cut_off",
        ),
        (
            "HTTP/1.1 201 Created\r\ncontent-length: 50\r\n\r\n{\"sid\": ",
            Then::Stay,
            "timeout",
        ),
        (
            "HTTP/1.1 201 Created\r\ncontent-length: 5\r\n\r\nhello",
            Then::Close,
            "201",
        ),
        (
            "HTTP/1.1 201 Created\r\ncontent-length: 2\r\n\r\n\u{fffd}",
            Then::Close,
            "201",
        ),
        ("HTTP/1.1 201 Created\r\n\r\n{\"sid\": \"", Then::Flood, "201"),
    ] {
        let server = Server::start(answer, then).await;
        fails(&format!("http://{}", server.address), ErrorKind::Ambiguous, code).await;
        assert_eq!(server.requests.lock().await.len(), 1, "{answer}");
    }
}

#[tokio::test]
async fn a_refusal_that_breaks_off_is_a_refusal() {
    let server = Server::start(
        "HTTP/1.1 429 x\r\nretry-after: 2\r\ncontent-length: 50\r\n\r\n{",
        Then::Close,
    )
    .await;
    let failure = fails(
        &format!("http://{}", server.address),
        ErrorKind::RateLimited,
        "429",
    )
    .await;
    assert_eq!(failure.retry_after_ms, Some(2_000));
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let target = Server::start(
        "HTTP/1.1 201 Created\r\ncontent-length: 13\r\n\r\n{\"sid\":\"SM1\"}",
        Then::Close,
    )
    .await;
    let location: &'static str = format!(
        "HTTP/1.1 307 x\r\nlocation: http://{}/\r\ncontent-length: 0\r\n\r\n",
        target.address
    )
    .leak();
    let server = Server::start(location, Then::Close).await;
    fails(&format!("http://{}", server.address), ErrorKind::Rejected, "307").await;
    assert_eq!(target.connections.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_secret_that_a_provider_repeats_is_taken_out() {
    let body = r#"{"code":20003,"message":"bad token hush-hush-token\u0000\nline two"}"#;
    let answer: &'static str =
        format!("HTTP/1.1 401 x\r\ncontent-length: {}\r\n\r\n{body}", body.len()).leak();
    let server = Server::start(answer, Then::Close).await;
    let failure = fails(
        &format!("http://{}", server.address),
        ErrorKind::Rejected,
        "20003",
    )
    .await;
    assert_eq!(failure.message, "bad token *** line two");
}

#[tokio::test]
async fn connections_are_used_again() {
    let server = Server::start(
        "HTTP/1.1 201 Created\r\ncontent-length: 13\r\n\r\n{\"sid\":\"SM1\"}",
        Then::Stay,
    )
    .await;
    let registry = registry(&format!(
        "[providers.twilio]\nbase_url = \"http://{}\"\n",
        server.address
    ));
    let provider = registry.account("twilio").unwrap().provider.clone();
    for _ in 0..5 {
        let [_, bare] = fields::samples(Channel::Sms);
        let receipt = provider
            .send(&sample_message(Channel::Sms, bare, 0))
            .await
            .unwrap();
        assert_eq!(receipt.message_id.as_deref(), Some("SM1"));
    }
    assert_eq!(server.connections.load(Ordering::SeqCst), 1);
}

const SECRET: &str = "[providers.webhook]\nsecret = \"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\"\n";

fn webhook(url: &str, headers: Json) -> Message {
    let payload = json!({"url": url, "body": {"order": 1}, "headers": headers});
    let payload = Payload::Webhook(serde_json::from_value(payload).unwrap());
    sample_message(Channel::Webhook, payload, 0)
}

#[tokio::test]
async fn a_webhook_cannot_reach_the_inside() {
    let server = Server::start("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", Then::Close).await;
    let (_, port) = server.address.split_once(':').unwrap();
    let registry = registry(SECRET);
    let provider = registry.account("webhook").unwrap().provider.clone();
    for host in [
        "127.0.0.1",
        "localhost",
        "127.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "0x7f.1",
        "0",
    ] {
        let failure = provider
            .send(&webhook(&format!("http://{host}:{port}/"), json!({})))
            .await
            .unwrap_err();
        assert_eq!(failure.kind, ErrorKind::Permanent, "{host}: {failure:?}");
        assert_eq!(
            failure.code.as_deref(),
            Some("address_not_public"),
            "{host}: {failure:?}"
        );
    }
    assert_eq!(server.connections.load(Ordering::SeqCst), 0);
    for (url, headers) in [
        ("ftp://example.com/", json!({})),
        ("http://", json!({})),
        ("https://example.com/", json!({"Host": "x"})),
        ("https://example.com/", json!({"Webhook-Id": "x"})),
        ("https://example.com/", json!({"a b": "x"})),
        ("https://example.com/", json!({"x": "a\r\nb: c"})),
    ] {
        let failure = provider.send(&webhook(url, headers)).await.unwrap_err();
        assert_eq!(
            (failure.kind, failure.code.as_deref()),
            (ErrorKind::Permanent, Some("request")),
            "{url}"
        );
    }
}

#[tokio::test]
async fn an_allowed_webhook_is_signed_and_a_repetition_has_the_same_id() {
    let server = Server::start("HTTP/1.1 204 No Content\r\n\r\n", Then::Stay).await;
    let registry = registry(&format!(
        "allowed_cidrs = [\"127.0.0.0/8\", \"::1/128\"]\n{SECRET}"
    ));
    let provider = registry.account("webhook").unwrap().provider.clone();
    let (_, port) = server.address.split_once(':').unwrap();
    for host in ["127.0.0.1", "localhost"] {
        let message = webhook(&format!("http://{host}:{port}/hook?a=b"), json!({"x-order": "7"}));
        provider.send(&message).await.unwrap();
    }
    let requests = server.requests.lock().await;
    assert_eq!(requests.len(), 2);
    let header = |request: &str, name: &str| {
        let prefix = format!("{name}: ");
        let line = request.lines().find_map(|line| line.strip_prefix(&prefix));
        line.unwrap_or_else(|| panic!("no {name} in {request}"))
            .to_owned()
    };
    for request in requests.iter() {
        assert!(request.starts_with("POST /hook?a=b HTTP/1.1\r\n"), "{request}");
        assert!(request.ends_with("\r\n\r\n{\"order\":1}"), "{request}");
        assert_eq!(header(request, "x-order"), "7");
        assert_eq!(header(request, "content-type"), "application/json");
        let id = header(request, "webhook-id");
        assert_eq!(id, "01890000-0000-7000-8000-000000000000:webhook:0");
        let timestamp = header(request, "webhook-timestamp").parse().unwrap();
        let signer = crate::signing::Signer::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        assert_eq!(
            header(request, "webhook-signature"),
            signer.sign(&id, timestamp, b"{\"order\":1}")
        );
    }
}

#[tokio::test]
async fn a_message_for_this_system_is_in_its_inbox() {
    let store = Arc::new(Inboxes::default());
    let registry = Registry::load(&settings_with(""), Some("http://127.0.0.1:9"), store.clone()).unwrap();
    let provider = registry.default_for(Channel::InApp).unwrap().provider.clone();
    let [full, _] = fields::samples(Channel::InApp);
    let message = sample_message(Channel::InApp, full, 0);
    let receipt = provider.send(&message).await.unwrap();
    assert_eq!(receipt.message_id.as_deref(), Some(message.event_id.as_str()));
    assert_eq!(store.messages.lock().await[0].recipient, "user");

    let away = Arc::new(Inboxes {
        away: true,
        ..Inboxes::default()
    });
    let registry = Registry::load(&settings_with(""), Some("http://127.0.0.1:9"), away).unwrap();
    let failure = registry
        .account("in_app")
        .unwrap()
        .provider
        .send(&message)
        .await
        .unwrap_err();
    assert_eq!(failure.kind, ErrorKind::Rejected);
}
