//! What was asked of events that others hold: to withdraw one, to send one at another time, to let one go now; and which
//! broadcasts were cancelled, whose events are withdrawn.
//!
//! Requests stand on two compacted topics. Every instance that holds events follows them whole, and so does the one that
//! takes requests in. Whoever holds the event does what was asked when it has the event in its hands, and forgets
//! the request in the same hop; so does whoever makes the event final. What was asked of an event that was final by then is
//! forgotten by the status service, which knows.

use std::{
    collections::{HashMap, hash_map::Entry as Slot},
    sync::{
        Arc, PoisonError, RwLock, RwLockReadGuard,
        atomic::{AtomicUsize, Ordering},
    },
};

use posthaste_broker::{Broker, NewRecord, News, Record};
use posthaste_event::{
    Delivery, Millis, Status, Topic,
    broadcast::BroadcastState,
    cancel::{self, Cancel},
    control::{Control, Reschedule, RetryNow},
    delivery::WaitReason,
    record_key,
};
use serde::Deserialize;
use tokio::sync::watch;
use tracing::warn;

pub use self::names::{Named, Names};
use self::withdrawn::Withdrawn;
use crate::Shutdown;

mod names;
mod withdrawn;

/// The topics on which requests stand.
pub const TOPICS: [Topic; 2] = [Topic::Cancel, Topic::Control];

/// Events about which requests are open at most: no more are taken in. Each costs some 200 bytes in every instance.
pub const OPEN_MAX: usize = 100_000;

/// As several instances take requests in, there may be a few more; these are heard, too.
const HEARD_MAX: usize = 2 * OPEN_MAX;

/// Times that are asked for of one event and not in force yet, at most; no more are taken in.
pub const RESCHEDULES_MAX: usize = 16;

/// What is to become of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// It is to be withdrawn.
    Cancel,
    /// It is to go out at another time.
    Reschedule {
        /// That time.
        due: Millis,
        /// When this was asked for.
        asked_at: Millis,
    },
    /// It is to go out now.
    RetryNow,
}

/// What is asked of one event.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Open {
    /// Key of the event's records, where that is not its id.
    record_key: Option<Box<str>>,
    /// To withdraw it.
    pub cancel: Option<Cancel>,
    /// To send it at another time; the latest last.
    pub reschedules: Vec<Reschedule>,
    /// To let it go now.
    pub retry_now: Option<RetryNow>,
    /// How often the topics had been lost sight of when this was heard.
    round: u32,
}

/// What is asked of all events.
pub struct Requests {
    inner: RwLock<Inner>,
    /// How many there are: mostly none, and then nothing is locked or read for it.
    count: AtomicUsize,
    changes: watch::Sender<u64>,
    is_read: watch::Sender<bool>,
}

#[derive(Default)]
struct Inner {
    open: HashMap<Box<str>, Open>,
    /// The broadcasts that were cancelled. Their events have their id as correlation id.
    withdrawn: Withdrawn,
    round: u32,
    is_full: bool,
}

/// As much of a record as decides whether it is meant.
#[derive(Deserialize)]
struct Glance {
    delivery: Facts,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Facts {
    id: String,
    correlation_id: String,
    tenant: String,
    created_at: Millis,
    generation: u32,
    step: u32,
    status: Status,
    due_at: Option<Millis>,
    wheel: Option<Reason>,
}

#[derive(Deserialize)]
struct Reason {
    reason: WaitReason,
}

/// Follows the topics on which requests stand until `shutdown`. Outages are waited out.
pub async fn follow(broker: &Arc<dyn Broker>, requests: &Requests, shutdown: &Shutdown) {
    posthaste_broker::follow(broker, &TOPICS, shutdown, |news| requests.on_news(news)).await;
}

impl Default for Requests {
    fn default() -> Self {
        Self {
            inner: RwLock::default(),
            count: AtomicUsize::new(0),
            changes: watch::Sender::new(0),
            is_read: watch::Sender::new(false),
        }
    }
}

impl Requests {
    /// Tells when something new is asked.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Waits until all that was asked before this began is known. Whoever holds events does nothing with them before.
    pub async fn known(&self) {
        // It cannot be closed as long as this borrows it.
        let mut is_read = self.is_read.subscribe();
        let _open = is_read.wait_for(|is_read| *is_read).await.is_ok();
    }

    /// Whether that is so.
    pub fn is_known(&self) -> bool {
        *self.is_read.borrow()
    }

    /// Whether nothing is asked of anybody: then nothing else need be called. One load.
    pub fn is_empty(&self) -> bool {
        self.count.load(Ordering::Relaxed) == 0
    }

    /// Whether too much is asked already to take more in.
    pub fn is_full(&self) -> bool {
        self.count.load(Ordering::Relaxed) >= OPEN_MAX && self.read().open.len() >= OPEN_MAX
    }

