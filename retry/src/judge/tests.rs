//! One record in, one record out: where it goes, and what it says then.

use std::sync::LazyLock;

use posthaste_broker::Partition;
use posthaste_definitions::Kind;
use posthaste_event::{
    Channel, EventView, Lane, Priority, Tier,
    delivery::{Accepted, Order, Policy},
    keys::{KeyState, OrderKey},
};

use super::*;

mod firings;

const NOW: Millis = 1_700_000_000_000;

fn accepted(priority: Priority, scheduled_at: Option<Millis>, expires_at: Option<Millis>) -> Work {
    let accepted = Accepted {
        id: "e1".into(),
        correlation_id: "c1".into(),
        tenant: "default".into(),
        channel: Channel::Sms,
        priority,
        provider: None,
        scheduled_at,
        expires_at,
        policy: Policy::NoLoss,
    };
    let payload = serde_json::value::to_raw_value(&serde_json::json!({"message": "hi"})).unwrap();
    let event = EventView {
        event_id: "e1".into(),
        tenant: "default".into(),
        channel: Channel::Sms,
        priority,
        payload: &payload,
        metadata: None,
        provider: None,
        ordering_key: None,
        scheduled_at,
        expires_at,
    };
    Work {
        delivery: Delivery::accepted(accepted, "here", NOW).0,
        event: event.to_bytes().unwrap(),
    }
}

fn failed(mut work: Work, kind: ErrorKind, times: usize) -> Work {
    for _ in 0..times {
        let failure = Failure::new(kind, "twilio", Some("503".into()), "busy");
        work.delivery = work.delivery.failed("twilio", "twilio", failure, "there", NOW);
    }
    work
}

fn record(topic: Topic, value: Option<Bytes>) -> Record {
    Record {
        partition: Partition { topic, number: 3 },
        offset: 17,
        key: Some(Bytes::from_static(b"default/k")),
        value,
        appended_at: NOW,
        headers: None,
    }
}

fn ask(topic: Topic, work: &Work, now: Millis, ask: Ask) -> (Topic, Value) {
    let record = record(topic, Some(work.encode().unwrap()));
    let metrics = Metrics::default();
    let Outcome {
        output: outcome,
        said,
        ..
    } = judge(&Arc::new(Rules::shipped().unwrap()), &metrics, now).outcome(&record, ask);
    assert_eq!(
        said.is_some(),
        work.delivery.order.is_some() && says(ask, outcome.topic)
    );
    assert_eq!(
        outcome.key, "default/k",
        "the key decides the partition on every topic"
    );
    (outcome.topic, Value::decode(&outcome.value.unwrap()).unwrap())
}

fn says(ask: Ask, topic: Topic) -> bool {
    ask == Ask::Verdict || matches!(topic, Topic::Status | Topic::DeadLetter)
}

static NO_SCHEDULES: LazyLock<Definitions> = LazyLock::new(|| {
    let settings = posthaste_definitions::Settings {
        bytes_max: 1 << 20,
        suppressions_max: 1,
        suppressions_country_code: "1".to_owned(),
    };
    Definitions::new(&[Kind::Schedule], settings)
});

fn judge<'a>(rules: &'a Arc<Rules>, metrics: &'a Metrics, now: Millis) -> Judge<'a> {
    Judge {
        rules,
        prefix: "events",
        by: "me",
        schedules: &NO_SCHEDULES,
        metrics,
        now,
    }
}

#[test]
fn a_failure_is_tried_again_by_the_rules() {
    let work = failed(accepted(Priority::Normal, None, None), ErrorKind::Rejected, 3);
    let (topic, value) = ask(Topic::Failed, &work, NOW, Ask::Verdict);
    let Value::Work(moved) = value else {
        panic!("{value:?}")
    };
    assert_eq!((topic, moved.event), (Topic::DelayNear, work.event));
    let delivery = moved.delivery;
    assert_eq!(
        (
            delivery.step,
            delivery.due_at,
            delivery.provider.as_deref(),
            delivery.account,
            delivery.by.as_str()
        ),
        (4, Some(NOW + 1_000), Some("messagebird"), None, "me")
    );
    assert_eq!(delivery.rule.unwrap().id, "sms-twilio");
}

