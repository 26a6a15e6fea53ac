//! What users have defined (templates, configurations and the like), held in memory from the compacted definitions topic.
//!
//! Each process that goes by definitions follows the topic and holds those of the kinds that it needs: no store is asked. Nothing is
//! decided by them before the topic was read to its end once ([`Definitions::known`]); later outages leave what was known.
//! What is written ([`Definitions::put`], [`Definitions::delete`]) is durable, and in force on this instance, when the call
//! returns; on others a moment later. Of two instances that write the same at the same moment the last one wins, everywhere.

mod held;
pub mod schedule;
mod settings;
pub mod suppressions;
mod write;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard},
    time::Duration,
};

use posthaste_broker::{Broker, News, Partition, Record};
pub use posthaste_event::definition::{Definition, Key, Kind, NoKey};
use posthaste_event::{Millis, Topic};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::warn;

pub use held::ApiKey;
use held::Held;
pub use settings::{DEFAULTS, Settings};
pub use suppressions::Suppressions;
use write::Writes;
pub use write::{Expected, WriteError};

/// What is defined, of the kinds that this process goes by.
pub struct Definitions {
    kinds: Vec<Kind>,
    settings: Settings,
    inner: RwLock<Inner>,
    is_read: watch::Sender<bool>,
    changes: watch::Sender<u64>,
    writes: Writes,
    told: Mutex<Told>,
}

#[derive(Default)]
struct Inner {
    held: Held,
    /// While all of it is read anew after an outage: what was read so far. What was known stays in force until then.
    anew: Option<Held>,
    /// Bytes of what there was no room for.
    beyond: usize,
    /// Since when the topic cannot be read, if so.
    unheard: Option<Instant>,
    /// What was withdrawn lately, and when.
    withdrawn: HashMap<Key, Millis>,
}

/// So many withdrawals are remembered, about.
const WITHDRAWN_MAX: usize = 4_096;

/// What was said once already.
#[derive(Default)]
struct Told {
    unreadable: bool,
    full: bool,
}

/// What a record says.
enum Said {
    Put(Key, Arc<Definition>),
    Withdrawn(Key, Millis),
}

/// Follows the topic until `shutdown`. Outages are waited out.
pub async fn follow(broker: &Arc<dyn Broker>, definitions: &Definitions, shutdown: &CancellationToken) {
    posthaste_broker::follow(broker, &[Topic::Definitions], shutdown, |news| {
        definitions.on_news(news);
    })
    .await;
}

impl Definitions {
    /// Nothing is known yet. Definitions of other kinds are passed over.
    pub fn new(kinds: &[Kind], settings: Settings) -> Self {
        Self {
            kinds: kinds.to_vec(),
            settings,
            inner: RwLock::default(),
            is_read: watch::Sender::new(false),
            changes: watch::Sender::new(0),
            writes: Writes::default(),
            told: Mutex::default(),
        }
    }

    /// Whether nothing is gone by here.
    pub const fn is_needless(&self) -> bool {
        self.kinds.is_empty()
    }

    /// The API key with this id that is in force, whoever's it is.
    pub fn api_key(&self, id: &str) -> Option<ApiKey> {
        self.read().held.api_key(id).cloned()
    }

