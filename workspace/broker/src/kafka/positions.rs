//! Where reading begins in partitions that become ours, from what the group has committed and what the log still has.
//!
//! Runs on a thread of its own: another member's unfinished transaction can hold an answer back for seconds, and the
//! partitions that we have already must go on meanwhile.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use posthaste_event::Topic;
use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, CommitMode, Consumer as _},
    error::KafkaResult,
};
use tracing::warn;

use super::{
    client::{Context, unreachable},
    native::{self, Committed},
    table::Placed,
    topics::Topics,
};
use crate::{BrokerError, Partition, Start, Tracking, completion::Completion};

/// How long to wait for one answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// Kafka's names for the two ends of a partition in a ListOffsets request (and librdkafka's `OFFSET_BEGINNING`, `OFFSET_END`).
const BEGINNING: Offset = Offset::Beginning;
const END: Offset = Offset::End;

/// Knows how one subscription starts.
pub(super) struct Positions {
    /// The member itself: `committed` through it waits for offsets in open transactions.
    pub(super) consumer: Arc<BaseConsumer<Context>>,
    /// Reads uncommitted: sees the true end of a partition.
    pub(super) observer: Arc<BaseConsumer<Context>>,
    pub(super) topics: Arc<Topics>,
    /// The group's full name.
    pub(super) group: String,
    pub(super) start: Start,
    pub(super) tracking: Tracking,
    /// Topics that held nothing, and where the group had no position, when it joined: whatever is there now is new.
    pub(super) was_empty: Mutex<BTreeSet<Topic>>,
}

/// First and next offset of each partition.
pub(super) type Ends = HashMap<Partition, (i64, i64)>;

impl Positions {
    /// Finds out where each partition begins. A partition that cannot be begun comes as an error of its own.
    ///
    /// # Errors
    /// When the broker does not answer; worth trying again.
    pub(super) fn place(
        &self,
        partitions: &[Partition],
    ) -> Result<(Vec<Placed>, Vec<BrokerError>), BrokerError> {
        let ends = ends(&self.observer, &self.topics, partitions)?;
        let committed = match &self.start {
            Start::Committed | Start::LogStart => {
                committed_by(&self.consumer, &self.topics, partitions, ANSWER_TIMEOUT)?
            }
            Start::At(_) => HashMap::new(),
        };
        let mut placed = Vec::with_capacity(partitions.len());
        let mut errors = Vec::new();
        for partition in partitions.iter().copied() {
            let (low, high) = ends.get(&partition).copied().unwrap_or((0, 0));
            let committed = committed
                .get(&partition)
                .filter(|committed| committed.offset >= 0);
            match self.begin(partition, low, high, committed) {
                Ok(begin) => placed.push(begin),
                Err(error) => errors.push(error),
            }
        }
        self.refuse_history(&ends, &mut placed, &mut errors)?;
        Ok((placed, errors))
    }

    fn begin(
        &self,
        partition: Partition,
        low: i64,
        high: i64,
        committed: Option<&Committed>,
    ) -> Result<Placed, BrokerError> {
        let mut completion = None;
        let (stands, wanted, is_new) = match &self.start {
            Start::Committed => match committed {
                Some(committed) => {
                    if self.tracking == Tracking::Completion {
                        completion = Some(self.resume(partition, committed)?);
                    }
                    (committed.offset, committed.offset, false)
                }
                None => (low, low, true),
            },
            Start::LogStart => (committed.map_or(low, |committed| committed.offset), low, false),
            Start::At(offsets) => {
                let at = offsets
                    .iter()
                    .find(|(named, _)| *named == partition)
                    .map_or(low, |(_, offset)| *offset);
                (at, at, false)
            }
        };
        if wanted > high {
            return Err(BrokerError::Refused(format!(
                "{} stands at {wanted} in {}/{}, which ends at {high}: the topic was made anew or has lost records",
                self.group,
                self.topics.name(partition.topic),
                partition.number
            )));
        }
        if wanted < low {
            warn!(
                group = %self.group, topic = self.topics.name(partition.topic), partition = partition.number,
                position = wanted, first = low, "records were deleted before the group had finished them"
            );
        }
        Ok(Placed {
            partition,
            committed: stands,
            start: wanted.max(low),
            completion: completion.unwrap_or_else(|| Completion::new(wanted.max(low))),
            end: (self.tracking == Tracking::Position).then_some(high),
            is_new,
        })
    }

