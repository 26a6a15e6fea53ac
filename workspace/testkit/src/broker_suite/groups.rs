//! Groups: who owns what, and how partitions move.

use std::collections::BTreeSet;

use posthaste_broker::{BrokerError, Hop, HopError, Limits, NewRecord, Partition, Subscription};
use posthaste_event::Topic;

use super::{
    BrokerWorld, Member, PARTITIONS, RECORD_BYTES_MAX, append_named, contents, named, names, settle, text,
    tracked, within,
};

const GROUP: &str = "dispatcher.default";
const INPUT: Topic = Topic::Default;

/// Whether the members own all partitions of so many topics, none twice, none about to move.
fn is_settled(members: &[&mut Member], topics: usize) -> bool {
    let owned: BTreeSet<Partition> = members
        .iter()
        .flat_map(|member| member.owned.keys().copied())
        .collect();
    let count: usize = members.iter().map(|member| member.owned.len()).sum();
    owned.len() == count
        && count == topics * PARTITIONS as usize
        && members.iter().all(|member| member.revoking.is_empty())
}

fn is_even(members: &[&mut Member]) -> bool {
    let counts: Vec<usize> = members.iter().map(|member| member.owned.len()).collect();
    let (least, most) = (counts.iter().min(), counts.iter().max());
    least.zip(most).is_some_and(|(least, most)| most - least <= 1)
}

/// A member that joins gets its share, one that leaves gives it back.
pub async fn partitions_are_spread_evenly_and_again_when_members_change(world: &dyn BrokerWorld) {
    let broker = world.open_with_topics().await;
    let mut first = Member::join(&*broker, tracked(GROUP, &[INPUT])).await;
    first
        .until("all partitions", |member| {
            member.owned.len() == PARTITIONS as usize
        })
        .await;
    let mut second = Member::join(&*broker, tracked(GROUP, &[INPUT])).await;
    settle("two shares", &mut [&mut first, &mut second], |members| {
        is_settled(members, 1) && is_even(members)
    })
    .await;
    let mut third = Member::join(&*broker, tracked(GROUP, &[INPUT])).await;
    settle(
        "three shares",
        &mut [&mut first, &mut second, &mut third],
        |members| is_settled(members, 1) && is_even(members),
    )
    .await;
    first.close().await;
    settle("two shares", &mut [&mut second, &mut third], |members| {
        is_settled(members, 1) && is_even(members)
    })
    .await;
    third.close().await;
    second
        .until("all partitions", |member| {
            member.owned.len() == PARTITIONS as usize
        })
        .await;
    let epochs: BTreeSet<u64> = second.epochs.iter().copied().collect();
    assert_eq!(epochs.len(), second.epochs.len());
    second.close().await;
    broker.close(5_000).await;
}

/// As the critical dispatchers do: a member for each kind of topic, in one group.
pub async fn members_of_a_group_may_read_different_topics(world: &dyn BrokerWorld) {
    let broker = world.open_with_topics().await;
    let group = "dispatcher.critical";
    let mut one = Member::join(&*broker, tracked(group, &[Topic::Critical])).await;
    let mut other = Member::join(&*broker, tracked(group, &[Topic::RetryCritical])).await;
    settle("a topic for each", &mut [&mut one, &mut other], |members| {
        is_settled(members, 2)
    })
    .await;
    assert!(
        one.owned
            .keys()
            .all(|partition| partition.topic == Topic::Critical)
    );
    assert!(
        other
            .owned
            .keys()
            .all(|partition| partition.topic == Topic::RetryCritical)
    );
    let mut both = Member::join(&*broker, tracked(group, &[Topic::Critical, Topic::RetryCritical])).await;
    settle(
        "shares of both",
        &mut [&mut one, &mut other, &mut both],
        |members| is_settled(members, 2) && members.iter().all(|member| !member.owned.is_empty()),
    )
    .await;
    assert!(
        one.owned
            .keys()
            .all(|partition| partition.topic == Topic::Critical)
    );
    assert!(
        other
            .owned
            .keys()
            .all(|partition| partition.topic == Topic::RetryCritical)
    );
    one.close().await;
    both.close().await;
    other.close().await;
    broker.close(5_000).await;
}

