//! Whether one thing works at the moment: shown by the health check, logged once when it goes and once when it is back.

use std::{
    fmt,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

/// The condition of one thing.
#[derive(Debug)]
pub(super) struct Condition {
    what: &'static str,
    failures: AtomicU32,
    reason: Mutex<String>,
}

impl Condition {
    pub(super) const fn new(what: &'static str) -> Self {
        Self {
            what,
            failures: AtomicU32::new(0),
            reason: Mutex::new(String::new()),
        }
    }

    /// It failed.
    pub(super) fn fails(&self, error: &dyn fmt::Display) {
        let reason = format!("{} fails: {error}", self.what);
        if self.failures.load(Ordering::Relaxed) == 0 {
            tracing::warn!("{reason}; trying on");
        }
        *self.reason.lock().unwrap_or_else(PoisonError::into_inner) = reason;
        let count = self.failures.load(Ordering::Relaxed).saturating_add(1);
        self.failures.store(count, Ordering::Release);
    }

    /// It worked.
    pub(super) fn is_well(&self) {
        if self.failures.load(Ordering::Relaxed) != 0 && self.failures.swap(0, Ordering::AcqRel) != 0 {
            tracing::info!("{} works again", self.what);
        }
    }

    /// Whether it failed once and has not worked since.
    pub(super) fn is_first_failure(&self) -> bool {
        self.failures.load(Ordering::Acquire) == 1
    }

    /// Whether it works, or why not.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.failures.load(Ordering::Acquire) == 0 {
            return Ok(());
        }
        Err(self.reason.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }
}
