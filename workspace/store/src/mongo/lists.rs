//! Stored lists of recipients: collections `lists` and `list_pages`.

use std::{collections::BTreeSet, time::Duration};

use async_trait::async_trait;
use futures_util::TryStreamExt as _;
use mongodb::{
    Collection,
    bson::{Document as Bsons, RawDocumentBuf, doc},
    options::{Acknowledgment, WriteConcern},
};
use posthaste_event::Millis;

use super::{Connection, MongoStore, failure, read::bsons, within, write};
use crate::{List, Lists, StoreError, list::PAGE_LISTS_MAX};

fn lists(connection: &Connection) -> Collection<RawDocumentBuf> {
    connection.database.collection("lists")
}

fn pages(connection: &Connection) -> Collection<RawDocumentBuf> {
    connection.database.collection("list_pages")
}

/// No tenant and no code has a slash.
fn id(tenant: &str, code: &str) -> String {
    format!("{tenant}/{code}")
}

fn page_id(version: &str, number: u32) -> String {
    format!("{version}/{number}")
}

fn confirmed(limit: Duration) -> WriteConcern {
    WriteConcern::builder()
        .w(Acknowledgment::Majority)
        .journal(true)
        .w_timeout(limit)
        .build()
}

fn read(found: RawDocumentBuf) -> Result<List, StoreError> {
    let fields = bsons(found)?;
    let unreadable = |name: &str| {
        StoreError::Refused(format!(
            "a document of the lists collection has no readable {name}"
        ))
    };
    let text = |name: &str| {
        fields
            .get_str(name)
            .map(ToOwned::to_owned)
            .map_err(|_| unreadable(name))
    };
    let number = |name: &str| write::number(&fields, name).ok_or_else(|| unreadable(name));
    Ok(List {
        tenant: text("tenant")?,
        code: text("code")?,
        version: text("version")?,
        recipients: u64::try_from(number("recipients")?).map_err(|_| unreadable("recipients"))?,
        pages: u32::try_from(number("pages")?).map_err(|_| unreadable("pages"))?,
        at: number("at")?,
        by: text("by")?,
    })
}

impl MongoStore {
    async fn put(
        &self,
        collection: fn(&Connection) -> Collection<RawDocumentBuf>,
        id: String,
        fields: Bsons,
    ) -> Result<(), StoreError> {
        let limit = self.shared.settings.write_timeout();
        within(limit, async {
            collection(self.shared.connection().await?)
                .update_one(doc! {"_id": id}, doc! {"$set": fields})
                .upsert(true)
                .write_concern(confirmed(limit))
                .await
                .map(drop)
                .map_err(|error| failure(&error))
        })
        .await
    }
}

#[async_trait]
impl Lists for MongoStore {
    async fn put_page(&self, version: &str, number: u32, text: &str, at: Millis) -> Result<(), StoreError> {
        let fields = doc! {"version": version, "at": at, "entries": text};
        self.put(pages, page_id(version, number), fields).await
    }

    async fn page(&self, version: &str, number: u32) -> Result<Option<String>, StoreError> {
        let id = page_id(version, number);
        self.read(async |connection, limit| {
            let found = pages(connection)
                .find_one(doc! {"_id": id})
                .max_time(limit)
                .await
                .map_err(|error| failure(&error))?;
            let Some(found) = found else { return Ok(None) };
            let entries = bsons(found)?.get_str("entries").map(ToOwned::to_owned);
            entries
                .map(Some)
                .map_err(|_| StoreError::Refused("a page of a list has no readable entries".to_owned()))
        })
        .await
    }

    async fn put_list(&self, list: &List) -> Result<(), StoreError> {
        let fields = doc! {
            "tenant": &list.tenant,
            "code": &list.code,
            "version": &list.version,
            "recipients": i64::try_from(list.recipients).unwrap_or(i64::MAX),
            "pages": i64::from(list.pages),
            "at": list.at,
            "by": &list.by,
        };
        self.put(lists, id(&list.tenant, &list.code), fields).await
    }

    async fn list(&self, tenant: &str, code: &str) -> Result<Option<List>, StoreError> {
        let id = id(tenant, code);
        self.read(async |connection, limit| {
            let found = lists(connection)
                .find_one(doc! {"_id": id})
                .max_time(limit)
                .await
                .map_err(|error| failure(&error))?;
            found.map(read).transpose()
        })
        .await
    }

    async fn lists(&self, tenant: &str, after: Option<&str>, limit: u32) -> Result<Vec<List>, StoreError> {
        let after = after.unwrap_or_default();
        self.read(async |connection, time| {
            let found = lists(connection)
                .find(doc! {"tenant": tenant, "code": {"$gt": after}})
                .sort(doc! {"code": 1})
                .limit(limit.min(PAGE_LISTS_MAX).into())
                .max_time(time)
                .await
                .map_err(|error| failure(&error))?;
            let found: Vec<RawDocumentBuf> = found.try_collect().await.map_err(|error| failure(&error))?;
            found.into_iter().map(read).collect()
        })
        .await
    }

    async fn all_lists(&self, after: Option<(&str, &str)>, limit: u32) -> Result<Vec<List>, StoreError> {
        let after = after.map(|(tenant, code)| id(tenant, code)).unwrap_or_default();
        self.read(async |connection, time| {
            let found = lists(connection)
                .find(doc! {"_id": {"$gt": after}})
                .sort(doc! {"_id": 1})
                .limit(limit.min(PAGE_LISTS_MAX).into())
                .max_time(time)
                .await
                .map_err(|error| failure(&error))?;
            let found: Vec<RawDocumentBuf> = found.try_collect().await.map_err(|error| failure(&error))?;
            found.into_iter().map(read).collect()
        })
        .await
    }

    async fn delete_list(&self, tenant: &str, code: &str) -> Result<bool, StoreError> {
        let limit = self.shared.settings.write_timeout();
        within(limit, async {
            let deleted = lists(self.shared.connection().await?)
                .delete_one(doc! {"_id": id(tenant, code)})
                .write_concern(confirmed(limit))
                .await
                .map_err(|error| failure(&error))?;
            Ok(deleted.deleted_count > 0)
        })
        .await
    }

    async fn sweep_pages(&self, before: Millis) -> Result<u64, StoreError> {
        let limit = self.shared.settings.write_timeout();
        within(limit, async {
            let connection = self.shared.connection().await?;
            let mut old = pages(connection)
                .find(doc! {"at": {"$lt": before}})
                .projection(doc! {"version": 1})
                .max_time(limit)
                .await
                .map_err(|error| failure(&error))?;
            let mut versions: BTreeSet<String> = BTreeSet::new();
            while let Some(page) = old.try_next().await.map_err(|error| failure(&error))? {
                versions.extend(bsons(page)?.get_str("version").map(ToOwned::to_owned).ok());
            }
            if versions.is_empty() {
                return Ok(0);
            }
            // Looked up after the pages: a list that is put meanwhile leads to younger ones.
            let mut used = lists(connection)
                .find(doc! {})
                .projection(doc! {"version": 1})
                .max_time(limit)
                .await
                .map_err(|error| failure(&error))?;
            while let Some(list) = used.try_next().await.map_err(|error| failure(&error))? {
                if let Ok(version) = bsons(list)?.get_str("version") {
                    versions.remove(version);
                }
            }
            let mut swept = 0;
            for version in versions {
                let deleted = pages(connection)
                    .delete_many(doc! {"version": version})
                    .await
                    .map_err(|error| failure(&error))?;
                swept += deleted.deleted_count;
            }
            Ok(swept)
        })
        .await
    }
}
