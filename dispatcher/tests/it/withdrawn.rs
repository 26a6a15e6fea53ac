//! Events that are withdrawn while a lane has them.

use std::time::Duration;

use posthaste_broker::NewRecord;
use posthaste_dispatcher::LaneName;
use posthaste_event::{
    Channel, ErrorKind, Status, Topic, Value,
    cancel::{self, Cancel},
    clock,
};
use posthaste_testkit::{ScriptedProvider, Step};
use tokio::time::timeout;

use crate::rig::{Event, LIMIT, Rig, Scripted, settings};

const SMS: &[Channel] = &[Channel::Sms];

fn withdraw(record: &NewRecord) -> NewRecord {
    let Ok(Value::Work(work)) = Value::decode(record.value.as_ref().unwrap()) else {
        panic!("an event")
    };
    let asked = Cancel {
        event_id: work.delivery.id.clone(),
        created_at: work.delivery.created_at,
        generation: 0,
        at: clock::now(),
        unknown: Default::default(),
    };
    let key = cancel::key(str::from_utf8(&record.key).unwrap(), &work.delivery.id);
    NewRecord::new(Topic::Cancel, key, asked.encode().unwrap())
}

async fn heard(rig: &Rig, id: &str) {
    let mut changes = rig.requests.changes();
    let hearing = async {
        while rig.requests.of(id).is_none() {
            changes.changed().await.unwrap();
        }
    };
    timeout(LIMIT, hearing).await.unwrap();
}

async fn forgotten(rig: &Rig, id: &str) {
    let forgetting = async {
        while rig.requests.of(id).is_some() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LIMIT, forgetting).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_withdrawn_before_a_lane_begins_is_not_sent() {
    let rig = Rig::new().await;
    let twilio = ScriptedProvider::new("twilio", SMS, |message, _| match &*message.event_id {
        "goes" => Step::Accept,
        other => panic!("{other} must not be sent"),
    });
    let accounts = Scripted::new(&[(&twilio, 8, LIMIT)]);
    let gone = Event::new("gone").record();
    let ordered = Event {
        ordering_key: Some("k".to_owned()),
        ..Event::new("ordered")
    };
    let ordered = ordered.record();
    rig.append(vec![withdraw(&gone), withdraw(&ordered)]).await;
    rig.append(vec![gone, ordered, Event::new("goes").record()]).await;
    let lane = rig.start("i1", LaneName::Default, &accounts, settings());
    let seen = rig.wait_until(|seen| seen.facts.len() == 3).await;
    for id in ["gone", "ordered"] {
        let (topic, end) = seen.only(id);
        assert_eq!(
            (*topic, end.status, end.attempt, end.step),
            (Topic::Status, Status::Cancelled, 0, 1)
        );
        // Whoever had the lane before, and died, may have sent it.
        let error = end.error.as_ref().unwrap();
        assert_eq!(
            (error.kind, error.code.as_deref()),
            (ErrorKind::Ambiguous, Some("cancelled"))
        );
        forgotten(&rig, id).await;
    }
    assert_eq!(seen.only("goes").1.status, Status::Sent);
    assert_eq!(lane.metrics.cancelled(Channel::Sms).get(), 2);
    lane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_a_place_is_withdrawn_and_what_is_being_sent_is_not() {
    let rig = Rig::new().await;
    let twilio = ScriptedProvider::new("twilio", SMS, |message, _| match &*message.event_id {
        "first" => Step::Hold,
        "warm" => Step::Accept,
        other => panic!("{other} must not be sent"),
    });
    let accounts = Scripted::new(&[(&twilio, 1, LIMIT)]);
    let lane = rig.start("i1", LaneName::Default, &accounts, settings());
    // What comes from now on came after the partitions did: nobody else can have sent it.
    rig.append(vec![Event::new("warm").record()]).await;
    rig.wait_until(|seen| seen.facts.contains_key("warm")).await;
    let first = Event::new("first").record();
    rig.append(vec![first.clone()]).await;
    twilio.wait_for(2, LIMIT).await.unwrap();
    let second = Event::new("second").record();
    rig.append(vec![second.clone()]).await;
    rig.append(vec![withdraw(&first), withdraw(&second)]).await;
    heard(&rig, "first").await;
    heard(&rig, "second").await;
    twilio.release(1);
    let seen = rig
        .wait_until(|seen| seen.facts.contains_key("first") && seen.facts.contains_key("second"))
        .await;
    let (_, sent) = seen.only("first");
    assert_eq!((sent.status, sent.attempt), (Status::Sent, 1), "it was too late");
    let (topic, end) = seen.only("second");
    assert_eq!(
        (*topic, end.status, end.attempt, end.error.as_ref()),
        (Topic::Status, Status::Cancelled, 0, None)
    );
    // Neither stays asked for.
    forgotten(&rig, "first").await;
    forgotten(&rig, "second").await;
    lane.stop().await;
}
