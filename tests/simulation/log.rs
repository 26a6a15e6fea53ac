//! The broker: records, who owns which partition, and the commits that it knows of. It keeps a book of its own of what is
//! unfinished, against which every commit and every take-over is checked.

use std::collections::{BTreeMap, BTreeSet};

use posthaste_broker::{
    NewRecord, Partition, Record,
    completion::{Completion, METADATA_CHARS_MAX},
};
use posthaste_event::{Millis, Topic, partition};

/// Where a record stands.
pub type Place = (Partition, i64);

/// One partition.
#[derive(Default)]
pub struct Shelf {
    records: Vec<Record>,
    /// The next offset to be written.
    next: i64,
    /// What the group committed.
    committed: i64,
    metadata: String,
    /// The member that owns it, and the epoch of that.
    pub owner: Option<usize>,
    pub epoch: u64,
    unfinished: BTreeSet<i64>,
    started: BTreeSet<i64>,
}

/// The topics.
pub struct Log {
    partitions: u32,
    shelves: BTreeMap<Partition, Shelf>,
    epochs: u64,
}

impl Log {
    pub fn new(partitions: u32) -> Self {
        let mut shelves = BTreeMap::new();
        for topic in Topic::ALL {
            for number in 0..partitions {
                shelves.insert(Partition { topic, number }, Shelf::default());
            }
        }
        Self {
            partitions,
            shelves,
            epochs: 0,
        }
    }

    pub fn shelf(&self, partition: Partition) -> &Shelf {
        &self.shelves[&partition]
    }

    fn shelf_mut(&mut self, partition: Partition) -> &mut Shelf {
        self.shelves.get_mut(&partition).unwrap()
    }

    pub fn partitions(&self) -> Vec<Partition> {
        self.shelves.keys().copied().collect()
    }

    /// Everything that was ever written, in the order of partitions and offsets.
    pub fn everything(&self) -> impl Iterator<Item = &Record> {
        self.shelves.values().flat_map(|shelf| &shelf.records)
    }

    /// Appends; `gap` offsets are never delivered.
    pub fn append(&mut self, record: NewRecord, gap: i64, now: Millis) -> Place {
        let number = record
            .partition
            .unwrap_or_else(|| partition::of(&record.key, self.partitions));
        let partition = Partition {
            topic: record.topic,
            number,
        };
        let shelf = self.shelf_mut(partition);
        let offset = shelf.next + gap;
        shelf.next = offset + 1;
        shelf.unfinished.insert(offset);
        shelf.records.push(Record {
            partition,
            offset,
            key: Some(record.key),
            value: record.value,
            appended_at: now,
            headers: None,
        });
        (partition, offset)
    }

    /// A transaction ends: its marker takes an offset of each partition that it touched.
    pub fn mark(&mut self, touched: &BTreeSet<Partition>) {
        for partition in touched {
            self.shelf_mut(*partition).next += 1;
        }
    }

    /// A member gets a partition, and what was committed.
    pub fn assign(&mut self, partition: Partition, owner: usize) -> (u64, Completion, usize) {
        self.epochs += 1;
        let epoch = self.epochs;
        let shelf = self.shelf_mut(partition);
        (shelf.owner, shelf.epoch) = (Some(owner), epoch);
        let completion = Completion::resume(shelf.committed, &shelf.metadata).unwrap();
        let first = shelf
            .records
            .partition_point(|record| record.offset < shelf.committed);
        (epoch, completion, first)
    }

    /// Nobody owns it now.
    pub fn release(&mut self, partition: Partition) {
        self.shelf_mut(partition).owner = None;
    }

    /// Whether an outcome of this assignment may be recorded.
    pub fn is_live(&self, partition: Partition, owner: usize, epoch: u64) -> bool {
        let shelf = self.shelf(partition);
        shelf.owner == Some(owner) && shelf.epoch == epoch
    }

    /// The record at this index of the partition.
    pub fn read(&self, partition: Partition, index: usize) -> Option<&Record> {
        self.shelf(partition).records.get(index)
    }

    /// Whether the group still has to finish the record, and whether it is marked as started.
    pub fn stands(&self, (partition, offset): Place) -> (bool, bool) {
        let shelf = self.shelf(partition);
        (
            shelf.unfinished.contains(&offset),
            shelf.started.contains(&offset),
        )
    }

    /// A record is finished.
    pub fn finish(&mut self, (partition, offset): Place) -> Result<(), String> {
        let shelf = self.shelf_mut(partition);
        shelf.started.remove(&offset);
        if shelf.unfinished.remove(&offset) {
            Ok(())
        } else {
            Err(format!("{partition}@{offset} is finished a second time"))
        }
    }

    /// A record's work begins.
    pub fn start(&mut self, (partition, offset): Place) {
        self.shelf_mut(partition).started.insert(offset);
    }

    /// Commits a member's progress, and checks it.
    pub fn commit(&mut self, partition: Partition, completion: &Completion) -> Result<(), String> {
        let shelf = self.shelf_mut(partition);
        (shelf.committed, shelf.metadata) = (completion.committed(), completion.metadata());
        let lowest = shelf.unfinished.first().copied().unwrap_or(shelf.next);
        let committed = shelf.committed;
        if committed > lowest {
            return Err(format!(
                "{partition}: {committed} is committed, past the unfinished {lowest}"
            ));
        }
        if committed > shelf.next {
            return Err(format!(
                "{partition}: {committed} is committed, past the end {}",
                shelf.next
            ));
        }
        if shelf.metadata.len() > METADATA_CHARS_MAX {
            return Err(format!(
                "{partition}: metadata of {} characters",
                shelf.metadata.len()
            ));
        }
        Ok(())
    }

    /// What nobody finished in the topics whose records must all be, in the end.
    pub fn unfinished(&self) -> Vec<Place> {
        let of_groups = self.shelves.iter().filter(|(partition, _)| {
            !matches!(partition.topic, Topic::Status | Topic::DeadLetter | Topic::Cancel)
        });
        of_groups
            .flat_map(|(partition, shelf)| shelf.unfinished.iter().map(|offset| (*partition, *offset)))
            .collect()
    }
}
