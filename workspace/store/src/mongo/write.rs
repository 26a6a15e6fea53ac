//! Changes as `update` commands that every MongoDB version runs, and what their answers mean.
//!
//! Only `_id` is in the filter; `$max` decides by the first fields of `state` and of each timeline entry. So a command can be
//! repeated, and commands can overtake each other, without a read, a transaction or a pipeline.

use std::{collections::BTreeMap, time::Duration};

use mongodb::bson::{
    DateTime, Document, RawArrayBuf, RawDocumentBuf, cstr, doc, raw::CStr, rawdoc,
    serialize_to_raw_document_buf,
};
use serde::{Serialize, Serializer, ser::SerializeMap};
use tracing::debug;

use crate::{Change, Fixed, InboxMessage, StoreError, Text};

use super::{
    Connection, devices, failure,
    form::{Held, HeldText, field_of},
};

/// Bytes in one command, about. MongoDB takes 16 MiB.
const COMMAND_BYTES: usize = 8 << 20;

/// Two first writes of one event at the same time collide on its id; the loser is repeated, and finds the document then.
const COLLISIONS_MAX: u32 = 5;

const DUPLICATE_KEY: i32 = 11_000;

/// The update that puts one change into its document.
pub(super) fn of_change(change: &Change) -> Result<RawDocumentBuf, StoreError> {
    statement(&change.id, &Modifiers(change))
}

/// The document that a change makes where there is none.
pub(super) fn new_document(change: &Change) -> Result<RawDocumentBuf, StoreError> {
    struct New<'a>(&'a Change);
    impl Serialize for New<'_> {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            let mut map = serializer.serialize_map(None)?;
            map.serialize_entry("_id", &self.0.id)?;
            whole(&mut map, self.0)?;
            map.end()
        }
    }
    serialize_to_raw_document_buf(&New(change)).map_err(|error| unwritable(&change.id, &error))
}

/// The update that puts a message into an inbox, unless it is there.
pub(super) fn of_message(message: &InboxMessage) -> Result<RawDocumentBuf, StoreError> {
    #[derive(Serialize)]
    struct Once<'a> {
        #[serde(rename = "$setOnInsert")]
        message: Message<'a>,
    }
    statement(
        &message.id,
        &Once {
            message: Message(message),
        },
    )
}

/// The update that makes a document, unless it is there.
pub(super) fn unless_there(id: &str, fields: Document) -> Result<RawDocumentBuf, StoreError> {
    statement(id, &doc! {"$setOnInsert": fields})
}

/// The update of a document, if it is there.
pub(super) fn if_there(id: &str, update: Document) -> Result<RawDocumentBuf, StoreError> {
    serialized(id, &update, false)
}

fn statement(id: &str, update: &impl Serialize) -> Result<RawDocumentBuf, StoreError> {
    serialized(id, update, true)
}

fn serialized(id: &str, update: &impl Serialize, upsert: bool) -> Result<RawDocumentBuf, StoreError> {
    #[derive(Serialize)]
    struct Filter<'a> {
        _id: &'a str,
    }
    #[derive(Serialize)]
    struct Statement<'a, U> {
        q: Filter<'a>,
        u: &'a U,
        upsert: bool,
    }
    serialize_to_raw_document_buf(&Statement {
        q: Filter { _id: id },
        u: update,
        upsert,
    })
    .map_err(|error| unwritable(id, &error))
}

fn unwritable(id: &str, error: &mongodb::bson::error::Error) -> StoreError {
    StoreError::Refused(format!("event {id:?}: {error}"))
}

struct Modifiers<'a>(&'a Change);

impl Serialize for Modifiers<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry("$max", &Ranked(self.0))?;
        map.serialize_entry("$set", &Unranked(self.0))?;
        map.end()
    }
}

struct Ranked<'a>(&'a Change);

impl Serialize for Ranked<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let change = self.0;
        let mut map = serializer.serialize_map(None)?;
        if let Some(state) = &change.state {
            map.serialize_entry("state", state)?;
        }
        for (step, entry) in change.timeline.iter() {
            map.serialize_entry(&format!("timeline.{step}"), entry)?;
        }
        // Only the TTL index looks at this one, and needs a date.
        map.serialize_entry("keepFrom", &DateTime::from_millis(change.keep_from()))?;
        map.end()
    }
}

