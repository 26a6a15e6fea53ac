//! Waiting events that are to go out now, as operators asked on the control topic.
//!
//! Every instance follows that topic. Whoever holds the event lets it go, also when it comes into its hands only later: an
//! event deep in a long tier is seen when its turn to be read has come. A wish names the step with which the event entered
//! the wheel, so it is never taken for a later wait.

use std::{
    collections::HashMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use posthaste_broker::{NewRecord, News, Record};
use posthaste_event::{
    Millis, Topic,
    control::{Control, RetryNow},
    delivery::WaitReason,
};
use serde::Deserialize;
use tokio::sync::watch;
use tracing::warn;

/// Wishes in memory at most; further ones are not heard until others are done.
const WISHES_MAX: usize = 10_000;

/// After this time an event has been seen by whoever holds it, or waits no more: the longest tier is a day.
const OUTDATED_MS: Millis = 2 * 86_400_000;

/// How often outdated wishes are looked for, and how many are forgotten at once.
const SWEEP_MS: Millis = 60_000;
const SWEEP_MAX: usize = 100;

/// What is wished for.
pub(crate) struct Wishes {
    inner: Mutex<Inner>,
    /// How many there are: mostly none, and then nothing is locked or read for it.
    count: AtomicUsize,
    changes: watch::Sender<u64>,
}

#[derive(Default)]
struct Inner {
    /// By event.
    wishes: HashMap<String, RetryNow>,
    swept_at: Millis,
    is_full: bool,
}

/// As much of a record as decides whether it is meant.
#[derive(Deserialize)]
struct Glance {
    delivery: Waiting,
}

#[derive(Deserialize)]
struct Waiting {
    id: String,
    step: u32,
    wheel: Option<Reason>,
}

#[derive(Deserialize)]
struct Reason {
    reason: WaitReason,
}

impl Default for Wishes {
    fn default() -> Self {
        Self {
            inner: Mutex::default(),
            count: AtomicUsize::new(0),
            changes: watch::Sender::new(0),
        }
    }
}

impl Wishes {
    /// Tells when something new is wished for.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Takes in what the control topic says.
    pub(crate) fn on_news(&self, news: News) {
        let News::Records(records) = news else { return };
        let mut inner = self.lock();
        let mut is_new = false;
        for record in &records {
            let key = record
                .key
                .as_deref()
                .and_then(|key| std::str::from_utf8(key).ok());
            let Some(id) = key.and_then(|key| key.strip_prefix("retry-now/")) else {
                continue;
            };
            match record.value.as_deref().map(Control::decode) {
                None => {
                    inner.wishes.remove(id);
                }
                Some(Ok(Control::RetryNow(wish))) => is_new |= inner.add(wish),
                // Of a later version.
                Some(_) => {}
            }
        }
        self.count.store(inner.wishes.len(), Ordering::Relaxed);
        drop(inner);
        if is_new {
            self.changes
                .send_modify(|changes| *changes = changes.wrapping_add(1));
        }
    }

    /// Whether this record of the wheel is to go now.
    pub(crate) fn wants(&self, record: &Record) -> bool {
        if self.count.load(Ordering::Relaxed) == 0 {
            return false;
        }
        let inner = self.lock();
        // Mostly the key is the event's id; an ordering key has a slash.
        let key = record
            .key
            .as_deref()
            .and_then(|key| std::str::from_utf8(key).ok());
        let may_be = key.is_none_or(|key| key.contains('/') || inner.wishes.contains_key(key));
        if !may_be {
            return false;
        }
        glance(record).is_some_and(|waiting| {
            let wish = inner.wishes.get(&waiting.id);
            wish.is_some_and(|wish| wish.step == waiting.step)
                && waiting.wheel.is_some_and(|wheel| may_go(wheel.reason))
        })
    }

    /// Records that forget wishes of which nothing came, now and then.
    pub(crate) fn outdated(&self, now: Millis) -> Vec<NewRecord> {
        if self.count.load(Ordering::Relaxed) == 0 {
            return Vec::new();
        }
        let mut inner = self.lock();
        if now.saturating_sub(inner.swept_at) < SWEEP_MS {
            return Vec::new();
        }
        inner.swept_at = now;
        let old = inner
            .wishes
            .values()
            .filter(|wish| now.saturating_sub(wish.at) > OUTDATED_MS);
        old.take(SWEEP_MAX).map(|wish| forget(&wish.event_id)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn add(&mut self, wish: RetryNow) -> bool {
        let is_full = self.wishes.len() >= WISHES_MAX && !self.wishes.contains_key(&wish.event_id);
        if is_full && !self.is_full {
            warn!("{WISHES_MAX} events are to go before their time; further wishes are not heard");
        }
        self.is_full = is_full;
        if !is_full {
            self.wishes.insert(wish.event_id.clone(), wish);
        }
        !is_full
    }
}

/// Forgets the wish about the event in this record.
pub(crate) fn forgets(record: &Record) -> Option<NewRecord> {
    glance(record).map(|waiting| forget(&waiting.id))
}

fn forget(event_id: &str) -> NewRecord {
    NewRecord {
        topic: Topic::Control,
        key: Bytes::from(RetryNow::key(event_id)),
        value: None,
        partition: None,
    }
}

fn glance(record: &Record) -> Option<Waiting> {
    let value = record.value.as_deref()?;
    serde_json::from_slice::<Glance>(value)
        .ok()
        .map(|glance| glance.delivery)
}

/// A time that the sender asked for, an order and an operator's pause are kept.
const fn may_go(reason: WaitReason) -> bool {
    match reason {
        WaitReason::Retry | WaitReason::Rate | WaitReason::Circuit => true,
        WaitReason::Scheduled | WaitReason::Order | WaitReason::Paused => false,
    }
}