#[test]
fn a_critical_failure_stays_on_critical_topics() {
    let work = failed(accepted(Priority::Critical, None, None), ErrorKind::Rejected, 1);
    let (topic, value) = ask(Topic::FailedCritical, &work, NOW, Ask::Verdict);
    assert_eq!(topic, Topic::DelayNearCritical);
    let Value::Work(work) = value else {
        panic!("{value:?}")
    };
    let (topic, _) = ask(topic, &work, NOW + 1_000, Ask::Move);
    assert_eq!(
        (topic, work.delivery.lane),
        (Topic::RetryCritical, Lane::RetryCritical)
    );
}

#[test]
fn a_permanent_failure_becomes_a_dead_letter_with_its_reason() {
    let work = failed(accepted(Priority::Normal, None, None), ErrorKind::Permanent, 1);
    let (topic, value) = ask(Topic::Failed, &work, NOW, Ask::Verdict);
    let Value::Work(letter) = value else {
        panic!("{value:?}")
    };
    let delivery = letter.delivery;
    assert_eq!(
        (topic, delivery.status),
        (Topic::DeadLetter, Status::DeadLettered)
    );
    let error = delivery.error.unwrap();
    assert_eq!(
        (error.kind, error.message.as_str()),
        (ErrorKind::Permanent, "busy")
    );
    assert_eq!(delivery.failures.len(), 1);
}

#[test]
fn what_expired_before_its_next_try_ends_as_expired() {
    let work = failed(
        accepted(Priority::Normal, None, Some(NOW + 500)),
        ErrorKind::Rejected,
        1,
    );
    let (topic, value) = ask(Topic::Failed, &work, NOW + 500, Ask::Verdict);
    let Value::Outcome(delivery) = value else {
        panic!("{value:?}")
    };
    assert_eq!((topic, delivery.status), (Topic::Status, Status::Expired));

    let (topic, value) = ask(Topic::Failed, &work, NOW, Ask::Verdict);
    let Value::Work(waits) = value else {
        panic!("{value:?}")
    };
    let waiting = record(topic, Some(waits.encode().unwrap()));
    assert_eq!(
        looks_at_record(&waiting, NOW),
        NOW + 500,
        "it wakes when it expires"
    );
    let (topic, value) = ask(topic, &waits, NOW + 500, Ask::Move);
    let Value::Outcome(delivery) = value else {
        panic!("{value:?}")
    };
    assert_eq!((topic, delivery.status), (Topic::Status, Status::Expired));
    assert_eq!(delivery.error.unwrap().kind, ErrorKind::Expired);
}

#[test]
fn a_move_says_nothing_new() {
    let work = accepted(Priority::Normal, Some(NOW + 100_000), None);
    let (topic, value) = ask(Topic::Delay(Tier::S30), &work, NOW + 30_000, Ask::Move);
    let Value::Work(moved) = value else {
        panic!("{value:?}")
    };
    assert_eq!(topic, Topic::Delay(Tier::S30));
    assert_eq!((moved.delivery.step, moved.delivery.is_fact()), (0, false));
    let (topic, _) = ask(topic, &moved, NOW + 70_000, Ask::Move);
    assert_eq!(topic, Topic::DelayNear);
    let (topic, _) = ask(topic, &moved, NOW + 80_000, Ask::MakeRoom);
    assert_eq!(topic, Topic::Delay(Tier::S8));
    let (topic, value) = ask(topic, &moved, NOW + 100_000, Ask::Move);
    let Value::Work(due) = value else {
        panic!("{value:?}")
    };
    assert_eq!((topic, due.delivery.step), (Topic::Retry, 0));
}