    /// For how long nothing could be heard of what changes; zero while all is heard.
    pub fn unheard_for(&self) -> Duration {
        let unheard = self.read().unheard;
        unheard.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// What is in force under this name.
    pub fn get(&self, kind: Kind, tenant: &str, code: &str) -> Option<Arc<Definition>> {
        self.read().held.get(kind, tenant, code).cloned()
    }

    /// When the definition under this name was withdrawn, in milliseconds since the Unix epoch, if that was lately.
    pub fn withdrawn_at(&self, key: &Key) -> Option<Millis> {
        self.read().withdrawn.get(key).copied()
    }

    /// A tenant's definitions of a kind, `many` at most, in the order of their codes, from the one after `after` on.
    pub fn list(
        &self,
        kind: Kind,
        tenant: &str,
        after: Option<&str>,
        many: usize,
    ) -> Vec<(String, Arc<Definition>)> {
        self.read().held.list(kind, tenant, after, many)
    }

    /// All tenants' definitions of a kind that are held, in no order.
    pub fn all(&self, kind: Kind) -> Vec<Arc<Definition>> {
        self.read().held.all(kind)
    }

    /// How many a tenant has of a kind.
    pub fn count(&self, kind: Kind, tenant: &str) -> usize {
        self.read().held.count(kind, tenant)
    }

    /// Whether nobody has defined anything of this kind.
    pub fn is_empty(&self, kind: Kind) -> bool {
        self.read().held.is_empty(kind)
    }

    /// Waits until all that was defined before this began is known.
    pub async fn known(&self) {
        // It cannot be closed as long as this borrows it.
        let mut is_read = self.is_read.subscribe();
        let _open = is_read.wait_for(|is_read| *is_read).await.is_ok();
    }

    /// Whether that is so.
    pub fn is_known(&self) -> bool {
        *self.is_read.borrow()
    }

    /// Tells when something was defined or withdrawn.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// For the health check: whether all that is defined is known.
    ///
    /// # Errors
    /// What is missing, in words.
    pub fn check(&self) -> Result<(), String> {
        if !self.is_known() {
            return Err("what users have defined is not read to its end yet".to_owned());
        }
        match self.read().beyond {
            0 => Ok(()),
            bytes => Err(format!(
                "definitions take more memory than definitions.bytes_max allows: {bytes} bytes of them are not held"
            )),
        }
    }

    /// Takes in what the topic says.
    pub fn on_news(&self, news: News) {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        let mut is_new = false;
        match news {
            News::Follows(_) => {}
            News::Records(records) => {
                for said in records.iter().filter_map(|record| self.hear(record)) {
                    is_new |= inner.anew.is_none();
                    self.take_in(&mut inner, said);
                }
            }
            News::AllRead => {
                if let Some(anew) = inner.anew.take() {
                    inner.held = anew;
                    self.writes.look(&inner.held);
                    is_new = true;
                }
                inner.unheard = None;
                self.is_read.send_replace(true);
            }
            News::Away(_) => {
                inner.unheard.get_or_insert_with(Instant::now);
                // What was withdrawn meanwhile may not be told again.
                inner.anew = Some(Held::default());
                inner.beyond = 0;
            }
        }
        drop(inner);
        if is_new {
            self.changes
                .send_modify(|changes| *changes = changes.wrapping_add(1));
        }
    }

    fn take_in(&self, inner: &mut Inner, said: Said) {
        let is_anew = inner.anew.is_some();
        let held = inner.anew.as_mut().unwrap_or(&mut inner.held);
        match said {
            Said::Put(key, definition) => {
                if held.bytes_with(&key, &definition) > self.settings.heard_bytes_max() {
                    if key.kind() == Kind::ApiKey {
                        // What it said before may be what was taken back.
                        held.remove(&key);
                    }
                    inner.beyond += held::cost(key.code(), &definition);
                    self.tell_full();
                    return;
                }
                if !is_anew {
                    self.writes.heard(&key, Some(&definition));
                }
                held.put(&key, definition);
            }
            Said::Withdrawn(key, at) => {
                if !is_anew {
                    self.writes.heard(&key, None);
                }
                held.remove(&key);
                if inner.withdrawn.len() >= WITHDRAWN_MAX {
                    inner.withdrawn.clear();
                }
                inner.withdrawn.insert(key, at);
            }
        }
    }

    /// `None` when it is of a kind that is not needed here, or cannot be read.
    fn hear(&self, record: &Record) -> Option<Said> {
        let key = match Key::read(record.key.as_deref().unwrap_or_default()) {
            Ok(key) => key,
            Err(NoKey::UnknownKind) => return None,
            Err(NoKey::Malformed) => {
                self.tell_unreadable(record.partition, record.offset, "its key names no definition");
                return None;
            }
        };
        if !self.kinds.contains(&key.kind()) {
            return None;
        }
        let Some(value) = record.value.as_deref() else {
            return Some(Said::Withdrawn(key, record.appended_at));
        };
        match Definition::decode(value) {
            Ok(definition) => Some(Said::Put(key, Arc::new(definition))),
            Err(_) => {
                self.tell_unreadable(record.partition, record.offset, "its value is no definition");
                // What a key was good for before may be what was taken back.
                (key.kind() == Kind::ApiKey).then_some(Said::Withdrawn(key, record.appended_at))
            }
        }
    }

    fn tell_unreadable(&self, partition: Partition, offset: i64, why: &str) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if !std::mem::replace(&mut told.unreadable, true) {
            warn!(
                %partition,
                offset,
                "offset {offset} of {partition} is passed over: {why}; others like it will be without a word"
            );
        }
    }

    fn tell_full(&self) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if !std::mem::replace(&mut told.full, true) {
            warn!(
                bytes_max = self.settings.bytes_max,
                "definitions take more memory than definitions.bytes_max allows; those beyond it are not known here"
            );
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
