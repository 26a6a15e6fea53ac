//! From the retry topic to the wheel or the dead-letter topic.

use std::sync::Arc;

use posthaste_broker::{Broker as _, NewRecord};
use posthaste_event::{ErrorKind, Priority, Status, Topic, Value, delivery::WaitReason};
use posthaste_rules::Rules;

use crate::bench::{Bench, delivery, failed, settings, until, work};

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_comes_back_on_its_lane_when_it_is_due() {
    let bench = Bench::new().await;
    let instance = bench.start("one", settings());
    bench
        .append(vec![
            failed("a", Priority::Normal, ErrorKind::Rejected, 1),
            failed("b", Priority::Critical, ErrorKind::Rejected, 3),
        ])
        .await;
    for (topic, id, provider, wait_ms) in [
        (Topic::Retry, "a", "twilio", 150),
        (Topic::RetryCritical, "b", "messagebird", 50),
    ] {
        let records = bench.first(topic, 1).await;
        let back = delivery(&records[0]);
        assert_eq!(records[0].key.as_deref(), Some(id.as_bytes()));
        assert_eq!((back.id.as_str(), back.provider.as_deref()), (id, Some(provider)));
        let due = back.due_at.unwrap();
        assert!(due >= back.failures.last().unwrap().at + wait_ms);
        assert!(records[0].appended_at >= due, "it came early");
        assert_eq!((back.by.as_str(), back.status), ("one", Status::Retrying));
        assert!(!back.is_fact(), "leaving the wheel is not a fact of its own");
    }
    let lateness = instance.metrics.lateness(WaitReason::Retry);
    until("both to be counted", || lateness.total() == 2).await;
    instance.well().await;
    instance.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_given_up_or_cannot_be_read_becomes_a_letter_and_the_rest_goes_on() {
    let bench = Bench::new().await;
    let mut records = Vec::new();
    for topic in [Topic::Failed, Topic::FailedCritical, Topic::DelayNear] {
        records.push(NewRecord::new(topic, "x", "{\"delivery\":7}"));
        records.push(NewRecord::new(topic, "x", vec![0xff, 0xfe]));
    }
    records.push(failed("hopeless", Priority::Normal, ErrorKind::Permanent, 1));
    let mut used_up = failed("used-up", Priority::Normal, ErrorKind::Rejected, 3);
    if let Ok(Value::Work(mut work)) = Value::decode(used_up.value.as_ref().unwrap()) {
        work.delivery.pinned = true;
        used_up.value = Some(work.encode().unwrap());
    }
    records.push(used_up);
    records.push(failed("x", Priority::Normal, ErrorKind::Rejected, 1));
    bench.append(records).await;
    let instance = bench.start("one", settings());
    let letters = bench.first(Topic::DeadLetter, 8).await;
    let (mut foreign, mut ours) = (0, Vec::new());
    for letter in &letters {
        match Value::decode(letter.value.as_ref().unwrap()).unwrap() {
            Value::Foreign(_) => foreign += 1,
            Value::Work(work) => ours.push((work.delivery.id, work.delivery.error.unwrap().kind)),
            other => panic!("{other:?}"),
        }
    }
    ours.sort();
    assert_eq!(foreign, 6);
    assert_eq!(
        ours,
        [
            ("hopeless".to_owned(), ErrorKind::Permanent),
            ("used-up".to_owned(), ErrorKind::Rejected)
        ]
    );
    let back = bench.first(Topic::Retry, 1).await;
    assert_eq!(delivery(&back[0]).id, "x");
    instance.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn new_rules_take_effect_with_the_next_verdict() {
    let bench = Bench::new().await;
    let instance = bench.start("one", settings());
    bench
        .append(vec![failed("a", Priority::Normal, ErrorKind::Rejected, 1)])
        .await;
    bench.first(Topic::Retry, 1).await;
    let text = "version = \"2\"\n[[rule]]\nid = \"strict\"\ntries = 1\nbackoff = { kind = \"fixed\", delay = \"1s\" }";
    bench
        .rules
        .send_replace(Arc::new(Rules::parse(text, "new").unwrap()));
    bench
        .append(vec![failed("b", Priority::Normal, ErrorKind::Rejected, 1)])
        .await;
    let letters = bench.first(Topic::DeadLetter, 1).await;
    let rule = delivery(&letters[0]).rule.unwrap();
    assert_eq!((rule.id.as_str(), rule.version.as_str()), ("strict", "2"));
    instance.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outcome_that_is_too_large_for_the_broker_does_not_hold_up_the_rest() {
    const BYTES_MAX: usize = 4_096;
    let bench = Bench::without_topics(|settings| {
        settings.record_bytes_max = BYTES_MAX;
        settings.partitions = 1;
    });
    bench.broker.create_topics().await.unwrap();
    let mut large = failed("large", Priority::Normal, ErrorKind::Rejected, 1);
    if let Ok(Value::Work(mut work)) = Value::decode(large.value.as_ref().unwrap()) {
        let room = BYTES_MAX - large.key.len() - large.value.as_ref().unwrap().len();
        work.delivery.correlation_id += &"c".repeat(room);
        large.value = Some(work.encode().unwrap());
    }
    assert_eq!(large.key.len() + large.value.as_ref().unwrap().len(), BYTES_MAX);
    let mut records = vec![large];
    records.extend((0..20).map(|n| failed(&format!("e{n}"), Priority::Normal, ErrorKind::Rejected, 1)));
    bench.append(records).await;
    let instance = bench.start("one", settings());
    assert_eq!(bench.first(Topic::Retry, 20).await.len(), 20);
    let letters = bench.first(Topic::DeadLetter, 1).await;
    let Value::Foreign(foreign) = Value::decode(letters[0].value.as_ref().unwrap()).unwrap() else {
        panic!("not foreign")
    };
    assert_eq!((foreign.value, foreign.topic.as_str()), (None, "events.failed"));
    instance.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_topics_it_says_so_and_starts_when_they_appear() {
    let bench = Bench::without_topics(|_| ());
    let instance = bench.start("one", settings());
    let says = |words: &str| {
        let missing = instance.health.missing();
        missing.len() == 5 && missing.iter().all(|missing| missing.reason.contains(words))
    };
    until("every member names the missing topics", || says("missing topics")).await;
    bench.broker.create_topics().await.unwrap();
    instance.well().await;
    instance.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_setting_out_of_range_stops_the_start() {
    let bench = Bench::new().await;
    let mut wrong = settings();
    wrong.hops_max = 0;
    let instance = bench.start("one", wrong);
    let error = instance.task.await.unwrap().unwrap_err().to_string();
    assert_eq!(error, "retry.hops_max: 0 is out of range; accepted: 1 to 1024");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_expires_while_it_waits_ends_as_expired_when_it_expires() {
    let bench = Bench::new().await;
    let now = posthaste_event::clock::now();
    let expiring = work("short", Priority::Normal, Some(now + 300));
    bench
        .append(vec![crate::bench::parked(expiring, now + 20_000)])
        .await;
    let instance = bench.start("one", settings());
    let records = bench.first(Topic::Status, 1).await;
    let ended = delivery(&records[0]);
    assert_eq!((ended.status, ended.id.as_str()), (Status::Expired, "short"));
    assert!(records[0].appended_at >= now + 300);
    assert!(
        records[0].appended_at < now + 20_000,
        "it did not wait until it was due"
    );
    instance.stop().await;
}
