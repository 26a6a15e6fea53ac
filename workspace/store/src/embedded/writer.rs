//! The one thread that writes. Jobs that wait together go into one transaction, so that many callers share an fsync.

use std::{path::PathBuf, sync::Arc, thread, time::Duration};

use posthaste_event::Millis;
use rusqlite::{Connection, named_params};
use tokio::sync::{mpsc, oneshot};

use crate::{Document, InboxMessage, Position, StoreError, condition::Condition};

use super::{
    claims::Step,
    counts::Counts,
    devices, lists, reader, refusal,
    row::{EventRow, HOUR_MS},
    schema::{self, Durability},
    statements::Statements,
    unwritable,
};

/// Jobs that may wait; whoever comes then waits for room, within the time limit.
const JOBS_WAITING_MAX: usize = 256;

/// Events in one transaction, about: small enough that nobody waits long for the one before.
const TRANSACTION_EVENTS: usize = 4_000;

/// Something to write.
pub(super) enum Job {
    /// Changes of events, and how far the projector has come with them.
    Apply {
        events: Vec<EventRow>,
        progress: Vec<Position>,
    },
    /// A document to put right, if it still is what was seen.
    Replace {
        id: String,
        seen: Option<Box<Document>>,
        truth: Box<EventRow>,
    },
    /// A message for an inbox.
    Inbox(InboxMessage),
    /// Old events and messages to forget.
    Forget { before: Millis, records_max: u32 },
    /// Something with idempotency keys.
    Claims(Step),
    /// Something with devices.
    Devices(devices::Step),
    /// Something with lists of recipients.
    Lists(lists::Step),
}

impl Job {
    const fn size(&self) -> usize {
        match self {
            Self::Apply { events, .. } => events.len(),
            Self::Replace { .. } | Self::Inbox(_) | Self::Devices(_) => 1,
            Self::Forget { records_max, .. } => *records_max as usize,
            Self::Claims(step) => step.size(),
            // A page is as large as that many small events.
            Self::Lists(_) => 100,
        }
    }
}

type Answer = Result<u64, StoreError>;
type Request = (Job, oneshot::Sender<Answer>);

/// The way to the writing thread.
pub(super) struct Writer {
    jobs: Option<mpsc::Sender<Request>>,
    thread: Option<thread::JoinHandle<()>>,
    timeout: Duration,
}

impl Writer {
    pub fn start(
        path: PathBuf,
        durability: Durability,
        db: Connection,
        timeout: Duration,
        condition: Arc<Condition>,
    ) -> std::io::Result<Self> {
        let (jobs, requests) = mpsc::channel(JOBS_WAITING_MAX);
        let thread = thread::Builder::new()
            .name("status-writer".into())
            .spawn(move || write_all((&path, durability), db, requests, &condition))?;
        Ok(Self {
            jobs: Some(jobs),
            thread: Some(thread),
            timeout,
        })
    }

    /// Does the job, durably. A job that is given up on may still be done.
    pub async fn run(&self, job: Job) -> Answer {
        let closed = || StoreError::Unreachable("the writer has stopped".into());
        let jobs = self.jobs.as_ref().ok_or_else(closed)?;
        let (reply, answer) = oneshot::channel();
        let work = async {
            jobs.send((job, reply)).await.map_err(|_| closed())?;
            answer.await.map_err(|_| closed())?
        };
        tokio::time::timeout(self.timeout, work)
            .await
            .unwrap_or_else(|_| {
                let limit = self.timeout.as_millis();
                Err(StoreError::Unreachable(format!("not written within {limit} ms")))
            })
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // What was queued is written; a panic over there was reported when it happened.
            let _ended = thread.join();
        }
    }
}

/// The file, and how it is opened again when that becomes necessary.
type File<'p> = (&'p std::path::Path, Durability);

fn write_all(file: File<'_>, db: Connection, mut requests: mpsc::Receiver<Request>, condition: &Condition) {
    let mut db = Some(db);
    while let Some(first) = requests.blocking_recv() {
        let mut size = first.0.size();
        let mut batch = vec![first];
        while size < TRANSACTION_EVENTS {
            let Ok(next) = requests.try_recv() else { break };
            size += next.0.size();
            batch.push(next);
        }
        let together = transact(&mut db, file, batch.iter().map(|(job, _)| job));
        match together {
            Ok(counts) => {
                condition.answered();
                for ((_, reply), count) in batch.into_iter().zip(counts) {
                    let _nobody_waits = reply.send(Ok(count));
                }
            }
            // Which job it was shows when each is tried alone; the others are done.
            Err(_) => {
                for (job, reply) in batch {
                    let answer = transact(&mut db, file, [&job].into_iter())
                        .map(|counts| counts.first().copied().unwrap_or_default());
                    match &answer {
                        Err(StoreError::Unreachable(reason)) => condition.failed(reason),
                        Ok(_) | Err(StoreError::Refused(_)) => condition.answered(),
                    }
                    let _nobody_waits = reply.send(answer);
                }
            }
        }
    }
}

