//! Puts a document right, if it still is what was seen.

use std::time::Duration;

use mongodb::{
    bson::{Document as Bsons, RawDocumentBuf, doc, serialize_to_raw_document_buf},
    options::{Acknowledgment, WriteConcern},
};
use serde::{Serialize, Serializer, ser::SerializeMap as _};

use crate::{Change, Document, StoreError};

use super::{
    Connection, failure,
    read::{bsons, document},
    write,
};

/// What changes of a document; all else is the same for ever, or none of ours.
const CHANGING: [&str; 3] = ["state", "timeline", "notes"];

/// What need not be there.
const OPTIONAL: [&str; 11] = [
    "correlationId",
    "priority",
    "payload",
    "metadata",
    "orderingKey",
    "scheduledAt",
    "expiresAt",
    "replayOf",
    "policy",
    "state",
    "notes",
];

pub(super) async fn replace(
    connection: &Connection,
    seen: Option<&Document>,
    truth: &Document,
    limit: Duration,
) -> Result<bool, StoreError> {
    let found = connection
        .events
        .find_one(doc! {"_id": &truth.id})
        .max_time(limit)
        .await
        .map_err(|error| failure(&error))?;
    let Some(found) = found.map(bsons).transpose()? else {
        return Ok(false);
    };
    if document(found.clone()).ok().as_ref() != seen {
        return Ok(false);
    }
    let change = Change::from(truth.clone());
    let update = serialize_to_raw_document_buf(&Whole(&change))
        .map_err(|error| StoreError::Refused(format!("event {:?}: {error}", truth.id)))?;
    let confirmed = WriteConcern::builder()
        .w(Acknowledgment::Majority)
        .journal(true)
        .w_timeout(limit)
        .build();
    let replaced = connection
        .events
        .update_one(as_it_is(&truth.id, &found), with_unset(update)?)
        .write_concern(confirmed)
        .await
        .map_err(|error| failure(&error))?;
    Ok(replaced.matched_count > 0)
}

/// Finds the document only while no change was applied to it: by what was read, in the form in which it was read.
fn as_it_is(id: &str, found: &Bsons) -> Bsons {
    let mut filter = doc! {"_id": id};
    for name in CHANGING {
        let condition = match found.get(name) {
            Some(value) => doc! {"$eq": value},
            None => doc! {"$exists": false},
        };
        filter.insert(name, condition);
    }
    filter
}

/// `$set` of all that is given, `$unset` of the rest.
fn with_unset(set: RawDocumentBuf) -> Result<Bsons, StoreError> {
    let set = bsons(set)?;
    let unset: Bsons = OPTIONAL
        .into_iter()
        .filter(|name| !set.contains_key(name))
        .map(|name| (name.to_owned(), "".into()))
        .collect();
    let mut update = doc! {"$set": set};
    if !unset.is_empty() {
        update.insert("$unset", unset);
    }
    Ok(update)
}

struct Whole<'a>(&'a Change);

impl Serialize for Whole<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        write::whole(&mut map, self.0)?;
        map.end()
    }
}
