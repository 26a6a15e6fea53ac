//! APNs: what is sent, what its answers mean, and a server that speaks HTTP/2 alone.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use ErrorKind::{Ambiguous, Permanent, RateLimited, Rejected};
use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair},
};
use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode, Version},
    response::{IntoResponse, Response},
    routing::post,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use expect_test::expect;
use posthaste_event::{Channel, ErrorKind, Failure};
use tokio::{net::TcpListener, sync::Mutex};

use super::{answers::reads, description, load, requests::sends};
use crate::{Receipt, Registry, build::sample_message, fields};

#[derive(Default)]
struct Apple {
    connections: AtomicUsize,
    /// Version and `Authorization` of each request.
    requests: Mutex<Vec<(Version, String)>>,
}

async fn start(refuse: bool) -> (Registry, Arc<Apple>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let apple = Arc::new(Apple::default());
    let router = Router::new()
        .route("/3/device/{token}", post(device))
        .with_state((Arc::clone(&apple), refuse));
    let counted = Arc::clone(&apple);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            counted.connections.fetch_add(1, Ordering::SeqCst);
            let service = hyper_util::service::TowerToHyperService::new(router.clone());
            tokio::spawn(
                hyper::server::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new())
                    .serve_connection(hyper_util::rt::TokioIo::new(stream), service),
            );
        }
    });
    let made = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new()).unwrap();
    let key = STANDARD.encode(made.as_ref());
    let account = format!(
        "[providers.apns]\nbase_url = \"http://{address}\"\nkey_id = \"KEY1234567\"\nteam_id = \"TEAM123456\"\n\
         bundle_id = \"com.example.app\"\nkey = '''-----BEGIN PRIVATE KEY-----\n{key}\n-----END PRIVATE KEY-----'''\n"
    );
    (load(&account, Some("http://127.0.0.1:9/sandbox")).unwrap(), apple)
}

