//! Hops: atomic, exactly once per record, within limits.

use std::collections::{BTreeMap, BTreeSet};

use posthaste_broker::{Consumed, Hop, HopError, Limits, NewRecord, Partition, Start, Subscription};
use posthaste_event::Topic;

use super::{
    BrokerWorld, Member, PARTITIONS, RECORD_BYTES_MAX, append_named, committed, contents, named, names,
    positioned, text, tracked, within,
};

const GROUP: &str = "dispatcher.default";
const INPUT: Topic = Topic::Default;
const OUTPUT: Topic = Topic::Status;

fn hop(consumed: Consumed, outputs: &[&str]) -> Hop {
    let number = consumed.record.partition.number;
    Hop::one(
        consumed.ticket,
        outputs.iter().map(|name| named(OUTPUT, number, name)).collect(),
    )
}

fn outcome(consumed: Consumed) -> Hop {
    let name = text(consumed.record.value.as_ref());
    hop(consumed, &[&format!("outcome of {name}")])
}

/// One transaction: the outputs are there and the input is done.
pub async fn a_hop_appends_and_completes(world: &dyn BrokerWorld) {
    let broker = world.open_with_topics().await;
    append_named(&*broker, INPUT, 0, "work", 1).await;
    let mut member = Member::join(&*broker, tracked(GROUP, &[INPUT])).await;
    let mut consumed = member.take(1).await;
    assert!(member.hopper.is_recording());
    within(
        "a hop",
        member.hopper.hop(hop(consumed.remove(0), &["one", "two"])),
    )
    .await
    .unwrap();
    let values: Vec<String> = contents(&*broker, OUTPUT)
        .await
        .iter()
        .map(|record| text(record.value.as_ref()))
        .collect();
    assert_eq!(values, ["one", "two"]);
    let partition = Partition {
        topic: INPUT,
        number: 0,
    };
    assert_eq!(committed(&*broker, GROUP, partition).await, Some(1));
    member.close().await;
    // The sentinel comes instead of what was finished.
    append_named(&*broker, INPUT, 0, "sentinel", 1).await;
    let mut member = Member::join(&*broker, tracked(GROUP, &[INPUT])).await;
    assert_eq!(names(&member.take(1).await), ["sentinel0"]);
    member.close().await;
    broker.close(5_000).await;
}

/// Whoever watches over a consumer learns which record holds a partition up.
pub async fn the_oldest_unfinished_record_is_known(world: &dyn BrokerWorld) {
    let broker = world.open_with_topics().await;
    append_named(&*broker, INPUT, 0, "work", 3).await;
    let mut member = Member::join(&*broker, tracked(GROUP, &[INPUT])).await;
    let mut consumed = member.take(3).await;
    let oldest = |member: &Member| -> Vec<i64> {
        let unfinished = member.unfinished();
        unfinished.into_iter().map(|(_, offset)| offset).collect()
    };
    assert_eq!(oldest(&member), [0]);
    member.finish(vec![consumed.remove(1)]).await;
    assert_eq!(oldest(&member), [0]);
    member.finish(vec![consumed.remove(0)]).await;
    assert_eq!(oldest(&member), [2]);
    member.finish(consumed).await;
    assert!(oldest(&member).is_empty());
    member.close().await;
    broker.close(5_000).await;
}

/// Neither an offset that holds no record, nor one for which there is no room, looks as if reading stood still.
pub async fn nothing_is_unread_of_what_was_handed_out_or_must_wait(world: &dyn BrokerWorld) {
    let broker = world.open_with_topics().await;
    append_named(&*broker, INPUT, 0, "work", 6).await;
    let narrow = Subscription {
        limits: Limits {
            partition_records_max: 2,
            ..Limits::default()
        },
        ..tracked(GROUP, &[INPUT])
    };
    let mut member = Member::join(&*broker, narrow).await;
    let mut held = member.take(2).await;
    member.until_nothing_is_unread().await;
    // Each hop leaves an offset without a record behind its output.
    let mut reader = Member::join(&*broker, positioned("reader", &[OUTPUT], Start::At(Vec::new()))).await;
    while let Some(consumed) = held.pop() {
        within("a hop", member.hopper.hop(hop(consumed, &["done"])))
            .await
            .unwrap();
    }
    reader.take_read(2).await;
    reader.until_nothing_is_unread().await;
    // And what may be read again is.
    member.take(2).await;
    member.until_nothing_is_unread().await;
    reader.close().await;
    member.close().await;
    broker.close(5_000).await;
}

