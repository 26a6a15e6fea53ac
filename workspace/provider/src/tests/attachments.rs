//! Files that go with emails: what each interface is given, and what is fetched from elsewhere.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use axum::{
    Router,
    body::{Body, Bytes},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse as _, Redirect, Response},
    routing::{get, post},
};
use posthaste_event::{Channel, ErrorKind, Failure, payload::Payload};
use serde_json::{Value as Json, json, value::to_raw_value};
use tokio::sync::Mutex;

use super::{Inboxes, description, settings_with};
use crate::{Message, Receipt, Registry, build::sample_message, guard::Lookup};

/// Files, and a provider that keeps what it is given.
struct Place {
    port: u16,
    got: Arc<Mutex<Vec<(HeaderMap, Bytes)>>>,
    asked: Arc<AtomicUsize>,
}

impl Place {
    fn file(&self, path: &str) -> String {
        format!("http://127.0.0.2:{}/{path}", self.port)
    }
}

async fn place() -> Place {
    let got = Arc::new(Mutex::new(Vec::new()));
    let asked = Arc::new(AtomicUsize::new(0));
    let (keeps, counts) = (Arc::clone(&got), Arc::clone(&asked));
    let takes = move |headers: HeaderMap, body: Bytes| {
        let keeps = Arc::clone(&keeps);
        async move {
            keeps.lock().await.push((headers, body));
            (StatusCode::ACCEPTED, [("x-message-id", "m1")])
        }
    };
    // Endless: no length is announced.
    let endless = || async {
        let chunks =
            futures_util::stream::repeat_with(|| Ok::<_, std::io::Error>(Bytes::from(vec![0; 4_096])));
        Body::from_stream(chunks)
    };
    let fails_once = move || async move {
        match counts.fetch_add(1, Ordering::SeqCst) {
            0 => StatusCode::SERVICE_UNAVAILABLE.into_response(),
            _ => "late".into_response(),
        }
    };
    let breaks = || async {
        let chunks = [
            Ok(Bytes::from_static(b"half")),
            Err(std::io::Error::other("gone")),
        ];
        Response::new(Body::from_stream(futures_util::stream::iter(chunks)))
    };
    let app = Router::new()
        .route("/v3/mail/send", post(takes))
        .route("/report", get(|| async { "fetched\r\nfile" }))
        .route("/large", get(|| async { "x".repeat(3_000) }))
        .route("/endless", get(endless))
        .route("/gone", get(|| async { StatusCode::NOT_FOUND }))
        .route(
            "/busy",
            get(|| async { (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "7")]) }),
        )
        .route("/later", get(fails_once))
        .route("/breaks", get(breaks))
        .route("/empty", get(|| async { "" }))
        .route("/packed", get(|| async { ([("content-encoding", "gzip")], "x") }))
        .route("/elsewhere", get(|| async { Redirect::temporary("/report") }))
        .route("/hangs", get(std::future::pending::<()>));
    let listener = tokio::net::TcpListener::bind("127.0.0.2:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    Place { port, got, asked }
}

/// SendGrid at the place, with files of up to 2,000 bytes from 127.0.0.2.
fn registry(place: &Place, more: &str) -> Registry {
    let settings = settings_with(&format!(
        "[provider]\nconnect_timeout_ms = 400\nallowed_cidrs = [\"127.0.0.2/32\"]\nattachments_bytes_max = 2000\n{more}\n\
         [providers.sendgrid]\napi_key = \"SG.key-of-the-account\"\nbase_url = \"http://127.0.0.2:{}\"\ntimeout_ms = 1000\n",
        place.port
    ));
    Registry::load_with(
        &settings,
        Some("http://127.0.0.1:9"),
        Arc::new(Inboxes::default()),
        Lookup::default(),
    )
    .unwrap()
}

fn message(files: &Json) -> Message {
    let email = json!({"subject": "s", "body": "b", "to": "a@example.com", "from": "b@example.com", "attachments": files});
    let payload = Payload::accept(Channel::Email, &to_raw_value(&email).unwrap()).unwrap();
    sample_message(Channel::Email, payload, 0)
}

