//! Replay: the index of open dead letters and their re-publication.
//!
//! One consumer group over the dead-letter topic. The owner of a partition reads it from the log's start and keeps the
//! letters that are open. Going out again, closing the letter and proving that the partition is still ours happen in one
//! hop, so a letter goes out once, whoever asks how often.

mod http;
mod index;
mod jobs;
mod letter;
mod membership;
mod publish;
mod reader;
pub mod request;
mod settings;

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use axum::Router;
use posthaste_broker::{Broker, BrokerError, follow};
use posthaste_event::{Channel, Topic};
use posthaste_reconnect::Reconnect;
use posthaste_service::{Health, Shutdown};
use tokio::time::Instant;
use tracing::{info, warn};

pub use http::api;
pub use jobs::{Jobs, Known, pace::Pace, progress::Progress};
pub use settings::{DEFAULTS, Settings};

use membership::Replays;
use reader::ReadError;

/// A membership that lasted this long was a good one: the waits before the next start over.
const STEADY: Duration = Duration::from_secs(60);

/// The replay service of one process.
pub struct Replay {
    broker: Arc<dyn Broker>,
    replays: Arc<Replays>,
    folder: Option<PathBuf>,
}

impl Replay {
    /// Registers the health check; [`Self::run`] does the work. `carriers` are the accounts that carry a channel when an event
    /// names no provider, for telling where letters would go. The index goes to `folder`, which belongs to this process
    /// alone, or to a temporary file.
    pub fn new(
        broker: Arc<dyn Broker>,
        settings: Settings,
        carriers: BTreeMap<Channel, String>,
        instance: Arc<str>,
        health: &Health,
        folder: Option<PathBuf>,
    ) -> Self {
        let replays = Arc::new(Replays::new(Arc::clone(&broker), settings, carriers, instance));
        let check = Arc::clone(&replays);
        health.check("replay", move || check.check());
        Self {
            broker,
            replays,
            folder,
        }
    }

    /// `POST /replay-dead-letter`, `/replays` and `GET /dead-letters`.
    pub fn router(&self) -> Router {
        http::router(Arc::clone(&self.replays))
    }

    /// Reads the dead letters until `shutdown`, then waits for replays under way (within `drain_ms`) and leaves the group.
    /// Outages of the broker are waited out.
    ///
    /// # Errors
    /// What keeps the service from starting and will not pass by itself.
    pub async fn run(&self, shutdown: Shutdown) -> Result<(), BrokerError> {
        let stop = shutdown.child_token();
        let following = follow(&self.broker, &[Topic::Control], &stop, |news| {
            self.replays.jobs.on_news(news);
        });
        let conducting = jobs::conduct(Arc::clone(&self.replays), stop.clone());
        let reading = async {
            let result = self.read(&shutdown).await;
            stop.cancel();
            result
        };
        let (result, (), ()) = tokio::join!(reading, following, conducting);
        result
    }

    async fn read(&self, shutdown: &Shutdown) -> Result<(), BrokerError> {
        let mut waits = Reconnect::default();
        let mut worked = false;
        let mut told = false;
        loop {
            let began = Instant::now();
            let joined = || {
                if told || !worked {
                    info!("the replay service reads the dead letters");
                }
                (worked, told) = (true, false);
            };
            let folder = self.folder.as_deref();
            let error = match reader::read(&self.broker, &self.replays, folder, shutdown, joined).await {
                Ok(()) => {
                    self.replays.set_problem(Some("stopped".to_owned()));
                    return Ok(());
                }
                Err(ReadError::Broker(error)) if !worked && !error.is_retryable() => return Err(error),
                Err(ReadError::Index(error)) if !worked => {
                    return Err(BrokerError::Storage(error.to_string()));
                }
                Err(error) => error,
            };
            if began.elapsed() > STEADY {
                waits.reset();
            }
            self.replays.set_problem(Some(error.to_string()));
            if !told {
                warn!(%error, "the replay service cannot read the dead letters and keeps trying: {error}");
                told = true;
            }
            tokio::select! {
                () = tokio::time::sleep(waits.next_wait()) => {}
                () = shutdown.cancelled() => return Ok(()),
            }
        }
    }
}
