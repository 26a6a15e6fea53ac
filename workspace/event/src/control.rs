//! The values of the control topic: what operators ask of the services, and how far they are with it.
//!
//! The topic is compacted, and everybody reads all of it, in any order of its keys. A key names what a value is about;
//! a tombstone forgets it.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

use crate::{
    Millis,
    broadcast::{Broadcast, BroadcastProgress, BroadcastState},
};

const RETRY_NOW: &str = "retry-now/";
const RESCHEDULE: &str = "reschedule/";

/// A value of the control topic, exactly one of these.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Control {
    /// A replay was asked for.
    Replay(Box<Replay>),
    /// A replay is paused, resumed, cancelled or stopped.
    ReplayState(ReplayState),
    /// How far a replay is in one partition of the dead letters.
    ReplayPart(ReplayPart),
    /// A waiting event is to go out now.
    RetryNow(RetryNow),
    /// A scheduled event is to go out at another time.
    Reschedule(Reschedule),
    /// A broadcast was asked for, and all of it is there.
    Broadcast(Box<Broadcast>),
    /// A broadcast is to be paused, resumed or cancelled.
    BroadcastState(BroadcastState),
    /// How far a broadcast is.
    BroadcastProgress(BroadcastProgress),
}

impl Control {
    /// The key under which the topic keeps it.
    pub fn key(&self) -> String {
        match self {
            Self::Replay(replay) => format!("replay/{}", replay.id),
            Self::ReplayState(state) => format!("replay/{}/state", state.id),
            Self::ReplayPart(part) => format!("replay/{}/{}", part.id, part.partition),
            Self::RetryNow(wish) => RetryNow::key(&wish.event_id),
            Self::Reschedule(wish) => Reschedule::key(&wish.event_id, wish.at),
            Self::Broadcast(broadcast) => Broadcast::key(&broadcast.id),
            Self::BroadcastState(state) => state.key(),
            Self::BroadcastProgress(progress) => BroadcastProgress::key(&progress.id),
        }
    }

    /// The value as JSON.
    ///
    /// # Errors
    /// Never in practice: no form has a key that JSON cannot hold.
    pub fn encode(&self) -> Result<Bytes, serde_json::Error> {
        serde_json::to_vec(self).map(Bytes::from)
    }

    /// Reads a value.
    ///
    /// # Errors
    /// When it is not JSON, or a form that this version does not know.
    pub fn decode(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes)
    }
}

/// Which dead letters are meant. An empty filter means all.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LetterFilter {
    /// One of these events.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ids: Option<Vec<String>>,
    /// This tenant's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// On this channel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel: Option<String>,
    /// Given up with this provider or account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// With this kind of error, code, or fingerprint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Given up at this time or later, in milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Millis>,
    /// Given up before this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Millis>,
    /// With this in the error's message, in any case of its ASCII letters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// A dead letter's place in the order in which they go out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LetterPlace {
    /// When it was given up.
    pub at: Millis,
    /// Its partition.
    pub partition: u32,
    /// Its offset.
    pub offset: i64,
}

/// What a replay means of one partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplayShare {
    /// The partition.
    pub partition: u32,
    /// Only letters below this offset: what dies later is not meant.
    pub below: i64,
    /// How many letters were meant when the replay was asked for.
    pub letters: u64,
}

/// A replay: which letters, and how fast. Said once; it never changes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Replay {
    /// Its id; the marks of its letters name it.
    pub id: String,
    /// When it was asked for, in milliseconds since the Unix epoch.
    pub at: Millis,
    /// The instance that was asked.
    pub by: String,
    /// Which letters.
    pub filter: LetterFilter,
    /// How many of them were skipped, the oldest first.
    pub from: u64,
    /// How many at most.
    pub limit: u64,
    /// The first and the last letter that are meant; nothing was meant without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub span: Option<(LetterPlace, LetterPlace)>,
    /// What it means of each partition.
    pub shares: Vec<ReplayShare>,
    /// Whether it goes on by itself, without anybody waiting for it.
    pub background: bool,
    /// Letters per second at most; all at once without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<f64>,
    /// In this time the rate rises from nothing to all of it, in milliseconds.
    pub ramp_ms: u64,
    /// It stops when more than this part of what it sent out comes back as a dead letter.
    pub refailure_ratio: f64,
    /// Fields that this version does not know.
    #[serde(flatten)]
    pub unknown: Map<String, Json>,
}

