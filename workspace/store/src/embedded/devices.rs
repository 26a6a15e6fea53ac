//! Devices in the status file: a table of their own, which older programs leave alone.

use async_trait::async_trait;
use posthaste_event::Millis;
use rusqlite::{Connection, Row, named_params};

use super::{EmbeddedStore, writer::Job};
use crate::{Device, Devices, StoreError};

/// The table; made whenever the file is opened for writing.
pub(super) const TABLE: &str = "
    CREATE TABLE IF NOT EXISTS devices (
        id         TEXT NOT NULL,
        tenant     TEXT NOT NULL,
        user       TEXT NOT NULL,
        token      TEXT NOT NULL,
        provider   TEXT,
        at         INTEGER NOT NULL,
        expires_at INTEGER,
        PRIMARY KEY (tenant, id)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX IF NOT EXISTS devices_by_user ON devices (tenant, user, at);
    CREATE INDEX IF NOT EXISTS devices_by_end ON devices (expires_at) WHERE expires_at IS NOT NULL;
";

/// What to do with devices; each answers how many it changed.
pub(super) enum Step {
    Register { device: Box<Device>, most: u32 },
    Unregister { tenant: String, id: String },
    Forget { now: Millis, most: u32 },
}

impl Step {
    pub(super) fn run(&self, db: &Connection) -> rusqlite::Result<u64> {
        let changed = match self {
            Self::Register { device, most } => register(db, device, *most)?,
            Self::Unregister { tenant, id } => db
                .prepare_cached("DELETE FROM devices WHERE tenant = ? AND id = ?")?
                .execute((tenant, id))?,
            Self::Forget { now, most } => db
                .prepare_cached(
                    "DELETE FROM devices WHERE (tenant, id) IN
                     (SELECT tenant, id FROM devices WHERE expires_at <= ? ORDER BY expires_at LIMIT ?)",
                )?
                .execute((now, most))?,
        };
        Ok(changed as u64)
    }
}

fn register(db: &Connection, device: &Device, most: u32) -> rusqlite::Result<usize> {
    let put = db
        .prepare_cached(
            "INSERT OR REPLACE INTO devices (id, tenant, user, token, provider, at, expires_at)
             VALUES (:id, :tenant, :user, :token, :provider, :at, :expires_at)",
        )?
        .execute(named_params! {
            ":id": device.id, ":tenant": device.tenant, ":user": device.user, ":token": device.token,
            ":provider": device.provider, ":at": device.at, ":expires_at": device.expires_at,
        })?;
    db.prepare_cached(
        "DELETE FROM devices WHERE tenant = ?1 AND id IN
         (SELECT id FROM devices WHERE tenant = ?1 AND user = ?2 ORDER BY at DESC, id LIMIT -1 OFFSET ?3)",
    )?
    .execute((&device.tenant, &device.user, most))?;
    Ok(put)
}

fn read(row: &Row<'_>) -> rusqlite::Result<Device> {
    Ok(Device {
        id: row.get(0)?,
        tenant: row.get(1)?,
        user: row.get(2)?,
        token: row.get(3)?,
        provider: row.get(4)?,
        at: row.get(5)?,
        expires_at: row.get(6)?,
    })
}

impl EmbeddedStore {
    async fn change_devices(&self, step: Step) -> Result<u64, StoreError> {
        self.writer.run(Job::Devices(step)).await
    }
}

#[async_trait]
impl Devices for EmbeddedStore {
    async fn register(&self, device: &Device, most: u32) -> Result<(), StoreError> {
        let device = Box::new(device.clone());
        self.change_devices(Step::Register { device, most })
            .await
            .map(drop)
    }

    async fn devices(
        &self,
        tenant: &str,
        user: &str,
        now: Millis,
        most: u32,
    ) -> Result<Vec<Device>, StoreError> {
        let (tenant, user) = (tenant.to_owned(), user.to_owned());
        self.readers
            .read(move |db| {
                db.prepare_cached(
                    "SELECT id, tenant, user, token, provider, at, expires_at FROM devices
                     WHERE tenant = ? AND user = ? AND (expires_at IS NULL OR expires_at > ?)
                     ORDER BY at DESC, id LIMIT ?",
                )?
                .query_map((&tenant, &user, now, most), read)?
                .collect()
            })
            .await
    }

    async fn unregister(&self, tenant: &str, id: &str) -> Result<bool, StoreError> {
        let (tenant, id) = (tenant.to_owned(), id.to_owned());
        let gone = self.change_devices(Step::Unregister { tenant, id }).await?;
        Ok(gone > 0)
    }

    async fn forget_devices(&self, now: Millis, most: u32) -> Result<u64, StoreError> {
        self.change_devices(Step::Forget { now, most }).await
    }
}
