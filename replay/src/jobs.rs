//! What is known of every replay: folded from the control topic, in any order of its keys.
//!
//! Each process follows that topic and so knows all replays, whoever was asked for them. What a replay means never changes;
//! an operator's wish and each partition's progress are records of their own.

mod conductor;
pub mod pace;
pub mod progress;
pub mod runner;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use posthaste_broker::{AppendError, Broker, NewRecord, News, Record};
use posthaste_event::{
    Topic,
    control::{Control, Replay, ReplayPart, ReplayState, Wish},
};
use tokio::sync::Notify;
use tracing::debug;

pub use conductor::conduct;

/// Every replay that is known.
#[derive(Default)]
pub struct Jobs {
    inner: Mutex<Inner>,
    /// Something changed: whoever waits looks again.
    pub changed: Notify,
}

#[derive(Default)]
struct Inner {
    known: BTreeMap<String, Known>,
    /// Everything that stood in the control topic has been read.
    is_read: bool,
}

/// What is known of one replay.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// What it means; absent while only later records of it were read.
    pub replay: Option<Arc<Replay>>,
    /// The last wish.
    pub state: Option<ReplayState>,
    /// How far it is in each partition.
    pub parts: BTreeMap<u32, ReplayPart>,
    /// Whether a task of this process works on it.
    is_running: bool,
}

impl Known {
    /// What it is to do.
    pub fn wish(&self) -> Wish {
        self.state.as_ref().map_or(Wish::Running, |state| state.state)
    }

    /// Whether nothing of it is left in any partition.
    pub fn is_finished(&self) -> bool {
        self.replay.as_ref().is_some_and(|replay| {
            let mut shares = replay.shares.iter();
            shares.all(|share| self.parts.get(&share.partition).is_some_and(|part| part.finished))
        })
    }

    /// Whether it has come to its end, one way or another.
    pub fn is_over(&self) -> bool {
        self.is_finished() || self.wish() == Wish::Cancelled
    }
}

impl Jobs {
    /// Takes in what the control topic says.
    pub fn on_news(&self, news: News) {
        match news {
            News::Records(records) => records.iter().for_each(|record| self.take_in(record)),
            News::AllRead => self.lock().is_read = true,
            // What was read stays true; what is missed meanwhile comes later.
            News::Follows(_) | News::Away(_) => {}
        }
        self.changed.notify_waiters();
    }

    /// Whether everything that stood in the control topic has been read.
    pub fn is_read(&self) -> bool {
        self.lock().is_read
    }

    fn take_in(&self, record: &Record) {
        let Some(value) = &record.value else {
            let key = record
                .key
                .as_deref()
                .and_then(|key| std::str::from_utf8(key).ok());
            // Only the replay's own key forgets it; those of its parts go with it.
            if let Some(id) = key.and_then(|key| key.strip_prefix("replay/")) {
                self.lock().known.remove(id);
            }
            return;
        };
        match Control::decode(value) {
            Ok(value) => self.apply(value),
            Err(error) => debug!(offset = record.offset, %error, "a control record of another kind"),
        }
    }

    /// Takes in a record, also before it comes back from the topic.
    pub fn apply(&self, value: Control) {
        let mut inner = self.lock();
        match value {
            Control::RetryNow(_)
            | Control::Reschedule(_)
            | Control::Broadcast(_)
            | Control::BroadcastState(_)
            | Control::BroadcastProgress(_) => {}
            Control::Replay(replay) => {
                let known = inner.known.entry(replay.id.clone()).or_default();
                known.replay.get_or_insert_with(|| Arc::from(replay));
            }
            Control::ReplayState(state) => {
                let known = inner.known.entry(state.id.clone()).or_default();
                if known.state.as_ref().is_none_or(|old| old.at <= state.at) {
                    known.state = Some(state);
                }
            }
            Control::ReplayPart(part) => {
                let known = inner.known.entry(part.id.clone()).or_default();
                let old = known.parts.get(&part.partition);
                if old.is_none_or(|old| old.at <= part.at) {
                    known.parts.insert(part.partition, part);
                }
            }
        }
        drop(inner);
        self.changed.notify_waiters();
    }