#[test]
fn no_wait_is_endless() {
    let mut parked = accepted(Priority::Normal, None, None);
    let day = 86_400_000;
    parked
        .delivery
        .park(WaitReason::Circuit, NOW + 3 * day, "there", NOW);
    let (topic, value) = ask(Topic::DelayNear, &parked, NOW + 3 * day, Ask::Move);
    let Value::Work(letter) = value else {
        panic!("{value:?}")
    };
    assert_eq!(topic, Topic::DeadLetter);
    assert_eq!(letter.delivery.error.unwrap().code.as_deref(), Some("max_age"));

    let scheduled = accepted(Priority::Normal, Some(NOW + 30 * day), None);
    let (topic, _) = ask(Topic::DelayNear, &scheduled, NOW + 40 * day, Ask::Move);
    assert_eq!(
        topic,
        Topic::Retry,
        "its age counts from when it was scheduled for"
    );
}

#[test]
fn what_cannot_be_read_or_has_no_business_here_is_kept_as_a_foreign_letter() {
    let sent = accepted(Priority::Normal, None, None)
        .delivery
        .sent("twilio", "twilio", None, "there", NOW);
    let unattempted = accepted(Priority::Normal, None, None);
    let mut ended = accepted(Priority::Normal, None, None);
    ended.delivery = sent.clone();
    for (value, reason) in [
        (Some(Bytes::from_static(b"\xff{")), "not a record of ours"),
        (None, "no value"),
        (Some(Value::Outcome(sent).encode().unwrap()), "not an event"),
        (Some(unattempted.encode().unwrap()), "an event that is PENDING"),
        (Some(ended.encode().unwrap()), "an event that is SENT"),
    ] {
        let record = record(Topic::Failed, value.clone());
        let metrics = Metrics::default();
        let rules = Arc::new(Rules::shipped().unwrap());
        let outcome = judge(&rules, &metrics, NOW).outcome(&record, Ask::Verdict).output;
        let Value::Foreign(foreign) = Value::decode(&outcome.value.unwrap()).unwrap() else {
            panic!("not foreign")
        };
        assert!(foreign.reason.contains(reason), "{}", foreign.reason);
        assert_eq!(
            (
                outcome.topic,
                foreign.topic.as_str(),
                foreign.partition,
                foreign.offset
            ),
            (Topic::DeadLetter, "events.failed", 3, 17)
        );
        assert_eq!(foreign.value.is_some(), value.is_some());
        let ask = Ask::Bury { with_value: false };
        let outcome = judge(&rules, &metrics, NOW).outcome(&record, ask).output;
        assert!(outcome.value.unwrap().len() < 400);
    }
}

#[test]
fn a_tier_is_looked_at_when_its_time_is_over_and_never_after_the_event_wakes() {
    let tier = Topic::Delay(Tier::S8);
    assert_eq!(looks_at(tier, NOW, NOW + 20_000, NOW + 5), NOW + 8_000);
    // The broker's clock is ahead: its stamp lies in our future.
    assert_eq!(looks_at(tier, NOW + 60_000, NOW + 20_000, NOW + 5), NOW + 8_005);
    assert_eq!(looks_at(tier, NOW, NOW + 7_000, NOW), NOW + 7_000);
    // Something put an event of next year into a near topic.
    assert_eq!(
        looks_at(Topic::DelayNear, NOW, NOW + 31_536_000_000, NOW + 1),
        NOW + 1
    );
    assert_eq!(looks_at(tier, i64::MAX, i64::MIN, i64::MIN), i64::MIN);
    assert_eq!(looks_at(tier, i64::MAX, i64::MAX, i64::MAX), i64::MAX);
}

