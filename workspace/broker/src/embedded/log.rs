//! The log as its one writer sees it: topics, the ends of their partitions, and the statements that change the file.
//!
//! Offsets and times are dealt out from memory and written with the records, in the same transaction. When that fails,
//! [`Log::roll_back`] takes them back.

mod compaction;
mod trim;

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use posthaste_event::{Millis, Topic, topic::Cleanup};
use rusqlite::{Connection, OptionalExtension as _, Transaction, TransactionBehavior, params};

use super::{
    ends::Ends,
    file::{self, partition_id, place, table},
};
use crate::{NewRecord, Partition, Record};

/// What SQLite's pages and indexes add to a change of one partition, roughly; it decides when to merge, nothing else.
const PAGE_BYTES: u64 = 4_096;

/// A topic and where its partitions end.
#[derive(Debug)]
struct Kept {
    id: i64,
    compacted: bool,
    ends: Vec<End>,
    /// The statements that append to its partitions.
    inserts: Vec<String>,
}

impl Kept {
    fn new(id: i64, topic: Topic, ends: Vec<End>) -> Self {
        // At most PARTITIONS_MAX.
        let numbers = 0..ends.len() as u32;
        let insert = |number| {
            let table = table(partition_id(id, number));
            format!("INSERT INTO {table} (offset, appended_at, key, value) VALUES (?1, ?2, ?3, ?4)")
        };
        Self {
            id,
            compacted: topic.cleanup() == Cleanup::Compact,
            inserts: numbers.map(insert).collect(),
            ends,
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct End {
    next_offset: i64,
    appended_at: Millis,
}

/// Where a group stands in one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Position {
    /// The next offset to finish.
    pub(super) committed: i64,
    /// What is finished above it.
    pub(super) metadata: String,
}

/// The writer's side of the log file.
#[derive(Debug)]
pub(super) struct Log {
    connection: Connection,
    prefix: String,
    topics: HashMap<Topic, Kept>,
    /// What is durable of their ends.
    durable: Arc<Ends>,
    tombstone_ms: i64,
    /// Ends as they were before the transaction under way, each once.
    before: Vec<(Partition, End)>,
    /// About how many bytes went to the write-ahead log since it was merged.
    pub(super) unmerged_bytes: u64,
}

impl Log {
    /// Reads the topics and their ends.
    pub(super) fn load(connection: Connection, prefix: &str, tombstone_ms: i64) -> rusqlite::Result<Self> {
        let mut log = Self {
            connection,
            prefix: prefix.to_owned(),
            topics: HashMap::new(),
            durable: Arc::default(),
            tombstone_ms,
            before: Vec::new(),
            unmerged_bytes: 0,
        };
        log.load_topics()?;
        Ok(log)
    }

    fn load_topics(&mut self) -> rusqlite::Result<()> {
        let mut topics = self
            .connection
            .prepare("SELECT id, name, partitions FROM topic")?;
        let mut ends = self
            .connection
            .prepare("SELECT next_offset, appended_at FROM partition WHERE id = ?1")?;
        let mut rows = topics.query([])?;
        let mut loaded = HashMap::new();
        while let Some(row) = rows.next()? {
            let (id, name, partitions): (i64, String, u32) = (row.get(0)?, row.get(1)?, row.get(2)?);
            // Another prefix, or a topic of a later version: not ours to touch.
            let Some(topic) = Topic::from_name(&name, &self.prefix) else {
                continue;
            };
            let ends: Vec<_> = (0..partitions)
                .map(|number| {
                    ends.query_row([partition_id(id, number)], |row| {
                        Ok(End {
                            next_offset: row.get(0)?,
                            appended_at: row.get(1)?,
                        })
                    })
                })
                .collect::<rusqlite::Result<_>>()?;
            self.durable.begin(topic, ends.iter().map(|end| end.next_offset));
            loaded.insert(topic, Kept::new(id, topic, ends));
        }
        drop(rows);
        drop(ends);
        drop(topics);
        self.topics = loaded;
        Ok(())
    }

    /// Where partitions end, for whoever asks beside the writer.
    pub(super) fn ends(&self) -> Arc<Ends> {
        Arc::clone(&self.durable)
    }

    /// How many partitions a topic has; `None` when it is missing.
    pub(super) fn partitions(&self, topic: Topic) -> Option<u32> {
        // At most PARTITIONS_MAX.
        self.topics.get(&topic).map(|kept| kept.ends.len() as u32)
    }

    /// The partition's id in the file.
    pub(super) fn id(&self, partition: Partition) -> Option<i64> {
        let kept = self.topics.get(&partition.topic)?;
        Some(partition_id(kept.id, partition.number))
    }

    /// The next offset to be written.
    pub(super) fn end(&self, partition: Partition) -> i64 {
        self.topics
            .get(&partition.topic)
            .and_then(|kept| kept.ends.get(partition.number as usize))
            .map_or(0, |end| end.next_offset)
    }

    /// The full name.
    pub(super) fn name(&self, topic: Topic) -> String {
        topic.name(&self.prefix)
    }

    /// Whether anything was ever written to the topic.
    pub(super) fn has_records(&self, topic: Topic) -> bool {
        self.topics
            .get(&topic)
            .is_some_and(|kept| kept.ends.iter().any(|end| end.next_offset > 0))
    }

    /// Makes a topic, in a transaction of its own.
    pub(super) fn create(&mut self, topic: Topic, partitions: u32) -> rusqlite::Result<()> {
        let transaction = self.transaction()?;
        transaction.execute(
            "INSERT INTO topic (name, partitions) VALUES (?1, ?2)",
            params![topic.name(&self.prefix), partitions],
        )?;
        let id = transaction.last_insert_rowid();
        for number in 0..partitions {
            transaction.execute(
                "INSERT INTO partition (id, next_offset, appended_at) VALUES (?1, 0, 0)",
                [partition_id(id, number)],
            )?;
            file::make_table(&transaction, partition_id(id, number))?;
        }
        transaction.commit()?;
        let end = End {
            next_offset: 0,
            appended_at: 0,
        };
        let ends = vec![end; partitions as usize];
        self.durable.begin(topic, ends.iter().map(|end| end.next_offset));
        self.topics.insert(topic, Kept::new(id, topic, ends));
        Ok(())
    }

    /// What of these records has no place to go, in words.
    pub(super) fn missing(&self, records: &[NewRecord]) -> Option<String> {
        records.iter().find_map(|record| {
            let name = || record.topic.name(&self.prefix);
            match (self.partitions(record.topic), record.partition) {
                (None, _) => Some(format!(
                    "topic {} is missing; `posthaste topics create` makes it",
                    name()
                )),
                (Some(count), Some(number)) if number >= count => Some(format!(
                    "topic {} has {count} partitions; there is no partition {number}",
                    name()
                )),
                _ => None,
            }
        })
    }

    /// Begins a transaction. It must end in `commit` and [`Self::keep`], or in [`Self::roll_back`].
    pub(super) fn begin(&self) -> rusqlite::Result<()> {
        self.connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        Ok(())
    }

    /// Appends one record; `None` if its topic or partition does not exist.
    pub(super) fn append(&mut self, record: &NewRecord, now: Millis) -> rusqlite::Result<Option<Record>> {
        let Some(kept) = self.topics.get_mut(&record.topic) else {
            return Ok(None);
        };
        let number = record
            .partition
            .unwrap_or_else(|| posthaste_event::partition::of(&record.key, kept.ends.len() as u32));
        let Some(end) = kept.ends.get_mut(number as usize) else {
            return Ok(None);
        };
        let partition = Partition {
            topic: record.topic,
            number,
        };
        remember(&mut self.before, partition, *end);
        let offset = end.next_offset;
        end.next_offset += 1;
        end.appended_at = end.appended_at.max(now);
        let appended_at = end.appended_at;
        let id = partition_id(kept.id, number);
        let key: &[u8] = &record.key;
        let value: Option<&[u8]> = record.value.as_deref();
        self.connection
            .prepare_cached(&kept.inserts[number as usize])?
            .execute(params![offset, appended_at, key, value])?;
        self.unmerged_bytes += (key.len() + value.map_or(0, <[u8]>::len)) as u64;
        if kept.compacted {
            self.compact(id, place(id, offset), key, value.is_none(), now)?;
        }
        Ok(Some(Record {
            partition,
            offset,
            key: Some(record.key.clone()),
            value: record.value.clone(),
            appended_at,
            headers: None,
        }))
    }

    /// Skips an offset, as the marker at the end of a Kafka transaction does: whatever counts on offsets without gaps
    /// fails here too.
    pub(super) fn skip(&mut self, partition: Partition) {
        if let Some(end) = self
            .topics
            .get_mut(&partition.topic)
            .and_then(|kept| kept.ends.get_mut(partition.number as usize))
        {
            remember(&mut self.before, partition, *end);
            end.next_offset += 1;
        }
    }

    /// Commits the transaction with the new ends. On an error, call [`Self::roll_back`].
    pub(super) fn commit(&mut self) -> rusqlite::Result<()> {
        for (partition, _) in &self.before {
            let Some(kept) = self.topics.get(&partition.topic) else {
                continue;
            };
            let end = kept.ends[partition.number as usize];
            self.connection
                .prepare_cached("UPDATE partition SET next_offset = ?2, appended_at = ?3 WHERE id = ?1")?
                .execute(params![
                    partition_id(kept.id, partition.number),
                    end.next_offset,
                    end.appended_at
                ])?;
        }
        self.connection.prepare_cached("COMMIT")?.execute([])?;
        for (partition, _) in &self.before {
            self.durable.set(*partition, self.end(*partition));
        }
        self.unmerged_bytes += (self.before.len() as u64 + 2) * PAGE_BYTES;
        self.before.clear();
        Ok(())
    }

    /// Undoes the transaction under way.
    pub(super) fn roll_back(&mut self) {
        for (partition, end) in self.before.drain(..) {
            if let Some(kept) = self.topics.get_mut(&partition.topic) {
                kept.ends[partition.number as usize] = end;
            }
        }
        // SQLite may have rolled back by itself, as it does when the disk is full.
        if !self.connection.is_autocommit()
            && let Err(error) = self.connection.execute_batch("ROLLBACK")
        {
            tracing::warn!(%error, "cannot roll a transaction of the log back");
        }
    }

    /// Where a group stands.
    pub(super) fn position(&self, group: &str, partition: Partition) -> rusqlite::Result<Option<Position>> {
        let id = self.id(partition).unwrap_or(-1);
        self.connection
            .prepare_cached(
                "SELECT committed, metadata FROM position WHERE member_group = ?1 AND partition = ?2",
            )?
            .query_row(params![group, id], |row| {
                Ok(Position {
                    committed: row.get(0)?,
                    metadata: row.get(1)?,
                })
            })
            .optional()
    }

    /// Writes where a group stands; part of the transaction under way, if there is one.
    pub(super) fn set_position(
        &self,
        group: &str,
        partition: Partition,
        committed: i64,
        metadata: &str,
    ) -> rusqlite::Result<()> {
        let id = self.id(partition).unwrap_or(-1);
        self.connection
            .prepare_cached(
                "INSERT INTO position (member_group, partition, committed, metadata) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT DO UPDATE SET committed = excluded.committed, metadata = excluded.metadata",
            )?
            .execute(params![group, id, committed, metadata])?;
        Ok(())
    }

    /// The first record that is there; the end when there is none.
    pub(super) fn start(&self, partition: Partition) -> rusqlite::Result<i64> {
        let Some(id) = self.id(partition) else {
            return Ok(self.end(partition));
        };
        let first: Option<i64> = self
            .connection
            .prepare_cached(&format!("SELECT min(offset) FROM {}", table(id)))?
            .query_row([], |row| row.get(0))?;
        Ok(first.unwrap_or_else(|| self.end(partition)))
    }

    /// Commits the start for each partition of `topic` in which the group has no position; answers how many.
    pub(super) fn commit_starts(&self, group: &str, topic: Topic) -> rusqlite::Result<u32> {
        let transaction = self.transaction()?;
        let mut committed = 0;
        for number in 0..self.partitions(topic).unwrap_or(0) {
            let partition = Partition { topic, number };
            if self.position(group, partition)?.is_none() {
                self.set_position(group, partition, self.start(partition)?, "")?;
                committed += 1;
            }
        }
        transaction.commit()?;
        Ok(committed)
    }

    /// Writes something harmless, to see whether the disk is well again.
    pub(super) fn probe(&self) -> rusqlite::Result<()> {
        let transaction = self.transaction()?;
        transaction.execute(
            "UPDATE partition SET id = id WHERE id = (SELECT min(id) FROM partition)",
            [],
        )?;
        transaction.commit()
    }

    /// Merges the whole write-ahead log into the file and starts it over, while everybody waits. Its file keeps its length: what
    /// is written into it then needs no new blocks, and syncing it changes no inode.
    pub(super) fn merge(&mut self) -> rusqlite::Result<()> {
        self.checkpoint("RESTART")
    }

    /// Merges it for the last time, and gives its space back.
    pub(super) fn merge_and_end(&mut self) -> rusqlite::Result<()> {
        self.checkpoint("TRUNCATE")
    }

    fn checkpoint(&mut self, mode: &str) -> rusqlite::Result<()> {
        self.connection
            .query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |_| Ok(()))?;
        self.unmerged_bytes = 0;
        Ok(())
    }

    /// The connection, for tests that make the disk full.
    #[cfg(test)]
    pub(super) const fn connection(&self) -> &Connection {
        &self.connection
    }

    fn transaction(&self) -> rusqlite::Result<Transaction<'_>> {
        Transaction::new_unchecked(&self.connection, TransactionBehavior::Immediate)
    }
}

