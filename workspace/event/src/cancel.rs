//! The records of the cancel topic: who asked for which event to be withdrawn.
//!
//! The topic is compacted, and everybody who sends or moves events reads all of it. Whoever makes an event final writes the
//! tombstone of its request in that hop.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

use crate::{Delivery, Millis};

/// An event is to be withdrawn, unless it is final by then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cancel {
    /// Which event.
    pub event_id: String,
    /// When that event was accepted: another one that is given the same id later is not meant.
    pub created_at: Millis,
    /// Which generation of it: a replay that is asked for later is not meant.
    pub generation: u32,
    /// When this was asked for, in milliseconds since the Unix epoch.
    pub at: Millis,
    /// Fields that this version does not know.
    #[serde(flatten)]
    pub unknown: Map<String, Json>,
}

#[derive(Serialize, Deserialize)]
struct Envelope<C> {
    cancel: C,
}

impl Cancel {
    /// The value as JSON.
    ///
    /// # Errors
    /// Never in practice: it has no key or number that JSON cannot hold.
    pub fn encode(&self) -> Result<Bytes, serde_json::Error> {
        serde_json::to_vec(&Envelope { cancel: self }).map(Bytes::from)
    }

    /// Reads a value.
    ///
    /// # Errors
    /// When it is not JSON, or of a later version.
    pub fn decode(value: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(value).map(|Envelope { cancel }| cancel)
    }

    /// Whether this delivery is the one that is meant.
    pub fn means(&self, delivery: &Delivery) -> bool {
        self.event_id == delivery.id
            && self.created_at == delivery.created_at
            && self.generation == delivery.generation
    }
}

/// The key of the request about an event whose records have `record_key`: its ordering key, or just its id.
pub fn key(record_key: &str, event_id: &str) -> String {
    format!("{record_key}#{event_id}")
}

/// The record key and the event's id in a request's key: an ordering key may hold `#`, an id cannot.
pub fn read_key(key: &[u8]) -> Option<(&str, &str)> {
    std::str::from_utf8(key).ok()?.rsplit_once('#')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_as_it_was_written() {
        for (record_key, id) in [("e1", "e1"), ("acme/order-7", "e2"), ("acme/#7#", "e3")] {
            assert_eq!(read_key(key(record_key, id).as_bytes()), Some((record_key, id)));
        }
        assert_eq!(read_key(b"e1"), None);
        assert_eq!(read_key(b"\xff#e1"), None);
    }
}
