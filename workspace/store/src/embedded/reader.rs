//! Look-ups: a few connections that only read, each stopped when its time is over.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use posthaste_event::{Status, Topic};
use rusqlite::{Connection, InterruptHandle, OptionalExtension as _, Row, types::Type};
use serde::de::DeserializeOwned;
use tokio::{sync::Semaphore, time};

use crate::{Document, Fixed, InboxMessage, PAGE_DOCUMENTS_MAX, Position, Settings, StoreError};

use super::{refusal, schema};

/// Connections for look-ups.
pub(super) struct Readers {
    path: PathBuf,
    idle: Arc<Mutex<Vec<Connection>>>,
    turns: Arc<Semaphore>,
    pub(super) timeout: Duration,
    count_timeout: Duration,
}

impl Readers {
    pub fn new(path: PathBuf, settings: &Settings) -> Self {
        Self {
            path,
            idle: Arc::default(),
            turns: Arc::new(Semaphore::new(settings.embedded.readers.max(1) as usize)),
            timeout: settings.read_timeout(),
            count_timeout: settings.count_timeout(),
        }
    }

    /// Runs `look` on a connection of its own, on a thread that may block.
    pub async fn read<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.within(self.timeout, look).await
    }

    /// The same for what looks at all events there are.
    pub async fn count<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.within(self.count_timeout, look).await
    }

    async fn within<T: Send + 'static>(
        &self,
        limit: Duration,
        look: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let late = || StoreError::Unreachable(format!("no answer within {} ms", limit.as_millis()));
        let until = time::Instant::now() + limit;
        let turn = time::timeout_at(until, self.turns.clone().acquire_owned())
            .await
            .map_err(|_| late())?
            .map_err(|closed| StoreError::Unreachable(closed.to_string()))?;
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let db = match idle {
            Some(db) => db,
            None => schema::open_to_read(&self.path).map_err(|error| refusal(&error))?,
        };
        let mut stop = StopOnDrop(Some(db.get_interrupt_handle()));
        let pool = Arc::clone(&self.idle);
        let task = tokio::task::spawn_blocking(move || {
            let found = look(&db);
            // A connection that failed is not kept: the file may have been replaced.
            if found.is_ok() {
                pool.lock().unwrap_or_else(PoisonError::into_inner).push(db);
            }
            drop(turn);
            found
        });
        let found = time::timeout_at(until, task).await.map_err(|_| late())?;
        stop.0 = None;
        found
            .map_err(|error| StoreError::Unreachable(error.to_string()))?
            .map_err(|error| refusal(&error))
    }
}

/// Stops a look-up that nobody waits for any more.
struct StopOnDrop(Option<InterruptHandle>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        if let Some(handle) = &self.0 {
            handle.interrupt();
        }
    }
}

pub(super) const COLUMNS: &str = "place, id, tenant, channel, created_at, correlation_id, priority, payload, metadata, ordering_key, \
                       scheduled_at, expires_at, replay_of, state, policy, timeline";

pub(super) fn event(db: &Connection, id: &str) -> rusqlite::Result<Option<Document>> {
    let found = db
        .prepare_cached(&format!("SELECT {COLUMNS} FROM events WHERE id = ?"))?
        .query_row((id,), |row| Ok((row.get::<_, i64>(0)?, document(row)?)))
        .optional()?;
    let Some((place, mut document)) = found else {
        return Ok(None);
    };
    add_notes(db, place, &mut document)?;
    Ok(Some(document))
}

