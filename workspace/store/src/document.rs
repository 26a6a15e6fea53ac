//! The status document of one event, and the change that a batch of records makes to it.

use std::collections::BTreeMap;

use posthaste_event::{Channel, Failure, Millis, Priority, Status};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

/// Where an event stands. The highest `step` wins.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// Rank of this state. It is the first field, so that MongoDB's `$max` on the whole object compares it first.
    pub step: u32,
    /// The status.
    pub status: Status,
    /// How often the event was replayed.
    pub generation: u32,
    /// Sends in this generation.
    pub attempt: u32,
    /// The provider used last, or to use next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// When this was written, in milliseconds since the Unix epoch.
    pub at: Millis,
    /// When the event may go on, while it waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due_at: Option<Millis>,
    /// The provider's id of the message it accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider_message_id: Option<String>,
    /// The newest error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
}

/// One step of an event's life.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TimelineEntry {
    /// The status from this step on.
    pub status: Status,
    /// When, in milliseconds since the Unix epoch.
    pub at: Millis,
    /// Which instance wrote it.
    pub by: String,
    /// How often the event had been replayed.
    pub generation: u32,
    /// Sends so far in that generation.
    pub attempt: u32,
    /// The provider used, or to use next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// The account used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// Until when it waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due_at: Option<Millis>,
    /// Why it waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The rule that decided, as `id@version`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// The replay that opened this generation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replay: Option<String>,
    /// The provider's id of the message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider_message_id: Option<String>,
    /// What went wrong in this step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
}

/// What never changes of an event, as far as records carry it. Outcomes carry only the required fields.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Fixed {
    /// Whose event it is.
    pub tenant: String,
    /// Its channel.
    pub channel: Channel,
    /// When it was accepted, in milliseconds since the Unix epoch.
    pub created_at: Millis,
    /// What it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<String>,
    /// Its priority.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<Priority>,
    /// What to send.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<Json>,
    /// The client's remarks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Json>,
    /// The ordering key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ordering_key: Option<String>,
    /// When the client wanted it sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduled_at: Option<Millis>,
    /// Until when it could be sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Millis>,
    /// The event that this one replays in an edited form.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replay_of: Option<String>,
}

/// The status document of one event; `_id` in the `events` collection is the event's id.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Document {
    /// The event's id.
    #[serde(rename = "_id")]
    pub id: String,
    /// What never changes.
    #[serde(flatten)]
    pub fixed: Fixed,
    /// Where it stands; absent while only notes are known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<State>,
    /// What a provider reported after accepting it; shape and rank are the receipt's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receipt: Option<Json>,
    /// Each step, keyed by its number as text.
    #[serde(default)]
    pub timeline: BTreeMap<String, TimelineEntry>,
    /// What others said of it, keyed by the note's id.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub notes: BTreeMap<String, Json>,
}

/// What a batch of records says of one event. Applying it is idempotent and commutes with every other change.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// The event's id.
    pub id: String,
    /// What never changes; absent fields are left as they are.
    pub fixed: Fixed,
    /// The newest state; stored unless a higher step is there.
    pub state: Option<State>,
    /// Steps to add.
    pub timeline: BTreeMap<u32, TimelineEntry>,
    /// Notes to add.
    pub notes: BTreeMap<String, Json>,
}
