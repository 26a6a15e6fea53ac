//! Re-publishing: each letter goes out once, in the hop that also marks it as replayed.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;
use futures_util::future::join_all;
use posthaste_broker::{Assignment, Hop, HopError, NewRecord};
use posthaste_event::{Millis, Topic, Value, Work, clock, record::Replayed};
use tracing::{debug, error, warn};

use crate::{
    Settings,
    index::{Claim, Index, Stored},
    letter::Place,
    membership::{IndexError, Membership},
};

/// One replay request at work.
pub struct Job {
    /// Its id, which goes into the marks and the deliveries.
    pub id: Arc<str>,
    /// This process's name.
    pub instance: Arc<str>,
    /// The membership under which its letters were claimed.
    pub open: Membership,
    /// How many went out so far.
    pub done: Arc<AtomicUsize>,
}

impl Job {
    /// Re-publishes what was claimed, and releases what could not go out.
    pub async fn run(self, claims: Vec<Claim>, settings: &Settings) -> Result<(), IndexError> {
        let mut rest = Unfinished {
            open: self.open.clone(),
            places: claims.iter().map(|claim| claim.place).collect(),
        };
        for page in claims.chunks(settings.page_records_max) {
            // From here on they are released only when it is known what became of them.
            let places: Vec<Place> = rest.places.drain(..page.len()).collect();
            let groups = by_partition(page);
            let hops = groups
                .iter()
                .map(|(assignment, places)| self.partition(*assignment, places, settings.page_bytes_max));
            for result in join_all(hops).await {
                result?;
            }
            let release = move |index: &mut Index| {
                index.release(&places);
                Ok(())
            };
            self.open.with_index(release).await?;
        }
        Ok(())
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
            let load = move |index: &mut Index| {
                let position = index.position(assignment.partition.number)?;
                Ok((index.load(&wanted, bytes_max)?, position))
            };
            let ((letters, looked_at), position) = self.open.with_index(load).await?;
            places = &places[looked_at.min(places.len())..];
            // Without a position the partition has gone, and its letters with it.
            if let Some(position) = position
                && !letters.is_empty()
            {
                self.hop(assignment, position, &letters).await?;
            }
        }
        Ok(())
    }

    async fn hop(&self, assignment: Assignment, position: i64, letters: &[Stored]) -> Result<(), IndexError> {
        let now = clock::now();
        match self.publish(assignment, position, letters, now).await {
            Err(HopError::TooLarge { .. }) if letters.len() > 1 => {
                // One of them is too large; the others go out one by one.
                for letter in letters {
                    let one = std::slice::from_ref(letter);
                    let result = self.publish(assignment, position, one, now).await;
                    self.conclude(assignment, position, one, result).await?;
                }
                Ok(())
            }
            result => self.conclude(assignment, position, letters, result).await,
        }
    }

    async fn publish(
        &self,
        assignment: Assignment,
        position: i64,
        letters: &[Stored],
        now: Millis,
    ) -> Result<(), HopError> {
        let mut outputs = Vec::with_capacity(letters.len() * 2);
        for letter in letters {
            match records(letter, &self.id, &self.instance, now) {
                Some(records) => outputs.extend(records),
                None => error!(place = ?letter.place, "a letter in the index cannot be read"),
            }
        }
        // The position is committed even when it does not change: that is what refuses a member that lost the partition.
        let hop = Hop {
            completes: Vec::new(),
            positions: vec![(assignment, position)],
            outputs,
        };
        self.open.hopper.hop(hop).await
    }

    async fn conclude(
        &self,
        assignment: Assignment,
        position: i64,
        letters: &[Stored],
        result: Result<(), HopError>,
    ) -> Result<(), IndexError> {
        match result {
            Ok(()) => {
                self.done.fetch_add(letters.len(), Ordering::Relaxed);
                let places: Vec<Place> = letters.iter().map(|letter| letter.place).collect();
                let close = move |index: &mut Index| {
                    index.committed(assignment, position);
                    index.close(&places)
                };
                self.open.with_index(close).await
            }
            Err(error @ HopError::TooLarge { .. }) => {
                let (partition, offset) = letters.first().map_or((0, 0), |letter| letter.place);
                warn!(partition, offset, %error, "a dead letter cannot go out again: {error}");
                Ok(())
            }
            Err(error @ (HopError::Fenced | HopError::Closed)) => {
                debug!(partition = %assignment.partition, %error, "letters were not replayed");
                Ok(())
            }
        }
    }
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

/// Releases what a job did not come to, however it ends.
struct Unfinished {
    open: Membership,
    places: Vec<Place>,
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        let places = std::mem::take(&mut self.places);
        if places.is_empty() {
            return;
        }
        self.open.release_later(places);
    }
}
