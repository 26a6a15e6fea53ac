//! What became of the events of a broadcast: counted in the store when somebody asks, and not more often than that is worth.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use posthaste_event::{Status, broadcast::Broadcast};
use posthaste_store::Tallies;
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout},
};
use tracing::debug;

/// How long whoever asks waits for a count, with its turn.
const PATIENCE: Duration = Duration::from_secs(3);

/// A count is good for this long, or for so many times as long as it took.
const GOOD_FOR: Duration = Duration::from_secs(1);
const GOOD_FOR_TIMES: u32 = 10;

/// After a count that took too long nobody tries for this long.
const TRIED_AGAIN: Duration = Duration::from_secs(30);

/// Broadcasts whose counts are kept.
const KEPT_MAX: usize = 1_000;

/// Why nothing is known.
pub(super) const NO_STORE: &str = "the status store does not answer";

type Counts = BTreeMap<Status, u64>;
type Answer = Result<Counts, &'static str>;

/// See the module.
pub(super) struct Tallied {
    tallies: Arc<dyn Tallies>,
    /// By id, with the time until which it is good.
    kept: Mutex<HashMap<String, (Instant, Answer)>>,
    /// One count at a time: each may look at a million events.
    turn: Semaphore,
}

impl Tallied {
    pub(super) fn new(tallies: Arc<dyn Tallies>) -> Self {
        Self {
            tallies,
            kept: Mutex::default(),
            turn: Semaphore::new(1),
        }
    }

    /// How many of a broadcast's events have each status, as of a moment ago.
    ///
    /// # Errors
    /// Why that is not known, in words.
    pub(super) async fn of(&self, broadcast: &Broadcast) -> Answer {
        if let Some(answer) = self.kept(&broadcast.id) {
            return answer;
        }
        let turn = timeout(PATIENCE, self.turn.acquire()).await;
        let Ok(Ok(_turn)) = turn else {
            return Err("other broadcasts are being counted; ask again");
        };
        // Somebody else may have asked the same meanwhile.
        if let Some(answer) = self.kept(&broadcast.id) {
            return answer;
        }
        let began = Instant::now();
        let counting = self.tallies.tally(&broadcast.tenant, &broadcast.id);
        let (answer, good_for) = match timeout(PATIENCE, counting).await {
            Ok(Ok(counts)) => (Ok(counts), GOOD_FOR.max(began.elapsed() * GOOD_FOR_TIMES)),
            Ok(Err(error)) => {
                debug!(broadcast.id, %error, "the events of a broadcast cannot be counted");
                (Err(NO_STORE), GOOD_FOR)
            }
            Err(_elapsed) => (
                Err("counting took too long; ask again in half a minute"),
                TRIED_AGAIN,
            ),
        };
        self.keep(&broadcast.id, answer.clone(), began + good_for);
        answer
    }

    fn kept(&self, id: &str) -> Option<Answer> {
        let kept = self.lock();
        let (until, answer) = kept.get(id)?;
        (Instant::now() < *until).then(|| answer.clone())
    }

    fn keep(&self, id: &str, answer: Answer, until: Instant) {
        let mut kept = self.lock();
        if kept.len() >= KEPT_MAX {
            let now = Instant::now();
            kept.retain(|_, (until, _)| now < *until);
        }
        if kept.len() < KEPT_MAX {
            kept.insert(id.to_owned(), (until, answer));
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, (Instant, Answer)>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
