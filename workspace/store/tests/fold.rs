//! From records to documents: the frozen format of a document, and what each record adds to it.
//!
//! `UPDATE_EXPECT=1 cargo test -p posthaste-store --test fold` rewrites the golden file; do that only for an addition.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

use std::fmt::Write as _;

use bytes::Bytes;
use expect_test::{expect, expect_file};
use posthaste_event::{Value, delivery::Policy};
use posthaste_store::{Document, Fold};
use posthaste_testkit::life::{Life, NOW};

fn document(records: &[Value]) -> Document {
    let mut fold = Fold::default();
    for record in records {
        fold.add(record.clone());
    }
    let mut changes = fold.into_changes();
    assert_eq!(changes.len(), 1);
    changes.remove(0).into_document()
}

#[test]
fn the_document_format_is_frozen() {
    let life = Life::new("0199a1b2-0000-7000-8000-000000000001");
    let gone_through_all = document(&life.everything());
    let mut waits = document(&[life.scheduled(NOW + 30_000)]);
    assert_eq!(waits.fixed.policy, Some(Policy::NoDuplicate));
    waits.fixed.replay_of = Some("0199a1b2-0000-7000-8000-000000000000".to_owned());
    for (document, golden) in [
        (gone_through_all, expect_file!["golden/document.json"]),
        (waits, expect_file!["golden/document-waiting.json"]),
    ] {
        let json = serde_json::to_string_pretty(&document).unwrap();
        golden.assert_eq(&format!("{json}\n"));
        assert_eq!(serde_json::from_str::<Document>(&json).unwrap(), document);
    }
}

#[test]
fn a_document_keeps_no_room_for_what_is_not_there() {
    let document = document(&[Life::new("e1").note("n1")]);
    let json = serde_json::to_string(&document).unwrap();
    expect![[r#"{"_id":"e1","tenant":"default","channel":"sms","createdAt":1790000000000,"timeline":{},"notes":{"n1":{"at":1790000000005,"data":{"by":"operator","why.$":{"note":"n1"}},"kind":"cancelRequested"}}}"#]].assert_eq(&json);
}

#[test]
fn the_timeline_shows_each_rule_error_and_replay_at_the_step_that_brought_it() {
    let document = document(&Life::new("e1").everything());
    let mut steps: Vec<_> = document.timeline.iter().collect();
    steps.sort_by_key(|(step, _)| step.parse::<u32>().unwrap());
    let mut shown = String::new();
    for (step, entry) in steps {
        let _ = write!(shown, "{step} {} {}", entry.status, entry.by);
        for (name, value) in [
            ("provider", entry.provider.as_deref()),
            ("reason", entry.reason.as_deref()),
            ("rule", entry.rule.as_deref()),
            ("replay", entry.replay.as_deref()),
            ("error", entry.error.as_ref().map(|error| error.message.as_str())),
        ] {
            if let Some(value) = value {
                let _ = write!(shown, " {name}={value}");
            }
        }
        shown.push('\n');
    }
    expect![[r#"
        0 PENDING ingestion-1
        1 PENDING dispatcher-1 reason=rate
        2 RETRYING dispatcher-1 provider=twilio error=busy
        3 RETRYING retry-1 provider=twilio reason=retry rule=sms-twilio@7
        4 RETRYING dispatcher-1 provider=twilio error=busy
        5 RETRYING retry-1 provider=messagebird reason=retry rule=sms-twilio@7
        6 RETRYING dispatcher-2 provider=messagebird error=no such number
        7 DEAD_LETTERED retry-1 provider=messagebird rule=sms-messagebird@7 error=no such number
        8 PENDING replay-1 replay=r1
        9 SENT dispatcher-3 provider=messagebird
    "#]]
    .assert_eq(&shown);
}

#[test]
fn moves_inside_the_wheel_marks_and_foreign_records_say_nothing_of_an_event() {
    let silent = Life::new("e1")
        .everything()
        .iter()
        .filter(|record| !Fold::default().add((*record).clone()))
        .count();
    assert_eq!(silent, 4, "three moves and the mark of the replay");
    let foreign = Value::decode(&Bytes::from_static(
        br#"{"foreign":{"topic":"t","partition":0,"offset":1,"truncated":false,"reason":"r"}}"#,
    ));
    let mut fold = Fold::default();
    assert!(!fold.add(foreign.unwrap()));
    assert!(fold.is_empty() && fold.into_changes().is_empty());
}

#[test]
fn an_event_that_nobody_can_read_still_has_its_delivery_shown() {
    let Value::Work(work) = Life::new("e1").accepted() else {
        unreachable!()
    };
    let delivery = serde_json::to_string(&work.delivery).unwrap();
    let record = Value::decode(&Bytes::from(format!(r#"{{"delivery":{delivery},"event":5}}"#))).unwrap();
    let document = document(&[record]);
    assert_eq!(document.fixed.payload, None);
    assert!(document.state.is_some());
}

#[test]
fn a_payload_deeper_than_the_parser_goes_is_shown_as_text() {
    let Value::Work(work) = Life::new("e1").accepted() else {
        unreachable!()
    };
    let record = String::from_utf8(work.encode().unwrap().to_vec()).unwrap();
    let deep = format!("{}{}", "[".repeat(500), "]".repeat(500));
    let plain = r#"{"message":"Hello","phoneNumber":"2025555555"}"#;
    assert!(record.contains(plain));
    let record = Value::decode(&Bytes::from(record.replace(plain, &deep))).unwrap();
    assert_eq!(document(&[record]).fixed.payload, Some(deep.into()));
}