fn remember(before: &mut Vec<(Partition, End)>, partition: Partition, end: End) {
    if !before.iter().any(|(known, _)| *known == partition) {
        before.push((partition, end));
    }
}

/// Reads records of one partition from `from` up to `until`, at most `count_max`, and no more than about `bytes_max` but at
/// least one. Answers them, and whether these are all.
pub(super) fn read(
    connection: &Connection,
    (partition, id): (Partition, i64),
    (from, until): (i64, i64),
    count_max: u32,
    bytes_max: usize,
) -> rusqlite::Result<(Vec<Record>, bool)> {
    let mut select = connection.prepare_cached(&format!(
        "SELECT offset, appended_at, key, value FROM {} WHERE offset >= ?1 AND offset < ?2 ORDER BY offset LIMIT ?3",
        table(id)
    ))?;
    let mut rows = select.query(params![from, until, count_max])?;
    let mut records = Vec::new();
    let mut bytes = 0;
    while bytes < bytes_max {
        let Some(row) = rows.next()? else {
            let is_all = records.len() < count_max as usize;
            return Ok((records, is_all));
        };
        let key: Vec<u8> = row.get(2)?;
        let value: Option<Vec<u8>> = row.get(3)?;
        bytes += key.len() + value.as_ref().map_or(0, Vec::len);
        records.push(Record {
            partition,
            offset: row.get(0)?,
            key: Some(key.into()),
            value: value.map(Bytes::from),
            appended_at: row.get(1)?,
            headers: None,
        });
    }
    Ok((records, false))
}