/// A void outcome leaves no output behind.
pub async fn a_refused_hop_leaves_nothing(world: &dyn BrokerWorld) {
    let broker = world.open_with_topics().await;
    append_named(&*broker, INPUT, 0, "work", 1).await;
    let mut first = Member::join(&*broker, tracked(GROUP, &[INPUT])).await;
    first.until("a record", |member| !member.held.is_empty()).await;
    let (mut held, hopper) = first.vanish();
    let mut second = Member::join(&*broker, tracked(GROUP, &[INPUT])).await;
    let again = second.take(1).await;
    let refused = within("a hop", hopper.hop(hop(held.remove(0), &["void"]))).await;
    assert!(
        matches!(refused, Err(HopError::Fenced | HopError::Closed)),
        "{refused:?}"
    );
    for consumed in again {
        within("a hop", second.hopper.hop(hop(consumed, &["good"])))
            .await
            .unwrap();
    }
    let values: Vec<String> = contents(&*broker, OUTPUT)
        .await
        .iter()
        .map(|record| text(record.value.as_ref()))
        .collect();
    assert_eq!(values, ["good"]);
    second.close().await;
    broker.close(5_000).await;
}

/// One hop may finish records of several partitions and append to several topics.
pub async fn a_hop_of_many_records_is_all_or_nothing(world: &dyn BrokerWorld) {
    let broker = world.open_with_topics().await;
    for number in 0..PARTITIONS {
        append_named(&*broker, INPUT, number, &format!("p{number}."), 3).await;
    }
    let count = 3 * PARTITIONS as usize;
    let mut member = Member::join(&*broker, tracked(GROUP, &[INPUT])).await;
    let consumed = member.take(count).await;
    let large = named(OUTPUT, 0, &"x".repeat(RECORD_BYTES_MAX));
    let hop = Hop {
        completes: consumed.into_iter().map(|one| one.ticket).collect(),
        outputs: vec![named(Topic::Failed, 0, "void"), large],
        ..Hop::default()
    };
    let refused = within("a hop", member.hopper.hop(hop)).await;
    assert!(matches!(refused, Err(HopError::TooLarge { .. })), "{refused:?}");
    let again = member.take(count).await;
    assert_eq!(again.len(), count, "every record came again");
    let hop = Hop {
        completes: again.into_iter().map(|one| one.ticket).collect(),
        outputs: vec![
            named(Topic::Failed, 0, "good"),
            named(Topic::Failed, 1, "good"),
            named(OUTPUT, 0, "good"),
        ],
        ..Hop::default()
    };
    within("a hop", member.hopper.hop(hop)).await.unwrap();
    let mut records = contents(&*broker, Topic::Failed).await;
    records.extend(contents(&*broker, OUTPUT).await);
    assert_eq!(records.len(), 3);
    assert!(
        records
            .iter()
            .all(|record| record.value.as_deref() == Some(b"good"))
    );
    member.close().await;
    broker.close(5_000).await;
}

