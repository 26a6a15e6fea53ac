//! Records that a member gives back are read from the file again.

use super::*;

#[tokio::test]
async fn what_is_given_back_comes_again_however_much_is_in_hand_and_what_the_log_lost_is_finished() {
    let dir = tempfile::tempdir().unwrap();
    let broker = open(dir.path(), &settings()).await;
    let record = |n: usize| {
        let mut record = NewRecord::new(Topic::Default, format!("key{n}"), format!("work{n}"));
        record.partition = Some(0);
        record
    };
    broker.append((0..6).map(record).collect()).await.unwrap();
    let mut subscription = tracked("dispatcher.default", Topic::Default);
    // More is not handed out while so many are out, not even after one of them was given back.
    subscription.limits.records_max = 4;
    subscription.limits.batch_records_max = 1;
    let mut consumer = broker.join(subscription).await.unwrap();
    let mut held = Vec::new();
    while held.len() < 4 {
        held.push(next_record(&mut consumer).await);
    }
    let mut offsets = Vec::new();
    for n in [2, 0] {
        drop(held.remove(n));
        let again = next_record(&mut consumer).await;
        let value = again.record.value.as_deref().unwrap();
        assert_eq!(value, format!("work{}", again.record.offset).as_bytes());
        offsets.push(again.record.offset);
        held.push(again);
    }
    assert_eq!(offsets, [2, 0]);
    let lost = held.iter().position(|one| one.record.offset == 1).unwrap();
    let name = Topic::Default.name(broker.prefix());
    let topic: i64 = broker
        .read(move |connection| {
            connection.query_row("SELECT id FROM topic WHERE name = ?1", [name], |row| row.get(0))
        })
        .await
        .unwrap();
    let table = file::table(file::partition_id(topic, 0));
    execute(&broker, &format!("DELETE FROM {table} WHERE offset = 1")).await;
    drop(held.remove(lost));
    for one in held {
        consumer
            .hopper()
            .hop(Hop::one(one.ticket, Vec::new()))
            .await
            .unwrap();
    }
    // Those behind them come, and the one that was lost holds up nothing.
    for offset in [4, 5] {
        let next = next_record(&mut consumer).await;
        assert_eq!(next.record.offset, offset);
        consumer
            .hopper()
            .hop(Hop::one(next.ticket, Vec::new()))
            .await
            .unwrap();
    }
    until("all is finished", || consumer.unfinished().is_empty()).await;
    broker.close(5_000).await;
}
