//! Broadcasts, over HTTP: what is taken, and that nothing is left of what is not.
#![expect(clippy::panic, reason = "in a test a panic is the report")]

use axum::{
    body::{Body, to_bytes},
    http::Request,
};
use bytes::Bytes;
use posthaste_broker::{AppendError, NewRecord};
use posthaste_event::{
    Topic,
    broadcast::{Broadcast, BroadcastRecord, Chunk},
    control::Control,
};
use serde_json::{Value as Json, json};
use tower::ServiceExt as _;

use crate::world::{Fixture, Scripted, ask};

const PATH: &str = "/broadcasts";

fn message() -> Json {
    json!({"channel": "sms", "payload": {"message": "hello"}, "metadata": {"campaign": "autumn"}})
}

fn recipient(index: usize) -> Json {
    json!({"payload": {"phoneNumber": format!("+1202555{index:04}")}})
}

fn broadcast(recipients: usize) -> Json {
    json!({"message": message(), "recipients": (0..recipients).map(recipient).collect::<Json>()})
}

async fn post(intake: &Fixture, body: &Json) -> (u16, Json) {
    let (status, _, answer) = ask(intake, "POST", PATH, &[], body).await;
    (status.as_u16(), answer)
}

async fn post_lines(intake: &Fixture, body: impl Into<Body>) -> (u16, Json) {
    let request = Request::post(PATH)
        .header("content-type", "application/x-ndjson")
        .body(body.into())
        .unwrap();
    let response = intake.router.clone().oneshot(request).await.unwrap();
    let status = response.status().as_u16();
    let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
    (status, serde_json::from_slice(&body).unwrap())
}

fn lines(head: &Json, recipients: usize) -> String {
    let mut text = format!("{head}\n");
    for index in 0..recipients {
        text.push_str(&recipient(index).to_string());
        text.push('\n');
    }
    text
}

/// What was appended: chunks, whether they were given up, and the broadcast.
pub fn appended(intake: &Fixture) -> (Vec<Chunk>, bool, Option<Broadcast>) {
    let records: Vec<NewRecord> = std::mem::take(&mut *intake.broker.appended.lock().unwrap());
    let (mut chunks, mut is_dropped, mut said) = (Vec::new(), false, None);
    for record in records {
        let value = record.value.unwrap();
        match record.topic {
            Topic::Broadcasts => match BroadcastRecord::decode(&value).unwrap() {
                BroadcastRecord::Chunk(chunk) => chunks.push(chunk),
                BroadcastRecord::Dropped { .. } => is_dropped = true,
                BroadcastRecord::Progress(progress) => panic!("intake hands nothing over: {progress:?}"),
            },
            Topic::Control => match Control::decode(&value).unwrap() {
                Control::Broadcast(broadcast) => said = Some(*broadcast),
                other => panic!("{other:?}"),
            },
            other => panic!("nothing of a broadcast goes to {other}"),
        }
    }
    (chunks, is_dropped, said)
}

#[tokio::test]
async fn each_recipient_gets_an_event_of_its_own_in_chunks() {
    let intake = Fixture::new(Scripted::default(), |_| ());
    let mut body = broadcast(7);
    body["chunkSize"] = json!(3);
    body["chunkDelay"] = json!(250);
    body["priority"] = json!("critical");
    body["recipients"][1]["payload"]["message"] = json!("hello Ann");
    body["recipients"][1]["metadata"] = json!({"who": "ann"});
    let (status, answer) = post(&intake, &body).await;
    assert_eq!(status, 202, "{answer}");
    assert_eq!(
        (&answer["recipients"], &answer["totalSteps"]),
        (&json!(7), &json!(3))
    );
    let id = answer["broadcastId"].as_str().unwrap();
    let (status, _, seen) = ask(&intake, "GET", &format!("{PATH}/{id}"), &[], &Json::Null).await;
    assert_eq!(
        (status.as_u16(), &seen["status"]),
        (200, &json!("sending")),
        "{seen}"
    );
    let progress = json!({
        "percentage": 0.0, "step": 0, "totalSteps": 3, "currentStep": "sending",
        "data": {
            "recipients": 7, "handedOver": 0, "remaining": 7,
            "events": {"waiting": 0, "sent": 0, "failed": 0, "skipped": 0, "cancelled": 0, "expired": 0},
        },
    });
    assert_eq!(seen["progress"], progress);

    let (chunks, is_dropped, said) = appended(&intake);
    let said = said.unwrap();
    assert!(!is_dropped);
    assert_eq!(
        (
            said.id.as_str(),
            said.recipients,
            said.chunks,
            said.chunk_delay_ms
        ),
        (id, 7, 3, 250)
    );
    let sizes: Vec<u32> = chunks.iter().map(|chunk| chunk.recipients).collect();
    assert_eq!(sizes, [3, 3, 1]);
    let events: Vec<_> = chunks.iter().flat_map(|chunk| chunk.events().unwrap()).collect();
    let ids: std::collections::BTreeSet<&str> = events.iter().map(|work| work.delivery.id.as_str()).collect();
    assert_eq!(ids.len(), 7);
    for (index, work) in events.iter().enumerate() {
        assert_eq!(work.delivery.correlation_id, id);
        assert_eq!(work.delivery.priority.as_str(), "critical");
        let event: Json = serde_json::from_slice(work.event.as_slice()).unwrap();
        let own = index == 1;
        let message = if own { "hello Ann" } else { "hello" };
        let number = format!("+1202555{index:04}");
        assert_eq!(
            event["payload"],
            json!({"message": message, "phoneNumber": number})
        );
        assert_eq!(event["metadata"]["campaign"], "autumn");
        assert_eq!(event["metadata"]["who"].is_string(), own);
    }
}

