//! The status document of one event, and the change that a batch of records makes to it.

use std::collections::{BTreeMap, btree_map::Entry};

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
    pub error: Option<Failure>,
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
    pub error: Option<Failure>,
}

impl TimelineEntry {
    /// What decides which of two entries for the same step is kept: the higher, as with [`State::rank`].
    pub fn rank(&self) -> (Millis, &'static str, &str) {
        (self.at, self.status.as_str(), &self.by)
    }
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

impl Fixed {
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

impl Change {
    /// A change that says no more than whose event it is.
    pub const fn new(id: String, fixed: Fixed) -> Self {
        Self {
            id,
            fixed,
            state: None,
            timeline: BTreeMap::new(),
            notes: BTreeMap::new(),
        }
    }

    /// Takes over a state, unless a higher one is there.
    pub fn add_state(&mut self, state: State) {
        if self.state.as_ref().is_none_or(|kept| kept.rank() < state.rank()) {
            self.state = Some(state);
        }
    }

    /// Takes over a step, unless a higher entry for it is there.
    pub fn add_step(&mut self, step: u32, entry: TimelineEntry) {
        match self.timeline.entry(step) {
            Entry::Vacant(free) => {
                free.insert(entry);
            }
            Entry::Occupied(mut kept) if kept.get().rank() < entry.rank() => {
                kept.insert(entry);
            }
            Entry::Occupied(_) => {}
        }
    }

    /// Adds what another change of the same event says. Merging first and applying once is applying both.
    pub fn merge(&mut self, other: Self) {
        self.fixed.merge(other.fixed);
        if let Some(state) = other.state {
            self.add_state(state);
        }
        for (step, entry) in other.timeline {
            self.add_step(step, entry);
        }
        self.notes.extend(other.notes);
    }

    /// From when the document's retention counts, in milliseconds since the Unix epoch: the latest time that this names, so
    /// that an event that still waits for its day is not forgotten before it.
    pub fn keep_from(&self) -> Millis {
        let state = self.state.as_ref();
        [
            Some(self.fixed.created_at),
            self.fixed.scheduled_at,
            state.map(|state| state.at),
            state.and_then(|state| state.due_at),
        ]
        .into_iter()
        .flatten()
        .max()
        .unwrap_or(self.fixed.created_at)
    }

    /// The document that a store without one of this event has after this change.
    pub fn into_document(self) -> Document {
        Document {
            id: self.id,
            fixed: self.fixed,
            state: self.state,
            receipt: None,
            timeline: self
                .timeline
                .into_iter()
                .map(|(step, entry)| (step.to_string(), entry))
                .collect(),
            notes: self.notes,
        }
    }
}

impl From<Document> for Change {
    /// The change that says all that the document says, its receipt left out.
    fn from(document: Document) -> Self {
        let timeline = document.timeline.into_iter();
        Self {
            id: document.id,
            fixed: document.fixed,
            state: document.state,
            timeline: timeline
                .filter_map(|(step, entry)| Some((step.parse().ok()?, entry)))
                .collect(),
            notes: document.notes,
        }
    }
}