/// Those without a partition wait for one.
pub async fn more_members_than_partitions_share_the_work(world: &dyn BrokerWorld) {
    let broker = world.open_with_topics().await;
    let mut members = Vec::new();
    for _ in 0..PARTITIONS + 2 {
        members.push(Member::join(&*broker, tracked(GROUP, &[INPUT])).await);
    }
    let mut all: Vec<&mut Member> = members.iter_mut().collect();
    settle("one partition each", &mut all, |members| {
        is_settled(members, 1) && members.iter().all(|member| member.owned.len() <= 1)
    })
    .await;
    for number in 0..PARTITIONS {
        append_named(&*broker, INPUT, number, &format!("p{number}."), 20).await;
    }
    settle("all records", &mut all, |members| {
        members.iter().map(|member| member.held.len()).sum::<usize>() >= 20 * PARTITIONS as usize
    })
    .await;
    for member in members {
        for consumed in &member.held {
            assert!(member.owned.contains_key(&consumed.record.partition));
        }
        member.close().await;
    }
    broker.close(5_000).await;
}

/// Each group sees every record.
pub async fn groups_do_not_disturb_each_other(world: &dyn BrokerWorld) {
    let broker = world.open_with_topics().await;
    append_named(&*broker, Topic::Critical, 0, "work", 5).await;
    let mut dispatcher = Member::join(&*broker, tracked("dispatcher.critical", &[Topic::Critical])).await;
    let mut projector = Member::join(&*broker, tracked("projector", &[Topic::Critical])).await;
    let consumed = dispatcher.take(5).await;
    dispatcher.finish(consumed).await;
    let seen = projector.take(5).await;
    assert_eq!(seen.len(), 5);
    append_named(&*broker, Topic::Critical, 0, "more", 1).await;
    assert_eq!(names(&dispatcher.take(1).await), ["more0"]);
    assert_eq!(names(&projector.take(1).await), ["more0"]);
    projector.finish(seen).await;
    projector.close().await;
    dispatcher.close().await;
    broker.close(5_000).await;
}

/// Two members with one record of each partition in the first one's hands, some of whose partitions are being revoked.
async fn revoking(broker: &dyn posthaste_broker::Broker) -> (Member, Member) {
    for number in 0..PARTITIONS {
        append_named(broker, INPUT, number, &format!("p{number}."), 1).await;
    }
    let mut first = Member::join(broker, tracked(GROUP, &[INPUT])).await;
    first
        .until("all records", |member| member.held.len() == PARTITIONS as usize)
        .await;
    let mut second = Member::join(broker, tracked(GROUP, &[INPUT])).await;
    settle("revoking", &mut [&mut first, &mut second], |members| {
        !members[0].revoking.is_empty()
    })
    .await;
    (first, second)
}

/// What is under way is recorded by its holder, and the next owner goes on behind it.
pub async fn a_revoked_partition_is_drained_before_it_moves(world: &dyn BrokerWorld) {
    let broker = world.open_with_topics().await;
    let (mut first, mut second) = revoking(&*broker).await;
    let moving = first.revoking.clone();
    for consumed in std::mem::take(&mut first.held) {
        let output = named(Topic::Status, 0, &text(consumed.record.value.as_ref()));
        within(
            "a hop while revoking",
            first.hopper.hop(Hop::one(consumed.ticket, vec![output])),
        )
        .await
        .unwrap();
    }
    settle("the move", &mut [&mut first, &mut second], |members| {
        is_settled(members, 1)
    })
    .await;
    assert!(
        moving
            .iter()
            .all(|partition| second.owned.contains_key(partition))
    );
    for assignment in second.owned.values() {
        assert_eq!(assignment.committed, 1);
    }
    for number in 0..PARTITIONS {
        append_named(&*broker, INPUT, number, "sentinel", 1).await;
    }
    settle("the sentinels", &mut [&mut first, &mut second], |members| {
        members.iter().map(|member| member.held.len()).sum::<usize>() == PARTITIONS as usize
    })
    .await;
    for member in [&first, &second] {
        assert!(names(&member.held).iter().all(|name| name == "sentinel0"));
    }
    assert_eq!(contents(&*broker, Topic::Status).await.len(), PARTITIONS as usize);
    first.close().await;
    second.close().await;
    broker.close(5_000).await;
}

