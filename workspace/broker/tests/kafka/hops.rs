//! Hops in one member's life.

use posthaste_broker::{Broker, Hop, HopError, NewRecord};
use posthaste_event::Topic;

use crate::{
    member::{Member, text, texts},
    world::{fresh, subscription},
};

async fn append(broker: &dyn Broker, topic: Topic, values: impl IntoIterator<Item = String>) {
    let records = values
        .into_iter()
        .map(|value| NewRecord::new(topic, value.clone(), value))
        .collect();
    broker.append(records).await.unwrap();
}

fn numbers(range: std::ops::Range<usize>) -> impl Iterator<Item = String> {
    range.map(|number| format!("{number:05}"))
}

#[tokio::test]
async fn what_was_finished_out_of_order_does_not_come_again() {
    let (broker, _) = fresh(1).await;
    append(&*broker, Topic::Default, numbers(0..10)).await;
    let mut first = Member::join(&*broker, subscription("dispatcher.default", &[Topic::Default])).await;
    let mut records = first.receive(10).await;
    for index in [7, 4, 3] {
        first.hop(records.remove(index), Vec::new()).await.unwrap();
    }
    drop(records);
    first.consumer.close().await;
    let mut second = Member::join(&*broker, subscription("dispatcher.default", &[Topic::Default])).await;
    let records = second.receive(7).await;
    let expected = ["00000", "00001", "00002", "00005", "00006", "00008", "00009"];
    assert_eq!(texts(&records), expected);
    drop(records);
    second.consumer.close().await;
}

#[tokio::test]
async fn outputs_of_a_hop_are_read_by_the_next_group() {
    let (broker, _) = fresh(3).await;
    append(&*broker, Topic::Default, numbers(0..50)).await;
    let mut dispatcher = Member::join(&*broker, subscription("dispatcher.default", &[Topic::Default])).await;
    let mut retry = Member::join(
        &*broker,
        subscription("retry", &[Topic::Failed, Topic::FailedCritical]),
    )
    .await;
    for consumed in dispatcher.receive(50).await {
        let value = text(&consumed);
        let failed = NewRecord::new(Topic::Failed, value.clone(), value);
        dispatcher.hop(consumed, vec![failed]).await.unwrap();
    }
    let records = retry.receive(50).await;
    assert_eq!(texts(&records), numbers(0..50).collect::<Vec<_>>());
    let lag = broker.lag("dispatcher.default", &[Topic::Default]).await.unwrap();
    assert!(lag.iter().all(|lag| lag.committed == Some(lag.end)), "{lag:?}");
}

#[tokio::test]
async fn a_dropped_ticket_brings_its_record_again() {
    let (broker, _) = fresh(1).await;
    append(&*broker, Topic::Default, numbers(0..3)).await;
    let mut member = Member::join(&*broker, subscription("dispatcher.default", &[Topic::Default])).await;
    let mut records = member.receive(3).await;
    drop(records.remove(1));
    let again = member.receive(1).await;
    assert_eq!(texts(&again), ["00001"]);
    append(&*broker, Topic::Default, numbers(3..4)).await;
    let next = member.receive(1).await;
    assert_eq!(texts(&next), ["00003"], "and the others do not come again");
}

#[tokio::test]
async fn no_more_is_handed_out_than_the_limits_allow() {
    let (broker, _) = fresh(2).await;
    append(&*broker, Topic::Default, numbers(0..200)).await;
    let mut subscription = subscription("dispatcher.default", &[Topic::Default]);
    subscription.limits.records_max = 10;
    subscription.limits.partition_records_max = 7;
    let mut member = Member::join(&*broker, subscription).await;
    let mut seen = Vec::new();
    while seen.len() < 200 {
        member.step().await.unwrap();
        assert!(member.records.len() <= 10);
        for consumed in std::mem::take(&mut member.records) {
            seen.push(text(&consumed));
            member.hop(consumed, Vec::new()).await.unwrap();
        }
    }
    seen.sort();
    assert_eq!(seen, numbers(0..200).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_record_that_is_too_large_leaves_its_input_open() {
    let (broker, settings) = fresh(1).await;
    append(&*broker, Topic::Default, numbers(0..1)).await;
    let mut member = Member::join(&*broker, subscription("dispatcher.default", &[Topic::Default])).await;
    let consumed = member.receive(1).await.remove(0);
    let large = NewRecord::new(Topic::Failed, "k", vec![b'x'; settings.record_bytes_max + 1]);
    let result = member.hop(consumed, vec![large]).await;
    assert!(matches!(result, Err(HopError::TooLarge { .. })), "{result:?}");
    let again = member.receive(1).await.remove(0);
    member.hop(again, Vec::new()).await.unwrap();
}

#[tokio::test]
async fn hops_after_close_say_so() {
    let (broker, _) = fresh(1).await;
    let member = Member::join(&*broker, subscription("dispatcher.default", &[Topic::Default])).await;
    let hopper = member.consumer.hopper();
    member.consumer.close().await;
    assert_eq!(hopper.hop(Hop::default()).await, Err(HopError::Closed));
}
