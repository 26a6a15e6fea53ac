//! What is done for many requests with keys at once, beside them: looking for their events, and confirming their claims.
//!
//! Each for itself would cost every request a thread's turn, or a command, of its own. A confirmation is not waited for: what is on
//! the log is taken, and without one the log is looked at.

use std::{collections::HashMap, sync::Arc, time::Duration};

use posthaste_store::{Claim, Claims, Document, Store, StoreError};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};
use tracing::debug;

/// Requests that may wait for a look; more wait for room.
const LOOKS_WAITING_MAX: usize = 1_024;
/// Once so many events are looked for together, the others wait.
const EVENTS_TOGETHER: usize = 512;
/// How long a request waits for its look. The store has a limit of its own; others may be before this one.
const LOOK_MAX: Duration = Duration::from_secs(5);
/// Claims that may wait to be confirmed; whoever has more confirms them itself.
const CLAIMS_WAITING_MAX: usize = 4_096;
/// Claims that are confirmed together.
const CLAIMS_TOGETHER_MAX: usize = 512;

/// What the store has by id; `None` for a document that cannot be read. Ids without a document are left out.
type Found = HashMap<String, Option<Document>>;

/// Events that a request looks for.
struct Look {
    ids: Vec<String>,
    answer: oneshot::Sender<Result<Found, StoreError>>,
}

/// The way of requests to what is done beside them.
pub(crate) struct ToBeside {
    looks: mpsc::Sender<Look>,
    look_max: Duration,
    claims: mpsc::Sender<Claim>,
}

/// Does for many requests at once what each would do for itself.
pub struct Beside {
    looks: mpsc::Receiver<Look>,
    unconfirmed: mpsc::Receiver<Claim>,
    store: Arc<dyn Store>,
    claims: Arc<dyn Claims>,
}

impl ToBeside {
    pub(crate) fn new(store: Arc<dyn Store>, claims: Arc<dyn Claims>) -> (Self, Beside) {
        let (to_looks, looks) = mpsc::channel(LOOKS_WAITING_MAX);
        let (to_claims, unconfirmed) = mpsc::channel(CLAIMS_WAITING_MAX);
        let to = Self {
            looks: to_looks,
            look_max: LOOK_MAX,
            claims: to_claims,
        };
        let beside = Beside {
            looks,
            unconfirmed,
            store,
            claims,
        };
        (to, beside)
    }

    /// What the store has of these events.
    pub(crate) async fn events(&self, ids: Vec<String>) -> Result<Found, StoreError> {
        let gone = || StoreError::Unreachable("this process is stopping".to_owned());
        let late = || StoreError::Unreachable(format!("no answer within {:?}", self.look_max));
        let (answer, answered) = oneshot::channel();
        let look = Look { ids, answer };
        let found = async {
            self.looks.send(look).await.map_err(|_| gone())?;
            answered.await.map_err(|_| gone())?
        };
        timeout(self.look_max, found).await.map_err(|_| late())?
    }

    /// Has these claims confirmed soon, all or none of them. Answers whether there was room for that.
    pub(crate) fn confirm_soon(&self, claims: &[Claim]) -> bool {
        let Ok(places) = self.claims.try_reserve_many(claims.len()) else {
            return false;
        };
        for (place, claim) in places.zip(claims) {
            place.send(claim.clone());
        }
        true
    }
}

impl Beside {
    /// Does it until the intake is gone, and what was asked by then.
    pub async fn run(self) {
        let Self {
            looks,
            unconfirmed,
            store,
            claims,
        } = self;
        tokio::join!(look(&*store, looks), confirm(&*claims, unconfirmed));
    }
}

async fn look(store: &dyn Store, mut waiting: mpsc::Receiver<Look>) {
    while let Some(first) = waiting.recv().await {
        // Nobody waits for it any more.
        if first.answer.is_closed() {
            continue;
        }
        let mut ids = first.ids.clone();
        let mut looks = vec![first];
        while ids.len() < EVENTS_TOGETHER
            && let Ok(next) = waiting.try_recv()
        {
            ids.extend_from_slice(&next.ids);
            looks.push(next);
        }
        let found = store.events(&ids).await.map(Found::from_iter);
        for Look { ids, answer } in looks {
            let own = found.as_ref().map_err(Clone::clone).map(|found| {
                let own = ids.into_iter();
                own.filter_map(|id| found.get(&id).cloned().map(|document| (id, document)))
                    .collect()
            });
            // Whoever asked may have given up.
            let _ = answer.send(own);
        }
    }
}

