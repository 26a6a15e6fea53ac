//! Events that other services put on a topic of ours, instead of posting them.
//!
//! Each record is taken in as a request of its own whose key is its place on the topic, or the CloudEvent's source and id: its
//! claim is made before the event is appended, so a crash in between neither loses the event nor makes two of it. The record
//! is then finished in one hop with its answer, on the status topic.

mod said;
mod session;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use posthaste_broker::{BrokerError, Limits, Start, Subscription, Tracking, Watched};
use posthaste_event::Topic;
use posthaste_reconnect::Reconnect;
use posthaste_service::{Health, Shutdown};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;
use tracing::{error, info, warn};

use crate::{Ingestion, Intake};
use session::Session;

/// Joining a group takes a few seconds when its other members are slow to answer; longer is a fault.
const SUBSCRIBE_TIMEOUT: Duration = Duration::from_secs(60);

/// Records in hand: two batches, so that one is read while the other is made durable.
const LIMITS: Limits = Limits {
    partition_records_max: 2_000,
    records_max: 2_000,
    bytes_max: 8 << 20,
    batch_records_max: 1_000,
    gather_ms: 0,
};

/// Longer than any wait for a claim that somebody else left: a record that is unfinished for longer was lost sight of.
const PATIENCE: Duration = Duration::from_secs(300);

/// What panicked is started again after this time, so that a record that makes it panic cannot spin.
const RESTART_AFTER: Duration = Duration::from_secs(1);

/// How the reading of the inbox is doing.
struct State(Mutex<Option<String>>);

impl State {
    /// Notes what is wrong, if anything; answers what was.
    fn set(&self, problem: Option<String>) -> Option<String> {
        std::mem::replace(
            &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner),
            problem,
        )
    }

    fn check(&self) -> Result<(), String> {
        let problem = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        problem.clone().map_or(Ok(()), Err)
    }

    /// It cannot go on for now; said once.
    fn unwell(&self, reason: &str) {
        if self.set(Some(reason.to_owned())).is_none() {
            warn!(
                reason,
                "events of the inbox cannot be taken in, and it is tried again: {reason}"
            );
        }
    }

    fn well(&self) {
        if self.set(None).is_some() {
            info!("events of the inbox are taken in");
        }
    }
}

impl Ingestion {
    /// Takes in what others put on the inbox until `shutdown`. Outages are waited out; `health` shows them.
    ///
    /// # Errors
    /// When the broker refuses for good.
    pub async fn take_inbox(&self, health: &Health, shutdown: Shutdown) -> Result<(), BrokerError> {
        let state = Arc::new(State(Mutex::new(Some(
            "it has not joined its group yet".to_owned(),
        ))));
        let checked = Arc::clone(&state);
        health.check("inbox", move || checked.check());
        loop {
            let running = run(Arc::clone(&self.intake), Arc::clone(&state), shutdown.clone());
            // A task of its own, so that a panic ends here.
            match AbortOnDropHandle::new(tokio::spawn(running)).await {
                Ok(ended) => return ended,
                Err(panic) => {
                    state.set(Some(
                        "it stopped by a fault of its own and starts again".to_owned(),
                    ));
                    error!(error = %panic, "the reading of the inbox stopped by a fault of its own and starts again");
                    tokio::select! {
                        () = shutdown.cancelled() => return Ok(()),
                        () = tokio::time::sleep(RESTART_AFTER) => {}
                    }
                }
            }
        }
    }
}

async fn run(intake: Arc<Intake>, state: Arc<State>, shutdown: Shutdown) -> Result<(), BrokerError> {
    let subscription = Subscription {
        group: "inbox".to_owned(),
        topics: vec![Topic::Inbox],
        tracking: Tracking::Completion,
        start: Start::Committed,
        limits: LIMITS,
    };
    let mut waits = Reconnect::default();
    let mut has_joined = false;
    while !shutdown.is_cancelled() {
        let subscribing = timeout(SUBSCRIBE_TIMEOUT, intake.broker.subscribe(subscription.clone()));
        let subscribed = tokio::select! {
            () = shutdown.cancelled() => break,
            subscribed = subscribing => subscribed
                .unwrap_or_else(|_| Err(BrokerError::Unreachable("no answer to subscribe".to_owned()))),
        };
        let fault = match subscribed {
            Ok(consumer) => {
                has_joined = true;
                waits.reset();
                state.well();
                let watched = Watched::new(consumer, Arc::clone(&intake.broker), PATIENCE);
                match Session::new(&intake, &state, Box::new(watched))
                    .run(&shutdown)
                    .await
                {
                    Ok(()) => break,
                    Err(fault) => fault,
                }
            }
            Err(fault) if !has_joined && !fault.is_retryable() => return Err(fault),
            Err(fault) => fault,
        };
        state.unwell(&fault.to_string());
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = tokio::time::sleep(waits.next_wait()) => {}
        }
    }
    Ok(())
}
