//! From the topics into the shadow.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use posthaste_broker::{
    Broker, BrokerError, Limits, Partition, Record, Signal, Start, Subscription, Tracking,
};
use posthaste_event::{Value, topic::PROJECTED};
use posthaste_reconnect::Reconnect;
use posthaste_store::{Fold, Store};
use tokio::time::{Instant, sleep, timeout};
use tracing::warn;
use uuid::Uuid;

use super::{RebuildError, report::Progress};
use crate::projector::GROUP;

/// Records, and bytes, folded into one write of the shadow.
const BATCH_RECORDS: usize = 2_000;
const BATCH_BYTES: usize = 8 << 20;

/// In hand at most: memory does not grow with the topics.
const LIMITS: Limits = Limits {
    partition_records_max: 4_096,
    records_max: 16_384,
    bytes_max: 16 << 20,
    batch_records_max: 1_000,
    gather_ms: 0,
};

/// Joining may take a few seconds.
const SUBSCRIBE_LIMIT: Duration = Duration::from_secs(60);

/// How long the projector may take to come as far as the shadow. Longer means that it is held up.
const PROJECTOR_LIMIT: Duration = Duration::from_secs(30);

/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// Reads the topics into the shadow, and on from there.
pub(super) struct Reader<'a> {
    broker: &'a dyn Broker,
    shadow: &'a dyn Store,
    progress: &'a Progress,
    /// The first offset that was there.
    first: BTreeMap<Partition, i64>,
    /// The next offset to read.
    reached: BTreeMap<Partition, i64>,
    fold: Fold,
    records: usize,
    bytes: usize,
    unreadable: u64,
}

impl<'a> Reader<'a> {
    pub fn new(broker: &'a dyn Broker, shadow: &'a dyn Store, progress: &'a Progress) -> Self {
        Self {
            broker,
            shadow,
            progress,
            first: BTreeMap::new(),
            reached: BTreeMap::new(),
            fold: Fold::default(),
            records: 0,
            bytes: 0,
            unreadable: 0,
        }
    }

    pub fn shadow(&self) -> &'a dyn Store {
        self.shadow
    }

    /// Reads everything that stands in the topics now. Outages of the broker are waited out.
    pub async fn catch_up(&mut self) -> Result<(), RebuildError> {
        let mut waits = Reconnect::default();
        loop {
            match self.read().await {
                Ok(()) => {
                    self.progress.waits(None);
                    return Ok(());
                }
                Err(RebuildError::Broker(error)) if error.is_retryable() => {
                    self.progress.waits(Some(error.to_string()));
                    sleep(waits.next_wait()).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn read(&mut self) -> Result<(), RebuildError> {
        // Nobody else's group: who shares one shares its partitions. It commits nothing and ends with its only member.
        let group = format!("rebuild.{}", Uuid::now_v7().simple());
        let ends: BTreeMap<Partition, i64> = self
            .broker
            .lag(&group, PROJECTED)
            .await?
            .into_iter()
            .map(|lag| (lag.partition, lag.end))
            .collect();
        let subscription = Subscription {
            group,
            topics: PROJECTED.to_vec(),
            tracking: Tracking::Position,
            start: Start::At(self.reached.iter().map(|(at, next)| (*at, *next)).collect()),
            limits: LIMITS,
        };
        let mut consumer = timeout(SUBSCRIBE_LIMIT, self.broker.subscribe(subscription))
            .await
            .unwrap_or_else(|_| Err(BrokerError::Unreachable("no answer to subscribe".to_owned())))?;
        let mut unread: BTreeSet<Partition> = ends.keys().copied().collect();
        let ended = loop {
            if unread.is_empty() {
                break self.write(&ends).await;
            }
            match consumer.next().await {
                Ok(Signal::Read(records)) => {
                    if let Err(error) = self.take(&records, &ends).await {
                        break Err(error);
                    }
                }
                Ok(Signal::AtEnd(partition)) => {
                    unread.remove(&partition);
                }
                // What is read again is folded again, to the same.
                Ok(Signal::Assigned(_) | Signal::Revoking(_) | Signal::Revoked(_) | Signal::Records(_)) => {}
                Err(error) => break Err(error.into()),
            }
        };
        consumer.close().await;
        ended
    }

    async fn take(
        &mut self,
        records: &[Record],
        ends: &BTreeMap<Partition, i64>,
    ) -> Result<(), RebuildError> {
        for record in records {
            let reached = self.reached.entry(record.partition).or_insert(record.offset);
            *reached = (*reached).max(record.offset + 1);
            self.first.entry(record.partition).or_insert(record.offset);
            self.records += 1;
            match record.value.as_ref().map(Value::decode) {
                Some(Ok(value)) => {
                    if self.fold.add(value) {
                        self.bytes += record.value.as_ref().map_or(0, bytes::Bytes::len);
                    }
                }
                Some(Err(_)) | None => self.unreadable += 1,
            }
        }
        if self.records >= BATCH_RECORDS || self.bytes >= BATCH_BYTES {
            self.write(ends).await?;
        }
        Ok(())
    }

    async fn write(&mut self, ends: &BTreeMap<Partition, i64>) -> Result<(), RebuildError> {
        let changes = std::mem::take(&mut self.fold).into_changes();
        self.shadow
            .apply(changes.into(), &[])
            .await
            .map_err(|error| RebuildError::Shadow(error.to_string()))?;
        self.progress
            .read(self.records as u64, self.unreadable, self.done(ends));
        (self.records, self.bytes, self.unreadable) = (0, 0, 0);
        Ok(())
    }

    /// How much of the topics has been read. A partition of which nothing was read counts from its first offset ever.
    fn done(&self, ends: &BTreeMap<Partition, i64>) -> f64 {
        let (mut read, mut whole) = (0, 0);
        for (partition, end) in ends {
            let first = self.first.get(partition).copied().unwrap_or(0);
            read += self.reached.get(partition).map_or(0, |reached| reached - first);
            whole += end - first;
        }
        if whole > 0 {
            read as f64 / whole as f64
        } else {
            1.0
        }
    }

    /// Waits until the projector has written all that the shadow has; when that takes too long, the report says so.
    pub async fn wait_for_projector(&self, store: &dyn Store) {
        let until = Instant::now() + PROJECTOR_LIMIT;
        while !self.projector_is_there(store).await {
            if Instant::now() >= until {
                warn!("the projector is behind the topics; the rebuild does not wait for it any longer");
                self.progress.status_is_behind();
                return;
            }
            sleep(LOOK).await;
        }
    }

    async fn projector_is_there(&self, store: &dyn Store) -> bool {
        let kept = match store.progress().await {
            Ok(Some(kept)) => kept
                .into_iter()
                .map(|position| {
                    let (topic, number) = (position.topic, position.partition);
                    (Partition { topic, number }, position.offset)
                })
                .collect(),
            Ok(None) => BTreeMap::new(),
            Err(_) => return false,
        };
        // A store keeps positions only where one process has it to itself; else the broker has them.
        let told: BTreeMap<Partition, i64> = match self.broker.lag(GROUP, PROJECTED).await {
            Ok(lags) => lags
                .into_iter()
                .filter_map(|lag| Some((lag.partition, lag.committed?)))
                .collect(),
            Err(_) => return false,
        };
        self.reached.iter().all(|(partition, reached)| {
            let is_past = |positions: &BTreeMap<Partition, i64>| {
                positions.get(partition).is_some_and(|next| next >= reached)
            };
            is_past(&kept) || is_past(&told)
        })
    }
}
