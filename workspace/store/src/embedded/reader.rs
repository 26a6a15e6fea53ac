//! Look-ups: a few connections that only read, each stopped when its time is over.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
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
    pub(super) timeout: Duration,
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

/// How far a look-up may go through events that are not meant before its page ends.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reach {
    pub(super) events_max: usize,
    pub(super) time: Duration,
}

impl Reach {
    /// What a look-up may do that has this long to answer.
    pub(super) fn within(timeout: Duration) -> Self {
        Self {
            events_max: 100_000,
            time: timeout / 4,
        }
    }

    fn is_passed(self, looked_at: usize, since: Instant) -> bool {
        // Asking for the time takes longer than passing an event.
        let asks = looked_at > 0 && looked_at.is_multiple_of(256);
        looked_at >= self.events_max.max(1) || (asks && since.elapsed() >= self.time)
    }
}

/// Goes through the events by the index that one of the conditions has, and looks up those that meet the others too. A condition that
/// few events meet and that has no index of its own would have it go through all there are, so a page may end before anything was
/// found.
pub(super) fn search(db: &Connection, query: &Query, reach: Reach) -> rusqlite::Result<Page> {
    let (sql, values) = selection(query);
    let limit = query.limit.clamp(1, PAGE_DOCUMENTS_MAX) as usize;
    let mut whole = db.prepare_cached(&format!("SELECT {COLUMNS} FROM events WHERE place = ?"))?;
    let mut statement = db.prepare_cached(&sql)?;
    let mut rows = statement.query(rusqlite::params_from_iter(values))?;
    let mut page = Page {
        events: Vec::new(),
        next: None,
    };
    let (since, mut looked_at, mut bytes, mut passed) = (Instant::now(), 0, 0, None);
    while let Some(row) = rows.next()? {
        let is_meant: bool = row.get(3)?;
        if reach.is_passed(looked_at, since)
            || (is_meant && (page.events.len() == limit || bytes >= PAGE_BYTES))
        {
            page.next = passed;
            break;
        }
        looked_at += 1;
        if is_meant {
            let place = row.get(0)?;
            let (document, size) = whole.query_row((place,), |row| Ok((document(row)?, weight(row)?)))?;
            bytes += size;
            page.events.push(document);
            if let Some(document) = page.events.last_mut() {
                add_notes(db, place, document)?;
            }
        }
        passed = Some((row.get(1)?, row.get(2)?));
    }
    Ok(page)
}