/// Reads the records of one partition at these offsets, in their order; those that are not there are missing.
pub(super) fn read_each(
    connection: &Connection,
    (partition, id): (Partition, i64),
    offsets: &[i64],
) -> rusqlite::Result<Vec<Record>> {
    let mut select = connection.prepare_cached(&format!(
        "SELECT appended_at, key, value FROM {} WHERE offset = ?1",
        table(id)
    ))?;
    let mut records = Vec::with_capacity(offsets.len());
    // One look at the log for all of them.
    let look = connection.unchecked_transaction()?;
    for &offset in offsets {
        let found = select.query_row([offset], |row| {
            Ok(Record {
                partition,
                offset,
                key: Some(row.get::<_, Vec<u8>>(1)?.into()),
                value: row.get::<_, Option<Vec<u8>>>(2)?.map(Bytes::from),
                appended_at: row.get(0)?,
                headers: None,
            })
        });
        records.extend(found.optional()?);
    }
    look.finish()?;
    Ok(records)
}

/// Whether a partition holds a record at `from` or behind it.
pub(super) fn has_from(connection: &Connection, id: i64, from: i64) -> rusqlite::Result<bool> {
    connection
        .prepare_cached(&format!("SELECT 1 FROM {} WHERE offset >= ?1", table(id)))?
        .exists([from])
}
