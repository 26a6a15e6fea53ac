//! Names whose owners answer what they like, and places that lead elsewhere: nobody is called who must not be.
//!
//! 127.0.0.2 stands for a place that may be called, 127.0.0.1 for one that must not be.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use posthaste_event::{Channel, ErrorKind, Failure, payload::Payload};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::{Inboxes, settings_with};
use crate::{Provider, Registry, build::sample_message, guard::Lookup};

/// Two listeners on one port: one that may be called, and one that must not be.
struct Places {
    port: u16,
    called: Arc<AtomicUsize>,
    broken_into: Arc<AtomicUsize>,
}

/// Answers a request for each connection, and counts connections.
async fn serve(listener: TcpListener, answer: String, connections: Arc<AtomicUsize>) {
    while let Ok((mut stream, _)) = listener.accept().await {
        connections.fetch_add(1, Ordering::SeqCst);
        let answer = answer.clone();
        tokio::spawn(async move {
            let mut buffer = [0; 4096];
            while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    break;
                }
            }
        });
    }
}

/// `answer` may say `PORT`, which is that of both.
async fn places(answer: &str) -> Places {
    let (permitted, forbidden) = loop {
        let permitted = TcpListener::bind("127.0.0.2:0").await.unwrap();
        let port = permitted.local_addr().unwrap().port();
        if let Ok(forbidden) = TcpListener::bind(("127.0.0.1", port)).await {
            break (permitted, forbidden);
        }
    };
    let places = Places {
        port: permitted.local_addr().unwrap().port(),
        called: Arc::default(),
        broken_into: Arc::default(),
    };
    let answer = answer.replace("PORT", &places.port.to_string());
    tokio::spawn(serve(permitted, answer.clone(), places.called.clone()));
    tokio::spawn(serve(forbidden, answer, places.broken_into.clone()));
    places
}

const OK: &str = "HTTP/1.1 204 No Content\r\n\r\n";
/// Each call needs a connection, and so a lookup, of its own.
const OK_AND_CLOSE: &str = "HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n";

/// The n-th lookup gets the n-th of these, and further ones the last.
fn answers(answers: &[&[&str]]) -> Lookup {
    let answers: Vec<Vec<SocketAddr>> = answers
        .iter()
        .map(|addresses| {
            addresses
                .iter()
                .map(|one| (one.parse::<IpAddr>().unwrap(), 0).into())
                .collect()
        })
        .collect();
    let asked = Mutex::new(0);
    Lookup::new(move |_| {
        let mut asked = asked.lock().unwrap();
        let answer = answers.get(*asked).or(answers.last());
        *asked += 1;
        answer.cloned().ok_or_else(|| io::Error::other("no such name"))
    })
}

fn provider(lookup: Lookup, changes: &str) -> Arc<dyn Provider> {
    let settings = settings_with(&format!(
        "[provider]\nconnect_timeout_ms = 2000\n{changes}\n\
         [providers.webhook]\nsecret = \"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\"\n"
    ));
    let registry = Registry::load_with(
        &settings,
        Some("http://127.0.0.1:9"),
        Arc::new(Inboxes::default()),
        lookup,
    );
    registry.unwrap().account("webhook").unwrap().provider.clone()
}

const PERMITTED: &str = "allowed_cidrs = [\"127.0.0.2/32\"]";

async fn call(provider: &Arc<dyn Provider>, url: &str) -> Result<(), Failure> {
    let payload = json!({"url": url, "body": {}, "headers": {}});
    let payload = Payload::Webhook(serde_json::from_value(payload).unwrap());
    let message = sample_message(Channel::Webhook, payload, 0);
    provider.send(&message).await.map(drop)
}

/// A failure that is final, with this code.
#[track_caller]
fn is_final(result: Result<(), Failure>, code: &str) {
    let failure = result.unwrap_err();
    let said = (failure.kind, failure.code.as_deref());
    assert_eq!(said, (ErrorKind::Permanent, Some(code)), "{failure:?}");
}

#[tokio::test]
async fn a_name_that_turns_inward_is_refused_at_the_next_connection() {
    for scheme in ["http", "https"] {
        let places = places(OK_AND_CLOSE).await;
        let lookup = answers(&[&["127.0.0.2"], &["127.0.0.1"], &["::ffff:127.0.0.1"], &["::1"]]);
        let provider = provider(lookup, PERMITTED);
        let url = format!("{scheme}://rebinding.example:{}/", places.port);
        // Over TLS the handshake fails with who does not speak it: that it was begun is enough.
        let first = call(&provider, &url).await;
        assert_eq!(first.is_ok(), scheme == "http", "{first:?}");
        let called = places.called.load(Ordering::SeqCst);
        assert!(called > 0);
        for _ in 0..4 {
            is_final(call(&provider, &url).await, "address_not_public");
        }
        assert_eq!(places.called.load(Ordering::SeqCst), called);
        assert_eq!(places.broken_into.load(Ordering::SeqCst), 0);
    }
}

#[tokio::test]
async fn a_kept_connection_goes_where_it_was_checked() {
    let places = places(OK).await;
    let provider = provider(answers(&[&["127.0.0.2"], &["127.0.0.1"]]), PERMITTED);
    let url = format!("http://rebinding.example:{}/", places.port);
    for _ in 0..3 {
        call(&provider, &url).await.unwrap();
    }
    assert_eq!(places.called.load(Ordering::SeqCst), 1);
    assert_eq!(places.broken_into.load(Ordering::SeqCst), 0);
    // Another name for the same place has connections, and so checks, of its own.
    is_final(
        call(&provider, &format!("http://other.example:{}/", places.port)).await,
        "address_not_public",
    );
}

