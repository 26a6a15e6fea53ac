//! Whether this process is well, and what it is missing.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

type Check = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// The named checks of one process. Clones share them. A check answers at once from what is already known.
#[derive(Clone, Default)]
pub struct Health {
    checks: Arc<Mutex<Vec<Named>>>,
}

#[derive(Clone)]
struct Named {
    name: String,
    is_needed: bool,
    check: Check,
}

/// Something that is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// The check that says so.
    pub name: String,
    /// In words.
    pub reason: String,
    /// Whether the process can do its work without.
    pub is_needed: bool,
}

impl Health {
    /// Adds a check. `Err` says in words what is missing; `/ready` shows it under `name` and answers 503.
    pub fn check(
        &self,
        name: impl Into<String>,
        check: impl Fn() -> Result<(), String> + Send + Sync + 'static,
    ) {
        self.add(name.into(), true, Arc::new(check));
    }

    /// Adds a check of something that the process can do without for a while, such as the status store. `/ready` shows it, and
    /// answers 200: nobody should take events elsewhere for it.
    pub fn check_lesser(
        &self,
        name: impl Into<String>,
        check: impl Fn() -> Result<(), String> + Send + Sync + 'static,
    ) {
        self.add(name.into(), false, Arc::new(check));
    }

    fn add(&self, name: String, is_needed: bool, check: Check) {
        let named = Named {
            name,
            is_needed,
            check,
        };
        self.checks
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(named);
    }

    /// Every check by name, and whether it passes. Of two with one name both must.
    pub fn checks(&self) -> BTreeMap<String, bool> {
        let checks = self.checks.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut passes = BTreeMap::new();
        for named in checks {
            let is_well = (named.check)().is_ok();
            *passes.entry(named.name).or_insert(true) &= is_well;
        }
        passes
    }

    /// What is missing now; empty when all is well.
    pub fn missing(&self) -> Vec<Missing> {
        let checks = self.checks.lock().unwrap_or_else(PoisonError::into_inner).clone();
        checks
            .into_iter()
            .filter_map(|named| {
                let reason = (named.check)().err()?;
                Some(Missing {
                    name: named.name,
                    reason,
                    is_needed: named.is_needed,
                })
            })
            .collect()
    }
}
