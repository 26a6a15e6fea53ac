//! Recipients who are to get nothing.

use std::sync::Arc;

use posthaste_broker::Broker;
use posthaste_definitions::suppressions::{Body, Reason, Wanted};
use posthaste_dispatcher::LaneName;
use posthaste_event::{
    Channel, Failure, Millis, Status, Topic, Value, clock,
    failure::{ErrorKind, Reported},
    payload::Payload,
};
use posthaste_testkit::{ScriptedProvider, Step};
use serde_json::json;
use tokio::time::timeout;

use crate::rig::{Event, LIMIT, Rig, Scripted, settings};

async fn suppress(rig: &Rig, channel: Channel, recipient: &str, reason: Reason, until: Option<Millis>) {
    let (id, shown) = rig.suppressions.id("default", channel, recipient).unwrap();
    let wanted = [Wanted {
        tenant: "default".to_owned(),
        channel,
        id,
        body: Body {
            reason,
            recipient: shown,
            source: None,
            until,
        },
    }];
    let log = Arc::clone(&rig.broker) as Arc<dyn Broker>;
    timeout(LIMIT, rig.suppressions.known()).await.unwrap();
    let put = rig.suppressions.put(&log, &wanted, "me", clock::now());
    put.await.unwrap();
}

fn event(id: &str, payload: &'static str, metadata: Option<&'static str>) -> Event {
    Event {
        payload,
        metadata,
        ..Event::new(id)
    }
}

