//! Reads every topic that tells what became of events, and writes what it read to the store.

mod batch;
mod gauge;
mod retention;
mod session;
mod write;

use std::{sync::Arc, time::Duration};

use posthaste_broker::{
    Broker, BrokerError, Consumer, Limits, Partition, Start, Subscription, Tracking, Watched,
    watchdog::READING_PATIENCE,
};
use posthaste_event::{FieldError, topic::PROJECTED};
use posthaste_reconnect::Reconnect;
use posthaste_service::{Health, Shutdown};
use posthaste_store::Store;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use crate::Settings;
use gauge::Gauge;
use session::{Ended, Session};

/// The consumer group, without prefix.
pub const GROUP: &str = "projector";

/// Joining a group takes a few seconds when its other members are slow to answer; longer is a fault.
const SUBSCRIBE_TIMEOUT: Duration = Duration::from_secs(60);

/// Where the projector's positions are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Positions {
    /// In the store, with the documents. For a broker and a store that one process has to itself.
    InStore,
    /// At the broker, committed after the write. Any number of instances share the topics.
    InBroker,
}

/// What the projector works with.
#[derive(Clone)]
pub struct Projector {
    /// Where records come from.
    pub broker: Arc<dyn Broker>,
    /// Where documents go.
    pub store: Arc<dyn Store>,
    /// Where positions are kept. A store that keeps none leaves them to the broker, whatever this says.
    pub positions: Positions,
    /// How long documents are kept, in milliseconds; `None` is for ever.
    pub retention_ms: Option<i64>,
}

/// Why the projector does not start, or ended before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// A setting is out of range.
    #[error(transparent)]
    Settings(#[from] FieldError),
    /// The broker refuses.
    #[error("the projector cannot join its group: {0}")]
    Broker(BrokerError),
}

/// Projects until `shutdown`, then writes what it has and returns. The checks `projector` and `store` are added to `health`.
///
/// # Errors
/// A setting out of range, or a broker that refuses for good. Outages of broker and store are waited out.
pub async fn run(
    settings: &Settings,
    projector: Projector,
    health: &Health,
    shutdown: Shutdown,
) -> Result<(), StatusError> {
    settings.check()?;
    let gauge = Arc::new(Gauge::default());
    let checked = Arc::clone(&gauge);
    health.check_lesser("projector", move || checked.check());
    let store = Arc::clone(&projector.store);
    health.check_lesser("store", move || store.health());
    let every = Duration::from_secs(settings.forget_every_minutes * 60);
    tokio::select! {
        ended = project(settings, &projector, &gauge, &shutdown) => ended,
        () = retention::forget(projector.store.as_ref(), projector.retention_ms, every) => Ok(()),
    }
}

/// One membership after the other, until the end.
async fn project(
    settings: &Settings,
    projector: &Projector,
    gauge: &Arc<Gauge>,
    shutdown: &Shutdown,
) -> Result<(), StatusError> {
    let mut waits = Reconnect::default();
    let mut started = false;
    while !shutdown.is_cancelled() {
        let joining = timeout(SUBSCRIBE_TIMEOUT, projector.join(settings));
        let joined = tokio::select! {
            () = shutdown.cancelled() => break,
            joined = joining => joined.unwrap_or_else(|_| {
                Err(BrokerError::Unreachable("no answer to subscribe".to_owned()))
            }),
        };
        let fault = match joined {
            Ok((consumer, positions)) => {
                started = true;
                waits.reset();
                if gauge.joined() {
                    info!("the projector reads its topics again");
                }
                let session = Session::new(settings, projector, positions, consumer, gauge);
                match session.run(shutdown).await {
                    Ended::AsTold => break,
                    Ended::Fault(fault) => fault,
                }
            }
            Err(fault) if !started && !fault.is_retryable() => return Err(StatusError::Broker(fault)),
            Err(fault) => fault,
        };
        if gauge.left(fault.to_string()) {
            warn!(error = %fault, "the projector cannot read its topics; the status stands still until it can");
        }
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = sleep(waits.next_wait()) => {}
        }
    }
    Ok(())
}

impl Projector {
    /// Joins the group where the projector stands.
    async fn join(&self, settings: &Settings) -> Result<(Box<dyn Consumer>, Positions), BrokerError> {
        let (start, positions) = match self.positions {
            Positions::InBroker => (Start::Committed, Positions::InBroker),
            Positions::InStore => match self.stored_start().await? {
                Some(start) => (start, Positions::InStore),
                None => (Start::Committed, Positions::InBroker),
            },
        };
        let subscription = Subscription {
            group: GROUP.to_owned(),
            topics: PROJECTED.to_vec(),
            tracking: Tracking::Position,
            start,
            limits: Limits {
                batch_records_max: settings.batch_records_max,
                bytes_max: settings.batch_kib_max << 10,
                gather_ms: settings.fetch_wait_ms,
                ..Limits::default()
            },
        };
        let consumer = self.broker.subscribe(subscription).await?;
        let consumer = Watched::reader(consumer, Arc::clone(&self.broker), READING_PATIENCE);
        Ok((Box::new(consumer), positions))
    }

    /// Where the store says that reading goes on.
    async fn stored_start(&self) -> Result<Option<Start>, BrokerError> {
        let unreadable = |error| BrokerError::Unreachable(format!("the projector's positions: {error}"));
        let Some(stored) = self.store.progress().await.map_err(unreadable)? else {
            return Ok(None);
        };
        let lags = self.broker.lag(GROUP, PROJECTED).await?;
        let mut offsets = Vec::with_capacity(stored.len());
        for position in stored {
            let partition = Partition {
                topic: position.topic,
                number: position.partition,
            };
            // Behind the end there is only a log that was made anew: its records are new to us, from the first on.
            let is_there = lags
                .iter()
                .any(|lag| lag.partition == partition && position.offset <= lag.end);
            if is_there {
                offsets.push((partition, position.offset));
            } else {
                warn!(
                    %partition,
                    position = position.offset,
                    "the log is shorter than the status that was built from it; reading it from its start"
                );
            }
        }
        Ok(Some(Start::At(offsets)))
    }
}