#[test]
fn leaving_the_wheel_is_told_with_why_and_when_it_was_due() {
    let mut work = failed(accepted(Priority::Normal, None, None), ErrorKind::Rejected, 1);
    let rules = Arc::new(Rules::shipped().unwrap());
    let metrics = Metrics::default();
    let at = |work: &Work, ask, now| {
        let record = record(Topic::DelayNear, Some(work.encode().unwrap()));
        let outcome = judge(&rules, &metrics, now).outcome(&record, ask);
        (outcome.output, outcome.left)
    };
    let (waiting, entered) = at(&work, Ask::Verdict, NOW);
    assert_eq!((waiting.topic, entered), (Topic::DelayNear, None));
    let Ok(Value::Work(inside)) = Value::decode(&waiting.value.unwrap()) else {
        panic!("not an event")
    };
    work = inside;
    let due = NOW + 1_000;
    let (released, left) = at(&work, Ask::Move, due + 7);
    let expected = Left {
        reason: WaitReason::Retry,
        due,
    };
    assert_eq!((released.topic, left), (Topic::Retry, Some(expected)));
    assert_eq!(metrics.route(Channel::Sms, Some("twilio")).retried.get(), 1);
}

/// What is said of the key of an event at place 7, whose predecessor is `after`.
fn said(work: &Work, topic: Topic, after: Option<u64>, now: Millis, ask: Ask) -> Option<keys::Said> {
    let mut work = work.clone();
    work.delivery.order = Some(Order {
        key: "default/k".to_owned(),
        seq: 7,
        after,
        nth: 3,
        unknown: serde_json::Map::new(),
    });
    let record = record(topic, Some(work.encode().unwrap()));
    let metrics = Metrics::default();
    let rules = Arc::new(Rules::shipped().unwrap());
    let said = judge(&rules, &metrics, now).outcome(&record, ask).said?;
    assert_eq!(said.topic, Topic::Keys);
    keys::read(&said.key, said.value.as_deref())
}

#[test]
fn those_behind_an_event_in_the_order_of_its_key_are_told() {
    let state = |state: KeyState| {
        let key = OrderKey {
            key: "default/k".to_owned(),
            critical: false,
        };
        Some(keys::Said::State(key, state.part(), Some(state)))
    };
    let done = state(KeyState::Done { seq: 7, nth: 3 });
    let gone = state(KeyState::Gone {
        seq: 7,
        after: 4,
        nth: 3,
    });

    // It waits for its next try, then it is given up: the next one goes.
    let retried = failed(accepted(Priority::Normal, None, None), ErrorKind::Rejected, 1);
    let until = NOW + 1_000;
    let waits = state(KeyState::Wait { seq: 7, until });
    assert_eq!(said(&retried, Topic::Failed, None, NOW, Ask::Verdict), waits);
    let hopeless = failed(accepted(Priority::Normal, None, None), ErrorKind::Permanent, 1);
    assert_eq!(said(&hopeless, Topic::Failed, None, NOW, Ask::Verdict), done);
    assert_eq!(
        said(
            &hopeless,
            Topic::Failed,
            None,
            NOW,
            Ask::Bury { with_value: false }
        ),
        done
    );

    // In the wheel: moving says nothing, an end before its turn is passed over when its turn comes.
    let mut waiting = accepted(Priority::Normal, None, Some(NOW + 500));
    waiting
        .delivery
        .park(WaitReason::Order, NOW + 60_000, "here", NOW);
    assert_eq!(
        said(&waiting, Topic::DelayNear, Some(4), NOW + 500, Ask::Move),
        gone
    );
    let mut waiting = accepted(Priority::Normal, None, None);
    waiting
        .delivery
        .park(WaitReason::Order, NOW + 60_000, "here", NOW);
    assert_eq!(
        said(&waiting, Topic::DelayNear, Some(4), NOW + 60_000, Ask::Move),
        None
    );
    let in_a_week = NOW + 7 * 86_400_000;
    assert_eq!(
        said(&waiting, Topic::DelayNear, Some(4), in_a_week, Ask::Move),
        gone
    );
    let mut waiting = retried.clone();
    waiting.delivery.expires_at = Some(NOW + 100);
    assert_eq!(said(&waiting, Topic::Failed, None, NOW + 100, Ask::Verdict), done);
}
