//! What is heard, what is meant by it, and what is forgotten.

use posthaste_broker::Partition;
use posthaste_event::{Channel, EventView, Priority, Value, Work, control::Wish, delivery::Accepted};
use serde_json::value::RawValue;

use super::*;

const CREATED: Millis = 1_790_000_000_000;

fn delivery(id: &str, scheduled_at: Option<Millis>) -> Delivery {
    let accepted = Accepted {
        id: id.to_owned(),
        correlation_id: "c".to_owned(),
        tenant: "acme".to_owned(),
        channel: Channel::Sms,
        priority: Priority::Normal,
        provider: None,
        scheduled_at,
        expires_at: None,
        policy: Default::default(),
    };
    Delivery::accepted(accepted, "i", CREATED).0
}

fn record(topic: Topic, key: &str, value: Option<bytes::Bytes>) -> Record {
    Record {
        partition: Partition { topic, number: 0 },
        offset: 0,
        key: Some(bytes::Bytes::copy_from_slice(key.as_bytes())),
        value,
        appended_at: CREATED,
        headers: None,
    }
}

fn work(delivery: &Delivery, key: &str) -> Record {
    let payload = RawValue::from_string("{}".to_owned()).unwrap();
    let event = EventView {
        event_id: delivery.id.clone(),
        tenant: "acme".to_owned(),
        channel: Channel::Sms,
        priority: Priority::Normal,
        payload: &payload,
        metadata: None,
        provider: None,
        ordering_key: None,
        scheduled_at: None,
        expires_at: None,
    };
    let work = Work {
        delivery: delivery.clone(),
        event: event.to_bytes().unwrap(),
    };
    record(Topic::DelayNear, key, Some(Value::Work(work).encode().unwrap()))
}

fn cancel(id: &str, key: &str, generation: u32) -> Record {
    let asked = Cancel {
        event_id: id.to_owned(),
        created_at: CREATED,
        generation,
        at: CREATED + 1,
        unknown: Default::default(),
    };
    let key = cancel::key(key, id);
    record(Topic::Cancel, &key, Some(asked.encode().unwrap()))
}

fn reschedule(id: &str, due: Millis, at: Millis) -> Record {
    let asked = Control::Reschedule(Reschedule {
        event_id: id.to_owned(),
        created_at: CREATED,
        scheduled_at: due,
        at,
        unknown: Default::default(),
    });
    record(Topic::Control, &asked.key(), Some(asked.encode().unwrap()))
}

fn retry_now(id: &str, step: u32) -> Record {
    let asked = Control::RetryNow(RetryNow {
        event_id: id.to_owned(),
        step,
        at: CREATED + 1,
        unknown: Default::default(),
    });
    record(Topic::Control, &asked.key(), Some(asked.encode().unwrap()))
}

fn hear(requests: &Requests, records: Vec<Record>) {
    requests.on_news(News::Records(records));
}

fn keys(records: Vec<NewRecord>) -> Vec<String> {
    assert!(records.iter().all(|record| record.value.is_none()));
    let key = |record: NewRecord| String::from_utf8(record.key.to_vec()).unwrap();
    records.into_iter().map(key).collect()
}

#[test]
fn the_generation_that_is_meant_is_withdrawn_and_no_other() {
    let requests = Requests::default();
    let first = delivery("e1", None);
    assert!(!requests.cancels(&first));
    hear(&requests, vec![cancel("e1", "e1", 0)]);
    assert!(requests.cancels(&first));
    assert!(!requests.cancels(&delivery("e2", None)));
    let mut again = first.clone();
    again.generation = 1;
    assert!(!requests.cancels(&again), "a replay is not meant");
    let mut other = first.clone();
    other.created_at += 1;
    assert!(!requests.cancels(&other), "another event with the same id");
    // With an ordering key the record's key is not the id.
    hear(&requests, vec![cancel("e3", "acme/k#7", 0)]);
    let ordered = work(&delivery("e3", None), "acme/k#7");
    assert_eq!(requests.wanted(&ordered), Some(Wanted::Cancel));
    let value = ordered.value.as_deref();
    assert_eq!(keys(requests.forgets(b"acme/k#7", value, None)), ["acme/k#7#e3"]);
    hear(&requests, vec![record(Topic::Cancel, "acme/k#7#e3", None)]);
    assert_eq!(requests.wanted(&ordered), None);
    // An id that its client chose goes where there is room.
    hear(&requests, vec![cancel("e4", "e4", 0)]);
    let placed = work(&delivery("e4", None), "e4+11");
    assert_eq!(requests.wanted(&placed), Some(Wanted::Cancel));
    assert_eq!(keys(requests.forgets(b"e4+11", None, None)), ["e4#e4"]);
}

