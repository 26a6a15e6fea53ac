//! Broadcasts that were cancelled: what was handed over of them and not sent is withdrawn by whoever holds it.
//!
//! An event of a broadcast has its id as correlation id, so one request stands for all of them. It is forgotten with the broadcast.

use std::collections::HashMap;

use posthaste_broker::Record;
use posthaste_event::{Millis, broadcast::BroadcastState, control::Control};
use tracing::warn;

/// Broadcasts that are heard of at most, some 150 bytes each.
const HEARD_MAX: usize = 100_000;

/// How far clocks of instances may differ, in milliseconds.
const CLOCKS_DIFFER_MS: Millis = 300_000;

/// How far into a record its correlation id is looked for, in bytes. Ids before it have up to 128 characters.
const GLANCED_BYTES: usize = 1_024;

/// See the module.
#[derive(Default)]
pub(super) struct Withdrawn(HashMap<Box<str>, Cancelled>);

struct Cancelled {
    tenant: Box<str>,
    at: Millis,
    /// How often the topics had been lost sight of when this was heard.
    round: u32,
}

impl Withdrawn {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The ids of the broadcasts.
    pub(super) fn ids(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(|id| &**id)
    }

    /// Forgets what was not heard in this round.
    pub(super) fn retain(&mut self, round: u32) {
        self.0.retain(|_, cancelled| cancelled.round == round);
    }

    /// Hears that a broadcast was cancelled, or is forgotten. Answers whether it is new; `None` if it says nothing here.
    pub(super) fn hear(&mut self, id: &str, asked: Option<Control>, round: u32) -> Option<bool> {
        let Some(asked) = asked else {
            self.0.remove(id);
            return Some(false);
        };
        let Control::BroadcastState(BroadcastState {
            tenant: Some(tenant),
            at,
            ..
        }) = asked
        else {
            return None;
        };
        if self.0.len() >= HEARD_MAX && !self.0.contains_key(id) {
            warn!(
                broadcast.id = id,
                "{HEARD_MAX} cancelled broadcasts are remembered; what was handed over of {id} goes out"
            );
            return None;
        }
        let cancelled = Cancelled {
            tenant: tenant.into(),
            at,
            round,
        };
        Some(self.0.insert(id.into(), cancelled).is_none())
    }

    /// Whether an event is withdrawn. What was accepted after the cancel is none of the broadcast's, and what was replayed is
    /// wanted.
    pub(super) fn means(
        &self,
        correlation_id: &str,
        tenant: &str,
        created_at: Millis,
        generation: u32,
    ) -> bool {
        self.0.get(correlation_id).is_some_and(|cancelled| {
            *cancelled.tenant == *tenant
                && generation == 0
                && created_at <= cancelled.at.saturating_add(CLOCKS_DIFFER_MS)
        })
    }

    /// Whether one look at a record leaves open that it is meant. The delivery stands first in it, and a quote within a text is
    /// escaped.
    pub(super) fn may_mean(&self, record: &Record) -> bool {
        const NAME: &[u8] = br#""correlationId":""#;
        if self.0.is_empty() {
            return false;
        }
        let Some(value) = record.value.as_deref() else {
            return false;
        };
        let head = &value[..value.len().min(GLANCED_BYTES)];
        let Some(at) = head.windows(NAME.len()).position(|bytes| bytes == NAME) else {
            return true;
        };
        let rest = &value[at + NAME.len()..];
        let id = rest.split(|byte| *byte == b'"').next().unwrap_or_default();
        std::str::from_utf8(id).is_ok_and(|id| self.0.contains_key(id))
    }
}