async fn confirm(claims: &dyn Claims, mut waiting: mpsc::Receiver<Claim>) {
    let mut together = Vec::new();
    while waiting.recv_many(&mut together, CLAIMS_TOGETHER_MAX).await > 0 {
        if let Err(error) = claims.confirm(&together).await {
            debug!(%error, "idempotency keys were not confirmed");
        }
        together.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use async_trait::async_trait;
    use posthaste_event::{Millis, Status, Topic};
    use tokio::sync::Semaphore;

    use super::*;

    /// Confirms when it is let, and remembers what together.
    struct Slow {
        may: Semaphore,
        confirmed: Mutex<Vec<Vec<String>>>,
    }

    #[async_trait]
    impl Claims for Slow {
        async fn claim(&self, _: &[Claim], _: Millis) -> Result<Vec<Option<Claim>>, StoreError> {
            unreachable!("only confirms")
        }

        async fn take_over(&self, _: &Claim, _: &str, _: Millis) -> Result<bool, StoreError> {
            unreachable!("only confirms")
        }

        async fn confirm(&self, claims: &[Claim]) -> Result<(), StoreError> {
            self.may.acquire().await.unwrap().forget();
            let ids = claims.iter().map(|claim| claim.id.clone()).collect();
            let mut confirmed = self.confirmed.lock().unwrap();
            confirmed.push(ids);
            // The first is lost, and no reason to end.
            match confirmed.len() {
                1 => Err(StoreError::Unreachable("away".to_owned())),
                _ => Ok(()),
            }
        }

        async fn release(&self, _: &[Claim]) -> Result<(), StoreError> {
            unreachable!("only confirms")
        }

        async fn expire(&self, _: Millis, _: u32) -> Result<u64, StoreError> {
            unreachable!("only confirms")
        }

        fn is_reachable(&self) -> Result<(), String> {
            Ok(())
        }
    }

    fn claim(number: usize) -> Claim {
        Claim {
            id: number.to_string(),
            holder: "h".to_owned(),
            lease_until: 0,
            request: String::new(),
            event_id: "e".to_owned(),
            correlation_id: "c".to_owned(),
            status: Status::Pending,
            topic: Topic::Default,
            partition: 0,
            offset: 0,
            is_confirmed: false,
            expires_at: 0,
        }
    }

    fn empty_store(dir: &tempfile::TempDir) -> Arc<posthaste_store::EmbeddedStore> {
        let table: toml::Table = toml::from_str(posthaste_store::DEFAULTS).unwrap();
        let settings = table["store"].clone().try_into().unwrap();
        Arc::new(posthaste_store::EmbeddedStore::open(dir.path(), &settings).unwrap())
    }

    #[tokio::test]
    async fn a_look_is_waited_for_so_long_and_those_after_it_are_answered() {
        let dir = tempfile::tempdir().unwrap();
        let store = empty_store(&dir);
        let (mut to_beside, beside) = ToBeside::new(Arc::clone(&store) as _, store);
        to_beside.look_max = Duration::from_millis(20);
        // Nobody looks yet.
        let late = to_beside.events(vec!["e1".to_owned()]).await.unwrap_err();
        assert!(late.to_string().contains("no answer within 20ms"), "{late}");
        to_beside.look_max = LOOK_MAX;
        tokio::spawn(beside.run());
        let found = to_beside.events(vec!["e2".to_owned()]).await.unwrap();
        assert!(found.is_empty());
    }

    #[tokio::test]
    async fn claims_are_confirmed_together_and_none_is_left_when_the_intake_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let store = empty_store(&dir);
        let slow = Arc::new(Slow {
            may: Semaphore::new(0),
            confirmed: Mutex::default(),
        });
        let (to_beside, beside) = ToBeside::new(store, Arc::clone(&slow) as Arc<dyn Claims>);
        let running = tokio::spawn(beside.run());
        let room = CLAIMS_WAITING_MAX;
        assert!(to_beside.confirm_soon(&[claim(0)]));
        // It is being confirmed; the others fill the room.
        while to_beside.claims.capacity() < room {
            tokio::task::yield_now().await;
        }
        let rest: Vec<Claim> = (1..room).map(claim).collect();
        assert!(to_beside.confirm_soon(&rest));
        let two = [claim(room), claim(room + 1)];
        assert!(!to_beside.confirm_soon(&two), "all or none of them");
        assert!(to_beside.confirm_soon(&two[..1]));
        drop(to_beside);
        slow.may.add_permits(room);
        running.await.unwrap();
        let confirmed = slow.confirmed.lock().unwrap();
        let ids: Vec<String> = confirmed.iter().flatten().cloned().collect();
        let expected: Vec<String> = (0..=room).map(|number| number.to_string()).collect();
        assert_eq!(ids, expected);
        assert_eq!(confirmed.len(), 1 + room.div_ceil(CLAIMS_TOGETHER_MAX));
    }
}
