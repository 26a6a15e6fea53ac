//! The values of records: exactly one of work, outcome, note, replayed, foreign, answer.

use std::cell::Cell;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json, value::RawValue};

use crate::{Answer, Channel, Delivery, EventBytes, Millis, delivery::wire};

/// Longest part of a foreign record's key or value that is kept, in bytes.
pub const FOREIGN_BYTES_MAX: usize = 256 * 1024;

/// Room for a delivery and what is around it, so that writing one rarely grows its buffer.
const DELIVERY_BYTES: usize = 640;

/// Longest value for which a thread keeps a buffer.
const ROOM_KEPT_MAX: usize = 64 * 1024;

/// What is written, in as much memory as it takes and no more: records wait by the ten thousand. So it is written into a buffer
/// that each thread keeps, and copied from there; a large value, of which few wait, is not copied. `len_about` is how long it will be.
fn exactly(
    len_about: usize,
    write: impl FnOnce(&mut Vec<u8>) -> Result<(), serde_json::Error>,
) -> Result<Bytes, serde_json::Error> {
    thread_local! {
        static ROOM: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    }
    let mut room = ROOM.take();
    room.clear();
    room.reserve(len_about);
    write(&mut room)?;
    if room.capacity() > ROOM_KEPT_MAX {
        return Ok(room.into());
    }
    let written = Bytes::copy_from_slice(&room);
    ROOM.set(room);
    Ok(written)
}

/// An event and its delivery: what travels on the work topics.
#[derive(Debug, Clone, PartialEq)]
pub struct Work {
    /// What changes from hop to hop.
    pub delivery: Delivery,
    /// What never changes.
    pub event: EventBytes,
}

impl Work {
    /// The record value: `{"delivery":{...},"event":{...}}`, the event's bytes as they are.
    ///
    /// # Errors
    /// Never in practice: a delivery has no key or number that JSON cannot hold.
    pub fn encode(&self) -> Result<Bytes, serde_json::Error> {
        let event = self.event.as_slice();
        exactly(event.len() + DELIVERY_BYTES, |json| {
            json.extend_from_slice(br#"{"delivery":"#);
            wire::write(&self.delivery, json)?;
            json.extend_from_slice(br#","event":"#);
            json.extend_from_slice(event);
            json.push(b'}');
            Ok(())
        })
    }
}

/// What somebody says of an event without holding its work record: receipts, cancel requests, edits, operators.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Note {
    /// The note's own id; saying it twice is saying it once.
    pub id: String,
    /// What kind of note, such as `receipt` or `cancelRequested`.
    pub kind: String,
    /// Which event it is about.
    pub event_id: String,
    /// Whose event it is.
    pub tenant: String,
    /// The event's channel.
    pub channel: Channel,
    /// When the event was accepted, in milliseconds since the Unix epoch.
    pub created_at: Millis,
    /// When the note was written, in milliseconds since the Unix epoch.
    pub at: Millis,
    /// What it says; the kind decides the shape.
    pub data: Json,
    /// Fields that this version does not know.
    #[serde(flatten)]
    pub unknown: Map<String, Json>,
}

/// The mark that a dead letter was re-published; it stands in the letter's own partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Replayed {
    /// Which event.
    pub event_id: String,
    /// The step of the letter that this closes.
    pub step: u32,
    /// The replay job that did it.
    pub replay_id: String,
    /// Fields that this version does not know.
    #[serde(flatten)]
    pub unknown: Map<String, Json>,
}

/// A record that could not be read, kept in the dead-letter topic for people to look at. It can never be replayed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Foreign {
    /// Full name of the topic it stood on.
    pub topic: String,
    /// Its partition.
    pub partition: u32,
    /// Its offset.
    pub offset: i64,
    /// Its key, base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Its value, base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// Whether key or value was cut to [`FOREIGN_BYTES_MAX`].
    pub truncated: bool,
    /// Why it could not be read.
    pub reason: String,
    /// Fields that this version does not know.
    #[serde(flatten)]
    pub unknown: Map<String, Json>,
}

impl Foreign {
    /// Keeps what could not be read.
    pub fn new(
        topic: String,
        partition: u32,
        offset: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        reason: String,
    ) -> Self {
        let cut = |bytes: &[u8]| BASE64.encode(&bytes[..bytes.len().min(FOREIGN_BYTES_MAX)]);
        let too_long = |bytes: Option<&[u8]>| bytes.is_some_and(|bytes| bytes.len() > FOREIGN_BYTES_MAX);
        Self {
            topic,
            partition,
            offset,
            key: key.map(cut),
            value: value.map(cut),
            truncated: too_long(key) || too_long(value),
            reason,
            unknown: Map::new(),
        }
    }
}

