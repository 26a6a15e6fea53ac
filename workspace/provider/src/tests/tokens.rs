//! Access tokens: asked for once, shared, renewed, and never a reason to doubt whether a message was sent.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use axum::{Json, Router, http::StatusCode, routing::post};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use posthaste_event::{Channel, ErrorKind};
use serde_json::json;

use super::{Inboxes, settings_with};
use crate::{Registry, build::sample_message, fields};

/// Google's token endpoint and Firebase, with counters.
struct Google {
    address: String,
    granted: Arc<AtomicUsize>,
}

impl Google {
    /// `lasts`: of each token, in seconds; `refused`: calls answered with 401 first; `denied`: no tokens at all.
    async fn start(lasts: u64, refused: usize, denied: bool) -> Self {
        let granted = Arc::new(AtomicUsize::new(0));
        let (counter, calls) = (granted.clone(), Arc::new(AtomicUsize::new(0)));
        let router = Router::new()
            .route(
                "/token",
                post(move || async move {
                    let number = counter.fetch_add(1, Ordering::SeqCst);
                    if denied {
                        let body = json!({"error": "invalid_grant", "error_description": "who are you"});
                        return (StatusCode::BAD_REQUEST, Json(body));
                    }
                    let body = json!({"access_token": format!("t{number}"), "expires_in": lasts});
                    (StatusCode::OK, Json(body))
                }),
            )
            .route(
                "/v1/projects/{project}/{call}",
                post(move || async move {
                    if calls.fetch_add(1, Ordering::SeqCst) < refused {
                        return (
                            StatusCode::UNAUTHORIZED,
                            Json(json!({"error": {"status": "UNAUTHENTICATED"}})),
                        );
                    }
                    (StatusCode::OK, Json(json!({"name": "projects/p/messages/1"})))
                }),
            );
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { address, granted }
    }

    fn registry(&self) -> Registry {
        let pair = aws_lc_rs::rsa::KeyPair::generate(aws_lc_rs::rsa::KeySize::Rsa2048).unwrap();
        let der: Pkcs8V1Der<'_> = pair.as_der().unwrap();
        let pem = STANDARD.encode(der.as_ref());
        let account = json!({
            "type": "service_account",
            "project_id": "p",
            "client_email": "a@p.iam.gserviceaccount.com",
            "private_key_id": "k1",
            "private_key": format!("-----BEGIN PRIVATE KEY-----\n{pem}\n-----END PRIVATE KEY-----\n"),
            "token_uri": format!("http://{}/token", self.address),
        });
        let changes = format!(
            "[providers.firebase]\nbase_url = \"http://{}\"\nservice_account = {}\n",
            self.address,
            toml::Value::from(account.to_string())
        );
        let store = Arc::new(Inboxes::default());
        Registry::load(&settings_with(&changes), Some("http://127.0.0.1:9"), store).unwrap()
    }
}

async fn send(registry: &Registry) -> Result<(), (ErrorKind, String)> {
    let [_, bare] = fields::samples(Channel::Push);
    let message = sample_message(Channel::Push, bare, 0);
    let outcome = registry
        .account("firebase")
        .unwrap()
        .provider
        .send(&message)
        .await;
    outcome
        .map(|_| ())
        .map_err(|failure| (failure.kind, failure.code.unwrap_or_default()))
}

#[tokio::test]
async fn a_token_is_asked_for_once_and_shared() {
    let google = Google::start(3_600, 0, false).await;
    let registry = Arc::new(google.registry());
    let mut sends = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let registry = registry.clone();
        sends.spawn(async move { send(&registry).await });
    }
    assert!(sends.join_all().await.iter().all(Result::is_ok));
    assert_eq!(google.granted.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_token_that_is_not_taken_is_replaced() {
    let google = Google::start(3_600, 1, false).await;
    let registry = google.registry();
    let refused = Err((ErrorKind::Rejected, "UNAUTHENTICATED".to_owned()));
    assert_eq!(send(&registry).await, refused);
    assert_eq!(send(&registry).await, Ok(()));
    assert_eq!(google.granted.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_token_that_has_ended_is_renewed() {
    let google = Google::start(0, 0, false).await;
    let registry = google.registry();
    assert_eq!(send(&registry).await, Ok(()));
    assert_eq!(send(&registry).await, Ok(()));
    assert_eq!(google.granted.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn without_a_token_nothing_was_sent_and_nobody_is_pestered() {
    let google = Google::start(3_600, 0, true).await;
    let registry = google.registry();
    for _ in 0..10 {
        assert_eq!(
            send(&registry).await,
            Err((ErrorKind::Rejected, "invalid_grant".to_owned()))
        );
    }
    let asked = google.granted.load(Ordering::SeqCst);
    assert!(asked < 10, "asked {asked} times");
}