#[tokio::test]
async fn of_several_addresses_only_permitted_ones_are_called() {
    for scheme in ["http", "https"] {
        let places = places(OK).await;
        let mixed = [
            "127.0.0.1",
            "::1",
            "::ffff:127.0.0.1",
            "fe80::1",
            "127.0.0.2",
            "0.0.0.0",
        ];
        let provider = provider(answers(&[&mixed]), PERMITTED);
        let url = format!("{scheme}://both.example:{}/", places.port);
        for _ in 0..3 {
            assert_eq!(call(&provider, &url).await.is_ok(), scheme == "http");
        }
        assert!(places.called.load(Ordering::SeqCst) > 0);
        assert_eq!(places.broken_into.load(Ordering::SeqCst), 0);
    }
}

#[tokio::test]
async fn wrapped_addresses_lead_nowhere() {
    let places = places(OK).await;
    for address in [
        "::ffff:127.0.0.1",
        "::127.0.0.1",
        "64:ff9b::127.0.0.1",
        "64:ff9b:1::127.0.0.1",
        "2002:7f00:1::",
        "2001::1",
        "fe80::1",
        "0.0.0.0",
        "::",
    ] {
        for scheme in ["http", "https"] {
            let provider = provider(answers(&[&[address]]), PERMITTED);
            let url = format!("{scheme}://wrapped.example:{}/", places.port);
            is_final(call(&provider, &url).await, "address_not_public");
        }
    }
    assert_eq!(places.broken_into.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_redirect_inward_is_not_followed_and_says_so() {
    for status in [301, 302, 303, 307, 308] {
        let redirect = format!(
            "HTTP/1.1 {status} x\r\nlocation: http://127.0.0.1:PORT/\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
        );
        let places = places(&redirect).await;
        let provider = provider(answers(&[&["127.0.0.2"]]), PERMITTED);
        let failure = call(&provider, &format!("http://leading.example:{}/", places.port))
            .await
            .unwrap_err();
        assert_eq!(failure.kind, ErrorKind::Rejected, "{failure:?}");
        assert_eq!(failure.code, Some(status.to_string()));
        assert!(failure.message.contains("never followed"), "{}", failure.message);
        assert_eq!(places.called.load(Ordering::SeqCst), 1);
        assert_eq!(places.broken_into.load(Ordering::SeqCst), 0);
    }
}

#[tokio::test]
async fn names_of_this_machine_are_refused_by_the_systems_resolver_too() {
    let places = places(OK).await;
    let provider = provider(Lookup::default(), PERMITTED);
    for host in [
        "localhost",
        "LOCALHOST",
        "127.0.0.1.",
        "0x7f.1",
        "[::ffff:127.0.0.1]",
    ] {
        is_final(
            call(&provider, &format!("http://{host}:{}/", places.port)).await,
            "address_not_public",
        );
    }
    is_final(call(&provider, "http://127.0.0.2:25/").await, "port_not_allowed");
    let url = format!("http://user:password@127.0.0.2:{}/", places.port);
    is_final(call(&provider, &url).await, "address_with_user");
    assert_eq!(places.called.load(Ordering::SeqCst), 0);
    assert_eq!(places.broken_into.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_name_without_addresses_may_get_some() {
    let nothing: Vec<SocketAddr> = Vec::new();
    let empty = Lookup::new(move |_| Ok(nothing.clone()));
    let failing = Lookup::new(|_| Err(io::Error::other("no such name")));
    for lookup in [empty, failing] {
        for scheme in ["http", "https"] {
            let provider = provider(lookup.clone(), PERMITTED);
            let failure = call(&provider, &format!("{scheme}://nobody.example/"))
                .await
                .unwrap_err();
            assert_eq!(failure.kind, ErrorKind::Rejected, "{failure:?}");
        }
    }
}

#[tokio::test]
async fn a_proxy_is_taken_by_webhooks_only_if_that_is_wanted_and_gets_no_inside_addresses() {
    let places = places(OK).await;
    let proxy = format!("proxy = \"http://127.0.0.1:{}\"", places.port);
    let url = format!("http://receiver.example:{}/", places.port);

    let direct = provider(answers(&[&["127.0.0.2"]]), &format!("{PERMITTED}\n{proxy}"));
    call(&direct, &url).await.unwrap();
    assert_eq!(places.called.load(Ordering::SeqCst), 1);
    assert_eq!(places.broken_into.load(Ordering::SeqCst), 0);

    // Here the one that must not be called is the proxy, whose address the operator gave.
    let proxied = provider(answers(&[]), &format!("{proxy}\nproxy_webhooks = true"));
    call(&proxied, &url).await.unwrap();
    assert_eq!(places.broken_into.load(Ordering::SeqCst), 1);
    for host in ["127.0.0.2", "169.254.169.254", "[::1]", "2130706433"] {
        is_final(
            call(&proxied, &format!("http://{host}/")).await,
            "address_not_public",
        );
    }
    assert_eq!(places.broken_into.load(Ordering::SeqCst), 1);
}
