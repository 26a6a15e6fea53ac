//! Counts of events that are kept for a moment: each may look at all events there are, and whoever polls would have the store do
//! nothing else.

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use posthaste_event::{Millis, Status, clock};
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout_at},
};
use tracing::debug;

use crate::StoreError;

/// How many events have each status.
pub type Counts = BTreeMap<Status, u64>;

/// How long whoever asks waits for a count, with its turn. The count goes on without them, for as long as the store lets it.
const PATIENCE: Duration = Duration::from_secs(3);

/// A count is good for so many times as long as it took.
const GOOD_FOR_TIMES: u32 = 10;

/// After a count that failed nobody tries for this long, and for the longer one if whoever asked had given up by then.
const TRIED_AGAIN: Duration = Duration::from_secs(1);
const TRIED_AGAIN_SLOW: Duration = Duration::from_secs(30);

/// While a new count takes too long, the last one is told if it is not older than this.
const OLD_MAX: Duration = Duration::from_secs(600);

/// Counts that are kept.
const KEPT_MAX: usize = 1_000;

/// A count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counted {
    /// What was counted.
    pub counts: Counts,
    /// When that began, in milliseconds since the Unix epoch.
    pub at: Millis,
}

/// Why nothing is known.
#[derive(Debug, Clone)]
pub enum Uncounted {
    /// The store did not do it.
    Failed(StoreError),
    /// It is being counted still, and told to whoever asks later.
    Slow,
    /// Others are being counted.
    Busy,
}

#[derive(Debug)]
struct Kept {
    answer: Result<Counted, StoreError>,
    began: Instant,
    good_until: Instant,
}

/// Counts by what was asked for; one is made at a time.
#[derive(Debug)]
pub struct KeptCounts<K> {
    patience: Duration,
    kept: Arc<Mutex<HashMap<K, Kept>>>,
    turn: Arc<Semaphore>,
}

impl<K> Default for KeptCounts<K> {
    fn default() -> Self {
        Self {
            patience: PATIENCE,
            kept: Arc::default(),
            turn: Arc::new(Semaphore::new(1)),
        }
    }
}

impl<K: Clone + Eq + Hash + Send + 'static> KeptCounts<K> {
    /// What was counted a moment ago, or what `count` says now. `count` has to end by itself.
    ///
    /// # Errors
    /// See [`Uncounted`].
    pub async fn get(
        &self,
        key: &K,
        count: impl Future<Output = Result<Counts, StoreError>> + Send + 'static,
    ) -> Result<Counted, Uncounted> {
        if let Some(answer) = self.good(key) {
            return answer;
        }
        let until = Instant::now() + self.patience;
        let Ok(Ok(turn)) = timeout_at(until, Arc::clone(&self.turn).acquire_owned()).await else {
            return self.old(key).ok_or(Uncounted::Busy);
        };
        // Somebody else may have asked the same meanwhile.
        if let Some(answer) = self.good(key) {
            return answer;
        }
        let (kept, counted_key) = (Arc::clone(&self.kept), key.clone());
        let counting = tokio::spawn(async move {
            let (began, at) = (Instant::now(), clock::now());
            let answer = count.await.map(|counts| Counted { counts, at });
            if let Err(error) = &answer {
                debug!(%error, "events cannot be counted");
            }
            keep(&kept, counted_key, answer.clone(), began);
            drop(turn);
            answer
        });
        match timeout_at(until, counting).await {
            Ok(Ok(answer)) => answer.map_err(Uncounted::Failed),
            // The task ends early only with the process.
            Ok(Err(_)) | Err(_) => self.old(key).ok_or(Uncounted::Slow),
        }
    }

    fn good(&self, key: &K) -> Option<Result<Counted, Uncounted>> {
        let kept = lock(&self.kept);
        let one = kept.get(key)?;
        (Instant::now() < one.good_until).then(|| one.answer.clone().map_err(Uncounted::Failed))
    }

    fn old(&self, key: &K) -> Option<Counted> {
        let kept = lock(&self.kept);
        let one = kept.get(key)?;
        (one.began.elapsed() < OLD_MAX).then(|| one.answer.clone().ok())?
    }
}

fn keep<K: Eq + Hash>(
    kept: &Mutex<HashMap<K, Kept>>,
    key: K,
    answer: Result<Counted, StoreError>,
    began: Instant,
) {
    let now = Instant::now();
    let good_for = good_for(answer.is_ok(), began.elapsed());
    let mut kept = lock(kept);
    if kept.len() >= KEPT_MAX {
        kept.retain(|_, one| now < one.good_until);
    }
    if kept.len() < KEPT_MAX {
        let one = Kept {
            answer,
            began,
            good_until: now + good_for,
        };
        kept.insert(key, one);
    }
}

