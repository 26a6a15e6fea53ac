//! The index of open letters: a private SQLite file that can always be rebuilt from the log.
//!
//! It also knows which partitions are ours, under which assignment, and whether they have been read to their end: so a
//! letter is only ever claimed together with the assignment whose fence guards it. Everything here blocks on the disk;
//! call it from blocking tasks.

pub mod groups;
pub mod marks;
pub mod pages;
pub mod sets;

use std::{collections::HashMap, path::Path};

use bytes::Bytes;
use posthaste_broker::Assignment;
use posthaste_event::Millis;
use rusqlite::{Connection, OptionalExtension as _, Row, ToSql, params, params_from_iter};

use crate::letter::{Entry, Filter, Letter, Place};

/// The index's file in the data folder.
const FILE: &str = "replay-index.sqlite";

/// Memory for pages of the file, in KiB.
const CACHE_KIB: i64 = 8_192;

const SCHEMA: &str = "
    CREATE TABLE letters(
        partition INTEGER NOT NULL, place INTEGER NOT NULL, at INTEGER NOT NULL,
        event_id TEXT, step INTEGER NOT NULL, tenant TEXT, channel TEXT, provider TEXT, account TEXT,
        kind TEXT NOT NULL, code TEXT, fingerprint TEXT, message TEXT NOT NULL,
        critical INTEGER NOT NULL, pinned TEXT, in_doubt INTEGER NOT NULL, key BLOB, value BLOB NOT NULL,
        PRIMARY KEY(partition, place)
    );
    CREATE UNIQUE INDEX by_event ON letters(event_id) WHERE event_id IS NOT NULL;
    CREATE INDEX open ON letters(partition, place) WHERE event_id IS NOT NULL;
    CREATE INDEX by_time ON letters(at, partition, place);
    CREATE INDEX doubtful ON letters(partition) WHERE in_doubt;
    CREATE TABLE marks(
        event_id TEXT NOT NULL, step INTEGER NOT NULL, partition INTEGER NOT NULL, PRIMARY KEY(event_id, step)
    ) WITHOUT ROWID;
    CREATE TABLE replays(
        replay_id TEXT NOT NULL, partition INTEGER NOT NULL, replayed INTEGER NOT NULL, refailed INTEGER NOT NULL,
        PRIMARY KEY(replay_id, partition)
    ) WITHOUT ROWID;
";

/// The open letters of the partitions that are ours.
pub struct Index {
    db: Connection,
    owned: HashMap<u32, Owned>,
    /// Letters that are being re-published now, and the assignment under which each was claimed: who gives a letter back
    /// that was read again since cannot give back another's claim.
    claimed: HashMap<Place, u64>,
}

struct Owned {
    assignment: Assignment,
    at_end: bool,
    /// The next offset to be read.
    next: i64,
    committed: i64,
    /// Events whose letters were closed when they went out, at these steps, and whose marks are still to be read.
    closed: HashMap<String, u32>,
}

/// A letter that is ours to re-publish, until it is closed or released.
#[derive(Debug, Clone, Copy)]
pub struct Claim {
    /// Where it stands.
    pub place: Place,
    /// When it was given up.
    pub at: Millis,
    /// The assignment that must still hold when it goes out.
    pub assignment: Assignment,
}

/// A letter with its record.
#[derive(Debug)]
pub struct Stored {
    /// Where it stands.
    pub place: Place,
    /// When it was given up.
    pub at: Millis,
    /// The record's key.
    pub key: Option<Bytes>,
    /// The record's value.
    pub value: Bytes,
}

impl Index {
    /// An empty index: in `folder`, which nobody else may use, or in a temporary file that vanishes with the process.
    ///
    /// # Errors
    /// When the file cannot be used.
    pub fn open(folder: Option<&Path>) -> rusqlite::Result<Self> {
        let db = match folder {
            Some(folder) => {
                let file = folder.join(FILE);
                // What a former process left is older than the log.
                let _ = std::fs::remove_file(&file);
                Connection::open(file)?
            }
            // SQLite's own temporary database: on disk, deleted as soon as it is closed.
            None => Connection::open("")?,
        };
        // Nothing here must survive a crash: the log does.
        db.execute_batch(&format!(
            "PRAGMA locking_mode=EXCLUSIVE; PRAGMA synchronous=OFF; PRAGMA journal_mode=MEMORY; \
             PRAGMA cache_size=-{CACHE_KIB}; {SCHEMA}"
        ))?;
        Ok(Self {
            db,
            owned: HashMap::new(),
            claimed: HashMap::new(),
        })
    }