async fn send(registry: &Registry, files: &Json) -> Result<Receipt, Failure> {
    let provider = registry.account("sendgrid").unwrap().provider.clone();
    provider.send(&message(files)).await
}

#[tokio::test]
async fn a_file_is_fetched_when_the_email_is_sent() {
    let place = place().await;
    let registry = registry(&place, "");
    let files = json!([
        {"filename": "here.txt", "content": "aGVyZQ=="},
        {"filename": "report.txt", "url": place.file("report"), "contentType": "text/plain"},
    ]);
    let receipt = send(&registry, &files).await.unwrap();
    assert_eq!(receipt.message_id.as_deref(), Some("m1"));
    let got = place.got.lock().await;
    let body: Json = serde_json::from_slice(&got[0].1).unwrap();
    assert_eq!(
        body["attachments"],
        json!([
            {"content": "aGVyZQ==", "filename": "here.txt", "type": "application/octet-stream", "disposition": "attachment"},
            {"content": "ZmV0Y2hlZA0KZmlsZQ==", "filename": "report.txt", "type": "text/plain", "disposition": "attachment"},
        ])
    );
}

#[tokio::test]
async fn what_may_mend_is_tried_again_and_all_else_is_final() {
    let place = place().await;
    let registry = registry(&place, "");
    for (path, kind, code) in [
        ("gone", ErrorKind::Permanent, "attachment_refused"),
        ("nowhere", ErrorKind::Permanent, "attachment_refused"),
        ("elsewhere", ErrorKind::Permanent, "attachment_refused"),
        ("packed", ErrorKind::Permanent, "attachment_refused"),
        ("empty", ErrorKind::Permanent, "attachment_refused"),
        ("large", ErrorKind::Permanent, "attachment_too_large"),
        ("endless", ErrorKind::Permanent, "attachment_too_large"),
        ("busy", ErrorKind::Rejected, "attachment_unavailable"),
        ("later", ErrorKind::Rejected, "attachment_unavailable"),
        ("breaks", ErrorKind::Rejected, "attachment_unavailable"),
        ("hangs", ErrorKind::Rejected, "attachment_timeout"),
    ] {
        let url = place.file(path);
        let files = json!([{"filename": "a", "url": place.file("report")}, {"filename": "b", "url": url}]);
        let failure = send(&registry, &files).await.unwrap_err();
        assert_eq!(
            (failure.kind, failure.code.as_deref()),
            (kind, Some(code)),
            "{path}: {failure:?}"
        );
        let wait = (path == "busy").then_some(7_000);
        assert_eq!(failure.retry_after_ms, wait, "{path}: {failure:?}");
        assert!(
            failure.message.starts_with("payload.attachments[1].url: "),
            "{failure:?}"
        );
        assert!(!failure.message.contains("127.0.0.2"), "{failure:?}");
    }
    assert_eq!(place.got.lock().await.len(), 0, "nothing was sent");
    // The one that mends.
    send(&registry, &json!([{"filename": "b", "url": place.file("later")}]))
        .await
        .unwrap();
    assert_eq!(place.asked.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn an_address_leads_only_where_webhooks_may() {
    let place = place().await;
    let settings = settings_with(&format!(
        "[providers.sendgrid]\napi_key = \"SG.key-of-the-account\"\nbase_url = \"http://127.0.0.2:{}\"\n",
        place.port
    ));
    let lookup = Lookup::new(|_| Ok(vec![([127, 0, 0, 2], 0).into()]));
    let store = Arc::new(Inboxes::default());
    let registry = Registry::load_with(&settings, Some("http://127.0.0.1:9"), store, lookup).unwrap();
    for (url, code) in [
        (place.file("report"), "address_not_public"),
        (
            format!("http://files.example:{}/report", place.port),
            "address_not_public",
        ),
        (
            format!("http://[::ffff:127.0.0.2]:{}/report", place.port),
            "address_not_public",
        ),
        (
            "http://169.254.169.254/latest/meta-data/".to_owned(),
            "address_not_public",
        ),
        ("http://93.184.215.14:25/".to_owned(), "port_not_allowed"),
    ] {
        let failure = send(&registry, &json!([{"filename": "a", "url": url}]))
            .await
            .unwrap_err();
        let said = (failure.kind, failure.code.as_deref());
        assert_eq!(said, (ErrorKind::Permanent, Some(code)), "{url}: {failure:?}");
    }
    assert_eq!(place.got.lock().await.len(), 0);
}

#[tokio::test]
async fn only_so_many_emails_hold_files_at_once() {
    let place = place().await;
    let registry = registry(&place, "attachment_emails_max = 1");
    let slow = json!([{"filename": "a", "url": place.file("hangs")}]);
    let quick = json!([{"filename": "a", "url": place.file("report")}]);
    // The second one finds no room while the first hangs, and gives up with it.
    let (first, second) = tokio::join!(send(&registry, &slow), send(&registry, &quick));
    for failure in [first.unwrap_err(), second.unwrap_err()] {
        assert_eq!(failure.kind, ErrorKind::Rejected);
        assert_eq!(failure.code.as_deref(), Some("attachment_timeout"));
    }
    // The room is given back.
    for _ in 0..3 {
        send(&registry, &quick).await.unwrap();
    }
}

#[test]
fn a_form_with_files_is_a_multipart_one() {
    let description = description("mailgun");
    let values = description.sample_values();
    let files = json!([
        {"filename": "Büro \"1\".txt", "content": "ZmlsZQ==", "contentType": "text/plain"},
        {"filename": "logo.png", "content": "AAEC/w==", "contentType": "image/png", "contentId": "logo@1"},
    ]);
    let outgoing = description.build(&values, &message(&files)).unwrap();
    let kind = outgoing.headers["content-type"].to_str().unwrap();
    let boundary = kind.strip_prefix("multipart/form-data; boundary=").unwrap();
    let text = String::from_utf8_lossy(&outgoing.body)
        .replace(boundary, "B")
        .replace("\r\n", "\n");
    for part in [
        "--B\nContent-Disposition: form-data; name=\"subject\"\n\ns\n",
        "--B\nContent-Disposition: form-data; name=\"to\"\n\na@example.com\n",
        "--B\nContent-Disposition: form-data; name=\"attachment\"; filename=\"Büro %221%22.txt\"\nContent-Type: text/plain\n\nfile\n",
        // By the name that the HTML has for it.
        "--B\nContent-Disposition: form-data; name=\"inline\"; filename=\"logo@1\"\nContent-Type: image/png\n\n\0\u{1}\u{2}\u{fffd}\n--B--\n",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    // Without files it is what it was.
    let outgoing = description.build(&values, &message(&json!([]))).unwrap();
    assert_eq!(
        outgoing.headers["content-type"],
        "application/x-www-form-urlencoded"
    );
}

#[tokio::test]
async fn a_provider_whose_file_has_no_place_for_files_refuses_them_for_good() {
    let place = place().await;
    let folder = tempfile::tempdir().unwrap();
    let own =
        std::fs::read_to_string(format!("{}/providers/sendgrid.toml", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let own: String = own
        .split_inclusive('\n')
        .filter(|line| !line.starts_with("attachments = "))
        .collect();
    std::fs::write(folder.path().join("sendgrid.toml"), own).unwrap();
    let registry = registry(&place, &format!("files_folder = {:?}", folder.path()));
    let failure = send(&registry, &json!([{"filename": "a", "content": "aGk="}]))
        .await
        .unwrap_err();
    assert_eq!(failure.kind, ErrorKind::Permanent);
    assert!(failure.message.contains("payload.attachments"), "{failure:?}");
    send(&registry, &json!([])).await.unwrap();
}
