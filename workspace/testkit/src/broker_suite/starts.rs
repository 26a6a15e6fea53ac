//! What a holder says without finishing a record: marks of started ones, durable before the work begins and told to
//! whoever gets the record next, and outputs fenced by its assignment alone.

use posthaste_broker::{Consumed, Hop, HopError};
use posthaste_event::Topic;

use super::{
    BrokerWorld, Member, PARTITIONS, append_named, contents, named, names, settle, text, tracked, within,
};

const GROUP: &str = "dispatcher.default";
const INPUT: Topic = Topic::Default;

/// The names of those that are marked, sorted.
fn started(consumed: &[Consumed]) -> Vec<String> {
    let marked = consumed.iter().filter(|one| one.ticket.is_started());
    let mut names: Vec<String> = marked.map(|one| text(one.record.value.as_ref())).collect();
    names.sort();
    names
}

async fn start(member: &Member, consumed: &Consumed) -> Result<(), HopError> {
    within("a mark", member.hopper.start(&consumed.ticket)).await
}

fn find<'a>(consumed: &'a [Consumed], name: &str) -> &'a Consumed {
    let found = consumed
        .iter()
        .find(|one| text(one.record.value.as_ref()) == name);
    found.unwrap()
}

/// In the same assignment, after a take-over, and after everything was closed; until it is finished.
pub async fn a_started_record_says_so_to_whoever_gets_it_next(world: &dyn BrokerWorld) {
    let broker = world.open_with_topics().await;
    append_named(&*broker, INPUT, 1, "work", 6).await;
    let mut first = Member::join(&*broker, tracked(GROUP, &[INPUT])).await;
    let consumed = first.take(6).await;
    assert!(started(&consumed).is_empty());
    for name in ["work1", "work3", "work4", "work3"] {
        start(&first, find(&consumed, name)).await.unwrap();
    }
    assert!(started(&consumed).is_empty(), "whoever marks it knows");
    drop(consumed);
    let consumed = first.take(6).await;
    assert_eq!(started(&consumed), ["work1", "work3", "work4"]);
    let (finished, left) = consumed
        .into_iter()
        .partition(|one| text(one.record.value.as_ref()) == "work3");
    first.finish(finished).await;
    drop::<Vec<_>>(left);
    drop(first.vanish());

    let mut second = Member::join(&*broker, tracked(GROUP, &[INPUT])).await;
    let consumed = second.take(5).await;
    assert_eq!(names(&consumed), ["work0", "work1", "work2", "work4", "work5"]);
    assert_eq!(started(&consumed), ["work1", "work4"]);
    start(&second, find(&consumed, "work5")).await.unwrap();
    drop(consumed);
    second.close().await;
    broker.close(5_000).await;
    drop(broker);

    let broker = world.open().await;
    let mut third = Member::join(&*broker, tracked(GROUP, &[INPUT])).await;
    let consumed = third.take(5).await;
    assert_eq!(started(&consumed), ["work1", "work4", "work5"]);
    third.finish(consumed).await;
    append_named(&*broker, INPUT, 1, "sentinel", 1).await;
    let sentinel = third.take(1).await;
    assert_eq!(
        (names(&sentinel).concat(), started(&sentinel).len()),
        ("sentinel0".to_owned(), 0)
    );
    drop(sentinel);
    third.close().await;
    broker.close(5_000).await;
}

/// Whoever was taken for dead does not begin.
pub async fn nothing_is_started_in_a_partition_that_is_gone(world: &dyn BrokerWorld) {
    let broker = world.open_with_topics().await;
    append_named(&*broker, INPUT, 0, "work", 1).await;
    let mut first = Member::join(&*broker, tracked(GROUP, &[INPUT])).await;
    first.until("a record", |member| !member.held.is_empty()).await;
    let (held, hopper) = first.vanish();
    let mut second = Member::join(&*broker, tracked(GROUP, &[INPUT])).await;
    let again = second.take(1).await;
    let refused = within("a mark", hopper.start(&held[0].ticket)).await;
    assert!(
        matches!(refused, Err(HopError::Fenced | HopError::Closed)),
        "{refused:?}"
    );
    assert!(started(&again).is_empty());
    drop(again);
    second.close().await;
    broker.close(5_000).await;
}

/// Whoever lost the partition can say nothing in its name, though it finishes nothing there.
pub async fn outputs_alone_are_fenced_by_an_assignment(world: &dyn BrokerWorld) {
    let broker = world.open_with_topics().await;
    append_named(&*broker, INPUT, 0, "work", 3).await;
    let mut first = Member::join(&*broker, tracked(GROUP, &[INPUT])).await;
    let mut consumed = first.take(3).await;
    assert_eq!(first.owned.len(), PARTITIONS as usize);
    first.finish(vec![consumed.remove(1)]).await;
    let assignments: Vec<_> = first.owned.values().copied().collect();
    let said = |fences, name: &str| Hop {
        fences,
        outputs: vec![named(Topic::Retry, 0, name)],
        ..Hop::default()
    };
    let all = said(assignments.clone(), "all");
    within("a hop", first.hopper.hop(all)).await.unwrap();
    drop(consumed);

    let mut second = Member::join(&*broker, tracked(GROUP, &[INPUT])).await;
    settle("the move", &mut [&mut first, &mut second], |members| {
        members
            .iter()
            .all(|member| member.owned.len() == PARTITIONS as usize / 2)
    })
    .await;
    first.held.clear();
    for assignment in &assignments {
        let is_ours = first.owned.contains_key(&assignment.partition);
        let hop = said(vec![*assignment], if is_ours { "ours" } else { "void" });
        let result = within("a hop", first.hopper.hop(hop)).await;
        assert_eq!(result, if is_ours { Ok(()) } else { Err(HopError::Fenced) });
    }
    let hop = said(assignments, "void");
    let result = within("a hop", first.hopper.hop(hop)).await;
    assert_eq!(result, Err(HopError::Fenced), "one that is gone voids all");
    let mut values: Vec<_> = contents(&*broker, Topic::Retry)
        .await
        .iter()
        .map(|record| text(record.value.as_ref()))
        .collect();
    values.sort();
    assert_eq!(values, ["all", "ours", "ours"]);

    // What was finished is still finished, and what was not is not.
    first.close().await;
    let left = second.take(2).await;
    assert_eq!(names(&left), ["work0", "work2"]);
    drop(left);
    second.close().await;
    broker.close(5_000).await;
}
