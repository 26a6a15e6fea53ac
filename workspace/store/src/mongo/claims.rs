//! Claims on idempotency keys: collection `claims`.

use std::{collections::HashMap, time::Duration};

use async_trait::async_trait;
use futures_util::TryStreamExt as _;
use mongodb::{
    Collection,
    bson::{Bson, DateTime, Document as Bsons, RawDocumentBuf, doc},
    options::{Acknowledgment, WriteConcern},
};
use posthaste_event::Millis;

use super::{Connection, MongoStore, failure, read::bsons, within, write};
use crate::{Claim, Claims, StoreError};

const COLLECTION: &str = "claims";

fn collection(connection: &Connection) -> Collection<RawDocumentBuf> {
    connection.database.collection(COLLECTION)
}

fn confirmed(limit: Duration) -> WriteConcern {
    WriteConcern::builder()
        .w(Acknowledgment::Majority)
        .journal(true)
        .w_timeout(limit)
        .build()
}

fn fields(claim: &Claim) -> Bsons {
    doc! {
        "holder": &claim.holder,
        "leaseUntil": claim.lease_until,
        "request": &claim.request,
        "eventId": &claim.event_id,
        "correlationId": &claim.correlation_id,
        "status": claim.status.as_str(),
        "topic": claim.topic.suffix(),
        "partition": i64::from(claim.partition),
        "offset": claim.offset,
        "isConfirmed": claim.is_confirmed,
        // A date, for the index by which MongoDB forgets.
        "expiresAt": DateTime::from_millis(claim.expires_at),
    }
}

fn read(found: RawDocumentBuf) -> Result<Claim, StoreError> {
    let fields = bsons(found)?;
    let unreadable = |name: &str| {
        StoreError::Refused(format!(
            "a document of the claims collection has no readable {name}"
        ))
    };
    let text = |name: &str| {
        fields
            .get_str(name)
            .map(ToOwned::to_owned)
            .map_err(|_| unreadable(name))
    };
    let number = |name: &str| write::number(&fields, name).ok_or_else(|| unreadable(name));
    Ok(Claim {
        id: text("_id")?,
        holder: text("holder")?,
        lease_until: number("leaseUntil")?,
        request: text("request")?,
        event_id: text("eventId")?,
        correlation_id: text("correlationId")?,
        status: text("status")?.parse().map_err(|_| unreadable("status"))?,
        topic: text("topic")?.parse().map_err(|_| unreadable("topic"))?,
        partition: u32::try_from(number("partition")?).map_err(|_| unreadable("partition"))?,
        offset: number("offset")?,
        is_confirmed: fields
            .get_bool("isConfirmed")
            .map_err(|_| unreadable("isConfirmed"))?,
        expires_at: fields
            .get_datetime("expiresAt")
            .map_err(|_| unreadable("expiresAt"))?
            .timestamp_millis(),
    })
}

async fn find(
    connection: &Connection,
    wanted: &[Claim],
    limit: Duration,
) -> Result<Vec<Option<Claim>>, StoreError> {
    let ids: Vec<&str> = wanted.iter().map(|claim| claim.id.as_str()).collect();
    let found = collection(connection)
        .find(doc! {"_id": {"$in": ids}})
        .max_time(limit)
        .await
        .map_err(|error| failure(&error))?;
    let found: Vec<RawDocumentBuf> = found.try_collect().await.map_err(|error| failure(&error))?;
    let mut found: HashMap<String, Claim> = found
        .into_iter()
        .map(|raw| read(raw).map(|claim| (claim.id.clone(), claim)))
        .collect::<Result<_, _>>()?;
    Ok(wanted.iter().map(|claim| found.remove(&claim.id)).collect())
}

/// Puts a claim in the place of one whose time is over, if that is still there. Answers whether it was.
async fn replace(
    connection: &Connection,
    old: &Claim,
    new: &Claim,
    limit: Duration,
) -> Result<bool, StoreError> {
    let replaced = collection(connection)
        .update_one(
            doc! {"_id": &old.id, "holder": &old.holder},
            doc! {"$set": fields(new)},
        )
        .write_concern(confirmed(limit))
        .await
        .map_err(|error| failure(&error))?;
    Ok(replaced.matched_count > 0)
}

