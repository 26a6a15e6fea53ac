//! Re-publishing: each letter goes out once, in the hop that also marks it as replayed.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use futures_util::future::join_all;
use posthaste_broker::{Assignment, Hop, HopError, NewRecord};
use posthaste_event::{
    Millis, Topic, Value, Work, clock,
    control::{Control, Replay, ReplayPart},
    record::Replayed,
};
use tracing::{debug, error, warn};

use crate::{
    index::{Claim, Index, Stored, marks::Counts},
    jobs,
    letter::Place,
    membership::{IndexError, Membership},
};

/// Sends letters out for one replay.
pub struct Publisher {
    /// The replay; its id goes into the marks and the deliveries.
    pub replay: Arc<Replay>,
    /// This process's name.
    pub instance: Arc<str>,
    /// The membership under which its letters were claimed.
    pub open: Membership,
    /// How many went out so far.
    pub done: Arc<AtomicUsize>,
    /// Letters that cannot go out.
    pub skipped: Mutex<HashSet<Place>>,
}

impl Publisher {
    /// Re-publishes what was claimed, and releases what could not go out. Answers how many went out or cannot.
    pub async fn page(&self, page: &[Claim], bytes_max: usize) -> Result<usize, IndexError> {
        let before = self.settled();
        let groups = by_partition(page);
        let hops = groups
            .iter()
            .map(|(assignment, places)| self.partition(*assignment, places, bytes_max));
        for result in join_all(hops).await {
            result?;
        }
        // Only now is it known what became of them.
        let claims = page.to_vec();
        let release = move |index: &mut Index| {
            index.release(&claims);
            Ok(())
        };
        self.open.with_index(release).await?;
        Ok(self.settled() - before)
    }

    /// Letters that cannot go out.
    pub fn skipped(&self) -> HashSet<Place> {
        self.lock_skipped().clone()
    }

    fn settled(&self) -> usize {
        self.done.load(Ordering::Relaxed) + self.lock_skipped().len()
    }

    fn lock_skipped(&self) -> MutexGuard<'_, HashSet<Place>> {
        self.skipped.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How far this replay is in a partition after `more` letters.
    pub fn part(&self, partition: u32, counts: Counts, more: usize, finished: bool) -> Control {
        let skipped = self.lock_skipped();
        Control::ReplayPart(ReplayPart {
            id: self.replay.id.clone(),
            partition,
            replayed: counts.replayed + more as u64,
            refailed: counts.refailed,
            skipped: skipped.iter().filter(|place| place.0 == partition).count() as u64,
            finished,
            at: clock::now(),
            by: self.instance.to_string(),
            unknown: Default::default(),
        })
    }

    /// The letters of one partition, as many hops as their size needs.
    async fn partition(
        &self,
        assignment: Assignment,
        mut places: &[Place],
        bytes_max: usize,
    ) -> Result<(), IndexError> {
        while !places.is_empty() {
            let wanted = places.to_vec();
            let number = assignment.partition.number;
            let replay = Arc::clone(&self.replay);
            let load = move |index: &mut Index| {
                let position = index.position(number)?;
                let counts = index.counts(&replay.id)?.remove(&number).unwrap_or_default();
                Ok((index.load(&wanted, bytes_max)?, position, counts))
            };
            let ((letters, looked_at), position, counts) = self.open.with_index(load).await?;
            places = &places[looked_at.min(places.len())..];
            // Without a position the partition has gone, and its letters with it.
            if let Some(position) = position
                && !letters.is_empty()
            {
                let fence = Fence {
                    assignment,
                    position,
                    counts,
                };
                self.hop(fence, &letters).await?;
            }
        }
        Ok(())
    }

    async fn hop(&self, mut fence: Fence, letters: &[Stored]) -> Result<(), IndexError> {
        let now = clock::now();
        match self.publish(&fence, letters, now).await {
            Err(HopError::TooLarge { .. }) if letters.len() > 1 => {
                // One of them is too large; the others go out one by one.
                for letter in letters {
                    let one = std::slice::from_ref(letter);
                    let result = self.publish(&fence, one, now).await;
                    fence.counts.replayed += u64::from(result.is_ok());
                    self.conclude(&fence, one, result).await?;
                }
                Ok(())
            }
            result => self.conclude(&fence, letters, result).await,
        }
    }