struct Unranked<'a>(&'a Change);

impl Serialize for Unranked<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        fixed(&mut map, &self.0.fixed)?;
        for (id, note) in &self.0.notes {
            map.serialize_entry(&format!("notes.{}", field_of(id)), &Held(note))?;
        }
        map.end()
    }
}

/// All that a change says, as the fields of a document.
pub(super) fn whole<M: SerializeMap>(map: &mut M, change: &Change) -> Result<(), M::Error> {
    fixed(map, &change.fixed)?;
    if let Some(state) = &change.state {
        map.serialize_entry("state", state)?;
    }
    map.serialize_entry("timeline", &change.timeline)?;
    if !change.notes.is_empty() {
        let notes: BTreeMap<String, _> = (change.notes.iter())
            .map(|(id, note)| (field_of(id), Held(note)))
            .collect();
        map.serialize_entry("notes", &notes)?;
    }
    // Only the TTL index looks at this one, and needs a date.
    map.serialize_entry("keepFrom", &DateTime::from_millis(change.keep_from()))
}

/// The fields that never change, those that are given.
pub(super) fn fixed<M: SerializeMap>(map: &mut M, fixed: &Fixed<Text>) -> Result<(), M::Error> {
    fn given<M: SerializeMap>(
        map: &mut M,
        name: &str,
        value: Option<&impl Serialize>,
    ) -> Result<(), M::Error> {
        value.map_or(Ok(()), |value| map.serialize_entry(name, value))
    }
    map.serialize_entry("tenant", &fixed.tenant)?;
    map.serialize_entry("channel", &fixed.channel)?;
    map.serialize_entry("createdAt", &fixed.created_at)?;
    given(map, "correlationId", fixed.correlation_id.as_ref())?;
    given(map, "priority", fixed.priority.as_ref())?;
    given(map, "payload", fixed.payload.as_ref().map(HeldText).as_ref())?;
    given(map, "metadata", fixed.metadata.as_ref().map(HeldText).as_ref())?;
    given(map, "orderingKey", fixed.ordering_key.as_ref())?;
    given(map, "scheduledAt", fixed.scheduled_at.as_ref())?;
    given(map, "expiresAt", fixed.expires_at.as_ref())?;
    given(map, "replayOf", fixed.replay_of.as_ref())?;
    given(map, "policy", fixed.policy.as_ref())
}

struct Message<'a>(&'a InboxMessage);

impl Serialize for Message<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let message = self.0;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("tenant", &message.tenant)?;
        map.serialize_entry("recipient", &message.recipient)?;
        map.serialize_entry("title", &message.title)?;
        map.serialize_entry("body", &message.body)?;
        if let Some(data) = &message.data {
            map.serialize_entry("data", &Held(data))?;
        }
        map.serialize_entry("at", &message.at)?;
        map.serialize_entry("keepFrom", &DateTime::from_millis(message.at))?;
        map.end()
    }
}

/// What it means that an update found no document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Absence {
    /// The server dropped the update: it makes a document that is not there.
    Loss,
    /// Nothing.
    Fine,
}

/// A command, and what the list in it is called.
const UPDATE: (&CStr, &CStr) = (cstr!("update"), cstr!("updates"));
const INSERT: (&CStr, &CStr) = (cstr!("insert"), cstr!("documents"));

/// Something to write, and its place among all that was asked for.
type Placed = (usize, RawDocumentBuf);

