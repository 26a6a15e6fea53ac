//! Records on their way into one write.

use std::collections::BTreeMap;

use posthaste_broker::{Partition, Record};
use posthaste_event::Value;
use posthaste_store::{Changes, Fold, Position};

use super::gauge::Gauge;

/// What was read since the last write: folded changes, and how far that goes in each partition.
#[derive(Default)]
pub(super) struct Batch {
    fold: Fold,
    reached: BTreeMap<Partition, i64>,
    records: usize,
    bytes: usize,
}

impl Batch {
    /// An empty one, with room for as many events as this one has: the next is as large, as a rule.
    pub fn next(&self) -> Self {
        Self {
            fold: Fold::with_room(self.fold.len()),
            ..Self::default()
        }
    }

    /// Takes a record in.
    pub fn add(&mut self, record: &Record, gauge: &Gauge) {
        self.records += 1;
        self.reached.insert(record.partition, record.offset + 1);
        let value = record.value.as_ref().map(Value::decode);
        match value {
            Some(Ok(value)) => {
                if self.fold.add(value) {
                    self.bytes += record.value.as_ref().map_or(0, bytes::Bytes::len);
                }
            }
            Some(Err(_)) | None => gauge.unreadable(&format_args!("{}@{}", record.partition, record.offset)),
        }
    }

    /// Forgets how far a partition was read that is not ours any more. What its records said stays true.
    pub fn drop_partition(&mut self, partition: Partition) {
        self.reached.remove(&partition);
    }

    pub fn is_empty(&self) -> bool {
        self.reached.is_empty() && self.fold.is_empty()
    }

    /// How many records were taken in.
    pub const fn records(&self) -> usize {
        self.records
    }

    /// Whether no more should be taken in.
    pub const fn is_full(&self, records_max: usize, bytes_max: usize) -> bool {
        self.records >= records_max || self.bytes >= bytes_max
    }

    /// What to write, and how far that goes.
    pub fn into_parts(self) -> (Changes, Vec<Position>) {
        let positions = self.reached.into_iter().map(|(partition, offset)| Position {
            topic: partition.topic,
            partition: partition.number,
            offset,
        });
        (self.fold.into_changes().into(), positions.collect())
    }
}
