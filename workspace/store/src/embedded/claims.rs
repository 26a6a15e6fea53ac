//! Claims on idempotency keys in the status file: a table of their own, which older programs leave alone.

use async_trait::async_trait;
use posthaste_event::Millis;
use rusqlite::{Connection, OptionalExtension as _, Row, named_params, types::Type};

use super::{EmbeddedStore, writer::Job};
use crate::{Claim, Claims, StoreError};

/// The table; made whenever the file is opened for writing.
pub(super) const TABLE: &str = "
    CREATE TABLE IF NOT EXISTS claims (
        id             TEXT PRIMARY KEY NOT NULL,
        holder         TEXT NOT NULL,
        lease_until    INTEGER NOT NULL,
        request        TEXT NOT NULL,
        event_id       TEXT NOT NULL,
        correlation_id TEXT NOT NULL,
        status         TEXT NOT NULL,
        topic          TEXT NOT NULL,
        partition      INTEGER NOT NULL,
        log_offset     INTEGER NOT NULL,
        is_confirmed   INTEGER NOT NULL,
        expires_at     INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX IF NOT EXISTS claims_by_end ON claims (expires_at);
";

/// What to do with claims; each answers how many it changed.
pub(super) enum Step {
    Claim {
        wanted: Vec<Claim>,
        now: Millis,
    },
    TakeOver {
        seen: Box<Claim>,
        holder: String,
        lease_until: Millis,
    },
    Confirm(Vec<Claim>),
    Release(Vec<Claim>),
    Expire {
        now: Millis,
        claims_max: u32,
    },
}

impl Step {
    pub(super) const fn size(&self) -> usize {
        match self {
            Self::Claim { wanted, .. } => wanted.len(),
            Self::Confirm(claims) | Self::Release(claims) => claims.len(),
            Self::TakeOver { .. } => 1,
            Self::Expire { claims_max, .. } => *claims_max as usize,
        }
    }

    pub(super) fn run(&self, db: &Connection) -> rusqlite::Result<u64> {
        let changed = match self {
            Self::Claim { wanted, now } => claim(db, wanted, *now)?,
            Self::TakeOver {
                seen,
                holder,
                lease_until,
            } => db
                .prepare_cached(
                    "UPDATE claims SET holder = ?1, lease_until = ?2
                     WHERE id = ?3 AND holder = ?4 AND is_confirmed = 0",
                )?
                .execute((holder, lease_until, &seen.id, &seen.holder))?,
            Self::Confirm(claims) => each(
                db,
                claims,
                "UPDATE claims SET is_confirmed = 1 WHERE id = ?1 AND holder = ?2",
            )?,
            Self::Release(claims) => each(
                db,
                claims,
                "DELETE FROM claims WHERE id = ?1 AND holder = ?2 AND is_confirmed = 0",
            )?,
            Self::Expire { now, claims_max } => db
                .prepare_cached(
                    "DELETE FROM claims WHERE id IN
                     (SELECT id FROM claims WHERE expires_at <= ?1 ORDER BY expires_at LIMIT ?2)",
                )?
                .execute((now, claims_max))?,
        };
        Ok(changed as u64)
    }
}

fn each(db: &Connection, claims: &[Claim], change: &str) -> rusqlite::Result<usize> {
    let mut change = db.prepare_cached(change)?;
    claims
        .iter()
        .map(|claim| change.execute((&claim.id, &claim.holder)))
        .sum()
}

fn claim(db: &Connection, wanted: &[Claim], now: Millis) -> rusqlite::Result<usize> {
    let mut put = db.prepare_cached(
        "INSERT OR REPLACE INTO claims SELECT :id, :holder, :lease_until, :request, :event_id, :correlation_id, :status,
                :topic, :partition, :log_offset, :is_confirmed, :expires_at
         WHERE NOT EXISTS (SELECT 1 FROM claims WHERE id = :id AND expires_at > :now)",
    )?;
    wanted
        .iter()
        .map(|claim| {
            put.execute(named_params! {
                ":id": claim.id, ":holder": claim.holder, ":lease_until": claim.lease_until, ":request": claim.request,
                ":event_id": claim.event_id, ":correlation_id": claim.correlation_id, ":status": claim.status.as_str(),
                ":topic": claim.topic.suffix(), ":partition": claim.partition, ":log_offset": claim.offset,
                ":is_confirmed": claim.is_confirmed, ":expires_at": claim.expires_at, ":now": now,
            })
        })
        .sum()
}

fn find(db: &Connection, id: &str) -> rusqlite::Result<Option<Claim>> {
    db.prepare_cached(
        "SELECT id, holder, lease_until, request, event_id, correlation_id, status, topic, partition, log_offset,
                is_confirmed, expires_at FROM claims WHERE id = ?",
    )?
    .query_row([id], read)
    .optional()
}

fn read(row: &Row<'_>) -> rusqlite::Result<Claim> {
    Ok(Claim {
        id: row.get(0)?,
        holder: row.get(1)?,
        lease_until: row.get(2)?,
        request: row.get(3)?,
        event_id: row.get(4)?,
        correlation_id: row.get(5)?,
        status: parsed(row, 6)?,
        topic: parsed(row, 7)?,
        partition: row.get(8)?,
        offset: row.get(9)?,
        is_confirmed: row.get(10)?,
        expires_at: row.get(11)?,
    })
}

fn parsed<T: std::str::FromStr>(row: &Row<'_>, column: usize) -> rusqlite::Result<T>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    row.get_ref(column)?
        .as_str()?
        .parse()
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(error)))
}

impl EmbeddedStore {
    async fn change_claims(&self, step: Step) -> Result<u64, StoreError> {
        self.writer.run(Job::Claims(step)).await
    }
}

#[async_trait]
impl Claims for EmbeddedStore {
    async fn claim(&self, wanted: &[Claim], now: Millis) -> Result<Vec<Option<Claim>>, StoreError> {
        let step = Step::Claim {
            wanted: wanted.to_vec(),
            now,
        };
        if self.change_claims(step).await? == wanted.len() as u64 {
            return Ok(vec![None; wanted.len()]);
        }
        let ids: Vec<String> = wanted.iter().map(|claim| claim.id.clone()).collect();
        let found = self
            .readers
            .read(move |db| ids.iter().map(|id| find(db, id)).collect::<Result<Vec<_>, _>>())
            .await?;
        crate::claim::firsts(wanted, found)
    }

    async fn take_over(&self, seen: &Claim, holder: &str, lease_until: Millis) -> Result<bool, StoreError> {
        let step = Step::TakeOver {
            seen: Box::new(seen.clone()),
            holder: holder.to_owned(),
            lease_until,
        };
        self.change_claims(step).await.map(|changed| changed > 0)
    }

    async fn confirm(&self, claims: &[Claim]) -> Result<(), StoreError> {
        self.change_claims(Step::Confirm(claims.to_vec())).await.map(drop)
    }

    async fn release(&self, claims: &[Claim]) -> Result<(), StoreError> {
        self.change_claims(Step::Release(claims.to_vec())).await.map(drop)
    }

    async fn expire(&self, now: Millis, claims_max: u32) -> Result<u64, StoreError> {
        self.change_claims(Step::Expire { now, claims_max }).await
    }

    fn is_reachable(&self) -> Result<(), String> {
        self.condition.health()
    }
}
