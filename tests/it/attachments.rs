//! Emails with files: brought along, or fetched when they are sent.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use axum::{Router, http::StatusCode, response::IntoResponse as _, routing::get};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value as Json, json};

use crate::{
    on_each_backend,
    system::{Backend, Client, Plan, System, run},
};

on_each_backend!(
    files_go_out_with_an_email_whoever_carries_it,
    what_no_email_can_carry_is_refused,
);

/// Files of others, at an address that is not public: it has to be allowed.
async fn files() -> String {
    let asked = Arc::new(AtomicUsize::new(0));
    let busy_once = move || async move {
        match asked.fetch_add(1, Ordering::SeqCst) {
            0 => StatusCode::SERVICE_UNAVAILABLE.into_response(),
            _ => "mended".into_response(),
        }
    };
    let app = Router::new()
        .route("/report", get(|| async { "x".repeat(1_000_000) }))
        .route("/busy-once", get(busy_once));
    let listener = tokio::net::TcpListener::bind("127.0.0.2:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    format!("http://{address}")
}

fn email(client: &Client, provider: &str, attachments: Json) -> Json {
    json!({
        "channel": "email", "tenant": client.tenant(), "provider": provider,
        "payload": {
            "subject": "Report", "body": "See the files.", "to": "ann@example.com", "from": "shop@example.com",
            "attachments": attachments,
        },
    })
}

async fn received(system: &System, client: &Client, id: &str) -> Json {
    let url = format!("{}/sandbox/messages?event={id}", system.sandbox_url());
    client.ask("GET", &url, None).await.body["messages"][0].clone()
}

async fn files_go_out_with_an_email_whoever_carries_it(backend: Backend) {
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys.json");
    let (code, _, said) = run(&["keys", "generate", "--file", keys.to_str().unwrap()]).await;
    assert_eq!(code, Some(0), "{said}");
    let elsewhere = files().await;
    let plan = Plan::new(backend).await;
    let system = plan
        .setting("POSTHASTE_PROVIDER__ALLOWED_CIDRS", "[\"127.0.0.2/32\"]")
        .setting("POSTHASTE_ENCRYPTION__KEYS_FILE", keys.to_str().unwrap())
        .start()
        .await;
    let client = system.client();
    // Whole base64 blocks of 76 characters, so that a mail's lines have it too.
    let content = STANDARD.encode("Zanzibarwal ".repeat(19 * 3));
    let attachments = json!([
        {"filename": "Übersicht.txt", "contentType": "text/plain", "content": content},
        {"filename": "report.txt", "url": format!("{elsewhere}/report")},
    ]);
    let mut sent = Vec::new();
    for provider in ["sendgrid", "mailgun", "smtp"] {
        for is_sealed in [false, true] {
            let mut event = email(&client, provider, attachments.clone());
            event["metadata"] = json!({"requiresEncryption": is_sealed});
            sent.push((provider, client.accept(&event).await));
        }
    }
    for (provider, id) in sent {
        let is_whole = |event: &Json| event["status"] == "SENT" && event["payload"].is_object();
        let event = client.wait_for(&id, "SENT and whole", is_whole).await;
        assert_eq!(event["state"]["provider"], provider, "{event:#}");
        // Whoever looks it up sees what was sent, not megabytes of it.
        let shown = &event["payload"]["attachments"];
        assert_eq!(shown[0]["contentBytes"], 12 * 19 * 3, "{event:#}");
        assert_eq!(shown[0]["content"], Json::Null, "{event:#}");
        assert_eq!(shown[1], attachments[1], "{event:#}");
        let got = received(&system, &client, &id).await;
        if provider == "smtp" {
            let text = got["body"].as_str().unwrap();
            assert!(text.contains("filename*0*=utf-8''%C3%9Cbersicht.txt"), "{text}");
            assert!(text.contains(&content[..76]), "{text}");
        } else {
            let expected = json!([{"filename": "Übersicht.txt", "bytes": 684}, {"filename": "report.txt", "bytes": 1_000_000}]);
            assert_eq!(got["attachments"], expected, "{got:#}");
        }
    }
    // A server that is busy is asked again, one that has no such file is not.
    for (path, status, tries) in [("busy-once", "SENT", 2), ("nowhere", "DEAD_LETTERED", 1)] {
        let files = json!([{"filename": "a.txt", "url": format!("{elsewhere}/{path}")}]);
        let id = client.accept(&email(&client, "sendgrid", files)).await;
        let event = client.wait(&id, status).await;
        assert_eq!(event["state"]["attempt"], tries, "{event:#}");
        if status == "DEAD_LETTERED" {
            assert_eq!(event["state"]["error"]["code"], "attachment_refused", "{event:#}");
        }
    }
}

async fn what_no_email_can_carry_is_refused(backend: Backend) {
    let system = System::shared(backend).await;
    let client = system.client();
    let file = |name: &str, content: &str| json!({"filename": name, "content": content});
    let large = STANDARD.encode(vec![0; 131_073]);
    let half = STANDARD.encode(vec![0; 90_001]);
    for (attachments, field) in [
        (
            json!([file("a", "aGk="), file("../a", "aGk=")]),
            "payload.attachments[1].filename",
        ),
        (
            json!([file("a\r\nBcc: eve@example.com", "aGk=")]),
            "payload.attachments[0].filename",
        ),
        (json!([file("a", "no base64")]), "payload.attachments[0].content"),
        (json!([file("a", &large)]), "payload.attachments[0].content"),
        (json!([file("a", &half), file("b", &half)]), "payload.attachments"),
        (json!(vec![file("a", "aGk="); 11]), "payload.attachments"),
        (
            json!([{"filename": "a", "url": "file:///etc/passwd"}]),
            "payload.attachments[0].url",
        ),
        (
            json!([{"filename": "a", "content": "aGk=", "path": "x"}]),
            "payload.attachments[0].path",
        ),
    ] {
        let answer = client
            .post(&email(&client, "sendgrid", attachments))
            .await
            .unwrap();
        assert_eq!(answer.status, 400, "{answer:?}");
        assert_eq!(answer.body["errors"][0]["field"], field, "{answer:?}");
    }
    // Addresses within are accepted and never called.
    let files = json!([{"filename": "a", "url": "http://169.254.169.254/latest/meta-data/"}]);
    let id = client.accept(&email(&client, "mailgun", files)).await;
    let event = client.wait(&id, "DEAD_LETTERED").await;
    assert_eq!(event["state"]["error"]["code"], "address_not_public", "{event:#}");
}