fn transact<'j>(
    db: &mut Option<Connection>,
    (path, durability): File<'_>,
    jobs: impl Iterator<Item = &'j Job>,
) -> Result<Vec<u64>, StoreError> {
    let mut open = match db.take() {
        Some(open) => open,
        None => schema::open(path, durability).map_err(StoreError::Unreachable)?,
    };
    let done = jobs_in_one(&mut open, jobs);
    // After a failure of the file the connection is made anew: the file may have been replaced.
    if !matches!(done, Err(StoreError::Unreachable(_))) {
        *db = Some(open);
    }
    done
}

fn jobs_in_one<'j>(db: &mut Connection, jobs: impl Iterator<Item = &'j Job>) -> Result<Vec<u64>, StoreError> {
    let change = db
        .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)
        .map_err(|error| refusal(&error))?;
    let counts = jobs.map(|job| one(&change, job)).collect::<Result<_, _>>()?;
    change.commit().map_err(|error| refusal(&error))?;
    Ok(counts)
}

fn one(db: &Connection, job: &Job) -> Answer {
    match job {
        Job::Apply { events, progress } => {
            apply(db, events, progress).map_err(|error| refusal(&error))?;
            Ok(events.len() as u64)
        }
        Job::Replace { id, seen, truth } => {
            replace(db, id, seen.as_deref(), truth).map_err(|error| refusal(&error))
        }
        Job::Inbox(message) => {
            let data = message.data.as_ref().map(serde_json::to_string).transpose();
            let data = data.map_err(|error| unwritable(&error))?;
            put(db, message, data).map_err(|error| refusal(&error))
        }
        Job::Forget { before, records_max } => {
            forget(db, *before, *records_max).map_err(|error| refusal(&error))
        }
        Job::Claims(step) => step.run(db).map_err(|error| refusal(&error)),
        Job::Devices(step) => step.run(db).map_err(|error| refusal(&error)),
        Job::Lists(step) => step.run(db).map_err(|error| refusal(&error)),
    }
}

fn apply(db: &Connection, events: &[EventRow], progress: &[Position]) -> rusqlite::Result<()> {
    let mut statements = Statements::prepare(db)?;
    for event in events {
        statements.write(event)?;
    }
    statements.count()?;
    let mut keep =
        db.prepare_cached("INSERT OR REPLACE INTO progress (topic, partition, next) VALUES (?, ?, ?)")?;
    for position in progress {
        keep.execute((position.topic.suffix(), position.partition, position.offset))?;
    }
    Ok(())
}

fn replace(db: &Connection, id: &str, seen: Option<&Document>, truth: &EventRow) -> rusqlite::Result<u64> {
    let is_seen = match reader::event(db, id) {
        Ok(found) => found.is_some() && found.as_ref() == seen,
        Err(error) if reader::is_unreadable(&error) => seen.is_none(),
        Err(error) => return Err(error),
    };
    if !is_seen {
        return Ok(0);
    }
    let place: i64 = db
        .prepare_cached("SELECT place FROM events WHERE id = ?")?
        .query_row((id,), |row| row.get(0))?;
    delete(db, &[place])?;
    let mut statements = Statements::prepare(db)?;
    statements.write(truth)?;
    statements.count()?;
    Ok(1)
}

/// Deletes these events with all that belongs to them; returns how many there were.
fn delete(db: &Connection, places: &[i64]) -> rusqlite::Result<usize> {
    let mut counts = Counts::default();
    let mut deleted = 0;
    let mut forget_notes = db.prepare_cached("DELETE FROM notes WHERE place = ?")?;
    let mut of = db.prepare_cached("SELECT tenant, status FROM events WHERE place = ?")?;
    let mut forget = db.prepare_cached("DELETE FROM events WHERE place = ?")?;
    for place in places {
        forget_notes.execute((place,))?;
        let mut found = of.query((place,))?;
        if let Some(row) = found.next()? {
            counts.less(row.get_ref(0)?.as_str()?, row.get_ref(1)?.as_str()?);
        }
        drop(found);
        deleted += forget.execute((place,))?;
    }
    counts.write(db)?;
    Ok(deleted)
}

fn put(db: &Connection, message: &InboxMessage, data: Option<String>) -> rusqlite::Result<u64> {
    let put = db
        .prepare_cached(
            "INSERT INTO inbox (id, tenant, recipient, title, body, data, at)
             VALUES (:id, :tenant, :recipient, :title, :body, :data, :at) ON CONFLICT (id) DO NOTHING",
        )?
        .execute(named_params! {
            ":id": message.id, ":tenant": message.tenant, ":recipient": message.recipient, ":title": message.title,
            ":body": message.body, ":data": data, ":at": message.at,
        })?;
    Ok(put as u64)
}

fn forget(db: &Connection, before: Millis, records_max: u32) -> rusqlite::Result<u64> {
    let mut old = db.prepare_cached(
        "SELECT place FROM events WHERE keep_hour <= ? AND keep_from < ? ORDER BY keep_hour LIMIT ?",
    )?;
    let places: Vec<i64> = old
        .query_map((before.div_euclid(HOUR_MS), before, records_max), |row| {
            row.get(0)
        })?
        .collect::<Result<_, _>>()?;
    let mut forgotten = delete(db, &places)?;
    forgotten += db
        .prepare_cached(
            "DELETE FROM inbox WHERE id IN (SELECT id FROM inbox WHERE at < ? ORDER BY at LIMIT ?)",
        )?
        .execute((before, records_max))?;
    Ok(forgotten as u64)
}