fn good_for(is_counted: bool, took: Duration) -> Duration {
    if is_counted {
        took * GOOD_FOR_TIMES
    } else if took < PATIENCE {
        TRIED_AGAIN
    } else {
        TRIED_AGAIN_SLOW
    }
}

fn lock<K>(kept: &Mutex<HashMap<K, Kept>>) -> MutexGuard<'_, HashMap<K, Kept>> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use tokio::{sync::Notify, task::yield_now};

    use super::*;

    /// Counts how often there was counting; each count waits for its go.
    struct Gate {
        kept: KeptCounts<&'static str>,
        made: Arc<AtomicU64>,
        go: Arc<Notify>,
    }

    impl Gate {
        fn new(patience: Duration) -> Self {
            Self {
                kept: KeptCounts {
                    patience,
                    ..KeptCounts::default()
                },
                made: Arc::default(),
                go: Arc::default(),
            }
        }

        async fn get(&self, key: &'static str) -> Result<u64, Uncounted> {
            let (made, go) = (Arc::clone(&self.made), Arc::clone(&self.go));
            let count = async move {
                let number = made.fetch_add(1, Ordering::Relaxed) + 1;
                go.notified().await;
                Ok(Counts::from([(Status::Sent, number)]))
            };
            let counted = self.kept.get(&key, count).await?;
            Ok(counted.counts[&Status::Sent])
        }

        fn made(&self) -> u64 {
            self.made.load(Ordering::Relaxed)
        }

        /// Asks until the answer is this.
        async fn reach(&self, key: &'static str, wanted: u64) {
            while self.get(key).await.ok() != Some(wanted) {
                assert!(self.made() <= wanted + 1, "{}", self.made());
                yield_now().await;
            }
        }
    }

    #[test]
    fn a_count_is_good_for_ten_times_as_long_as_it_took_and_a_failure_until_it_is_worth_trying() {
        let second = Duration::from_secs(1);
        assert_eq!(good_for(true, second), 10 * second);
        assert_eq!(good_for(false, second), second);
        assert_eq!(good_for(false, 20 * second), 30 * second);
    }

    #[tokio::test]
    async fn those_who_ask_together_wait_for_one_count() {
        let gate = Gate::new(Duration::from_secs(60));
        let asked = futures_util::future::join_all((0..100).map(|_| gate.get("all")));
        let open = async {
            while gate.made() == 0 {
                yield_now().await;
            }
            // A count is good for ten times as long as it took: for long enough, then.
            tokio::time::sleep(Duration::from_millis(500)).await;
            gate.go.notify_one();
        };
        let (answers, ()) = tokio::join!(asked, open);
        assert!(
            answers.iter().all(|answer| matches!(answer, Ok(1))),
            "{answers:?}"
        );
    }

    #[tokio::test]
    async fn a_count_that_takes_long_goes_on_and_the_last_one_is_told_meanwhile() {
        let gate = Gate::new(Duration::ZERO);
        let first = gate.get("all").await;
        assert!(matches!(first, Err(Uncounted::Slow)), "{first:?}");
        let other = gate.get("other").await;
        assert!(matches!(other, Err(Uncounted::Busy)), "{other:?}");
        gate.go.notify_one();
        gate.reach("all", 1).await;
        // When it is not good any more another is begun, and this one told until that has ended.
        while gate.made() < 2 {
            assert_eq!(gate.get("all").await.unwrap(), 1);
            yield_now().await;
        }
        assert_eq!(gate.get("all").await.unwrap(), 1);
        gate.go.notify_one();
        gate.reach("all", 2).await;
    }

    #[tokio::test]
    async fn a_failure_is_not_hidden_by_an_older_count() {
        let kept = KeptCounts::default();
        let count = async { Ok(Counts::new()) };
        assert!(kept.get(&"all", count).await.is_ok());
        let failed = async {
            loop {
                let fail = async { Err(StoreError::Unreachable("away".to_owned())) };
                // The count before is good for a moment.
                if let Err(why) = kept.get(&"all", fail).await {
                    return why;
                }
                yield_now().await;
            }
        };
        let why = failed.await;
        assert!(matches!(why, Uncounted::Failed(_)), "{why:?}");
    }
}
