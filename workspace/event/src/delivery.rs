//! The delivery: everything about an event that changes on its way, and how each hop may change it.
//!
//! Here is its shape; [`hops`] holds the only ways to change it.

use std::{collections::BTreeMap, str::FromStr};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

use crate::{
    Channel, Failure, FieldError, Millis, Priority, Status, failure::LoggedFailure, fields::excerpt,
    firing::Firing,
};

pub mod hops;
pub(crate) mod wire;

pub use hops::Accepted;

/// Where the wheel or a replay must put an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Lane {
    /// First attempts of critical events.
    #[serde(rename = "critical")]
    Critical,
    /// First attempts of all others.
    #[serde(rename = "default")]
    Default,
    /// Due retries and replays.
    #[serde(rename = "retry")]
    Retry,
    /// Due retries and replays of critical events.
    #[serde(rename = "retry.critical")]
    RetryCritical,
}

impl Lane {
    /// The lane on which an event of this priority comes back.
    pub const fn back(priority: Priority) -> Self {
        if priority.is_critical() {
            Self::RetryCritical
        } else {
            Self::Retry
        }
    }
}

/// What to do when it is unknown whether a send happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// Send again with the same idempotency key.
    #[default]
    NoLoss,
    /// Never send again; ask the provider or wait for its callback.
    NoDuplicate,
}

impl Policy {
    /// Every policy.
    pub const ALL: [Self; 2] = [Self::NoLoss, Self::NoDuplicate];

    /// The name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoLoss => "no-loss",
            Self::NoDuplicate => "no-duplicate",
        }
    }
}

impl FromStr for Policy {
    type Err = FieldError;

    fn from_str(name: &str) -> Result<Self, FieldError> {
        Self::ALL
            .into_iter()
            .find(|policy| policy.as_str() == name)
            .ok_or_else(|| {
                FieldError::new(
                    "policy",
                    format!("unknown policy {:?}", excerpt(name)),
                    Self::ALL.map(Self::as_str).join(", "),
                )
            })
    }
}

/// The sends of one event through one account.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sends {
    /// The provider behind the account.
    pub provider: String,
    /// Part of the idempotency key: grows after a definite rejection, unless a send before it is in doubt, and by a replay;
    /// never after an ambiguous failure.
    pub n: u32,
    /// Sends in this generation.
    pub tries: u32,
    /// How many of them were ambiguous, one that a crash may have hidden included.
    pub ambiguous: u32,
    /// Fields that this version does not know.
    #[serde(flatten)]
    pub unknown: Map<String, Json>,
}

/// Why an event waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WaitReason {
    /// The client asked for a later time.
    Scheduled,
    /// The rules put the next attempt there.
    Retry,
    /// No free place at the provider's account.
    Rate,
    /// The provider's circuit is open.
    Circuit,
    /// An earlier event of the same key is not done.
    Order,
    /// An operator paused it.
    Paused,
    /// The key that its payload is sealed with is not there.
    Key,
}

impl WaitReason {
    /// Every reason, with its name on the wire.
    pub const NAMES: [(Self, &str); 7] = [
        (Self::Scheduled, "scheduled"),
        (Self::Retry, "retry"),
        (Self::Rate, "rate"),
        (Self::Circuit, "circuit"),
        (Self::Order, "order"),
        (Self::Paused, "paused"),
        (Self::Key, "key"),
    ];
}

/// The wait that an event is in, or comes out of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Wheel {
    /// Why it waits.
    pub reason: WaitReason,
    /// Where: the topic's name without prefix and `delay.`, such as `near` or `8m`.
    pub tier: String,
    /// Moves inside the wheel since it entered; only records with 0 moves are facts of their own.
    pub moves: u32,
    /// The slot reserved for it, in milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reserved_at: Option<Millis>,
    /// Fields that this version does not know.
    #[serde(flatten)]
    pub unknown: Map<String, Json>,
}

/// The event's place among those with the same ordering key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Order {
    /// The key, with the tenant: `tenant/orderingKey`.
    pub key: String,
    /// The place: it rises from event to event.
    pub seq: u64,
    /// The place before it, which must be done first. Without one the event has its turn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
    /// How many of the key were put off before it since it waits. Says only how long to wait.
    #[serde(default)]
    pub nth: u64,
    /// Fields that this version does not know.
    #[serde(flatten)]
    pub unknown: Map<String, Json>,
}

/// The rule that decided last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleRef {
    /// The rule's id in its file.
    pub id: String,
    /// The version of that file.
    pub version: String,
    /// Fields that this version does not know.
    #[serde(flatten)]
    pub unknown: Map<String, Json>,
}

/// The replay that opened this generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplayRef {
    /// The replay's id.
    pub id: String,
    /// The step of the dead letter.
    pub from_step: u32,
    /// When, in milliseconds since the Unix epoch.
    pub at: Millis,
    /// Fields that this version does not know.
    #[serde(flatten)]
    pub unknown: Map<String, Json>,
}

/// What changes while an event is on its way. Absent is absent, never `null`; times are milliseconds since the epoch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Delivery {
    /// Version of the format.
    pub v: u8,
    /// The event's id.
    pub id: String,
    /// Ties together what belongs together for the client.
    pub correlation_id: String,
    /// Whose event it is.
    pub tenant: String,
    /// The event's channel.
    pub channel: Channel,
    /// The event's priority.
    pub priority: Priority,
    /// When the event was accepted.
    pub created_at: Millis,
    /// Raised by one by each hop that says something new; never reset.
    pub step: u32,
    /// 0 at first, one more with each replay.
    pub generation: u32,
    /// Sends in this generation.
    pub attempt: u32,
    /// Where the event stands.
    pub status: Status,
    /// When this step was written.
    pub at: Millis,
    /// The instance that wrote it.
    pub by: String,
    /// From when `maxAge` counts: the latest of accepted, scheduled, and the replay that opened this generation.
    pub since: Millis,
    /// When the event may go on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due_at: Option<Millis>,
    /// After when it must not be sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Millis>,
    /// What to do when a send is in doubt.
    pub policy: Policy,
    /// Where the wheel or a replay must put it.
    pub lane: Lane,
    /// The provider to use next; in an outcome, the one used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// The account to use next; in an outcome, the one used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// Whether the client insists on the provider: no failover then.
    pub pinned: bool,
    /// What was sent, per account.
    pub sends: BTreeMap<String, Sends>,
    /// The provider's id of the message it accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider_message_id: Option<String>,
    /// The wait that it is in or comes out of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wheel: Option<Wheel>,
    /// Its place among those with the same ordering key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<Order>,
    /// The rule that decided last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<RuleRef>,
    /// The newest error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
    /// The first two and the last eight failures.
    pub failures: Vec<LoggedFailure>,
    /// How many were dropped between them.
    pub failures_dropped: u32,
    /// The replay that opened this generation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replay: Option<ReplayRef>,
    /// The event of which this one is an edited replay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replay_of: Option<String>,
    /// The trace context of the request, if its trace is recorded; see [`crate::trace`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// The firing of a schedule that it is, until the one after it is planned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub firing: Option<Box<Firing>>,
    /// Fields that this version does not know.
    #[serde(flatten)]
    pub unknown: Map<String, Json>,
}
