//! The records of the keys topic: how far the events of each ordering key have come.
//!
//! The topic is compacted, and every dispatcher reads all of it. A key that nothing waits for has no record at all. An
//! event's place among those of its key is its offset on the topic of first attempts: it rises with every event, is the
//! same whoever reads it, and never begins anew. A follower names the place before its own (`after`) and may go when that is
//! done; an event that names none has its turn.
//!
//! | record key | value | written by |
//! |---|---|---|
//! | `<key>#tail` | the last place that left the lane of first attempts | the owner of that lane's partition |
//! | `<key>#done` | every place up to this one is done | whoever makes the event final whose turn it is, in that hop |
//! | `<key>#gone/<seq>` | a follower that ended before its turn | whoever ends it, in that hop |
//! | `<key>#wait` | until when the event whose turn it is waits | whoever makes it wait; only a hint |
//!
//! Critical events have an order of their own: `.critical` at the end of the record key.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{Delivery, Millis};

const CRITICAL: &str = ".critical";
const BARRIER: &str = "#barrier/";

/// An ordering key with its tenant, and which of the two orders is meant.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OrderKey {
    /// `tenant/orderingKey`.
    pub key: String,
    /// Whether the order of the critical events is meant.
    pub critical: bool,
}

/// What a record of the keys topic is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    /// See [`KeyState::Tail`].
    Tail,
    /// See [`KeyState::Done`].
    Done,
    /// See [`KeyState::Gone`]; its place.
    Gone(u64),
    /// See [`KeyState::Wait`].
    Wait,
}

/// A value of the keys topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum KeyState {
    /// The last place that left the lane of first attempts: whatever comes later waits for it.
    Tail {
        /// The place.
        seq: u64,
        /// The partition of that lane's topic in which the key's events are.
        partition: u32,
        /// See [`Order::nth`](crate::delivery::Order::nth).
        nth: u64,
    },
    /// Every place up to this one is done.
    Done {
        /// The place.
        seq: u64,
        /// See [`Order::nth`](crate::delivery::Order::nth).
        nth: u64,
    },
    /// This place is done since before its turn.
    Gone {
        /// The place.
        seq: u64,
        /// The place before it.
        after: u64,
        /// See [`Order::nth`](crate::delivery::Order::nth).
        nth: u64,
    },
    /// The event whose turn it is waits.
    Wait {
        /// Its place.
        seq: u64,
        /// Until when, in milliseconds since the Unix epoch.
        until: Millis,
    },
}

/// What a record of the keys topic says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// This part of a key's state; `None` forgets it.
    State(OrderKey, Part, Option<KeyState>),
    /// Somebody wants to know when everything before this has been read.
    Barrier(String),
}

impl OrderKey {
    /// The key of an event that has a place among others.
    pub fn of(delivery: &Delivery) -> Option<Self> {
        delivery.order.as_ref().map(|order| Self {
            key: order.key.clone(),
            critical: delivery.priority.is_critical(),
        })
    }

    /// The key under which the topic keeps a part.
    pub fn record_key(&self, part: Part) -> String {
        let lane = if self.critical { CRITICAL } else { "" };
        match part {
            Part::Tail => format!("{}#tail{lane}", self.key),
            Part::Done => format!("{}#done{lane}", self.key),
            Part::Gone(seq) => format!("{}#gone/{seq}{lane}", self.key),
            Part::Wait => format!("{}#wait{lane}", self.key),
        }
    }

    /// The record that says `state`: its key and its value.
    pub fn record(&self, state: KeyState) -> (String, Bytes) {
        // Numbers only: there is nothing in it that JSON could refuse.
        let value = serde_json::to_vec(&state).unwrap_or_default();
        (self.record_key(state.part()), value.into())
    }
}

impl KeyState {
    /// What it is about.
    pub const fn part(&self) -> Part {
        match self {
            Self::Tail { .. } => Part::Tail,
            Self::Done { .. } => Part::Done,
            Self::Gone { seq, .. } => Part::Gone(*seq),
            Self::Wait { .. } => Part::Wait,
        }
    }
}