/// Runs the updates, in as many commands as the bounds ask for. Returns the places of those that made their document.
pub(super) async fn run(
    connection: &Connection,
    collection: &str,
    updates: Vec<RawDocumentBuf>,
    absence: Absence,
    batch_max: usize,
    timeout: Duration,
) -> Result<Vec<usize>, StoreError> {
    let mut made = Vec::new();
    for mut batch in batches(updates, batch_max) {
        for collision in 0.. {
            let done = command(connection, UPDATE, collection, &batch, timeout).await?;
            let collided = collisions(&done, absence, batch.len())?;
            let upserted = done.get_array("upserted").map_or(&[][..], Vec::as_slice);
            made.extend(
                upserted
                    .iter()
                    .filter_map(|one| place(one.as_document()?, "index"))
                    .filter_map(|index| Some(batch.get(index)?.0)),
            );
            if collided.is_empty() {
                break;
            }
            if collision == COLLISIONS_MAX {
                return Err(StoreError::Unreachable(format!(
                    "{} updates kept colliding",
                    collided.len()
                )));
            }
            debug!(
                count = collided.len(),
                "first writes of the same events collided; repeating"
            );
            let mut index = 0;
            batch.retain(|_| {
                index += 1;
                collided.contains(&(index - 1))
            });
        }
    }
    Ok(made)
}

/// Inserts documents, in as many commands as the bounds ask for. Returns the places of those whose id was there already: they
/// changed nothing.
pub(super) async fn insert(
    connection: &Connection,
    collection: &str,
    documents: Vec<RawDocumentBuf>,
    batch_max: usize,
    timeout: Duration,
) -> Result<Vec<usize>, StoreError> {
    let mut there = Vec::new();
    for batch in batches(documents, batch_max) {
        let done = command(connection, INSERT, collection, &batch, timeout).await?;
        let collided = collisions(&done, Absence::Loss, batch.len())?;
        there.extend(collided.into_iter().filter_map(|index| Some(batch.get(index)?.0)));
    }
    Ok(there)
}

/// What goes into one command each.
fn batches(all: Vec<RawDocumentBuf>, batch_max: usize) -> impl Iterator<Item = Vec<Placed>> {
    let mut all = all.into_iter().enumerate().peekable();
    std::iter::from_fn(move || {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while batch.len() < batch_max
            && let Some(next) =
                all.next_if(|(_, next)| batch.is_empty() || bytes + next.as_bytes().len() <= COMMAND_BYTES)
        {
            bytes += next.1.as_bytes().len();
            batch.push(next);
        }
        (!batch.is_empty()).then_some(batch)
    })
}

/// Runs one command.
async fn command(
    connection: &Connection,
    (name, list): (&CStr, &CStr),
    collection: &str,
    batch: &[Placed],
    timeout: Duration,
) -> Result<Document, StoreError> {
    let mut all = RawArrayBuf::new();
    for (_, one) in batch {
        all.push(one.as_ref());
    }
    let wait_ms = i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX);
    let mut command = RawDocumentBuf::new();
    command.append(name, collection);
    command.append(cstr!("ordered"), false);
    command.append(
        cstr!("writeConcern"),
        rawdoc! {"w": "majority", "j": true, "wtimeout": wait_ms},
    );
    command.append(list, all);
    let done = connection.database.run_raw_command(command).await;
    done.map_err(|error| failure(&error))
}

/// Which of a command collided with another first write of the same event, or found that the document was there.
///
/// # Errors
/// When any update failed otherwise, or was not confirmed.
fn collisions(answer: &Document, absence: Absence, asked: usize) -> Result<Vec<usize>, StoreError> {
    if let Ok(error) = answer.get_document("writeConcernError") {
        return Err(StoreError::Unreachable(format!(
            "not confirmed by the majority: {}",
            words(error)
        )));
    }
    let errors = answer.get_array("writeErrors").map_or(&[][..], Vec::as_slice);
    let mut collided = Vec::new();
    for error in errors.iter().filter_map(|error| error.as_document()) {
        match (number(error, "code"), place(error, "index")) {
            (Some(code), Some(index)) if code == i64::from(DUPLICATE_KEY) => collided.push(index),
            (code, _) => return Err(refusal(code, words(error))),
        }
    }
    // An answer that does not account for every update has dropped some.
    let done = place(answer, "n").unwrap_or(0);
    let is_short = absence == Absence::Loss && done + collided.len() < asked;
    if errors.len() != collided.len() || is_short {
        return Err(StoreError::Unreachable(format!(
            "{done} of {asked} updates were confirmed"
        )));
    }
    Ok(collided)
}

