//! What the intake seals: every event that is to be, by whatever path it comes.

use std::sync::Arc;

use posthaste_broker::AppendError;
use posthaste_event::{Value, Work};
use posthaste_sealing::{Ring, Scope, is_sealed};
use serde_json::{Value as Json, json};

use crate::world::{Fixture, ask};

const NOW: i64 = 1_790_000_000_000;
const TEXT: &str = "your code is 4711";

/// Two rings that are the same.
fn rings() -> (Option<Ring>, Arc<Ring>) {
    let ring = Ring::generate(NOW).unwrap();
    let same = Ring::parse(&ring.secret_text()).unwrap();
    (Some(ring), Arc::new(same))
}

fn sms(tenant: &str, metadata: Json) -> Json {
    let payload = json!({"message": TEXT, "phoneNumber": "2025555555"});
    json!({"channel": "sms", "tenant": tenant, "metadata": metadata, "payload": payload})
}

fn stored(intake: &Fixture) -> Vec<Work> {
    let appended = intake.broker.appended.lock().unwrap();
    let values = appended
        .iter()
        .map(|record| Value::decode(record.value.as_ref().unwrap()).unwrap());
    let works = values.filter_map(|value| match value {
        Value::Work(work) => Some(work),
        _ => None,
    });
    works.collect()
}

/// The payload in clear, of an event that holds nothing of it otherwise.
fn opened(work: &Work, ring: &Ring) -> Json {
    let view = work.event.view().unwrap();
    assert!(is_sealed(view.payload));
    let bytes = work.encode().unwrap();
    let text = std::str::from_utf8(&bytes).unwrap();
    assert!(!text.contains("4711") && !text.contains("2025555555"), "{text}");
    let scope = Scope {
        tenant: &work.delivery.tenant,
        channel: work.delivery.channel,
        event_id: &work.delivery.id,
    };
    serde_json::from_str(ring.open(&scope, view.payload).unwrap().get()).unwrap()
}

#[tokio::test]
async fn an_event_that_asks_for_it_is_sealed_and_no_other() {
    let (ring, same) = rings();
    let intake = Fixture::sealing(ring, |_| ());
    for metadata in [
        json!({}),
        json!({"requiresEncryption": false}),
        json!({"requiresEncryption": null}),
    ] {
        let (status, ..) = intake
            .post("application/json", sms("acme", metadata).to_string())
            .await;
        assert_eq!(status, 201);
    }
    assert!(
        stored(&intake)
            .iter()
            .all(|work| !is_sealed(work.event.view().unwrap().payload))
    );
    let wanted = sms("acme", json!({"requiresEncryption": true, "provider": "twilio"}));
    let mut named = wanted.clone();
    named["eventId"] = json!("mine");
    assert_eq!(intake.post("application/json", wanted.to_string()).await.0, 201);
    assert_eq!(intake.post("application/json", named.to_string()).await.0, 201);
    let many = json!([wanted, sms("acme", json!({})), wanted]);
    assert_eq!(intake.post_many("/events", None, &many).await.0, 201);
    let works = stored(&intake);
    let sealed: Vec<bool> = works
        .iter()
        .map(|work| is_sealed(work.event.view().unwrap().payload))
        .collect();
    assert_eq!(sealed, [false, false, false, true, true, true, false, true]);
    for work in works
        .iter()
        .zip(sealed)
        .filter_map(|(work, is_sealed)| is_sealed.then_some(work))
    {
        assert_eq!(opened(work, &same), wanted["payload"]);
        assert_eq!(work.delivery.provider.as_deref(), Some("twilio"));
    }
    assert_eq!(works[4].delivery.id, "acme~mine");
}

#[tokio::test]
async fn settings_seal_by_tenant_channel_or_all() {
    for (index, sealed) in [[true, false], [true, true], [true, true]]
        .into_iter()
        .enumerate()
    {
        let (ring, same) = rings();
        let intake = Fixture::sealing(ring, |settings| match index {
            0 => settings.tenants = vec!["acme".to_owned()],
            1 => settings.channels = vec!["sms".to_owned()],
            _ => settings.all = true,
        });
        for (tenant, is_sealed_then) in ["acme", "other"].into_iter().zip(sealed) {
            // That an event does not ask for it is no wish to go without.
            let event = sms(tenant, json!({"requiresEncryption": false}));
            assert_eq!(intake.post("application/json", event.to_string()).await.0, 201);
            let last = stored(&intake).pop().unwrap();
            assert_eq!(is_sealed(last.event.view().unwrap().payload), is_sealed_then);
            if is_sealed_then {
                assert_eq!(opened(&last, &same), event["payload"]);
            }
        }
    }
}

#[tokio::test]
async fn messages_of_templates_are_sealed_as_they_were_rendered() {
    let (ring, same) = rings();
    let intake = Fixture::sealing(ring, |settings| settings.tenants = vec!["acme".to_owned()]);
    let template = json!({"channels": {"sms": {"en": {"message": "your code is {{ code }}"}}}});
    for (path, body) in [
        ("/configs/c?tenant=acme", json!({"channel": "sms"})),
        ("/templates/t?tenant=acme", template),
    ] {
        assert_eq!(ask(&intake, "PUT", path, &[], &body).await.0, 201, "{path}");
    }
    let message = json!({
        "tenant": "acme", "channel": "2025555555", "configCode": "c", "templateCode": "t", "payload": {"code": "4711"},
    });
    let (status, _, answer) = ask(&intake, "POST", "/messages/request", &[], &message).await;
    assert_eq!(status, 201, "{answer}");
    let works = stored(&intake);
    assert_eq!(opened(&works[0], &same)["message"], TEXT);
}