    /// One replay, once it is known what it means.
    pub fn get(&self, id: &str) -> Option<Known> {
        let inner = self.lock();
        inner
            .known
            .get(id)
            .filter(|known| known.replay.is_some())
            .cloned()
    }

    /// All of them, the newest first.
    pub fn all(&self) -> Vec<Known> {
        let inner = self.lock();
        let known = inner.known.values().rev();
        known.filter(|known| known.replay.is_some()).cloned().collect()
    }

    /// Those of which something is left to do.
    pub fn unfinished(&self) -> Vec<Known> {
        let inner = self.lock();
        let known = inner.known.values();
        known
            .filter(|known| known.replay.is_some() && !known.is_over())
            .cloned()
            .collect()
    }

    /// Begins to work on a replay, unless a task of this process does.
    fn begin(&self, id: &str) -> bool {
        let mut inner = self.lock();
        inner
            .known
            .get_mut(id)
            .is_some_and(|known| !std::mem::replace(&mut known.is_running, true))
    }

    fn end(&self, id: &str) {
        if let Some(known) = self.lock().known.get_mut(id) {
            known.is_running = false;
        }
        self.changed.notify_waiters();
    }

    /// A new replay, at work in this process before anybody else hears of it.
    pub fn begin_new(&self, replay: Arc<Replay>) {
        let known = Known {
            replay: Some(Arc::clone(&replay)),
            is_running: true,
            ..Known::default()
        };
        self.lock().known.insert(replay.id.clone(), known);
    }

    /// One that could not be made known. Should it be on the topic all the same, it begins when it is read.
    pub fn drop_new(&self, id: &str) {
        self.lock().known.remove(id);
    }

    /// Makes a record known to everybody.
    ///
    /// # Errors
    /// See [`AppendError`]: unconfirmed, it may still come to be known.
    pub async fn tell(&self, broker: &Arc<dyn Broker>, value: Control) -> Result<(), AppendError> {
        broker.append(vec![record(&value)]).await?;
        self.apply(value);
        Ok(())
    }

    /// Forgets the oldest of those that are over, so that `kept_max` remain.
    pub async fn forget_old(&self, broker: &Arc<dyn Broker>, kept_max: usize) {
        let over: Vec<Known> = self.all().into_iter().filter(Known::is_over).collect();
        let old = over.iter().skip(kept_max).take(100);
        let tombstones: Vec<NewRecord> = old.flat_map(tombstones).collect();
        if tombstones.is_empty() {
            return;
        }
        let ids = over.iter().skip(kept_max).take(100);
        let ids: Vec<String> = ids
            .filter_map(|known| Some(known.replay.as_ref()?.id.clone()))
            .collect();
        match broker.append(tombstones).await {
            Ok(()) => self.lock().known.retain(|id, _| !ids.contains(id)),
            Err(error) => debug!(%error, "old replays were not forgotten; the next one tries again"),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The record that says this.
pub fn record(value: &Control) -> NewRecord {
    // Texts and numbers: there is nothing in it that JSON could refuse.
    let json = value.encode().unwrap_or_default();
    NewRecord::new(Topic::Control, value.key(), json)
}

fn tombstones(known: &Known) -> Vec<NewRecord> {
    let Some(replay) = &known.replay else {
        return Vec::new();
    };
    let tombstone = |key: String| NewRecord {
        topic: Topic::Control,
        key: Bytes::from(key),
        value: None,
        partition: None,
    };
    let root = format!("replay/{}", replay.id);
    let mut records: Vec<NewRecord> = replay
        .shares
        .iter()
        .map(|share| tombstone(format!("{root}/{}", share.partition)))
        .collect();
    records.push(tombstone(format!("{root}/state")));
    // The last one to go: without the others it is still known what to forget.
    records.push(tombstone(root));
    records
}