#[test]
fn what_was_handed_over_of_a_cancelled_broadcast_is_withdrawn() {
    let told = |tenant: Option<&str>| {
        let state = BroadcastState {
            id: "b1".to_owned(),
            state: Wish::Cancelled,
            at: CREATED + 10,
            tenant: tenant.map(str::to_owned),
            unknown: Default::default(),
        };
        let value = Control::BroadcastState(state).encode().unwrap();
        record(Topic::Control, "broadcast/b1/cancel", Some(value))
    };
    let of_broadcast = |id: &str| {
        let mut delivery = delivery(id, None);
        delivery.correlation_id = "b1".to_owned();
        delivery
    };
    let event = of_broadcast("e1");
    let requests = Requests::default();
    hear(&requests, vec![told(None)]);
    assert!(
        requests.is_empty(),
        "said by a version that left alone what was handed over"
    );
    hear(&requests, vec![told(Some("acme"))]);
    assert!(requests.cancels(&event) && !requests.is_full());
    assert_eq!(requests.wanted(&work(&event, "e1")), Some(Wanted::Cancel));
    let others = [
        delivery("e2", None),
        Delivery {
            tenant: "other".to_owned(),
            ..of_broadcast("e3")
        },
        Delivery {
            generation: 1,
            ..of_broadcast("e4")
        },
        Delivery {
            created_at: CREATED + 3_600_000,
            ..of_broadcast("e5")
        },
    ];
    for other in others {
        assert!(!requests.cancels(&other), "{other:?}");
        assert_eq!(requests.wanted(&work(&other, &other.id)), None);
    }
    // It outlives that the topics are lost sight of, if it still stands there.
    requests.on_news(News::Away("gone".into()));
    hear(&requests, vec![told(Some("acme"))]);
    requests.on_news(News::AllRead);
    assert!(requests.cancels(&event));
    hear(
        &requests,
        vec![record(Topic::Control, "broadcast/b1/cancel", None)],
    );
    assert!(!requests.cancels(&event) && requests.is_empty());
}

#[test]
fn the_latest_time_counts_and_what_came_meanwhile_is_not_forgotten() {
    let requests = Requests::default();
    let scheduled = work(&delivery("e1", Some(CREATED + 20_000)), "e1");
    hear(&requests, vec![reschedule("e1", 7, CREATED + 2)]);
    hear(&requests, vec![reschedule("e1", 5, CREATED + 1)]);
    let (due, asked_at) = (7, CREATED + 2);
    let wanted = Some(Wanted::Reschedule { due, asked_at });
    assert_eq!(requests.wanted(&scheduled), wanted);
    hear(&requests, vec![reschedule("e1", 9, CREATED + 3)]);
    let done = keys(requests.forgets(b"e1", None, wanted));
    assert_eq!(
        done,
        ["reschedule/e1/1790000000001", "reschedule/e1/1790000000002"]
    );
    for key in done {
        hear(&requests, vec![record(Topic::Control, &key, None)]);
    }
    let (due, asked_at) = (9, CREATED + 3);
    let wanted = Some(Wanted::Reschedule { due, asked_at });
    assert_eq!(requests.wanted(&scheduled), wanted);
    // To withdraw it counts more; what waits for something else keeps its time.
    hear(&requests, vec![cancel("e1", "e1", 0)]);
    assert_eq!(requests.wanted(&scheduled), Some(Wanted::Cancel));
    hear(&requests, vec![record(Topic::Cancel, "e1#e1", None)]);
    let mut parked = delivery("e1", None);
    parked.park(WaitReason::Rate, CREATED + 9, "i", CREATED);
    assert_eq!(requests.wanted(&work(&parked, "e1")), None);
}

#[test]
fn what_waits_for_its_next_try_may_go_now_and_what_was_scheduled_may_not() {
    let requests = Requests::default();
    hear(&requests, vec![retry_now("e1", 1), retry_now("e2", 0)]);
    let mut parked = delivery("e1", None);
    parked.park(WaitReason::Rate, CREATED + 9, "i", CREATED);
    assert_eq!(requests.wanted(&work(&parked, "e1")), Some(Wanted::RetryNow));
    parked.step += 1;
    assert_eq!(requests.wanted(&work(&parked, "e1")), None, "a later wait");
    let scheduled = delivery("e2", Some(CREATED + 20_000));
    assert_eq!(requests.wanted(&work(&scheduled, "e2")), None);
}