    /// A partition is ours; its letters are read from the log's start.
    ///
    /// # Errors
    /// When the file fails.
    pub fn assigned(&mut self, assignment: Assignment) -> rusqlite::Result<()> {
        let number = assignment.partition.number;
        self.revoked(number)?;
        let owned = Owned {
            assignment,
            at_end: false,
            next: 0,
            committed: assignment.committed,
            closed: HashMap::new(),
        };
        self.owned.insert(number, owned);
        Ok(())
    }

    /// A partition is no longer ours.
    ///
    /// # Errors
    /// When the file fails.
    pub fn revoked(&mut self, partition: u32) -> rusqlite::Result<()> {
        self.owned.remove(&partition);
        for table in ["letters", "marks", "replays"] {
            let sql = format!("DELETE FROM {table} WHERE partition = ?");
            self.db.execute(&sql, [partition])?;
        }
        Ok(())
    }

    /// A partition has been read to where it ended when that began.
    pub fn at_end(&mut self, partition: u32) {
        if let Some(owned) = self.owned.get_mut(&partition) {
            owned.at_end = true;
        }
    }

    /// How many partitions are ours, and how many of those have been read.
    pub fn partitions(&self) -> (usize, usize) {
        let read = self.owned.values().filter(|owned| owned.at_end).count();
        (self.owned.len(), read)
    }

    /// Takes in what was read, in the log's order: `(partition, offset, entry)`.
    ///
    /// # Errors
    /// When the file fails; then nothing of it is taken in.
    pub fn apply(&mut self, entries: Vec<(Place, Entry)>) -> rusqlite::Result<()> {
        let transaction = self.db.transaction()?;
        for ((partition, offset), entry) in entries {
            let Some(owned) = self.owned.get_mut(&partition) else {
                continue;
            };
            match entry {
                Entry::Letter(letter) => insert(&transaction, &letter)?,
                Entry::Replayed {
                    event_id,
                    step,
                    replay_id,
                } => {
                    if owned.closed.get(&event_id) == Some(&step) {
                        owned.closed.remove(&event_id);
                    } else {
                        let is_new = marks::note(&transaction, &event_id, step, partition)?;
                        marks::count(&transaction, &replay_id, partition, is_new.into())?;
                        transaction
                            .prepare_cached("DELETE FROM letters WHERE event_id = ? AND step <= ?")?
                            .execute(params![event_id, step])?;
                    }
                }
            }
            owned.next = owned.next.max(offset + 1);
        }
        transaction.commit()
    }

    /// Reads letters, from the first on, until `bytes_max` is reached (but at least one), and says how many of `places`
    /// were looked at. Those that are gone are left out.
    ///
    /// # Errors
    /// When the file fails.
    pub fn load(&self, places: &[Place], bytes_max: usize) -> rusqlite::Result<(Vec<Stored>, usize)> {
        let mut statement = self.db.prepare_cached(
            "SELECT partition, place, at, key, value FROM letters WHERE partition = ? AND place = ?",
        )?;
        let mut letters = Vec::new();
        let mut bytes = 0;
        for (index, place) in places.iter().enumerate() {
            let Some(letter) = statement
                .query_row(params![place.0, place.1], stored)
                .optional()?
            else {
                continue;
            };
            bytes += letter.value.len();
            if bytes > bytes_max && !letters.is_empty() {
                return Ok((letters, index));
            }
            letters.push(letter);
        }
        Ok((letters, places.len()))
    }

    /// These letters did not go out.
    pub fn release(&mut self, claims: &[Claim]) {
        for claim in claims {
            self.release_one(claim.place, claim.assignment.epoch);
        }
    }

    fn release_one(&mut self, place: Place, epoch: u64) {
        if self.claimed.get(&place) == Some(&epoch) {
            self.claimed.remove(&place);
        }
    }

    fn claim(&mut self, claims: &[Claim]) {
        let claims = claims.iter();
        self.claimed
            .extend(claims.map(|claim| (claim.place, claim.assignment.epoch)));
    }

    /// The position to commit for a partition: its oldest open letter, else the next record.
    ///
    /// # Errors
    /// When the file fails.
    pub fn position(&self, partition: u32) -> rusqlite::Result<Option<i64>> {
        let Some(owned) = self.owned.get(&partition) else {
            return Ok(None);
        };
        let oldest: Option<i64> = self
            .db
            .prepare_cached("SELECT min(place) FROM letters WHERE partition = ? AND event_id IS NOT NULL")?
            .query_row([partition], |row| row.get(0))?;
        Ok(Some(oldest.unwrap_or(owned.next).max(owned.committed)))
    }

