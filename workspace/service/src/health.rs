//! Whether this process is well, and what it is missing.

use std::sync::{Arc, Mutex, PoisonError};

type Check = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// The named checks of one process. Clones share them. A check answers at once from what is already known.
#[derive(Clone, Default)]
pub struct Health {
    checks: Arc<Mutex<Vec<(String, Check)>>>,
}

impl Health {
    /// Adds a check. `Err` says in words what is missing; `/ready` shows it under `name`.
    pub fn check(
        &self,
        name: impl Into<String>,
        check: impl Fn() -> Result<(), String> + Send + Sync + 'static,
    ) {
        self.checks
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push((name.into(), Arc::new(check)));
    }

    /// What is missing now, by name of the check; empty when ready.
    pub fn missing(&self) -> Vec<(String, String)> {
        let checks = self.checks.lock().unwrap_or_else(PoisonError::into_inner).clone();
        checks
            .into_iter()
            .filter_map(|(name, check)| check().err().map(|reason| (name, reason)))
            .collect()
    }
}
