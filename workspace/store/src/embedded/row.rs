//! A change in the form in which it is written: made by the caller, so that the writer's thread only writes.

use posthaste_event::{Millis, delivery::Policy};
use serde::Serialize;

use crate::{Change, StoreError};

use super::unwritable;

/// In `keep_hour` times are whole hours.
pub(super) const HOUR_MS: i64 = 3_600_000;

/// What one change writes.
pub(super) struct EventRow {
    pub(super) id: String,
    pub(super) tenant: String,
    pub(super) channel: &'static str,
    pub(super) created_at: Millis,
    pub(super) correlation_id: Option<String>,
    pub(super) priority: Option<&'static str>,
    pub(super) payload: Option<String>,
    pub(super) metadata: Option<String>,
    pub(super) ordering_key: Option<String>,
    pub(super) scheduled_at: Option<Millis>,
    pub(super) expires_at: Option<Millis>,
    pub(super) replay_of: Option<String>,
    pub(super) policy: Option<&'static str>,
    pub(super) keep_from: Millis,
    pub(super) state: Option<StateRow>,
    /// An object: the entry of each step, by its number. Empty: there are none.
    pub(super) timeline: String,
    pub(super) notes: Vec<(String, String)>,
}

pub(super) struct StateRow {
    pub(super) step: u32,
    pub(super) at: Millis,
    pub(super) status: &'static str,
    pub(super) provider: Option<String>,
    pub(super) json: String,
}

impl EventRow {
    /// Writes out what `change` says.
    pub fn of(change: &Change) -> Result<Self, StoreError> {
        let fixed = &change.fixed;
        let state = change.state.as_ref().map(|state| {
            Ok::<_, StoreError>(StateRow {
                step: state.step,
                at: state.at,
                status: state.status.as_str(),
                provider: state.provider.clone(),
                json: text(state)?,
            })
        });
        let timeline = if change.timeline.is_empty() {
            String::new()
        } else {
            text(&change.timeline)?
        };
        let notes = change
            .notes
            .iter()
            .map(|(id, note)| Ok::<_, StoreError>((id.clone(), text(note)?)));
        Ok(Self {
            id: change.id.clone(),
            tenant: fixed.tenant.clone(),
            channel: fixed.channel.as_str(),
            created_at: fixed.created_at,
            correlation_id: fixed.correlation_id.clone(),
            priority: fixed.priority.map(posthaste_event::Priority::as_str),
            payload: fixed.payload.as_ref().map(text).transpose()?,
            metadata: fixed.metadata.as_ref().map(text).transpose()?,
            ordering_key: fixed.ordering_key.clone(),
            scheduled_at: fixed.scheduled_at,
            expires_at: fixed.expires_at,
            replay_of: fixed.replay_of.clone(),
            policy: fixed.policy.map(Policy::as_str),
            keep_from: change.keep_from(),
            state: state.transpose()?,
            timeline,
            notes: notes.collect::<Result<_, _>>()?,
        })
    }
}

fn text<T: Serialize>(value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|error| unwritable(&error))
}
