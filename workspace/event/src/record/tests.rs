//! By hand and by serde: the same is written, and the same is read.

use serde_json::json;

use super::*;
use crate::{
    ErrorKind, Failure, Priority, Status,
    delivery::{Accepted, Lane, Order, Policy, ReplayRef, RuleRef, WaitReason, Wheel},
};

const NOW: Millis = 1_790_000_000_000;

fn accepted(expires_at: Option<Millis>) -> Delivery {
    let accepted = Accepted {
        id: "0199a1b2-0000-7000-8000-000000000001".to_owned(),
        correlation_id: "a \"quoted\" \\ line\nGrüße\u{7f}\u{1}".to_owned(),
        tenant: "acme".to_owned(),
        channel: Channel::InApp,
        priority: Priority::Normal,
        provider: None,
        scheduled_at: None,
        expires_at,
        policy: Policy::NoDuplicate,
    };
    Delivery::accepted(accepted, "ingestion-1", NOW).0
}

fn plain() -> Delivery {
    let mut delivery = accepted(Some(NOW + 5));
    delivery.correlation_id = "Grüße".to_owned();
    delivery
}

/// One that took every turn.
fn eventful() -> Delivery {
    let refused = |kind, code: Option<&str>, message: &str| {
        Failure::new(kind, "twilio", code.map(str::to_owned), message)
    };
    let quoting = "{\"error\": \"a \\ b\"}\n Grüße \u{1}";
    let mut delivery = plain()
        .failed(
            "twilio",
            "twilio",
            refused(ErrorKind::Rejected, None, "no"),
            "d",
            NOW,
        )
        .failed(
            "twilio",
            "twilio \"2\"",
            refused(ErrorKind::RateLimited, Some("4\"29"), quoting).retry_after(Some(1_500)),
            "d",
            NOW,
        );
    delivery.wheel = Some(wheel(WaitReason::Retry, Some(NOW + 8)));
    delivery.due_at = Some(NOW + 7);
    delivery.order = Some(order(Some(16)));
    delivery.rule = Some(RuleRef {
        id: "sms".to_owned(),
        version: "9f8e".to_owned(),
        unknown: Map::new(),
    });
    delivery.replay = Some(ReplayRef {
        id: "r1".to_owned(),
        from_step: 3,
        at: NOW,
        unknown: Map::new(),
    });
    delivery.replay_of = Some("other".to_owned());
    delivery.traceparent = Some("00-1-2-01".to_owned());
    delivery
}

fn wheel(reason: WaitReason, reserved_at: Option<Millis>) -> Wheel {
    Wheel {
        reason,
        tier: "near".to_owned(),
        moves: 2,
        reserved_at,
        unknown: Map::new(),
    }
}

fn order(after: Option<u64>) -> Order {
    Order {
        key: "acme/Grüße \"17\"".to_owned(),
        seq: 17,
        after,
        nth: 1,
        unknown: Map::new(),
    }
}

/// Each with a field of another version somewhere.
fn from_another_version() -> Vec<Delivery> {
    let unknown = || Map::from_iter([("new \" field".to_owned(), json!([1, null]))]);
    let mut all = vec![eventful(); 7];
    for (place, delivery) in all.iter_mut().enumerate() {
        match place {
            0 => delivery.unknown = unknown(),
            1 => delivery.wheel.as_mut().unwrap().unknown = unknown(),
            2 => delivery.order.as_mut().unwrap().unknown = unknown(),
            3 => delivery.rule.as_mut().unwrap().unknown = unknown(),
            4 => delivery.error.as_mut().unwrap().unknown = unknown(),
            5 => delivery.failures[1].unknown = unknown(),
            _ => delivery.replay.as_mut().unwrap().unknown = unknown(),
        }
    }
    all
}

/// Deliveries that are read by hand, with everything that one can have.
fn usual() -> Vec<Delivery> {
    let mut all = vec![accepted(None), plain(), eventful()];
    all.push(Delivery {
        order: Some(order(None)),
        ..plain()
    });
    all.extend(WaitReason::NAMES.map(|(reason, _)| Delivery {
        wheel: Some(wheel(reason, None)),
        ..plain()
    }));
    all.extend(ErrorKind::ALL.map(|kind| {
        let failure = Failure::new(kind, "twilio", Some("503".to_owned()), "unavailable");
        plain().failed("twilio", "twilio", failure, "d", NOW + 1)
    }));
    all.push(plain().sent("twilio", "twilio-2", Some("SM1".to_owned()), "d", NOW + 1));
    let failure = Failure::new(ErrorKind::Ambiguous, "twilio", None, "no answer");
    all.push(plain().failed("twilio", "twilio", failure, "d", NOW + 1));
    let mut parked = plain();
    parked.park(WaitReason::Rate, NOW + 9, "d", NOW + 2);
    all.push(parked);
    all.push(plain().replayed("r1", "d", NOW + 3));
    for status in Status::ALL {
        let lanes = [Lane::Critical, Lane::Default, Lane::Retry, Lane::RetryCritical];
        let priorities = [
            Priority::Low,
            Priority::Normal,
            Priority::High,
            Priority::Critical,
        ];
        for (lane, priority) in lanes.into_iter().zip(priorities) {
            for channel in Channel::ALL {
                all.push(Delivery {
                    status,
                    lane,
                    priority,
                    channel,
                    ..plain()
                });
            }
        }
    }
    all
}