#[tokio::test]
async fn a_template_is_rendered_for_each_and_what_is_missing_is_named_with_its_place() {
    let intake = Fixture::new(Scripted::default(), |_| ());
    let config = json!({"channel": "sms"});
    let template = json!({
        "channels": {"sms": {"en": {"message": "Hi {{ name }}"}, "de": {"message": "Hallo {{ name }}"}}},
        "variables": {"type": "object", "required": ["name"]},
    });
    for (path, body) in [("/configs/sms", config), ("/templates/hi", template)] {
        let (status, _, answer) = ask(&intake, "PUT", path, &[], &body).await;
        assert_eq!(status, 201, "{answer}");
    }
    let head = json!({"message": {"configCode": "sms", "templateCode": "hi", "payload": {"name": "you"}}});
    let one = json!({"channel": "+12025550001", "payload": {"name": "Ann"}});
    let two = json!({"channel": "+12025550002", "locale": "de"});
    let (status, answer) = post_lines(&intake, format!("{head}\n{one}\n\n{two}")).await;
    assert_eq!(status, 202, "{answer}");
    let (chunks, ..) = appended(&intake);
    let events = chunks[0].events().unwrap();
    let texts: Vec<Json> = events
        .iter()
        .map(|work| {
            let event: Json = serde_json::from_slice(work.event.as_slice()).unwrap();
            event["payload"]["message"].clone()
        })
        .collect();
    assert_eq!(texts, ["Hi Ann", "Hallo you"]);

    let head = json!({"message": {"configCode": "sms", "templateCode": "hi"}});
    let (status, answer) = post_lines(&intake, format!("{head}\n{one}\n{two}")).await;
    assert_eq!(status, 422, "{answer}");
    let field = answer["errors"][0]["field"].as_str().unwrap();
    assert!(field.starts_with("recipients[1].payload"), "{answer}");
    assert_eq!(appended(&intake).0.len(), 0, "the chunk was never full");
}

