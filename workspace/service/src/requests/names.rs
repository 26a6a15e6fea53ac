//! Of whom something is asked, for those who hold events without their records.

use std::{
    collections::HashSet,
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

use posthaste_broker::Record;
use serde::{Deserialize, de::IgnoredAny};

use super::Requests;

/// Names by which something may be asked of an event: its own, and that of the broadcast that it may belong to. Digests, 16
/// bytes: two events may share them, so whoever finds one named looks at its record before anything is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Names([u64; 2]);

/// All names of which something is asked at a moment.
#[derive(Debug)]
pub struct Named(HashSet<u64>);

#[derive(Deserialize)]
struct Glance {
    delivery: Ids,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Ids {
    id: String,
    correlation_id: String,
    firing: Option<IgnoredAny>,
}

impl Names {
    /// Those of the event in this record; `None` if it cannot be read, or if more than requests decide on it: what is a firing of
    /// a schedule goes by that as well.
    pub fn of(record: &Record) -> Option<Self> {
        let Glance { delivery } = serde_json::from_slice(record.value.as_deref()?).ok()?;
        let names = [delivery.id, delivery.correlation_id].map(|name| digest(&name));
        delivery.firing.is_none().then_some(Self(names))
    }
}

impl Named {
    /// Whether something may be asked of the event with these names.
    pub fn may_mean(&self, Names(names): Names) -> bool {
        names.iter().any(|name| self.0.contains(name))
    }
}

impl Requests {
    /// All of which something is asked now. Takes as long as there are requests, so it is not for each event.
    pub fn named(&self) -> Named {
        if self.is_empty() {
            return Named(HashSet::new());
        }
        let inner = self.read();
        let events = inner.open.keys().map(|id| digest(id));
        Named(events.chain(inner.withdrawn.ids().map(digest)).collect())
    }
}

fn digest(name: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish()
}
