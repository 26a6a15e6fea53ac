//! A change in the form in which it is written: made by the caller, so that the writer's thread only writes.

use posthaste_event::{Millis, delivery::Policy};
use rusqlite::{CachedStatement, Connection, named_params};
use serde::Serialize;

use crate::{Change, StoreError};

use super::unwritable;

/// What one change writes.
pub(super) struct EventRow {
    id: String,
    tenant: String,
    channel: &'static str,
    created_at: Millis,
    correlation_id: Option<String>,
    priority: Option<&'static str>,
    payload: Option<String>,
    metadata: Option<String>,
    ordering_key: Option<String>,
    scheduled_at: Option<Millis>,
    expires_at: Option<Millis>,
    replay_of: Option<String>,
    policy: Option<&'static str>,
    keep_from: Millis,
    state: Option<StateRow>,
    steps: Vec<StepRow>,
    notes: Vec<(String, String)>,
}

struct StateRow {
    step: u32,
    at: Millis,
    status: &'static str,
    provider: Option<String>,
    json: String,
}

struct StepRow {
    step: u32,
    at: Millis,
    status: &'static str,
    by: String,
    json: String,
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
        let steps = change.timeline.iter().map(|(step, entry)| {
            Ok::<_, StoreError>(StepRow {
                step: *step,
                at: entry.at,
                status: entry.status.as_str(),
                by: entry.by.clone(),
                json: text(entry)?,
            })
        });
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
            steps: steps.collect::<Result<_, _>>()?,
            notes: notes.collect::<Result<_, _>>()?,
        })
    }
}

fn text<T: Serialize>(value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|error| unwritable(&error))
}

/// The statements of a transaction, prepared once.
pub(super) struct Statements<'db> {
    event: CachedStatement<'db>,
    state: CachedStatement<'db>,
    step: CachedStatement<'db>,
    note: CachedStatement<'db>,
}

// The state of a new event goes in with it; of an old one it is written by `STATE`, which looks at the rank.
const EVENT: &str = "
    INSERT INTO events (id, tenant, channel, created_at, correlation_id, priority, payload, metadata, ordering_key,
                        scheduled_at, expires_at, replay_of, policy, keep_from, step, state_at, status, provider, state)
    VALUES (:id, :tenant, :channel, :created_at, :correlation_id, :priority, :payload, :metadata, :ordering_key,
            :scheduled_at, :expires_at, :replay_of, :policy, :keep_from, :step, :state_at, :status, :provider, :state)
    ON CONFLICT (id) DO UPDATE SET
        tenant = excluded.tenant,
        channel = excluded.channel,
        created_at = excluded.created_at,
        correlation_id = coalesce(excluded.correlation_id, correlation_id),
        priority = coalesce(excluded.priority, priority),
        payload = coalesce(excluded.payload, payload),
        metadata = coalesce(excluded.metadata, metadata),
        ordering_key = coalesce(excluded.ordering_key, ordering_key),
        scheduled_at = coalesce(excluded.scheduled_at, scheduled_at),
        expires_at = coalesce(excluded.expires_at, expires_at),
        replay_of = coalesce(excluded.replay_of, replay_of),
        policy = coalesce(excluded.policy, policy),
        keep_from = max(excluded.keep_from, keep_from)
    RETURNING place";
const STATE: &str = "
    UPDATE events SET step = :step, state_at = :state_at, status = :status, provider = :provider, state = :state
    WHERE place = :place AND (step, state_at, status) < (:step, :state_at, :status)";
const STEP: &str = "
    INSERT INTO steps (place, step, at, status, by, entry) VALUES (:place, :step, :at, :status, :by, :entry)
    ON CONFLICT (place, step) DO UPDATE SET at = excluded.at, status = excluded.status, by = excluded.by, entry = excluded.entry
    WHERE (at, status, by) < (excluded.at, excluded.status, excluded.by)";
const NOTE: &str = "INSERT OR REPLACE INTO notes (place, id, note) VALUES (:place, :id, :note)";

impl<'db> Statements<'db> {
    pub fn prepare(db: &'db Connection) -> rusqlite::Result<Self> {
        Ok(Self {
            event: db.prepare_cached(EVENT)?,
            state: db.prepare_cached(STATE)?,
            step: db.prepare_cached(STEP)?,
            note: db.prepare_cached(NOTE)?,
        })
    }

    pub fn write(&mut self, row: &EventRow) -> rusqlite::Result<()> {
        let state = row.state.as_ref();
        let place: i64 = self.event.query_row(
            named_params! {
                ":id": row.id, ":tenant": row.tenant, ":channel": row.channel, ":created_at": row.created_at,
                ":correlation_id": row.correlation_id, ":priority": row.priority, ":payload": row.payload,
                ":metadata": row.metadata, ":ordering_key": row.ordering_key, ":scheduled_at": row.scheduled_at,
                ":expires_at": row.expires_at, ":replay_of": row.replay_of, ":policy": row.policy, ":keep_from": row.keep_from,
                ":step": state.map_or(-1, |state| i64::from(state.step)),
                ":state_at": state.map_or(0, |state| state.at),
                ":status": state.map_or("", |state| state.status),
                ":provider": state.and_then(|state| state.provider.as_deref()),
                ":state": state.map(|state| &state.json),
            },
            |found| found.get(0),
        )?;
        if let Some(state) = state {
            self.state.execute(named_params! {
                ":place": place, ":step": state.step, ":state_at": state.at, ":status": state.status,
                ":provider": state.provider, ":state": state.json,
            })?;
        }
        for step in &row.steps {
            self.step.execute(named_params! {
                ":place": place, ":step": step.step, ":at": step.at, ":status": step.status, ":by": step.by,
                ":entry": step.json,
            })?;
        }
        for (id, note) in &row.notes {
            self.note
                .execute(named_params! {":place": place, ":id": id, ":note": note})?;
        }
        Ok(())
    }
}
