//! API keys that were made over HTTP: what is kept of one, and how it is known again.
//!
//! They stand on the definitions topic, which every process that asks for credentials reads whole; no store is asked. Until it was
//! read to its end nothing is said of such a key, good or bad, and neither when nothing was heard of the topic for too long: a
//! key that was taken back must not get in because that was not heard.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use aws_lc_rs::constant_time;
use posthaste_definitions::{Definition, Definitions};
use posthaste_event::{Channel, Millis};
use serde::{Deserialize, Serialize};

use super::{
    access::Role,
    api_key::{Digest, digest_of, id_of, read_hash},
    principal::{Principal, Tenants},
    rate::Window,
};

/// Secrets before the present one that may be good beside it.
pub const FORMER_MAX: usize = 3;

/// Keys and tenants that are held ready at once, before all of them are made ready anew.
const READY_MAX: usize = 100_000;

/// What is kept of a key: the body of its definition. Whose it is, the definition's name says.
///
/// A limit that a later version knows must not be passed over: a key with a field that is not known is none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Kept {
    /// What it is called.
    pub name: String,
    /// The SHA-256 of the whole key, in hexadecimal digits.
    pub hash: String,
    /// What it may do.
    pub roles: Vec<Role>,
    /// The channels that it may send on; without, all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channels: Option<Vec<Channel>>,
    /// The codes of the configurations by which it may send, and by nothing else; without, in every way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configs: Option<Vec<String>>,
    /// When it is over, in milliseconds since the Unix epoch; without, never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Millis>,
    /// When it was made.
    pub created_at: Millis,
    /// Who made it.
    pub created_by: String,
    /// Secrets that it had before and that are good for some time, the latest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub former: Vec<Former>,
}

/// A secret that was replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Former {
    /// As [`Kept::hash`].
    pub hash: String,
    /// Until when it is good.
    pub until: Millis,
}

impl Kept {
    /// Reads what a definition says; `None` when it is no key, or one with a role, a channel or a field that is not known here.
    pub fn read(definition: &Definition) -> Option<Self> {
        serde_json::from_str(definition.body.get()).ok()
    }

    /// Whether it is over.
    pub fn is_over(&self, now: Millis) -> bool {
        self.expires_at.is_some_and(|end| end <= now)
    }

    /// The secrets that were replaced and are good still.
    pub fn former_good(&self, now: Millis) -> impl Iterator<Item = &Former> {
        self.former.iter().filter(move |former| now < former.until)
    }
}

/// A key, made ready to be compared.
#[derive(Debug, Clone)]
struct Ready {
    of: Arc<Definition>,
    /// The present one first. As many for every key, so that each takes the same time.
    digests: [(Digest, Millis); FORMER_MAX + 1],
    principal: Arc<Principal>,
}

/// What came of looking a key up.
#[derive(Debug)]
pub(super) enum Found {
    /// It is good.
    Good(Arc<Principal>),
    /// It was.
    Over,
    /// There is none like it.
    Unknown,
    /// What is in force is not known.
    Unread,
}

/// All keys that were made over HTTP.
pub(super) struct Made {
    definitions: Arc<Definitions>,
    /// For how long what is known is gone by while nothing is heard.
    trusted: Duration,
    ready: RwLock<HashMap<Box<str>, Ready>>,
    /// One limit for all keys of a tenant: making more of them is no way to ask for more.
    windows: Mutex<HashMap<Arc<str>, Arc<Window>>>,
}

impl std::fmt::Debug for Made {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Made").finish_non_exhaustive()
    }
}

impl Made {
    pub(super) fn new(definitions: Arc<Definitions>, trusted: Duration) -> Self {
        Self {
            definitions,
            trusted,
            ready: RwLock::default(),
            windows: Mutex::default(),
        }
    }

    /// Looks a key up.
    pub(super) fn find(&self, key: &str, now: Millis) -> Found {
        let Some(id) = id_of(key) else {
            return Found::Unknown;
        };
        if !self.definitions.is_known() || self.definitions.unheard_for() > self.trusted {
            return Found::Unread;
        }
        let ready = self.ready(id);
        let nobody = [([0; size_of::<Digest>()], Millis::MAX); FORMER_MAX + 1];
        let digests = ready.as_ref().map_or(&nobody, |ready| &ready.digests);
        let digest = digest_of(key.as_bytes());
        let mut until = None;
        for (kept, end) in digests {
            if constant_time::verify_slices_are_equal(&digest, kept).is_ok() {
                until = Some(*end);
            }
        }
        match (ready, until) {
            (Some(_), Some(until)) if until <= now => Found::Over,
            (Some(ready), Some(_)) => Found::Good(ready.principal),
            _ => Found::Unknown,
        }
    }

    fn ready(&self, id: &str) -> Option<Ready> {
        let (tenant, definition) = self.definitions.api_key(id)?;
        let before = {
            let all = self.ready.read().unwrap_or_else(PoisonError::into_inner);
            all.get(id).cloned()
        };
        if let Some(ready) = before.filter(|ready| Arc::ptr_eq(&ready.of, &definition)) {
            return Some(ready);
        }
        let ready = self.make(id, tenant, definition)?;
        let mut all = self.ready.write().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= READY_MAX {
            all.clear();
        }
        all.insert(id.into(), ready.clone());
        Some(ready)
    }

    fn make(&self, id: &str, tenant: Arc<str>, definition: Arc<Definition>) -> Option<Ready> {
        let kept = Kept::read(&definition)?;
        let end = kept.expires_at.unwrap_or(Millis::MAX);
        // A digest of zeros is nobody's.
        let mut digests = [([0; size_of::<Digest>()], Millis::MIN); FORMER_MAX + 1];
        digests[0] = (read_hash(&kept.hash)?, end);
        for (slot, former) in digests.iter_mut().skip(1).zip(&kept.former) {
            *slot = (read_hash(&former.hash)?, former.until.min(end));
        }
        let principal = Principal {
            // With its id, so that no name can pass for another's.
            name: format!("{} ({id})", kept.name).into(),
            window: self.window(&tenant),
            tenants: Tenants::One(tenant),
            roles: kept.roles.into_iter().collect(),
            channels: kept.channels,
            configs: kept.configs,
            until: kept.expires_at,
        };
        Some(Ready {
            of: definition,
            digests,
            principal: Arc::new(principal),
        })
    }

    fn window(&self, tenant: &Arc<str>) -> Arc<Window> {
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        if windows.len() >= READY_MAX {
            windows.retain(|_, window| Arc::strong_count(window) > 1);
        }
        Arc::clone(windows.entry(Arc::clone(tenant)).or_default())
    }
}

#[cfg(test)]
mod tests;