/// Each record is finished once, whoever does it.
pub async fn what_was_finished_out_of_order_is_not_repeated_after_a_take_over(world: &dyn BrokerWorld) {
    let broker = world.open_with_topics().await;
    let count = 100;
    append_named(&*broker, INPUT, 2, "work", count).await;
    let mut first = Member::join(&*broker, tracked(GROUP, &[INPUT])).await;
    let (finished, left): (Vec<_>, Vec<_>) = first
        .take(count)
        .await
        .into_iter()
        .partition(|one| one.record.offset % 3 == 1);
    for consumed in finished {
        within("a hop", first.hopper.hop(outcome(consumed)))
            .await
            .unwrap();
    }
    drop(left);
    first.close().await;

    let mut second = Member::join(&*broker, tracked(GROUP, &[INPUT])).await;
    let open = (0..count).filter(|n| n % 3 != 1).count();
    let mut again = second.take(open).await;
    assert_eq!(again.len(), open);
    // The second one dies in the middle, the other way round.
    again.reverse();
    for consumed in again.drain(..open / 2) {
        within("a hop", second.hopper.hop(outcome(consumed)))
            .await
            .unwrap();
    }
    drop(again);
    drop(second.vanish());
    let mut third = Member::join(&*broker, tracked(GROUP, &[INPUT])).await;
    for consumed in third.take(open - open / 2).await {
        within("a hop", third.hopper.hop(outcome(consumed)))
            .await
            .unwrap();
    }
    append_named(&*broker, INPUT, 2, "sentinel", 1).await;
    assert_eq!(names(&third.take(1).await), ["sentinel0"]);
    let outcomes = contents(&*broker, OUTPUT).await;
    let distinct: BTreeSet<_> = outcomes
        .iter()
        .map(|record| text(record.value.as_ref()))
        .collect();
    assert_eq!((outcomes.len(), distinct.len()), (count, count));
    third.close().await;
    broker.close(5_000).await;
}

/// The map of what is finished is durable.
pub async fn what_was_finished_is_not_repeated_after_reopening(world: &dyn BrokerWorld) {
    let broker = world.open_with_topics().await;
    append_named(&*broker, INPUT, 1, "work", 10).await;
    let mut member = Member::join(&*broker, tracked(GROUP, &[INPUT])).await;
    let (even, odd): (Vec<_>, Vec<_>) = member
        .take(10)
        .await
        .into_iter()
        .partition(|one| one.record.offset % 2 == 0);
    member.finish(odd).await;
    drop(even);
    member.close().await;
    broker.close(5_000).await;
    drop(broker);

    let broker = world.open().await;
    append_named(&*broker, INPUT, 1, "x sentinel", 1).await;
    let mut member = Member::join(&*broker, tracked(GROUP, &[INPUT])).await;
    let again = member.take(6).await;
    assert_eq!(
        names(&again),
        ["work0", "work2", "work4", "work6", "work8", "x sentinel0"]
    );
    member.finish(again).await;
    member.close().await;
    broker.close(5_000).await;
}

/// While the partition is still ours.
pub async fn a_dropped_ticket_brings_its_record_again(world: &dyn BrokerWorld) {
    let broker = world.open_with_topics().await;
    append_named(&*broker, INPUT, 0, "work", 3).await;
    let mut member = Member::join(&*broker, tracked(GROUP, &[INPUT])).await;
    for _ in 0..3 {
        let consumed = member.take(3).await;
        assert_eq!(names(&consumed), ["work0", "work1", "work2"]);
        drop(consumed);
    }
    let mut consumed = member.take(3).await;
    let middle = consumed.remove(1);
    drop(middle);
    member.finish(consumed).await;
    let middle = member.take(1).await;
    assert_eq!(names(&middle), ["work1"]);
    member.finish(middle).await;
    append_named(&*broker, INPUT, 0, "sentinel", 1).await;
    assert_eq!(names(&member.take(1).await), ["sentinel0"]);
    member.close().await;
    broker.close(5_000).await;
}

