//! What is known of every broadcast: folded from the control topic, in any order of its keys.
//!
//! Each process follows that topic and so knows all broadcasts, whoever took them. What a broadcast means never changes; the
//! wishes of its sender and how far it is are records of their own.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use posthaste_broker::{AppendError, Broker, NewRecord, News, Record};
use posthaste_event::{
    Millis, Topic,
    broadcast::{Broadcast, BroadcastProgress, BroadcastState},
    control::{Control, Wish},
};
use tokio::sync::Notify;
use tracing::debug;

use crate::Settings;

const DAY_MS: Millis = 86_400_000;

/// Broadcasts that are forgotten at once, at most.
const FORGOTTEN_AT_ONCE: usize = 100;

/// Every broadcast that is known.
#[derive(Default)]
pub struct Broadcasts {
    inner: Mutex<Inner>,
    /// Something changed: whoever waits looks again.
    pub changed: Notify,
}

#[derive(Default)]
struct Inner {
    known: BTreeMap<String, Known>,
    /// Everything that stood in the control topic has been read, and it is read on.
    is_read: bool,
    /// What is missing, in words.
    problem: Option<String>,
}

/// What is known of one broadcast.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// What it means; absent while only other records of it were read.
    pub broadcast: Option<Arc<Broadcast>>,
    /// Whether it is to rest.
    pub state: Option<BroadcastState>,
    /// When it was cancelled.
    pub cancelled_at: Option<Millis>,
    /// How far it is.
    pub progress: Option<BroadcastProgress>,
}

impl Known {
    /// What it is to do.
    pub fn wish(&self) -> Wish {
        if self.cancelled_at.is_some() {
            return Wish::Cancelled;
        }
        self.state.as_ref().map_or(Wish::Running, |state| state.state)
    }

    /// Whether nothing more of it is to come.
    pub fn is_over(&self) -> bool {
        self.progress
            .as_ref()
            .is_some_and(|progress| progress.ended.is_some())
    }

    /// Whether events of it may wait somewhere that are withdrawn only as long as it is known that it was cancelled; `since` when
    /// none does that was cancelled before.
    fn withdraws(&self, since: Millis) -> bool {
        let handed_over = self.progress.as_ref().map_or(0, |progress| progress.recipients);
        self.cancelled_at.is_some_and(|at| at >= since) && (handed_over > 0 || !self.is_over())
    }
}

impl Broadcasts {
    /// Takes in what the control topic says.
    pub fn on_news(&self, news: News) {
        match news {
            News::Records(records) => records.iter().for_each(|record| self.take_in(record)),
            News::AllRead => self.lock().is_read = true,
            News::Follows(_) => {}
            // What was read stays true; what is missed meanwhile comes later.
            News::Away(_) => self.lock().is_read = false,
        }
        self.changed.notify_waiters();
    }

    /// Whether everything that stands in the control topic is known.
    pub fn is_read(&self) -> bool {
        self.lock().is_read
    }

    fn take_in(&self, record: &Record) {
        let key = record
            .key
            .as_deref()
            .and_then(|key| std::str::from_utf8(key).ok());
        let Some(id) = key.and_then(Broadcast::read_key) else {
            return;
        };
        match record.value.as_deref().map(Control::decode) {
            Some(Ok(value)) => self.apply(value),
            Some(Err(error)) => debug!(offset = record.offset, %error, "a control record of another kind"),
            // The first of its records to be forgotten takes the others along.
            None => {
                self.lock().known.remove(id);
            }
        }
    }

    /// Takes in a record, also before it comes back from the topic.
    pub fn apply(&self, value: Control) {
        let mut inner = self.lock();
        match value {
            Control::Broadcast(broadcast) => {
                let known = inner.known.entry(broadcast.id.clone()).or_default();
                known.broadcast.get_or_insert_with(|| Arc::from(broadcast));
            }
            Control::BroadcastState(state) => {
                let known = inner.known.entry(state.id.clone()).or_default();
                if state.state == Wish::Cancelled {
                    known.cancelled_at.get_or_insert(state.at);
                } else if known.state.as_ref().is_none_or(|old| old.at <= state.at) {
                    known.state = Some(state);
                }
            }
            Control::BroadcastProgress(progress) => {
                let known = inner.known.entry(progress.id.clone()).or_default();
                let rank = |progress: &BroadcastProgress| (progress.chunks, progress.ended.is_some());
                if known
                    .progress
                    .as_ref()
                    .is_none_or(|old| rank(old) <= rank(&progress))
                {
                    known.progress = Some(progress);
                }
            }
            Control::Replay(_)
            | Control::ReplayState(_)
            | Control::ReplayPart(_)
            | Control::RetryNow(_)
            | Control::Reschedule(_) => {}
        }
        drop(inner);
        self.changed.notify_waiters();
    }