/// Whether a replay goes on. Without one it does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplayState {
    /// The replay.
    pub id: String,
    /// What it is to do.
    pub state: Wish,
    /// When that was said, in milliseconds since the Unix epoch.
    pub at: Millis,
    /// Why, where it stopped by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Letters that had gone out when it was resumed: the ratio of failures counts from there.
    #[serde(default)]
    pub replayed: u64,
    /// And those of them that had died again.
    #[serde(default)]
    pub refailed: u64,
    /// Fields that this version does not know.
    #[serde(flatten)]
    pub unknown: Map<String, Json>,
}

/// What a replay is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Wish {
    /// Go on.
    Running,
    /// Wait until it is resumed.
    Paused,
    /// End; what has not gone out stays open.
    Cancelled,
    /// It stopped by itself, since too much died again. It can be resumed.
    Stopped,
}

/// How far a replay is in one partition; written by its owner, in the hop that gets it there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplayPart {
    /// The replay.
    pub id: String,
    /// The partition.
    pub partition: u32,
    /// Letters that went out.
    pub replayed: u64,
    /// Those of them that have died again.
    pub refailed: u64,
    /// Letters that cannot go out, such as those too large for the broker.
    pub skipped: u64,
    /// Whether nothing of it is left.
    pub finished: bool,
    /// When this was written, in milliseconds since the Unix epoch.
    pub at: Millis,
    /// The instance that wrote it.
    pub by: String,
    /// Fields that this version does not know.
    #[serde(flatten)]
    pub unknown: Map<String, Json>,
}

/// An event in the wheel is to go out now. Whoever holds it lets it go, and forgets this in the same hop.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RetryNow {
    /// Which event.
    pub event_id: String,
    /// The step with which it entered the wheel: a later wait is not meant.
    pub step: u32,
    /// When this was asked for, in milliseconds since the Unix epoch.
    pub at: Millis,
    /// Fields that this version does not know.
    #[serde(flatten)]
    pub unknown: Map<String, Json>,
}

impl RetryNow {
    /// The key of the request about this event.
    pub fn key(event_id: &str) -> String {
        format!("{RETRY_NOW}{event_id}")
    }

    /// The event in such a key.
    pub fn read_key(key: &str) -> Option<&str> {
        key.strip_prefix(RETRY_NOW)
    }
}

/// A scheduled event is to go out at another time. The latest such request counts. Whoever holds the event does
/// it, and forgets this in the same hop.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Reschedule {
    /// Which event.
    pub event_id: String,
    /// When that event was accepted: another one that is given the same id later is not meant.
    pub created_at: Millis,
    /// When it is to go out, in milliseconds since the Unix epoch.
    pub scheduled_at: Millis,
    /// When this was asked for, in milliseconds since the Unix epoch.
    pub at: Millis,
    /// Fields that this version does not know.
    #[serde(flatten)]
    pub unknown: Map<String, Json>,
}

impl Reschedule {
    /// The key of the request about this event that was made at this time: each has a key of its own, so that forgetting one
    /// that was done never forgets one that came meanwhile.
    pub fn key(event_id: &str, at: Millis) -> String {
        format!("{RESCHEDULE}{event_id}/{at}")
    }

    /// The event and the time in such a key.
    pub fn read_key(key: &str) -> Option<(&str, Millis)> {
        let (event_id, at) = key.strip_prefix(RESCHEDULE)?.rsplit_once('/')?;
        Some((event_id, at.parse().ok()?))
    }
}
