//! Look-ups: a few connections that only read, each stopped when its time is over.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use posthaste_event::{Status, Topic};
use rusqlite::{Connection, InterruptHandle, OptionalExtension as _, Row, ToSql, types::Type};
use serde::de::DeserializeOwned;
use tokio::{sync::Semaphore, time};

use crate::{
    Document, Fixed, InboxMessage, PAGE_DOCUMENTS_MAX, Page, Position, Query, StoreError,
    contract::PAGE_BYTES,
};

use super::{refusal, schema};

/// Connections for look-ups.
pub(super) struct Readers {
    path: PathBuf,
    idle: Arc<Mutex<Vec<Connection>>>,
    turns: Arc<Semaphore>,
    timeout: Duration,
}

impl Readers {
    pub fn new(path: PathBuf, count: u32, timeout: Duration) -> Self {
        Self {
            path,
            idle: Arc::default(),
            turns: Arc::new(Semaphore::new(count.max(1) as usize)),
            timeout,
        }
    }

    /// Runs `look` on a connection of its own, on a thread that may block.
    pub async fn read<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let limit = self.timeout.as_millis();
        let late = || StoreError::Unreachable(format!("no answer within {limit} ms"));
        let until = time::Instant::now() + self.timeout;
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

const COLUMNS: &str = "place, id, tenant, channel, created_at, correlation_id, priority, payload, metadata, ordering_key, \
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

pub(super) fn search(db: &Connection, query: &Query) -> rusqlite::Result<Page> {
    let mut sql = format!("SELECT {COLUMNS} FROM events WHERE 1");
    let mut values: Vec<Box<dyn ToSql>> = Vec::new();
    let mut also = |condition: &str, value: Box<dyn ToSql>| {
        sql.push_str(" AND ");
        sql.push_str(condition);
        values.push(value);
    };
    if let Some(tenant) = &query.tenant {
        also("tenant = ?", Box::new(tenant.clone()));
    }
    if let Some(status) = query.status {
        also("status = ?", Box::new(status.as_str()));
    }
    if let Some(channel) = query.channel {
        // The sign keeps SQLite from preferring an index that would have to be sorted by time.
        also("+channel = ?", Box::new(channel.as_str()));
    }
    if let Some(provider) = &query.provider {
        also("provider = ?", Box::new(provider.clone()));
    }
    if let Some(correlation) = &query.correlation_id {
        also("correlation_id = ?", Box::new(correlation.clone()));
    }
    if let Some(from) = query.created_from {
        also("created_at >= ?", Box::new(from));
    }
    if let Some(until) = query.created_until {
        also("created_at < ?", Box::new(until));
    }
    if let Some((created_at, id)) = &query.after {
        also("(created_at, id) < (?", Box::new(*created_at));
        sql.push_str(", ?)");
        values.push(Box::new(id.clone()));
    }
    let limit = query.limit.clamp(1, PAGE_DOCUMENTS_MAX) as usize;
    sql.push_str(" ORDER BY created_at DESC, id DESC LIMIT ?");
    // One more shows whether there is a next page.
    values.push(Box::new(limit as i64 + 1));

    let mut statement = db.prepare_cached(&sql)?;
    let mut rows = statement.query(rusqlite::params_from_iter(values))?;
    let (mut events, mut bytes, mut more) = (Vec::new(), 0, false);
    while let Some(row) = rows.next()? {
        if events.len() == limit || bytes >= PAGE_BYTES {
            more = true;
            break;
        }
        let mut document = document(row)?;
        bytes += row.get_ref("payload")?.as_bytes_or_null()?.map_or(0, <[u8]>::len)
            + row
                .get_ref("metadata")?
                .as_bytes_or_null()?
                .map_or(0, <[u8]>::len);
        add_notes(db, row.get(0)?, &mut document)?;
        events.push(document);
    }
    let next = events
        .last()
        .filter(|_| more)
        .map(|last| (last.fixed.created_at, last.id.clone()));
    Ok(Page { events, next })
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

fn document(row: &Row<'_>) -> rusqlite::Result<Document> {
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

fn add_notes(db: &Connection, place: i64, document: &mut Document) -> rusqlite::Result<()> {
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