#[tokio::test]
async fn without_keys_whoever_asks_is_refused_and_nothing_is_stored() {
    for settings in [false, true] {
        let intake = Fixture::sealing(None, |encryption| encryption.all = settings);
        let event = sms("acme", json!({"requiresEncryption": !settings}));
        let (status, _, problem) = intake.post("application/json", event.to_string()).await;
        assert_eq!(status, 400);
        assert_eq!(
            problem["errors"][0]["field"], "metadata.requiresEncryption",
            "{problem}"
        );
        let many = json!([event]);
        let (_, _, answer) = intake.post_many("/events", None, &many).await;
        assert!(
            answer.to_string().contains("metadata.requiresEncryption"),
            "{answer}"
        );
        assert_eq!(intake.stored(), 0);
    }
}

#[tokio::test]
async fn wishes_in_other_words_and_sealed_payloads_of_clients_are_refused() {
    let (ring, same) = rings();
    let intake = Fixture::sealing(ring, |_| ());
    let envelope =
        json!({"kid": same.active(), "alg": "A256GCM", "nonce": "AAAAAAAAAAAAAAAA", "data": "AAAA"});
    let channels = [
        ("sms", json!({"message": "x", "phoneNumber": "2025555555"})),
        ("webhook", json!({"url": "https://example.com/", "body": {}})),
        ("in_app", json!({"recipient": "r", "title": "t", "body": "b"})),
        ("slack", json!({"channel": "#general", "text": "x"})),
        ("push", json!({"title": "t", "body": "b", "token": "x"})),
        (
            "email",
            json!({"to": "a@example.com", "from": "b@example.com", "subject": "s", "body": "b"}),
        ),
    ];
    for (channel, payload) in channels {
        let mut with = payload.clone();
        with["$sealed"] = envelope.clone();
        for payload in [with, json!({"$sealed": envelope})] {
            let event = json!({"channel": channel, "payload": payload});
            let (status, _, problem) = intake.post("application/json", event.to_string()).await;
            assert_eq!(status, 400, "{channel}: {problem}");
            let errors = problem["errors"].as_array().unwrap();
            assert!(
                errors.iter().any(|error| error["field"] == "payload.$sealed"),
                "{problem}"
            );
        }
    }
    for wish in [json!("true"), json!(1), json!([]), json!({})] {
        let event = sms("acme", json!({"requiresEncryption": wish}));
        let (status, _, problem) = intake.post("application/json", event.to_string()).await;
        assert_eq!(
            (status.as_u16(), &problem["errors"][0]["field"]),
            (400, &json!("metadata.requiresEncryption"))
        );
    }
    assert_eq!(intake.stored(), 0);
}

/// What came of the first is not known: the second appends the event under the first one's id, and it opens under that.
#[tokio::test]
async fn an_event_that_is_taken_over_by_its_key_opens_under_the_name_that_it_gets() {
    let (ring, same) = rings();
    let intake = Fixture::sealing(ring, |_| ());
    let event = sms("acme", json!({"requiresEncryption": true}));
    *intake.broker.fails.lock().unwrap() = Some(AppendError::Unconfirmed {
        reason: "timed out".into(),
    });
    let (status, _, problem) = intake.post_keyed("/event", "k", event.to_string()).await;
    assert_eq!(status, 503, "{problem}");
    *intake.broker.fails.lock().unwrap() = None;
    let (status, _, answer) = intake.post_keyed("/event", "k", event.to_string()).await;
    assert_eq!((status.as_u16(), &answer["eventId"]), (201, &problem["eventId"]));
    let works = stored(&intake);
    assert_eq!(
        (works.len(), json!(works[0].delivery.id)),
        (1, answer["eventId"].clone())
    );
    assert_eq!(opened(&works[0], &same), event["payload"]);
}

/// What was asked for with a key is recognised after a rotation, too, and told from what was not.
#[tokio::test]
async fn the_same_key_and_body_get_the_same_answer_over_a_rotation() {
    let (ring, same) = rings();
    let mut rotated = Ring::parse(&same.secret_text()).unwrap();
    rotated.rotate(NOW).unwrap();
    let intake = Fixture::sealing(ring, |_| ());
    let event = sms("acme", json!({"requiresEncryption": true}));
    let (_, _, first) = intake.post_keyed("/event", "k", event.to_string()).await;
    intake.keys.take_up(rotated);
    let (status, headers, again) = intake.post_keyed("/event", "k", event.to_string()).await;
    assert_eq!((status.as_u16(), &again), (201, &first));
    assert_eq!(headers["idempotency-replayed"], "true");
    let mut other = event.clone();
    other["payload"]["message"] = json!("your code is 4712");
    assert_eq!(intake.post_keyed("/event", "k", other.to_string()).await.0, 422);
    assert_eq!(intake.stored(), 1);
}