/// A holder that will not finish says so, and the next owner gets the records.
pub async fn dropping_the_tickets_gives_a_revoked_partition_up(world: &dyn BrokerWorld) {
    let broker = world.open_with_topics().await;
    let (mut first, mut second) = revoking(&*broker).await;
    let moving = first.revoking.clone();
    first
        .held
        .retain(|consumed| !moving.contains(&consumed.record.partition));
    settle("the move", &mut [&mut first, &mut second], |members| {
        is_settled(members, 1) && members[1].held.len() == moving.len()
    })
    .await;
    let again: BTreeSet<Partition> = second
        .held
        .iter()
        .map(|consumed| consumed.record.partition)
        .collect();
    assert_eq!(again, moving);
    first.close().await;
    second.close().await;
    broker.close(5_000).await;
}

/// It slept through the drain; the record belongs to another member, whose outcome is the one that counts.
pub async fn a_zombies_outcome_is_refused_after_the_drain_time(world: &dyn BrokerWorld) {
    let broker = world.open_with_topics().await;
    let (mut first, mut second) = revoking(&*broker).await;
    let moving = first.revoking.clone();
    settle("the drain time", &mut [&mut first, &mut second], |members| {
        moving
            .iter()
            .all(|partition| members[0].revoked.contains(partition))
            && members[1].held.len() == moving.len()
    })
    .await;
    let mut void = 0;
    for consumed in std::mem::take(&mut first.held) {
        let output = named(Topic::Status, 0, "from the first");
        let is_void = moving.contains(&consumed.record.partition);
        let result = within("a hop", first.hopper.hop(Hop::one(consumed.ticket, vec![output]))).await;
        assert_eq!(result, if is_void { Err(HopError::Fenced) } else { Ok(()) });
        void += usize::from(is_void);
    }
    assert_eq!(void, moving.len());
    for consumed in std::mem::take(&mut second.held) {
        let output = named(Topic::Status, 0, "from the second");
        within(
            "a hop",
            second.hopper.hop(Hop::one(consumed.ticket, vec![output])),
        )
        .await
        .unwrap();
    }
    let outcomes = contents(&*broker, Topic::Status).await;
    assert_eq!(outcomes.len(), PARTITIONS as usize);
    let from_second =
        |record: &&posthaste_broker::Record| record.value.as_deref() == Some(b"from the second");
    assert_eq!(outcomes.iter().filter(from_second).count(), moving.len());
    first.close().await;
    second.close().await;
    broker.close(5_000).await;
}

/// Its partitions do not wait for a drain that nobody makes.
pub async fn a_member_that_vanished_is_replaced(world: &dyn BrokerWorld) {
    let broker = world.open_with_topics().await;
    for number in 0..PARTITIONS {
        append_named(&*broker, INPUT, number, &format!("p{number}."), 1).await;
    }
    let mut first = Member::join(&*broker, tracked(GROUP, &[INPUT])).await;
    first
        .until("all records", |member| member.held.len() == PARTITIONS as usize)
        .await;
    let mut second = Member::join(&*broker, tracked(GROUP, &[INPUT])).await;
    let held = first.vanish();
    second
        .until("everything", |member| {
            member.owned.len() == PARTITIONS as usize && member.held.len() == PARTITIONS as usize
        })
        .await;
    drop(held);
    let consumed = std::mem::take(&mut second.held);
    second.finish(consumed).await;
    second.close().await;
    broker.close(5_000).await;
}

/// Hops most of what a member holds, drops some, and keeps some for later; `turn` counts on. Answers how many outcomes
/// count.
async fn work(member: &mut Member, turn: &mut usize) -> usize {
    let mut good = 0;
    let mut kept = Vec::new();
    for consumed in std::mem::take(&mut member.held) {
        *turn += 1;
        match *turn % 7 {
            0 => drop(consumed),
            1 => kept.push(consumed),
            _ => {
                let output = named(Topic::Status, 0, &text(consumed.record.value.as_ref()));
                match within(
                    "a hop",
                    member.hopper.hop(Hop::one(consumed.ticket, vec![output])),
                )
                .await
                {
                    Ok(()) => good += 1,
                    Err(error) => assert_eq!(error, HopError::Fenced),
                }
            }
        }
    }
    member.held = kept;
    good
}

