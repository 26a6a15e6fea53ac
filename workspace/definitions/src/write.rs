//! Writing definitions: durable first, then heard again from the topic, then answered.
//!
//! What is held changes only by what the topic says, in its order, so every instance comes to hold the same.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
    sync::{Arc, Mutex as Lock, PoisonError},
    time::Duration,
};

use posthaste_broker::{AppendError, Broker, NewRecord};
use posthaste_event::{
    Topic, clock,
    definition::{Definition, Key},
};
use serde_json::value::RawValue;
use tokio::{
    sync::{Mutex, oneshot},
    time::timeout,
};

use crate::{Definitions, held::Held};

/// Longest time from an append until it is heard.
const HEARD_WITHIN: Duration = Duration::from_secs(10);

/// Writers of definitions that wait for each other: those whose keys fall together.
const TURNS: usize = 64;

/// What must be in force for something to be written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Expected {
    /// Whatever is.
    #[default]
    Any,
    /// Nothing is.
    Absent,
    /// Something is.
    Present,
    /// One with one of these tags; see [`Definition::tag`].
    Tags(Vec<String>),
}

/// Why something was not written, or is not known to be.
#[derive(Debug, Clone, thiserror::Error)]
pub enum WriteError {
    /// What is in force is not known yet. Nothing was written.
    #[error("what users have defined is not read yet")]
    Unknown,
    /// Not what was [`Expected`]. Nothing was written.
    #[error("another version is in force")]
    Unexpected {
        /// What is in force.
        found: Option<Arc<Definition>>,
    },
    /// There is no room for more. Nothing was written.
    #[error("the definitions would take more than {bytes_max} bytes")]
    NoRoom {
        /// What they may take.
        bytes_max: usize,
    },
    /// The broker did not take it, or did not say so in time.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// It is durable, and not in force here yet.
    #[error("it is durable, and not heard again yet")]
    Unheard,
}

impl WriteError {
    /// Whether trying again later can help without anybody's doing.
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Unknown
            | Self::Unheard
            | Self::Append(AppendError::Full | AppendError::Unconfirmed { .. }) => true,
            Self::Unexpected { .. } | Self::NoRoom { .. } | Self::Append(AppendError::TooLarge { .. }) => {
                false
            }
        }
    }
}

/// What is being written.
pub(crate) struct Writes {
    turns: [Mutex<()>; TURNS],
    hasher: RandomState,
    waiting: Lock<HashMap<Key, Waiting>>,
}

/// Somebody who waits for what was written to be heard. One for each key, since writers of one key take turns.
struct Waiting {
    /// Which act of writing; a withdrawal without.
    write: Option<String>,
    heard: oneshot::Sender<()>,
}

impl Default for Writes {
    fn default() -> Self {
        Self {
            turns: std::array::from_fn(|_| Mutex::default()),
            hasher: RandomState::new(),
            waiting: Lock::default(),
        }
    }
}

impl Writes {
    fn turn(&self, key: &Key) -> &Mutex<()> {
        let hash = self.hasher.hash_one(key);
        // Less than TURNS, which any platform's size holds.
        &self.turns[(hash % TURNS as u64) as usize]
    }

    fn wait_for(&self, key: &Key, write: Option<String>) -> oneshot::Receiver<()> {
        let (heard, hears) = oneshot::channel();
        self.lock().insert(key.clone(), Waiting { write, heard });
        hears
    }

    /// This is in force now.
    pub(crate) fn heard(&self, key: &Key, definition: Option<&Definition>) {
        let mut waiting = self.lock();
        if waiting.is_empty() {
            return;
        }
        let write = definition.map(|definition| definition.write.as_str());
        if waiting
            .get(key)
            .is_some_and(|waiting| waiting.write.as_deref() == write)
            && let Some(waiting) = waiting.remove(key)
        {
            // Whoever waited may have given up.
            let _ = waiting.heard.send(());
        }
    }

