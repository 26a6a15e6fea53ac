//! A change in the form in which it is written.

use posthaste_event::{Millis, Priority, delivery::Policy};
use serde::Serialize;

use crate::{Change, Text};

/// In `keep_hour` times are whole hours.
pub(super) const HOUR_MS: i64 = 3_600_000;

/// What one change writes.
pub(super) struct EventRow<'c> {
    pub(super) change: &'c Change,
    pub(super) keep_from: Millis,
    pub(super) state: Option<StateRow<'c>>,
    /// An object: the entry of each step, by its number. Empty: there are none.
    pub(super) timeline: String,
}

pub(super) struct StateRow<'c> {
    pub(super) step: u32,
    pub(super) at: Millis,
    pub(super) status: &'static str,
    pub(super) provider: Option<&'c str>,
    pub(super) json: String,
}

impl<'c> EventRow<'c> {
    /// Writes out what `change` says.
    pub fn of(change: &'c Change) -> rusqlite::Result<Self> {
        let state = change.state.as_ref().map(|state| {
            Ok::<_, rusqlite::Error>(StateRow {
                step: state.step,
                at: state.at,
                status: state.status.as_str(),
                provider: state.provider.as_deref(),
                json: text(state)?,
            })
        });
        Ok(Self {
            change,
            keep_from: change.keep_from(),
            state: state.transpose()?,
            timeline: if change.timeline.is_empty() {
                String::new()
            } else {
                text(&change.timeline)?
            },
        })
    }

    pub fn channel(&self) -> &'static str {
        self.change.fixed.channel.as_str()
    }

    pub fn correlation_id(&self) -> Option<&'c str> {
        self.change.fixed.correlation_id.as_deref()
    }

    pub fn priority(&self) -> Option<&'static str> {
        self.change.fixed.priority.map(Priority::as_str)
    }

    pub fn payload(&self) -> Option<&'c str> {
        self.change.fixed.payload.as_ref().map(Text::as_str)
    }

    pub fn metadata(&self) -> Option<&'c str> {
        self.change.fixed.metadata.as_ref().map(Text::as_str)
    }

    pub fn policy(&self) -> Option<&'static str> {
        self.change.fixed.policy.map(Policy::as_str)
    }
}

/// JSON of what is to be written; what cannot be is refused, as SQLite refuses a value.
pub(super) fn text<T: Serialize>(value: &T) -> rusqlite::Result<String> {
    serde_json::to_string(value).map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))
}
