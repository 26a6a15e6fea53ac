//! The one thread that writes. Jobs that wait together go into one transaction, so that many callers share an fsync.

use std::{
    path::PathBuf,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use posthaste_event::Millis;
use rusqlite::{Connection, named_params};
use tokio::sync::{mpsc, oneshot};

use crate::{Change, Changes, Document, InboxMessage, Position, StoreError, condition::Condition};

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

/// Events of one apply in a transaction. What is written between two syncs of the disk holds up all others who sync it, the log
/// above all; so it is little.
pub(super) const APPLIED_MAX: usize = 512;

/// What the log has as well waits for the disk so often at least.
const WAIT_EVERY: Duration = Duration::from_secs(1);

/// Something to write.
pub(super) enum Job {
    /// Changes of events, and how far the projector has come with them.
    Apply {
        changes: Changes,
        progress: Vec<Position>,
        /// Whether the log has what they are made of, from the positions on that are kept here: after a power cut they are made
        /// again, so nobody needs to wait for the disk.
        in_log: bool,
    },
    /// A document to put right, if it still is what was seen.
    Replace {
        id: String,
        seen: Option<Box<Document>>,
        truth: Box<Change>,
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
    fn size(&self) -> usize {
        match self {
            Self::Apply { changes, .. } => changes.len(),
            Self::Replace { .. } | Self::Inbox(_) | Self::Devices(_) => 1,
            Self::Forget { records_max, .. } => *records_max as usize,
            Self::Claims(step) => step.size(),
            // A page is as large as that many small events.
            Self::Lists(_) => 100,
        }
    }
}

/// Whether what these jobs write can be lost by a power cut and comes back by itself.
fn is_in_log<'j>(mut jobs: impl Iterator<Item = &'j Job>) -> bool {
    jobs.all(|job| match job {
        Job::Apply { in_log, .. } => *in_log,
        // What is not forgotten is forgotten later.
        Job::Forget { .. } => true,
        Job::Replace { .. } | Job::Inbox(_) | Job::Claims(_) | Job::Devices(_) | Job::Lists(_) => false,
    })
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
        let file = File {
            path,
            durability,
            open: Some(db),
            waits: durability == Durability::PowerCut,
            waited_at: None,
        };
        let thread = thread::Builder::new()
            .name("status-writer".into())
            .spawn(move || write_all(file, requests, &condition))?;
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

/// The file as the writer has it: opened again when that becomes necessary.
struct File {
    path: PathBuf,
    durability: Durability,
    open: Option<Connection>,
    /// Whether a commit waits for the disk, as the connection is set now.
    waits: bool,
    /// When a commit last did.
    waited_at: Option<Instant>,
}

fn write_all(mut file: File, mut requests: mpsc::Receiver<Request>, condition: &Condition) {
    while let Some(first) = requests.blocking_recv() {
        let mut size = first.0.size();
        let mut batch = vec![first];
        while size < TRANSACTION_EVENTS {
            let Ok(next) = requests.try_recv() else { break };
            size += next.0.size();
            batch.push(next);
        }
        let together = file.transact(batch.iter().map(|(job, _)| job));
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
                    let answer = file
                        .transact([&job].into_iter())
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

impl File {
    fn transact<'j>(&mut self, jobs: impl Iterator<Item = &'j Job> + Clone) -> Result<Vec<u64>, StoreError> {
        let mut open = match self.open.take() {
            Some(open) => open,
            None => {
                self.waits = self.durability == Durability::PowerCut;
                schema::open(&self.path, self.durability).map_err(StoreError::Unreachable)?
            }
        };
        let done = self
            .prepare(&open, is_in_log(jobs.clone()))
            .and_then(|()| jobs_in_one(&mut open, jobs));
        // After a failure of the file the connection is made anew: the file may have been replaced.
        if !matches!(done, Err(StoreError::Unreachable(_))) {
            self.open = Some(open);
        }
        if done.is_ok() && self.waits {
            self.waited_at = Some(Instant::now());
        }
        done
    }

    /// Sets whether the next commit waits for the disk.
    fn prepare(&mut self, open: &Connection, in_log: bool) -> Result<(), StoreError> {
        let lately = self.waited_at.is_some_and(|at| at.elapsed() < WAIT_EVERY);
        let waits = !(in_log && lately);
        if self.durability == Durability::PowerCut && waits != self.waits {
            schema::set_waiting(open, waits).map_err(|error| refusal(&error))?;
            self.waits = waits;
        }
        Ok(())
    }
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
        Job::Apply {
            changes, progress, ..
        } => {
            apply(db, changes, progress).map_err(|error| refusal(&error))?;
            Ok(changes.len() as u64)
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

fn apply(db: &Connection, changes: &[Change], progress: &[Position]) -> rusqlite::Result<()> {
    let mut statements = Statements::prepare(db)?;
    for change in changes {
        statements.write(&EventRow::of(change)?)?;
    }
    statements.count()?;
    let mut keep =
        db.prepare_cached("INSERT OR REPLACE INTO progress (topic, partition, next) VALUES (?, ?, ?)")?;
    for position in progress {
        keep.execute((position.topic.suffix(), position.partition, position.offset))?;
    }
    Ok(())
}

fn replace(db: &Connection, id: &str, seen: Option<&Document>, truth: &Change) -> rusqlite::Result<u64> {
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
    statements.write(&EventRow::of(truth)?)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_log_has_waits_for_the_disk_now_and_then_and_all_else_always() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("status.db");
        let db = schema::open(&path, Durability::PowerCut).unwrap();
        let mut file = File {
            path,
            durability: Durability::PowerCut,
            open: Some(db),
            waits: true,
            waited_at: None,
        };
        let mut waits = |job: &Job, lately: bool| {
            let later = Instant::now() + Duration::from_secs(3_600);
            file.waited_at = lately.then_some(later);
            file.transact([job].into_iter()).unwrap();
            let open = file.open.as_ref().unwrap();
            let set: i64 = open
                .pragma_query_value(None, "synchronous", |row| row.get(0))
                .unwrap();
            // FULL; the one that does not wait is NORMAL.
            set == 2
        };
        let applied = |in_log| Job::Apply {
            changes: Vec::new().into(),
            progress: Vec::new(),
            in_log,
        };
        let step = Job::Inbox(InboxMessage {
            id: "e1".to_owned(),
            tenant: "t".to_owned(),
            recipient: "r".to_owned(),
            title: "t".to_owned(),
            body: "b".to_owned(),
            data: None,
            at: 1,
        });
        assert!(waits(&applied(true), false));
        assert!(!waits(&applied(true), true));
        assert!(waits(&step, true));
        assert!(!waits(&applied(true), true));
        assert!(waits(&applied(false), true));
    }
}
