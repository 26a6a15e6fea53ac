//! Appending, topics, and closing.

use std::collections::BTreeMap;

use bytes::Bytes;
use posthaste_broker::{AppendError, BrokerError, Hop, Mark, NewRecord, Partition, Record, Severity, Start};
use posthaste_event::{Tier, Topic};

use super::{
    BrokerWorld, Member, PARTITIONS, RECORD_BYTES_MAX, append_named, contents, named, positioned, text,
    tracked, within,
};

/// Durable means: still there.
pub async fn what_was_appended_is_there_after_reopening(world: &dyn BrokerWorld) {
    let broker = world.open_with_topics().await;
    for partition in 0..PARTITIONS {
        append_named(&*broker, Topic::Default, partition, "before", 3).await;
    }
    broker.close(5_000).await;
    drop(broker);
    let broker = world.open().await;
    let records = contents(&*broker, Topic::Default).await;
    assert_eq!(records.len(), 3 * PARTITIONS as usize);
    for partition in records.chunk_by(|a, b| a.partition == b.partition) {
        let values: Vec<String> = partition
            .iter()
            .map(|record| text(record.value.as_ref()))
            .collect();
        assert_eq!(values, ["before0", "before1", "before2"]);
    }
    append_named(&*broker, Topic::Default, 0, "after", 1).await;
    let again = contents(&*broker, Topic::Default).await;
    assert_eq!(again.len(), records.len() + 1);
    broker.close(5_000).await;
}

/// Order is by partition, and offsets rise.
pub async fn records_of_one_call_and_partition_stay_in_order(world: &dyn BrokerWorld) {
    let broker = world.open_with_topics().await;
    for call in 0..5 {
        let records = (0..40)
            .map(|n| NewRecord::new(Topic::Critical, format!("key{}", n % 7), format!("{call}.{n:03}")))
            .collect();
        within("an append", broker.append(records)).await.unwrap();
    }
    let records = contents(&*broker, Topic::Critical).await;
    assert_eq!(records.len(), 200);
    for partition in records.chunk_by(|a, b| a.partition == b.partition) {
        assert!(partition.is_sorted_by(|a, b| a.offset < b.offset));
        assert!(partition.is_sorted_by_key(|record| text(record.value.as_ref())));
    }
    broker.close(5_000).await;
}

/// So that every backend, and programs in other languages, agree.
pub async fn a_key_goes_where_murmur2_says(world: &dyn BrokerWorld) {
    let broker = world.open_with_topics().await;
    let keys: Vec<String> = (0..50)
        .map(|n| format!("tenant/{n}"))
        .chain([String::new()])
        .collect();
    let records = keys
        .iter()
        .map(|key| NewRecord::new(Topic::Default, key.clone(), "x"))
        .collect();
    within("an append", broker.append(records)).await.unwrap();
    within(
        "an append",
        broker.append(vec![named(Topic::Default, 3, "placed by hand")]),
    )
    .await
    .unwrap();
    let records = contents(&*broker, Topic::Default).await;
    assert_eq!(records.len(), keys.len() + 1);
    for record in records {
        let key = record.key.clone().unwrap_or_default();
        let expected = if key == "placed by hand".as_bytes() {
            3
        } else {
            posthaste_event::partition::of(&key, PARTITIONS)
        };
        assert_eq!(record.partition.number, expected, "{key:?}");
    }
    broker.close(5_000).await;
}

/// The limit is checked before anything is written.
pub async fn a_record_that_is_too_large_is_refused_with_its_whole_call(world: &dyn BrokerWorld) {
    let broker = world.open_with_topics().await;
    let large = NewRecord::new(Topic::Default, "large", vec![b'x'; RECORD_BYTES_MAX]);
    let refused = broker
        .append(vec![named(Topic::Default, 0, "small"), large])
        .await;
    assert_eq!(
        refused,
        Err(AppendError::TooLarge {
            bytes: RECORD_BYTES_MAX + 5
        })
    );
    let largest = NewRecord::new(Topic::Default, "large", vec![b'x'; RECORD_BYTES_MAX - 5]);
    within("an append", broker.append(vec![largest])).await.unwrap();
    let records = contents(&*broker, Topic::Default).await;
    assert_eq!(records.len(), 1);
    assert_eq!(
        records[0].value.as_ref().map(Bytes::len),
        Some(RECORD_BYTES_MAX - 5)
    );
    broker.close(5_000).await;
}

/// A broker does not look into values; what cannot be read is said when it is decoded.
pub async fn any_bytes_pass_unharmed(world: &dyn BrokerWorld) {
    let broker = world.open_with_topics().await;
    let values: [&[u8]; 4] = [b"", b"\0\xff\xfe", b"{\"delivery\":", b"plain"];
    for (number, value) in (0..).zip(values) {
        let record = NewRecord {
            partition: Some(number),
            ..NewRecord::new(Topic::Failed, value.to_vec(), value.to_vec())
        };
        within("an append", broker.append(vec![record])).await.unwrap();
    }
    let mut member = Member::join(
        &*broker,
        tracked("retry", &[Topic::Failed, Topic::FailedCritical]),
    )
    .await;
    let consumed = member.take(4).await;
    for one in &consumed {
        let value = values[one.record.partition.number as usize];
        assert_eq!(one.record.value.as_deref(), Some(value));
        assert_eq!(one.record.key.as_deref().unwrap_or_default(), value);
        let foreign = one
            .record
            .decode("events")
            .expect_err("none of these is a record of ours");
        assert_eq!(
            (foreign.partition, foreign.offset),
            (one.record.partition.number, one.record.offset)
        );
        assert_eq!(foreign.topic, "events.failed");
    }
    member.finish(consumed).await;
    member.close().await;
    broker.close(5_000).await;
}