    fn resume(&self, partition: Partition, committed: &Committed) -> Result<Completion, BrokerError> {
        resume(committed).map_err(|reason| BrokerError::Metadata {
            partition: format!("{}/{}", self.topics.name(partition.topic), partition.number),
            group: self.group.clone(),
            reason,
        })
    }

    /// A partition without a position is new if one of its topic has one, or if there is nothing in the topic. Otherwise
    /// reading it from its start could send history again.
    fn refuse_history(
        &self,
        ends: &Ends,
        placed: &mut Vec<Placed>,
        errors: &mut Vec<BrokerError>,
    ) -> Result<(), BrokerError> {
        let mut topics: Vec<Topic> = placed
            .iter()
            .filter(|placed| placed.is_new)
            .map(|placed| placed.partition.topic)
            .collect();
        topics.sort_unstable();
        topics.dedup();
        let was_empty = self
            .was_empty
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        for topic in topics.into_iter().filter(|topic| !was_empty.contains(topic)) {
            let all = self.topics.all_partitions(&self.observer, &[topic])?;
            let missing: Vec<Partition> = all
                .iter()
                .copied()
                .filter(|one| !ends.contains_key(one))
                .collect();
            let siblings = committed_by(&self.consumer, &self.topics, &all, ANSWER_TIMEOUT)?;
            let mut is_empty = ends
                .iter()
                .filter(|(partition, _)| partition.topic == topic)
                .all(|(_, (low, high))| low == high);
            if is_empty && !missing.is_empty() {
                is_empty = self::ends(&self.observer, &self.topics, &missing)?
                    .values()
                    .all(|(low, high)| low == high);
            }
            if !is_empty && siblings.values().all(|committed| committed.offset < 0) {
                placed.retain(|placed| placed.partition.topic != topic);
                errors.push(BrokerError::NoPositions {
                    group: self.group.clone(),
                    topic: self.topics.name(topic).to_owned(),
                });
            }
        }
        Ok(())
    }

    /// Before joining: refuses a group that has no position at all on a topic that holds records.
    ///
    /// # Errors
    /// `NoPositions`.
    pub(super) fn refuse_without_positions(&self, partitions: &[Partition]) -> Result<(), BrokerError> {
        // Without an answer nothing is refused here: each partition is asked about again when it is assigned.
        let Ok(committed) = committed_by(&self.consumer, &self.topics, partitions, ANSWER_TIMEOUT) else {
            return Ok(());
        };
        let Ok(ends) = ends(&self.observer, &self.topics, partitions) else {
            return Ok(());
        };
        let stands = |topic: Topic| {
            committed
                .iter()
                .any(|(partition, committed)| partition.topic == topic && committed.offset >= 0)
        };
        let mut was_empty = BTreeSet::new();
        for (partition, (low, high)) in &ends {
            if !stands(partition.topic) {
                if low != high {
                    return Err(BrokerError::NoPositions {
                        group: self.group.clone(),
                        topic: self.topics.name(partition.topic).to_owned(),
                    });
                }
                was_empty.insert(partition.topic);
            }
        }
        *self.was_empty.lock().unwrap_or_else(PoisonError::into_inner) = was_empty;
        Ok(())
    }

    /// Up to where the member could read these by now. Blocks.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub(super) fn readable_ends(
        &self,
        partitions: impl Iterator<Item = Partition>,
    ) -> Result<HashMap<Partition, i64>, BrokerError> {
        let partitions: Vec<Partition> = partitions.collect();
        if partitions.is_empty() {
            return Ok(HashMap::new());
        }
        highs(&self.consumer, &self.topics, &partitions)
    }

    /// Commits the start of new partitions, so that the group has a position there even if it stops before its first hop.
    /// Does not wait: at worst the partition is still new next time.
    pub(super) fn commit_new(&self, placed: &[Placed]) {
        let new = placed
            .iter()
            .filter(|placed| placed.is_new)
            .map(|placed| (placed.partition, Offset::Offset(placed.start)));
        let list = list(&self.topics, new);
        if list.count() > 0
            && let Err(error) = self.consumer.commit(&list, CommitMode::Async)
        {
            warn!(group = %self.group, %error, "the start of new partitions could not be committed");
        }
    }
}