    /// What is asked of an event.
    pub fn of(&self, event_id: &str) -> Option<Open> {
        if self.is_empty() {
            return None;
        }
        self.read().open.get(event_id).cloned()
    }

    /// Takes in what the topics say.
    pub fn on_news(&self, news: News) {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        let mut is_new = false;
        match news {
            News::Follows(_) => {}
            News::Records(records) => {
                for record in &records {
                    is_new |= inner.hear(record).unwrap_or(false);
                }
            }
            News::AllRead => {
                // What was forgotten while nobody listened is not told again.
                let round = inner.round;
                inner.open.retain(|_, open| open.round == round);
                inner.withdrawn.retain(round);
                self.is_read.send_replace(true);
            }
            News::Away(_) => inner.round = inner.round.wrapping_add(1),
        }
        let count = inner.open.len() + inner.withdrawn.len();
        self.count.store(count, Ordering::Relaxed);
        drop(inner);
        if is_new {
            self.changes
                .send_modify(|changes| *changes = changes.wrapping_add(1));
        }
    }

    /// Whether this event is to be withdrawn.
    pub fn cancels(&self, delivery: &Delivery) -> bool {
        if self.is_empty() {
            return false;
        }
        let inner = self.read();
        let open = inner.open.get(&*delivery.id);
        open.and_then(|open| open.cancel.as_ref())
            .is_some_and(|cancel| cancel.means(delivery))
            || inner.withdrawn.means(
                &delivery.correlation_id,
                &delivery.tenant,
                delivery.created_at,
                delivery.generation,
            )
    }

    /// What is wanted of the event in this record.
    pub fn wanted(&self, record: &Record) -> Option<Wanted> {
        if self.is_empty() {
            return None;
        }
        let inner = self.read();
        if !inner.may_mean(record) {
            return None;
        }
        let facts = glance(record)?;
        let (created_at, generation) = (facts.created_at, facts.generation);
        if inner
            .withdrawn
            .means(&facts.correlation_id, &facts.tenant, created_at, generation)
        {
            return Some(Wanted::Cancel);
        }
        inner.open.get(&*facts.id)?.wanted(&facts)
    }

    /// The records that forget what was asked of the event in this record, which has become final, or of which `only` was done.
    /// Mostly none.
    pub fn forgets(&self, key: &[u8], value: Option<&[u8]>, only: Option<Wanted>) -> Vec<NewRecord> {
        if self.is_empty() {
            return Vec::new();
        }
        let inner = self.read();
        let found = match record_key::event_id(key) {
            Some(id) => inner.open.get_key_value(id),
            None => value
                .and_then(|value| serde_json::from_slice::<Glance>(value).ok())
                .and_then(|glance| inner.open.get_key_value(&*glance.delivery.id)),
        };
        found.map_or_else(Vec::new, |(id, open)| open.forgets(id, only))
    }

    /// Events of which something was asked before `before`, `many` at most from the one after `after` on in the order of
    /// their ids.
    pub fn asked_before(&self, before: Millis, after: &str, many: usize) -> Vec<(String, Open)> {
        if self.is_empty() {
            return Vec::new();
        }
        let inner = self.read();
        let old = inner
            .open
            .iter()
            .filter(|(id, open)| &***id > after && open.asked_at() < before);
        let mut old: Vec<_> = old.collect();
        old.sort_unstable_by_key(|(id, _)| *id);
        old.truncate(many);
        old.into_iter()
            .map(|(id, open)| (id.to_string(), open.clone()))
            .collect()
    }

    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Whether something new is asked with it; `None` if it is none of ours, or of a later version.
    fn hear(&mut self, record: &Record) -> Option<bool> {
        let key = record.key.as_deref()?;
        let value = record.value.as_deref();
        if record.partition.topic == Topic::Cancel {
            let (record_key, id) = cancel::read_key(key)?;
            let asked = value.map(Cancel::decode).transpose().ok()?;
            if asked.as_ref().is_some_and(|asked| asked.event_id != id) {
                return None;
            }
            let record_key = (record_key != id).then(|| record_key.into());
            return Some(self.change(id, asked.is_some(), |open| {
                open.cancel = asked;
                open.record_key = record_key;
            }));
        }
        let key = std::str::from_utf8(key).ok()?;
        let asked = value.map(Control::decode).transpose().ok()?;
        if let Some(id) = BroadcastState::read_cancel_key(key) {
            return self.withdrawn.hear(id, asked, self.round);
        }
        if let Some(id) = RetryNow::read_key(key) {
            let asked = match asked {
                None => None,
                Some(Control::RetryNow(asked)) => Some(asked),
                Some(_) => return None,
            };
            return Some(self.change(id, asked.is_some(), |open| open.retry_now = asked));
        }
        let (id, at) = Reschedule::read_key(key)?;
        let asked = match asked {
            None => None,
            Some(Control::Reschedule(asked)) if asked.at == at => Some(asked),
            Some(_) => return None,
        };
        Some(self.change(id, asked.is_some(), |open| open.hear_reschedule(at, asked)))
    }