#[test]
fn what_was_forgotten_while_nobody_listened_is_forgotten() {
    let requests = Requests::default();
    hear(&requests, vec![cancel("e1", "e1", 0), cancel("e2", "e2", 0)]);
    requests.on_news(News::AllRead);
    assert!(requests.is_known() && requests.of("e1").is_some());
    requests.on_news(News::Away("a test".to_owned()));
    assert!(requests.is_known(), "what is known is better than nothing");
    hear(&requests, vec![cancel("e2", "e2", 0)]);
    assert!(requests.of("e1").is_some(), "not all is read again");
    requests.on_news(News::AllRead);
    assert!(requests.of("e1").is_none() && requests.of("e2").is_some());
}

#[test]
fn what_is_not_ours_is_left_alone() {
    let requests = Requests::default();
    let asked = cancel("e1", "e1", 0).value;
    hear(
        &requests,
        vec![
            record(Topic::Cancel, "e1", asked.clone()),
            record(Topic::Cancel, "e1#e2", asked.clone()),
            record(Topic::Cancel, "e1#e1", Some(bytes::Bytes::from_static(b"{}"))),
            record(Topic::Control, "retry-now/e1", asked.clone()),
            record(Topic::Control, "reschedule/e1/7", retry_now("e1", 1).value),
            record(Topic::Control, "replay/e1", asked),
        ],
    );
    assert!(requests.is_empty());
}

#[test]
fn memory_is_bounded_and_there_is_room_again() {
    let requests = Requests::default();
    let id = |number: usize| format!("e{number}");
    let many = |from: usize, to: usize| (from..to).map(|number| retry_now(&id(number), 1)).collect();
    hear(&requests, many(0, OPEN_MAX));
    assert!(requests.is_full());
    hear(&requests, many(OPEN_MAX, HEARD_MAX + 1));
    assert!(requests.of(&id(HEARD_MAX - 1)).is_some() && requests.of(&id(HEARD_MAX)).is_none());
    hear(&requests, vec![record(Topic::Control, "retry-now/e0", None)]);
    hear(&requests, many(HEARD_MAX, HEARD_MAX + 1));
    assert!(requests.of(&id(HEARD_MAX)).is_some());
}

#[test]
fn those_that_stand_long_are_found_in_turns() {
    let requests = Requests::default();
    hear(
        &requests,
        (0..5).map(|n| retry_now(&format!("e{n}"), 1)).collect(),
    );
    let ids = |before, after: &str| -> Vec<String> {
        let old = requests.asked_before(before, after, 2);
        old.into_iter().map(|(id, _)| id).collect()
    };
    assert!(ids(CREATED, "").is_empty());
    assert_eq!(ids(CREATED + 2, ""), ["e0", "e1"]);
    assert_eq!(ids(CREATED + 2, "e1"), ["e2", "e3"]);
    assert_eq!(ids(CREATED + 2, "e3"), ["e4"]);
}

#[test]
fn whoever_holds_no_record_finds_by_its_names_what_may_be_asked() {
    let requests = Requests::default();
    let names = |id: &str, correlation_id: &str| {
        let mut delivery = delivery(id, None);
        delivery.correlation_id = correlation_id.to_owned();
        Names::of(&work(&delivery, "acme/k#7")).unwrap()
    };
    let may_mean = |id, correlation_id| requests.named().may_mean(names(id, correlation_id));
    assert!(!may_mean("e1", "b1"));
    hear(&requests, vec![cancel("e1", "acme/k#7", 0)]);
    assert!(may_mean("e1", "c"));
    assert!(!may_mean("e2", "c"));
    let cancelled = Control::BroadcastState(BroadcastState {
        id: "b1".to_owned(),
        state: Wish::Cancelled,
        at: CREATED + 10,
        tenant: Some("acme".to_owned()),
        unknown: Default::default(),
    });
    let key = "broadcast/b1/cancel";
    hear(
        &requests,
        vec![record(Topic::Control, key, Some(cancelled.encode().unwrap()))],
    );
    assert!(may_mean("e2", "b1"));
    let unreadable = record(Topic::DelayNear, "e1", Some("{".into()));
    assert_eq!(Names::of(&unreadable), None);
    assert_eq!(Names::of(&record(Topic::DelayNear, "e1", None)), None);
}