    /// All of this is in force now.
    pub(crate) fn look(&self, held: &Held) {
        let keys: Vec<Key> = self.lock().keys().cloned().collect();
        for key in keys {
            self.heard(&key, held.of(&key).map(Arc::as_ref));
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Definitions {
    /// Defines something, and returns when that is durable and in force on this instance. What says the same as what is in
    /// force is not written again.
    ///
    /// # Errors
    /// See [`WriteError`].
    pub async fn put(
        &self,
        broker: &Arc<dyn Broker>,
        key: &Key,
        body: Box<RawValue>,
        expected: &Expected,
        by: &str,
    ) -> Result<Arc<Definition>, WriteError> {
        let _turn = self.writes.turn(key).lock().await;
        let found = self.expected(key, expected)?;
        if let Some(same) = found.as_ref().filter(|found| found.body.get() == body.get()) {
            return Ok(Arc::clone(same));
        }
        let definition = Arc::new(Definition {
            version: found.map_or(0, |found| found.version).saturating_add(1),
            at: clock::now(),
            by: by.to_owned(),
            write: uuid::Uuid::new_v4().simple().to_string(),
            body,
        });
        let bytes_max = self.settings.bytes_max;
        if self.read().held.bytes_with(key, &definition) > bytes_max {
            return Err(WriteError::NoRoom { bytes_max });
        }
        // Texts, numbers and JSON: there is nothing in it that JSON could refuse.
        let value = definition.encode().unwrap_or_default();
        let record = NewRecord::new(Topic::Definitions, key.encode(), value);
        self.write(broker, key, record, Some(definition.write.clone()))
            .await?;
        Ok(definition)
    }

    /// Withdraws something, and returns when that is durable and in force on this instance: what it was, or `None` when
    /// there was nothing.
    ///
    /// # Errors
    /// See [`WriteError`].
    pub async fn delete(
        &self,
        broker: &Arc<dyn Broker>,
        key: &Key,
        expected: &Expected,
    ) -> Result<Option<Arc<Definition>>, WriteError> {
        let _turn = self.writes.turn(key).lock().await;
        let Some(found) = self.expected(key, expected)? else {
            return Ok(None);
        };
        let tombstone = NewRecord {
            topic: Topic::Definitions,
            key: key.encode().into(),
            value: None,
            partition: None,
        };
        self.write(broker, key, tombstone, None).await?;
        Ok(Some(found))
    }

    /// What is in force under this name, if it is what was expected.
    ///
    /// # Errors
    /// [`WriteError::Unknown`], [`WriteError::Unexpected`].
    pub fn expected(&self, key: &Key, expected: &Expected) -> Result<Option<Arc<Definition>>, WriteError> {
        if !self.is_known() {
            return Err(WriteError::Unknown);
        }
        let found = self.get(key.kind(), key.tenant(), key.code());
        let is_so = match (expected, &found) {
            (Expected::Any, _) | (Expected::Absent, None) | (Expected::Present, Some(_)) => true,
            (Expected::Tags(tags), Some(found)) => tags.contains(&found.tag()),
            (Expected::Absent, Some(_)) | (Expected::Present | Expected::Tags(_), None) => false,
        };
        if is_so {
            Ok(found)
        } else {
            Err(WriteError::Unexpected { found })
        }
    }

    async fn write(
        &self,
        broker: &Arc<dyn Broker>,
        key: &Key,
        record: NewRecord,
        write: Option<String>,
    ) -> Result<(), WriteError> {
        // Before it is appended: it may be heard before the append returns.
        let hears = self.writes.wait_for(key, write);
        let _forgets = Forgets(&self.writes, key);
        match broker.append(vec![record]).await {
            Ok(()) => match timeout(HEARD_WITHIN, hears).await {
                Ok(Ok(())) => Ok(()),
                Ok(Err(_)) | Err(_) => Err(WriteError::Unheard),
            },
            Err(error) => Err(error.into()),
        }
    }
}

/// Nobody waits any more, also when whoever did was dropped.
struct Forgets<'a>(&'a Writes, &'a Key);

impl Drop for Forgets<'_> {
    fn drop(&mut self) {
        self.0.lock().remove(self.1);
    }
}
