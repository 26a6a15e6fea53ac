//! How the projector is doing, for the health check and for what is logged once.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use tracing::{error, info, warn};

/// What the projector last said of itself.
#[derive(Default)]
pub(super) struct Gauge {
    reading: Mutex<Reading>,
    /// Why nothing can be written; `None` while it can.
    not_writing: Mutex<Option<String>>,
    unreadable: AtomicU64,
    refused: AtomicU64,
}

#[derive(Default)]
enum Reading {
    #[default]
    NotYet,
    Well,
    Fault(String),
}

impl Gauge {
    /// The group is joined. Answers whether that failed before.
    pub fn joined(&self) -> bool {
        matches!(self.read(Reading::Well), Reading::Fault(_))
    }

    /// The group is left by a fault. Answers whether that is new.
    pub fn left(&self, reason: String) -> bool {
        !matches!(self.read(Reading::Fault(reason)), Reading::Fault(_))
    }

    /// A write succeeded.
    pub fn written(&self) {
        if self.write(None).is_some() {
            info!("the projector writes to the status store again");
        }
    }

    /// A write failed and is tried again.
    pub fn not_written(&self, reason: &str) {
        if self.write(Some(reason.to_owned())).is_none() {
            warn!(
                reason,
                "the projector cannot write to the status store and keeps trying: {reason}"
            );
        }
    }

    /// A record says nothing that can be read. Its holder puts it on the dead-letter topic; here it is only counted.
    pub fn unreadable(&self, place: &dyn std::fmt::Display) {
        let count = self.unreadable.fetch_add(1, Ordering::Relaxed) + 1;
        // Told ever more rarely: a topic full of foreign records must not fill the log.
        if count.is_power_of_two() {
            warn!(%place, count, "skipped {count} records that cannot be read, the last at {place}");
        }
    }

    /// The store will never take this change.
    pub fn refused(&self, event: &str, reason: &str) {
        let count = self.refused.fetch_add(1, Ordering::Relaxed) + 1;
        if count.is_power_of_two() {
            error!(
                event.id = event,
                reason,
                count,
                "the status store refused {count} changes, the last of event {event}: {reason}"
            );
        }
    }

    /// For `/ready`.
    pub fn check(&self) -> Result<(), String> {
        match &*self.reading.lock().unwrap_or_else(PoisonError::into_inner) {
            Reading::NotYet => return Err("it has not joined its group yet".to_owned()),
            Reading::Fault(reason) => return Err(reason.clone()),
            Reading::Well => {}
        }
        match &*self.not_writing.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(reason) => Err(format!("the status is behind: {reason}")),
            None => Ok(()),
        }
    }

    fn read(&self, reading: Reading) -> Reading {
        std::mem::replace(
            &mut *self.reading.lock().unwrap_or_else(PoisonError::into_inner),
            reading,
        )
    }

    fn write(&self, reason: Option<String>) -> Option<String> {
        std::mem::replace(
            &mut *self.not_writing.lock().unwrap_or_else(PoisonError::into_inner),
            reason,
        )
    }
}
