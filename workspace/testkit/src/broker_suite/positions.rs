//! Readers that keep their position themselves: replay and the projector.

use std::{collections::BTreeMap, sync::Arc};

use posthaste_broker::{Broker, Hop, HopError, NewRecord, News, Partition, Record, Start, follow};
use posthaste_event::{Topic, clock};
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::{
    BrokerWorld, Member, PARTITIONS, append_named, committed, contents, named, positioned, settle, text,
    tracked, within,
};

const GROUP: &str = "replay";
const INPUT: Topic = Topic::DeadLetter;

fn partition(number: u32) -> Partition {
    Partition { topic: INPUT, number }
}

fn position(member: &Member, number: u32, offset: i64, outputs: &[&str]) -> Hop {
    Hop {
        positions: vec![(member.owned[&partition(number)], offset)],
        outputs: outputs.iter().map(|name| named(Topic::Retry, 0, name)).collect(),
        ..Hop::default()
    }
}

/// Once per partition, after everything that stood there, and the empty ones too.
pub async fn a_reader_from_the_start_is_told_of_the_end(world: &dyn BrokerWorld) {
    let broker = world.open_with_topics().await;
    append_named(&*broker, INPUT, 0, "letter", 700).await;
    append_named(&*broker, INPUT, 1, "letter", 1).await;
    let mut member = Member::join(&*broker, positioned(GROUP, &[INPUT], Start::LogStart)).await;
    let mut seen = 0;
    while member.at_end.len() < PARTITIONS as usize {
        member.poll().await;
        if member.at_end.contains(&partition(0)) && seen == 0 {
            seen = member
                .read
                .iter()
                .filter(|record| record.partition == partition(0))
                .count();
            assert_eq!(seen, 700, "the end was told before all was read");
        }
    }
    append_named(&*broker, INPUT, 0, "later", 1).await;
    member
        .until("the last letter", |member| member.read.len() == 702)
        .await;
    assert_eq!(text(member.read[701].value.as_ref()), "later0");
    member.at_end.sort();
    assert_eq!(member.at_end, (0..PARTITIONS).map(partition).collect::<Vec<_>>());
    member.close().await;
    broker.close(5_000).await;
}

/// In the same transaction as the outputs.
pub async fn a_position_is_kept_and_gone_on_from(world: &dyn BrokerWorld) {
    let broker = world.open_with_topics().await;
    append_named(&*broker, INPUT, 2, "letter", 5).await;
    let mut member = Member::join(&*broker, positioned(GROUP, &[INPUT], Start::Committed)).await;
    member.take_read(5).await;
    let hop = position(&member, 2, 3, &["again"]);
    within("a hop", member.hopper.hop(hop)).await.unwrap();
    assert_eq!(committed(&*broker, GROUP, partition(2)).await, Some(3));
    assert_eq!(contents(&*broker, Topic::Retry).await.len(), 1);
    member.close().await;
    broker.close(5_000).await;
    drop(broker);

    let broker = world.open().await;
    let mut member = Member::join(&*broker, positioned(GROUP, &[INPUT], Start::Committed)).await;
    let values: Vec<String> = member
        .take_read(2)
        .await
        .iter()
        .map(|record| text(record.value.as_ref()))
        .collect();
    assert_eq!(values, ["letter3", "letter4"]);
    assert_eq!(member.owned[&partition(2)].committed, 3);
    member.close().await;
    // The whole log, whatever is committed; and it says what is committed.
    let mut member = Member::join(&*broker, positioned(GROUP, &[INPUT], Start::LogStart)).await;
    assert_eq!(member.take_read(5).await.len(), 5);
    assert_eq!(member.owned[&partition(2)].committed, 3);
    member.close().await;
    broker.close(5_000).await;
}

