//! Requests with keys that come at the same moment share commands: one for many costs little more than one for one.

use std::sync::Arc;

use posthaste_event::Millis;
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::{
    super::{Shared, within},
    Wanted, claim, confirm,
};
use crate::{Claim, StoreError, claim::firsts};

/// Requests that may wait; whoever comes then waits for room, within the time limit.
const ASKS_WAITING_MAX: usize = 1_024;
/// Requests that share a command, at most.
const ASKS_TOGETHER_MAX: usize = 256;
/// Commands at a time. Whatever comes while they run is gathered for the next.
const COMMANDS_MAX: usize = 2;

/// Wanted claims, what time it is for them, and who waits.
type Wants = (Vec<Claim>, Millis, Answer<Vec<Option<Claim>>>);
type Answer<T> = oneshot::Sender<Result<T, StoreError>>;

/// What a request asks for.
enum Ask {
    Claim {
        wanted: Vec<Claim>,
        now: Millis,
        answer: Answer<Vec<Option<Claim>>>,
    },
    Confirm {
        claims: Vec<Claim>,
        answer: Answer<()>,
    },
}

/// The way to the shared commands. They end when it is dropped.
pub(in super::super) struct Gathering {
    shared: Arc<Shared>,
    asks: mpsc::Sender<Ask>,
}

impl Gathering {
    /// Begins to gather. Must be called on a Tokio runtime.
    pub fn start(shared: Arc<Shared>) -> Self {
        let (asks, waiting) = mpsc::channel(ASKS_WAITING_MAX);
        tokio::spawn(gather(Arc::clone(&shared), waiting));
        Self { shared, asks }
    }

    /// See [`crate::Claims::claim`].
    pub async fn claim(&self, wanted: &[Claim], now: Millis) -> Result<Vec<Option<Claim>>, StoreError> {
        let wanted = wanted.to_vec();
        self.ask(|answer| Ask::Claim { wanted, now, answer }).await
    }

    /// See [`crate::Claims::confirm`].
    pub async fn confirm(&self, claims: &[Claim]) -> Result<(), StoreError> {
        let claims = claims.to_vec();
        self.ask(|answer| Ask::Confirm { claims, answer }).await
    }

    async fn ask<T>(&self, ask: impl FnOnce(Answer<T>) -> Ask) -> Result<T, StoreError> {
        let gone = || StoreError::Unreachable("the store is being closed".to_owned());
        within(self.shared.settings.write_timeout(), async {
            let (answer, answered) = oneshot::channel();
            self.asks.send(ask(answer)).await.map_err(|_| gone())?;
            answered.await.map_err(|_| gone())?
        })
        .await
    }
}

/// Answers what is asked, some of it at a time.
async fn gather(shared: Arc<Shared>, mut waiting: mpsc::Receiver<Ask>) {
    let commands = Arc::new(Semaphore::new(COMMANDS_MAX));
    // The semaphore is never closed.
    while let Ok(command) = Arc::clone(&commands).acquire_owned().await {
        let mut asks = Vec::new();
        if waiting.recv_many(&mut asks, ASKS_TOGETHER_MAX).await == 0 {
            return;
        }
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let (mut claims, mut confirmations) = (Vec::new(), Vec::new());
            for ask in asks {
                match ask {
                    Ask::Claim { wanted, now, answer } => claims.push((wanted, now, answer)),
                    Ask::Confirm { claims, answer } => confirmations.push((claims, answer)),
                }
            }
            tokio::join!(claim_all(&shared, claims), confirm_all(&shared, confirmations));
            drop(command);
        });
    }
}

async fn claim_all(shared: &Shared, asks: Vec<Wants>) {
    let all = asks
        .iter()
        .flat_map(|(wanted, now, _)| wanted.iter().map(|claim| (claim, *now)));
    let all: Vec<Wanted<'_>> = all.collect();
    let together = try_claim(shared, &all).await;
    drop(all);
    match together {
        Ok(found) => {
            let mut found = found.into_iter();
            for (wanted, _, answer) in asks {
                let found = found.by_ref().take(wanted.len()).collect();
                let _ = answer.send(firsts(&wanted, found));
            }
        }
        // Because of one of them: the others are not to suffer for it.
        Err(StoreError::Refused(_)) if asks.len() > 1 => {
            for (wanted, now, answer) in asks {
                let alone: Vec<Wanted<'_>> = wanted.iter().map(|claim| (claim, now)).collect();
                let found = try_claim(shared, &alone).await;
                let _ = answer.send(found.and_then(|found| firsts(&wanted, found)));
            }
        }
        Err(error) => {
            for (_, _, answer) in asks {
                let _ = answer.send(Err(error.clone()));
            }
        }
    }
}

async fn try_claim(shared: &Shared, wanted: &[Wanted<'_>]) -> Result<Vec<Option<Claim>>, StoreError> {
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let limit = shared.settings.write_timeout();
    within(limit, async {
        claim(
            shared.connection().await?,
            wanted,
            shared.settings.batch_max(),
            limit,
        )
        .await
    })
    .await
}

async fn confirm_all(shared: &Shared, asks: Vec<(Vec<Claim>, Answer<()>)>) {
    if asks.is_empty() {
        return;
    }
    let limit = shared.settings.write_timeout();
    let all: Vec<&Claim> = asks.iter().flat_map(|(claims, _)| claims).collect();
    let done = within(limit, async {
        confirm(
            shared.connection().await?,
            &all,
            shared.settings.batch_max(),
            limit,
        )
        .await
    })
    .await;
    for (_, answer) in asks {
        let _ = answer.send(done.clone());
    }
}