    fn change(&mut self, id: &str, is_asked: bool, change: impl FnOnce(&mut Open)) -> bool {
        let is_full = self.open.len() >= HEARD_MAX;
        match self.open.entry(id.into()) {
            Slot::Occupied(mut open) => {
                change(open.get_mut());
                open.get_mut().round = self.round;
                if open.get().is_done() {
                    open.remove();
                }
            }
            Slot::Vacant(slot) if is_asked && !is_full => {
                let mut open = Open {
                    round: self.round,
                    ..Open::default()
                };
                change(&mut open);
                slot.insert(open);
            }
            Slot::Vacant(_) => {
                if is_asked && !std::mem::replace(&mut self.is_full, true) {
                    warn!("something is asked of {HEARD_MAX} events; what is asked of others is not heard");
                }
                return false;
            }
        }
        self.is_full &= is_full;
        is_asked
    }

    /// Whether one look at the record leaves open that it is meant.
    fn may_mean(&self, record: &Record) -> bool {
        let id = record.key.as_deref().and_then(record_key::event_id);
        id.is_none_or(|id| self.open.contains_key(id)) || self.withdrawn.may_mean(record)
    }
}

impl Open {
    /// When the latest of it was asked for, in milliseconds since the Unix epoch.
    pub fn asked_at(&self) -> Millis {
        let cancel = self.cancel.as_ref().map(|asked| asked.at);
        let reschedule = self.reschedules.last().map(|asked| asked.at);
        let retry_now = self.retry_now.as_ref().map(|asked| asked.at);
        cancel.max(reschedule).max(retry_now).unwrap_or(Millis::MIN)
    }

    /// The records that forget it, or `only` a part of it.
    pub fn forgets(&self, event_id: &str, only: Option<Wanted>) -> Vec<NewRecord> {
        let forget = |topic, key: String| NewRecord {
            topic,
            key: key.into(),
            value: None,
            partition: None,
        };
        let mut records = Vec::new();
        if self.cancel.is_some() && only.is_none_or(|only| only == Wanted::Cancel) {
            let record_key = self.record_key.as_deref().unwrap_or(event_id);
            records.push(forget(Topic::Cancel, cancel::key(record_key, event_id)));
        }
        for asked in &self.reschedules {
            let is_meant = match only {
                None => true,
                Some(Wanted::Reschedule { asked_at, .. }) => asked.at <= asked_at,
                Some(Wanted::Cancel | Wanted::RetryNow) => false,
            };
            if is_meant {
                records.push(forget(Topic::Control, Reschedule::key(event_id, asked.at)));
            }
        }
        if self.retry_now.is_some() && only.is_none_or(|only| only == Wanted::RetryNow) {
            records.push(forget(Topic::Control, RetryNow::key(event_id)));
        }
        records
    }

    fn hear_reschedule(&mut self, at: Millis, asked: Option<Reschedule>) {
        self.reschedules.retain(|other| other.at != at);
        self.reschedules.extend(asked);
        self.reschedules.sort_unstable_by_key(|asked| asked.at);
        if self.reschedules.len() > RESCHEDULES_MAX {
            self.reschedules.remove(0);
        }
    }

    const fn is_done(&self) -> bool {
        self.cancel.is_none() && self.reschedules.is_empty() && self.retry_now.is_none()
    }

    fn wanted(&self, facts: &Facts) -> Option<Wanted> {
        if let Some(asked) = &self.cancel
            && asked.created_at == facts.created_at
            && asked.generation == facts.generation
        {
            return Some(Wanted::Cancel);
        }
        let reason = facts.wheel.as_ref()?.reason;
        if let Some(asked) = self.reschedules.last()
            && asked.created_at == facts.created_at
            && (facts.status, reason) == (Status::Scheduled, WaitReason::Scheduled)
            // Done, and that it is to be forgotten is not heard yet.
            && facts.due_at != Some(asked.scheduled_at)
        {
            return Some(Wanted::Reschedule {
                due: asked.scheduled_at,
                asked_at: asked.at,
            });
        }
        let asked = self.retry_now.as_ref()?;
        (asked.step == facts.step && may_go(reason)).then_some(Wanted::RetryNow)
    }
}

fn glance(record: &Record) -> Option<Facts> {
    let value = record.value.as_deref()?;
    serde_json::from_slice::<Glance>(value)
        .ok()
        .map(|glance| glance.delivery)
}

/// A time that the sender asked for, an order and an operator's pause are kept.
const fn may_go(reason: WaitReason) -> bool {
    match reason {
        WaitReason::Retry | WaitReason::Rate | WaitReason::Circuit | WaitReason::Key => true,
        WaitReason::Scheduled | WaitReason::Order | WaitReason::Paused => false,
    }
}

#[cfg(test)]
mod tests;
