//! Reads the dead-letter topic into the index, as long as the partitions are ours.

use std::{path::Path, sync::Arc, time::Duration};

use posthaste_broker::{
    Broker, BrokerError, Consumer, Hop, HopError, Record, Signal, Start, Subscription, Tracking, Watched,
    watchdog::READING_PATIENCE,
};
use posthaste_event::Topic;
use posthaste_service::Shutdown;
use tokio::{
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use tracing::{debug, info, warn};

use crate::{
    index::Index,
    letter::{Entry, Place},
    membership::{IndexError, Membership, Replays},
};

/// The consumer group, without prefix.
pub const GROUP: &str = "replay";

/// How often positions that fell behind are committed: nothing waits for them.
const SETTLE: Duration = Duration::from_secs(2);

/// How long a member that got no partition waits before it counts itself as a standby.
const STANDBY: Duration = Duration::from_secs(15);

/// Longest wait for the number of partitions, which is only told to users.
const LAG_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a membership ended.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The broker.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// The index.
    #[error(transparent)]
    Index(#[from] IndexError),
}

/// Joins the group, reads until `shutdown` or until something fails, and leaves the group.
pub async fn read(
    broker: &Arc<dyn Broker>,
    replays: &Arc<Replays>,
    folder: Option<&Path>,
    shutdown: &Shutdown,
    on_joined: impl FnOnce(),
) -> Result<(), ReadError> {
    let subscription = Subscription {
        group: GROUP.to_owned(),
        topics: vec![Topic::DeadLetter],
        tracking: Tracking::Position,
        start: Start::LogStart,
        limits: Default::default(),
    };
    let consumer = tokio::select! {
        consumer = broker.subscribe(subscription) => consumer?,
        () = shutdown.cancelled() => return Ok(()),
    };
    let index = open_index(folder).await?;
    let open = Membership::new(index, consumer.hopper());
    replays.set_open(Some(open.clone()));
    replays.set_problem(Some("the dead letters are being read".to_owned()));
    on_joined();
    let reader = Reader {
        broker: Arc::clone(broker),
        replays: Arc::clone(replays),
        open,
        settling: None,
    };
    let consumer = Watched::reader(consumer, Arc::clone(broker), READING_PATIENCE);
    reader.serve(Box::new(consumer), shutdown).await
}

async fn open_index(folder: Option<&Path>) -> Result<Index, IndexError> {
    let folder = folder.map(Path::to_path_buf);
    let opened = tokio::task::spawn_blocking(move || Index::open(folder.as_deref())).await;
    match opened {
        Ok(opened) => opened.map_err(|error| IndexError::File(error.to_string())),
        Err(ended) => Err(IndexError::File(ended.to_string())),
    }
}

struct Reader {
    broker: Arc<dyn Broker>,
    replays: Arc<Replays>,
    open: Membership,
    /// A commit of positions under way.
    settling: Option<JoinHandle<()>>,
}

impl Reader {
    async fn serve(mut self, mut consumer: Box<dyn Consumer>, shutdown: &Shutdown) -> Result<(), ReadError> {
        let joined = Instant::now();
        let mut tick = interval(SETTLE);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let result = loop {
            let done = tokio::select! {
                () = shutdown.cancelled() => break Ok(()),
                signal = consumer.next() => match signal {
                    Ok(signal) => self.on_signal(signal).await,
                    Err(error) => break Err(ReadError::Broker(error)),
                },
                _ = tick.tick() => {
                    if joined.elapsed() > STANDBY {
                        self.note_standby().await;
                    }
                    self.settle().await
                }
            };
            if let Err(error) = done {
                break Err(ReadError::Index(error));
            }
        };
        self.leave(consumer).await;
        result
    }

    async fn on_signal(&mut self, signal: Signal) -> Result<(), IndexError> {
        match signal {
            Signal::Assigned(assignments) => {
                debug!(
                    partitions = assignments.len(),
                    "partitions of dead letters assigned"
                );
                self.count_partitions();
                let assign = move |index: &mut Index| {
                    assignments
                        .into_iter()
                        .try_for_each(|assignment| index.assigned(assignment))
                };
                self.open.with_index(assign).await?;
            }
            Signal::Read(records) => self.take_in(records).await?,
            Signal::AtEnd(partition) => {
                let at_end = move |index: &mut Index| {
                    index.at_end(partition.number);
                    Ok(())
                };
                self.open.with_index(at_end).await?;
            }
            Signal::Revoking(partitions) | Signal::Revoked(partitions) => {
                debug!(partitions = partitions.len(), "partitions of dead letters go");
                let revoke = move |index: &mut Index| {
                    partitions
                        .into_iter()
                        .try_for_each(|partition| index.revoked(partition.number))
                };
                self.open.with_index(revoke).await?;
            }
            Signal::Records(batch) => {
                // Not given with this tracking; a ticket that is dropped is handed out again.
                debug!(
                    records = batch.len(),
                    "records with tickets are not expected here"
                );
                return Ok(());
            }
        }
        let (owned, read) = self.open.with_index(|index| Ok(index.partitions())).await?;
        let problem =
            (read < owned).then(|| format!("dead letters of {read} of {owned} partitions have been read"));
        self.replays.set_problem(problem);
        Ok(())
    }

    async fn take_in(&self, records: Vec<Record>) -> Result<(), IndexError> {
        let prefix = self.broker.prefix().to_owned();
        let read = move || {
            let entries = records.into_iter().map(|record| {
                let place: Place = (record.partition.number, record.offset);
                (place, Entry::read(record, &prefix))
            });
            entries.collect()
        };
        self.open.beside_index(read, Index::apply, |()| ()).await
    }

    /// Commits the positions that have moved on, in a task of its own: while the broker is away a hop waits.
    async fn settle(&mut self) -> Result<(), IndexError> {
        if self
            .settling
            .as_ref()
            .is_some_and(|settling| !settling.is_finished())
        {
            return Ok(());
        }
        let positions = self.open.with_index(|index| index.positions_behind()).await?;
        if positions.is_empty() {
            return Ok(());
        }
        let open = self.open.clone();
        self.settling = Some(tokio::spawn(async move {
            for (assignment, position) in positions {
                let hop = Hop {
                    positions: vec![(assignment, position)],
                    ..Hop::default()
                };
                let result: Result<(), HopError> = open.hopper.hop(hop).await;
                if result.is_err() {
                    continue;
                }
                let committed = move |index: &mut Index| {
                    index.committed(assignment, position);
                    Ok(())
                };
                if open.with_index(committed).await.is_err() {
                    return;
                }
            }
        }));
        Ok(())
    }

    /// With more instances than partitions some have none, and are well.
    async fn note_standby(&self) {
        if let Ok((0, _)) = self.open.with_index(|index| Ok(index.partitions())).await {
            self.replays.set_problem(None);
        }
    }

    fn count_partitions(&self) {
        let (broker, replays) = (Arc::clone(&self.broker), Arc::clone(&self.replays));
        tokio::spawn(async move {
            match timeout(LAG_TIMEOUT, broker.lag(GROUP, &[Topic::DeadLetter])).await {
                Ok(Ok(partitions)) => replays.set_partitions_total(partitions.len()),
                Ok(Err(error)) => debug!(%error, "the partitions of dead letters cannot be counted"),
                Err(_) => debug!("the partitions of dead letters were not counted in time"),
            }
        });
    }

    /// No new replay begins; those under way are waited for, then the group is left.
    async fn leave(self, consumer: Box<dyn Consumer>) {
        self.replays.set_open(None);
        let drain = Duration::from_millis(self.replays.settings.drain_ms);
        self.replays.under_way.close();
        if timeout(drain, self.replays.under_way.wait()).await.is_err() {
            warn!(
                "replays were still under way at the end of the drain time; what they did not do stays open"
            );
        }
        self.replays.under_way.reopen();
        if let Some(settling) = self.settling {
            settling.abort();
        }
        if timeout(drain + SETTLE, consumer.close()).await.is_err() {
            info!("the consumer of dead letters did not close in time");
        }
    }
}