    /// One broadcast, once it is known what it means.
    pub fn get(&self, id: &str) -> Option<Known> {
        let inner = self.lock();
        let known = inner.known.get(id);
        known.filter(|known| known.broadcast.is_some()).cloned()
    }

    /// Those that `is_meant`, the newest first, at most so many.
    pub fn list(&self, most: usize, mut is_meant: impl FnMut(&Known) -> bool) -> Vec<Known> {
        let inner = self.lock();
        let known = inner.known.values().rev();
        known
            .filter(|known| known.broadcast.is_some() && is_meant(known))
            .take(most)
            .cloned()
            .collect()
    }

    /// How many are not at their end: of all tenants, and of this one.
    pub fn unfinished(&self, tenant: &str) -> (usize, usize) {
        let inner = self.lock();
        let known = inner.known.values().filter(|known| !known.is_over());
        let tenants = known.filter_map(|known| known.broadcast.as_ref().map(|broadcast| &*broadcast.tenant));
        tenants.fold((0, 0), |(all, own), of| {
            (all + 1, own + usize::from(of == tenant))
        })
    }

    /// Whether one more may be cancelled: its events are withdrawn for as long as that is known.
    pub fn may_cancel(&self, settings: &Settings, now: Millis) -> bool {
        let since = withdrawn_since(settings, now);
        let inner = self.lock();
        let cancelled = inner.known.values().filter(|known| known.withdraws(since));
        cancelled.count() < settings.cancelled_kept_max
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

    /// Forgets the oldest of those that are over, so that `finished_kept_max` remain, and those whose events are withdrawn yet.
    pub async fn forget_old(&self, broker: &Arc<dyn Broker>, settings: &Settings, now: Millis) {
        let since = withdrawn_since(settings, now);
        let over = self.list(usize::MAX, Known::is_over);
        let old = over.iter().skip(settings.finished_kept_max);
        let old = old.filter(|known| !known.withdraws(since));
        let ids: Vec<String> = old
            .take(FORGOTTEN_AT_ONCE)
            .filter_map(|known| Some(known.broadcast.as_ref()?.id.clone()))
            .collect();
        if ids.is_empty() {
            return;
        }
        let tombstones = ids.iter().flat_map(|id| tombstones(id)).collect();
        match broker.append(tombstones).await {
            Ok(()) => self.lock().known.retain(|id, _| !ids.contains(id)),
            Err(error) => debug!(%error, "old broadcasts were not forgotten; the next one tries again"),
        }
    }

    pub(crate) fn set_problem(&self, problem: Option<String>) {
        self.lock().problem = problem;
    }

    /// The health check.
    ///
    /// # Errors
    /// What is missing.
    pub fn check(&self) -> Result<(), String> {
        let inner = self.lock();
        match &inner.problem {
            Some(problem) => Err(problem.clone()),
            None if !inner.is_read => Err("the broadcasts are being read".to_owned()),
            None => Ok(()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What was cancelled before has no event left that waits.
fn withdrawn_since(settings: &Settings, now: Millis) -> Millis {
    now.saturating_sub(Millis::from(settings.cancelled_kept_days) * DAY_MS)
}

/// The record that says this.
pub(crate) fn record(value: &Control) -> NewRecord {
    // Texts and numbers: there is nothing in it that JSON could refuse.
    let json = value.encode().unwrap_or_default();
    NewRecord::new(Topic::Control, value.key(), json)
}

fn tombstones(id: &str) -> [NewRecord; 4] {
    // Without the first one nothing of it can go on, whatever becomes of the others.
    [
        Broadcast::key(id),
        BroadcastState::key_of(id, Wish::Running),
        BroadcastState::key_of(id, Wish::Cancelled),
        BroadcastProgress::key(id),
    ]
    .map(|key| NewRecord {
        topic: Topic::Control,
        key: Bytes::from(key),
        value: None,
        partition: None,
    })
}
