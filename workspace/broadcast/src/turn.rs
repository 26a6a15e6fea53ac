//! One turn of a broadcast: some of its chunks are handed over, each in a hop of its own.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use posthaste_broker::{Hop, HopError, Mark, NewRecord, Partition};
use posthaste_event::{
    Millis, Topic,
    broadcast::{Broadcast, BroadcastProgress, BroadcastRecord, BroadcastState, Chunk, Ended},
    clock,
    control::{Control, Wish},
};
use posthaste_service::Shutdown;
use serde_json::Map;
use tracing::{debug, error, info};

use crate::{
    index::{Next, Place},
    known,
    membership::Membership,
    worker::{Verdict, Worker, verdict},
};

/// Chunks that are fetched from the log together, in bytes.
const FETCH_BYTES: usize = 2 << 20;
/// Chunks of one turn, before others have theirs.
const CHUNKS_A_TURN: usize = 16;

/// When the next chunk may be handed over, in milliseconds since the Unix epoch. Never further ahead than the time between
/// two chunks, should the clock have been set back.
pub(crate) fn due_at(broadcast: &Broadcast, next: &Next, now: Millis) -> Millis {
    if next.done_chunks == 0 {
        return broadcast.scheduled_at.unwrap_or(Millis::MIN);
    }
    let delay = Millis::try_from(broadcast.chunk_delay_ms).unwrap_or(Millis::MAX);
    next.done_at.min(now).saturating_add(delay)
}

/// See the module. Ends when it is dropped.
pub(crate) struct Turn {
    worker: Arc<Worker>,
    membership: Membership,
    shutdown: Shutdown,
    number: u32,
    epoch: u64,
    id: String,
}

/// Why a chunk is not handed over now.
enum Stop {
    /// It is looked at again soon.
    Later,
    /// Only somebody's doing can help.
    Fault(String),
}

impl Turn {
    pub(crate) const fn new(
        worker: Arc<Worker>,
        membership: Membership,
        shutdown: Shutdown,
        (number, epoch): (u32, u64),
        id: String,
    ) -> Self {
        Self {
            worker,
            membership,
            shutdown,
            number,
            epoch,
            id,
        }
    }

    pub(crate) async fn run(&self) {
        let mut fetched = VecDeque::new();
        for _ in 0..CHUNKS_A_TURN {
            if self.shutdown.is_cancelled() {
                return;
            }
            match self.step(&mut fetched).await {
                Ok(true) => {}
                Ok(false) | Err(Stop::Later) => return,
                Err(Stop::Fault(reason)) => return self.stop(&reason).await,
            }
        }
    }

    /// Hands one chunk over, or ends the broadcast. Answers whether it may go on at once.
    async fn step(&self, fetched: &mut VecDeque<(i64, Bytes)>) -> Result<bool, Stop> {
        let now = clock::now();
        let next = self.membership.index().next(self.number, &self.id);
        let known = self.worker.broadcasts.get(&self.id);
        let (Some(next), Some(known)) = (next, known) else {
            return Ok(false);
        };
        let Some(broadcast) = known
            .broadcast
            .clone()
            .filter(|_| next.assignment.epoch == self.epoch)
        else {
            return Ok(false);
        };
        if verdict(&known, &next, now) != Verdict::Go {
            return Ok(false);
        }
        if known.wish() == Wish::Cancelled {
            let progress = self.progress(
                next.done_chunks,
                next.done_recipients,
                Some(Ended::Cancelled),
                now,
            );
            self.hop(&broadcast, &next, Vec::new(), progress).await?;
            info!(broadcast.id = self.id, "broadcast {} is cancelled", self.id);
            return Ok(false);
        }
        let Some(place) = next.chunk else { return Ok(false) };
        if place.index != next.done_chunks {
            let reason = format!("chunk {} is not on the log", next.done_chunks);
            return Err(Stop::Fault(reason));
        }
        let chunk = self.chunk(&broadcast, &next, place, fetched).await?;
        let events = self.events(&chunk, now).map_err(Stop::Fault)?;
        let chunks = place.index + 1;
        let recipients = next.done_recipients + u64::from(place.recipients);
        let ended = (chunks >= broadcast.chunks).then_some(Ended::Done);
        let progress = self.progress(chunks, recipients, ended, now);
        self.hop(&broadcast, &next, events, progress).await?;
        debug!(
            broadcast.id = self.id,
            chunks, recipients, "a chunk was handed over"
        );
        if ended.is_some() {
            info!(
                broadcast.id = self.id,
                recipients, "broadcast {} is handed over", self.id
            );
        }
        Ok(ended.is_none())
    }

    fn progress(&self, chunks: u32, recipients: u64, ended: Option<Ended>, now: Millis) -> BroadcastProgress {
        BroadcastProgress {
            id: self.id.clone(),
            chunks,
            recipients,
            ended,
            at: now,
            by: self.worker.instance.to_string(),
            unknown: Map::new(),
        }
    }

