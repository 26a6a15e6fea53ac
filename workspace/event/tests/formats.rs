//! The wire formats, frozen: a change that makes one of these files differ breaks running systems and their readers.
//!
//! `UPDATE_EXPECT=1 cargo test -p posthaste-event` rewrites the files; do that only for an addition.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

use bytes::Bytes;
use expect_test::expect_file;
use posthaste_event::{
    Answer, Channel, Delivery, ErrorKind, EventBytes, EventView, Failure, FieldError, Priority, Status,
    Topic, Value, Work,
    cancel::{self, Cancel},
    control::{
        Control, LetterFilter, LetterPlace, Replay, ReplayPart, ReplayShare, ReplayState, Reschedule,
        RetryNow, Wish,
    },
    definition::{Definition, Key, Kind},
    delivery::{Accepted, Policy, RuleRef},
    keys::{self, KeyState, OrderKey},
    record::{Foreign, Note, Replayed},
};
use serde_json::{Map, Value as Json, json, value::RawValue};

const NOW: i64 = 1_790_000_000_000;

fn event() -> EventBytes {
    let payload =
        RawValue::from_string(r#"{"message":"Test SMS",  "phoneNumber":"2025555555"}"#.to_owned()).unwrap();
    let metadata = RawValue::from_string(r#"{"campaign":"Grüße"}"#.to_owned()).unwrap();
    EventView {
        event_id: "0199a1b2-0000-7000-8000-000000000001".to_owned(),
        tenant: "acme".to_owned(),
        channel: Channel::Sms,
        priority: Priority::Normal,
        payload: &payload,
        metadata: Some(&metadata),
        provider: None,
        ordering_key: Some("order-17".to_owned()),
        scheduled_at: Some(NOW + 60_000),
        expires_at: Some(NOW + 3_600_000),
    }
    .to_bytes()
    .unwrap()
}

fn accepted(scheduled_at: Option<i64>) -> Delivery {
    Delivery::accepted(
        Accepted {
            id: "0199a1b2-0000-7000-8000-000000000001".to_owned(),
            correlation_id: "c0ffee".to_owned(),
            tenant: "acme".to_owned(),
            channel: Channel::Sms,
            priority: Priority::Normal,
            provider: None,
            scheduled_at,
            expires_at: Some(NOW + 3_600_000),
            policy: Policy::NoLoss,
        },
        "ingestion-1",
        NOW,
    )
    .0
}

/// A delivery in which every field is there.
fn full() -> Delivery {
    let rule = RuleRef {
        id: "sms-twilio".to_owned(),
        version: "9f8e7d6c".to_owned(),
        unknown: Map::new(),
    };
    let refused = |kind| {
        Failure::new(kind, "twilio", Some("20429".to_owned()), "too many requests").retry_after(Some(1_500))
    };
    let mut delivery = accepted(None)
        .failed(
            "twilio",
            "twilio",
            refused(ErrorKind::RateLimited),
            "dispatcher-1",
            NOW + 10,
        )
        .failed(
            "twilio",
            "twilio",
            refused(ErrorKind::Ambiguous),
            "dispatcher-1",
            NOW + 20,
        )
        .dead_lettered(refused(ErrorKind::Rules), Some(rule.clone()), "retry-1", NOW + 30)
        .replayed("0199a1b2-0000-7000-8000-0000000000aa", "replay-1", NOW + 40)
        .failed(
            "twilio",
            "twilio",
            refused(ErrorKind::Rejected),
            "dispatcher-2",
            NOW + 50,
        );
    delivery.retry(
        NOW + 1_050,
        Some("messagebird".to_owned()),
        rule,
        "retry-1",
        NOW + 50,
    );
    delivery.account = Some("messagebird-eu".to_owned());
    delivery.order = Some(posthaste_event::delivery::Order {
        key: "acme/order-17".to_owned(),
        seq: 3,
        after: Some(2),
        nth: 1,
        unknown: Map::new(),
    });
    delivery.replay_of = Some("0199a1b2-0000-7000-8000-000000000000".to_owned());
    delivery.traceparent = Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned());
    delivery.provider_message_id = Some("SM123".to_owned());
    if let Some(wheel) = &mut delivery.wheel {
        wheel.reserved_at = Some(NOW + 1_050);
    }
    delivery
}

fn text(bytes: &Bytes) -> String {
    format!("{}\n", String::from_utf8(bytes.to_vec()).unwrap())
}

/// The value reads back as it was written, and its JSON equals the golden file.
fn check(value: &Value, golden: expect_test::ExpectFile) {
    let bytes = value.encode().unwrap();
    assert_eq!(&Value::decode(&bytes).unwrap(), value);
    golden.assert_eq(&text(&bytes));
}

#[test]
fn work() {
    check(
        &Value::Work(Work {
            delivery: accepted(None),
            event: event(),
        }),
        expect_file!["golden/work.json"],
    );
}

#[test]
fn work_that_waits() {
    check(
        &Value::Work(Work {
            delivery: accepted(Some(NOW + 60_000)),
            event: event(),
        }),
        expect_file!["golden/work-scheduled.json"],
    );
}

#[test]
fn work_with_every_field() {
    check(
        &Value::Work(Work {
            delivery: full(),
            event: event(),
        }),
        expect_file!["golden/work-full.json"],
    );
}

#[test]
fn outcome() {
    let sent = accepted(None).sent(
        "messagebird",
        "messagebird",
        Some("mb-1".to_owned()),
        "dispatcher-1",
        NOW + 12,
    );
    check(&Value::Outcome(sent), expect_file!["golden/outcome.json"]);
}

#[test]
fn note() {
    let note = Note {
        id: "n1".to_owned(),
        kind: "receipt".to_owned(),
        event_id: "0199a1b2-0000-7000-8000-000000000001".to_owned(),
        tenant: "acme".to_owned(),
        channel: Channel::Sms,
        created_at: NOW,
        at: NOW + 99,
        data: json!({"status": "DELIVERED", "step": 1}),
        unknown: Map::new(),
    };
    check(&Value::Note(note), expect_file!["golden/note.json"]);
}

#[test]
fn replayed() {
    let mark = Replayed {
        event_id: "0199a1b2-0000-7000-8000-000000000001".to_owned(),
        step: 7,
        replay_id: "r1".to_owned(),
        unknown: Map::new(),
    };
    check(&Value::Replayed(mark), expect_file!["golden/replayed.json"]);
}

#[test]
fn foreign() {
    let foreign = Foreign::new(
        "events.default".to_owned(),
        3,
        42,
        Some(b"key"),
        Some(b"\xff not json"),
        "not a record of ours".to_owned(),
    );
    check(&Value::Foreign(foreign), expect_file!["golden/foreign.json"]);
}

#[test]
fn answer() {
    let answer = Answer {
        partition: 3,
        offset: 42,
        key: Some("order-7".to_owned()),
        cloud_event_id: None,
        code: 0,
        event_id: None,
        correlation_id: None,
        status: None,
        detail: None,
        errors: Vec::new(),
        at: NOW,
        by: "ingestion-1".to_owned(),
        unknown: Map::new(),
    };
    let taken = Answer {
        code: 201,
        event_id: Some("0199a1b2-0000-7000-8000-000000000001".to_owned()),
        correlation_id: Some("inbox-3-42".to_owned()),
        status: Some(Status::Pending),
        ..answer.clone()
    };
    check(
        &Value::Answer(Box::new(taken)),
        expect_file!["golden/answer.json"],
    );
    let wrong = FieldError::new("channel", "is missing", "sms, email");
    let refused = answer.refused(400, "channel: is missing", vec![wrong]);
    check(
        &Value::Answer(Box::new(refused)),
        expect_file!["golden/answer-refused.json"],
    );
}

#[test]
fn topic_names() {
    let names: String = Topic::ALL
        .iter()
        .map(|topic| topic.name("events") + "\n")
        .collect();
    expect_file!["golden/topics.txt"].assert_eq(&names);
}

#[test]
fn the_events_bytes_pass_through_unchanged() {
    let event = event();
    let bytes = Work {
        delivery: accepted(None),
        event: event.clone(),
    }
    .encode()
    .unwrap();
    let Value::Work(work) = Value::decode(&bytes).unwrap() else {
        panic!("not work")
    };
    assert_eq!(work.event.as_slice(), event.as_slice());
    assert!(
        String::from_utf8_lossy(event.as_slice()).contains(r#""Test SMS",  "phoneNumber""#),
        "white space is kept"
    );
}

#[test]
fn fields_of_a_newer_version_are_kept() {
    let bytes = Value::Work(Work {
        delivery: full(),
        event: event(),
    })
    .encode()
    .unwrap();
    let mut json: Json = serde_json::from_slice(&bytes).unwrap();
    json["delivery"]["colour"] = json!({"of": "the day"});
    json["delivery"]["wheel"]["spokes"] = json!(28);
    let bytes = Bytes::from(serde_json::to_vec(&json).unwrap());
    let Value::Work(mut work) = Value::decode(&bytes).unwrap() else {
        panic!("not work")
    };
    work.delivery.move_in_wheel(NOW + 200);
    let written: Json = serde_json::from_slice(&work.encode().unwrap()).unwrap();
    assert_eq!(written["delivery"]["colour"], json!({"of": "the day"}));
    assert_eq!(written["delivery"]["wheel"]["spokes"], json!(28));
}

#[test]
fn what_is_not_exactly_one_form_is_refused() {
    for foreign in [
        "",
        "{}",
        "[]",
        "null",
        "7",
        r#"{"event":{}}"#,
        r#"{"delivery":{}}"#,
        r#"{"note":{"id":"n"}}"#,
        r#"{"unknown":1}"#,
        "\u{feff}{}",
    ] {
        assert!(
            Value::decode(&Bytes::from_static(foreign.as_bytes())).is_err(),
            "{foreign:?}"
        );
    }
    let outcome = Value::Outcome(accepted(None)).encode().unwrap();
    let two = format!(
        "{},{}",
        &text(&outcome).trim_end().trim_end_matches('}'),
        r#""x":0}}"#
    );
    assert!(
        Value::decode(&Bytes::from(two)).is_ok(),
        "fields beside the delivery that we do not know are no offence"
    );
    let both =
        text(&outcome)
            .trim_end()
            .replacen('{', r#"{"replayed":{"eventId":"e","step":1,"replayId":"r"},"#, 1);
    assert!(Value::decode(&Bytes::from(both)).is_err(), "two forms at once");
}

#[test]
fn the_control_topic() {
    let place = |offset| LetterPlace {
        at: NOW,
        partition: 1,
        offset,
    };
    let filter = LetterFilter {
        ids: Some(vec!["0199a1b2-0000-7000-8000-000000000001".to_owned()]),
        tenant: Some("acme".to_owned()),
        channel: Some("sms".to_owned()),
        provider: Some("twilio".to_owned()),
        error: Some("permanent".to_owned()),
        from: Some(NOW - 1),
        until: Some(NOW + 1),
        text: Some("timed out".to_owned()),
    };
    let share = ReplayShare {
        partition: 1,
        below: 90,
        letters: 3,
    };
    let replay = Replay {
        id: "r1".to_owned(),
        at: NOW,
        by: "replay-1".to_owned(),
        filter,
        from: 0,
        limit: 1_000,
        span: Some((place(7), place(80))),
        shares: vec![share],
        background: true,
        rate: Some(2.5),
        ramp_ms: 60_000,
        refailure_ratio: 0.5,
        unknown: Map::new(),
    };
    let state = ReplayState {
        id: "r1".to_owned(),
        state: Wish::Stopped,
        at: NOW,
        reason: Some("11 of 20 died again".to_owned()),
        replayed: 20,
        refailed: 11,
        unknown: Map::new(),
    };
    let part = ReplayPart {
        id: "r1".to_owned(),
        partition: 1,
        replayed: 2,
        refailed: 1,
        skipped: 1,
        finished: true,
        at: NOW,
        by: "replay-1".to_owned(),
        unknown: Map::new(),
    };
    for (value, key, file) in [
        (
            Control::Replay(Box::new(replay)),
            "replay/r1",
            expect_file!["golden/control-replay.json"],
        ),
        (
            Control::ReplayState(state),
            "replay/r1/state",
            expect_file!["golden/control-replay-state.json"],
        ),
        (
            Control::ReplayPart(part),
            "replay/r1/1",
            expect_file!["golden/control-replay-part.json"],
        ),
        (
            Control::RetryNow(RetryNow {
                event_id: "e1".to_owned(),
                step: 3,
                at: NOW,
                unknown: Map::new(),
            }),
            "retry-now/e1",
            expect_file!["golden/control-retry-now.json"],
        ),
        (
            Control::Reschedule(Reschedule {
                event_id: "e1".to_owned(),
                created_at: NOW - 1_000,
                scheduled_at: NOW + 3_600_000,
                at: NOW,
                unknown: Map::new(),
            }),
            "reschedule/e1/1790000000000",
            expect_file!["golden/control-reschedule.json"],
        ),
    ] {
        assert_eq!(value.key(), key);
        let bytes = value.encode().unwrap();
        assert_eq!(Control::decode(&bytes).unwrap(), value);
        file.assert_eq(&format!("{}\n", String::from_utf8(bytes.to_vec()).unwrap()));
    }
}

#[test]
fn the_definitions_topic() {
    let key = Key::new(Kind::Template, "acme", "welcome-message").unwrap();
    assert_eq!(key.encode(), "template/acme/welcome-message");
    let definition = Definition {
        version: 3,
        at: NOW,
        by: "acme-editor".to_owned(),
        write: "0199a1b200007000800000000000000d".to_owned(),
        body: RawValue::from_string(r#"{"slack":{"text":"Hello, {{ userName }}"}}"#.to_owned()).unwrap(),
    };
    let bytes = definition.encode().unwrap();
    expect_file!["golden/definition.json"].assert_eq(&format!("{}\n", str::from_utf8(&bytes).unwrap()));
    let read = Definition::decode(&bytes).unwrap();
    assert_eq!(read.encode().unwrap(), bytes);
    assert_eq!(read.tag(), "3-0199a1b20000");
}

#[test]
fn the_cancel_topic() {
    let asked = Cancel {
        event_id: "e1".to_owned(),
        created_at: NOW - 1_000,
        generation: 1,
        at: NOW,
        unknown: Map::new(),
    };
    let bytes = asked.encode().unwrap();
    assert_eq!(Cancel::decode(&bytes).unwrap(), asked);
    expect_file!["golden/cancel.json"].assert_eq(&format!("{}\n", str::from_utf8(&bytes).unwrap()));
    assert_eq!(cancel::key("acme/order-7", "e1"), "acme/order-7#e1");
}

#[test]
fn the_keys_topic() {
    let mut delivery = full();
    let mut text = String::new();
    let mut add = |record: Option<(String, Bytes)>| {
        let (key, value) = record.unwrap();
        text.push_str(&format!("{key} {}\n", str::from_utf8(&value).unwrap()));
    };
    add(keys::ended(&delivery));
    delivery.take_turn();
    delivery.priority = Priority::Critical;
    add(keys::ended(&delivery));
    add(keys::waits(&delivery));
    let key = OrderKey::of(&delivery).unwrap();
    add(Some(key.record(KeyState::Tail {
        seq: 3,
        partition: 7,
        nth: 1,
    })));
    expect_file!["golden/keys.txt"].assert_eq(&text);
}