/// Joining, leaving, vanishing, dropping tickets and holding on to them, all at once.
pub async fn members_come_and_go_and_each_record_has_one_outcome(world: &dyn BrokerWorld) {
    let broker = world.open_with_topics().await;
    let each = 150;
    for number in 0..PARTITIONS {
        append_named(&*broker, INPUT, number, &format!("p{number}."), each).await;
    }
    let count = each * PARTITIONS as usize;
    let mut subscription = tracked(GROUP, &[INPUT]);
    // Small, so that there is work left for all.
    subscription.limits.partition_records_max = 10;
    let mut members = Vec::new();
    let (mut good, mut turn) = (0, 0);
    for change in 0..5 {
        members.push(Member::join(&*broker, subscription.clone()).await);
        let before = good;
        let working = async {
            while good < before + 40 {
                for member in &mut members {
                    member.poll().await;
                    good += work(member, &mut turn).await;
                }
            }
        };
        within("work", working).await;
        match change {
            1 => drop(members.remove(0).vanish()),
            2 => members.remove(0).close().await,
            _ => {}
        }
    }
    let finishing = async {
        while good < count {
            for member in &mut members {
                member.poll().await;
                good += work(member, &mut turn).await;
            }
        }
    };
    within("the rest of the work", finishing).await;
    let outcomes = contents(&*broker, Topic::Status).await;
    let distinct: BTreeSet<String> = outcomes
        .iter()
        .map(|record| text(record.value.as_ref()))
        .collect();
    assert_eq!((outcomes.len(), distinct.len()), (count, count));
    for member in members {
        member.close().await;
    }
    broker.close(5_000).await;
}

/// History is never sent again by accident.
pub async fn a_group_without_positions_is_refused_where_there_is_history(world: &dyn BrokerWorld) {
    let broker = world.open_with_topics().await;
    append_named(&*broker, INPUT, 0, "history", 1).await;
    let refused = within("subscribing", broker.subscribe(tracked("newcomers", &[INPUT]))).await;
    match refused.map(|_| ()) {
        Err(error @ BrokerError::NoPositions { .. }) => {
            assert!(!error.is_retryable());
            let (group, topic) = (
                format!("{}.newcomers", broker.prefix()),
                INPUT.name(broker.prefix()),
            );
            let message = error.to_string();
            assert!(message.contains(&group) && message.contains(&topic), "{message}");
        }
        other => panic!("subscribed to history: {other:?}"),
    }
    // Where there is none, there is nothing to be sent again.
    let mut member = Member::join(&*broker, tracked("newcomers", &[Topic::Retry])).await;
    append_named(&*broker, Topic::Retry, 0, "work", 1).await;
    let consumed = member.take(1).await;
    member.finish(consumed).await;
    member.close().await;
    broker.close(5_000).await;
}

/// What waits in a member's hands for its time, however much there is behind it, is one partition's business.
pub async fn held_records_hold_up_no_other_partition(world: &dyn BrokerWorld) {
    let broker = world.open_with_topics().await;
    let limits = Limits {
        partition_records_max: 1,
        ..Limits::default()
    };
    let subscription = Subscription {
        limits,
        ..tracked(GROUP, &[INPUT])
    };
    let mut member = Member::join(&*broker, subscription).await;
    member
        .until("all partitions", |member| {
            member.owned.len() == PARTITIONS as usize
        })
        .await;
    append_named(&*broker, INPUT, 0, "held", 1).await;
    member
        .until("a record to hold", |member| !member.held.is_empty())
        .await;
    // More than is kept ready of all partitions together.
    for call in 0..12 {
        let large = (0..20).map(|n| NewRecord {
            value: Some(vec![b'x'; RECORD_BYTES_MAX - 1_000].into()),
            ..named(INPUT, 0, &format!("held{call}-{n}"))
        });
        within("an append", broker.append(large.collect())).await.unwrap();
    }
    append_named(&*broker, INPUT, 1, "free", 1).await;
    member
        .until("another partition's record", |member| {
            member.held.iter().any(|one| one.record.partition.number == 1)
        })
        .await;
    assert_eq!(member.held.len(), 2);
}
