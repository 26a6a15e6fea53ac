//! Look-ups in MongoDB.

use std::{collections::BTreeMap, time::Duration};

use futures_util::TryStreamExt as _;
use mongodb::bson::{Bson, Document as Bsons, RawDocumentBuf, doc};
use posthaste_event::{Millis, Status};
use serde_json::Value as Json;
use tracing::warn;

use crate::{Document, InboxMessage, PAGE_DOCUMENTS_MAX, Page, Query, StoreError, contract::PAGE_BYTES};

use super::{
    Connection, failure,
    form::{id_of, json_of},
    write::number,
};

pub(super) async fn event(
    connection: &Connection,
    id: &str,
    limit: Duration,
) -> Result<Option<Document>, StoreError> {
    let found = connection
        .events
        .find_one(doc! {"_id": id})
        .max_time(limit)
        .await
        .map_err(|error| failure(&error))?;
    found.map(|raw| document(bsons(raw)?)).transpose()
}

pub(super) async fn events(
    connection: &Connection,
    ids: &[String],
    limit: Duration,
) -> Result<Vec<(String, Option<Document>)>, StoreError> {
    let found = connection
        .events
        .find(doc! {"_id": {"$in": ids}})
        .max_time(limit)
        .await
        .map_err(|error| failure(&error))?;
    let found: Vec<RawDocumentBuf> = found.try_collect().await.map_err(|error| failure(&error))?;
    let found = found.into_iter().map(|raw| {
        let fields = bsons(raw)?;
        let id = fields.get_str("_id").unwrap_or_default().to_owned();
        Ok((id, document(fields).ok()))
    });
    found.collect()
}

pub(super) async fn search(
    connection: &Connection,
    query: &Query,
    limit: Duration,
) -> Result<Page, StoreError> {
    let documents_max = query.limit.clamp(1, PAGE_DOCUMENTS_MAX) as usize;
    let mut found = connection
        .events
        .find(filter(query))
        .sort(doc! {"createdAt": -1, "_id": -1})
        // One more shows whether there is a next page.
        .limit(documents_max as i64 + 1)
        .max_time(limit)
        .await
        .map_err(|error| failure(&error))?;
    let (mut events, mut bytes, mut seen) = (Vec::new(), 0, 0);
    let mut last = None;
    while let Some(raw) = found.try_next().await.map_err(|error| failure(&error))? {
        if seen == documents_max || bytes >= PAGE_BYTES {
            return Ok(Page { events, next: last });
        }
        seen += 1;
        bytes += raw.as_bytes().len();
        let fields = bsons(raw)?;
        let place = fields.get_str("_id").ok().map(ToOwned::to_owned);
        last = number(&fields, "createdAt").zip(place);
        match document(fields) {
            Ok(document) => events.push(document),
            // Somebody changed it by hand, or put it there: one such document must not hide all others.
            Err(error) => {
                warn!(%error, "a document of the events collection cannot be read and is left out: {error}")
            }
        }
    }
    Ok(Page { events, next: None })
}

fn filter(query: &Query) -> Bsons {
    let mut filter = Bsons::new();
    if let Some(tenant) = &query.tenant {
        filter.insert("tenant", tenant);
    }
    if let Some(status) = query.status {
        filter.insert("state.status", status.as_str());
    }
    if let Some(channel) = query.channel {
        filter.insert("channel", channel.as_str());
    }
    if let Some(provider) = &query.provider {
        filter.insert("state.provider", provider);
    }
    if let Some(correlation) = &query.correlation_id {
        filter.insert("correlationId", correlation);
    }
    let mut created = Bsons::new();
    if let Some(from) = query.created_from {
        created.insert("$gte", from);
    }
    if let Some(until) = query.created_until {
        created.insert("$lt", until);
    }
    if let Some((at, id)) = &query.after {
        // Said twice: the range is what the index can use, the alternative is what decides among equal times.
        created.insert("$lte", *at);
        filter.insert(
            "$or",
            vec![
                doc! {"createdAt": {"$lt": at}},
                doc! {"createdAt": at, "_id": {"$lt": id}},
            ],
        );
    }
    if !created.is_empty() {
        filter.insert("createdAt", created);
    }
    filter
}