/// All events of the range in the order of a listing, each with whether it is meant. SQLite goes by the leading condition's index.
fn selection(query: &Query) -> (String, Vec<Box<dyn ToSql>>) {
    let mut equal: Vec<(&str, Box<dyn ToSql>)> = Vec::new();
    if let Some(correlation) = &query.correlation_id {
        equal.push(("correlation_id", Box::new(correlation.clone())));
    }
    if let Some(provider) = &query.provider {
        equal.push(("provider", Box::new(provider.clone())));
    }
    if let Some(status) = query.status {
        equal.push(("status", Box::new(status.as_str())));
    }
    if let Some(tenant) = &query.tenant {
        equal.push(("tenant", Box::new(tenant.clone())));
    }
    let leading = (!equal.is_empty()).then(|| equal.remove(0));
    if let Some(channel) = query.channel {
        equal.push(("channel", Box::new(channel.as_str())));
    }
    let mut sql = "SELECT place, created_at, id, 1".to_owned();
    let mut values: Vec<Box<dyn ToSql>> = Vec::new();
    for (column, value) in equal {
        // A provider may be missing, and an event of which nothing is known but notes has none.
        sql.extend([" AND ", column, " IS ?"]);
        values.push(value);
    }
    sql.push_str(" FROM events WHERE 1");
    let mut also = |condition: &str, value: Box<dyn ToSql>| {
        sql.push_str(" AND ");
        sql.push_str(condition);
        values.push(value);
    };
    if let Some((column, value)) = leading {
        also(&format!("{column} = ?"), value);
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
    sql.push_str(" ORDER BY created_at DESC, id DESC");
    (sql, values)
}

/// Bytes of what may be large in an event.
fn weight(row: &Row<'_>) -> rusqlite::Result<usize> {
    let mut bytes = 0;
    for column in ["payload", "metadata"] {
        bytes += row.get_ref(column)?.as_bytes_or_null()?.map_or(0, <[u8]>::len);
    }
    Ok(bytes)
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

#[cfg(test)]
mod tests {
    use posthaste_event::Channel;

    use super::*;

    fn insert(db: &Connection, number: i64, channel: &str, status: &str) {
        db.execute(
            "INSERT INTO events (id, tenant, channel, created_at, keep_from, keep_hour, status)
             VALUES (?1, 'default', ?2, ?3, 0, 0, ?4)",
            (format!("event-{number:03}"), channel, number / 3, status),
        )
        .unwrap();
    }

    /// What all pages have, and how many there were.
    fn walk(db: &Connection, mut query: Query, events_max: usize) -> (Vec<String>, usize) {
        let reach = Reach {
            events_max,
            time: Duration::MAX,
        };
        let (mut found, mut pages) = (Vec::new(), 0);
        loop {
            let page = search(db, &query, reach).unwrap();
            pages += 1;
            found.extend(page.events.into_iter().map(|event| event.id));
            match page.next {
                Some(next) => query.after = Some(next),
                None => return (found, pages),
            }
        }
    }

    #[test]
    fn what_is_rare_is_looked_for_in_several_pages_and_found_once() {
        let dir = tempfile::tempdir().unwrap();
        let db = schema::open(&dir.path().join("status.db"), schema::Durability::None).unwrap();
        for number in 0..100 {
            let is_rare = [2, 50, 51].contains(&number);
            let (channel, status) = if is_rare {
                ("push", "")
            } else {
                ("sms", Status::Sent.as_str())
            };
            insert(&db, number, channel, status);
        }
        let rare = Query {
            channel: Some(Channel::Push),
            limit: 50,
            ..Query::default()
        };
        let all_rare = ["event-051", "event-050", "event-002"].map(str::to_owned);
        assert_eq!(walk(&db, rare.clone(), 1_000), (all_rare.to_vec(), 1));
        for reach in [1, 2, 10, 99] {
            let (found, pages) = walk(&db, rare.clone(), reach);
            assert_eq!(found, all_rare, "{reach} at a time");
            assert!(pages > 1, "{pages}");
        }
        let both = Query {
            status: Some(Status::Sent),
            ..rare
        };
        assert_eq!(walk(&db, both, 40), (Vec::new(), 3));
    }

    #[test]
    fn one_condition_s_index_is_gone_by_and_the_order_comes_from_it() {
        let dir = tempfile::tempdir().unwrap();
        let db = schema::open(&dir.path().join("status.db"), schema::Durability::None).unwrap();
        let plan = |query: Query| -> String {
            let (sql, values) = selection(&query);
            let mut statement = db.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
            let steps = statement.query_map(rusqlite::params_from_iter(values), |row| {
                row.get::<_, String>("detail")
            });
            steps.unwrap().map(Result::unwrap).collect::<Vec<_>>().join("; ")
        };
        let all = Query {
            status: Some(Status::Sent),
            tenant: Some("acme".to_owned()),
            channel: Some(Channel::Push),
            created_from: Some(1),
            after: Some((2, "event".to_owned())),
            ..Query::default()
        };
        let of_channel = Query {
            channel: Some(Channel::Push),
            ..Query::default()
        };
        for (query, index) in [
            (Query::default(), "events_by_time"),
            (of_channel, "events_by_time"),
            (all.clone(), "events_by_status"),
            (
                Query {
                    provider: Some("twilio".to_owned()),
                    ..all.clone()
                },
                "events_by_provider",
            ),
            (
                Query {
                    correlation_id: Some("order-7".to_owned()),
                    ..all.clone()
                },
                "events_by_correlation",
            ),
            (Query { status: None, ..all }, "events_by_tenant"),
        ] {
            let plan = plan(query);
            let used = plan.split([' ', ';']).find(|word| word.starts_with("events_by"));
            assert_eq!(used, Some(index), "{plan}");
            assert!(!plan.contains("FOR ORDER BY"), "{index}: {plan}");
        }
    }
}
