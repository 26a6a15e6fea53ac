//! Broadcasts with an `Idempotency-Key`, and how many of them a tenant may have.

use std::sync::Arc;

use posthaste_broker::AppendError;
use posthaste_event::Topic;
use serde_json::{Value as Json, json};

use crate::{
    broadcasts::appended,
    world::{Fixture, Scripted, ask},
};

const PATH: &str = "/broadcasts";
const LINES: &str = "application/x-ndjson";

fn head(text: &str) -> Json {
    json!({"message": {"channel": "sms", "payload": {"message": text}}, "chunkSize": 2})
}

fn recipient(index: usize) -> Json {
    json!({"payload": {"phoneNumber": format!("+1202555{index:04}")}})
}

fn whole(text: &str, recipients: usize) -> Json {
    let mut body = head(text);
    body["recipients"] = (0..recipients).map(recipient).collect();
    body
}

fn lines(text: &str, recipients: usize) -> String {
    let recipients = (0..recipients).map(|index| recipient(index).to_string() + "\n");
    format!("{}\n{}", head(text), recipients.collect::<String>())
}

#[tokio::test]
async fn the_same_key_and_body_are_one_broadcast_in_either_form() {
    let bodies = [
        (
            "application/json",
            whole("a", 3).to_string(),
            whole("a", 4).to_string(),
        ),
        (LINES, lines("a", 3), lines("a", 4)),
    ];
    for (form, body, other) in bodies {
        let intake = Fixture::new(Scripted::default(), |_| ());
        let post = async |key: &str, body: &str| {
            let (status, headers, answer) = intake.post_keyed_as(form, PATH, key, body.to_owned()).await;
            (
                status.as_u16(),
                headers.contains_key("idempotency-replayed"),
                answer,
            )
        };
        let (status, is_again, first) = post("k", &body).await;
        assert_eq!((status, is_again), (202, false), "{first}");
        let (chunks, is_dropped, said) = appended(&intake);
        assert_eq!((chunks.len(), is_dropped, said.is_some()), (2, false, true));
        // Written otherwise, it says the same.
        for body in [body.clone(), body.replace("\":", "\" : ")] {
            let (status, is_again, answer) = post("k", &body).await;
            assert_eq!((status, is_again, &answer), (202, true, &first));
            let (_, is_dropped, said) = appended(&intake);
            assert!(is_dropped && said.is_none(), "what it brought is void");
        }
        let (status, _, problem) = post("k", &other).await;
        assert_eq!(
            (status, &problem["errors"][0]["field"]),
            (422, &json!("Idempotency-Key")),
            "{problem}"
        );
        let (_, is_dropped, said) = appended(&intake);
        assert!(is_dropped && said.is_none());
        assert_eq!(post("", &body).await.0, 400);
        assert_eq!(post("other", &body).await.0, 202);
        assert!(appended(&intake).2.is_some());
    }
}