/// The map of what is finished, or why it cannot be read.
pub(super) fn resume(committed: &Committed) -> Result<Completion, String> {
    let metadata = std::str::from_utf8(&committed.metadata).map_err(|_| "not text".to_owned())?;
    Completion::resume(committed.offset, metadata).map_err(|error| error.to_string())
}

/// What the group of `consumer` has committed. Waits for transactions that are under way. Blocks.
pub(super) fn committed_by(
    consumer: &BaseConsumer<Context>,
    topics: &Topics,
    partitions: &[Partition],
    timeout: Duration,
) -> Result<HashMap<Partition, Committed>, BrokerError> {
    const DOING: &str = "asking for committed offsets";
    let asked = list(
        topics,
        partitions.iter().map(|partition| (*partition, Offset::Invalid)),
    );
    let answer = consumer
        .committed_offsets(asked, timeout)
        .map_err(|error| unreachable(DOING, &error))?;
    let mut found = HashMap::with_capacity(partitions.len());
    for committed in native::committed(&answer) {
        if let Some(code) = committed.error {
            return Err(BrokerError::Unreachable(format!("{DOING}: {code}")));
        }
        if let (Some(topic), Ok(number)) = (
            topics.topic(committed.topic.as_bytes()),
            u32::try_from(committed.partition),
        ) {
            found.insert(Partition { topic, number }, committed);
        }
    }
    Ok(found)
}

/// First and next offset of partitions, as `observer` may see them. Blocks.
pub(super) fn ends(
    observer: &BaseConsumer<Context>,
    topics: &Topics,
    partitions: &[Partition],
) -> Result<Ends, BrokerError> {
    if partitions.is_empty() {
        return Ok(Ends::new());
    }
    let lows = offsets(topics, ask(observer, topics, partitions, BEGINNING))?;
    let highs = highs(observer, topics, partitions)?;
    Ok(lows
        .into_iter()
        .filter_map(|(partition, low)| Some((partition, (low, *highs.get(&partition)?))))
        .collect())
}

/// Next offset of partitions. Blocks.
pub(super) fn highs(
    observer: &BaseConsumer<Context>,
    topics: &Topics,
    partitions: &[Partition],
) -> Result<HashMap<Partition, i64>, BrokerError> {
    offsets(topics, ask(observer, topics, partitions, END))
}

fn ask(
    observer: &BaseConsumer<Context>,
    topics: &Topics,
    partitions: &[Partition],
    end: Offset,
) -> KafkaResult<TopicPartitionList> {
    let asked = list(topics, partitions.iter().map(|partition| (*partition, end)));
    observer.offsets_for_times(asked, ANSWER_TIMEOUT)
}

fn offsets(
    topics: &Topics,
    answer: KafkaResult<TopicPartitionList>,
) -> Result<HashMap<Partition, i64>, BrokerError> {
    const DOING: &str = "asking for the ends of partitions";
    let answer = answer.map_err(|error| unreachable(DOING, &error))?;
    native::committed(&answer)
        .into_iter()
        .map(|found| {
            let known = topics
                .topic(found.topic.as_bytes())
                .zip(u32::try_from(found.partition).ok());
            match (found.error, known) {
                (None, Some((topic, number))) if found.offset >= 0 => {
                    Ok((Partition { topic, number }, found.offset))
                }
                (error, _) => Err(BrokerError::Unreachable(format!(
                    "{DOING}: {}/{}: {}",
                    found.topic,
                    found.partition,
                    error.map_or_else(|| "no answer".to_owned(), |code| code.to_string())
                ))),
            }
        })
        .collect()
}

/// A list for librdkafka.
pub(super) fn list(
    topics: &Topics,
    partitions: impl IntoIterator<Item = (Partition, Offset)>,
) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    for (partition, offset) in partitions {
        let number = i32::try_from(partition.number).unwrap_or(i32::MAX);
        let mut element = list.add_partition(topics.name(partition.topic), number);
        // Only a negative offset is refused; then it stays "invalid", which every call treats as "none".
        let _ = element.set_offset(offset);
    }
    list
}
