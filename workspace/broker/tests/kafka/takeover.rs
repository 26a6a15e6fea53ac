//! Partitions that change hands, and brokers that die.

use std::{collections::BTreeSet, time::Duration};

use posthaste_broker::{
    Broker, BrokerError, Hop, NewRecord, Signal, Start, Subscription, Tracking, kafka::KafkaBroker,
};
use posthaste_event::Topic;
use posthaste_testkit::KafkaServer;
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    consumer::{BaseConsumer, CommitMode, Consumer as _},
    producer::{BaseProducer, BaseRecord, Producer as _},
};
use tokio::{task::JoinSet, time::timeout};

use crate::{
    member::{Member, text},
    world::{LIMIT, connect, fresh, settings, subscription},
};

const GROUP: &str = "dispatcher.default";

async fn append(broker: &KafkaBroker, count: usize) {
    for chunk in (0..count).collect::<Vec<_>>().chunks(500) {
        let records = chunk
            .iter()
            .map(|number| NewRecord::new(Topic::Default, number.to_string(), number.to_string()))
            .collect();
        broker.append(records).await.unwrap();
    }
}

#[tokio::test]
async fn a_partition_changes_hands_only_when_its_records_are_finished() {
    let (broker, settings) = fresh(2).await;
    append(&broker, 40).await;
    let mut first = Member::join(&*broker, subscription(GROUP, &[Topic::Default])).await;
    let mut records = first.receive(40).await;
    let other = connect(&settings, "two").await;
    let mut second = Member::join(&*other, subscription(GROUP, &[Topic::Default])).await;
    first.until(|first| !first.revoking.is_empty()).await;
    let moved = first.revoking[0];
    let (gone, kept): (Vec<_>, Vec<_>) = records
        .drain(..)
        .partition(|consumed| consumed.record.partition == moved);
    assert!(!gone.is_empty() && !kept.is_empty());
    // All but one: the partition stays until that one is given up.
    let mut gone = gone.into_iter();
    let unfinished = gone.next().unwrap();
    for consumed in gone {
        first.hop(consumed, Vec::new()).await.unwrap();
    }
    let early = timeout(
        Duration::from_millis(500),
        second.until(|second| !second.assigned.is_empty()),
    )
    .await;
    assert!(early.is_err(), "the first member still holds a ticket");
    let expected = text(&unfinished);
    drop(unfinished);
    let handed_on = second.receive(1).await;
    assert_eq!(
        text(&handed_on[0]),
        expected,
        "only what was not finished moves on"
    );
    first.until(|first| !first.assigned.contains_key(&moved)).await;
    for consumed in kept {
        first.hop(consumed, Vec::new()).await.unwrap();
    }
}

#[tokio::test]
async fn what_a_member_does_after_the_drain_time_is_void() {
    let (broker, mut settings) = fresh(2).await;
    settings.drain_ms = 300;
    let slow = connect(&settings, "slow").await;
    append(&broker, 40).await;
    let mut first = Member::join(&*slow, subscription(GROUP, &[Topic::Default])).await;
    let records = first.receive(40).await;
    let mut second = Member::join(&*broker, subscription(GROUP, &[Topic::Default])).await;
    let taken_over = second.receive(1).await;
    let moved = taken_over[0].record.partition;
    for consumed in records {
        let is_void = consumed.record.partition == moved;
        let status = NewRecord::new(Topic::Status, "k", "v");
        let result = first.hop(consumed, vec![status]).await;
        assert_eq!(result.is_err(), is_void, "{result:?}");
    }
}

#[tokio::test]
async fn metadata_of_somebody_else_stops_its_partition_and_no_other() {
    let (broker, settings) = fresh(2).await;
    append(&broker, 40).await;
    let outsider: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &settings.kafka.bootstrap_servers)
        .set("group.id", format!("{}.{GROUP}", settings.prefix))
        .create()
        .unwrap();
    let mut list = TopicPartitionList::new();
    let mut element = list.add_partition(&Topic::Default.name(&settings.prefix), 1);
    element.set_offset(Offset::Offset(3)).unwrap();
    element.set_metadata("somebody else's");
    outsider.commit(&list, CommitMode::Sync).unwrap();
    drop(outsider);
    let mut member = Member::join(&*broker, subscription(GROUP, &[Topic::Default])).await;
    let mut refused = None;
    while refused.is_none() || member.records.is_empty() {
        match member.step().await {
            Ok(()) => {}
            Err(error @ BrokerError::Metadata { .. }) => refused = Some(error),
            Err(error) => panic!("{error}"),
        }
    }
    assert!(
        member
            .records
            .iter()
            .all(|consumed| consumed.record.partition.number == 0)
    );
    assert!(member.assigned.keys().all(|partition| partition.number == 0));
    drop(member.records);
    member.consumer.close().await;
}

