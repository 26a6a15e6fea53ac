//! To whom nothing is sent any more: since messages bounced, they complained, unsubscribed, or somebody decided so.
//!
//! They stand on the definitions topic, and everybody who sends reads all of them before the first event. There may be a million, so
//! they are held apart from other definitions, a few words each, and looked up by a hash. A recipient in clear is nowhere.
//! When nobody is suppressed, looking costs one load.

mod entry;
mod held;
mod recipient;
#[cfg(test)]
mod tests;

use std::{
    sync::{
        Arc, PoisonError, RwLock, RwLockReadGuard,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use posthaste_broker::{AppendError, Broker, NewRecord, News, Record};
use posthaste_event::{Channel, Millis, Topic, clock};
use tokio::{sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::Settings;
pub use entry::{Body, Reason};
use entry::{Entry, Named, key, read_key};
use held::Held;
pub use recipient::{Id, RECIPIENT_BYTES_MAX, masked};

/// Longest time from an append until it is heard. What was appended is in force soon, whether heard here or not.
const HEARD_WITHIN: Duration = Duration::from_secs(5);

/// Pause between two looks for those whose time is over, when there is no more room.
const CLEARED_EVERY_MS: Millis = 60_000;

/// Who is suppressed, of all tenants.
pub struct Suppressions {
    settings: Settings,
    /// Whether more is held than sending needs.
    is_shown: bool,
    inner: RwLock<Inner>,
    /// How many there are: mostly none, and then nothing is locked, hashed or read.
    count: AtomicUsize,
    is_read: watch::Sender<bool>,
    changes: watch::Sender<u64>,
    told: AtomicBool,
}

#[derive(Default)]
struct Inner {
    held: Held,
    /// While all is read anew after an outage: what was read so far. What was known stays in force until then.
    anew: Option<Held>,
    /// How many there was no room for.
    beyond: usize,
    /// When those were looked for last whose time is over.
    cleared_at: Millis,
}

/// A suppression, as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// On which channel.
    pub channel: Channel,
    /// Names it.
    pub id: Id,
    /// As much of the recipient as may be shown.
    pub recipient: String,
    /// Why.
    pub reason: Reason,
    /// Where it was heard.
    pub source: Option<String>,
    /// Until when; without, for good.
    pub until: Option<Millis>,
    /// Who said so.
    pub by: String,
    /// When that was.
    pub at: Millis,
}

/// Somebody who is to be suppressed.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// For whom.
    pub tenant: String,
    /// On which channel.
    pub channel: Channel,
    /// Who; see [`Suppressions::id`].
    pub id: Id,
    /// Why, and until when.
    pub body: Body,
}

/// Why nothing, or not everything for sure, was written.
#[derive(Debug, thiserror::Error)]
pub enum SuppressError {
    /// Who is suppressed is not known yet. Nothing was written.
    #[error("who is suppressed is not read yet")]
    Unknown,
    /// There is no room for more. Nothing was written.
    #[error("more than {0} recipients would be suppressed")]
    NoRoom(usize),
    /// The broker did not take it, or did not say so in time.
    #[error(transparent)]
    Append(#[from] AppendError),
}

/// Follows the topic until `shutdown`. Outages are waited out.
pub async fn follow(broker: &Arc<dyn Broker>, suppressions: &Suppressions, shutdown: &CancellationToken) {
    posthaste_broker::follow(broker, &[Topic::Definitions], shutdown, |news| {
        suppressions.on_news(news, clock::now());
    })
    .await;
}

impl Suppressions {
    /// Nothing is known yet. Only where they are shown (`is_shown`) more is held than sending needs.
    pub fn new(settings: Settings, is_shown: bool) -> Self {
        Self {
            settings,
            is_shown,
            inner: RwLock::default(),
            count: AtomicUsize::new(0),
            is_read: watch::Sender::new(false),
            changes: watch::Sender::new(0),
            told: AtomicBool::new(false),
        }
    }

    /// Whether nobody is suppressed: then nothing else need be asked. One load.
    pub fn is_empty(&self) -> bool {
        self.count.load(Ordering::Relaxed) == 0
    }

    /// Whether anybody is suppressed for this tenant on this channel.
    pub fn has(&self, tenant: &str, channel: Channel) -> bool {
        !self.is_empty() && self.read().held.has(tenant, channel)
    }

    /// Names a recipient, and what may be shown of it; `None` when it can be none of this channel.
    pub fn id(&self, tenant: &str, channel: Channel, recipient: &str) -> Option<(Id, String)> {
        let normal = recipient::normal(channel, recipient, &self.settings.suppressions_country_code)?;
        Some((Id::of(tenant, channel, &normal), masked(channel, &normal)))
    }

    /// Why nothing may be sent to this recipient, if so.
    pub fn reason(&self, tenant: &str, channel: Channel, recipient: &str, now: Millis) -> Option<Reason> {
        let normal = recipient::normal(channel, recipient, &self.settings.suppressions_country_code)?;
        let id = Id::of(tenant, channel, &normal);
        let inner = self.read();
        let entry = inner.held.get((tenant, channel, id))?;
        (!entry.is_over(now)).then_some(entry.reason)
    }

    /// The suppression with this id, if it is in force.
    pub fn get(&self, tenant: &str, channel: Channel, id: Id, now: Millis) -> Option<Shown> {
        let inner = self.read();
        let entry = inner.held.get((tenant, channel, id))?;
        (!entry.is_over(now)).then(|| shown(channel, id, entry))
    }

    /// A tenant's suppressions, `many` at most, from the one after `after` on.
    pub fn list(
        &self,
        tenant: &str,
        channel: Option<Channel>,
        after: Option<(Channel, Id)>,
        now: Millis,
        many: usize,
    ) -> Vec<Shown> {
        let listed = self.read().held.list(tenant, channel, after, now, many);
        listed
            .into_iter()
            .map(|(channel, id, entry)| shown(channel, id, &entry))
            .collect()
    }

    /// Waits until all who were suppressed before this began are known. Nothing is sent before.
    pub async fn known(&self) {
        // It cannot be closed as long as this borrows it.
        let mut is_read = self.is_read.subscribe();
        let _open = is_read.wait_for(|is_read| *is_read).await.is_ok();
    }

    /// Whether that is so.
    pub fn is_known(&self) -> bool {
        *self.is_read.borrow()
    }

    /// Tells when somebody was suppressed or is no more.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// For the health check: whether all who are suppressed are known.
    ///
    /// # Errors
    /// What is missing, in words.
    pub fn check(&self) -> Result<(), String> {
        if !self.is_known() {
            return Err("who is suppressed is not read to its end yet".to_owned());
        }
        match self.read().beyond {
            0 => Ok(()),
            many => Err(format!(
                "more recipients are suppressed than definitions.suppressions_max allows: {many} of them are not known \
                 here, and get messages"
            )),
        }
    }

    /// Suppresses recipients, and returns when that is durable; it is in force everywhere a moment later, and mostly here already.
    ///
    /// # Errors
    /// See [`SuppressError`].
    pub async fn put(
        &self,
        broker: &Arc<dyn Broker>,
        wanted: &[Wanted],
        by: &str,
        now: Millis,
    ) -> Result<(), SuppressError> {
        let most = self.settings.suppressions_max;
        if !self.is_known() {
            return Err(SuppressError::Unknown);
        }
        let (wanted, new) = self.to_write(wanted);
        if self.count.load(Ordering::Relaxed) + new > most {
            return Err(SuppressError::NoRoom(most));
        }
        if wanted.is_empty() {
            return Ok(());
        }
        let write = uuid::Uuid::new_v4().simple().to_string();
        let records = wanted.iter().map(|one| {
            let value = one.body.encode(by, write.clone(), now);
            NewRecord::new(Topic::Definitions, key(named(one)), value)
        });
        broker.append(records.collect()).await?;
        let is_so = |held: &Held| {
            wanted.iter().all(|one| {
                let entry = held.get(named(one));
                entry.is_some_and(|entry| entry.reason == one.body.reason)
            })
        };
        self.heard(is_so).await;
        Ok(())
    }

    /// What is to be written, and how many of it are new. Who bounced, complained or is suppressed by decision stays so when he
    /// unsubscribes, which holds less.
    fn to_write<'a>(&self, wanted: &'a [Wanted]) -> (Vec<&'a Wanted>, usize) {
        let inner = self.read();
        let mut new = 0;
        let to_write = wanted.iter().filter(|one| match inner.held.get(named(one)) {
            None => {
                new += 1;
                true
            }
            Some(entry) => {
                let holds_more = entry.until().is_none() && entry.reason != Reason::Unsubscribed;
                !(holds_more && one.body.reason == Reason::Unsubscribed)
            }
        });
        (to_write.collect(), new)
    }

    /// The record that suppresses a recipient of whom a provider reported it, for whoever writes it; `None` when there is nothing to
    /// write, or no room.
    #[expect(clippy::too_many_arguments, reason = "a suppression has as many parts")]
    pub fn reported(
        &self,
        tenant: &str,
        channel: Channel,
        recipient: &str,
        reason: Reason,
        provider: &str,
        by: &str,
        now: Millis,
    ) -> Option<NewRecord> {
        let (id, shown) = self.id(tenant, channel, recipient)?;
        let wanted = [Wanted {
            tenant: tenant.to_owned(),
            channel,
            id,
            body: Body {
                reason,
                recipient: shown,
                source: Some(provider.to_owned()),
                until: None,
            },
        }];
        let (to_write, new) = self.to_write(&wanted);
        let one = *to_write.first()?;
        let has_room = self.count.load(Ordering::Relaxed) + new <= self.settings.suppressions_max;
        let write = uuid::Uuid::new_v4().simple().to_string();
        has_room.then(|| {
            NewRecord::new(
                Topic::Definitions,
                key(named(one)),
                one.body.encode(by, write, now),
            )
        })
    }

    /// Lets messages go to a recipient again; returns as [`Suppressions::put`] does.
    ///
    /// # Errors
    /// See [`SuppressError`].
    pub async fn remove(
        &self,
        broker: &Arc<dyn Broker>,
        tenant: &str,
        channel: Channel,
        id: Id,
    ) -> Result<(), SuppressError> {
        let tombstone = NewRecord {
            topic: Topic::Definitions,
            key: key((tenant, channel, id)).into(),
            value: None,
            partition: None,
        };
        broker.append(vec![tombstone]).await?;
        self.heard(|held| held.get((tenant, channel, id)).is_none()).await;
        Ok(())
    }

    async fn heard(&self, is_so: impl Fn(&Held) -> bool) {
        let mut changes = self.changes.subscribe();
        let hearing = async {
            while !is_so(&self.read().held) {
                if changes.changed().await.is_err() {
                    return;
                }
            }
        };
        let _in_time = timeout(HEARD_WITHIN, hearing).await.is_ok();
    }

    /// Takes in what the topic says.
    pub fn on_news(&self, news: News, now: Millis) {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        match news {
            News::Follows(_) => return,
            News::Records(records) => {
                let mut is_any = false;
                for record in &records {
                    is_any |= self.hear(&mut inner, record, now);
                }
                if !is_any {
                    return;
                }
            }
            News::AllRead => {
                if let Some(anew) = inner.anew.take() {
                    inner.held = anew;
                }
                self.is_read.send_replace(true);
            }
            News::Away(_) => {
                // Who was let go meanwhile may not be told again.
                inner.anew = Some(Held::default());
                inner.beyond = 0;
            }
        }
        self.count.store(inner.held.count(), Ordering::Relaxed);
        drop(inner);
        self.changes
            .send_modify(|changes| *changes = changes.wrapping_add(1));
    }

    /// Whether it was about a suppression.
    fn hear(&self, inner: &mut Inner, record: &Record, now: Millis) -> bool {
        let Some(named) = read_key(record.key.as_deref().unwrap_or_default()) else {
            return false;
        };
        let entry = record
            .value
            .as_deref()
            .map(|value| Entry::read(value, self.is_shown));
        let (Some(named), None | Some(Some(_))) = (named, &entry) else {
            self.tell(|| {
                warn!(
                    partition = %record.partition, offset = record.offset,
                    "a record that should suppress somebody cannot be read; it is passed over, and others like it without a word"
                );
            });
            return false;
        };
        let held = inner.anew.as_mut().unwrap_or(&mut inner.held);
        match entry.flatten() {
            Some(entry) if !entry.is_over(now) => {
                // A look at all of them: not for each.
                if held.count() >= self.heard_max()
                    && now >= inner.cleared_at.saturating_add(CLEARED_EVERY_MS)
                {
                    inner.cleared_at = now;
                    held.forget_over(now);
                }
                if held.count() >= self.heard_max() && held.get(named).is_none() {
                    inner.beyond += 1;
                } else {
                    held.put(named, entry);
                }
            }
            _ => held.remove(named),
        }
        true
    }

    /// So many are held of what other instances took in.
    const fn heard_max(&self) -> usize {
        self.settings.suppressions_max + self.settings.suppressions_max / 4
    }

    fn tell(&self, what: impl FnOnce()) {
        if !self.told.swap(true, Ordering::Relaxed) {
            what();
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }
}

fn named(wanted: &Wanted) -> Named<'_> {
    (&wanted.tenant, wanted.channel, wanted.id)
}

fn shown(channel: Channel, id: Id, entry: &Entry) -> Shown {
    let details = entry.details.as_deref();
    Shown {
        channel,
        id,
        recipient: details.map_or_else(String::new, |details| details.recipient.to_string()),
        reason: entry.reason,
        source: details.and_then(|details| details.source.as_deref().map(str::to_owned)),
        until: entry.until(),
        by: details.map_or_else(String::new, |details| details.by.to_string()),
        at: details.map_or(0, |details| details.at),
    }
}