async fn device(
    State((apple, refuse)): State<(Arc<Apple>, bool)>,
    version: Version,
    headers: HeaderMap,
) -> Response {
    let header = |name: &str| headers[name].to_str().unwrap().to_owned();
    let (authorization, id) = (header("authorization"), header("apns-id"));
    apple.requests.lock().await.push((version, authorization));
    match refuse {
        true => (StatusCode::FORBIDDEN, r#"{"reason":"ExpiredProviderToken"}"#).into_response(),
        false => [("apns-id", id)].into_response(),
    }
}

async fn send(registry: &Registry) -> Result<Receipt, Failure> {
    let message = sample_message(Channel::Push, fields::samples(Channel::Push)[1].clone(), 0);
    let account = registry.for_provider(Channel::Push, "apns").unwrap();
    account.provider.send(&message).await
}

#[tokio::test]
async fn one_connection_and_one_token_carry_all() {
    let (registry, apple) = start(false).await;
    let registry = Arc::new(registry);
    let mut sends = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let registry = Arc::clone(&registry);
        sends.spawn(async move { send(&registry).await });
    }
    for sent in sends.join_all().await {
        assert_eq!(
            sent.unwrap().message_id.as_deref(),
            Some("58920e31-db48-4693-b23c-cac92f01d540")
        );
    }
    let requests = apple.requests.lock().await;
    assert!(requests.iter().all(|request| *request == requests[0]));
    assert_eq!(requests[0].0, Version::HTTP_2);
    assert!(requests[0].1.starts_with("bearer "));
    assert_eq!(apple.connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_token_that_is_not_taken_leaves_the_message_to_another_try() {
    let (registry, apple) = start(true).await;
    for _ in 0..2 {
        let failure = send(&registry).await.unwrap_err();
        assert_eq!(
            (failure.kind, failure.code.as_deref()),
            (ErrorKind::Rejected, Some("ExpiredProviderToken"))
        );
    }
    // Another one so soon would be refused as one too many.
    let requests = apple.requests.lock().await;
    assert_eq!(requests[0].1, requests[1].1);
}

#[test]
fn a_key_that_cannot_sign_stops_the_start_and_is_not_shown() {
    let account =
        "[providers.apns]\nkey = \"hush-hush\"\nkey_id = \"K\"\nteam_id = \"T\"\nbundle_id = \"b\"\n";
    let error = load(account, Some("http://127.0.0.1:9/sandbox"))
        .err()
        .unwrap()
        .to_string();
    assert!(
        error.contains("providers.apns.key") && error.contains(".p8"),
        "{error}"
    );
    assert!(!error.contains("hush"), "{error}");
}

#[test]
fn requests_are_as_apple_wants_them() {
    sends(
        "apns",
        Channel::Push,
        expect![[r#"
        POST https://api.push.apple.com/3/device/token
        apns-collapse-id: 01890000-0000-7000-8000-000000000000:push:0
        apns-id: 58920e31-db48-4693-b23c-cac92f01d540
        apns-priority: 10
        apns-push-type: alert
        apns-topic: com.example.sandbox
        content-type: application/json
        {
          "aps": {
            "alert": {
              "body": "text",
              "title": "title"
            },
            "mutable-content": 1
          },
          "image": "https://example.com/i.png",
          "link": "https://example.com/",
          "order": "1"
        }

        POST https://api.push.apple.com/3/device/token
        apns-collapse-id: 01890000-0000-7000-8000-000000000000:push:0
        apns-id: 58920e31-db48-4693-b23c-cac92f01d540
        apns-priority: 10
        apns-push-type: alert
        apns-topic: com.example.sandbox
        content-type: application/json
        {
          "aps": {
            "alert": {
              "body": "text",
              "title": "title"
            }
          }
        }"#]],
    );
}

#[test]
fn an_event_that_loses_its_worth_is_not_kept_for_longer_by_apple() {
    let description = description("apns");
    let payload = fields::samples(Channel::Push)[1].clone();
    let mut message = sample_message(Channel::Push, payload, 0);
    message.expires_at = Some(1_700_000_000_999);
    message.idempotency_key = format!("{}:apns:0", "e".repeat(60));
    let built = description.build(&description.sample_values(), &message).unwrap();
    assert_eq!(built.headers["apns-expiration"], "1700000000");
    // Longer than Apple takes, so hashed.
    assert_eq!(built.headers["apns-collapse-id"].len(), 36);
}

#[test]
fn answers_mean_what_apple_says() {
    let reason = |name: &str| match name {
        "" => String::new(),
        name => format!(r#"{{"reason":"{name}"}}"#),
    };
    let id = "apns-id: eabeae54-14a8-11e5-b60b-1697f925ec7b";
    let mut answers = vec![
        (200, "", Ok("eabeae54-14a8-11e5-b60b-1697f925ec7b")),
        (502, "", Err((Ambiguous, "502"))),
        (410, "", Err((Permanent, "410"))),
    ];
    // The table of Apple's page, as it stood in 2026.
    for (status, name, kind) in [
        (400, "BadCollapseId", Permanent),
        (400, "BadDeviceToken", Permanent),
        (400, "BadExpirationDate", Permanent),
        (400, "BadMessageId", Permanent),
        (400, "BadPriority", Rejected),
        (400, "BadTopic", Rejected),
        (400, "DeviceTokenNotForTopic", Permanent),
        (400, "DuplicateHeaders", Rejected),
        (400, "IdleTimeout", Rejected),
        (400, "InvalidPushType", Rejected),
        (400, "MissingDeviceToken", Permanent),
        (400, "MissingTopic", Rejected),
        (400, "PayloadEmpty", Permanent),
        (400, "TopicDisallowed", Rejected),
        (403, "BadCertificate", Rejected),
        (403, "BadCertificateEnvironment", Rejected),
        (403, "ExpiredProviderToken", Rejected),
        (403, "Forbidden", Rejected),
        (403, "InvalidProviderToken", Rejected),
        (403, "MissingProviderToken", Rejected),
        (403, "UnrelatedKeyIdInToken", Rejected),
        (403, "BadEnvironmentKeyIdInToken", Rejected),
        (404, "BadPath", Rejected),
        (405, "MethodNotAllowed", Rejected),
        (410, "ExpiredToken", Permanent),
        (410, "Unregistered", Permanent),
        (413, "PayloadTooLarge", Permanent),
        (429, "TooManyProviderTokenUpdates", RateLimited),
        (429, "TooManyRequests", RateLimited),
        (500, "InternalServerError", Ambiguous),
        (503, "ServiceUnavailable", Rejected),
        (503, "Shutdown", Rejected),
    ] {
        answers.push((status, name, Err((kind, name))));
    }
    for (status, name, expected) in answers {
        let body = reason(name);
        reads("apns", &[(status, id, &body, expected)]);
    }
    reads("apns", &[(200, "", "<html>", Err((Ambiguous, "200")))]);
}
