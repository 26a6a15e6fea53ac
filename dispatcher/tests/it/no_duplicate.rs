//! Events that must not go out twice: what is known of a send survives the dispatcher that began it.

use std::time::Duration;

use posthaste_dispatcher::LaneName;
use posthaste_event::{Channel, ErrorKind, Status, Topic, clock, delivery::Policy};
use posthaste_testkit::{ScriptedProvider, Step};

use crate::rig::{Event, LIMIT, Rig, Scripted, settings};

const SMS: &[Channel] = &[Channel::Sms];

fn event(id: &str) -> Event {
    Event {
        policy: Policy::NoDuplicate,
        ..Event::new(id)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_send_that_was_cut_off_is_in_doubt_and_not_repeated() {
    let rig = Rig::new().await;
    let twilio = ScriptedProvider::new("twilio", SMS, |_, before| match before {
        0..2 => Step::Hold,
        _ => Step::Accept,
    });
    let accounts = Scripted::new(&[(&twilio, 2, LIMIT)]);
    let first = rig.start("i1", LaneName::Default, &accounts, settings());
    rig.append(vec![
        event("once").record(),
        Event::new("at-least-once").record(),
        event("not-begun").record(),
    ])
    .await;
    twilio.wait_for(2, LIMIT).await.unwrap();
    let begun: Vec<_> = twilio
        .messages()
        .into_iter()
        .map(|message| message.event_id)
        .collect();
    first.crash().await;

    let second = rig.start("i2", LaneName::Default, &accounts, settings());
    let seen = rig.wait_until(|seen| seen.facts.len() == 3).await;
    second.stop().await;
    let sends = |id: &str| {
        let sent = twilio.messages();
        sent.iter().filter(|message| message.event_id == id).count()
    };
    for id in ["once", "at-least-once", "not-begun"] {
        let was_begun = begun.iter().any(|other| other == id);
        let (topic, delivery) = seen.only(id);
        if was_begun && id != "at-least-once" {
            let error = delivery.error.as_ref().unwrap();
            assert_eq!(
                (*topic, delivery.status),
                (Topic::Failed, Status::Retrying),
                "{id}"
            );
            assert_eq!(
                (error.kind, error.code.as_deref()),
                (ErrorKind::Ambiguous, Some("interrupted"))
            );
            assert_eq!(
                (delivery.attempt, delivery.provider.as_deref()),
                (1, Some("twilio"))
            );
            assert_eq!(sends(id), 1, "{id}");
        } else {
            assert_eq!((*topic, delivery.status), (Topic::Status, Status::Sent), "{id}");
            assert_eq!(sends(id), 1 + usize::from(was_begun), "{id}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_send_that_goes_well_is_marked_and_finished() {
    let rig = Rig::new().await;
    let twilio = ScriptedProvider::new("twilio", SMS, |message, _| match &*message.event_id {
        "hangs" => Step::Hang,
        _ => Step::Accept,
    });
    let accounts = Scripted::new(&[(&twilio, 8, Duration::from_millis(300))]);
    let lane = rig.start("i1", LaneName::Default, &accounts, settings());
    let mut records: Vec<_> = (0..50)
        .map(|number| event(&format!("e{number}")).record())
        .collect();
    records.push(event("hangs").record());
    rig.append(records).await;
    let seen = rig.wait_until(|seen| seen.facts.len() == 51).await;
    lane.stop().await;
    assert_eq!((seen.on(Topic::Status), twilio.messages().len()), (50, 51));
    let (topic, hangs) = seen.only("hangs");
    let error = hangs.error.as_ref().unwrap();
    assert_eq!((*topic, error.kind), (Topic::Failed, ErrorKind::Ambiguous));

    // Nothing of it is left for whoever comes next.
    let lane = rig.start("i2", LaneName::Default, &accounts, settings());
    rig.append(vec![event("last").record()]).await;
    let seen = rig.wait_until(|seen| seen.facts.contains_key("last")).await;
    lane.stop().await;
    assert_eq!(seen.only("last").1.status, Status::Sent);
    assert_eq!(twilio.messages().len(), 52);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_sent_before_the_mark_is_durable() {
    let rig = Rig::new().await;
    let twilio = ScriptedProvider::new("twilio", SMS, |_, _| Step::Accept);
    let accounts = Scripted::new(&[(&twilio, 8, LIMIT)]);
    rig.broker.stall(true);
    let lane = rig.start("i1", LaneName::Default, &accounts, settings());
    let expires = Event {
        expires_at: Some(clock::now() + 300),
        ..event("expires")
    };
    rig.append(vec![event("waits").record(), expires.record()]).await;
    rig.broker.wait_for_hops(2).await;
    assert!(twilio.messages().is_empty());
    while clock::now() <= expires.expires_at.unwrap() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    rig.broker.flow();
    let seen = rig.wait_until(|seen| seen.facts.len() == 2).await;
    lane.stop().await;
    assert_eq!(seen.only("waits").1.status, Status::Sent);
    assert_eq!(seen.only("expires").1.status, Status::Expired, "not sent late");
    assert_eq!(twilio.messages().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mark_that_is_refused_begins_nothing_and_the_event_comes_again() {
    let rig = Rig::new().await;
    let twilio = ScriptedProvider::new("twilio", SMS, |_, _| Step::Accept);
    let accounts = Scripted::new(&[(&twilio, 8, LIMIT)]);
    rig.broker.refuse(1);
    let lane = rig.start("i1", LaneName::Default, &accounts, settings());
    rig.append(vec![event("e").record()]).await;
    let seen = rig.wait_until(|seen| seen.facts.len() == 1).await;
    lane.stop().await;
    assert_eq!(
        (seen.only("e").1.status, twilio.messages().len()),
        (Status::Sent, 1)
    );
}
