//! Stored lists of recipients in the status file: tables of their own, which older programs leave alone.

use async_trait::async_trait;
use posthaste_event::Millis;
use rusqlite::{Connection, OptionalExtension as _, Row};

use super::{EmbeddedStore, writer::Job};
use crate::{List, Lists, StoreError, list::PAGE_LISTS_MAX};

/// The tables; made whenever the file is opened for writing.
pub(super) const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS lists (
        tenant     TEXT NOT NULL,
        code       TEXT NOT NULL,
        version    TEXT NOT NULL,
        recipients INTEGER NOT NULL,
        pages      INTEGER NOT NULL,
        at         INTEGER NOT NULL,
        by         TEXT NOT NULL,
        PRIMARY KEY (tenant, code)
    ) STRICT;
    CREATE TABLE IF NOT EXISTS list_pages (
        version TEXT NOT NULL,
        number  INTEGER NOT NULL,
        at      INTEGER NOT NULL,
        entries TEXT NOT NULL,
        PRIMARY KEY (version, number)
    ) STRICT;
    CREATE INDEX IF NOT EXISTS list_pages_by_time ON list_pages (at);
";

/// Pages that are swept in one transaction at most.
const SWEPT_AT_ONCE: u32 = 100;

/// What to do with lists; each answers how many rows it changed.
pub(super) enum Step {
    PutPage {
        version: String,
        number: u32,
        text: String,
        at: Millis,
    },
    Put(List),
    Delete {
        tenant: String,
        code: String,
    },
    Sweep {
        before: Millis,
    },
}

impl Step {
    pub(super) fn run(&self, db: &Connection) -> rusqlite::Result<u64> {
        let changed = match self {
            Self::PutPage {
                version,
                number,
                text,
                at,
            } => db
                .prepare_cached(
                    "INSERT OR REPLACE INTO list_pages (version, number, at, entries) VALUES (?1, ?2, ?3, ?4)",
                )?
                .execute((version, number, at, text))?,
            Self::Put(list) => db
                .prepare_cached(
                    "INSERT OR REPLACE INTO lists (tenant, code, version, recipients, pages, at, by)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                )?
                .execute((
                    &list.tenant,
                    &list.code,
                    &list.version,
                    i64::try_from(list.recipients).unwrap_or(i64::MAX),
                    list.pages,
                    list.at,
                    &list.by,
                ))?,
            Self::Delete { tenant, code } => db
                .prepare_cached("DELETE FROM lists WHERE tenant = ?1 AND code = ?2")?
                .execute((tenant, code))?,
            Self::Sweep { before } => db
                .prepare_cached(
                    "DELETE FROM list_pages WHERE rowid IN (SELECT rowid FROM list_pages
                     WHERE at < ?1 AND version NOT IN (SELECT version FROM lists) ORDER BY at LIMIT ?2)",
                )?
                .execute((before, SWEPT_AT_ONCE))?,
        };
        Ok(changed as u64)
    }
}

fn read(row: &Row<'_>) -> rusqlite::Result<List> {
    Ok(List {
        tenant: row.get(0)?,
        code: row.get(1)?,
        version: row.get(2)?,
        recipients: row.get::<_, i64>(3)?.try_into().unwrap_or(0),
        pages: row.get(4)?,
        at: row.get(5)?,
        by: row.get(6)?,
    })
}

impl EmbeddedStore {
    async fn change_lists(&self, step: Step) -> Result<u64, StoreError> {
        self.writer.run(Job::Lists(step)).await
    }
}

#[async_trait]
impl Lists for EmbeddedStore {
    async fn put_page(&self, version: &str, number: u32, text: &str, at: Millis) -> Result<(), StoreError> {
        let step = Step::PutPage {
            version: version.to_owned(),
            number,
            text: text.to_owned(),
            at,
        };
        self.change_lists(step).await.map(drop)
    }

    async fn page(&self, version: &str, number: u32) -> Result<Option<String>, StoreError> {
        let version = version.to_owned();
        let look = move |db: &Connection| {
            db.prepare_cached("SELECT entries FROM list_pages WHERE version = ?1 AND number = ?2")?
                .query_row((version, number), |row| row.get(0))
                .optional()
        };
        self.readers.read(look).await
    }

    async fn put_list(&self, list: &List) -> Result<(), StoreError> {
        self.change_lists(Step::Put(list.clone())).await.map(drop)
    }

    async fn list(&self, tenant: &str, code: &str) -> Result<Option<List>, StoreError> {
        let (tenant, code) = (tenant.to_owned(), code.to_owned());
        let look = move |db: &Connection| {
            db.prepare_cached(
                "SELECT tenant, code, version, recipients, pages, at, by FROM lists WHERE tenant = ?1 AND code = ?2",
            )?
            .query_row((tenant, code), read)
            .optional()
        };
        self.readers.read(look).await
    }

    async fn lists(&self, tenant: &str, after: Option<&str>, limit: u32) -> Result<Vec<List>, StoreError> {
        let (tenant, after) = (tenant.to_owned(), after.unwrap_or_default().to_owned());
        let look = move |db: &Connection| {
            db.prepare_cached(
                "SELECT tenant, code, version, recipients, pages, at, by FROM lists
                 WHERE tenant = ?1 AND code > ?2 ORDER BY code LIMIT ?3",
            )?
            .query_map((tenant, after, limit.min(PAGE_LISTS_MAX)), read)?
            .collect()
        };
        self.readers.read(look).await
    }

    async fn all_lists(&self, after: Option<(&str, &str)>, limit: u32) -> Result<Vec<List>, StoreError> {
        let (tenant, code) = after.unwrap_or_default();
        let (tenant, code) = (tenant.to_owned(), code.to_owned());
        let look = move |db: &Connection| {
            db.prepare_cached(
                "SELECT tenant, code, version, recipients, pages, at, by FROM lists
                 WHERE (tenant, code) > (?1, ?2) ORDER BY tenant, code LIMIT ?3",
            )?
            .query_map((tenant, code, limit.min(PAGE_LISTS_MAX)), read)?
            .collect()
        };
        self.readers.read(look).await
    }

    async fn delete_list(&self, tenant: &str, code: &str) -> Result<bool, StoreError> {
        let step = Step::Delete {
            tenant: tenant.to_owned(),
            code: code.to_owned(),
        };
        self.change_lists(step).await.map(|deleted| deleted > 0)
    }

    async fn sweep_pages(&self, before: Millis) -> Result<u64, StoreError> {
        let mut swept = 0;
        loop {
            match self.change_lists(Step::Sweep { before }).await? {
                0 => return Ok(swept),
                count => swept += count,
            }
        }
    }
}