/// The record to append in the hop that makes this event final; none if nothing waits for it.
pub fn ended(delivery: &Delivery) -> Option<(String, Bytes)> {
    let order = delivery.order.as_ref()?;
    let (seq, nth) = (order.seq, order.nth);
    let state = match order.after {
        None => KeyState::Done { seq, nth },
        Some(after) => KeyState::Gone { seq, after, nth },
    };
    OrderKey::of(delivery).map(|key| key.record(state))
}

/// The record to append in the hop that makes the event wait whose turn it is; none if nothing waits for it.
pub fn waits(delivery: &Delivery) -> Option<(String, Bytes)> {
    let order = delivery.order.as_ref().filter(|order| order.after.is_none())?;
    let wait = KeyState::Wait {
        seq: order.seq,
        until: delivery.due_at?,
    };
    OrderKey::of(delivery).map(|key| key.record(wait))
}

/// The key of a record without a value that says nothing but that whoever reads it has read what came before.
pub fn barrier(name: &str) -> String {
    format!("{BARRIER}{name}")
}

/// Reads a record; `None` if it is not ours, or of a later version.
pub fn read(key: &[u8], value: Option<&[u8]>) -> Option<Said> {
    let text = std::str::from_utf8(key).ok()?;
    if let Some(name) = text.strip_prefix(BARRIER) {
        return Some(Said::Barrier(name.to_owned()));
    }
    let (key, part) = text.rsplit_once('#')?;
    let (part, critical) = match part.strip_suffix(CRITICAL) {
        Some(part) => (part, true),
        None => (part, false),
    };
    let part = match part {
        "tail" => Part::Tail,
        "done" => Part::Done,
        "wait" => Part::Wait,
        other => Part::Gone(other.strip_prefix("gone/")?.parse().ok()?),
    };
    let state = match value {
        None => None,
        Some(value) => {
            let state: KeyState = serde_json::from_slice(value).ok()?;
            Some(state).filter(|state| state.part() == part)
        }
    };
    if value.is_some() && state.is_none() {
        return None;
    }
    let key = OrderKey {
        key: key.to_owned(),
        critical,
    };
    Some(Said::State(key, part, state))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str, critical: bool) -> OrderKey {
        OrderKey {
            key: text.to_owned(),
            critical,
        }
    }

    #[test]
    fn what_is_written_is_read_whatever_is_in_the_key() {
        for text in [
            "acme/order-17",
            "a/b#tail",
            "a/#gone/7",
            "a/x#tail.critical",
            "a/ü",
        ] {
            for critical in [false, true] {
                let key = key(text, critical);
                for state in [
                    KeyState::Tail {
                        seq: 5,
                        partition: 3,
                        nth: 2,
                    },
                    KeyState::Done {
                        seq: u64::MAX,
                        nth: 1,
                    },
                    KeyState::Gone {
                        seq: 7,
                        after: 6,
                        nth: 4,
                    },
                    KeyState::Wait { seq: 5, until: 9 },
                ] {
                    let (record_key, value) = key.record(state);
                    let said = read(record_key.as_bytes(), Some(&value));
                    assert_eq!(said, Some(Said::State(key.clone(), state.part(), Some(state))));
                    let said = read(record_key.as_bytes(), None);
                    assert_eq!(said, Some(Said::State(key.clone(), state.part(), None)));
                }
            }
        }
        assert_eq!(
            read(barrier("d1.7").as_bytes(), None),
            Some(Said::Barrier("d1.7".to_owned()))
        );
    }

    #[test]
    fn what_is_not_ours_is_left_alone() {
        let value: &[u8] = br#"{"tail":{"seq":1,"partition":0,"nth":1}}"#;
        for (key, value) in [
            (&b"acme/order"[..], Some(value)),
            (b"acme/order#head", Some(value)),
            (b"acme/order#done", Some(value)),
            (b"acme/order#gone/x", None),
            (b"acme/order#tail", Some(b"{}")),
            (b"\xff#tail", None),
        ] {
            assert_eq!(read(key, value), None, "{}", String::from_utf8_lossy(key));
        }
    }
}
