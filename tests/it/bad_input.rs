//! What cannot be taken is refused with a problem document that names the field, and nothing is stored.

use serde_json::{Value as Json, json};

use crate::{
    on_each_backend,
    system::{Answer, Backend, System},
};

on_each_backend!(
    bad_events_are_refused_by_field,
    broken_bodies_are_refused,
    unknown_events_are_not_found,
);

/// `(what is sent, the field that the answer must name)`; all else about the event is right.
fn bad_events(tenant: &str) -> Vec<(Json, &'static str)> {
    let sms = json!({"message": "m", "phoneNumber": "+12025550123"});
    let email = json!({"subject": "s", "body": "b", "to": "a@example.com", "from": "b@example.com"});
    let with = |base: &Json, field: &str, value: Json| {
        let mut payload = base.clone();
        payload[field] = value;
        payload
    };
    let without = |base: &Json, field: &str| {
        let mut payload = base.clone();
        payload.as_object_mut().unwrap().remove(field);
        payload
    };
    let event =
        |channel: &str, payload: Json| json!({"channel": channel, "payload": payload, "tenant": tenant});
    let of_sms = |field: &str, value: Json| {
        let mut event = event("sms", sms.clone());
        event[field] = value;
        event
    };
    vec![
        (event("pigeon", sms.clone()), "channel"),
        (json!({"payload": sms, "tenant": tenant}), "channel"),
        (json!({"channel": "sms", "tenant": tenant}), "payload"),
        (of_sms("priority", json!("sometime")), "priority"),
        (of_sms("priority", json!(7)), "priority"),
        (of_sms("provider", json!("carrier-pigeon")), "provider"),
        (of_sms("provider", json!("sendgrid")), "provider"),
        (of_sms("scheduledAt", json!("next tuesday")), "scheduledAt"),
        (of_sms("expiresAt", json!("2026-13-45T00:00:00Z")), "expiresAt"),
        (of_sms("eventId", json!("")), "eventId"),
        (of_sms("tenant", json!("a/b")), "tenant"),
        (event("sms", without(&sms, "message")), "message"),
        (event("sms", without(&sms, "phoneNumber")), "phoneNumber"),
        (
            event("sms", with(&sms, "phoneNumber", json!("call me"))),
            "phoneNumber",
        ),
        (
            event("sms", with(&sms, "phoneNumber", json!("12"))),
            "phoneNumber",
        ),
        (event("sms", with(&sms, "message", json!(5))), "message"),
        (event("email", without(&email, "to")), "to"),
        (event("email", without(&email, "subject")), "subject"),
        (event("email", with(&email, "to", json!("nobody"))), "to"),
        (event("email", with(&email, "from", json!("a@b@c"))), "from"),
        (
            event("email", with(&email, "subject", json!("a\r\nBcc: x@example.com"))),
            "subject",
        ),
        (event("push", json!({"title": "t", "body": "b"})), "token"),
        (event("slack", json!({"channel": "#general"})), "text"),
        (
            event("webhook", json!({"url": "ftp://example.com", "body": {}})),
            "url",
        ),
        (event("webhook", json!({"url": "no url", "body": {}})), "url"),
        (event("in_app", json!({"title": "t", "body": "b"})), "recipient"),
        (json!([1, 2]), ""),
    ]
}

fn assert_problem(answer: &Answer, what: &str) {
    assert!(answer.status.is_client_error(), "{what}: {answer:?}");
    assert_eq!(
        answer.headers["content-type"], "application/problem+json",
        "{what}"
    );
    assert_eq!(answer.body["status"], answer.status.as_u16(), "{what}");
    assert!(answer.body["detail"].is_string(), "{what}: {answer:?}");
}

async fn bad_events_are_refused_by_field(backend: Backend) {
    let system = System::shared(backend).await;
    let client = system.client();
    let mut wrong = Vec::new();
    for (event, field) in bad_events(&client.tenant) {
        let answer = client.post(&event).await.unwrap();
        let what = event.to_string();
        if !answer.status.is_client_error() {
            wrong.push(format!("{what} was not refused: {answer:?}"));
            continue;
        }
        assert_problem(&answer, &what);
        let named = answer.body["errors"].as_array().is_some_and(|errors| {
            errors
                .iter()
                .any(|error| error["field"].as_str().unwrap().contains(field))
        });
        if !field.is_empty() && !named {
            wrong.push(format!(
                "{what} was refused without naming {field}: {}",
                answer.body
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(client.events().await.unwrap(), Vec::<Json>::new());
}

async fn broken_bodies_are_refused(backend: Backend) {
    let system = System::shared(backend).await;
    let client = system.client();
    let good = client.sms(&client.number(1)).to_string();
    let mut large = client.sms(&client.number(1));
    large["payload"]["message"] = json!("x".repeat(300 * 1024));
    let nested = format!(
        r#"{{"channel":"sms","payload":{}1{}}}"#,
        "[".repeat(50_000),
        "]".repeat(50_000)
    );
    let cases = [
        ("application/json", String::new(), 400),
        ("application/json", "{".to_owned(), 400),
        ("application/json", "not json".to_owned(), 400),
        ("application/json", nested, 400),
        ("application/json", large.to_string(), 413),
        ("text/plain", good.clone(), 415),
        ("application/x-www-form-urlencoded", good, 415),
    ];
    for (content_type, body, status) in cases {
        let what = format!("{content_type}: {:.60}", body);
        let answer = client.send("/event", content_type, body).await;
        let answer = answer.unwrap_or_else(|error| panic!("{what}: {error:?}"));
        assert_problem(&answer, &what);
        assert_eq!(answer.status, status, "{what}: {}", answer.body);
    }
    assert_eq!(client.events().await.unwrap(), Vec::<Json>::new());
}

async fn unknown_events_are_not_found(backend: Backend) {
    let system = System::shared(backend).await;
    let client = system.client();
    for path in ["/events/no-such-event", "/events/no-such-event/timeline"] {
        let answer = client.get(path).await.unwrap();
        assert_problem(&answer, path);
        assert_eq!(answer.status, 404);
    }
}
