//! Tests of what only this backend can be asked: a disk that fails, the queue that is full, what the file keeps.

mod first_version;
mod given_back;
mod in_turn;

use std::time::Duration;

use posthaste_event::Topic;
use tokio::sync::oneshot;

use super::*;
use crate::{Hop, Limits, Partition, Severity, Signal, Watched, settings::DEFAULTS};

const DEADLINE: Duration = Duration::from_secs(60);

fn settings() -> Settings {
    #[derive(serde::Deserialize)]
    struct File {
        broker: Settings,
    }
    let mut settings = toml::from_str::<File>(DEFAULTS).unwrap().broker;
    settings.partitions = 2;
    settings
}

async fn open(folder: &Path, settings: &Settings) -> EmbeddedBroker {
    let broker = EmbeddedBroker::open(folder, settings).unwrap();
    broker.create_topics().await.unwrap();
    broker
}

/// Runs SQL on the writer's connection, between two transactions.
async fn execute(broker: &EmbeddedBroker, sql: &str) {
    let (reply, done) = oneshot::channel();
    broker
        .shared
        .queue
        .control(Control::Execute(sql.to_owned(), reply));
    done.await.unwrap();
}

async fn make_disk_full(broker: &EmbeddedBroker) {
    // SQLite takes the present size when asked for less.
    execute(broker, "PRAGMA max_page_count = 1").await;
}

async fn make_room(broker: &EmbeddedBroker) {
    execute(broker, "PRAGMA max_page_count = 1000000").await;
}

fn large(topic: Topic) -> NewRecord {
    NewRecord::new(topic, "key", vec![b'x'; 200_000])
}

fn tracked(group: &str, topic: Topic) -> Subscription {
    Subscription {
        group: group.to_owned(),
        topics: vec![topic],
        tracking: Tracking::Completion,
        start: Start::Committed,
        limits: Limits::default(),
    }
}

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let waiting = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(DEADLINE, waiting)
        .await
        .unwrap_or_else(|_| panic!("waited in vain: {what}"));
}

async fn next_record(consumer: &mut dyn Consumer) -> crate::Consumed {
    let waiting = async {
        loop {
            if let Signal::Records(mut records) = consumer.next().await.unwrap() {
                assert_eq!(records.len(), 1);
                return records.remove(0);
            }
        }
    };
    tokio::time::timeout(DEADLINE, waiting).await.unwrap()
}

async fn count(broker: &EmbeddedBroker, topic: Topic) -> i64 {
    let name = topic.name(broker.prefix());
    broker
        .read(move |connection| {
            let id: i64 =
                connection.query_row("SELECT id FROM topic WHERE name = ?1", [name], |row| row.get(0))?;
            let (from, until) = (file::partition_id(id, 0), file::partition_id(id + 1, 0));
            let numbers: Vec<i64> = connection
                .prepare("SELECT id FROM partition WHERE id >= ?1 AND id < ?2")?
                .query_map([from, until], |row| row.get(0))?
                .collect::<rusqlite::Result<_>>()?;
            let count = |id: i64| {
                let select = format!("SELECT count(*) FROM {}", file::table(id));
                connection.query_row(&select, [], |row| row.get::<_, i64>(0))
            };
            numbers.into_iter().map(count).sum()
        })
        .await
        .unwrap()
}

