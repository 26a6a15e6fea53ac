//! The keys in force in one process, and what is wrong with them.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
};

use posthaste_event::{Millis, clock};
use serde_json::value::RawValue;
use tracing::{info, warn};

use crate::{OpenError, Ring, Scope, envelope};

/// Most keys that are told as missing.
const MISSING_MAX: usize = 16;
/// For how long a key that nobody asks for any more is told as missing, in milliseconds. Events that wait for it ask at least once a minute.
const MISSING_MS: Millis = 150_000;

/// The ring in force; it may be replaced at any time. All services of a process share one.
#[derive(Debug, Default)]
pub struct Keys {
    ring: RwLock<Option<Arc<Ring>>>,
    /// Why the source's keys are not in force, in words.
    fault: Mutex<Option<String>>,
    /// The keys that were asked for and are not here, and when they were last.
    missing: Mutex<BTreeMap<String, Millis>>,
}

impl Keys {
    /// Keys that are known at the start; without any, nothing is sealed, and what is sealed waits.
    pub fn new(ring: Option<Ring>) -> Self {
        Self {
            ring: RwLock::new(ring.map(Arc::new)),
            ..Self::default()
        }
    }

    /// The ring in force.
    pub fn ring(&self) -> Option<Arc<Ring>> {
        self.ring.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Opens a sealed payload. A key that is not here is told by [`Keys::check`] from now on, and logged once.
    ///
    /// # Errors
    /// See [`Ring::open`].
    pub fn open(&self, scope: &Scope<'_>, sealed: &RawValue) -> Result<Box<RawValue>, OpenError> {
        let opened = match self.ring() {
            Some(ring) => ring.open(scope, sealed),
            None => Err(match envelope::kid_of(sealed.get()) {
                Some(kid) => OpenError::UnknownKey { kid: kid.to_owned() },
                None => OpenError::Broken("it is not of the form"),
            }),
        };
        if let Err(OpenError::UnknownKey { kid }) = &opened {
            self.misses(kid, clock::now());
        }
        opened
    }

    /// What is wrong: with the source of the keys, or for want of one of them.
    ///
    /// # Errors
    /// In words.
    pub fn check(&self) -> Result<(), String> {
        self.check_at(clock::now())
    }

    fn check_at(&self, now: Millis) -> Result<(), String> {
        let mut wrong: Vec<String> = lock(&self.fault).iter().cloned().collect();
        let missing = lock(&self.missing);
        let asked = missing
            .iter()
            .filter(|(_, at)| now.saturating_sub(**at) < MISSING_MS);
        let kids: Vec<&str> = asked.map(|(kid, _)| kid.as_str()).collect();
        if !kids.is_empty() {
            wrong.push(format!(
                "events wait that are sealed with keys that are not here: {}",
                kids.join(", ")
            ));
        }
        if wrong.is_empty() {
            Ok(())
        } else {
            Err(wrong.join("; "))
        }
    }

    fn misses(&self, kid: &str, now: Millis) {
        let mut missing = lock(&self.missing);
        missing.retain(|_, at| now.saturating_sub(*at) < MISSING_MS);
        if missing.len() >= MISSING_MAX && !missing.contains_key(kid) {
            return;
        }
        if missing.insert(kid.to_owned(), now).is_none() {
            warn!(
                kid,
                "an event is sealed with key {kid}, which is not here: it waits for it"
            );
        }
    }

    /// Replaces the ring, unless it has another key under an id that is in use.
    pub fn take_up(&self, ring: Ring) {
        let mut in_force = self.ring.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(before) = in_force.as_ref() {
            if let Some(kid) = ring.contradicts(before) {
                let reason = format!("key {kid} became another key");
                drop(in_force);
                return self.refuse(&reason);
            }
            if **before == ring {
                drop(in_force);
                if lock(&self.fault).take().is_some() {
                    info!("the keys can be read again; those in force stay");
                }
                return;
            }
        }
        let gone = in_force.as_ref().map_or(0, |before| {
            before.kids().filter(|kid| ring.opening(kid).is_none()).count()
        });
        info!(
            active = ring.active(),
            gone,
            "the keys were changed: {} seals from now on",
            ring.active()
        );
        lock(&self.missing).retain(|kid, _| ring.opening(kid).is_none());
        *in_force = Some(Arc::new(ring));
        drop(in_force);
        lock(&self.fault).take();
    }

    /// The source has no keys that could be used: those in force stay. Logged once.
    pub(crate) fn refuse(&self, reason: &str) {
        let fault = format!("the keys cannot be taken up, those in force stay: {reason}");
        let mut told = lock(&self.fault);
        if told.is_none() {
            warn!("{fault}");
        }
        *told = Some(fault);
    }
}

/// What is guarded is replaced whole: a panic elsewhere cannot leave it half-written.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use posthaste_event::Channel;

    use super::*;
    use crate::Bound;

    const NOW: Millis = 1_790_000_000_000;
    const SCOPE: Scope<'static> = Scope {
        tenant: "acme",
        channel: Channel::Sms,
        event_id: "e1",
    };

    #[test]
    fn a_missing_key_is_told_until_it_comes_or_nobody_asks() {
        let ring = Ring::generate(NOW).unwrap();
        let payload = RawValue::from_string("{}".to_owned()).unwrap();
        let sealed = ring.seal(&SCOPE, Bound::Event, &payload).unwrap();
        let kid = ring.active().to_owned();
        for keys in [Keys::new(None), Keys::new(Some(Ring::generate(NOW).unwrap()))] {
            assert!(keys.check().is_ok());
            assert!(keys.open(&SCOPE, &sealed).is_err());
            let told = keys.check().unwrap_err();
            assert!(told.contains(&kid), "{told}");
            assert!(keys.check_at(clock::now() + MISSING_MS).is_ok());
        }
        let keys = Keys::new(None);
        assert!(keys.open(&SCOPE, &sealed).is_err());
        keys.take_up(ring);
        assert!(keys.check().is_ok());
        assert!(keys.open(&SCOPE, &sealed).is_ok());
    }

    #[test]
    fn what_is_told_as_missing_is_bounded() {
        let keys = Keys::new(None);
        for number in 0..1_000 {
            keys.misses(&format!("k{number}"), NOW);
        }
        assert_eq!(lock(&keys.missing).len(), MISSING_MAX);
    }

    #[test]
    fn a_key_that_became_another_is_refused_and_the_old_stays() {
        let ring = Ring::generate(NOW).unwrap();
        let (kid, text) = (ring.active().to_owned(), ring.secret_text());
        let other = Ring::generate(NOW).unwrap();
        let other_text = other.secret_text().replace(other.active(), &kid);
        let keys = Keys::new(Some(ring));
        keys.take_up(Ring::parse(&other_text).unwrap());
        assert!(keys.check().unwrap_err().contains("became another key"));
        assert_eq!(keys.ring().unwrap().secret_text(), text);
        keys.take_up(Ring::parse(&text).unwrap());
        assert!(keys.check().is_ok());
    }
}
