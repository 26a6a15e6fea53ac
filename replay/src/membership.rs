//! What the reader of the dead-letter topic and the HTTP interface share.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use posthaste_broker::{Broker, Hopper};
use posthaste_event::Channel;
use tokio::{sync::Semaphore, task::spawn_blocking};
use tokio_util::task::TaskTracker;

use crate::{
    Settings,
    index::{Claim, Index},
    jobs::Jobs,
};

/// Why the index cannot be asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IndexError {
    /// It is not there: the group is not joined, or the index is about to be built anew.
    #[error("the dead letters have not been read yet")]
    Absent,
    /// Its file fails.
    #[error("the index of dead letters cannot be used: {0}")]
    File(String),
}

/// State of one process's replay service.
pub struct Replays {
    /// The `[replay]` table.
    pub settings: Settings,
    /// This process's name, for `delivery.by`.
    pub instance: Arc<str>,
    /// Bounds the requests that re-publish at the same time.
    pub requests: Arc<Semaphore>,
    /// Replays under way; they outlive the requests that began them.
    pub under_way: TaskTracker,
    /// What is known of every replay.
    pub jobs: Jobs,
    /// Held while a replay is chosen and made known, so that two cannot mean the same letters by chance.
    pub creating: tokio::sync::Mutex<()>,
    /// For what operators ask for; letters go out in hops only.
    pub broker: Arc<dyn Broker>,
    /// The account that carries a channel when the event names no provider.
    pub carriers: BTreeMap<Channel, String>,
    open: Mutex<Option<Membership>>,
    partitions_total: AtomicU32,
    /// What is missing, in words.
    problem: Mutex<Option<String>>,
}

/// One membership: the index that it fills, and what puts its hops through.
#[derive(Clone)]
pub struct Membership {
    index: Arc<Mutex<Index>>,
    /// Puts hops through.
    pub hopper: Arc<dyn Hopper>,
}

impl Replays {
    /// Nothing is open yet.
    pub fn new(
        broker: Arc<dyn Broker>,
        settings: Settings,
        carriers: BTreeMap<Channel, String>,
        instance: Arc<str>,
    ) -> Self {
        Self {
            requests: Arc::new(Semaphore::new(settings.requests_max)),
            settings,
            instance,
            under_way: TaskTracker::new(),
            jobs: Jobs::default(),
            creating: tokio::sync::Mutex::default(),
            broker,
            carriers,
            open: Mutex::new(None),
            partitions_total: AtomicU32::new(0),
            problem: Mutex::new(Some("the group is not joined yet".to_owned())),
        }
    }

    /// A membership begins with an empty index, or ends.
    pub fn set_open(&self, open: Option<Membership>) {
        *lock(&self.open) = open;
    }

    /// The membership of this moment.
    ///
    /// # Errors
    /// [`IndexError::Absent`] while there is none.
    pub fn open(&self) -> Result<Membership, IndexError> {
        lock(&self.open).clone().ok_or(IndexError::Absent)
    }

    /// Whether this is the membership of this moment.
    pub fn is_current(&self, membership: &Membership) -> bool {
        lock(&self.open)
            .as_ref()
            .is_some_and(|open| Arc::ptr_eq(&open.index, &membership.index))
    }

    /// How many partitions the dead-letter topic has, if known.
    pub fn partitions_total(&self) -> Option<u32> {
        match self.partitions_total.load(Ordering::Relaxed) {
            0 => None,
            total => Some(total),
        }
    }

    /// The dead-letter topic has this many partitions.
    pub fn set_partitions_total(&self, total: usize) {
        let total = u32::try_from(total).unwrap_or(u32::MAX);
        self.partitions_total.store(total, Ordering::Relaxed);
    }

    /// What is missing, or nothing.
    pub fn set_problem(&self, problem: Option<String>) {
        *lock(&self.problem) = problem;
    }

    /// The health check.
    ///
    /// # Errors
    /// What is missing.
    pub fn check(&self) -> Result<(), String> {
        if let Some(problem) = lock(&self.problem).clone() {
            return Err(problem);
        }
        if !self.jobs.is_read() {
            return Err("the replays are being read".to_owned());
        }
        Ok(())
    }
}

impl Membership {
    /// A membership with this index.
    pub fn new(index: Index, hopper: Arc<dyn Hopper>) -> Self {
        Self {
            index: Arc::new(Mutex::new(index)),
            hopper,
        }
    }

    /// Does something with the index, on a thread that may block.
    ///
    /// # Errors
    /// [`IndexError::File`] when its file fails.
    pub async fn with_index<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Index) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, IndexError> {
        self.beside_index(|| (), move |index, ()| work(index), |done| done)
            .await
    }

    /// The same, with work `before` and `after` it on that thread, during which others have the index.
    ///
    /// # Errors
    /// [`IndexError::File`] when its file fails.
    pub async fn beside_index<B, D, T: Send + 'static>(
        &self,
        before: impl FnOnce() -> B + Send + 'static,
        work: impl FnOnce(&mut Index, B) -> rusqlite::Result<D> + Send + 'static,
        after: impl FnOnce(D) -> T + Send + 'static,
    ) -> Result<T, IndexError> {
        let index = Arc::clone(&self.index);
        let all = move || {
            let made = before();
            let done = work(&mut lock(&index), made);
            done.map(after)
        };
        match spawn_blocking(all).await {
            Ok(result) => result.map_err(|error| IndexError::File(error.to_string())),
            Err(ended) => Err(IndexError::File(ended.to_string())),
        }
    }
}

impl Membership {
    /// Releases letters, later and without a word: for what ends without being able to wait.
    pub fn release_later(&self, claims: Vec<Claim>) {
        let index = Arc::clone(&self.index);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn_blocking(move || lock(&index).release(&claims));
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
