//! Pushes to a user, who has devices.

use std::sync::atomic::Ordering;

use posthaste_definitions::suppressions::Reason;
use posthaste_dispatcher::LaneName;
use posthaste_event::{
    Channel, Failure, Status, Topic, Value,
    failure::{ErrorKind, Reported},
    payload::Payload,
};
use posthaste_sealing::{Bound, Ring, Scope};
use posthaste_store::Device;
use posthaste_testkit::{ScriptedProvider, Step, broker_suite::contents};
use serde_json::{json, value::RawValue};
use tokio::time::timeout;

use crate::rig::{Event, LIMIT, Rig, Scripted, settings};

fn device(tenant: &str, user: &str, id: &str) -> Device {
    Device {
        id: id.to_owned(),
        tenant: tenant.to_owned(),
        user: user.to_owned(),
        token: format!("token-{id}"),
        provider: None,
        at: 0,
        expires_at: None,
    }
}

fn push(id: &str, payload: &'static str) -> Event {
    Event {
        channel: Channel::Push,
        payload,
        ..Event::new(id)
    }
}

const FOR_ANN: &str = r#"{"title":"t","body":"b","user":"ann"}"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_push_to_a_user_becomes_one_for_each_device() {
    let rig = Rig::new().await;
    timeout(LIMIT, rig.suppressions.known()).await.unwrap();
    *rig.devices.devices.lock().unwrap() = vec![
        device("default", "ann", "d1"),
        device("default", "ann", "d2"),
        device("default", "ann", "gone"),
        device("default", "bob", "d3"),
        device("other", "ann", "d4"),
    ];
    let firebase = ScriptedProvider::new("firebase", &[Channel::Push], |message, _| {
        if message.event_id == "e.gone" {
            let (kind, code) = (ErrorKind::Permanent, Some("UNREGISTERED".to_owned()));
            let failure = Failure::new(kind, "firebase", code, "gone");
            return Step::Fail(failure.reporting(Some(Reported::Bounced)));
        }
        Step::Accept
    });
    let accounts = Scripted::new(&[(&firebase, 8, LIMIT)]);
    let first = rig.start("i1", LaneName::Default, &accounts, settings());
    let retry = rig.start("i2", LaneName::Retry, &accounts, settings());
    rig.append(vec![push("e", FOR_ANN).record()]).await;
    let seen = rig
        .wait_until(|seen| {
            seen.facts
                .values()
                .flatten()
                .filter(|(on, _)| *on == Topic::Status)
                .count()
                == 3
        })
        .await;
    let (topic, end) = seen.only("e");
    assert_eq!(
        (*topic, end.status, end.attempt),
        (Topic::Status, Status::Sent, 0)
    );
    let note = &seen.notes[0];
    assert_eq!((&*note.kind, &*note.event_id), ("devices", "e"));
    assert_eq!(note.data["events"][0], json!({"device": "d1", "eventId": "e.d1"}));
    for id in ["d1", "d2"] {
        let facts = &seen.facts[&format!("e.{id}")];
        // One reader follows all topics, and may come to one sooner than to another.
        assert!(facts.iter().any(|(on, _)| *on == Topic::Retry), "{facts:#?}");
        assert!(
            facts
                .iter()
                .any(|(on, of)| *on == Topic::Status && of.status == Status::Sent)
        );
    }
    let mut tokens: Vec<String> = firebase
        .messages()
        .iter()
        .map(|message| match &message.payload {
            Payload::Push(push) if push.user.is_none() => push.token.clone().unwrap(),
            other => panic!("{other:?}"),
        })
        .collect();
    tokens.sort();
    assert_eq!(tokens, ["token-d1", "token-d2", "token-gone"]);

    // What the provider said of one of them holds for the next push, and the device goes.
    let now = posthaste_event::clock::now();
    let is_known = async {
        let mut changes = rig.suppressions.changes();
        while rig
            .suppressions
            .reason("default", Channel::Push, "token-gone", now)
            != Some(Reason::Bounced)
        {
            changes.changed().await.unwrap();
        }
    };
    timeout(LIMIT, is_known).await.unwrap();
    rig.append(vec![push("f", FOR_ANN).record()]).await;
    let seen = rig.wait_until(|seen| seen.notes.len() == 2).await;
    let note = seen.notes.iter().find(|note| note.event_id == "f").unwrap();
    assert_eq!(note.data["events"].as_array().unwrap().len(), 2, "{note:?}");
    let left = rig.devices.devices.lock().unwrap().clone();
    assert!(
        left.len() == 4 && left.iter().all(|device| device.id != "gone"),
        "{left:?}"
    );
    first.stop().await;
    retry.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_device_it_is_given_up_and_without_the_store_it_waits() {
    let rig = Rig::new().await;
    let firebase = ScriptedProvider::new("firebase", &[Channel::Push], |message, _| {
        panic!("{} must not be sent", message.event_id)
    });
    let accounts = Scripted::new(&[(&firebase, 8, LIMIT)]);
    rig.devices.is_away.store(true, Ordering::SeqCst);
    let lane = rig.start("i1", LaneName::Default, &accounts, settings());
    rig.append(vec![push("waits", FOR_ANN).record()]).await;
    let seen = rig.wait_until(|seen| !seen.waiting().is_empty()).await;
    let (topic, waiting) = seen.only("waits");
    assert!(topic.is_delay(), "{topic}");
    assert_eq!((waiting.status, waiting.attempt), (Status::Pending, 0));
    rig.devices.is_away.store(false, Ordering::SeqCst);
    rig.append(vec![push("nobody", FOR_ANN).record()]).await;
    let seen = rig.wait_until(|seen| seen.on(Topic::DeadLetter) == 1).await;
    let (_, dead) = seen.only("nobody");
    let error = dead.error.as_ref().unwrap();
    assert_eq!(
        (error.kind, error.code.as_deref()),
        (ErrorKind::Permanent, Some("no_device"))
    );
    assert!(rig.devices.asked.load(Ordering::SeqCst) >= 2);
    lane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sealed_for_a_user_is_sealed_for_the_devices() {
    let rig = Rig::new().await;
    let ring = Ring::generate(0).unwrap();
    let scope = |event_id| Scope {
        tenant: "default",
        channel: Channel::Push,
        event_id,
    };
    let clear = RawValue::from_string(FOR_ANN.replace("\"b\"", "\"your code is 4711\"")).unwrap();
    let sealed = ring.seal(&scope("e"), Bound::Event, &clear).unwrap();
    rig.keys.take_up(ring);
    *rig.devices.devices.lock().unwrap() = vec![device("default", "ann", "d1")];
    let firebase = ScriptedProvider::new("firebase", &[Channel::Push], |_, _| Step::Accept);
    let accounts = Scripted::new(&[(&firebase, 8, LIMIT)]);
    let lane = rig.start("i1", LaneName::Default, &accounts, settings());
    let retry = rig.start("i2", LaneName::Retry, &accounts, settings());
    let payload = Box::leak(sealed.get().to_owned().into_boxed_str());
    rig.append(vec![push("e", payload).record()]).await;
    rig.wait_until(|seen| {
        let facts = seen.facts.get("e.d1").into_iter().flatten();
        facts.into_iter().any(|(_, of)| of.status == Status::Sent)
    })
    .await;
    let messages = firebase.messages();
    let [message] = &messages[..] else {
        panic!("{messages:?}")
    };
    assert!(matches!(&message.payload, Payload::Push(push)
        if push.body == "your code is 4711" && push.token.as_deref() == Some("token-d1")));
    let mut found = 0;
    for record in contents(&*rig.broker, Topic::Retry).await {
        let Ok(Value::Work(work)) = Value::decode(record.value.as_ref().unwrap()) else {
            continue;
        };
        let text = String::from_utf8_lossy(work.event.as_slice()).into_owned();
        assert!(
            text.contains("$sealed") && !text.contains("4711") && !text.contains("token-d1"),
            "{text}"
        );
        let view = work.event.view().unwrap();
        let opened = rig.keys.open(&scope("e.d1"), view.payload).unwrap();
        assert!(opened.get().contains("token-d1"), "{opened}");
        found += 1;
    }
    assert_eq!(found, 1);
    lane.stop().await;
    retry.stop().await;
}
