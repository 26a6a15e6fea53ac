//! Deletes what every group is done with.

use posthaste_event::{
    Millis, Topic,
    topic::{Cleanup, groups_of},
};
use rusqlite::{Transaction, params};

use super::Log;
use crate::{Partition, embedded::file::table};

/// What deleting a record writes, roughly, in bytes: a part of its page and of the page before.
const DELETED_BYTES: u64 = 1_024;

impl Log {
    /// See [`crate::Broker::trim`]; deletes at most `count_max` records and answers how many offsets went, 0 when there is
    /// nothing left to delete.
    pub(in crate::embedded) fn trim(&mut self, before: Millis, count_max: u32) -> rusqlite::Result<u64> {
        let transaction = self.transaction()?;
        let mut left = count_max;
        let mut trimmed = 0;
        for topic in Topic::ALL
            .into_iter()
            .filter(|topic| topic.cleanup() == Cleanup::Delete)
        {
            for number in 0..self.partitions(topic).unwrap_or(0) {
                let (records, offsets) =
                    self.trim_partition(&transaction, Partition { topic, number }, before, left)?;
                left -= records;
                trimmed += offsets;
                if left == 0 {
                    break;
                }
            }
        }
        transaction.commit()?;
        self.unmerged_bytes += u64::from(count_max - left) * DELETED_BYTES;
        Ok(trimmed)
    }

    /// Answers how many records and how many offsets went.
    fn trim_partition(
        &self,
        transaction: &Transaction<'_>,
        partition: Partition,
        before: Millis,
        count_max: u32,
    ) -> rusqlite::Result<(u32, u64)> {
        let mut slowest = i64::MAX;
        for group in groups_of(partition.topic) {
            let group = format!("{}.{group}", self.prefix);
            let committed = self
                .position(&group, partition)?
                .map_or(0, |position| position.committed);
            slowest = slowest.min(committed);
        }
        if slowest <= 0 || slowest == i64::MAX {
            return Ok((0, 0));
        }
        let Some(id) = self.id(partition) else {
            return Ok((0, 0));
        };
        let table = table(id);
        let mut select = transaction.prepare_cached(&format!(
            "SELECT offset, appended_at FROM {table} WHERE offset < ?1 ORDER BY offset LIMIT ?2"
        ))?;
        let mut rows = select.query(params![slowest, count_max])?;
        let (mut first, mut last, mut count) = (None, None, 0);
        while let Some(row) = rows.next()? {
            // Times never go back within a partition.
            if row.get::<_, Millis>(1)? >= before {
                break;
            }
            let at: i64 = row.get(0)?;
            first.get_or_insert(at);
            last = Some(at);
            count += 1;
        }
        let (Some(first), Some(last)) = (first, last) else {
            return Ok((0, 0));
        };
        transaction
            .prepare_cached(&format!(
                "DELETE FROM {table} WHERE offset >= ?1 AND offset <= ?2"
            ))?
            .execute([first, last])?;
        let offsets = last - first + 1;
        Ok((count, offsets.unsigned_abs()))
    }
}
