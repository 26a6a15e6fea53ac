//! Opening the file, and its tables.

use std::{path::Path, time::Duration};

use rusqlite::{Connection, OpenFlags};

use super::{claims, devices, lists};

/// The version of the tables that this code reads and writes, kept in the file as `user_version`.
const VERSION: i64 = 3;

/// The first version did not know of policies.
const FROM_1_TO_2: &str = "ALTER TABLE events ADD COLUMN policy TEXT";
/// The second had a table of steps.
const FROM_2_TO_3: &str = include_str!("migrate_2_to_3.sql");

/// Pages of the write-ahead log that are merged into the file at a time. More would be fewer in all, and a longer wait for whoever
/// syncs the disk beside it.
const MERGED_PAGES: i64 = 256;

/// How long a statement waits for another connection's lock. In WAL mode only a checkpoint can be met.
const LOCK_WAIT: Duration = Duration::from_secs(2);

/// What a document that was confirmed survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Durability {
    /// A power cut.
    PowerCut,
    /// Nothing: the file is thrown away in the end.
    None,
}

/// Opens the file for writing and makes the tables when it is new.
pub(super) fn open(path: &Path, durability: Durability) -> Result<Connection, String> {
    let says = |error: rusqlite::Error| error.to_string();
    let mut db = Connection::open(path).map_err(says)?;
    db.busy_timeout(LOCK_WAIT).map_err(says)?;
    db.pragma_update(None, "journal_mode", "WAL").map_err(says)?;
    match durability {
        Durability::PowerCut => set_waiting(&db, true).map_err(says)?,
        Durability::None => db.pragma_update(None, "synchronous", "OFF").map_err(says)?,
    }
    db.pragma_update(None, "wal_autocheckpoint", MERGED_PAGES)
        .map_err(says)?;
    db.pragma_update(None, "cache_size", -16_384).map_err(says)?;
    db.pragma_update(None, "journal_size_limit", 64 << 20)
        .map_err(says)?;
    db.set_prepared_statement_cache_capacity(32);
    let version: i64 = db
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .map_err(says)?;
    match version {
        0 => change(&mut db, &[include_str!("schema.sql")]).map_err(says)?,
        1 => change(&mut db, &[FROM_1_TO_2, FROM_2_TO_3]).map_err(says)?,
        2 => change(&mut db, &[FROM_2_TO_3]).map_err(says)?,
        VERSION => {}
        other => {
            return Err(format!(
                "the file has version {other}, this program knows version {VERSION}: use the program that wrote it, \
                 or move the file away and let the status be built again from the log"
            ));
        }
    }
    for table in [claims::TABLE, devices::TABLE, lists::TABLES] {
        db.execute_batch(table).map_err(says)?;
    }
    Ok(db)
}

/// Sets whether each commit waits until the disk has it, so that it survives a power cut. Those that do not are taken back by one,
/// whole and in their order.
pub(super) fn set_waiting(db: &Connection, waits: bool) -> rusqlite::Result<()> {
    let synchronous = if waits { "FULL" } else { "NORMAL" };
    db.pragma_update(None, "synchronous", synchronous)
}

/// Changes the tables to those of [`VERSION`], all or nothing.
fn change(db: &mut Connection, steps: &[&str]) -> rusqlite::Result<()> {
    let change = db.transaction()?;
    for step in steps {
        change.execute_batch(step)?;
    }
    change.pragma_update(None, "user_version", VERSION)?;
    change.commit()
}

/// Opens the file for look-ups.
pub(super) fn open_to_read(path: &Path) -> rusqlite::Result<Connection> {
    let db = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI,
    )?;
    db.busy_timeout(LOCK_WAIT)?;
    db.pragma_update(None, "cache_size", -8_192)?;
    db.set_prepared_statement_cache_capacity(32);
    Ok(db)
}
