//! Broadcasts: one message for many recipients, handed over in chunks.
//!
//! The events of a broadcast wait on a topic of their own, chunk after chunk in one partition. What the broadcast means is said
//! once, on the control topic, when its last chunk is durable: before that there is none, and nothing of it is sent.
//! How far it is stands behind its chunks, in their partition, so that whoever takes the partition over finds both.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json, value::RawValue};

use crate::{Millis, Priority, Value, Work, control::Wish};

const PREFIX: &str = "broadcast/";

/// A broadcast whose recipients are all known. Said once; it never changes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Broadcast {
    /// Its id, which its events have as their correlation id.
    pub id: String,
    /// Whose it is.
    pub tenant: String,
    /// What its sender calls it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// When it was asked for, in milliseconds since the Unix epoch.
    pub at: Millis,
    /// The instance that was asked.
    pub by: String,
    /// How many recipients it has: an event for each.
    pub recipients: u64,
    /// In how many chunks they are.
    pub chunks: u32,
    /// Most recipients of a chunk.
    pub chunk_size: u32,
    /// The time between two chunks, in milliseconds.
    pub chunk_delay_ms: u64,
    /// The priority of its events, where the broadcast says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<Priority>,
    /// Nothing is handed over before this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduled_at: Option<Millis>,
    /// Fields that this version does not know.
    #[serde(flatten)]
    pub unknown: Map<String, Json>,
}

impl Broadcast {
    /// The key of what is said of this broadcast.
    pub fn key(id: &str) -> String {
        format!("{PREFIX}{id}")
    }

    /// The broadcast in a key of any of its records.
    pub fn read_key(key: &str) -> Option<&str> {
        let rest = key.strip_prefix(PREFIX)?;
        Some(rest.split_once('/').map_or(rest, |(id, _)| id))
    }

    /// The key of its chunks, which keeps them in one partition and in order.
    pub fn chunk_key(tenant: &str, id: &str) -> String {
        format!("{tenant}/{id}")
    }
}

/// What somebody wants of a broadcast. That it is to be cancelled has a key of its own, so that nothing said later takes it back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BroadcastState {
    /// Which broadcast.
    pub id: String,
    /// What it is to do.
    pub state: Wish,
    /// When that was said, in milliseconds since the Unix epoch.
    pub at: Millis,
    /// Of one that is cancelled: whose it is. Then its events that were handed over and not sent are withdrawn, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Fields that this version does not know.
    #[serde(flatten)]
    pub unknown: Map<String, Json>,
}

impl BroadcastState {
    /// The key under which the control topic keeps it.
    pub fn key(&self) -> String {
        Self::key_of(&self.id, self.state)
    }

    /// The key of such a wish.
    pub fn key_of(id: &str, wish: Wish) -> String {
        match wish {
            Wish::Cancelled => format!("{PREFIX}{id}/cancel"),
            Wish::Running | Wish::Paused | Wish::Stopped => format!("{PREFIX}{id}/state"),
        }
    }

    /// The broadcast in the key of what cancels it.
    pub fn read_cancel_key(key: &str) -> Option<&str> {
        key.strip_prefix(PREFIX)?.strip_suffix("/cancel")
    }
}

/// How a broadcast came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Ended {
    /// All of it was handed over.
    Done,
    /// It was cancelled; what had been handed over by then and was not sent is withdrawn by whoever holds it.
    Cancelled,
}

/// How far a broadcast is; written by whoever has its partition, in the hop that gets it there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BroadcastProgress {
    /// Which broadcast.
    pub id: String,
    /// Chunks that were handed over.
    pub chunks: u32,
    /// The recipients in them.
    pub recipients: u64,
    /// That nothing more is to come, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Ended>,
    /// When this was written, in milliseconds since the Unix epoch.
    pub at: Millis,
    /// The instance that wrote it.
    pub by: String,
    /// Fields that this version does not know.
    #[serde(flatten)]
    pub unknown: Map<String, Json>,
}

