//! Lanes whose outcomes cannot be recorded.

use std::time::Duration;

use posthaste_dispatcher::{LaneName, Settings};
use posthaste_event::{Channel, ErrorKind, Failure, Status, Topic};
use posthaste_testkit::{ScriptedProvider, Step};
use tokio::time::timeout;

use crate::rig::{Event, LIMIT, Rig, Running, Scripted, settings};

const SMS: &[Channel] = &[Channel::Sms];

async fn until(what: &str, holds: impl Fn() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(
        timeout(LIMIT, waiting).await.is_ok(),
        "waited in vain until {what}"
    );
}

fn is_well(lane: &Running) -> bool {
    lane.health.missing().is_empty()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_send_starts_while_outcomes_cannot_be_recorded() {
    let rig = Rig::new().await;
    let twilio = ScriptedProvider::new("twilio", SMS, |_, _| Step::Accept);
    let accounts = Scripted::new(&[(&twilio, 4, LIMIT)]);
    let lane = rig.start("i1", LaneName::Default, &accounts, settings());
    until("the lane is well", || is_well(&lane)).await;
    rig.broker.stall(false);
    until("the health check says so", || !is_well(&lane)).await;
    rig.append(
        (0..20)
            .map(|number| Event::new(format!("e{number}")).record())
            .collect(),
    )
    .await;
    rig.append_markers().await;
    rig.broker.wait_for_hops(4).await;
    assert_eq!(twilio.messages().len(), 0);
    rig.broker.flow();
    rig.wait_until(|seen| seen.on(Topic::Status) == 20).await;
    until("the lane is well again", || is_well(&lane)).await;
    lane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_standing_still_only_what_is_still_ours_is_sent() {
    let rig = Rig::new().await;
    let twilio = ScriptedProvider::new("twilio", SMS, |_, _| Step::Accept);
    let accounts = Scripted::new(&[(&twilio, 4, LIMIT)]);
    rig.broker.holds(None);
    let lane = rig.start("i1", LaneName::Default, &accounts, settings());
    rig.append(vec![Event::new("e").record()]).await;
    until("the event is in hand", || lane.health.missing().is_empty()).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(twilio.messages().len(), 0, "nobody knows yet");
    rig.broker.holds(Some(false));
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(twilio.messages().len(), 0, "somebody else has it");
    // What was given back comes again.
    rig.broker.holds(Some(true));
    rig.wait_until(|seen| seen.on(Topic::Status) == 1).await;
    assert_eq!(twilio.messages().len(), 1);
    lane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sends_that_are_not_recorded_are_bounded() {
    let rig = Rig::new().await;
    let twilio = ScriptedProvider::new("twilio", SMS, |_, _| Step::Accept);
    let accounts = Scripted::new(&[(&twilio, 4, LIMIT)]);
    let few = Settings {
        unrecorded_max: 10,
        ..settings()
    };
    let lane = rig.start("i1", LaneName::Default, &accounts, few);
    until("the lane is well", || is_well(&lane)).await;
    rig.broker.stall(true);
    rig.append(
        (0..200)
            .map(|number| Event::new(format!("e{number}")).record())
            .collect(),
    )
    .await;
    twilio.wait_for(10, LIMIT).await.unwrap();
    rig.append_markers().await;
    rig.broker.wait_for_hops(14).await;
    assert!(twilio.messages().len() <= 14, "{}", twilio.messages().len());
    rig.broker.flow();
    rig.wait_until(|seen| seen.on(Topic::Status) == 200).await;
    lane.stop().await;
    assert_eq!(twilio.messages().len(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_too_large_to_record_ends_the_event_and_is_not_sent_again() {
    let rig = Rig::with_record_bytes_max(2_048).await;
    let refused = Failure::new(ErrorKind::Rejected, "twilio", None, &"no ".repeat(200));
    let twilio = ScriptedProvider::new("twilio", SMS, move |_, _| Step::Fail(refused.clone()));
    let accounts = Scripted::new(&[(&twilio, 4, LIMIT)]);
    let lane = rig.start("i1", LaneName::Default, &accounts, settings());
    let text = "x".repeat(1_000);
    let large = Event {
        payload: format!(r#"{{"message":"{text}","phoneNumber":"+12025555555"}}"#).leak(),
        ..Event::new("large")
    };
    rig.append(vec![large.record()]).await;
    let seen = rig.wait_until(|seen| seen.facts.contains_key("large")).await;
    lane.stop().await;
    let (topic, given_up) = seen.only("large");
    assert_eq!((*topic, given_up.status), (Topic::Status, Status::DeadLettered));
    assert_eq!(
        given_up.error.as_ref().unwrap().code.as_deref(),
        Some("too_large")
    );
    assert_eq!(twilio.messages().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_known_is_recorded_when_a_lost_record_comes_back() {
    let rig = Rig::new().await;
    let twilio = ScriptedProvider::new("twilio", SMS, |_, _| Step::Accept);
    let accounts = Scripted::new(&[(&twilio, 4, LIMIT)]);
    let lane = rig.start("i1", LaneName::Default, &accounts, settings());
    rig.broker.refuse(30);
    rig.append(
        (0..50)
            .map(|number| Event::new(format!("e{number}")).record())
            .collect(),
    )
    .await;
    let seen = rig.wait_until(|seen| seen.on(Topic::Status) == 50).await;
    lane.stop().await;
    assert_eq!(seen.facts.len(), 50);
    assert_eq!(twilio.messages().len(), 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_was_lost_sight_of_is_taken_up_again() {
    let rig = Rig::new().await;
    let twilio = ScriptedProvider::new("twilio", SMS, |_, _| Step::Accept);
    let accounts = Scripted::new(&[(&twilio, 4, LIMIT)]);
    let impatient = Settings {
        queue_wait_ms_max: 100,
        stall_ms: 400,
        drain_ms: 100,
        ..settings()
    };
    let lane = rig.start("i1", LaneName::Default, &accounts, impatient);
    until("the lane is well", || is_well(&lane)).await;
    // A hop that is never answered, though the broker is well.
    rig.broker.stall(true);
    rig.append(vec![Event::new("e1").record()]).await;
    rig.broker.wait_for_hops(1).await;
    until("the health check says which", || {
        let missing = lane.health.missing();
        missing
            .iter()
            .any(|missing| format!("{missing:?}").contains("was not finished"))
    })
    .await;
    rig.broker.flow();
    rig.wait_until(|seen| seen.on(Topic::Status) == 1).await;
    until("the lane is well again", || is_well(&lane)).await;
    let keys: Vec<String> = twilio
        .messages()
        .into_iter()
        .map(|message| message.idempotency_key)
        .collect();
    assert!(keys.len() >= 2, "{keys:?}");
    assert!(keys.iter().all(|key| *key == keys[0]), "{keys:?}");
    rig.append(vec![Event::new("e2").record()]).await;
    rig.wait_until(|seen| seen.on(Topic::Status) == 2).await;
    lane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lane_that_hears_nothing_of_records_that_are_there_joins_again() {
    let rig = Rig::new().await;
    let twilio = ScriptedProvider::new("twilio", SMS, |_, _| Step::Accept);
    let accounts = Scripted::new(&[(&twilio, 4, LIMIT)]);
    let impatient = Settings {
        queue_wait_ms_max: 100,
        stall_ms: 400,
        drain_ms: 100,
        ..settings()
    };
    let lane = rig.start("i1", LaneName::Default, &accounts, impatient);
    until("the lane is well", || is_well(&lane)).await;
    rig.append(vec![Event::new("e1").record()]).await;
    rig.wait_until(|seen| seen.on(Topic::Status) == 1).await;
    rig.broker.deafen();
    rig.append(vec![Event::new("e2").record()]).await;
    until("the health check says where", || {
        let missing = lane.health.missing();
        missing
            .iter()
            .any(|missing| format!("{missing:?}").contains("was not read on from offset"))
    })
    .await;
    rig.wait_until(|seen| seen.on(Topic::Status) == 2).await;
    until("the lane is well again", || is_well(&lane)).await;
    lane.stop().await;
    assert_eq!(twilio.messages().len(), 2);
}