    /// The chunk in this place, from the log.
    async fn chunk(
        &self,
        broadcast: &Broadcast,
        next: &Next,
        place: Place,
        fetched: &mut VecDeque<(i64, Bytes)>,
    ) -> Result<Chunk, Stop> {
        loop {
            match fetched.pop_front() {
                Some((offset, _)) if offset < place.offset => {}
                Some((offset, value)) if offset == place.offset => {
                    return match BroadcastRecord::decode(&value) {
                        Ok(BroadcastRecord::Chunk(chunk)) => Ok(chunk),
                        Ok(_) => Err(Stop::Fault(format!("offset {offset} is no chunk"))),
                        Err(error) => Err(Stop::Fault(format!("offset {offset} cannot be read: {error}"))),
                    };
                }
                Some(_) => return Err(Stop::Fault(format!("offset {} is gone", place.offset))),
                None => {
                    *fetched = self.fetch(broadcast, next, place).await?;
                    if fetched.is_empty() {
                        return Err(Stop::Fault(format!("offset {} is gone", place.offset)));
                    }
                }
            }
        }
    }

    /// This chunk, and where it may go on at once some that follow.
    async fn fetch(
        &self,
        broadcast: &Broadcast,
        next: &Next,
        place: Place,
    ) -> Result<VecDeque<(i64, Bytes)>, Stop> {
        let bytes_max = if broadcast.chunk_delay_ms == 0 {
            FETCH_BYTES
        } else {
            1
        };
        let from = Mark {
            partition: Partition {
                topic: Topic::Broadcasts,
                number: self.number,
            },
            offset: place.offset,
        };
        let found = Arc::new(Mutex::new((VecDeque::new(), 0)));
        let finding = Arc::clone(&found);
        let key = Broadcast::chunk_key(&broadcast.tenant, &broadcast.id);
        let last = next.last;
        let is_enough = move |record: &posthaste_broker::Record| {
            let mut finding = finding.lock().unwrap_or_else(PoisonError::into_inner);
            let (records, bytes) = &mut *finding;
            if let Some(value) = &record.value
                && record.key.as_deref() == Some(key.as_bytes())
            {
                *bytes += value.len();
                records.push_back((record.offset, value.clone()));
            }
            *bytes >= bytes_max || record.offset >= last
        };
        let searched = self
            .worker
            .broker
            .find(from, Millis::MAX, Box::new(is_enough))
            .await;
        if let Err(error) = searched {
            debug!(broadcast.id = self.id, %error, "chunks cannot be fetched at the moment");
            return Err(Stop::Later);
        }
        let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(std::mem::take(&mut found.0))
    }

    fn events(&self, chunk: &Chunk, now: Millis) -> Result<Vec<NewRecord>, String> {
        let mut records = Vec::with_capacity(chunk.works.len() + 2);
        for mut work in chunk.events()? {
            work.delivery = work.delivery.handed_over(&self.worker.instance, now);
            let topic = Topic::due(&work.delivery);
            let value = work.encode().map_err(|error| error.to_string())?;
            // None has an ordering key, so the id is the key.
            records.push(NewRecord::new(topic, work.delivery.id.clone(), value));
        }
        Ok(records)
    }

    /// The events, and that they were handed over: for whoever has the partition, and for everybody.
    async fn hop(
        &self,
        broadcast: &Broadcast,
        next: &Next,
        events: Vec<NewRecord>,
        progress: BroadcastProgress,
    ) -> Result<(), Stop> {
        let mark = BroadcastRecord::Progress(progress.clone());
        let mark = mark.encode().map_err(|error| Stop::Fault(error.to_string()))?;
        let key = Broadcast::chunk_key(&broadcast.tenant, &broadcast.id);
        let control = Control::BroadcastProgress(progress.clone());
        let mut outputs = events;
        outputs.push(NewRecord {
            partition: Some(self.number),
            ..NewRecord::new(Topic::Broadcasts, key, mark)
        });
        outputs.push(known::record(&control));
        // The position is committed even when it does not change: that is what refuses a member that lost the partition.
        let hop = Hop {
            positions: vec![(next.assignment, next.position)],
            outputs,
            ..Hop::default()
        };
        match self.membership.hopper.hop(hop).await {
            Ok(()) => {
                let mut index = self.membership.index();
                index.committed(next.assignment, next.position);
                index.progressed(self.number, self.epoch, &progress);
                drop(index);
                self.worker.broadcasts.apply(control);
                Ok(())
            }
            Err(error @ HopError::TooLarge { .. }) => Err(Stop::Fault(format!(
                "{error} (broker.record_bytes_max); it was smaller when the broadcast was taken"
            ))),
            Err(HopError::Fenced | HopError::Closed | HopError::NoRoom) => Err(Stop::Later),
        }
    }

    /// It cannot go on by itself: it rests until somebody resumes it.
    async fn stop(&self, reason: &str) {
        error!(
            broadcast.id = self.id,
            reason, "broadcast {} cannot go on and rests until it is resumed: {reason}", self.id
        );
        let state = BroadcastState {
            id: self.id.clone(),
            state: Wish::Stopped,
            at: clock::now(),
            tenant: None,
            unknown: Map::new(),
        };
        let told = Control::BroadcastState(state);
        if let Err(error) = self.worker.broadcasts.tell(&self.worker.broker, told).await {
            debug!(%error, "it is found out again");
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.membership.index().end(self.number, self.epoch, &self.id);
        self.worker.broadcasts.changed.notify_waiters();
    }
}