/// Error codes by which MongoDB says that the data itself is not storable: BadValue, FailedToParse, TypeMismatch, Overflow,
/// InvalidLength, PathNotViable, ConflictingUpdateOperators, DollarPrefixedFieldName, InvalidIdField, EmptyFieldName,
/// DottedFieldName, ImmutableField, DocumentValidationFailure, BSONObjectTooLarge, and the document that grew too large.
/// All else, such as a missing right, can mend: <https://www.mongodb.com/docs/manual/reference/error-codes/>.
const UNSTORABLE: [i64; 16] = [
    2, 9, 14, 15, 16, 28, 40, 52, 53, 56, 57, 66, 121, 10_334, 17_419, 17_280,
];

pub(super) fn refusal(code: Option<i64>, words: String) -> StoreError {
    if code.is_some_and(|code| UNSTORABLE.contains(&code)) {
        StoreError::Refused(words)
    } else {
        StoreError::Unreachable(words)
    }
}

fn words(error: &Document) -> String {
    let code = number(error, "code").unwrap_or_default();
    format!(
        "{} (code {code})",
        error.get_str("errmsg").unwrap_or("no reason given")
    )
}

/// A place or a count.
fn place(document: &Document, name: &str) -> Option<usize> {
    usize::try_from(number(document, name)?).ok()
}

/// A number, in whichever type the server chose for it.
pub(super) fn number(document: &Document, name: &str) -> Option<i64> {
    match document.get(name)? {
        mongodb::bson::Bson::Int32(value) => Some((*value).into()),
        mongodb::bson::Bson::Int64(value) => Some(*value),
        #[expect(
            clippy::cast_possible_truncation,
            reason = "counts and codes are small whole numbers"
        )]
        mongodb::bson::Bson::Double(value) => Some(*value as i64),
        _ => None,
    }
}

/// Makes the indexes that the queries use, and the one by which MongoDB forgets. Best effort: a server that refuses one is
/// slower there, not wrong. Returns what was refused.
pub(super) async fn make_indexes(connection: &Connection, retention_days: u32) -> Vec<String> {
    let newest = |first: &str| match first {
        "" => doc! {"createdAt": -1, "_id": -1},
        first => doc! {first: 1, "createdAt": -1, "_id": -1},
    };
    let mut wanted = vec![
        ("events", "by_time", newest(""), None),
        ("events", "by_tenant", newest("tenant"), None),
        ("events", "by_status", newest("state.status"), None),
        ("events", "by_channel", newest("channel"), None),
        ("events", "by_provider", newest("state.provider"), None),
        ("events", "by_correlation", newest("correlationId"), None),
        (
            "inbox",
            "by_recipient",
            doc! {"tenant": 1, "recipient": 1, "at": -1, "_id": -1},
            None,
        ),
        ("lists", "by_code", doc! {"tenant": 1, "code": 1}, None),
        ("list_pages", "by_time", doc! {"at": 1}, None),
        ("list_pages", "by_version", doc! {"version": 1}, None),
    ];
    let seconds = (retention_days > 0).then(|| i64::from(retention_days) * 86_400);
    for collection in ["events", "inbox"] {
        wanted.push((collection, "by_retention", doc! {"keepFrom": 1}, seconds));
    }
    wanted.push((
        devices::COLLECTION,
        "by_user",
        doc! {"tenant": 1, "user": 1},
        None,
    ));
    for collection in ["claims", devices::COLLECTION] {
        wanted.push((collection, "by_end", doc! {"expiresAt": 1}, Some(0)));
    }
    let mut refused = Vec::new();
    for (collection, name, key, expire_after) in wanted {
        let mut index = doc! {"key": key, "name": name};
        if let Some(seconds) = expire_after {
            index.insert("expireAfterSeconds", seconds);
        }
        let create = doc! {"createIndexes": collection, "indexes": [index]};
        if let Err(error) = connection.database.run_command(create).await {
            // The index is there with another time to keep: that alone can be changed in place.
            let change =
                doc! {"collMod": collection, "index": {"name": name, "expireAfterSeconds": expire_after}};
            if expire_after.is_none() || connection.database.run_command(change).await.is_err() {
                refused.push(format!("{collection}.{name}: {error}"));
            }
        }
    }
    refused
}
