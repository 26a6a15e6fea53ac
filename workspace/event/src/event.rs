//! The event: what was accepted, immutable and carried byte for byte.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{Channel, Millis, Priority};

/// The event as JSON text, exactly as intake wrote it. Every hop carries these bytes on; none re-serialises them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventBytes(Bytes);

impl EventBytes {
    /// Takes bytes that are known to be one JSON value: what intake just wrote, or a part of a record that was read.
    pub(crate) const fn from_json(bytes: Bytes) -> Self {
        Self(bytes)
    }

    /// The JSON text.
    pub fn as_slice(&self) -> &[u8] {
        &self.0
    }

    /// Reads the fields, borrowing the payload.
    ///
    /// # Errors
    /// When a field is missing or has the wrong type, which a record of ours never has.
    pub fn view(&self) -> Result<EventView<'_>, serde_json::Error> {
        serde_json::from_slice(&self.0)
    }
}

/// The fields of an event. Absent is absent, never `null`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EventView<'a> {
    /// The event's id: UUIDv7 unless the client gave one.
    pub event_id: String,
    /// Whose event it is.
    pub tenant: String,
    /// How it reaches the recipient.
    pub channel: Channel,
    /// How urgent it is.
    pub priority: Priority,
    /// What to send; its shape is the channel's.
    #[serde(borrow)]
    pub payload: &'a RawValue,
    /// The client's own remarks, passed on and shown. One is interpreted: `ignoreUnsubscribe`, by dispatchers.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<&'a RawValue>,
    /// The provider that the client insists on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// Events with the same key go out one after the other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ordering_key: Option<String>,
    /// Not before this time, in milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduled_at: Option<Millis>,
    /// Not after this time, in milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Millis>,
}

/// Room for the fields beside payload and metadata, so that writing an event rarely grows its buffer.
const FIELDS_BYTES: usize = 256;

impl EventView<'_> {
    /// Writes the event once, as it will travel from now on.
    ///
    /// # Errors
    /// Never for values that came out of a JSON document.
    pub fn to_bytes(&self) -> Result<EventBytes, serde_json::Error> {
        let metadata = self.metadata.map_or(0, |metadata| metadata.get().len());
        let mut json = Vec::with_capacity(self.payload.get().len() + metadata + FIELDS_BYTES);
        serde_json::to_writer(&mut json, self)?;
        Ok(EventBytes(json.into()))
    }

    /// The record key: `tenant/orderingKey` if there is an ordering key, else the event's id, to which intake may add what
    /// [`crate::record_key`] tells of.
    pub fn key(&self) -> String {
        match &self.ordering_key {
            Some(key) => format!("{}/{key}", self.tenant),
            None => self.event_id.clone(),
        }
    }
}