/// What the janitor does.
async fn settling(broker: &KafkaBroker) -> std::convert::Infallible {
    loop {
        tokio::time::sleep(Duration::from_secs(2)).await;
        let _ = broker.settle().await;
    }
}

/// Reads a whole topic from its start.
async fn read_all(broker: &KafkaBroker, topic: Topic, enough: usize) -> Vec<String> {
    let mut reader = broker
        .subscribe(Subscription {
            group: "reader".to_owned(),
            topics: vec![topic],
            tracking: Tracking::Position,
            start: Start::LogStart,
            limits: posthaste_broker::Limits::default(),
        })
        .await
        .unwrap();
    let (mut values, mut ends) = (Vec::new(), 0);
    let mut partitions = usize::MAX;
    while values.len() < enough || ends < partitions {
        let next = async {
            tokio::select! {
                signal = reader.next() => signal,
                // A broker that was killed may have forgotten a transaction.
                never = settling(broker) => match never {},
            }
        };
        let Ok(signal) = timeout(LIMIT, next).await else {
            let (read, health) = (values.len(), broker.health());
            panic!("silent after {read} of {enough} records and {ends} of {partitions} ends; {health:?}");
        };
        match signal.unwrap() {
            Signal::Assigned(assigned) => partitions = assigned.len(),
            Signal::Read(records) => values.extend(
                records
                    .into_iter()
                    .map(|record| String::from_utf8(record.value.unwrap().to_vec()).unwrap()),
            ),
            Signal::AtEnd(_) => ends += 1,
            other => panic!("unexpected: {other:?}"),
        }
    }
    reader.close().await;
    values.sort();
    values
}

#[tokio::test]
async fn everything_to_the_end_is_read_and_then_said_once() {
    let (broker, _) = fresh(3).await;
    append(&broker, 100).await;
    assert_eq!(read_all(&broker, Topic::Default, 0).await.len(), 100);
    assert_eq!(
        read_all(&broker, Topic::Status, 0).await.len(),
        0,
        "an empty topic ends at once"
    );
}

#[tokio::test]
async fn a_position_is_committed_with_its_outputs() {
    let (broker, _) = fresh(1).await;
    append(&broker, 3).await;
    let mut subscription = subscription("replay", &[Topic::DeadLetter]);
    subscription.tracking = Tracking::Position;
    subscription.start = Start::LogStart;
    let mut consumer = broker.subscribe(subscription).await.unwrap();
    let Signal::Assigned(assigned) = consumer.next().await.unwrap() else {
        panic!("an assignment comes first");
    };
    let hop = |next| Hop {
        positions: vec![(assigned[0], next)],
        outputs: vec![NewRecord::new(Topic::Retry, "k", "again")],
        ..Hop::default()
    };
    let hopper = consumer.hopper();
    hopper.hop(hop(0)).await.unwrap();
    hopper.hop(hop(0)).await.unwrap();
    let lag = broker.lag("replay", &[Topic::DeadLetter]).await.unwrap();
    assert_eq!(lag[0].committed, Some(0));
    assert_eq!(read_all(&broker, Topic::Retry, 0).await.len(), 2);
}