#[tokio::test]
async fn a_full_disk_is_told_refuses_appends_and_holds_hops() {
    let dir = tempfile::tempdir().unwrap();
    let broker = open(dir.path(), &settings()).await;
    broker
        .append(vec![NewRecord::new(Topic::Default, "key", "work")])
        .await
        .unwrap();
    let mut consumer = broker
        .subscribe(tracked("dispatcher.default", Topic::Default))
        .await
        .unwrap();
    let hopper = consumer.hopper();
    let consumed = next_record(&mut *consumer).await;

    make_disk_full(&broker).await;
    let refused = broker.append(vec![large(Topic::Critical)]).await;
    let Err(AppendError::Unconfirmed { reason }) = refused else {
        panic!("{refused:?}");
    };
    assert!(reason.contains("full"), "{reason}");
    assert!(broker.health().unwrap_err().contains("full"));
    assert!(!hopper.is_recording());
    let waiting = Arc::clone(&hopper);
    let outputs = vec![large(Topic::Status), NewRecord::new(Topic::Retry, "key", "again")];
    let hop = tokio::spawn(async move { waiting.hop(Hop::one(consumed.ticket, outputs)).await });
    tokio::task::yield_now().await;
    let refused = broker.append(vec![large(Topic::Critical)]).await;
    assert!(
        matches!(refused, Err(AppendError::Unconfirmed { .. })),
        "{refused:?}"
    );
    assert!(!hop.is_finished(), "a hop waits an outage out");

    make_room(&broker).await;
    let hopped = tokio::time::timeout(DEADLINE, hop).await.unwrap().unwrap();
    assert_eq!(hopped, Ok(()));
    until("health", || broker.health().is_ok() && hopper.is_recording()).await;
    assert_eq!(count(&broker, Topic::Critical).await, 0);
    assert_eq!(count(&broker, Topic::Status).await, 1);
    assert_eq!(count(&broker, Topic::Retry).await, 1);
    broker.append(vec![large(Topic::Critical)]).await.unwrap();
    consumer.close().await;
    broker.close(5_000).await;
}

#[tokio::test]
async fn a_disk_that_is_well_again_is_noticed_without_traffic() {
    let dir = tempfile::tempdir().unwrap();
    let broker = open(dir.path(), &settings()).await;
    make_disk_full(&broker).await;
    broker.append(vec![large(Topic::Critical)]).await.unwrap_err();
    assert!(broker.health().is_err());
    make_room(&broker).await;
    until("health", || broker.health().is_ok()).await;
    broker.close(5_000).await;
}

#[tokio::test]
async fn a_held_hop_is_fenced_when_its_partition_is_lost_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let broker = open(dir.path(), &settings()).await;
    broker
        .append(vec![NewRecord::new(Topic::Default, "key", "work")])
        .await
        .unwrap();
    let mut consumer = broker
        .subscribe(tracked("dispatcher.default", Topic::Default))
        .await
        .unwrap();
    let hopper = consumer.hopper();
    let consumed = next_record(&mut *consumer).await;
    make_disk_full(&broker).await;
    let hop = tokio::spawn(async move {
        hopper
            .hop(Hop::one(consumed.ticket, vec![large(Topic::Status)]))
            .await
    });
    until("the hop to be held", || broker.health().is_err()).await;
    drop(consumer);
    make_room(&broker).await;
    let result = tokio::time::timeout(DEADLINE, hop).await.unwrap().unwrap();
    assert_eq!(result, Err(crate::HopError::Fenced));
    assert_eq!(count(&broker, Topic::Status).await, 0);
    broker.close(5_000).await;
}

#[tokio::test]
async fn a_writer_that_panics_leaves_nobody_waiting() {
    let dir = tempfile::tempdir().unwrap();
    let broker = open(dir.path(), &settings()).await;
    broker
        .append(vec![NewRecord::new(Topic::Default, "key", "work")])
        .await
        .unwrap();
    let mut consumer = broker
        .subscribe(tracked("dispatcher.default", Topic::Default))
        .await
        .unwrap();
    let consumed = next_record(&mut *consumer).await;
    let (reply, done) = oneshot::channel();
    broker
        .shared
        .queue
        .control(Control::Execute("this is no SQL".to_owned(), reply));
    done.await.unwrap_err();
    until("the end to be told", || broker.health().is_err()).await;
    let append = broker.append(vec![NewRecord::new(Topic::Default, "key", "late")]);
    tokio::time::timeout(DEADLINE, append).await.unwrap().unwrap_err();
    let hopper = consumer.hopper();
    let hop = hopper.hop(Hop::one(consumed.ticket, Vec::new()));
    assert_eq!(
        tokio::time::timeout(DEADLINE, hop).await.unwrap(),
        Err(crate::HopError::Closed)
    );
    let ended = async { while consumer.next().await.is_ok() {} };
    tokio::time::timeout(DEADLINE, ended).await.unwrap();
    tokio::time::timeout(DEADLINE, consumer.close()).await.unwrap();
    tokio::time::timeout(DEADLINE, broker.close(60_000))
        .await
        .unwrap();
    let broker = EmbeddedBroker::open(dir.path(), &settings()).unwrap();
    assert_eq!(count(&broker, Topic::Default).await, 1);
    broker.close(5_000).await;
}