/// Older values may still come, the latest always does, also as a tombstone, also after reopening.
pub async fn a_compacted_topic_tells_the_latest_of_each_key(world: &dyn BrokerWorld) {
    let broker = world.open_with_topics().await;
    for round in 0..3 {
        for key in ["a", "b", "c"] {
            let record = NewRecord::new(Topic::Definitions, key, format!("{key}{round}"));
            within("an append", broker.append(vec![record])).await.unwrap();
        }
    }
    let tombstone = NewRecord {
        value: None,
        ..NewRecord::new(Topic::Definitions, "b", "")
    };
    within("an append", broker.append(vec![tombstone])).await.unwrap();
    broker.close(5_000).await;
    drop(broker);

    let broker = world.open().await;
    let mut latest = BTreeMap::new();
    for record in contents(&*broker, Topic::Definitions).await {
        let key = text(record.key.as_ref());
        latest.insert(key, record.value.map(|value| text(Some(&value))));
    }
    let expected = [("a", Some("a2")), ("b", None), ("c", Some("c2"))]
        .map(|(key, value)| (key.to_owned(), value.map(str::to_owned)));
    assert_eq!(latest, BTreeMap::from(expected));
    broker.close(5_000).await;
}

/// The wheel relies on it: within a tier the log's order is the due order.
pub async fn append_time_never_goes_back(world: &dyn BrokerWorld) {
    let broker = world.open_with_topics().await;
    let topic = Topic::Delay(Tier::S30);
    let began = posthaste_event::clock::now();
    for call in 0..20 {
        append_named(&*broker, topic, 1, &format!("{call}."), 3).await;
    }
    let ended = posthaste_event::clock::now();
    let records = contents(&*broker, topic).await;
    assert_eq!(records.len(), 60);
    assert!(records.is_sorted_by_key(|record| record.appended_at));
    // The broker may run on another machine, whose clock may differ a little.
    let tolerance = 2_000;
    assert!(records[0].appended_at >= began - tolerance && records[59].appended_at <= ended + tolerance);
    broker.close(5_000).await;
}

/// `topics create` makes what is missing, `topics check` says it, and repeating changes nothing.
pub async fn topics_are_missing_until_they_are_created_once(world: &dyn BrokerWorld) {
    let broker = world.open().await;
    let findings = within("checking", broker.check_topics()).await.unwrap();
    let missing = Topic::Default.name(broker.prefix());
    assert!(
        findings
            .iter()
            .any(|one| one.subject == missing && one.severity == Severity::Error)
    );
    let refused = within(
        "subscribing",
        broker.subscribe(tracked("dispatcher.default", &[Topic::Default])),
    )
    .await;
    match refused.map(|_| ()) {
        Err(error @ BrokerError::MissingTopics(_)) => {
            assert!(error.is_retryable());
            assert!(error.to_string().contains(&missing), "{error}");
        }
        other => panic!("subscribed to a missing topic: {other:?}"),
    }

    let created = within("creating", broker.create_topics()).await.unwrap();
    for topic in Topic::ALL {
        let name = topic.name(broker.prefix());
        assert!(created.iter().any(|one| one.subject == name), "{name}");
    }
    assert!(
        created.iter().all(|one| one.severity != Severity::Error),
        "{created:?}"
    );
    let findings = within("checking", broker.check_topics()).await.unwrap();
    let errors: Vec<_> = findings
        .iter()
        .filter(|one| one.severity == Severity::Error)
        .collect();
    assert!(errors.is_empty(), "{errors:?}");

    let mut member = Member::join(&*broker, tracked("dispatcher.default", &[Topic::Default])).await;
    append_named(&*broker, Topic::Default, 2, "work", 2).await;
    let consumed = member.take(2).await;
    member.finish(consumed).await;
    within("creating again", broker.create_topics()).await.unwrap();
    append_named(&*broker, Topic::Default, 2, "more", 1).await;
    assert_eq!(super::names(&member.take(1).await), ["more0"]);
    member.close().await;
    broker.close(5_000).await;
}

