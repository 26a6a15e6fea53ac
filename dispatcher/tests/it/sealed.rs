//! Sealed payloads: opened right before the send, waited for when their key is not there, and never told.

use std::time::Duration;

use posthaste_dispatcher::LaneName;
use posthaste_event::{Channel, ErrorKind, Failure, Status, Topic, delivery::WaitReason, payload::Payload};
use posthaste_sealing::{Bound, Ring, Scope};
use posthaste_testkit::{ScriptedProvider, Step};
use serde_json::value::RawValue;

use crate::rig::{Event, Rig, Scripted, settings};

const NOW: i64 = 1_790_000_000_000;
const CLEAR: &str = r#"{"message":"your code is 4711","phoneNumber":"+12025555555"}"#;

/// An event whose payload was sealed for the event `bound_to`.
fn sealed(ring: &Ring, id: &str, bound_to: &str) -> Event {
    let scope = Scope {
        tenant: "default",
        channel: Channel::Sms,
        event_id: bound_to,
    };
    let clear = RawValue::from_string(CLEAR.to_owned()).unwrap();
    let payload = ring.seal(&scope, Bound::Event, &clear).unwrap();
    Event {
        payload: Box::leak(payload.get().to_owned().into_boxed_str()),
        ..Event::new(id)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_opens_is_sent_and_what_does_not_is_given_up_or_waits() {
    let rig = Rig::new().await;
    let mut ring = Ring::generate(NOW).unwrap();
    let before_rotation = sealed(&ring, "old", "old");
    ring.rotate(NOW).unwrap();
    let other = Ring::generate(NOW).unwrap();
    let records = vec![
        before_rotation.record(),
        sealed(&ring, "fails", "fails").record(),
        sealed(&ring, "moved", "elsewhere").record(),
        sealed(&other, "waits", "waits").record(),
    ];
    rig.keys.take_up(ring);
    let echo = "'To' +12025555555 is not valid for: YOUR CODE IS 4711";
    let twilio = ScriptedProvider::new("twilio", &[Channel::Sms], move |message, _| {
        match &*message.event_id {
            "old" | "waits" => Step::Accept,
            "fails" => Step::Fail(
                Failure::new(ErrorKind::RateLimited, "twilio", Some("20429".into()), echo)
                    .retry_after(Some(7)),
            ),
            other => panic!("{other} must not be sent"),
        }
    });
    let accounts = Scripted::new(&[(&twilio, 8, Duration::from_secs(5))]);
    let lane = rig.start("i1", LaneName::Default, &accounts, settings());
    rig.append(records).await;
    let seen = rig.wait_until(|seen| seen.facts.len() == 4).await;

    let (topic, old) = seen.only("old");
    assert_eq!((*topic, old.status), (Topic::Status, Status::Sent));
    let (topic, moved) = seen.only("moved");
    let error = moved.error.as_ref().unwrap();
    assert_eq!((*topic, moved.attempt), (Topic::DeadLetter, 0));
    assert_eq!(
        (error.kind, error.code.as_deref()),
        (ErrorKind::Unreadable, Some("sealed"))
    );
    let (topic, failed) = seen.only("fails");
    let error = failed.error.as_ref().unwrap();
    assert_eq!(
        (*topic, error.kind, error.code.as_deref()),
        (Topic::Failed, ErrorKind::RateLimited, Some("20429"))
    );
    assert_eq!(error.retry_after_ms, Some(7));
    assert_eq!(error.message, "'To' +*** is not valid for: *** *** IS ***");
    assert_eq!(failed.failures[0].message, error.message);
    let (topic, waits) = seen.only("waits");
    assert!(topic.is_delay());
    assert_eq!((waits.status, waits.attempt), (Status::Pending, 0));
    let wheel = waits.wheel.as_ref().unwrap();
    assert_eq!(wheel.reason, WaitReason::Key);
    let wait_ms = waits.due_at.unwrap() - waits.at;
    assert!((1_000..=60_000).contains(&wait_ms), "{wait_ms}");
    assert!(rig.keys.check().unwrap_err().contains(other.active()));

    let messages = twilio.messages();
    let old = messages.iter().find(|message| message.event_id == "old").unwrap();
    let Payload::Sms(sms) = &old.payload else {
        panic!("{old:?}")
    };
    assert_eq!(sms.message, "your code is 4711");
    assert!(old.sealed.is_some());

    rig.keys.take_up(other);
    assert!(rig.keys.check().is_ok());
    let waits = sealed(&rig.keys.ring().unwrap(), "waits", "waits");
    rig.append(vec![waits.record()]).await;
    let is_sent = |(topic, _): &(Topic, _)| *topic == Topic::Status;
    rig.wait_until(|seen| {
        seen.facts
            .get("waits")
            .is_some_and(|facts| facts.iter().any(is_sent))
    })
    .await;
    lane.stop().await;
}
