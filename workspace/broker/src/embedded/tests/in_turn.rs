//! Partitions that are read from the file take turns, whatever goes out beside them.

use super::*;
use crate::{
    Assignment,
    embedded::{
        mailbox::{Grant, Mailbox, ReadyLimits},
        queue::Queue,
    },
};

#[test]
fn a_partition_that_is_behind_is_read_though_others_that_need_no_reading_go_out_all_the_time() {
    let queue = Arc::new(Queue::new(1_024, 1_024));
    let ready = ReadyLimits {
        records_max: 100,
        bytes_max: 1 << 20,
    };
    let mailbox = Arc::new(Mailbox::new(
        1,
        Tracking::Position,
        Limits::default(),
        ready,
        queue,
    ));
    let partition = |number| Partition {
        topic: Topic::Default,
        number,
    };
    let grant = |number, end| Grant {
        assignment: Assignment {
            partition: partition(number),
            epoch: 1,
            committed: 0,
        },
        id: i64::from(number),
        from: 0,
        end,
        completion: None,
    };
    // The first and the last have much to read; the one between them is written to all the time, and needs none.
    mailbox.grant(vec![grant(0, 1_000), grant(1, 0), grant(2, 1_000)]);
    let record = |number, offset| Record {
        partition: partition(number),
        offset,
        key: None,
        value: Some("value".into()),
        appended_at: 0,
        headers: None,
    };
    let mut read = Vec::new();
    for round in 0..6 {
        while mailbox.take().is_some() {}
        let gap = mailbox.begin_reading().unwrap();
        read.push(gap.partition.number);
        mailbox.publish(partition(1), &[record(1, round)], round + 1);
        let records = vec![record(gap.partition.number, gap.from)];
        mailbox.deposit(gap, Some(records), false);
    }
    assert_eq!(read, [0, 2, 0, 2, 0, 2]);
}