/// All that is written.
fn deliveries() -> Vec<Delivery> {
    let mut all = usual();
    all.extend(from_another_version());
    let mut odd = eventful();
    (odd.at, odd.since, odd.step) = (i64::MIN, -7, u32::MAX);
    odd.order.as_mut().unwrap().seq = u64::MAX;
    all.push(odd);
    all
}

#[test]
fn a_delivery_is_written_as_serde_writes_it() {
    for delivery in deliveries() {
        let mut written = Vec::new();
        wire::write(&delivery, &mut written).unwrap();
        let derived = serde_json::to_string(&delivery).unwrap();
        assert_eq!(String::from_utf8(written).unwrap(), derived);
    }
}

#[test]
fn what_is_written_is_read_again() {
    for delivery in deliveries() {
        let outcome = Value::Outcome(delivery.clone());
        assert_eq!(Value::decode(&outcome.encode().unwrap()).unwrap(), outcome);
        let event = EventBytes::from_json(Bytes::from_static(br#"{"a":[1,{"b":"}"}]}"#));
        let work = Value::Work(Work { delivery, event });
        assert_eq!(Value::decode(&work.encode().unwrap()).unwrap(), work);
    }
}

#[test]
fn a_value_is_whole_whatever_was_written_before_it() {
    let lengths = [10, ROOM_KEPT_MAX * 3, 10, ROOM_KEPT_MAX, 0, 1];
    for (place, length) in lengths.into_iter().enumerate() {
        let letter = b'a' + place as u8;
        let written = exactly(0, |json| {
            json.resize(length, letter);
            Ok(())
        });
        assert_eq!(written.unwrap(), vec![letter; length]);
        let refused = exactly(0, |json| {
            json.push(b'x');
            serde_json::from_str(" ")
        });
        assert!(refused.is_err());
    }
}

#[test]
fn most_records_are_read_by_hand() {
    for delivery in usual() {
        let outcome = Value::Outcome(delivery).encode().unwrap();
        let text = String::from_utf8_lossy(&outcome);
        assert!(Value::as_written(&outcome).is_some(), "{text}");
    }
}

/// Whatever is changed in a record: what is read by hand is what serde reads.
#[test]
fn by_hand_nothing_is_read_that_serde_reads_otherwise() {
    let event = EventBytes::from_json(Bytes::from_static(br#"{"a":1}"#));
    let sent = plain().sent("twilio", "twilio", Some("SM1".to_owned()), "d", NOW + 1);
    let mut read_by_hand = 0;
    for delivery in [sent, eventful()] {
        let event = event.clone();
        let written = Value::Work(Work { delivery, event }).encode().unwrap();
        read_by_hand += changed_everywhere(&written);
    }
    assert!(read_by_hand > 2_000, "{read_by_hand}");
}

/// Puts each piece at each place; answers how many of what came of it were read by hand.
fn changed_everywhere(written: &[u8]) -> usize {
    let mut read_by_hand = 0;
    let pieces: [&[u8]; 16] = [
        b"",
        b"\"",
        b"\\",
        b"0",
        b"1",
        b"-",
        b".",
        b"}",
        b"{",
        b",",
        b" ",
        b"e",
        b"null",
        b"\x01",
        b"\xff",
        b"99999999999999999999",
    ];
    for index in 0..=written.len() {
        for piece in pieces {
            for skipped in 0..=1.min(written.len() - index) {
                let changed = Bytes::from([&written[..index], piece, &written[index + skipped..]].concat());
                if let Some(value) = Value::as_written(&changed) {
                    let parsed = Value::parse(&changed);
                    let text = String::from_utf8_lossy(&changed);
                    assert_eq!(
                        value,
                        parsed.unwrap_or_else(|error| panic!("{error}: {text}")),
                        "{text}"
                    );
                    read_by_hand += 1;
                }
            }
        }
    }
    read_by_hand
}