#[tokio::test]
async fn a_full_queue_refuses_at_once_and_appends_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings();
    settings.embedded.appends_kib_max = 64;
    settings.record_bytes_max = 40_000;
    let broker = Arc::new(open(dir.path(), &settings).await);
    // Nobody else's permits: while this one waits in the queue, the next does not fit.
    let permit = broker
        .shared
        .queue
        .appends
        .try_take(&[large(Topic::Default)])
        .unwrap();
    let record = NewRecord::new(Topic::Default, "key", "value");
    assert_eq!(broker.append(vec![record.clone()]).await, Err(AppendError::Full));
    drop(permit);
    broker.append(vec![record]).await.unwrap();
    assert_eq!(count(&broker, Topic::Default).await, 1);
    broker.close(5_000).await;
}

#[tokio::test]
async fn the_number_of_partitions_is_kept_and_said() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings();
    let broker = open(dir.path(), &settings).await;
    broker.close(5_000).await;
    settings.partitions = 7;
    let broker = open(dir.path(), &settings).await;
    let findings = broker.check_topics().await.unwrap();
    let finding = findings
        .iter()
        .find(|finding| finding.subject == "events.default")
        .unwrap();
    assert_eq!(finding.severity, Severity::Warning);
    assert!(
        finding.message.starts_with("has 2 partitions and keeps them"),
        "{}",
        finding.message
    );
    assert_eq!(broker.lag("any", &[Topic::Default]).await.unwrap().len(), 2);
    broker.close(5_000).await;
}

#[tokio::test]
async fn a_map_of_finished_records_that_makes_no_sense_stops_its_partition_alone() {
    let dir = tempfile::tempdir().unwrap();
    let broker = open(dir.path(), &settings()).await;
    execute(
        &broker,
        "UPDATE position SET metadata = '!' WHERE member_group = 'events.dispatcher.default' AND partition % 1024 = 1",
    )
    .await;
    let mut consumer = broker
        .subscribe(tracked("dispatcher.default", Topic::Default))
        .await
        .unwrap();
    let mut assigned = Vec::new();
    let mut errors = Vec::new();
    while assigned.is_empty() || errors.is_empty() {
        match tokio::time::timeout(DEADLINE, consumer.next()).await.unwrap() {
            Ok(Signal::Assigned(partitions)) => assigned.extend(partitions),
            Ok(signal) => panic!("{signal:?}"),
            Err(error) => errors.push(error.to_string()),
        }
    }
    assert_eq!((assigned.len(), errors.len()), (1, 1));
    let partition = Partition {
        topic: Topic::Default,
        number: 0,
    };
    assert_eq!(assigned[0].partition, partition);
    assert!(errors[0].contains("events.dispatcher.default"), "{}", errors[0]);
    consumer.close().await;
    broker.close(5_000).await;
}

#[test]
fn compaction_keeps_one_record_per_key_and_deletions_for_a_while() {
    let dir = tempfile::tempdir().unwrap();
    let folder = Folder::lock(dir.path()).unwrap();
    let mut log = Log::load(folder.open().unwrap(), "events", 1_000).unwrap();
    log.create(Topic::Keys, 1).unwrap();
    let append = |log: &mut Log, value: Option<&'static str>, now| {
        let record = NewRecord {
            value: value.map(Into::into),
            ..NewRecord::new(Topic::Keys, "key", "")
        };
        log.begin().unwrap();
        log.append(&record, now).unwrap().unwrap();
        log.commit().unwrap();
    };
    let partition = Partition {
        topic: Topic::Keys,
        number: 0,
    };
    let offsets = |log: &Log| -> Vec<i64> {
        let table = file::table(log.id(partition).unwrap());
        let mut select = log
            .connection()
            .prepare(&format!("SELECT offset FROM {table} ORDER BY offset"))
            .unwrap();
        let offsets = select.query_map([], |row| row.get(0)).unwrap();
        offsets.map(Result::unwrap).collect()
    };
    append(&mut log, Some("one"), 1);
    append(&mut log, Some("two"), 2);
    assert_eq!(offsets(&log), [1]);
    append(&mut log, None, 3);
    append(&mut log, Some("three"), 4);
    append(&mut log, None, 5);
    assert_eq!(offsets(&log), [4]);
    assert_eq!(log.sweep(1_004, 10).unwrap(), 0);
    assert_eq!(log.sweep(1_005, 10).unwrap(), 1);
    assert_eq!(offsets(&log), [0_i64; 0]);
    append(&mut log, Some("four"), 2_000);
    assert_eq!(offsets(&log), [5], "offsets go on where they were");
}