/// Whoever lost the partition cannot publish, though it changes no offset.
pub async fn an_unchanged_position_is_a_fence(world: &dyn BrokerWorld) {
    let broker = world.open_with_topics().await;
    let mut first = Member::join(&*broker, positioned(GROUP, &[INPUT], Start::LogStart)).await;
    first
        .until("all partitions", |member| {
            member.owned.len() == PARTITIONS as usize
        })
        .await;
    for _ in 0..2 {
        let hop = position(&first, 0, 0, &["good"]);
        within("a hop", first.hopper.hop(hop)).await.unwrap();
    }
    let stale: Vec<Hop> = (0..PARTITIONS)
        .map(|number| position(&first, number, 0, &["void"]))
        .collect();
    let mut second = Member::join(&*broker, positioned(GROUP, &[INPUT], Start::LogStart)).await;
    settle("the move", &mut [&mut first, &mut second], |members| {
        members[0].owned.len() == PARTITIONS as usize / 2 && members[1].owned.len() == PARTITIONS as usize / 2
    })
    .await;
    let mut refused = 0;
    for (number, hop) in (0..).zip(stale) {
        let result = within("a hop", first.hopper.hop(hop)).await;
        if first.owned.contains_key(&partition(number)) {
            assert_eq!(result, Ok(()), "{number}");
        } else {
            assert_eq!(result, Err(HopError::Fenced), "{number}");
            refused += 1;
        }
    }
    assert_eq!(refused, PARTITIONS as usize / 2);
    assert_eq!(
        contents(&*broker, Topic::Retry).await.len(),
        2 + PARTITIONS as usize - refused
    );
    first.close().await;
    second.close().await;
    broker.close(5_000).await;
}

/// As the projector does where its store keeps the positions. Partitions it does not name begin at their first record.
pub async fn a_reader_may_begin_at_offsets_of_its_own(world: &dyn BrokerWorld) {
    let broker = world.open_with_topics().await;
    append_named(&*broker, INPUT, 0, "a", 5).await;
    append_named(&*broker, INPUT, 1, "b", 2).await;
    let start = Start::At(vec![(partition(0), 4)]);
    let mut member = Member::join(&*broker, positioned("projector", &[INPUT], start)).await;
    let mut values: Vec<String> = member
        .take_read(3)
        .await
        .iter()
        .map(|record| text(record.value.as_ref()))
        .collect();
    values.sort();
    assert_eq!(values, ["a4", "b0", "b1"]);
    member.close().await;
    assert_eq!(
        committed(&*broker, "projector", partition(0)).await,
        Some(0),
        "nothing was committed"
    );
    broker.close(5_000).await;
}

/// And not before its time. What one group still needs stays, and offsets go on where they were.
pub async fn what_every_group_is_done_with_is_deleted_after_its_time(world: &dyn BrokerWorld) {
    const TOPIC: Topic = Topic::Default;
    let broker = world.open_with_topics().await;
    let place = Partition {
        topic: TOPIC,
        number: 1,
    };
    append_named(&*broker, TOPIC, 1, "event", 20).await;
    append_named(&*broker, INPUT, 0, "letter", 3).await;
    let mut dispatcher = Member::join(&*broker, tracked("dispatcher.default", &[TOPIC])).await;
    let mut projector = Member::join(
        &*broker,
        positioned("projector", &[TOPIC, INPUT], Start::Committed),
    )
    .await;
    projector.take_read(23).await;
    let commit = |member: &Member, partition: Partition, offset: i64| Hop {
        positions: vec![(member.owned[&partition], offset)],
        ..Hop::default()
    };
    for (partition, offset) in [(place, 18), (partition(0), 3)] {
        let hop = commit(&projector, partition, offset);
        within("a hop", projector.hopper.hop(hop)).await.unwrap();
    }
    let mut consumed = dispatcher.take(20).await;
    let rest = consumed.split_off(15);
    dispatcher.finish(consumed).await;

    let later = clock::now() + 60_000;
    let trim = async |before| within("trimming", broker.trim(before)).await.unwrap();
    assert_eq!(trim(clock::now() - 60_000).await, 0, "it is not time yet");
    assert_eq!(trim(later).await, 15, "no further than the dispatcher");
    assert_eq!(trim(later).await, 0);
    assert_eq!(first_name(&*broker, TOPIC).await, "event15");
    dispatcher.finish(rest).await;
    assert_eq!(trim(later).await, 3, "no further than the projector");
    assert_eq!(first_name(&*broker, TOPIC).await, "event18");
    assert_eq!(
        contents(&*broker, INPUT).await.len(),
        3,
        "the replay group is not done with them"
    );

    append_named(&*broker, TOPIC, 1, "later", 1).await;
    let next = dispatcher.take(1).await;
    assert_eq!(next[0].record.offset, 20);
    dispatcher.finish(next).await;
    dispatcher.close().await;
    projector.close().await;
    broker.close(5_000).await;
}

