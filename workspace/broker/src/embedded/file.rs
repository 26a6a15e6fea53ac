//! The log file: opening, locking, and its tables.
//!
//! `log.db` holds everything: records, where each group stands, and how many partitions each topic has. One process at a
//! time may use it, which an OS lock on `log.lock` ensures: offsets, epochs and group members live in that process.
//!
//! Each partition has a table of its own for its records, with the offset as its integer key: reading is a range scan, and what is
//! appended goes to the end of a B-tree, whose pages are filled one after the other and not touched again. A record's place,
//! `partition id << 40 | offset`, names it where partitions share a table.

use std::{
    fs::{File, OpenOptions, TryLockError},
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};

use crate::BrokerError;

/// Tells the file from other SQLite files: "PHlg".
const APPLICATION_ID: i32 = 0x5048_6c67;
/// Version of the tables. The first had the records of all partitions in one table, by their places.
const VERSION: i32 = 2;
/// Bits of a place that hold the offset: a trillion records per partition.
const OFFSET_BITS: u32 = 40;
/// Bits of a partition's id that hold its number.
const NUMBER_BITS: u32 = 10;

/// Statements that a connection keeps prepared: one for each partition that is busy, and some more.
const STATEMENTS_KEPT: usize = 256;

/// Pages that a connection which writes keeps. What is appended goes to the ends of the tables: of each only the last pages are
/// touched again, and what was read is in the kernel's cache too.
const CACHE_KIB: i64 = 4_096;

const TABLES: &str = "
CREATE TABLE topic (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    partitions INTEGER NOT NULL
) STRICT;
CREATE TABLE partition (
    id INTEGER PRIMARY KEY,
    next_offset INTEGER NOT NULL,
    appended_at INTEGER NOT NULL
) STRICT;
-- Compacted topics only: where the latest record of each key stands.
CREATE TABLE latest (
    partition INTEGER NOT NULL,
    key BLOB NOT NULL,
    place INTEGER NOT NULL,
    PRIMARY KEY (partition, key)
) STRICT, WITHOUT ROWID;
CREATE TABLE tombstone (
    place INTEGER PRIMARY KEY,
    until INTEGER NOT NULL
) STRICT;
CREATE TABLE position (
    member_group TEXT NOT NULL,
    partition INTEGER NOT NULL,
    committed INTEGER NOT NULL,
    metadata TEXT NOT NULL,
    PRIMARY KEY (member_group, partition)
) STRICT, WITHOUT ROWID;
";

/// Id of a partition of the topic with this id.
pub(super) const fn partition_id(topic_id: i64, number: u32) -> i64 {
    topic_id << NUMBER_BITS | number as i64
}

/// The partition in a place.
pub(super) const fn partition_of(place: i64) -> i64 {
    place >> OFFSET_BITS
}

/// The name of the table with a partition's records.
pub(super) fn table(partition_id: i64) -> String {
    format!("record_{partition_id}")
}

/// Makes the table for a partition's records, unless it is there.
pub(super) fn make_table(connection: &Connection, partition_id: i64) -> rusqlite::Result<()> {
    connection.execute_batch(&format!(
        "CREATE TABLE IF NOT EXISTS {} (
             offset INTEGER PRIMARY KEY,
             appended_at INTEGER NOT NULL,
             key BLOB NOT NULL,
             value BLOB
         ) STRICT",
        table(partition_id)
    ))
}

/// The place of a record.
pub(super) const fn place(partition_id: i64, offset: i64) -> i64 {
    partition_id << OFFSET_BITS | offset
}

/// The offset in a place.
pub(super) const fn offset_of(place: i64) -> i64 {
    place & ((1 << OFFSET_BITS) - 1)
}

/// A data folder that this process alone may use, for as long as this lives.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    lock: File,
}

impl Drop for Folder {
    /// Closing the file would not be enough: a child process has a copy of it from its fork to its exec, and the lock lives as long
    /// as any copy (flock(2)).
    fn drop(&mut self) {
        if let Err(error) = self.lock.unlock() {
            tracing::debug!(%error, "the data folder is unlocked when its lock is closed");
        }
    }
}

