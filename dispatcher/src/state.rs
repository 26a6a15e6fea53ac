//! What a lane tells the health check.

use std::sync::{Mutex, PoisonError};

/// What a lane is missing, in words; nothing when it is well.
pub struct LaneState(Mutex<Option<String>>);

impl LaneState {
    /// A lane that has not begun.
    pub fn new(missing: &str) -> Self {
        Self(Mutex::new(Some(missing.to_owned())))
    }

    /// Nothing is missing.
    pub fn well(&self) {
        self.set(None);
    }

    /// This is missing.
    pub fn ill(&self, missing: String) {
        self.set(Some(missing));
    }

    /// The health check.
    ///
    /// # Errors
    /// What is missing.
    pub fn check(&self) -> Result<(), String> {
        match &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(missing) => Err(missing.clone()),
            None => Ok(()),
        }
    }

    fn set(&self, missing: Option<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = missing;
    }
}