/// The record comes again, to be hopped with something smaller.
pub async fn an_output_that_is_too_large_leaves_the_input_open(world: &dyn BrokerWorld) {
    let broker = world.open_with_topics().await;
    append_named(&*broker, INPUT, 0, "work", 1).await;
    let mut member = Member::join(&*broker, tracked(GROUP, &[INPUT])).await;
    let consumed = member.take(1).await.remove(0);
    let large = NewRecord::new(OUTPUT, "key", vec![b'x'; RECORD_BYTES_MAX]);
    let refused = within("a hop", member.hopper.hop(Hop::one(consumed.ticket, vec![large]))).await;
    assert_eq!(
        refused,
        Err(HopError::TooLarge {
            bytes: RECORD_BYTES_MAX + 3
        })
    );
    let consumed = member.take(1).await.remove(0);
    within("a hop", member.hopper.hop(hop(consumed, &["small"])))
        .await
        .unwrap();
    assert_eq!(contents(&*broker, OUTPUT).await.len(), 1);
    member.close().await;
    broker.close(5_000).await;
}

/// Hops that wait together are committed together, and each is answered.
pub async fn each_of_many_hops_at_once_has_its_outcome(world: &dyn BrokerWorld) {
    let broker = world.open_with_topics().await;
    let count = 1_000;
    let records = (0..count)
        .map(|n| NewRecord::new(INPUT, format!("key{n}"), format!("work{n}")))
        .collect();
    within("an append", broker.append(records)).await.unwrap();
    let mut member = Member::join(&*broker, tracked(GROUP, &[INPUT])).await;
    let consumed = member.take(count).await;
    assert_eq!(consumed.len(), count);
    let mut hops = tokio::task::JoinSet::new();
    for one in consumed {
        let hopper = std::sync::Arc::clone(&member.hopper);
        hops.spawn(async move { hopper.hop(outcome(one)).await });
    }
    let results = within("all hops", hops.join_all()).await;
    assert!(results.iter().all(Result::is_ok));
    let outcomes = contents(&*broker, OUTPUT).await;
    let distinct: BTreeSet<_> = outcomes
        .iter()
        .map(|record| text(record.value.as_ref()))
        .collect();
    assert_eq!((outcomes.len(), distinct.len()), (count, count));
    let lag = within("lag", broker.lag(GROUP, &[INPUT])).await.unwrap();
    assert!(lag.iter().all(|one| one.committed == Some(one.end)), "{lag:?}");
    member.close().await;
    broker.close(5_000).await;
}

/// What transactions leave between records is jumped over.
pub async fn offsets_without_records_do_not_hold_the_group_up(world: &dyn BrokerWorld) {
    let broker = world.open_with_topics().await;
    append_named(&*broker, INPUT, 0, "work", 5).await;
    let mut member = Member::join(&*broker, tracked(GROUP, &[INPUT])).await;
    for consumed in member.take(5).await {
        let output = named(Topic::Retry, 0, &text(consumed.record.value.as_ref()));
        within(
            "a hop",
            member.hopper.hop(Hop::one(consumed.ticket, vec![output])),
        )
        .await
        .unwrap();
    }
    member.close().await;
    let retry = "dispatcher.retry";
    let mut member = Member::join(&*broker, tracked(retry, &[Topic::Retry])).await;
    let consumed = member.take(5).await;
    let last = consumed.iter().map(|one| one.record.offset).max().unwrap();
    assert!(last > 4, "each hop leaves a gap, as a transaction does on Kafka");
    member.finish(consumed).await;
    let partition = Partition {
        topic: Topic::Retry,
        number: 0,
    };
    assert!(committed(&*broker, retry, partition).await.unwrap() > last);
    member.close().await;
    append_named(&*broker, Topic::Retry, 0, "sentinel", 1).await;
    let mut member = Member::join(&*broker, tracked(retry, &[Topic::Retry])).await;
    assert_eq!(names(&member.take(1).await), ["sentinel0"]);
    member.close().await;
    broker.close(5_000).await;
}

