//! The status document of one event.

use std::collections::BTreeMap;

use posthaste_event::{Channel, Failure, Millis, Priority, Status, delivery::Policy};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

/// Where an event stands. The highest `step` wins.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// Rank of this state. It is the first field, so that MongoDB's `$max` on the whole object compares it first.
    pub step: u32,
    /// When this was written, in milliseconds since the Unix epoch. The second field: should a step ever be said twice
    /// (an append that was confirmed too late and repeated), the later one wins everywhere.
    pub at: Millis,
    /// The status.
    pub status: Status,
    /// How often the event was replayed.
    pub generation: u32,
    /// Sends in this generation.
    pub attempt: u32,
    /// The provider used last, or to use next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// When the event may go on, while it waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due_at: Option<Millis>,
    /// The provider's id of the message it accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider_message_id: Option<String>,
    /// The newest error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Box<Failure>>,
}

impl State {
    /// What decides which of two states is kept: the higher. It follows the order in which MongoDB compares the fields.
    pub const fn rank(&self) -> (u32, Millis, &'static str) {
        (self.step, self.at, self.status.as_str())
    }
}

/// One step of an event's life.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TimelineEntry {
    /// When, in milliseconds since the Unix epoch. It is the first field, so that `$max` compares it first.
    pub at: Millis,
    /// The status from this step on.
    pub status: Status,
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
    pub error: Option<Box<Failure>>,
}

impl TimelineEntry {
    /// What decides which of two entries for the same step is kept: the higher, as with [`State::rank`].
    pub fn rank(&self) -> (Millis, &'static str, &str) {
        (self.at, self.status.as_str(), &self.by)
    }
}

/// What never changes of an event, as far as records carry it. Outcomes carry only the required fields. `J` is what JSON of any
/// shape is held as.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Fixed<J = Json> {
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
    pub payload: Option<J>,
    /// The client's remarks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<J>,
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
    /// What to do when a send is in doubt, where that is not the usual.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<Policy>,
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
    /// Each step, keyed by its number as text (so in the order of text: 10 comes before 2).
    #[serde(default)]
    pub timeline: BTreeMap<String, TimelineEntry>,
    /// What others said of it, keyed by the note's id.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub notes: BTreeMap<String, Json>,
}

impl<J> Fixed<J> {
    /// What is known of every event, and nothing else.
    pub const fn new(tenant: String, channel: Channel, created_at: Millis) -> Self {
        Self {
            tenant,
            channel,
            created_at,
            correlation_id: None,
            priority: None,
            payload: None,
            metadata: None,
            ordering_key: None,
            scheduled_at: None,
            expires_at: None,
            replay_of: None,
            policy: None,
        }
    }

    /// The same with JSON held in another way.
    pub fn map<K>(self, held: impl Fn(J) -> K) -> Fixed<K> {
        Fixed {
            tenant: self.tenant,
            channel: self.channel,
            created_at: self.created_at,
            correlation_id: self.correlation_id,
            priority: self.priority,
            payload: self.payload.map(&held),
            metadata: self.metadata.map(&held),
            ordering_key: self.ordering_key,
            scheduled_at: self.scheduled_at,
            expires_at: self.expires_at,
            replay_of: self.replay_of,
            policy: self.policy,
        }
    }

    /// Takes over what `other` has; what it lacks stays.
    pub fn merge(&mut self, other: Self) {
        fn take<T>(mine: &mut Option<T>, other: Option<T>) {
            if other.is_some() {
                *mine = other;
            }
        }
        self.tenant = other.tenant;
        self.channel = other.channel;
        self.created_at = other.created_at;
        take(&mut self.correlation_id, other.correlation_id);
        take(&mut self.priority, other.priority);
        take(&mut self.payload, other.payload);
        take(&mut self.metadata, other.metadata);
        take(&mut self.ordering_key, other.ordering_key);
        take(&mut self.scheduled_at, other.scheduled_at);
        take(&mut self.expires_at, other.expires_at);
        take(&mut self.replay_of, other.replay_of);
        take(&mut self.policy, other.policy);
    }
}