impl BroadcastProgress {
    /// The key under which the control topic keeps it.
    pub fn key(id: &str) -> String {
        format!("{PREFIX}{id}/progress")
    }
}

/// A chunk of a broadcast: events, ready to go.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Chunk {
    /// Which broadcast.
    pub id: String,
    /// Its place among the chunks, from 0.
    pub index: u32,
    /// How many recipients it has.
    pub recipients: u32,
    /// Their events, each as on a work topic.
    pub works: Vec<Box<RawValue>>,
}

impl Chunk {
    /// The record of a chunk of these events, each a record's value. The id is one of ours: it has nothing that JSON escapes.
    pub fn record(id: &str, index: u32, works: &[Bytes]) -> Bytes {
        let bytes: usize = works.iter().map(|work| work.len() + 1).sum();
        let recipients = works.len();
        let head = format!(r#"{{"chunk":{{"id":"{id}","index":{index},"recipients":{recipients},"works":["#);
        let mut json = Vec::with_capacity(head.len() + bytes + 3);
        json.extend_from_slice(head.as_bytes());
        for (place, work) in works.iter().enumerate() {
            if place > 0 {
                json.push(b',');
            }
            json.extend_from_slice(work);
        }
        json.extend_from_slice(b"]}}");
        json.into()
    }

    /// Its events.
    ///
    /// # Errors
    /// When one is not an event, which one of ours never is.
    pub fn events(&self) -> Result<Vec<Work>, String> {
        let read = |work: &RawValue| match Value::decode(&Bytes::copy_from_slice(work.get().as_bytes())) {
            Ok(Value::Work(work)) => Ok(work),
            Ok(_) => Err("not an event".to_owned()),
            Err(error) => Err(error.to_string()),
        };
        self.works.iter().map(|work| read(work)).collect()
    }
}

/// A record of the topic of broadcasts, exactly one of these.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum BroadcastRecord {
    /// A part of what is to be sent.
    Chunk(Chunk),
    /// How far it is.
    Progress(BroadcastProgress),
    /// Its upload came to nothing: the chunks of this broadcast are void.
    Dropped {
        /// Which broadcast.
        id: String,
    },
}

/// As much of a record as its place among the others needs.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum BroadcastGlance {
    /// See [`BroadcastRecord::Chunk`].
    #[expect(missing_docs, reason = "as in a chunk")]
    Chunk { id: String, index: u32, recipients: u32 },
    /// See [`BroadcastRecord::Progress`].
    Progress(BroadcastProgress),
    /// See [`BroadcastRecord::Dropped`].
    Dropped {
        /// Which broadcast.
        id: String,
    },
}

impl BroadcastRecord {
    /// The record's value.
    ///
    /// # Errors
    /// Never in practice: no form has a key or number that JSON cannot hold.
    pub fn encode(&self) -> Result<Bytes, serde_json::Error> {
        serde_json::to_vec(self).map(Bytes::from)
    }

    /// Reads a record.
    ///
    /// # Errors
    /// When it is not JSON, or a form that this version does not know.
    pub fn decode(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes)
    }
}

impl BroadcastGlance {
    /// Looks at a record, without what its events are.
    ///
    /// # Errors
    /// When it is not JSON, or a form that this version does not know.
    pub fn decode(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_names_its_broadcast_and_a_cancel_is_not_taken_back() {
        let keys = [
            Broadcast::key("b1"),
            BroadcastProgress::key("b1"),
            BroadcastState::key_of("b1", Wish::Paused),
            BroadcastState::key_of("b1", Wish::Cancelled),
        ];
        for key in &keys {
            assert_eq!(Broadcast::read_key(key), Some("b1"), "{key}");
        }
        assert_eq!(keys[2], BroadcastState::key_of("b1", Wish::Running));
        assert_ne!(keys[2], keys[3]);
        assert_eq!(Broadcast::read_key("replay/b1"), None);
        let cancelled: Vec<_> = keys
            .iter()
            .map(|key| BroadcastState::read_cancel_key(key))
            .collect();
        assert_eq!(cancelled, [None, None, None, Some("b1")]);
    }
}