/// Finishes all of `count` records a few at a time, and answers the most that were in hand: of one partition, and of all.
async fn work_through(member: &mut Member, count: usize) -> (usize, usize) {
    let (mut finished, mut most_of_one, mut most) = (0, 0, 0);
    while finished < count {
        let have = member.held.len();
        member
            .until("more records", |member| member.held.len() > have || have > 0)
            .await;
        // Whatever else would come comes now.
        for _ in 0..3 {
            member.poll().await;
        }
        let mut in_hand: BTreeMap<Partition, usize> = BTreeMap::new();
        for consumed in &member.held {
            *in_hand.entry(consumed.record.partition).or_default() += 1;
        }
        most_of_one = most_of_one.max(in_hand.values().copied().max().unwrap_or(0));
        most = most.max(member.held.len());
        let some: Vec<Consumed> = member.held.drain(..member.held.len().div_ceil(2)).collect();
        finished += some.len();
        member.finish(some).await;
    }
    assert_eq!(finished, count);
    (most_of_one, most)
}

async fn limited(world: &dyn BrokerWorld, limits: Limits, check: impl FnOnce(usize, usize, usize)) {
    let broker = world.open_with_topics().await;
    for number in 0..PARTITIONS {
        append_named(&*broker, INPUT, number, &format!("p{number}."), 50).await;
    }
    let mut subscription = tracked(GROUP, &[INPUT]);
    subscription.limits = limits;
    let mut member = Member::join(&*broker, subscription).await;
    let (most_of_one, most) = work_through(&mut member, 50 * PARTITIONS as usize).await;
    check(most_of_one, most, member.batch_records);
    member.close().await;
    broker.close(5_000).await;
}

/// And goes on below it.
pub async fn reading_pauses_at_the_limit_of_a_partition(world: &dyn BrokerWorld) {
    let limits = Limits {
        partition_records_max: 8,
        ..Limits::default()
    };
    limited(world, limits, |most_of_one, _, _| {
        assert!(most_of_one <= 8, "{most_of_one}")
    })
    .await;
}

/// And goes on below it.
pub async fn reading_pauses_at_the_limit_of_all(world: &dyn BrokerWorld) {
    let limits = Limits {
        records_max: 10,
        batch_records_max: 4,
        ..Limits::default()
    };
    limited(world, limits, |_, most, batch| {
        assert!(most <= 10 && batch <= 4, "{most} in hand, {batch} at a time");
    })
    .await;
}

/// And goes on below it. One record may pass the limit, or large ones would never come.
pub async fn reading_pauses_at_the_limit_of_bytes(world: &dyn BrokerWorld) {
    // Key and value of each record are its name, of 4 or 5 bytes.
    let limits = Limits {
        bytes_max: 100,
        ..Limits::default()
    };
    limited(world, limits, |_, most, _| assert!(most <= 13, "{most}")).await;
}

/// More than any buffer holds.
pub async fn a_consumer_that_falls_behind_catches_up(world: &dyn BrokerWorld) {
    let broker = world.open_with_topics().await;
    let mut member = Member::join(&*broker, tracked(GROUP, &[INPUT])).await;
    member
        .until("all partitions", |member| {
            member.owned.len() == PARTITIONS as usize
        })
        .await;
    let (calls, each) = (40, 250);
    for call in 0..calls {
        let records = (0..each)
            .map(|n| NewRecord::new(INPUT, format!("{call}.{n}"), vec![b'x'; 300]))
            .collect();
        within("an append", broker.append(records)).await.unwrap();
    }
    let mut last: BTreeMap<Partition, i64> = BTreeMap::new();
    let mut count = 0;
    while count < calls * each {
        let consumed = member.take(1).await;
        for one in &consumed {
            let before = last.insert(one.record.partition, one.record.offset);
            assert!(
                before.is_none_or(|before| before < one.record.offset),
                "in order, each once"
            );
        }
        count += consumed.len();
        member.finish(consumed).await;
    }
    assert_eq!(count, calls * each);
    member.close().await;
    broker.close(5_000).await;
}
