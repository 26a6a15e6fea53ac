//! What the lanes of a process know of ordering keys: the keys topic, followed, and told on.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use posthaste_broker::{NewRecord, News, Record};
use posthaste_event::{
    Topic,
    keys::{self, KeyState, OrderKey, Part, Said},
};
use tokio::sync::Notify;

use super::view::{Known, View};

/// The view of the keys topic that the lanes of a process share.
#[derive(Default)]
pub struct Keys {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    view: View,
    /// The topic's partitions, once they are known, while it is being read.
    partitions: BTreeSet<u32>,
    /// Barriers that were not read in every partition yet.
    barriers: HashMap<String, Barrier>,
    listeners: Vec<Arc<Listener>>,
}

struct Barrier {
    listener: Arc<Listener>,
    /// Where it was not read yet.
    unread: BTreeSet<u32>,
}

/// What one lane has to look at.
#[derive(Default)]
pub struct Listener {
    heard: Mutex<Heard>,
    wake: Notify,
}

/// What a lane hears.
#[derive(Debug, Default)]
pub struct Heard {
    /// Keys of which more is known.
    pub changed: HashSet<OrderKey>,
    /// Barriers before which everything was read.
    pub passed: Vec<String>,
    /// The topic could not be read for a while: what was not heard of may have been said.
    pub lost: bool,
}

impl Listener {
    /// Waits until there is something to hear.
    pub async fn wait(&self) {
        self.wake.notified().await;
    }

    /// Takes what there is to hear.
    pub fn take(&self) -> Heard {
        std::mem::take(&mut *lock(&self.heard))
    }

    fn tell(&self, tell: impl FnOnce(&mut Heard)) {
        tell(&mut lock(&self.heard));
        self.wake.notify_one();
    }
}

impl Keys {
    /// Begins to listen.
    pub fn listen(&self) -> Arc<Listener> {
        let listener = Arc::<Listener>::default();
        lock(&self.inner).listeners.push(Arc::clone(&listener));
        listener
    }

    /// Ends to listen.
    pub fn leave(&self, listener: &Arc<Listener>) {
        let mut inner = lock(&self.inner);
        inner.listeners.retain(|other| !Arc::ptr_eq(other, listener));
        inner
            .barriers
            .retain(|_, barrier| !Arc::ptr_eq(&barrier.listener, listener));
    }

    /// Takes in what the keys topic says.
    pub fn on_news(&self, news: News) {
        let mut inner = lock(&self.inner);
        match news {
            News::Follows(partitions) => {
                inner.partitions = partitions.iter().map(|partition| partition.number).collect();
                inner.tell_all(|_| {});
            }
            News::Records(records) => inner.read(&records),
            News::AllRead => {}
            News::Away(_) => {
                // All of it is read anew; what was forgotten meanwhile would not be.
                inner.view = View::default();
                inner.partitions.clear();
                inner.barriers.clear();
                inner.tell_all(|heard| heard.lost = true);
            }
        }
    }

    /// Takes note of what is durable before it is read.
    pub fn note(&self, key: &OrderKey, part: Part, state: Option<KeyState>) {
        let mut inner = lock(&self.inner);
        inner.view.apply(key, part, state);
        inner.tell_of(key);
    }

    /// Records that say nothing but that whoever reads them has read what came before: one for each partition. `None` while
    /// the topic is not being read.
    pub fn barrier(&self, name: &str, listener: &Arc<Listener>) -> Option<Vec<NewRecord>> {
        let mut inner = lock(&self.inner);
        if inner.partitions.is_empty() {
            return None;
        }
        let barrier = Barrier {
            listener: Arc::clone(listener),
            unread: inner.partitions.clone(),
        };
        let records = inner.partitions.iter().map(|number| NewRecord {
            topic: Topic::Keys,
            key: keys::barrier(name).into(),
            value: None,
            partition: Some(*number),
        });
        let records = records.collect();
        inner.barriers.insert(name.to_owned(), barrier);
        Some(records)
    }

    /// The barrier was never written.
    pub fn forget_barrier(&self, name: &str) {
        lock(&self.inner).barriers.remove(name);
    }

    /// How far the key has come.
    pub fn known(&self, key: &OrderKey) -> Known {
        lock(&self.inner).view.known(key)
    }

    /// Runs `look` on the view.
    pub fn look<R>(&self, look: impl FnOnce(&View) -> R) -> R {
        look(&lock(&self.inner).view)
    }
}

impl Inner {
    fn read(&mut self, records: &[Record]) {
        for record in records {
            let said = record
                .key
                .as_deref()
                .and_then(|key| keys::read(key, record.value.as_deref()));
            match said {
                Some(Said::State(key, part, state)) => {
                    self.view.apply(&key, part, state);
                    self.tell_of(&key);
                }
                Some(Said::Barrier(name)) => self.pass(name, record.partition.number),
                None => {}
            }
        }
    }

    fn pass(&mut self, name: String, partition: u32) {
        let Some(barrier) = self.barriers.get_mut(&name) else {
            return;
        };
        barrier.unread.remove(&partition);
        if barrier.unread.is_empty()
            && let Some(barrier) = self.barriers.remove(&name)
        {
            barrier.listener.tell(|heard| heard.passed.push(name));
        }
    }

    fn tell_of(&self, key: &OrderKey) {
        self.tell_all(|heard| {
            heard.changed.insert(key.clone());
        });
    }

    fn tell_all(&self, tell: impl Fn(&mut Heard)) {
        for listener in &self.listeners {
            listener.tell(&tell);
        }
    }
}

/// What is guarded is changed by steps that cannot panic half-way.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