/// After closing nothing is acknowledged that is not there.
pub async fn a_closed_broker_takes_and_gives_nothing(world: &dyn BrokerWorld) {
    let broker = world.open_with_topics().await;
    assert_eq!(broker.health(), Ok(()));
    append_named(&*broker, Topic::Default, 0, "work", 1).await;
    let mut member = Member::join(&*broker, tracked("dispatcher.default", &[Topic::Default])).await;
    let mut consumed = member.take(1).await;
    within("closing", broker.close(5_000)).await;
    within("closing again", broker.close(5_000)).await;
    let late = within("an append", broker.append(vec![named(Topic::Default, 0, "late")])).await;
    assert!(late.is_err(), "{late:?}");
    let hop = Hop::one(consumed.remove(0).ticket, vec![named(Topic::Retry, 0, "late")]);
    let late = within("a hop", member.hopper.hop(hop)).await;
    assert!(late.is_err(), "{late:?}");
    member.next_error().await;
    drop(member);
    drop(broker);

    let broker = world.open().await;
    assert_eq!(contents(&*broker, Topic::Default).await.len(), 1);
    assert_eq!(contents(&*broker, Topic::Retry).await.len(), 0);
    broker.close(5_000).await;
}

/// For `/queues` and the janitor.
pub async fn lag_tells_where_a_group_stands(world: &dyn BrokerWorld) {
    let broker = world.open_with_topics().await;
    append_named(&*broker, Topic::Default, 1, "work", 3).await;
    let lag = within("lag", broker.lag("dispatcher.default", &[Topic::Default]))
        .await
        .unwrap();
    assert_eq!(lag.len(), PARTITIONS as usize);
    for one in &lag {
        assert_eq!(one.committed, Some(0), "{one:?}");
        assert_eq!(one.end, if one.partition.number == 1 { 3 } else { 0 }, "{one:?}");
    }
    let lag = within("lag", broker.lag("nobody", &[Topic::Default]))
        .await
        .unwrap();
    assert!(lag.iter().all(|one| one.committed.is_none()));
    let partition = Partition {
        topic: Topic::Default,
        number: 1,
    };
    let mut member = Member::join(&*broker, tracked("dispatcher.default", &[Topic::Default])).await;
    let consumed = member.take(3).await;
    member.finish(consumed).await;
    assert_eq!(
        super::committed(&*broker, "dispatcher.default", partition).await,
        Some(3)
    );
    member.close().await;
    // A reader that commits nothing stands nowhere.
    let mut reader = Member::join(&*broker, positioned("replay", &[Topic::Default], Start::LogStart)).await;
    reader.take_read(3).await;
    reader.close().await;
    assert_eq!(super::committed(&*broker, "replay", partition).await, None);
    broker.close(5_000).await;
}

/// Whoever does not know what became of an append can look.
pub async fn a_record_is_found_behind_its_mark(world: &dyn BrokerWorld) {
    let broker = world.open_with_topics().await;
    let missing = |key: &str| format!("{key} is nobody's key").into_bytes();
    for (topic, rounds) in [(Topic::Default, 1_500), (Topic::DelayNear, 3)] {
        let (one, other) = (partition_key(1), partition_key(2));
        let search = async |from: Mark, until: i64, key: &str| {
            let key = key.to_owned();
            let is_it = Box::new(move |record: &Record| record.key.as_deref() == Some(key.as_bytes()));
            within("a search", broker.find(from, until, is_it)).await.unwrap()
        };
        let asked = [(topic, one.as_bytes()), (topic, other.as_bytes())];
        let marks = within("the marks", broker.mark(&asked)).await.unwrap();
        assert_eq!(marks[0].partition, Partition { topic, number: 1 });
        assert_eq!(marks[1].partition, Partition { topic, number: 2 });
        assert!(search(marks[0], i64::MAX, &one).await.is_none());
        for _ in 0..rounds / 500 + 1 {
            let records = (0..rounds.min(500))
                .map(|_| NewRecord {
                    partition: Some(1),
                    ..NewRecord::new(topic, missing("x"), "other")
                })
                .collect();
            within("an append", broker.append(records)).await.unwrap();
        }
        let records = vec![
            NewRecord::new(topic, one.clone(), "first"),
            NewRecord::new(topic, one.clone(), "second"),
        ];
        within("an append", broker.append(records)).await.unwrap();
        let found = search(marks[0], i64::MAX, &one).await.unwrap();
        assert_eq!(text(found.value.as_ref()), "first");
        assert!(found.offset >= marks[0].offset);
        let behind = Mark {
            offset: found.offset + 1,
            ..marks[0]
        };
        assert_eq!(
            text(search(behind, i64::MAX, &one).await.unwrap().value.as_ref()),
            "second"
        );
        let end = Mark {
            offset: found.offset + 1_000,
            ..marks[0]
        };
        assert!(search(end, i64::MAX, &one).await.is_none());
        assert!(search(marks[0], i64::MAX, "nobody").await.is_none());
        assert!(
            search(marks[1], i64::MAX, &one).await.is_none(),
            "another partition"
        );
        assert!(
            search(marks[0], found.appended_at - 60_000, &one).await.is_none(),
            "appended too late"
        );
        let again = within("the marks", broker.mark(&asked)).await.unwrap();
        assert!(again[0].offset <= found.offset + 2);
    }
    broker.close(5_000).await;
}

/// A key that goes to this partition.
fn partition_key(number: u32) -> String {
    (0..)
        .map(|n| format!("key{n}"))
        .find(|key| posthaste_event::partition::of(key.as_bytes(), PARTITIONS) == number)
        .unwrap()
}
