//! Whether the store answers: told once when it goes away, once when it is back, and asked by `/ready`.

use std::sync::{Mutex, PoisonError};

use tracing::{info, warn};

/// What is known of a store from its last answers.
pub(crate) struct Condition {
    /// What it is, for logs: `MongoDB at host:port`.
    what: String,
    /// Why it is away; `None` while it is well.
    away: Mutex<Option<String>>,
}

impl Condition {
    /// Nothing is known yet; until the first answer the store counts as away.
    pub fn unknown(what: String) -> Self {
        Self {
            what,
            away: Mutex::new(Some(NOT_ASKED.to_owned())),
        }
    }

    /// It is there.
    pub fn well(what: String) -> Self {
        Self {
            what,
            away: Mutex::new(None),
        }
    }

    /// It answered.
    pub fn answered(&self) {
        let was_away = self.away.lock().unwrap_or_else(PoisonError::into_inner).take();
        if was_away.is_some() {
            info!(store = %self.what, "the status store {} answers", self.what);
        }
    }

    /// It did not.
    pub fn failed(&self, reason: &str) {
        let before = (self.away.lock().unwrap_or_else(PoisonError::into_inner)).replace(reason.to_owned());
        if before.is_none() || before.as_deref() == Some(NOT_ASKED) {
            warn!(store = %self.what, reason, "the status store {} is away, delivery goes on without it: {reason}", self.what);
        }
    }

    /// For [`crate::Store::health`].
    pub fn health(&self) -> Result<(), String> {
        match &*self.away.lock().unwrap_or_else(PoisonError::into_inner) {
            None => Ok(()),
            Some(reason) => Err(format!("{}: {reason}", self.what)),
        }
    }
}

/// The reason before the first answer.
const NOT_ASKED: &str = "not reached yet";
