//! Waiting: order, time, room, and owners that come and go.

use std::collections::BTreeMap;

use posthaste_broker::{NewRecord, Record};
use posthaste_event::{
    Priority, Tier, Topic, clock,
    control::{Control, RetryNow},
    delivery::WaitReason,
};

use crate::bench::{Bench, delivery, parked, settings, work};

/// `count` events, due spread over `spread_ms` from `from_ms` on, in no order.
async fn fill(bench: &Bench, priority: Priority, count: i64, from_ms: i64, spread_ms: i64) {
    let now = clock::now();
    let records = (0..count)
        .map(|n| {
            // A multiplier that shares no factor with the count visits every place once.
            let due = now + from_ms + (n * 7_919 % count) * spread_ms / count;
            parked(work(&format!("e{n}"), priority, None), due)
        })
        .collect();
    bench.append(records).await;
}

/// Each event once, none early.
fn all_in_time(records: &[Record], count: usize) {
    let mut seen = BTreeMap::new();
    for record in records {
        let due = delivery(record);
        let late = record.appended_at - due.due_at.unwrap();
        assert!(late >= 0, "{} went {} ms early", due.id, -late);
        let again = seen.insert(due.id, late);
        assert!(again.is_none(), "an event went twice");
    }
    assert_eq!(seen.len(), count);
}

#[tokio::test(flavor = "multi_thread")]
async fn both_lanes_release_in_due_order_and_never_early() {
    let bench = Bench::new().await;
    let instance = bench.start("one", settings());
    // Time enough to have read all of them, even on a busy machine, before the first is due.
    fill(&bench, Priority::Normal, 400, 3_000, 600).await;
    fill(&bench, Priority::Critical, 400, 3_000, 600).await;
    for topic in [Topic::Retry, Topic::RetryCritical] {
        let records = bench.first(topic, 400).await;
        all_in_time(&records, 400);
        let mut last = BTreeMap::new();
        for record in &records {
            let due = delivery(record).due_at.unwrap();
            let before = last.insert(record.partition, due).unwrap_or(0);
            assert!(before <= due, "out of order by {} ms", before - due);
        }
    }
    instance.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_near_topic_that_is_too_full_makes_room_and_loses_nothing() {
    let bench = Bench::new().await;
    let mut small = settings();
    small.near_offsets_max = 40;
    small.hop_records_max = 10;
    fill(&bench, Priority::Normal, 300, 2_600, 1_000).await;
    let instance = bench.start("one", small);
    let records = bench.first(Topic::Retry, 300).await;
    all_in_time(&records, 300);
    let moved = bench.count(Topic::Delay(Tier::S2)).await;
    assert!(moved >= 150, "only {moved} went to a tier");
    assert!(
        records
            .iter()
            .any(|record| delivery(record).wheel.unwrap().moves >= 2),
        "nobody went through a tier and back"
    );
    instance.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_instance_takes_over_in_the_middle() {
    let bench = Bench::new().await;
    fill(&bench, Priority::Normal, 500, 100, 2_400).await;
    let first = bench.start("one", settings());
    bench.first(Topic::Retry, 100).await;
    let second = bench.start("two", settings());
    second.well().await;
    bench.first(Topic::Retry, 200).await;
    first.stop().await;
    let records = bench.first(Topic::Retry, 500).await;
    all_in_time(&records, 500);
    assert_eq!(bench.count(Topic::Retry).await, 500);
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_dies_leaves_its_waits_to_the_next() {
    let bench = Bench::new().await;
    fill(&bench, Priority::Critical, 500, 100, 2_400).await;
    let first = bench.start("one", settings());
    bench.first(Topic::RetryCritical, 100).await;
    first.kill().await;
    let second = bench.start("two", settings());
    let records = bench.first(Topic::RetryCritical, 500).await;
    all_in_time(&records, 500);
    assert_eq!(bench.count(Topic::RetryCritical).await, 500);
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tier_is_left_in_time() {
    let bench = Bench::new().await;
    let instance = bench.start("one", settings());
    let now = clock::now();
    // Handed to the shortest tier, as when a near topic is too full.
    let records = (0..200)
        .map(|n| {
            let mut record = parked(
                work(&format!("e{n}"), Priority::Normal, None),
                now + 2_100 + n * 3,
            );
            record.topic = Topic::Delay(Tier::S2);
            record
        })
        .collect();
    bench.append(records).await;
    all_in_time(&bench.first(Topic::Retry, 200).await, 200);
    instance.stop().await;
}

fn wish(id: &str, step: u32) -> NewRecord {
    let wish = Control::RetryNow(RetryNow {
        event_id: id.to_owned(),
        step,
        at: clock::now(),
        unknown: Default::default(),
    });
    NewRecord::new(Topic::Control, wish.key(), wish.encode().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_wishes_to_go_now_goes_and_nothing_else() {
    let bench = Bench::new().await;
    let instance = bench.start("one", settings());
    let now = clock::now();
    let far = now + 3_600_000;
    let wait = |id: &str, due| parked(work(id, Priority::Normal, None), due);
    let scheduled = {
        let mut work = work("scheduled", Priority::Normal, None);
        let topic = work.delivery.park(WaitReason::Scheduled, far, "ingestion", now);
        NewRecord::new(topic, "scheduled", work.encode().unwrap())
    };
    bench
        .append(vec![
            wait("near", now + 25_000),
            wait("tier", far),
            wait("stays", now + 25_000),
            wait("stays too", far),
            scheduled,
        ])
        .await;
    // In the wheel with step 1; what is wished of another step, of a time that was asked for, or of nobody, changes nothing.
    bench
        .append(vec![
            wish("stays", 0),
            wish("stays too", 2),
            wish("scheduled", 1),
            wish("nobody", 1),
            wish("near", 1),
            wish("tier", 1),
        ])
        .await;
    let mut out: Vec<_> = bench.first(Topic::Retry, 2).await.iter().map(delivery).collect();
    out.sort_by(|one, two| one.id.cmp(&two.id));
    let seen: Vec<_> = out.iter().map(|event| (event.id.as_str(), event.step)).collect();
    assert_eq!(seen, [("near", 1), ("tier", 1)]);
    assert!(out.iter().all(|event| event.due_at.unwrap() < now + 25_000));

    // A wish may also be there before its event comes.
    bench.append(vec![wish("later", 1)]).await;
    bench.append(vec![wait("later", far)]).await;
    let out = bench.first(Topic::Retry, 3).await;
    assert!(out.iter().any(|record| delivery(record).id == "later"));
    // Each was forgotten as it was done.
    let control = bench
        .read(&[Topic::Control], |records| {
            records.iter().filter(|record| record.value.is_none()).count() >= 3
        })
        .await;
    let mut forgotten: Vec<_> = control
        .iter()
        .filter(|record| record.value.is_none())
        .map(|record| String::from_utf8(record.key.clone().unwrap().to_vec()).unwrap())
        .collect();
    forgotten.sort();
    assert_eq!(forgotten, ["retry-now/later", "retry-now/near", "retry-now/tier"]);
    assert_eq!(bench.count(Topic::Retry).await, 3);
    instance.stop().await;
}