#[test]
fn append_time_waits_for_a_clock_that_went_back_also_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let folder = Folder::lock(dir.path()).unwrap();
    let append = |log: &mut Log, now| {
        log.begin().unwrap();
        let record = log
            .append(&NewRecord::new(Topic::DelayNear, "key", "value"), now)
            .unwrap()
            .unwrap();
        log.commit().unwrap();
        record.appended_at
    };
    let mut log = Log::load(folder.open().unwrap(), "events", 1_000).unwrap();
    log.create(Topic::DelayNear, 1).unwrap();
    assert_eq!([append(&mut log, 100), append(&mut log, 90)], [100, 100]);
    drop(log);
    let mut log = Log::load(folder.open().unwrap(), "events", 1_000).unwrap();
    assert_eq!([append(&mut log, 95), append(&mut log, 101)], [100, 101]);
}

#[test]
fn a_transaction_that_is_rolled_back_gives_its_offsets_back() {
    let dir = tempfile::tempdir().unwrap();
    let folder = Folder::lock(dir.path()).unwrap();
    let mut log = Log::load(folder.open().unwrap(), "events", 1_000).unwrap();
    log.create(Topic::Default, 1).unwrap();
    let partition = Partition {
        topic: Topic::Default,
        number: 0,
    };
    let record = NewRecord::new(Topic::Default, "key", "value");
    log.begin().unwrap();
    log.append(&record, 50).unwrap().unwrap();
    log.skip(partition);
    log.roll_back();
    assert_eq!(log.end(partition), 0);
    log.begin().unwrap();
    let kept = log.append(&record, 10).unwrap().unwrap();
    log.commit().unwrap();
    assert_eq!((kept.offset, kept.appended_at, log.end(partition)), (0, 10, 1));
}

#[tokio::test]
async fn records_whose_keys_are_free_go_to_one_partition_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let broker = open(dir.path(), &settings()).await;
    let turns: Vec<u32> = (0..4 * RECORDS_A_TURN)
        .map(|_| broker.next_place(1).unwrap().number)
        .collect();
    let of = |turn: usize| &turns[turn * RECORDS_A_TURN..(turn + 1) * RECORDS_A_TURN];
    assert!((0..4).all(|turn| of(turn).iter().all(|number| *number == turn as u32 % 2)));
    assert_eq!(broker.next_place(1).unwrap().partitions, 2);
}

/// As after a read of the file that never came back.
#[tokio::test]
async fn a_partition_that_is_not_read_on_is_noticed_and_read_again_after_joining_anew() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Arc::new(open(dir.path(), &settings()).await);
    broker
        .append(vec![NewRecord::new(Topic::Default, "key", "work")])
        .await
        .unwrap();
    let join = || broker.join(tracked("dispatcher.default", Topic::Default));
    let deaf = join().await.unwrap();
    let gap = deaf.mailbox.begin_reading().unwrap();
    let patience = Duration::from_millis(200);
    let mut watched = Watched::new(Box::new(deaf), Arc::clone(&broker) as _, patience);
    let unheard = tokio::time::timeout(DEADLINE, async {
        loop {
            if let Err(error) = watched.next().await {
                return error;
            }
        }
    });
    match unheard.await.unwrap() {
        BrokerError::Unheard {
            partition, offset, ..
        } => assert_eq!((partition, offset), (gap.partition, 0)),
        other => panic!("{other}"),
    }
    Box::new(watched).close().await;
    let mut again = Watched::new(
        Box::new(join().await.unwrap()),
        Arc::clone(&broker) as _,
        patience,
    );
    assert_eq!(next_record(&mut again).await.record.offset, 0);
    broker.close(5_000).await;
}
