//! Where partitions end, for whoever asks beside the writer.

use std::{
    collections::HashMap,
    sync::{
        PoisonError, RwLock,
        atomic::{AtomicI64, Ordering},
    },
};

use posthaste_event::{Topic, partition};

use crate::{Mark, Partition};

/// The next offsets to be written, as they are durable. Only the writer changes them.
#[derive(Debug, Default)]
pub(super) struct Ends {
    topics: RwLock<HashMap<Topic, Box<[AtomicI64]>>>,
}

impl Ends {
    /// A topic is there, and its partitions end at these offsets.
    pub(super) fn begin(&self, topic: Topic, ends: impl Iterator<Item = i64>) {
        let ends = ends.map(AtomicI64::new).collect();
        let mut topics = self.topics.write().unwrap_or_else(PoisonError::into_inner);
        topics.insert(topic, ends);
    }

    /// What was written to a partition up to this offset is durable.
    pub(super) fn set(&self, partition: Partition, next_offset: i64) {
        let topics = self.topics.read().unwrap_or_else(PoisonError::into_inner);
        let end = topics
            .get(&partition.topic)
            .and_then(|ends| ends.get(partition.number as usize));
        if let Some(end) = end {
            end.store(next_offset, Ordering::Release);
        }
    }

    /// Where the partition ends that a key goes to; `None` when the topic is missing.
    pub(super) fn mark(&self, topic: Topic, key: &[u8]) -> Option<Mark> {
        let topics = self.topics.read().unwrap_or_else(PoisonError::into_inner);
        let ends = topics.get(&topic)?;
        // At most PARTITIONS_MAX.
        let number = partition::of(key, ends.len() as u32);
        let offset = ends.get(number as usize)?.load(Ordering::Acquire);
        Some(Mark {
            partition: Partition { topic, number },
            offset,
        })
    }
}
