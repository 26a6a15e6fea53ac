//! Claims on idempotency keys: collection `claims`.
//!
//! What every request with a key does has nothing but `_id` in its filter, as all else that is often written (see `write`). So
//! a claim is not confirmed by a field that only its holder may set: it has a list of who confirmed it, and is confirmed if its
//! holder is on it.

mod gathering;

use std::{collections::HashMap, time::Duration};

use async_trait::async_trait;
use futures_util::TryStreamExt as _;
use mongodb::{
    Collection,
    bson::{Bson, DateTime, Document as Bsons, RawDocumentBuf, doc},
    options::{Acknowledgment, WriteConcern},
};
use posthaste_event::Millis;

pub(super) use self::gathering::Gathering;
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
    let confirmed_by: Vec<&str> = claim.is_confirmed.then_some(&*claim.holder).into_iter().collect();
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
        "confirmedBy": confirmed_by,
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
    let holder = text("holder")?;
    let confirmed_by = fields.get_array("confirmedBy").map_or(&[][..], Vec::as_slice);
    Ok(Claim {
        id: text("_id")?,
        is_confirmed: confirmed_by.iter().any(|by| by.as_str() == Some(&holder)),
        holder,
        lease_until: number("leaseUntil")?,
        request: text("request")?,
        event_id: text("eventId")?,
        correlation_id: text("correlationId")?,
        status: text("status")?.parse().map_err(|_| unreadable("status"))?,
        topic: text("topic")?.parse().map_err(|_| unreadable("topic"))?,
        partition: u32::try_from(number("partition")?).map_err(|_| unreadable("partition"))?,
        offset: number("offset")?,
        expires_at: fields
            .get_datetime("expiresAt")
            .map_err(|_| unreadable("expiresAt"))?
            .timestamp_millis(),
    })
}

/// Finds the claims on these keys.
async fn find(
    connection: &Connection,
    ids: &[&str],
    limit: Duration,
) -> Result<HashMap<String, Claim>, StoreError> {
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let found = collection(connection)
        .find(doc! {"_id": {"$in": ids}})
        .max_time(limit)
        .await
        .map_err(|error| failure(&error))?;
    let found: Vec<RawDocumentBuf> = found.try_collect().await.map_err(|error| failure(&error))?;
    found
        .into_iter()
        .map(|raw| read(raw).map(|claim| (claim.id.clone(), claim)))
        .collect()
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

/// A claim that somebody wants, and what time it is for them.
type Wanted<'a> = (&'a Claim, Millis);

/// Tries claims, several of which may be on one key. Answers what then was the claim on the key of each, if there was one.
async fn claim(
    connection: &Connection,
    wanted: &[Wanted<'_>],
    batch_max: usize,
    limit: Duration,
) -> Result<Vec<Option<Claim>>, StoreError> {
    let updates = wanted
        .iter()
        .map(|(claim, _)| write::unless_there(&claim.id, fields(claim)))
        .collect::<Result<_, _>>()?;
    let loss = write::Absence::Loss;
    let made = write::run(connection, COLLECTION, updates, loss, batch_max, limit).await?;
    let mut is_made = vec![false; wanted.len()];
    for place in made {
        is_made[place] = true;
    }
    let others = wanted.iter().zip(&is_made).filter(|(_, is_made)| !**is_made);
    let ids: Vec<&str> = others.map(|((claim, _), _)| claim.id.as_str()).collect();
    let there = find(connection, &ids, limit).await?;
    let mut found = Vec::with_capacity(wanted.len());
    for ((wanted, now), is_made) in wanted.iter().zip(is_made) {
        found.push(match there.get(&wanted.id) {
            _ if is_made => Some((*wanted).clone()),
            Some(old) if old.holder != wanted.holder && old.expires_at <= *now => {
                let is_ours = replace(connection, old, wanted, limit).await?;
                is_ours.then(|| (*wanted).clone())
            }
            other => other.cloned(),
        });
    }
    Ok(found)
}

/// Confirms claims, each if it is still there.
async fn confirm(
    connection: &Connection,
    claims: &[&Claim],
    batch_max: usize,
    limit: Duration,
) -> Result<(), StoreError> {
    let updates = claims
        .iter()
        .map(|claim| write::if_there(&claim.id, doc! {"$addToSet": {"confirmedBy": &claim.holder}}))
        .collect::<Result<_, _>>()?;
    let fine = write::Absence::Fine;
    let made = write::run(connection, COLLECTION, updates, fine, batch_max, limit).await;
    made.map(drop)
}

/// Finds claims while they are their holders', who have not confirmed them.
fn held(claims: &[Claim]) -> Bsons {
    let ids: Vec<&str> = claims.iter().map(|claim| claim.id.as_str()).collect();
    let holders: Vec<&str> = claims.iter().map(|claim| claim.holder.as_str()).collect();
    // Each holder has one claim, so no pair is found that was not meant.
    doc! {"_id": {"$in": ids}, "holder": {"$in": &holders}, "confirmedBy": {"$nin": holders}}
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
        self.claims.claim(wanted, now).await
    }

    async fn take_over(&self, seen: &Claim, holder: &str, lease_until: Millis) -> Result<bool, StoreError> {
        self.on_claims(async |connection, limit| {
            let taken = collection(connection)
                .update_one(
                    doc! {"_id": &seen.id, "holder": &seen.holder, "confirmedBy": {"$ne": &seen.holder}},
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
        self.claims.confirm(claims).await
    }

    async fn release(&self, claims: &[Claim]) -> Result<(), StoreError> {
        self.on_claims(async |connection, limit| {
            collection(connection)
                .delete_many(held(claims))
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