/// A record's value, read.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// An event on its way.
    Work(Work),
    /// What became of one: a delivery without its event.
    Outcome(Delivery),
    /// What somebody says of one.
    Note(Note),
    /// A dead letter was re-published.
    Replayed(Replayed),
    /// A record that could not be read.
    Foreign(Foreign),
    /// What became of a record of the inbox.
    Answer(Box<Answer>),
}

/// Why a record's value is not one of ours.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Not JSON, or a field has the wrong type.
    #[error("not a record of ours: {0}")]
    Json(#[from] serde_json::Error),
    /// JSON, but not exactly one of the forms.
    #[error(
        "not exactly one of {{delivery, event}}, {{delivery}}, {{note}}, {{replayed}}, {{foreign}}, {{answer}}"
    )]
    Form,
}

#[derive(Deserialize)]
struct Envelope<'a> {
    delivery: Option<Delivery>,
    #[serde(borrow)]
    event: Option<&'a RawValue>,
    note: Option<Note>,
    replayed: Option<Replayed>,
    foreign: Option<Foreign>,
    answer: Option<Box<Answer>>,
}

impl Value {
    /// Reads a record's value; the event inside shares the memory of `bytes` and is not looked into.
    ///
    /// # Errors
    /// When it is not JSON, or not exactly one of the forms.
    pub fn decode(bytes: &Bytes) -> Result<Self, DecodeError> {
        match Self::as_written(bytes) {
            Some(value) => Ok(value),
            None => Self::parse(bytes),
        }
    }

    /// Reads a record that looks just like [`Value::encode`] writes one of an event that goes well, as most do.
    fn as_written(bytes: &Bytes) -> Option<Self> {
        let mut reader = wire::Reader(bytes);
        reader.pass(br#"{"delivery":"#)?;
        let delivery = reader.delivery()?;
        if reader.0 == b"}" {
            return Some(Self::Outcome(delivery));
        }
        reader.pass(br#","event":"#)?;
        let event: &RawValue = serde_json::from_slice(reader.0.strip_suffix(b"}")?).ok()?;
        let event = EventBytes::from_json(bytes.slice_ref(event.get().as_bytes()));
        Some(Self::Work(Work { delivery, event }))
    }

    /// Reads any record.
    fn parse(bytes: &Bytes) -> Result<Self, DecodeError> {
        let envelope: Envelope<'_> = serde_json::from_slice(bytes)?;
        let Envelope {
            delivery,
            event,
            note,
            replayed,
            foreign,
            answer,
        } = envelope;
        match (delivery, event, note, replayed, foreign, answer) {
            (Some(delivery), None, None, None, None, None) => Ok(Self::Outcome(delivery)),
            (Some(delivery), Some(event), None, None, None, None) => {
                let event = EventBytes::from_json(bytes.slice_ref(event.get().as_bytes()));
                Ok(Self::Work(Work { delivery, event }))
            }
            (None, None, Some(note), None, None, None) => Ok(Self::Note(note)),
            (None, None, None, Some(replayed), None, None) => Ok(Self::Replayed(replayed)),
            (None, None, None, None, Some(foreign), None) => Ok(Self::Foreign(foreign)),
            (None, None, None, None, None, Some(answer)) => Ok(Self::Answer(answer)),
            _ => Err(DecodeError::Form),
        }
    }

    /// The record value as JSON.
    ///
    /// # Errors
    /// Never in practice: no form has a key or number that JSON cannot hold.
    pub fn encode(&self) -> Result<Bytes, serde_json::Error> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        enum Wrapped<'a> {
            Note(&'a Note),
            Replayed(&'a Replayed),
            Foreign(&'a Foreign),
            Answer(&'a Answer),
        }
        let wrapped = match self {
            Self::Work(work) => return work.encode(),
            Self::Outcome(delivery) => {
                return exactly(DELIVERY_BYTES, |json| {
                    json.extend_from_slice(br#"{"delivery":"#);
                    wire::write(delivery, json)?;
                    json.push(b'}');
                    Ok(())
                });
            }
            Self::Note(note) => Wrapped::Note(note),
            Self::Replayed(replayed) => Wrapped::Replayed(replayed),
            Self::Foreign(foreign) => Wrapped::Foreign(foreign),
            Self::Answer(answer) => Wrapped::Answer(answer),
        };
        serde_json::to_vec(&wrapped).map(Bytes::from)
    }
}

#[cfg(test)]
mod tests;