async fn claim(
    connection: &Connection,
    wanted: &[Claim],
    now: Millis,
    batch_max: usize,
    limit: Duration,
) -> Result<Vec<Option<Claim>>, StoreError> {
    let updates = wanted
        .iter()
        .map(|claim| write::unless_there(&claim.id, fields(claim)))
        .collect::<Result<_, _>>()?;
    write::run(connection, COLLECTION, updates, batch_max, limit).await?;
    let mut found = find(connection, wanted, limit).await?;
    for (found, wanted) in found.iter_mut().zip(wanted) {
        if let Some(old) = found
            && old.holder != wanted.holder
            && old.expires_at <= now
        {
            *found = if replace(connection, old, wanted, limit).await? {
                Some(wanted.clone())
            } else {
                None
            };
        }
    }
    crate::claim::firsts(wanted, found)
}

/// Finds claims while they are their holders'.
fn held(claims: &[Claim]) -> Bsons {
    let ids: Vec<&str> = claims.iter().map(|claim| claim.id.as_str()).collect();
    let holders: Vec<&str> = claims.iter().map(|claim| claim.holder.as_str()).collect();
    // Each holder has one claim, so no pair is found that was not meant.
    doc! {"_id": {"$in": ids}, "holder": {"$in": holders}}
}

impl MongoStore {
    async fn on_claims<T>(
        &self,
        work: impl AsyncFnOnce(&Connection, Duration) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let limit = self.shared.settings.write_timeout();
        within(limit, async {
            work(self.shared.connection().await?, limit).await
        })
        .await
    }
}

#[async_trait]
impl Claims for MongoStore {
    async fn claim(&self, wanted: &[Claim], now: Millis) -> Result<Vec<Option<Claim>>, StoreError> {
        let batch_max = self.shared.settings.mongodb.batch_documents_max.max(1) as usize;
        self.on_claims(async |connection, limit| claim(connection, wanted, now, batch_max, limit).await)
            .await
    }

    async fn take_over(&self, seen: &Claim, holder: &str, lease_until: Millis) -> Result<bool, StoreError> {
        self.on_claims(async |connection, limit| {
            let taken = collection(connection)
                .update_one(
                    doc! {"_id": &seen.id, "holder": &seen.holder, "isConfirmed": false},
                    doc! {"$set": {"holder": holder, "leaseUntil": lease_until}},
                )
                .write_concern(confirmed(limit))
                .await
                .map_err(|error| failure(&error))?;
            Ok(taken.matched_count > 0)
        })
        .await
    }

    async fn confirm(&self, claims: &[Claim]) -> Result<(), StoreError> {
        self.on_claims(async |connection, limit| {
            collection(connection)
                .update_many(held(claims), doc! {"$set": {"isConfirmed": true}})
                .write_concern(confirmed(limit))
                .await
                .map(drop)
                .map_err(|error| failure(&error))
        })
        .await
    }

    async fn release(&self, claims: &[Claim]) -> Result<(), StoreError> {
        self.on_claims(async |connection, limit| {
            let mut ours = held(claims);
            ours.insert("isConfirmed", false);
            collection(connection)
                .delete_many(ours)
                .write_concern(confirmed(limit))
                .await
                .map(drop)
                .map_err(|error| failure(&error))
        })
        .await
    }

    async fn expire(&self, now: Millis, claims_max: u32) -> Result<u64, StoreError> {
        self.on_claims(async |connection, limit| {
            let over = doc! {"expiresAt": {"$lte": DateTime::from_millis(now)}};
            let found = collection(connection)
                .find(over.clone())
                .projection(doc! {"_id": 1})
                .limit(i64::from(claims_max))
                .max_time(limit)
                .await
                .map_err(|error| failure(&error))?;
            let found: Vec<RawDocumentBuf> = found.try_collect().await.map_err(|error| failure(&error))?;
            let ids: Vec<Bson> = found
                .into_iter()
                .filter_map(|raw| bsons(raw).ok()?.remove("_id"))
                .collect();
            if ids.is_empty() {
                return Ok(0);
            }
            // By its time too: somebody may have claimed the key anew meanwhile.
            let mut those = over;
            those.insert("_id", doc! {"$in": ids});
            let deleted = collection(connection)
                .delete_many(those)
                .await
                .map_err(|error| failure(&error))?;
            Ok(deleted.deleted_count)
        })
        .await
    }

    fn is_reachable(&self) -> Result<(), String> {
        self.shared.condition.health()
    }
}
