//! How a member is doing, for the health check.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicI64, Ordering},
};

use posthaste_broker::Hopper;
use posthaste_event::Millis;

/// What should have gone out this long ago means that the member is stuck.
const LATE_MS: i64 = 5_000;

/// No record waits.
const NOTHING: i64 = i64::MAX;

enum State {
    /// Not yet a member of its group.
    Joining,
    Well(Arc<dyn Hopper>),
    Unwell(String),
}

/// What one member last said of itself.
pub(crate) struct Gauge {
    state: Mutex<State>,
    head: AtomicI64,
}

impl Default for Gauge {
    fn default() -> Self {
        Self {
            state: Mutex::new(State::Joining),
            head: AtomicI64::new(NOTHING),
        }
    }
}

impl Gauge {
    /// The member reads its topics. Answers whether it could not before.
    pub(crate) fn well(&self, hopper: Arc<dyn Hopper>) -> bool {
        self.head(None);
        matches!(self.replace(State::Well(hopper)), State::Unwell(_))
    }

    /// The member cannot go on at the moment. Answers whether that is new.
    pub(crate) fn unwell(&self, reason: String) -> bool {
        self.head(None);
        !matches!(self.replace(State::Unwell(reason)), State::Unwell(_))
    }

    /// The time of the record that goes next.
    pub(crate) fn head(&self, wakes_at: Option<Millis>) {
        self.head.store(wakes_at.unwrap_or(NOTHING), Ordering::Relaxed);
    }

    /// What is wrong at `now`, if anything.
    pub(crate) fn check(&self, now: Millis) -> Result<(), String> {
        match &*self.state.lock().unwrap_or_else(PoisonError::into_inner) {
            State::Joining => return Err("it has not joined its group yet".to_owned()),
            State::Unwell(reason) => return Err(reason.clone()),
            State::Well(hopper) if !hopper.is_recording() => {
                return Err("outcomes cannot be recorded".to_owned());
            }
            State::Well(_) => {}
        }
        let late_ms = now.saturating_sub(self.head.load(Ordering::Relaxed));
        if late_ms > LATE_MS {
            return Err(format!("the next record should have gone {late_ms} ms ago"));
        }
        Ok(())
    }

    fn replace(&self, state: State) -> State {
        std::mem::replace(
            &mut *self.state.lock().unwrap_or_else(PoisonError::into_inner),
            state,
        )
    }
}