    /// The partitions whose committed position is behind the oldest open letter.
    ///
    /// # Errors
    /// When the file fails.
    pub fn positions_behind(&self) -> rusqlite::Result<Vec<(Assignment, i64)>> {
        let mut behind = Vec::new();
        for (partition, owned) in &self.owned {
            if let Some(position) = self.position(*partition)?
                && owned.at_end
                && position > owned.committed
            {
                behind.push((owned.assignment, position));
            }
        }
        Ok(behind)
    }

    /// This position was committed.
    pub fn committed(&mut self, assignment: Assignment, position: i64) {
        if let Some(owned) = self.owned.get_mut(&assignment.partition.number)
            && owned.assignment.epoch == assignment.epoch
        {
            owned.committed = position;
        }
    }

    /// Letters, newest first, after the one at `after`; foreign ones too.
    ///
    /// # Errors
    /// When the file fails.
    pub fn list(
        &self,
        filter: &Filter,
        after: Option<(Millis, Place)>,
        limit: usize,
    ) -> rusqlite::Result<Vec<Stored>> {
        let (mut condition, mut values) = condition(filter);
        if let Some((at, (partition, offset))) = after {
            condition.push_str(" AND (at, partition, place) < (?, ?, ?)");
            values.push(Box::new(at));
            values.push(Box::new(partition));
            values.push(Box::new(offset));
        }
        values.push(Box::new(i64::try_from(limit).unwrap_or(i64::MAX)));
        let mut statement = self.db.prepare_cached(&format!(
            "SELECT partition, place, at, key, value FROM letters WHERE 1{condition} \
             ORDER BY at DESC, partition DESC, place DESC LIMIT ?"
        ))?;
        statement.query_map(params_from_iter(values), stored)?.collect()
    }

    /// The open letter of an event.
    ///
    /// # Errors
    /// When the file fails.
    pub fn of_event(&self, event_id: &str) -> rusqlite::Result<Option<Stored>> {
        self.db
            .prepare_cached("SELECT partition, place, at, key, value FROM letters WHERE event_id = ?")?
            .query_row([event_id], stored)
            .optional()
    }
}

fn insert(db: &Connection, letter: &Letter) -> rusqlite::Result<()> {
    let about = &letter.about;
    // The newest letter of an event is the open one: what it replaces went out, or it would not have died again.
    db.prepare_cached("DELETE FROM letters WHERE event_id = ? AND step <= ?")?
        .execute(params![about.event_id, about.step])?;
    db.prepare_cached(
        "INSERT OR IGNORE INTO letters(partition, place, at, event_id, step, tenant, channel, provider, account, kind, \
         code, fingerprint, message, critical, pinned, in_doubt, key, value) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )?
    .execute(params![
        letter.place.0,
        letter.place.1,
        letter.at,
        about.event_id,
        about.step,
        about.tenant,
        about.channel,
        about.provider,
        about.account,
        about.kind,
        about.code,
        about.fingerprint,
        about.message,
        about.critical,
        about.pinned,
        about.in_doubt,
        letter.key.as_deref(),
        &*letter.value,
    ])?;
    match &about.replay_id {
        Some(replay_id) => marks::note_refailed(db, letter.place.0, replay_id),
        None => Ok(()),
    }
}

fn stored(row: &Row<'_>) -> rusqlite::Result<Stored> {
    let key: Option<Vec<u8>> = row.get(3)?;
    let value: Vec<u8> = row.get(4)?;
    Ok(Stored {
        place: (row.get(0)?, row.get(1)?),
        at: row.get(2)?,
        key: key.map(Bytes::from),
        value: value.into(),
    })
}

fn condition(filter: &Filter) -> (String, Vec<Box<dyn ToSql>>) {
    let mut sql = String::new();
    let mut values: Vec<Box<dyn ToSql>> = Vec::new();
    let mut also = |text: &str, value: Box<dyn ToSql>| {
        sql.push_str(" AND ");
        sql.push_str(text);
        values.push(value);
    };
    if let Some(ids) = &filter.ids {
        let ids = serde_json::Value::from(ids.clone()).to_string();
        also("event_id IN (SELECT value FROM json_each(?))", Box::new(ids));
    }
    let equal = [
        ("tenant = ?", &filter.tenant),
        ("channel = ?", &filter.channel),
        ("? IN (provider, account)", &filter.provider),
        ("? IN (kind, code, fingerprint)", &filter.error),
    ];
    for (text, value) in equal {
        if let Some(value) = value {
            also(text, Box::new(value.clone()));
        }
    }
    if let Some(from) = filter.from {
        also("at >= ?", Box::new(from));
    }
    if let Some(until) = filter.until {
        also("at < ?", Box::new(until));
    }
    if let Some(text) = &filter.text {
        also(
            "instr(lower(message), ?) > 0",
            Box::new(text.to_ascii_lowercase()),
        );
    }
    (sql, values)
}
