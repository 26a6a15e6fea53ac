//! What is forgotten, and what is left to who holds the event.

use posthaste_broker::{News, Partition, Record};
use posthaste_event::{
    Channel, Topic,
    cancel::{self, Cancel},
    control::{Control, Reschedule, RetryNow},
};
use posthaste_store::{Change, State};

use super::*;

const CREATED: Millis = 1_790_000_000_000;
const NOW: Millis = CREATED + 60_000;

fn record(topic: Topic, key: String, value: bytes::Bytes) -> Record {
    Record {
        partition: Partition { topic, number: 0 },
        offset: 0,
        key: Some(key.into()),
        value: Some(value),
        appended_at: NOW,
        headers: None,
    }
}

/// Everything that can be asked of an event that waits with step 3.
fn asked() -> Open {
    let unknown = Default::default;
    let cancelled = Cancel {
        event_id: "e1".to_owned(),
        created_at: CREATED,
        generation: 1,
        at: NOW,
        unknown: unknown(),
    };
    let reschedule = Control::Reschedule(Reschedule {
        event_id: "e1".to_owned(),
        created_at: CREATED,
        scheduled_at: NOW + 1,
        at: NOW,
        unknown: unknown(),
    });
    let retry_now = Control::RetryNow(RetryNow {
        event_id: "e1".to_owned(),
        step: 3,
        at: NOW,
        unknown: unknown(),
    });
    let key = cancel::key("default/k", "e1");
    let mut records = vec![record(Topic::Cancel, key, cancelled.encode().unwrap())];
    for asked in [reschedule, retry_now] {
        records.push(record(Topic::Control, asked.key(), asked.encode().unwrap()));
    }
    let requests = Requests::default();
    requests.on_news(News::Records(records));
    requests.of("e1").unwrap()
}

fn document(created_at: Millis, generation: u32, step: u32, status: Status) -> Document {
    let delivery = posthaste_event::delivery::Accepted {
        id: "e1".to_owned(),
        correlation_id: "c".to_owned(),
        tenant: "default".to_owned(),
        channel: Channel::Sms,
        priority: Default::default(),
        provider: None,
        scheduled_at: None,
        expires_at: None,
        policy: Default::default(),
    };
    let (delivery, _) = posthaste_event::Delivery::accepted(delivery, "i", created_at);
    let mut fold = posthaste_store::Fold::default();
    fold.add(posthaste_event::Value::Outcome(delivery));
    let change = fold.into_changes().remove(0);
    let state = change.state.clone().map(|state| State {
        step,
        status,
        generation,
        ..state
    });
    Change { state, ..change }.into_document()
}

fn forgotten(document: Option<&Document>, now: Millis) -> Vec<String> {
    let records = overtaken("e1", &asked(), document, now);
    assert!(records.iter().all(|record| record.value.is_none()));
    records
        .into_iter()
        .map(|record| String::from_utf8(record.key.to_vec()).unwrap())
        .collect()
}

const CANCEL: &str = "default/k#e1";
const RESCHEDULE: &str = "reschedule/e1/1790000060000";
const RETRY: &str = "retry-now/e1";

#[test]
fn what_may_still_be_done_stays_and_what_came_too_late_goes() {
    for (generation, step, status, expected) in [
        (1, 3, Status::Scheduled, vec![]),
        (1, 3, Status::Retrying, vec![RESCHEDULE]),
        (1, 4, Status::Pending, vec![RESCHEDULE, RETRY]),
        (1, 4, Status::Sent, vec![CANCEL, RESCHEDULE, RETRY]),
        // An earlier end, before the replay that is meant.
        (0, 2, Status::DeadLettered, vec![RESCHEDULE, RETRY]),
        // Another replay.
        (2, 5, Status::Pending, vec![CANCEL, RESCHEDULE, RETRY]),
    ] {
        let document = document(CREATED, generation, step, status);
        assert_eq!(
            forgotten(Some(&document), NOW),
            expected,
            "{generation} {step} {status}"
        );
    }
}

#[test]
fn what_was_asked_of_another_event_with_the_same_id_goes() {
    let document = document(CREATED + 1, 1, 3, Status::Scheduled);
    assert_eq!(forgotten(Some(&document), NOW), [CANCEL, RESCHEDULE]);
}

#[test]
fn an_event_whose_document_is_lost_may_still_be_there() {
    assert!(forgotten(None, NOW).is_empty());
    assert_eq!(
        forgotten(None, NOW + UNHEARD_OF_MS + 1),
        [CANCEL, RESCHEDULE, RETRY]
    );
}
