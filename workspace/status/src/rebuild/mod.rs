//! Builds the status again from the topics, beside the live one, and puts right what differs.
//!
//! The topics are folded, as far back as they reach, into a shadow: a scratch store on this machine's disk. Then the live
//! documents are compared with it, a page at a time, and repaired in place. Nothing has to stop, and nothing is lost by a crash
//! in the middle: what is added commutes with all that the projector writes, what is replaced is replaced only while it is what
//! was compared, and each document is either as it was or right. What only the live status has (older events, older steps, all
//! that is not status) stays.

mod compare;
mod read;
mod repair;
mod report;
mod shadow;

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use posthaste_broker::{Broker, BrokerError};
use posthaste_service::Shutdown;
use posthaste_store::{Settings, Store, StoreError};
use tracing::{info, warn};
use uuid::Uuid;

use read::Reader;
use report::Progress;
use shadow::Shadow;

pub use report::{Difference, Kind, Report, State};

/// Rebuilds of this process, one at a time.
#[derive(Clone)]
pub struct Rebuilds(Arc<Shared>);

struct Shared {
    broker: Arc<dyn Broker>,
    store: Arc<dyn Store>,
    settings: Settings,
    folder: Option<PathBuf>,
    shutdown: Shutdown,
    newest: Mutex<Option<Begun>>,
}

/// A rebuild that runs or is over.
#[derive(Clone)]
struct Begun {
    progress: Arc<Progress>,
    stop: Shutdown,
}

/// Why a rebuild did not come to its end.
#[derive(Debug, thiserror::Error)]
enum RebuildError {
    /// The broker refuses for good.
    #[error("the topics cannot be read: {0}")]
    Broker(#[from] BrokerError),
    /// The store refuses for good.
    #[error("the status cannot be compared: {0}")]
    Store(StoreError),
    /// The scratch files cannot be written.
    #[error("the scratch files cannot be used: {0}")]
    Shadow(String),
}

impl Rebuilds {
    /// Of what `store` has from what `broker` has, until `shutdown`. The shadow goes to `folder`, which belongs to this process
    /// alone, or to a folder for temporary files.
    pub fn new(
        broker: Arc<dyn Broker>,
        store: Arc<dyn Store>,
        settings: &Settings,
        folder: Option<PathBuf>,
        shutdown: Shutdown,
    ) -> Self {
        Self(Arc::new(Shared {
            broker,
            store,
            settings: settings.clone(),
            folder,
            shutdown,
            newest: Mutex::default(),
        }))
    }

    /// Begins one. With `dry_run` it compares and changes nothing.
    ///
    /// # Errors
    /// The report of the one that runs.
    pub fn begin(&self, dry_run: bool) -> Result<Report, Box<Report>> {
        let mut newest = self.0.newest.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(begun) = &*newest {
            let report = begun.progress.report();
            if report.state.is_running() {
                return Err(Box::new(report));
            }
        }
        let begun = Begun {
            progress: Arc::new(Progress::new(Uuid::now_v7().to_string(), dry_run)),
            stop: self.0.shutdown.child_token(),
        };
        let report = begun.progress.report();
        *newest = Some(begun.clone());
        drop(newest);
        info!(
            rebuild.id = report.rebuild_id,
            dry_run, "rebuild {} of the status begins", report.rebuild_id
        );
        let shared = Arc::clone(&self.0);
        tokio::spawn(async move { run(&shared, &begun).await });
        Ok(report)
    }

    /// How far the newest one of this process is, or what came of it.
    pub fn report(&self) -> Option<Report> {
        self.begun().map(|begun| begun.progress.report())
    }

    /// Asks the one that runs to end. What it has put right stays so.
    pub fn stop(&self) -> Option<Report> {
        let begun = self.begun()?;
        begun.stop.cancel();
        Some(begun.progress.report())
    }

    /// Waits until `shutdown`, and then for the one that runs to clear away its files.
    pub async fn drain(&self) {
        self.0.shutdown.cancelled().await;
        if let Some(begun) = self.begun() {
            begun.progress.over().await;
        }
    }

    fn begun(&self) -> Option<Begun> {
        (self.0.newest.lock().unwrap_or_else(PoisonError::into_inner)).clone()
    }
}

async fn run(shared: &Shared, begun: &Begun) {
    let progress = &begun.progress;
    let opened = Shadow::open(shared.folder.as_deref(), &shared.settings).await;
    let ended = match opened {
        Ok(shadow) => {
            let ended = tokio::select! {
                ended = rebuild(shared, &shadow, progress) => Some(ended),
                () = begun.stop.cancelled() => None,
            };
            shadow.remove().await;
            ended
        }
        Err(error) => Some(Err(error)),
    };
    let report = match ended {
        Some(Ok(())) => progress.end(State::Finished, None),
        Some(Err(error)) => progress.end(State::Failed, Some(error.to_string())),
        None => progress.end(State::Stopped, Some("it was told to stop".to_owned())),
    };
    let id = &report.rebuild_id;
    let (missing, different, repaired) = (report.missing, report.different, report.repaired);
    if let Some(reason) = &report.reason {
        warn!(
            rebuild.id = id,
            reason, "rebuild {id} of the status did not come to its end: {reason}"
        );
    } else {
        info!(
            rebuild.id = id,
            missing,
            different,
            repaired,
            "rebuild {id} of the status is over: {missing} documents were missing, {different} different, {repaired} are put right"
        );
    }
}

async fn rebuild(shared: &Shared, shadow: &Shadow, progress: &Progress) -> Result<(), RebuildError> {
    progress.before(count(shared.store.as_ref()).await);
    let mut reader = Reader::new(shared.broker.as_ref(), shadow.store(), progress);
    reader.catch_up().await?;
    // What the projector has not come to yet is no difference. Once it has, its documents say all that the shadow says.
    reader.wait_for_projector(shared.store.as_ref()).await;
    progress.compares(count(shadow.store()).await);
    repair::walk(shared, &mut reader, progress).await
}

/// How many events a store has, of those with a status. `None` when it takes too long to count.
async fn count(store: &dyn Store) -> Option<u64> {
    store
        .counts(None)
        .await
        .ok()
        .map(|counts| counts.values().sum::<u64>())
}
