//! Topics that keep the latest record of each key.

use posthaste_event::Millis;
use rusqlite::{OptionalExtension as _, params};

use super::Log;
use crate::embedded::file::{offset_of, partition_of, table};

impl Log {
    /// Lets the record at `place` take the place of the one with the same key.
    pub(super) fn compact(
        &self,
        id: i64,
        place: i64,
        key: &[u8],
        is_tombstone: bool,
        now: Millis,
    ) -> rusqlite::Result<()> {
        let older: Option<i64> = self
            .connection
            .prepare_cached("SELECT place FROM latest WHERE partition = ?1 AND key = ?2")?
            .query_row(params![id, key], |row| row.get(0))
            .optional()?;
        if let Some(older) = older {
            self.connection
                .prepare_cached(&format!("DELETE FROM {} WHERE offset = ?1", table(id)))?
                .execute([offset_of(older)])?;
            self.connection
                .prepare_cached("DELETE FROM tombstone WHERE place = ?1")?
                .execute([older])?;
        }
        self.connection
            .prepare_cached("INSERT OR REPLACE INTO latest (partition, key, place) VALUES (?1, ?2, ?3)")?
            .execute(params![id, key, place])?;
        if is_tombstone {
            self.connection
                .prepare_cached("INSERT INTO tombstone (place, until) VALUES (?1, ?2)")?
                .execute([place, now.saturating_add(self.tombstone_ms)])?;
        }
        Ok(())
    }

    /// Removes tombstones whose time is over, at most `count_max`; answers how many.
    pub(in crate::embedded) fn sweep(&mut self, now: Millis, count_max: u32) -> rusqlite::Result<usize> {
        let transaction = self.transaction()?;
        let due: Vec<i64> = transaction
            .prepare_cached("SELECT place FROM tombstone WHERE until <= ?1 LIMIT ?2")?
            .query_map(params![now, count_max], |row| row.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        for place in &due {
            let (partition, offset) = (partition_of(*place), offset_of(*place));
            let table = table(partition);
            // The tombstone is its key's latest record, else compaction had removed it.
            transaction
                .prepare_cached(&format!(
                    "DELETE FROM latest WHERE partition = ?1 AND key = (SELECT key FROM {table} WHERE offset = ?2)"
                ))?
                .execute([partition, offset])?;
            transaction
                .prepare_cached(&format!("DELETE FROM {table} WHERE offset = ?1"))?
                .execute([offset])?;
            transaction
                .prepare_cached("DELETE FROM tombstone WHERE place = ?1")?
                .execute([place])?;
        }
        transaction.commit()?;
        Ok(due.len())
    }
}