#[tokio::test]
async fn what_cannot_be_taken_is_named_with_its_place_and_nothing_is_sent() {
    let good = || json!({"payload": {"phoneNumber": "+12025550001"}});
    let with = |change: &dyn Fn(&mut Json)| {
        let mut body = broadcast(2);
        change(&mut body);
        body
    };
    let cases: Vec<(Json, u16, &str)> = vec![
        (json!({}), 400, "message"),
        (json!([]), 400, "body"),
        (with(&|body| body["recipients"] = json!([])), 400, "recipients"),
        (with(&|body| body["recipients"] = json!("all")), 400, "recipients"),
        (
            with(&|body| body["recipients"][1] = json!(7)),
            400,
            "recipients[1]",
        ),
        (
            with(&|body| body["recipients"][1] = json!({"to": "x"})),
            400,
            "recipients[1].to",
        ),
        (
            with(&|body| body["recipients"][1]["payload"] = json!([1])),
            400,
            "recipients[1].payload",
        ),
        (
            with(&|body| body["recipients"][1]["payload"]["phoneNumber"] = json!("x")),
            400,
            "recipients[1].payload.phoneNumber",
        ),
        (
            with(&|body| body["recipients"][0] = json!({})),
            400,
            "recipients[0].payload.phoneNumber",
        ),
        (
            with(&|body| body["message"]["payload"]["message"] = json!(3)),
            400,
            "message.payload.message",
        ),
        (
            with(&|body| body["message"]["channel"] = json!("fax")),
            400,
            "message.channel",
        ),
        (
            with(&|body| body["message"]["provider"] = json!("nobody")),
            400,
            "message.provider",
        ),
        (
            with(&|body| body["message"]["foo"] = json!(1)),
            400,
            "message.foo",
        ),
        (
            with(&|body| body["message"]["eventId"] = json!("e1")),
            400,
            "message.eventId",
        ),
        (
            with(&|body| body["message"]["orderingKey"] = json!("k")),
            400,
            "message.orderingKey",
        ),
        (
            with(&|body| body["message"]["tenant"] = json!("acme")),
            400,
            "message.tenant",
        ),
        (with(&|body| body["tenant"] = json!("a/b")), 400, "tenant"),
        (with(&|body| body["priority"] = json!("soon")), 400, "priority"),
        (with(&|body| body["chunkSize"] = json!(0)), 400, "chunkSize"),
        (with(&|body| body["chunkSize"] = json!(-1)), 400, "chunkSize"),
        (with(&|body| body["chunkDelay"] = json!("1s")), 400, "chunkDelay"),
        (
            with(&|body| body["scheduledAt"] = json!("tomorrow")),
            400,
            "scheduledAt",
        ),
        (with(&|body| body["speed"] = json!(1)), 400, "speed"),
        (
            with(&|body| body["message"] = json!({"configCode": "c", "templateCode": "t"})),
            422,
            "message.configCode",
        ),
        (
            with(&|body| body["recipients"] = (0..2_001).map(|_| good()).collect()),
            400,
            "recipients",
        ),
    ];
    let intake = Fixture::new(Scripted::default(), |_| ());
    for (body, code, field) in cases {
        let (status, answer) = post(&intake, &body).await;
        let text = body.to_string();
        let said: String = text.chars().take(200).collect();
        assert_eq!(status, code, "{said}: {answer}");
        let fields: Vec<&str> = answer["errors"]
            .as_array()
            .unwrap()
            .iter()
            .map(|error| error["field"].as_str().unwrap())
            .collect();
        assert!(fields.contains(&field), "{said}: {answer}");
        let (chunks, is_dropped, broadcast) = appended(&intake);
        assert!(broadcast.is_none(), "{said}");
        assert_eq!(
            chunks.is_empty(),
            !is_dropped,
            "what was left behind is given up: {said}"
        );
    }
}

#[tokio::test]
async fn lines_that_are_no_recipients_end_the_upload() {
    let intake = Fixture::new(Scripted::default(), |settings| settings.event_bytes_max = 4_096);
    let head = json!({"message": message(), "chunkSize": 10});
    let deep = format!("{{\"payload\": {}1{}}}", "[".repeat(90), "]".repeat(90));
    let long = json!({"payload": {"phoneNumber": "+12025550001", "message": "x".repeat(5_000)}});
    let cases: [(Vec<u8>, u16, &str); 6] = [
        (b"\xff\xfe\n".to_vec(), 400, "recipients[25]"),
        (b"{\n".to_vec(), 400, "recipients[25]"),
        (deep.into_bytes(), 400, "recipients[25]"),
        (long.to_string().into_bytes(), 413, "recipients[25]"),
        (b"null\n".to_vec(), 400, "recipients[25]"),
        (
            b"{\"payload\": {}, \"payload\": {}}\n".to_vec(),
            400,
            "recipients[25].payload",
        ),
    ];
    for (line, code, field) in cases {
        let mut body = lines(&head, 25).into_bytes();
        body.extend_from_slice(&line);
        let (status, answer) = post_lines(&intake, body).await;
        assert_eq!(
            (status, &answer["errors"][0]["field"]),
            (code, &json!(field)),
            "{answer}"
        );
        let (chunks, is_dropped, broadcast) = appended(&intake);
        assert_eq!((chunks.len(), is_dropped, broadcast), (2, true, None));
    }
    for (body, field) in [
        ("", "body"),
        ("\n\n", "body"),
        ("[]\n{}", "body"),
        ("{}\n", "message"),
    ] {
        let (status, answer) = post_lines(&intake, body).await;
        assert_eq!(
            (status, &answer["errors"][0]["field"]),
            (400, &json!(field)),
            "{body}: {answer}"
        );
    }
    let (status, answer) = post_lines(&intake, format!("{head}\n")).await;
    assert_eq!(
        (status, &answer["errors"][0]["field"]),
        (400, &json!("recipients")),
        "{answer}"
    );
    assert_eq!(intake.stored(), 0);
}