pub(super) fn events(db: &Connection, ids: Vec<String>) -> rusqlite::Result<Vec<(String, Option<Document>)>> {
    let mut found = Vec::with_capacity(ids.len());
    for id in ids {
        match event(db, &id) {
            Ok(Some(document)) => found.push((id, Some(document))),
            Ok(None) => {}
            Err(error) if is_unreadable(&error) => found.push((id, None)),
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// Whether the file is well and what stands in it is not a document: somebody changed it by hand.
pub(super) const fn is_unreadable(error: &rusqlite::Error) -> bool {
    matches!(
        error,
        rusqlite::Error::FromSqlConversionFailure(..)
            | rusqlite::Error::InvalidColumnType(..)
            | rusqlite::Error::IntegralValueOutOfRange(..)
            | rusqlite::Error::Utf8Error(..)
    )
}

pub(super) fn counts(db: &Connection, tenant: Option<&str>) -> rusqlite::Result<BTreeMap<Status, u64>> {
    let each = |row: &Row<'_>| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?));
    let counted: Vec<(String, i64)> = match tenant {
        None => db
            .prepare_cached("SELECT status, sum(events) FROM counts GROUP BY status")?
            .query_map((), each)?
            .collect::<Result<_, _>>()?,
        Some(tenant) => db
            .prepare_cached("SELECT status, events FROM counts WHERE tenant = ?")?
            .query_map((tenant,), each)?
            .collect::<Result<_, _>>()?,
    };
    Ok(by_status(counted))
}

pub(super) fn tally(
    db: &Connection,
    tenant: &str,
    correlation_id: &str,
) -> rusqlite::Result<BTreeMap<Status, u64>> {
    // The sign keeps SQLite from going through all of the tenant's events instead.
    let counted: rusqlite::Result<Vec<(String, i64)>> = db
        .prepare_cached(
            "SELECT status, count(*) FROM events WHERE correlation_id = ? AND +tenant = ? GROUP BY +status",
        )?
        .query_map((correlation_id, tenant), |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect();
    Ok(by_status(counted?))
}

/// An event of which only notes are known has no status yet.
fn by_status(counted: Vec<(String, i64)>) -> BTreeMap<Status, u64> {
    counted
        .into_iter()
        .filter(|(_, count)| *count > 0)
        .filter_map(|(status, count)| Some((status.parse().ok()?, u64::try_from(count).ok()?)))
        .collect()
}

pub(super) fn inbox(
    db: &Connection,
    tenant: &str,
    recipient: &str,
    limit: u32,
) -> rusqlite::Result<Vec<InboxMessage>> {
    db.prepare_cached(
        "SELECT id, tenant, recipient, title, body, data, at FROM inbox
         WHERE tenant = ? AND recipient = ? ORDER BY at DESC, id DESC LIMIT ?",
    )?
    .query_map((tenant, recipient, limit.clamp(1, PAGE_DOCUMENTS_MAX)), |row| {
        Ok(InboxMessage {
            id: row.get(0)?,
            tenant: row.get(1)?,
            recipient: row.get(2)?,
            title: row.get(3)?,
            body: row.get(4)?,
            data: json(row, 5)?,
            at: row.get(6)?,
        })
    })?
    .collect()
}

pub(super) fn progress(db: &Connection) -> rusqlite::Result<Vec<Position>> {
    db.prepare_cached("SELECT topic, partition, next FROM progress")?
        .query_map((), |row| {
            let topic: String = row.get(0)?;
            let topic: Topic = topic.parse().map_err(|error| unreadable(0, error))?;
            Ok(Position {
                topic,
                partition: row.get(1)?,
                offset: row.get(2)?,
            })
        })?
        .collect()
}

pub(super) fn document(row: &Row<'_>) -> rusqlite::Result<Document> {
    Ok(Document {
        id: row.get(1)?,
        fixed: Fixed {
            tenant: row.get(2)?,
            channel: row
                .get_ref(3)?
                .as_str()?
                .parse()
                .map_err(|error| unreadable(3, error))?,
            created_at: row.get(4)?,
            correlation_id: row.get(5)?,
            priority: (row.get_ref(6)?.as_str_or_null()?)
                .map(|name| name.parse().map_err(|error| unreadable(6, error)))
                .transpose()?,
            payload: json(row, 7)?,
            metadata: json(row, 8)?,
            ordering_key: row.get(9)?,
            scheduled_at: row.get(10)?,
            expires_at: row.get(11)?,
            replay_of: row.get(12)?,
            policy: (row.get_ref(14)?.as_str_or_null()?)
                .map(|name| name.parse().map_err(|error| unreadable(14, error)))
                .transpose()?,
        },
        state: json(row, 13)?,
        receipt: None,
        timeline: json(row, 15)?.unwrap_or_default(),
        notes: BTreeMap::new(),
    })
}

pub(super) fn add_notes(db: &Connection, place: i64, document: &mut Document) -> rusqlite::Result<()> {
    let mut notes = db.prepare_cached("SELECT id, note FROM notes WHERE place = ?")?;
    let mut rows = notes.query((place,))?;
    while let Some(row) = rows.next()? {
        if let Some(note) = json(row, 1)? {
            document.notes.insert(row.get(0)?, note);
        }
    }
    Ok(())
}

fn json<T: DeserializeOwned>(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<T>> {
    let text = row.get_ref(column)?.as_str_or_null()?;
    text.map(|text| serde_json::from_str(text).map_err(|error| unreadable(column, error)))
        .transpose()
}

fn unreadable(column: usize, error: impl std::error::Error + Send + Sync + 'static) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(error))
}
