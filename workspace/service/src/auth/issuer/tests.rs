//! An issuer that rotates its keys, goes away and comes back.

use std::sync::atomic::{AtomicUsize, Ordering};

use axum::{Router, extract::State, http::StatusCode, routing::get};
use posthaste_event::clock;
use serde_json::json;

use super::*;
use crate::auth::forge::{Signer, claims, document, settings, with};

#[derive(Default)]
struct Published {
    document: Mutex<String>,
    fetches: AtomicUsize,
    is_away: std::sync::atomic::AtomicBool,
}

async fn serve(State(published): State<Arc<Published>>) -> Result<String, StatusCode> {
    published.fetches.fetch_add(1, Ordering::SeqCst);
    match published.is_away.load(Ordering::SeqCst) {
        true => Err(StatusCode::BAD_GATEWAY),
        false => Ok(lock(&published.document).clone()),
    }
}

/// An issuer, and what asks it without pauses.
async fn issuer(signers: &[&Signer]) -> (Arc<Published>, Arc<Issuer>) {
    let published = Arc::new(Published::default());
    publish(&published, signers);
    let routes = Router::new()
        .route("/certs", get(serve))
        .with_state(Arc::clone(&published));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/certs", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, routes).await });
    let issuer = Issuer {
        pause: Duration::ZERO,
        ..Issuer::new(&settings(&url)).unwrap()
    };
    (published, Arc::new(issuer))
}

fn publish(published: &Published, signers: &[&Signer]) {
    *lock(&published.document) = document(signers).to_string();
}

fn token(signer: &Signer) -> String {
    signer.sign(&claims(clock::now() / 1_000))
}

async fn is_good(issuer: &Arc<Issuer>, token: &str) -> bool {
    let known = match issuer.know(token, clock::now(), || true) {
        Known::AskIssuer => issuer.ask(token, clock::now()).await,
        known => Ok(known),
    };
    matches!(known, Ok(Known::Good(_)))
}

#[tokio::test]
async fn keys_are_fetched_once_and_again_when_they_change() {
    let (old, new) = (
        Signer::new("old", Algorithm::ES256),
        Signer::new("new", Algorithm::EdDSA),
    );
    let (published, issuer) = issuer(&[&old]).await;
    let first = token(&old);
    for _ in 0..10 {
        assert!(is_good(&issuer, &first).await);
    }
    assert_eq!(published.fetches.load(Ordering::SeqCst), 1);
    publish(&published, &[&old, &new]);
    assert!(is_good(&issuer, &token(&new)).await && is_good(&issuer, &first).await);
    assert_eq!(published.fetches.load(Ordering::SeqCst), 2);
    // What the issuer took back is good no more, though it was remembered.
    publish(&published, &[&new]);
    assert!(!is_good(&issuer, &token(&Signer::new("unknown", Algorithm::ES256))).await);
    assert!(!is_good(&issuer, &first).await && is_good(&issuer, &token(&new)).await);
}

#[tokio::test]
async fn invented_keys_do_not_make_us_ask_for_each() {
    let signer = Signer::new("k", Algorithm::ES256);
    let (published, issuer) = issuer(&[&signer]).await;
    let issuer = Arc::new(Issuer {
        pause: PAUSE,
        ..Arc::into_inner(issuer).unwrap()
    });
    assert!(is_good(&issuer, &token(&signer)).await);
    let stranger = Signer::new("x", Algorithm::ES256);
    let asking = (0..100).map(|number| {
        let header = json!({"alg": "ES256", "kid": format!("x-{number}")});
        let (issuer, token) = (
            Arc::clone(&issuer),
            stranger.sign_under(&header, &claims(clock::now() / 1_000)),
        );
        tokio::spawn(async move { is_good(&issuer, &token).await })
    });
    for asked in asking.collect::<Vec<_>>() {
        assert!(!asked.await.unwrap());
    }
    assert_eq!(published.fetches.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn with_the_issuer_away_known_keys_are_good_and_others_cannot_be_judged() {
    let (one, other) = (
        Signer::new("one", Algorithm::ES256),
        Signer::new("other", Algorithm::ES256),
    );
    let (published, issuer) = issuer(&[&one]).await;
    published.is_away.store(true, Ordering::SeqCst);
    assert!(issuer.ask(&token(&one), clock::now()).await.is_err());
    assert!(lock(&issuer.failure).as_ref().unwrap().contains("502"));
    published.is_away.store(false, Ordering::SeqCst);
    assert!(is_good(&issuer, &token(&one)).await);
    assert!(lock(&issuer.failure).is_none());
    published.is_away.store(true, Ordering::SeqCst);
    publish(&published, &[&one, &other]);
    assert!(is_good(&issuer, &token(&one)).await);
    assert!(issuer.ask(&token(&other), clock::now()).await.is_err());
    published.is_away.store(false, Ordering::SeqCst);
    assert!(is_good(&issuer, &token(&other)).await);
}

#[tokio::test]
async fn tokens_are_remembered_in_bounds_and_not_beyond_their_end() {
    let signer = Signer::new("k", Algorithm::EdDSA);
    let (_published, issuer) = issuer(&[&signer]).await;
    let mut issuer = Arc::into_inner(issuer).unwrap();
    issuer.settings.cached_tokens_max = 4;
    let issuer = Arc::new(issuer);
    let now = clock::now();
    for number in 0..20 {
        let claims = with(claims(now / 1_000), &json!({"jti": number}));
        assert!(is_good(&issuer, &signer.sign(&claims)).await);
        assert!(lock(&issuer.verified).len() <= 4);
    }
    let token = token(&signer);
    assert!(matches!(issuer.know(&token, now, || true), Known::Good(_)));
    assert!(matches!(
        issuer.know(&token, now + 120_000, || true),
        Known::Bad(_)
    ));
    // One subject, one limit, however many tokens it has.
    assert_eq!(lock(&issuer.windows).len(), 1);
}