async fn first_name(broker: &dyn posthaste_broker::Broker, topic: Topic) -> String {
    text(contents(broker, topic).await[0].value.as_ref())
}

/// Each of those who follow a topic is told all of it, and then everything that comes, in whichever process they are.
pub async fn everybody_who_follows_a_topic_is_told_all_of_it(world: &dyn BrokerWorld) {
    const TOPIC: Topic = Topic::Control;
    let broker = world.open_with_topics().await;
    let said = |key: &str, value: &str| NewRecord::new(TOPIC, key.to_owned(), value.to_owned());
    let before = (0..40).map(|number| said(&format!("key{number}"), "before"));
    within("an append", broker.append(before.collect()))
        .await
        .unwrap();

    let stop = CancellationToken::new();
    let mut followers = Vec::new();
    for _ in 0..2 {
        followers.push(follower(&broker, TOPIC, &stop));
    }
    let mut latest = vec![BTreeMap::new(); followers.len()];
    for ((_, heard), latest) in followers.iter_mut().zip(&mut latest) {
        let mut followed = 0;
        within("all that was there", async {
            loop {
                match heard.recv().await.unwrap() {
                    News::Records(records) => note(latest, records),
                    News::AllRead => break,
                    News::Follows(partitions) => followed = partitions.len(),
                    News::Away(reason) => panic!("away: {reason}"),
                }
            }
        })
        .await;
        assert_eq!(latest.len(), 40, "it was said to be all");
        assert_eq!(followed, PARTITIONS as usize);
    }

    // What a hop says is heard too, a tombstone among it.
    append_named(&*broker, INPUT, 0, "letter", 1).await;
    let mut member = Member::join(&*broker, positioned(GROUP, &[INPUT], Start::LogStart)).await;
    member.take_read(1).await;
    let forgotten = NewRecord {
        value: None,
        ..said("key1", "")
    };
    let hop = Hop {
        positions: vec![(member.owned[&partition(0)], 0)],
        outputs: vec![said("key0", "after"), forgotten],
        ..Hop::default()
    };
    within("a hop", member.hopper.hop(hop)).await.unwrap();
    for ((_, heard), latest) in followers.iter_mut().zip(&mut latest) {
        within("what came later", async {
            while latest["key0"].as_deref() != Some("after") || latest["key1"].is_some() {
                match heard.recv().await.unwrap() {
                    News::Records(records) => note(latest, records),
                    other => panic!("{other:?}"),
                }
            }
        })
        .await;
        assert_eq!(latest["key2"].as_deref(), Some("before"));
    }
    stop.cancel();
    for (task, _) in followers {
        within("the end", task).await.unwrap();
    }
    member.close().await;
    broker.close(5_000).await;
}

fn follower(
    broker: &Arc<dyn Broker>,
    topic: Topic,
    stop: &CancellationToken,
) -> (JoinHandle<()>, mpsc::UnboundedReceiver<News>) {
    let (told, heard) = mpsc::unbounded_channel();
    let (broker, stop) = (Arc::clone(broker), stop.clone());
    let task = tokio::spawn(async move {
        // Nobody may be listening any more at the end of the test.
        let tell = |news| drop(told.send(news));
        follow(&broker, &[topic], &stop, tell).await;
    });
    (task, heard)
}

fn note(latest: &mut BTreeMap<String, Option<String>>, records: Vec<Record>) {
    for record in records {
        let value = record.value.as_ref().map(|value| text(Some(value)));
        latest.insert(text(record.key.as_ref()), value);
    }
}