impl Folder {
    /// Makes the folder if needed and locks it.
    pub(super) fn lock(path: &Path) -> Result<Self, BrokerError> {
        let refused = |error: std::io::Error| {
            BrokerError::Storage(format!("cannot use the data folder {}: {error}", path.display()))
        };
        std::fs::create_dir_all(path).map_err(refused)?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path.join("log.lock"))
            .map_err(refused)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self {
                path: path.to_owned(),
                lock,
            }),
            Err(TryLockError::WouldBlock) => Err(BrokerError::Storage(format!(
                "the data folder {} is in use by another process; stop that one or choose another folder",
                path.display()
            ))),
            Err(TryLockError::Error(error)) => Err(refused(error)),
        }
    }

    /// The log file.
    pub(super) fn file(&self) -> PathBuf {
        self.path.join("log.db")
    }

    /// Opens the log for writing, and makes its tables when it is new.
    pub(super) fn open(&self) -> Result<Connection, BrokerError> {
        let file = self.file();
        let refused = |error: rusqlite::Error| {
            BrokerError::Storage(format!("cannot use the log file {}: {error}", file.display()))
        };
        let connection = Connection::open(&file).map_err(refused)?;
        configure(&connection).map_err(refused)?;
        // Nobody else writes; what it may meet is a reader, when it merges the write-ahead log itself. That can wait.
        connection
            .busy_timeout(Duration::from_millis(200))
            .map_err(refused)?;
        // Merging is done by a thread of its own, so that no append waits for it.
        connection
            .pragma_update(None, "wal_autocheckpoint", 0)
            .map_err(refused)?;
        let id: i32 = connection
            .pragma_query_value(None, "application_id", |row| row.get(0))
            .map_err(refused)?;
        let version: i32 = connection
            .pragma_query_value(None, "user_version", |row| row.get(0))
            .map_err(refused)?;
        let tables: i64 = connection
            .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
            .map_err(refused)?;
        match (id, version) {
            (APPLICATION_ID, VERSION) => {}
            (APPLICATION_ID, 1) => from_1_to_2(&connection).map_err(refused)?,
            (0, 0) if tables == 0 => {
                let create = format!(
                    "BEGIN IMMEDIATE; {TABLES} PRAGMA application_id = {APPLICATION_ID}; \
                     PRAGMA user_version = {VERSION}; COMMIT;"
                );
                connection.execute_batch(&create).map_err(refused)?;
            }
            (APPLICATION_ID, version) => {
                return Err(BrokerError::Storage(format!(
                    "the log file {} has version {version}; this program reads version {VERSION}",
                    file.display()
                )));
            }
            _ => {
                return Err(BrokerError::Storage(format!(
                    "the file {} is not a log of this program; choose another data folder",
                    file.display()
                )));
            }
        }
        Ok(connection)
    }
}

/// Gives each partition's records a table of their own. Whatever ends it, what was moved has been moved: it goes on where it was.
fn from_1_to_2(connection: &Connection) -> rusqlite::Result<()> {
    tracing::info!(
        "the log file has the form of an earlier version; its records are moved to tables of their own"
    );
    let partitions: Vec<i64> = connection
        .prepare("SELECT id FROM partition")?
        .query_map([], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    for id in partitions {
        let change = Transaction::new_unchecked(connection, TransactionBehavior::Immediate)?;
        make_table(&change, id)?;
        let places = [place(id, 0), place(id + 1, 0)];
        change.execute(
            &format!(
                "INSERT INTO {} SELECT place - ?1, appended_at, key, value FROM record WHERE place >= ?1 AND place < ?2",
                table(id)
            ),
            places,
        )?;
        change.execute("DELETE FROM record WHERE place >= ?1 AND place < ?2", places)?;
        change.commit()?;
        // Else the write-ahead log would come to hold everything once more.
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    }
    connection.execute_batch(&format!(
        "BEGIN IMMEDIATE; DROP TABLE record; PRAGMA user_version = {VERSION}; COMMIT;"
    ))
}

/// Opens the log once more, for reading beside the writer.
pub(super) fn open_reader(file: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(file, flags)?;
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_KEPT);
    Ok(connection)
}

/// Opens the log once more, for merging the write-ahead log into it.
pub(super) fn open_merger(file: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(file)?;
    configure(&connection)?;
    Ok(connection)
}

fn configure(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // FULL syncs the write-ahead log at each commit: what was acknowledged survives a power cut.
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_KEPT);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_used_by_one_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let first = Folder::lock(dir.path()).unwrap();
        let error = Folder::lock(dir.path()).unwrap_err().to_string();
        assert!(error.contains(&dir.path().display().to_string()), "{error}");
        assert!(error.contains("in use by another process"), "{error}");
        // As a process that is being started has one.
        let copy = first.lock.try_clone().unwrap();
        drop(first);
        Folder::lock(dir.path()).unwrap();
        drop(copy);
    }

    #[test]
    fn a_file_of_somebody_else_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::lock(dir.path()).unwrap();
        Connection::open(folder.file())
            .unwrap()
            .execute_batch("CREATE TABLE theirs (x)")
            .unwrap();
        let error = folder.open().unwrap_err().to_string();
        assert!(error.contains("is not a log of this program"), "{error}");
        std::fs::write(folder.file(), vec![b'x'; 8_192]).unwrap();
        assert!(folder.open().unwrap_err().to_string().contains("log.db"));
    }

    #[test]
    fn places_keep_partitions_apart() {
        assert_eq!(offset_of(place(partition_id(23, 1_023), 77)), 77);
        assert!(place(partition_id(1, 0), (1 << OFFSET_BITS) - 1) < place(partition_id(1, 1), 0));
        assert!(partition_id(1, 1_023) < partition_id(2, 0));
    }
}
