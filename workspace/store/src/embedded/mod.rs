//! The status store in one SQLite file, beside the embedded log's.
//!
//! It has a file of its own so that status writes never wait for, nor delay, intake's fsync. One thread writes; what waits
//! together is committed together. The projector's positions are kept in the transaction of the documents they belong to.

mod claims;
mod counts;
mod devices;
mod lists;
mod reader;
mod row;
mod schema;
mod search;
mod statements;
mod writer;

use std::{collections::BTreeMap, path::Path, sync::Arc};

use async_trait::async_trait;
use posthaste_event::{Millis, Status};
use rusqlite::ErrorCode;

use crate::{
    Changes, Document, InboxMessage, Page, Position, Query, Settings, Store, StoreError, Tallies,
    condition::Condition,
};
use reader::Readers;
use schema::Durability;
use search::Reach;
use writer::{Job, Writer};

/// The file's name in the data folder.
pub const FILE: &str = "status.db";

/// The store in one SQLite file. Dropping it finishes what was asked and closes the file.
pub struct EmbeddedStore {
    readers: Readers,
    writer: Writer,
    condition: Arc<Condition>,
}

impl EmbeddedStore {
    /// Opens the file in `dir`, or makes it. Blocks for as long as the file system needs.
    ///
    /// # Errors
    /// [`StoreError::Refused`] when the file cannot be used: not a database, of a newer version, or not writable.
    pub fn open(dir: &Path, settings: &Settings) -> Result<Self, StoreError> {
        Self::open_with(dir, settings, Durability::PowerCut)
    }

    /// An empty store in `dir`, for a while: what an earlier one left there is deleted, and nothing waits for the disk, so that
    /// it does not outlive its process. Blocks like [`EmbeddedStore::open`].
    ///
    /// # Errors
    /// [`StoreError::Refused`] when the file cannot be made.
    pub fn scratch(dir: &Path, settings: &Settings) -> Result<Self, StoreError> {
        for suffix in ["", "-wal", "-shm"] {
            let path = dir.join(format!("{FILE}{suffix}"));
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(StoreError::Refused(named(&path, &error.to_string())));
                }
                _ => {}
            }
        }
        Self::open_with(dir, settings, Durability::None)
    }

    fn open_with(dir: &Path, settings: &Settings, durability: Durability) -> Result<Self, StoreError> {
        let path = dir.join(FILE);
        let connection =
            schema::open(&path, durability).map_err(|reason| StoreError::Refused(named(&path, &reason)))?;
        let condition = Arc::new(Condition::well(format!("at {}", path.display())));
        let writer = Writer::start(
            path.clone(),
            durability,
            connection,
            settings.write_timeout(),
            condition.clone(),
        )
        .map_err(|reason| StoreError::Refused(named(&path, &reason.to_string())))?;
        let readers = Readers::new(path, settings);
        Ok(Self {
            readers,
            writer,
            condition,
        })
    }
}

#[async_trait]
impl Tallies for EmbeddedStore {
    async fn tally(&self, tenant: &str, correlation_id: &str) -> Result<BTreeMap<Status, u64>, StoreError> {
        let (tenant, correlation_id) = (tenant.to_owned(), correlation_id.to_owned());
        self.readers
            .count(move |db| reader::tally(db, &tenant, &correlation_id))
            .await
    }
}

#[async_trait]
impl Store for EmbeddedStore {
    async fn apply(&self, changes: Changes, progress: &[Position]) -> Result<(), StoreError> {
        if changes.is_empty() && progress.is_empty() {
            return Ok(());
        }
        let mut start = 0_usize;
        loop {
            let end = start.saturating_add(writer::APPLIED_MAX).min(changes.len());
            let is_last = end == changes.len();
            let job = Job::Apply {
                changes: changes.part(&(start..end)),
                progress: if is_last { progress.to_vec() } else { Vec::new() },
                in_log: !progress.is_empty(),
            };
            self.writer.run(job).await?;
            if is_last {
                return Ok(());
            }
            start = end;
        }
    }

    async fn progress(&self) -> Result<Option<Vec<Position>>, StoreError> {
        self.readers.read(reader::progress).await.map(Some)
    }

    async fn event(&self, id: &str) -> Result<Option<Document>, StoreError> {
        let id = id.to_owned();
        self.readers.read(move |db| reader::event(db, &id)).await
    }

    async fn events(&self, ids: &[String]) -> Result<Vec<(String, Option<Document>)>, StoreError> {
        let ids = ids.to_vec();
        self.readers.read(move |db| reader::events(db, ids)).await
    }

    async fn replace(&self, seen: Option<&Document>, truth: &Document) -> Result<bool, StoreError> {
        let job = Job::Replace {
            id: truth.id.clone(),
            seen: seen.cloned().map(Box::new),
            truth: Box::new(truth.clone().into()),
        };
        self.writer.run(job).await.map(|replaced| replaced > 0)
    }

    async fn search(&self, query: &Query) -> Result<Page, StoreError> {
        let (query, reach) = (query.clone(), Reach::within(self.readers.timeout));
        self.readers
            .read(move |db| search::search(db, &query, reach))
            .await
    }

    async fn counts(&self, tenant: Option<&str>) -> Result<BTreeMap<Status, u64>, StoreError> {
        let tenant = tenant.map(ToOwned::to_owned);
        self.readers
            .count(move |db| reader::counts(db, tenant.as_deref()))
            .await
    }

    async fn put_inbox(&self, message: &InboxMessage) -> Result<(), StoreError> {
        self.writer.run(Job::Inbox(message.clone())).await.map(drop)
    }

    async fn inbox(
        &self,
        tenant: &str,
        recipient: &str,
        limit: u32,
    ) -> Result<Vec<InboxMessage>, StoreError> {
        let (tenant, recipient) = (tenant.to_owned(), recipient.to_owned());
        self.readers
            .read(move |db| reader::inbox(db, &tenant, &recipient, limit))
            .await
    }

    async fn forget(&self, before: Millis, records_max: u32) -> Result<u64, StoreError> {
        self.writer.run(Job::Forget { before, records_max }).await
    }

    fn health(&self) -> Result<(), String> {
        self.condition.health()
    }
}

fn named(path: &Path, reason: &str) -> String {
    format!("{}: {reason}", path.display())
}

/// What the data itself can never get past is refused; all else (a full disk, a file taken away) can mend.
fn refusal(error: &rusqlite::Error) -> StoreError {
    match error.sqlite_error_code() {
        Some(ErrorCode::TooBig | ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch) => {
            StoreError::Refused(error.to_string())
        }
        _ if matches!(error, rusqlite::Error::ToSqlConversionFailure(_)) => {
            StoreError::Refused(error.to_string())
        }
        _ => StoreError::Unreachable(error.to_string()),
    }
}

fn unwritable(error: &serde_json::Error) -> StoreError {
    StoreError::Refused(format!("not writable as JSON: {error}"))
}