const ANN: &str = r#"{"message":"hi","phoneNumber":"+1 202 555 5501"}"#;
const BOB: &str = r#"{"message":"hi","phoneNumber":"2025555502"}"#;
const EVE: &str = r#"{"message":"hi","phoneNumber":"+12025555503"}"#;
const WISH: Option<&str> = Some(r#"{"ignoreUnsubscribe":true}"#);

#[tokio::test(flavor = "multi_thread")]
async fn an_event_for_somebody_suppressed_is_skipped_and_says_why() {
    let rig = Rig::new().await;
    suppress(&rig, Channel::Sms, "12025555501", Reason::Bounced, None).await;
    // Who unsubscribes from what bounces is no less out of reach.
    suppress(&rig, Channel::Sms, "12025555501", Reason::Unsubscribed, None).await;
    suppress(
        &rig,
        Channel::Sms,
        "+12025555502",
        Reason::Unsubscribed,
        Some(clock::now() + 86_400_000),
    )
    .await;
    suppress(&rig, Channel::Email, "eve@example.com", Reason::Complained, None).await;
    let twilio = ScriptedProvider::new("twilio", &[Channel::Sms], |message, _| match &*message.event_id {
        "eve" | "receipt" | "next" => Step::Accept,
        other => panic!("{other} must not be sent"),
    });
    let accounts = Scripted::new(&[(&twilio, 8, LIMIT)]);
    let ordered = |id: &str, payload| Event {
        ordering_key: Some("k".to_owned()),
        ..event(id, payload, None)
    };
    let events = [
        event("ann", ANN, None),
        event("bob", BOB, None),
        event("eve", EVE, None),
        event("receipt", BOB, WISH),
        event("bounced", ANN, WISH),
        event("no wish", BOB, Some(r#"{"ignoreUnsubscribe":"true"}"#)),
        event("no object", BOB, Some("[true]")),
        ordered("first", ANN),
        ordered("next", EVE),
    ];
    rig.append(events.iter().map(Event::record).collect()).await;
    let lane = rig.start("i1", LaneName::Default, &accounts, settings());
    let seen = rig.wait_until(|seen| seen.facts.len() == 9).await;
    for (id, code) in [
        ("ann", "suppressed_bounced"),
        ("bob", "suppressed_unsubscribed"),
        ("bounced", "suppressed_bounced"),
        ("no wish", "suppressed_unsubscribed"),
        ("no object", "suppressed_unsubscribed"),
        ("first", "suppressed_bounced"),
    ] {
        let (topic, end) = seen.only(id);
        assert_eq!(
            (*topic, end.status, end.attempt),
            (Topic::Status, Status::Skipped, 0),
            "{id}"
        );
        let error = end.error.as_ref().unwrap();
        assert_eq!(error.code.as_deref(), Some(code), "{id}");
        assert!(error.message.contains("+12***0"), "{}", error.message);
        assert!(!error.message.contains("2025555"), "{}", error.message);
    }
    for id in ["eve", "receipt", "next"] {
        assert_eq!(seen.only(id).1.status, Status::Sent, "{id}");
    }
    assert_eq!(lane.metrics.skipped(Channel::Sms).get(), 6);
    lane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_suppressed_between_two_tries_gets_nothing_from_then_on() {
    let rig = Rig::new().await;
    suppress(&rig, Channel::Sms, "+12025555599", Reason::Manual, None).await;
    let twilio = ScriptedProvider::new("twilio", &[Channel::Sms], |_, _| {
        Step::Fail(Failure::new(
            ErrorKind::Ambiguous,
            "twilio",
            Some("timeout".to_owned()),
            "no answer",
        ))
    });
    let accounts = Scripted::new(&[(&twilio, 8, LIMIT)]);
    let lane = rig.start("i1", LaneName::Default, &accounts, settings());
    rig.append(vec![event("ann", ANN, None).record()]).await;
    let seen = rig.wait_until(|seen| seen.facts.len() == 1).await;
    let (topic, failed) = seen.only("ann");
    assert_eq!((*topic, failed.status), (Topic::Failed, Status::Retrying));
    suppress(&rig, Channel::Sms, "+12025555501", Reason::Complained, None).await;
    // Its next try, as the retry service would have it.
    let mut again = event("ann", ANN, None).record();
    let Ok(Value::Work(mut work)) = Value::decode(again.value.as_ref().unwrap()) else {
        panic!("an event")
    };
    work.delivery = failed.clone();
    again.value = Some(work.encode().unwrap());
    rig.append(vec![again]).await;
    let seen = rig.wait_until(|seen| seen.on(Topic::Status) == 1).await;
    let (_, end) = seen.facts["ann"]
        .iter()
        .find(|(topic, _)| *topic == Topic::Status)
        .unwrap();
    assert_eq!((end.status, end.attempt), (Status::Skipped, 1));
    let error = end.error.as_ref().unwrap();
    // Nobody knows whether the first one arrived.
    assert_eq!(
        (error.kind, error.code.as_deref()),
        (ErrorKind::Ambiguous, Some("suppressed_complained"))
    );
    assert_eq!(twilio.messages().len(), 1);
    lane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_whom_a_provider_reports_it_nothing_is_sent_any_more() {
    for is_on in [true, false] {
        let rig = Rig::new().await;
        timeout(LIMIT, rig.suppressions.known()).await.unwrap();
        suppress(&rig, Channel::Sms, "+12025555503", Reason::Manual, None).await;
        let refuse = |message: &posthaste_provider::Message| {
            let reported = match &*message.event_id {
                "ann" => Reported::Unsubscribed,
                _ => Reported::Bounced,
            };
            let (kind, code) = (ErrorKind::Permanent, Some("code".to_owned()));
            Step::Fail(Failure::new(kind, "them", code, "never again").reporting(Some(reported)))
        };
        let twilio = ScriptedProvider::new("twilio", &[Channel::Sms], move |message, _| refuse(message));
        let sendgrid =
            ScriptedProvider::new("sendgrid", &[Channel::Email], move |message, _| refuse(message));
        let accounts = Scripted::new(&[(&twilio, 8, LIMIT), (&sendgrid, 8, LIMIT)]);
        let email = |id: &str, payload| Event {
            channel: Channel::Email,
            ..event(id, payload, None)
        };
        let settings = posthaste_dispatcher::Settings {
            suppress_reported: is_on,
            ..settings()
        };
        let lane = rig.start("i1", LaneName::Default, &accounts, settings);
        rig.append(vec![
            event("ann", ANN, None).record(),
            event("bob", BOB, None).record(),
            email("one", r#"{"subject":"s","body":"b","from":"us@example.com","to":["one@example.com"]}"#).record(),
            email(
                "two",
                r#"{"subject":"s","body":"b","from":"us@example.com","to":["ann@example.com","eve@example.com"]}"#,
            )
            .record(),
        ])
        .await;
        let seen = rig.wait_until(|seen| seen.facts.len() == 4).await;
        for id in ["ann", "bob", "one", "two"] {
            assert_eq!(
                seen.only(id).1.error.as_ref().unwrap().code.as_deref(),
                Some("code")
            );
        }
        if is_on {
            let heard = async {
                let mut changes = rig.suppressions.changes();
                while rig
                    .suppressions
                    .list("default", None, None, clock::now(), 9)
                    .len()
                    < 4
                {
                    changes.changed().await.unwrap();
                }
            };
            timeout(LIMIT, heard).await.unwrap();
        }
        let reason = |channel, recipient: &str| {
            rig.suppressions
                .reason("default", channel, recipient, clock::now())
        };
        let found = [
            reason(Channel::Sms, "+12025555501"),
            reason(Channel::Sms, "+12025555502"),
            reason(Channel::Email, "one@example.com"),
        ];
        let wanted = [Reason::Unsubscribed, Reason::Bounced, Reason::Bounced];
        assert_eq!(found, wanted.map(|reason| is_on.then_some(reason)));
        // Of which of the two it is true nobody said.
        assert_eq!(reason(Channel::Email, "ann@example.com"), None);
        assert_eq!(reason(Channel::Sms, "+12025555503"), Some(Reason::Manual));
        lane.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_an_emails_recipients_only_those_who_may_get_it_do() {
    let rig = Rig::new().await;
    for name in ["ann", "bob"] {
        suppress(
            &rig,
            Channel::Email,
            &format!("{name}@example.com"),
            Reason::Bounced,
            None,
        )
        .await;
    }
    let sendgrid = ScriptedProvider::new("sendgrid", &[Channel::Email], |_, _| Step::Accept);
    let accounts = Scripted::new(&[(&sendgrid, 8, LIMIT)]);
    let email = |id: &str, payload| Event {
        channel: Channel::Email,
        ..event(id, payload, None)
    };
    rig.append(vec![
        email(
            "some",
            r#"{"subject":"s","body":"b","from":"us@example.com","cc":"Bob <BOB@example.com>","bcc":["x@example.com"],
                "to":["Ann <ann@example.com>","eve@example.com"]}"#,
        )
        .record(),
        email(
            "none",
            r#"{"subject":"s","body":"b","from":"us@example.com","to":"ann@example.com","cc":"eve@example.com"}"#,
        )
        .record(),
    ])
    .await;
    let lane = rig.start("i1", LaneName::Default, &accounts, settings());
    let seen = rig
        .wait_until(|seen| seen.facts.len() == 2 && seen.notes.len() == 1)
        .await;
    assert_eq!(seen.only("none").1.status, Status::Skipped);
    assert_eq!(seen.only("some").1.status, Status::Sent);
    let messages = sendgrid.messages();
    let [message] = &messages[..] else {
        panic!("{messages:?}")
    };
    let Payload::Email(email) = &message.payload else {
        panic!("{message:?}")
    };
    assert_eq!(email.to.as_slice(), ["eve@example.com"]);
    assert_eq!(email.cc, None);
    assert_eq!(email.bcc.as_ref().unwrap().as_slice(), ["x@example.com"]);
    let note = &seen.notes[0];
    assert_eq!((&*note.kind, &*note.event_id), ("recipientsSuppressed", "some"));
    assert_eq!(
        note.data,
        json!({"recipients": [
            {"recipient": "a***@example.com", "reason": "bounced"},
            {"recipient": "b***@example.com", "reason": "bounced"},
        ]})
    );
    lane.stop().await;
}
