//! What went out before: how many letters of each replay, and how many of them died again.
//!
//! It is counted from the log, as the letters are: the marks of a replay stand in the partitions of its letters, and an
//! event that dies again names the replay that sent it.

use std::collections::{BTreeMap, HashSet};

use rusqlite::{Connection, params};

use super::Index;

/// What became of a replay's letters in one partition.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Went out.
    pub replayed: u64,
    /// Died again.
    pub refailed: u64,
}

/// A letter of this event, at this step, went out. Answers whether that is new; it is then to be counted.
pub(super) fn note(db: &Connection, event_id: &str, step: u32, partition: u32) -> rusqlite::Result<bool> {
    db.prepare_cached("INSERT OR IGNORE INTO marks(event_id, step, partition) VALUES (?, ?, ?)")?
        .execute(params![event_id, step, partition])
        .map(|rows| rows > 0)
}

/// So many letters of a partition went out by this replay, which were not counted yet.
pub(super) fn count(db: &Connection, replay_id: &str, partition: u32, letters: u32) -> rusqlite::Result<()> {
    if letters == 0 {
        return Ok(());
    }
    db.prepare_cached(
        "INSERT INTO replays VALUES (?1, ?2, ?3, 0) \
         ON CONFLICT(replay_id, partition) DO UPDATE SET replayed = replayed + ?3",
    )?
    .execute(params![replay_id, partition, letters])
    .map(|_| ())
}

/// A letter came that this replay had sent out.
pub(super) fn note_refailed(db: &Connection, partition: u32, replay_id: &str) -> rusqlite::Result<()> {
    db.prepare_cached(
        "INSERT INTO replays VALUES (?, ?, 0, 1) \
         ON CONFLICT(replay_id, partition) DO UPDATE SET refailed = refailed + 1",
    )?
    .execute(params![replay_id, partition])
    .map(|_| ())
}

impl Index {
    /// What became of a replay's letters, by partition, as far as partitions are ours and read to their end.
    ///
    /// # Errors
    /// When the file fails.
    pub fn counts(&self, replay_id: &str) -> rusqlite::Result<BTreeMap<u32, Counts>> {
        let mut statement = self
            .db
            .prepare_cached("SELECT partition, replayed, refailed FROM replays WHERE replay_id = ?")?;
        let mut rows = statement.query([replay_id])?;
        let mut counts: BTreeMap<u32, Counts> = BTreeMap::new();
        while let Some(row) = rows.next()? {
            let count = |column| row.get(column).map(i64::unsigned_abs);
            let replayed = Counts {
                replayed: count(1)?,
                refailed: count(2)?,
            };
            counts.insert(row.get(0)?, replayed);
        }
        counts.retain(|partition, _| self.is_read(*partition));
        Ok(counts)
    }

    /// Which of these events have no open letter here, and how many of those had none that went out either. With a `tenant`,
    /// only its letters count, and whose the others were is not known.
    ///
    /// # Errors
    /// When the file fails.
    pub fn not_open(&self, ids: &[String], tenant: Option<&str>) -> rusqlite::Result<(Vec<String>, usize)> {
        let mut open = self
            .db
            .prepare_cached("SELECT 1 FROM letters WHERE event_id = ?1 AND (?2 IS NULL OR tenant = ?2)")?;
        let mut marked = self
            .db
            .prepare_cached("SELECT 1 FROM marks WHERE event_id = ? LIMIT 1")?;
        let mut seen = HashSet::new();
        let mut not_open = Vec::new();
        let mut unknown = 0;
        for id in ids.iter().filter(|id| seen.insert(id.as_str())) {
            if !open.exists(params![id, tenant])? {
                not_open.push(id.clone());
                unknown += usize::from(!marked.exists([id])?);
            }
        }
        Ok((not_open, unknown))
    }
}