#[tokio::test]
async fn what_is_refused_has_not_used_its_key_and_tenants_have_their_own() {
    let intake = Fixture::new(Scripted::default(), |_| ());
    let mut bad = whole("a", 2);
    bad["recipients"][1] = json!({});
    assert_eq!(intake.post_keyed(PATH, "k", bad.to_string()).await.0, 400);
    let (status, _, first) = intake.post_keyed(PATH, "k", whole("a", 2).to_string()).await;
    assert_eq!(status, 202, "{first}");
    let mut other = whole("a", 2);
    other["tenant"] = json!("acme");
    let (status, _, second) = intake.post_keyed(PATH, "k", other.to_string()).await;
    assert_eq!(status, 202, "{second}");
    assert_ne!(first["broadcastId"], second["broadcastId"]);
    // A broadcast's keys are not those of events.
    let (status, ..) = intake.post_keyed("/event", "k", crate::world::sms()).await;
    assert_eq!(status, 201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_at_once_over_several_instances_one_is_sent() {
    let instances = Fixture::several(Arc::default(), 3, |_| ());
    let body = lines("a", 5);
    // As many as one tenant may upload at once.
    let posts = (0..12).map(|n| instances[n % 3].post_keyed_as(LINES, PATH, "the one", body.clone()));
    let answers = futures_util::future::join_all(posts).await;
    let id = &answers[0].2["broadcastId"];
    for (status, _, answer) in &answers {
        assert_eq!((status.as_u16(), &answer["broadcastId"]), (202, id), "{answer}");
    }
    let records = instances[0].broker.appended.lock().unwrap();
    let said = records.iter().filter(|record| record.topic == Topic::Control);
    assert_eq!(said.count(), 1);
}

#[tokio::test]
async fn what_may_have_been_said_is_looked_for_and_not_said_again() {
    for lands in [true, false] {
        let broker = Scripted {
            lands: lands.into(),
            fails_on: Some(Topic::Control),
            ..Scripted::default()
        };
        let intake = Fixture::new(broker, |_| ());
        let reason = "timed out".to_owned();
        *intake.broker.fails.lock().unwrap() = Some(AppendError::Unconfirmed { reason });
        let (status, _, problem) = intake.post_keyed(PATH, "k", whole("a", 3).to_string()).await;
        assert_eq!(status, 503, "{problem}");
        let records = intake.broker.appended.lock().unwrap().clone();
        assert!(
            records
                .iter()
                .all(|record| !record.value.as_ref().unwrap().starts_with(br#"{"dropped"#)),
            "it may be sent, so its chunks are not void"
        );
        *intake.broker.fails.lock().unwrap() = None;
        let (status, headers, answer) = intake.post_keyed(PATH, "k", whole("a", 3).to_string()).await;
        assert_eq!(status, 202, "{answer}");
        assert_eq!(headers.contains_key("idempotency-replayed"), lands);
        let id = answer["broadcastId"].as_str().unwrap();
        assert_eq!(
            problem["detail"].as_str().unwrap().contains(id),
            lands,
            "{problem}"
        );
        let records = intake.broker.appended.lock().unwrap();
        let said = records.iter().filter(|record| record.topic == Topic::Control);
        assert_eq!(said.count(), 1, "lands: {lands}");
    }
}

#[tokio::test]
async fn without_the_store_only_what_has_a_key_is_refused() {
    let intake = Fixture::without_store();
    let (status, headers, problem) = intake.post_keyed(PATH, "k", whole("a", 1).to_string()).await;
    assert_eq!(status, 503, "{problem}");
    assert!(headers.contains_key("retry-after"));
    assert!(appended(&intake).2.is_none());
    let (status, _, answer) = ask(&intake, "POST", PATH, &[], &whole("a", 1)).await;
    assert_eq!(status, 202, "{answer}");
    // How far it is can be told, though not what became of it.
    let path = format!("{PATH}/{}", answer["broadcastId"].as_str().unwrap());
    let (status, _, answer) = ask(&intake, "GET", &path, &[], &Json::Null).await;
    let data = &answer["progress"]["data"];
    assert_eq!(
        (status.as_u16(), &data["remaining"]),
        (200, &json!(1)),
        "{answer}"
    );
    assert_eq!(data["eventsProblem"], "the status store does not answer");
    assert_eq!(data.get("events"), None);
}

#[tokio::test]
async fn no_tenant_keeps_the_others_from_broadcasting() {
    let intake = Fixture::new(Scripted::default(), |_| ());
    let post = async |tenant: &str| {
        let mut body = whole("a", 1);
        body["tenant"] = json!(tenant);
        let (status, headers, answer) = ask(&intake, "POST", PATH, &[], &body).await;
        assert_eq!(status == 503, headers.contains_key("retry-after"), "{answer}");
        (status.as_u16(), answer)
    };
    for _ in 0..5 {
        assert_eq!(post("loud").await.0, 202);
    }
    let (status, problem) = post("loud").await;
    assert_eq!(status, 503, "{problem}");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("broadcast.tenant_unfinished_max"), "{detail}");
    for (tenant, expected) in [("a", 202), ("b", 202), ("c", 503)] {
        let (status, answer) = post(tenant).await;
        assert_eq!(status, expected, "{answer}");
    }
}
