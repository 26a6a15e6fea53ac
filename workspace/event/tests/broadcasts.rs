//! The formats of broadcasts, frozen as those in `formats.rs` are: on the control topic, and on their own.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on must fail"
)]

use expect_test::expect_file;
use posthaste_event::{
    Channel, Delivery, EventView, Priority, Work,
    broadcast::{
        Broadcast, BroadcastGlance, BroadcastProgress, BroadcastRecord, BroadcastState, Chunk, Ended,
    },
    control::{Control, Wish},
    delivery::{Accepted, Policy},
};
use serde_json::{Map, value::RawValue};

const NOW: i64 = 1_790_000_000_000;

fn work() -> Work {
    let payload =
        RawValue::from_string(r#"{"message":"Grüße",  "phoneNumber":"2025555555"}"#.to_owned()).unwrap();
    let view = EventView {
        event_id: "0199a1b2-0000-7000-8000-000000000001".to_owned(),
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
    let accepted = Accepted {
        id: view.event_id.clone(),
        correlation_id: "b1".to_owned(),
        tenant: view.tenant.clone(),
        channel: view.channel,
        priority: view.priority,
        provider: None,
        scheduled_at: None,
        expires_at: None,
        policy: Policy::NoLoss,
    };
    let (delivery, _) = Delivery::accepted(accepted, "ingestion-1", NOW);
    Work {
        delivery,
        event: view.to_bytes().unwrap(),
    }
}

fn progress() -> BroadcastProgress {
    BroadcastProgress {
        id: "b1".to_owned(),
        chunks: 3,
        recipients: 1_001,
        ended: Some(Ended::Done),
        at: NOW,
        by: "ingestion-1".to_owned(),
        unknown: Map::new(),
    }
}

#[test]
fn the_control_topic() {
    let broadcast = Broadcast {
        id: "b1".to_owned(),
        tenant: "acme".to_owned(),
        name: Some("autumn".to_owned()),
        at: NOW,
        by: "ingestion-1".to_owned(),
        recipients: 1_001,
        chunks: 3,
        chunk_size: 500,
        chunk_delay_ms: 2_000,
        priority: Some(Priority::Low),
        scheduled_at: Some(NOW + 60_000),
        unknown: Map::new(),
    };
    let state = BroadcastState {
        tenant: Some("acme".to_owned()),
        id: "b1".to_owned(),
        state: Wish::Cancelled,
        at: NOW,
        unknown: Map::new(),
    };
    for (value, key, file) in [
        (
            Control::Broadcast(Box::new(broadcast)),
            "broadcast/b1",
            expect_file!["golden/control-broadcast.json"],
        ),
        (
            Control::BroadcastState(state),
            "broadcast/b1/cancel",
            expect_file!["golden/control-broadcast-state.json"],
        ),
        (
            Control::BroadcastProgress(progress()),
            "broadcast/b1/progress",
            expect_file!["golden/control-broadcast-progress.json"],
        ),
    ] {
        assert_eq!(value.key(), key);
        let bytes = value.encode().unwrap();
        assert_eq!(Control::decode(&bytes).unwrap(), value);
        file.assert_eq(&format!("{}\n", String::from_utf8(bytes.to_vec()).unwrap()));
    }
}

#[test]
fn their_own_topic() {
    assert_eq!(Broadcast::chunk_key("acme", "b1"), "acme/b1");
    let works = [work().encode().unwrap(), work().encode().unwrap()];
    let chunk = Chunk::record("b1", 2, &works);
    let BroadcastRecord::Chunk(read) = BroadcastRecord::decode(&chunk).unwrap() else {
        panic!("no chunk")
    };
    assert_eq!((read.index, read.recipients), (2, 2));
    assert_eq!(read.events().unwrap(), [work(), work()]);
    // As it is written by hand and as serde would.
    assert_eq!(BroadcastRecord::Chunk(read).encode().unwrap(), chunk);
    let expected = BroadcastGlance::Chunk {
        id: "b1".to_owned(),
        index: 2,
        recipients: 2,
    };
    assert_eq!(BroadcastGlance::decode(&chunk).unwrap(), expected);
    let progress = BroadcastRecord::Progress(progress()).encode().unwrap();
    let dropped = BroadcastRecord::Dropped { id: "b1".to_owned() };
    let dropped = dropped.encode().unwrap();
    for (record, file) in [
        (chunk, expect_file!["golden/broadcast-chunk.json"]),
        (progress, expect_file!["golden/broadcast-progress.json"]),
        (dropped, expect_file!["golden/broadcast-dropped.json"]),
    ] {
        file.assert_eq(&format!("{}\n", String::from_utf8(record.to_vec()).unwrap()));
    }
}

#[test]
fn what_is_handed_over_late_counts_from_then_on() {
    let delivery = work().delivery.handed_over("ingestion-2", NOW + 5_000);
    assert_eq!(
        (delivery.step, delivery.created_at, delivery.at, delivery.since),
        (0, NOW, NOW + 5_000, NOW + 5_000)
    );
    assert_eq!(delivery.by, "ingestion-2");
}
