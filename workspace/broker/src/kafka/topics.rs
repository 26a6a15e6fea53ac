//! The names of the topics on the broker, and how many partitions each has.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use posthaste_event::{Topic, partition};
use rdkafka::consumer::{BaseConsumer, Consumer as _};

use super::client::{Context, unreachable};
use crate::{BrokerError, NewRecord, Partition};

/// How long to wait for the cluster to describe a topic.
const METADATA_TIMEOUT: Duration = Duration::from_secs(5);

/// Every topic under one prefix.
pub(super) struct Topics {
    prefix: String,
    by_topic: HashMap<Topic, Named>,
    by_name: HashMap<Vec<u8>, Topic>,
}

struct Named {
    name: String,
    /// 0 while unknown. A topic keeps its number while we run: another one would send the same key elsewhere.
    partitions: AtomicU32,
}

impl Topics {
    pub(super) fn new(prefix: &str) -> Self {
        let named = |topic: Topic| Named {
            name: topic.name(prefix),
            partitions: AtomicU32::new(0),
        };
        Self {
            prefix: prefix.to_owned(),
            by_topic: Topic::ALL
                .into_iter()
                .map(|topic| (topic, named(topic)))
                .collect(),
            by_name: Topic::ALL
                .into_iter()
                .map(|topic| (topic.name(prefix).into_bytes(), topic))
                .collect(),
        }
    }

    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The full name of a group.
    pub(super) fn group(&self, group: &str) -> String {
        format!("{}.{group}", self.prefix)
    }

    /// The name on the broker.
    pub(super) fn name(&self, topic: Topic) -> &str {
        self.by_topic.get(&topic).map_or("", |named| &named.name)
    }

    /// What a name on the broker stands for.
    pub(super) fn topic(&self, name: &[u8]) -> Option<Topic> {
        self.by_name.get(name).copied()
    }

    /// The number of partitions, if it is known.
    pub(super) fn known_partitions(&self, topic: Topic) -> Option<u32> {
        let partitions = self.by_topic.get(&topic)?.partitions.load(Ordering::Relaxed);
        (partitions > 0).then_some(partitions)
    }

    /// Which partition a record goes to, if the topic's number of partitions is known. A partition that is not there
    /// would never be: then the key decides after all.
    pub(super) fn place(&self, record: &NewRecord) -> Option<Partition> {
        let partitions = self.known_partitions(record.topic)?;
        let number = match record.partition {
            Some(number) if number < partitions => number,
            _ => partition::of(&record.key, partitions),
        };
        Some(Partition {
            topic: record.topic,
            number,
        })
    }

    /// Asks the cluster for the number of partitions, unless it is known. Blocks.
    ///
    /// # Errors
    /// `MissingTopics`, or `Unreachable`.
    pub(super) fn partitions(
        &self,
        client: &BaseConsumer<Context>,
        topic: Topic,
    ) -> Result<u32, BrokerError> {
        if let Some(partitions) = self.known_partitions(topic) {
            return Ok(partitions);
        }
        let name = self.name(topic);
        let metadata = client
            .fetch_metadata(Some(name), METADATA_TIMEOUT)
            .map_err(|error| unreachable("asking for the topics", &error))?;
        let partitions = metadata
            .topics()
            .iter()
            .find(|found| found.name() == name && found.error().is_none())
            .map_or(0, |found| found.partitions().len());
        let partitions = u32::try_from(partitions).unwrap_or(u32::MAX);
        if partitions == 0 {
            return Err(BrokerError::MissingTopics(vec![name.to_owned()]));
        }
        if let Some(named) = self.by_topic.get(&topic) {
            named.partitions.store(partitions, Ordering::Relaxed);
        }
        Ok(partitions)
    }

    /// Learns what is needed to place these records. Blocks.
    ///
    /// # Errors
    /// `MissingTopics`, or `Unreachable`.
    pub(super) fn learn<'r>(
        &self,
        client: &BaseConsumer<Context>,
        mut records: impl Iterator<Item = &'r NewRecord>,
    ) -> Result<(), BrokerError> {
        records.try_for_each(|record| self.partitions(client, record.topic).map(drop))
    }

    /// Every partition of these topics. Blocks.
    ///
    /// # Errors
    /// `MissingTopics` with all that are missing, or `Unreachable`.
    pub(super) fn all_partitions(
        &self,
        client: &BaseConsumer<Context>,
        topics: &[Topic],
    ) -> Result<Vec<Partition>, BrokerError> {
        let mut all = Vec::new();
        let mut missing = Vec::new();
        for topic in topics.iter().copied() {
            match self.partitions(client, topic) {
                Ok(partitions) => all.extend((0..partitions).map(|number| Partition { topic, number })),
                Err(BrokerError::MissingTopics(names)) => missing.extend(names),
                Err(error) => return Err(error),
            }
        }
        if missing.is_empty() {
            Ok(all)
        } else {
            Err(BrokerError::MissingTopics(missing))
        }
    }
}