/// How many events that are meant have each status.
pub(super) async fn counts(
    connection: &Connection,
    meant: Bsons,
    limit: Duration,
) -> Result<BTreeMap<Status, u64>, StoreError> {
    let stages = [
        doc! {"$match": meant},
        doc! {"$group": {"_id": "$state.status", "count": {"$sum": 1}}},
    ];
    let groups = connection
        .events
        .aggregate(stages)
        .max_time(limit)
        .await
        .map_err(|error| failure(&error))?;
    let groups: Vec<Bsons> = groups.try_collect().await.map_err(|error| failure(&error))?;
    Ok(groups
        .iter()
        // An event of which only notes are known has no status yet.
        .filter_map(|group| {
            Some((
                group.get_str("_id").ok()?.parse().ok()?,
                u64::try_from(number(group, "count")?).ok()?,
            ))
        })
        .collect())
}

pub(super) async fn inbox(
    connection: &Connection,
    tenant: &str,
    recipient: &str,
    messages_max: u32,
    limit: Duration,
) -> Result<Vec<InboxMessage>, StoreError> {
    let found = connection
        .inbox
        .find(doc! {"tenant": tenant, "recipient": recipient})
        .sort(doc! {"at": -1, "_id": -1})
        .limit(messages_max.clamp(1, PAGE_DOCUMENTS_MAX).into())
        .max_time(limit)
        .await
        .map_err(|error| failure(&error))?;
    let found: Vec<RawDocumentBuf> = found.try_collect().await.map_err(|error| failure(&error))?;
    found
        .into_iter()
        .map(|raw| {
            let json = json_of(Bson::Document(bsons(raw)?));
            serde_json::from_value(json).map_err(|error| unreadable(&error))
        })
        .collect()
}

/// Deletes documents whose retention counts from before `before`, at most `count`.
pub(super) async fn forget(
    connection: &Connection,
    before: Millis,
    count: u32,
    limit: Duration,
) -> Result<u64, StoreError> {
    let old = doc! {"keepFrom": {"$lt": mongodb::bson::DateTime::from_millis(before)}};
    let mut forgotten = 0;
    for collection in [&connection.events, &connection.inbox] {
        let ids = collection
            .find(old.clone())
            .projection(doc! {"_id": 1})
            .limit(count.into())
            .max_time(limit)
            .await
            .map_err(|error| failure(&error))?;
        let ids: Vec<RawDocumentBuf> = ids.try_collect().await.map_err(|error| failure(&error))?;
        let ids: Vec<Bson> = ids
            .into_iter()
            .filter_map(|raw| bsons(raw).ok()?.remove("_id"))
            .collect();
        if ids.is_empty() {
            continue;
        }
        let deleted = collection
            .delete_many(doc! {"_id": {"$in": ids}})
            .await
            .map_err(|error| failure(&error))?;
        forgotten += deleted.deleted_count;
    }
    Ok(forgotten)
}

pub(super) fn bsons(raw: RawDocumentBuf) -> Result<Bsons, StoreError> {
    Bsons::try_from(raw).map_err(|error| StoreError::Refused(format!("not readable: {error}")))
}

pub(super) fn document(fields: Bsons) -> Result<Document, StoreError> {
    let mut json = json_of(Bson::Document(fields));
    if let Some(Json::Object(notes)) = json.get_mut("notes") {
        *notes = std::mem::take(notes)
            .into_iter()
            .map(|(field, note)| (id_of(&field), note))
            .collect();
    }
    serde_json::from_value(json).map_err(|error| unreadable(&error))
}

fn unreadable(error: &serde_json::Error) -> StoreError {
    StoreError::Refused(format!("not a document of this format: {error}"))
}