    async fn publish(&self, fence: &Fence, letters: &[Stored], now: Millis) -> Result<(), HopError> {
        let number = fence.assignment.partition.number;
        let mut outputs = Vec::with_capacity(letters.len() * 2 + 1);
        for letter in letters {
            match records(letter, &self.replay.id, &self.instance, now) {
                Some(records) => outputs.extend(records),
                None => error!(place = ?letter.place, "a letter in the index cannot be read"),
            }
        }
        // What people are told of the progress is as true as the marks: it is in the same transaction.
        outputs.push(jobs::record(&self.part(
            number,
            fence.counts,
            letters.len(),
            false,
        )));
        // The position is committed even when it does not change: that is what refuses a member that lost the partition.
        let hop = Hop {
            completes: Vec::new(),
            positions: vec![(fence.assignment, fence.position)],
            outputs,
            ..Hop::default()
        };
        self.open.hopper.hop(hop).await
    }

    async fn conclude(
        &self,
        fence: &Fence,
        letters: &[Stored],
        result: Result<(), HopError>,
    ) -> Result<(), IndexError> {
        let (assignment, position) = (fence.assignment, fence.position);
        match result {
            Ok(()) => {
                self.done.fetch_add(letters.len(), Ordering::Relaxed);
                let places: Vec<Place> = letters.iter().map(|letter| letter.place).collect();
                let replay = Arc::clone(&self.replay);
                let close = move |index: &mut Index| {
                    index.committed(assignment, position);
                    index.close(&places, assignment.epoch, &replay.id)
                };
                self.open.with_index(close).await
            }
            Err(error @ HopError::TooLarge { .. }) => {
                let (partition, offset) = letters.first().map_or((0, 0), |letter| letter.place);
                warn!(partition, offset, %error, "a dead letter cannot go out again: {error}");
                self.lock_skipped().insert((partition, offset));
                Ok(())
            }
            Err(error @ (HopError::Fenced | HopError::Closed | HopError::NoRoom)) => {
                debug!(partition = %assignment.partition, %error, "letters were not replayed");
                Ok(())
            }
        }
    }
}

/// What lets letters of a partition out: the assignment and the position that their hop commits, and what went out before.
struct Fence {
    assignment: Assignment,
    position: i64,
    counts: Counts,
}

/// The mark and the event. Nothing for a letter that cannot be read, which the index does not offer.
fn records(letter: &Stored, replay_id: &str, by: &str, now: Millis) -> Option<[NewRecord; 2]> {
    let Ok(Value::Work(work)) = Value::decode(&letter.value) else {
        return None;
    };
    let key = match &letter.key {
        Some(key) => key.clone(),
        None => Bytes::copy_from_slice(work.delivery.id.as_bytes()),
    };
    let mark = Value::Replayed(Replayed {
        event_id: work.delivery.id.clone(),
        step: work.delivery.step,
        replay_id: replay_id.to_owned(),
        unknown: Default::default(),
    });
    let mark = NewRecord {
        partition: Some(letter.place.0),
        ..NewRecord::new(Topic::DeadLetter, key.clone(), mark.encode().ok()?)
    };
    let work = Work {
        delivery: work.delivery.replayed(replay_id, by, now),
        event: work.event,
    };
    let event = NewRecord::new(Topic::due(&work.delivery), key, work.encode().ok()?);
    Some([mark, event])
}

fn by_partition(claims: &[Claim]) -> Vec<(Assignment, Vec<Place>)> {
    let mut groups: Vec<(Assignment, Vec<Place>)> = Vec::new();
    for claim in claims {
        let epoch = claim.assignment.epoch;
        match groups.iter_mut().find(|(assignment, _)| {
            assignment.epoch == epoch && assignment.partition == claim.assignment.partition
        }) {
            Some((_, places)) => places.push(claim.place),
            None => groups.push((claim.assignment, vec![claim.place])),
        }
    }
    groups
}
