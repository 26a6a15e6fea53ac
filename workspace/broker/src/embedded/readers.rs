//! Connections that read the log beside the writer. None of them can make it wait.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use posthaste_reconnect::Reconnect;
use rusqlite::Connection;

use super::{condition::Condition, file, log, mailbox::Mailbox};
use crate::Partition;

/// Most records, and about most bytes, that are read in one go.
const RECORDS_MAX: u32 = 1_024;
const BYTES_MAX: usize = 1 << 20;
/// Connections kept open for the next reader.
const IDLE_MAX: usize = 4;

/// A part of a partition to read from the file.
#[derive(Debug)]
pub(super) struct Gap {
    pub(super) partition: Partition,
    pub(super) id: i64,
    pub(super) epoch: u64,
    pub(super) from: i64,
    pub(super) until: i64,
    /// Not a part, but these offsets: records that were given back.
    pub(super) again: Vec<i64>,
    /// About so many bytes of it at most.
    pub(super) bytes_max: usize,
}

/// Opens connections and keeps a few.
#[derive(Debug)]
pub(super) struct Readers {
    file: PathBuf,
    idle: Mutex<Vec<Connection>>,
    waits: Mutex<Reconnect>,
    condition: Condition,
}

impl Readers {
    pub(super) fn new(file: PathBuf) -> Self {
        Self {
            file,
            idle: Mutex::default(),
            waits: Mutex::default(),
            condition: Condition::new("reading the log"),
        }
    }

    /// Whether reading works.
    pub(super) const fn condition(&self) -> &Condition {
        &self.condition
    }

    /// Reads; blocks, so not on a thread that serves tasks.
    pub(super) fn with<T>(
        &self,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<T> {
        let kept = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let connection = match kept {
            Some(connection) => connection,
            None => file::open_reader(&self.file)?,
        };
        // A connection that failed is not kept.
        let result = read(&connection)?;
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_MAX {
            idle.push(connection);
        }
        Ok(result)
    }

    /// Reads a part of a partition into a mailbox, in the background. When that fails, the mailbox may ask again after a
    /// wait.
    pub(super) fn fill(self: &Arc<Self>, mailbox: &Arc<Mailbox>, gap: Gap) {
        let (readers, mailbox) = (Arc::clone(self), Arc::clone(mailbox));
        tokio::task::spawn_blocking(move || {
            let read = readers.with(|connection| {
                if !gap.again.is_empty() {
                    let records = log::read_each(connection, (gap.partition, gap.id), &gap.again)?;
                    return Ok((records, true));
                }
                log::read(
                    connection,
                    (gap.partition, gap.id),
                    (gap.from, gap.until),
                    RECORDS_MAX,
                    BYTES_MAX.min(gap.bytes_max),
                )
            });
            match read {
                Ok((records, is_all)) => {
                    readers.condition.is_well();
                    mailbox.deposit(gap, Some(records), is_all);
                }
                Err(error) => {
                    readers.condition.fails(&error);
                    std::thread::sleep(readers.next_wait());
                    mailbox.deposit(gap, None, false);
                }
            }
        });
    }

    fn next_wait(&self) -> Duration {
        let mut waits = self.waits.lock().unwrap_or_else(PoisonError::into_inner);
        if self.condition.is_first_failure() {
            waits.reset();
        }
        waits.next_wait()
    }

    /// Closes what is idle.
    pub(super) fn close(&self) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}