#[tokio::test]
async fn an_upload_that_breaks_off_sends_nothing() {
    let intake = Fixture::new(Scripted::default(), |_| ());
    let head = json!({"message": message(), "chunkSize": 10});
    let pieces = [
        Ok(Bytes::from(lines(&head, 35))),
        Err(std::io::Error::other("gone")),
    ];
    let body = Body::from_stream(futures_util::stream::iter(pieces));
    let (status, answer) = post_lines(&intake, body).await;
    assert_eq!(status, 400, "{answer}");
    let (chunks, is_dropped, broadcast) = appended(&intake);
    assert_eq!((chunks.len(), is_dropped, broadcast), (3, true, None));
}

#[tokio::test]
async fn too_many_chunks_are_refused_and_an_outage_is_said() {
    let intake = Fixture::new(Scripted::default(), |_| ());
    let (status, answer) =
        post_lines(&intake, lines(&json!({"message": message(), "chunkSize": 1}), 30)).await;
    assert_eq!(
        (status, &answer["errors"][0]["field"]),
        (400, &json!("chunkSize")),
        "{answer}"
    );
    assert_eq!(appended(&intake).2, None);

    let reason = "away".to_owned();
    *intake.broker.fails.lock().unwrap() = Some(AppendError::Unconfirmed { reason });
    let (status, headers, answer) = ask(&intake, "POST", PATH, &[], &broadcast(1)).await;
    assert_eq!(status, 503, "{answer}");
    assert!(headers.contains_key("retry-after"));
    assert_eq!(intake.stored(), 0);
}

#[tokio::test]
async fn what_is_asked_of_one_is_said_once_and_a_cancel_is_not_taken_back() {
    let intake = Fixture::new(Scripted::default(), |_| ());
    let mut body = broadcast(1);
    body["scheduledAt"] = json!("2027-01-01T00:00:00Z");
    let (_, answer) = post(&intake, &body).await;
    let id = answer["broadcastId"].as_str().unwrap().to_owned();
    let wish = async |wish: &str| {
        let path = format!("{PATH}/{id}/{wish}");
        let (status, _, answer) = ask(&intake, "POST", &path, &[], &Json::Null).await;
        (status.as_u16(), answer["status"].clone())
    };
    assert_eq!(wish("resume").await, (200, json!("scheduled")));
    assert_eq!(wish("pause").await, (200, json!("paused")));
    assert_eq!(wish("pause").await, (200, json!("paused")));
    assert_eq!(wish("resume").await, (200, json!("scheduled")));
    assert_eq!(wish("cancel").await, (200, json!("cancelling")));
    assert_eq!(wish("cancel").await, (200, json!("cancelling")));
    assert_eq!(wish("resume").await.0, 409);
    assert_eq!(wish("send").await.0, 404);
    for path in ["/broadcasts/none", "/broadcasts/..%2F..%2Fetc"] {
        assert_eq!(ask(&intake, "GET", path, &[], &Json::Null).await.0, 404, "{path}");
    }
    for (query, expected) in [
        ("", 1),
        ("?state=cancelling", 1),
        ("?state=done", 0),
        ("?tenant=other", 0),
        ("?limit=1", 1),
        ("?after=0", 0),
    ] {
        let (status, _, answer) = ask(&intake, "GET", &format!("{PATH}{query}"), &[], &Json::Null).await;
        assert_eq!(status, 200, "{answer}");
        assert_eq!(
            answer["broadcasts"].as_array().unwrap().len(),
            expected,
            "{query}"
        );
    }
    for query in ["?state=x", "?limit=0", "?limit=a", "?page=1"] {
        let (status, ..) = ask(&intake, "GET", &format!("{PATH}{query}"), &[], &Json::Null).await;
        assert_eq!(status, 400, "{query}");
    }
}