/// The broker is away for longer than the session: the partitions are lost and come back, and what was sent meanwhile is
/// recorded after all, not sent again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outcomes_that_waited_out_an_outage_are_recorded() {
    let mut server = KafkaServer::start_with(&[("group.min.session.timeout.ms", "1000")])
        .await
        .unwrap();
    let mut settings = settings(&server, 2);
    settings.drain_ms = 60_000;
    for (key, value) in [("session.timeout.ms", "1500"), ("heartbeat.interval.ms", "300")] {
        settings.kafka.options.insert(key.to_owned(), value.to_owned());
    }
    let broker = connect(&settings, "one").await;
    broker.create_topics().await.unwrap();
    append(&broker, 20).await;
    let mut member = Member::join(&*broker, subscription(GROUP, &[Topic::Default])).await;
    let mut records = member.receive(20).await;
    server.kill();
    // Half are sent and wait to be recorded, half are still being sent.
    let late = records.split_off(10);
    let hopper = member.consumer.hopper();
    let hop = |consumed: posthaste_broker::Consumed| {
        let hopper = std::sync::Arc::clone(&hopper);
        async move {
            let outcome = NewRecord::new(Topic::Status, text(&consumed), text(&consumed));
            hopper.hop(Hop::one(consumed.ticket, vec![outcome])).await
        }
    };
    let mut hops = JoinSet::new();
    records
        .into_iter()
        .for_each(|consumed| drop(hops.spawn(hop(consumed))));
    member.until(|member| member.assigned.is_empty()).await;
    let told = async {
        while hopper.is_recording() || broker.health().is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(LIMIT, told).await.unwrap();
    server.restart().await.unwrap();
    member.until(|member| member.assigned.len() == 2).await;
    late.into_iter()
        .for_each(|consumed| drop(hops.spawn(hop(consumed))));
    let results = timeout(LIMIT, hops.join_all()).await.unwrap();
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    let told = async {
        while !hopper.is_recording() || broker.health().is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(LIMIT, told).await.unwrap();
    assert_eq!(read_all(&broker, Topic::Status, 20).await.len(), 20);
    broker
        .append(vec![NewRecord::new(Topic::Default, "x", "sentinel")])
        .await
        .unwrap();
    let next = member.receive(1).await;
    assert_eq!(text(&next[0]), "sentinel", "nothing came again");
}

/// Thousands of hops while the broker is killed again and again: each input has exactly one outcome.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hops_survive_a_broker_that_is_killed() {
    const COUNT: usize = 3_000;
    let mut server = KafkaServer::start().await.unwrap();
    let mut settings = settings(&server, 3);
    // Outlives the restarts: what a lost session does is tested above.
    let session = ("session.timeout.ms".to_owned(), "60000".to_owned());
    settings.kafka.options.extend([session]);
    let broker = connect(&settings, "one").await;
    broker.create_topics().await.unwrap();
    append(&broker, COUNT).await;
    let mut subscription = subscription(GROUP, &[Topic::Default]);
    subscription.limits.batch_records_max = 20;
    subscription.limits.records_max = 60;
    let mut member = Member::join(&*broker, subscription).await;
    let mut hops = JoinSet::new();
    let (mut done, mut fenced) = (BTreeSet::new(), 0);
    let mut kills = [COUNT / 10, COUNT / 3, COUNT / 2].into_iter().peekable();
    while done.len() < COUNT {
        tokio::select! {
            step = member.step() => step.unwrap(),
            Some(hop) = hops.join_next() => match hop.unwrap() {
                (value, Ok(())) => assert!(done.insert(value), "one outcome each"),
                (_, Err(posthaste_broker::HopError::Fenced)) => fenced += 1,
                (_, Err(error)) => panic!("{error}"),
            },
        }
        for consumed in std::mem::take(&mut member.records) {
            let hopper = member.consumer.hopper();
            hops.spawn(async move {
                let value = text(&consumed);
                let outcome = NewRecord::new(Topic::Status, value.clone(), value.clone());
                (value, hopper.hop(Hop::one(consumed.ticket, vec![outcome])).await)
            });
        }
        if kills.next_if(|at| done.len() >= *at).is_some() {
            server.kill();
            server.restart().await.unwrap();
        }
    }
    let outcomes = read_all(&broker, Topic::Status, COUNT).await;
    assert_eq!(outcomes.len(), COUNT, "{fenced} fenced");
    assert_eq!(outcomes.into_iter().collect::<BTreeSet<_>>(), done);
}

/// Kafka loses the end of a transaction now and then; whoever reads what is committed would wait for it for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_kafka_has_forgotten_keeps_nobody_from_reading_on() {
    let mut server = KafkaServer::start().await.unwrap();
    let settings = settings(&server, 2);
    let broker = connect(&settings, "one").await;
    broker.create_topics().await.unwrap();
    let client = |id: &str| {
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", &settings.kafka.bootstrap_servers)
            .set("transactional.id", format!("{}.{id}", settings.prefix))
            .create()
            .unwrap();
        producer.init_transactions(LIMIT).unwrap();
        producer.begin_transaction().unwrap();
        producer
    };
    let gone = client("gone.retry.0");
    let topic = Topic::Status.name(&settings.prefix);
    let record = BaseRecord::to(&topic)
        .partition(0)
        .key("k")
        .payload("not decided");
    gone.send(record).map_err(|(error, _)| error).unwrap();
    gone.flush(LIMIT).unwrap();
    server.kill_and_forget_transactions().unwrap();
    server.restart().await.unwrap();
    let records: Vec<NewRecord> = (0..20)
        .map(|number| NewRecord::new(Topic::Status, number.to_string(), number.to_string()))
        .collect();
    let start = std::time::Instant::now();
    while let Err(error) = broker.append(records.clone()).await {
        assert!(start.elapsed() < LIMIT, "{error}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let read: BTreeSet<String> = read_all(&broker, Topic::Status, 20).await.into_iter().collect();
    assert_eq!(read, (0..20).map(|number| number.to_string()).collect());
}
