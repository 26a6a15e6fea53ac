//! Files that go with emails made of templates, and with broadcasts.

use serde_json::{Value as Json, json};

use crate::{
    broadcasts::appended,
    world::{Fixture, Scripted, ask},
};

const INVOICE: &str = "NDIgRVVS";

async fn intake() -> Fixture {
    let intake = Fixture::new(Scripted::default(), |_| {});
    let email = json!({"channel": "email", "from": "shop@example.com"});
    let texts = json!({
        "email": {"en": {"subject": "Your order", "body": "Hello {{ name }}"}},
        "sms": {"en": {"message": "Hello {{ name }}"}},
    });
    for (path, body) in [
        ("/configs/mail", email),
        ("/configs/short", json!({"channel": "sms"})),
        ("/templates/shipped", json!({"channels": texts})),
    ] {
        let (status, _, answer) = ask(&intake, "PUT", path, &[], &body).await;
        assert_eq!(status.as_u16(), 201, "{answer}");
    }
    intake
}

fn message(files: &Json) -> Json {
    json!({
        "configCode": "mail", "templateCode": "shipped", "channel": "ann@example.com", "payload": {"name": "Ann"},
        "attachments": files,
    })
}

fn invoice() -> Json {
    json!({"filename": "invoice.txt", "contentType": "text/plain", "content": INVOICE})
}

/// So many bytes, or up to two more, in base64.
fn base64(bytes: usize) -> String {
    "QUJD".repeat(bytes.div_ceil(3))
}

async fn post(intake: &Fixture, path: &str, body: &Json) -> (u16, Json) {
    let (status, _, answer) = ask(intake, "POST", path, &[], body).await;
    (status.as_u16(), answer)
}

/// The payload of what was stored last.
fn payload(intake: &Fixture) -> Json {
    let appended = intake.broker.appended.lock().unwrap();
    let value = appended.last().unwrap().value.as_ref().unwrap();
    let value: Json = serde_json::from_slice(value).unwrap();
    value["event"]["payload"].clone()
}

#[tokio::test]
async fn files_go_with_a_message_of_a_template() {
    let intake = intake().await;
    let far = json!({"filename": "terms.pdf", "url": "https://files.example/terms.pdf"});
    let files = json!([invoice(), far]);
    let message = message(&files);
    let scheduled = json!({"request": message, "scheduledAt": "2027-01-01T00:00:00Z"});
    for (path, body) in [
        ("/messages/request", &message),
        ("/messages/urgent", &message),
        ("/messages/request/bulk", &json!([message])),
        ("/messages/schedule", &scheduled),
    ] {
        let (status, answer) = post(&intake, path, body).await;
        assert_eq!(status, 201, "{path}: {answer}");
        let payload = payload(&intake);
        assert_eq!(payload["attachments"], files, "{path}");
        assert_eq!(payload["body"], "Hello Ann", "{path}");
    }
}

#[tokio::test]
async fn files_that_cannot_go_are_named_where_they_stand_and_nothing_is_stored() {
    let intake = intake().await;
    let large = json!([{"filename": "a", "content": base64(140_000)}]);
    let mut on_sms = message(&json!([invoice()]));
    on_sms["configCode"] = json!("short");
    on_sms["channel"] = json!("+12025550100");
    for (body, field) in [
        (on_sms, "attachments"),
        (message(&json!("invoice.txt")), "attachments"),
        (message(&json!(vec![invoice(); 11])), "attachments"),
        (message(&json!([{"content": INVOICE}])), "attachments[0].filename"),
        (
            message(&json!([invoice(), {"filename": "b"}])),
            "attachments[1].content",
        ),
        (
            message(&json!([{"filename": "a", "url": "file:///etc/passwd"}])),
            "attachments[0].url",
        ),
        (message(&large), "attachments[0].content"),
    ] {
        let (status, answer) = post(&intake, "/messages/request", &body).await;
        assert_eq!(
            (status, &answer["errors"][0]["field"]),
            (422, &json!(field)),
            "{answer}"
        );
        let scheduled = json!({"request": body, "scheduledAt": "2027-01-01T00:00:00Z"});
        let (status, answer) = post(&intake, "/messages/schedule", &scheduled).await;
        assert_eq!(
            (status, &answer["errors"][0]["field"]),
            (422, &json!(format!("request.{field}"))),
            "{answer}"
        );
    }
    assert_eq!(intake.stored(), 0);
}

#[tokio::test]
async fn a_file_that_all_recipients_get_is_small_or_elsewhere() {
    let intake = intake().await;
    let recipient = |name: &str| {
        let file = json!([{"filename": format!("{name}.txt"), "content": base64(20_000)}]);
        json!({"channel": format!("{name}@example.com"), "payload": {"name": name}, "attachments": file})
    };
    let mut own = message(&json!([{"filename": "all.txt", "url": "https://files.example/all.txt"}]));
    own.as_object_mut().unwrap().remove("channel");
    let broadcast = json!({"message": own, "recipients": [recipient("ann"), recipient("bo")]});
    let (status, answer) = post(&intake, "/broadcasts", &broadcast).await;
    assert_eq!(status, 202, "{answer}");
    let (chunks, ..) = appended(&intake);
    let sent = format!("{chunks:?}");
    assert!(sent.contains("ann.txt") && sent.contains("bo.txt"), "{sent}");
    assert!(!sent.contains("all.txt"), "{sent}");

    let email = |bytes| {
        let file = json!({"filename": "logo.png", "content": base64(bytes)});
        let payload =
            json!({"subject": "News", "body": "Hello", "from": "shop@example.com", "attachments": [file]});
        json!({"channel": "email", "payload": payload})
    };
    let to = json!([{"payload": {"to": "ann@example.com"}}]);
    let (status, answer) = post(
        &intake,
        "/broadcasts",
        &json!({"message": email(8_000), "recipients": to}),
    )
    .await;
    assert_eq!(status, 202, "{answer}");
    assert!(appended(&intake).2.is_some());
    let templated = message(&email(9_000)["payload"]["attachments"]);
    for (message, field) in [
        (email(9_000), "message.payload.attachments"),
        (templated, "message.attachments"),
    ] {
        let (status, answer) = post(
            &intake,
            "/broadcasts",
            &json!({"message": message, "recipients": to}),
        )
        .await;
        assert_eq!(
            (status, &answer["errors"][0]["field"]),
            (400, &json!(field)),
            "{answer}"
        );
        assert!(
            answer["errors"][0]["accepted"].as_str().unwrap().contains("url"),
            "{answer}"
        );
    }
    let mut bad = recipient("ann");
    bad["attachments"][0]["filename"] = json!("a/b");
    let broadcast = json!({"message": own, "recipients": [recipient("bo"), bad]});
    let (status, answer) = post(&intake, "/broadcasts", &broadcast).await;
    assert_eq!(
        (status, &answer["errors"][0]["field"]),
        (422, &json!("recipients[1].attachments[0].filename")),
        "{answer}"
    );
}
