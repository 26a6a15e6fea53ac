//! One replay at work in this process: page by page, at its pace, until nothing of it is left here.
//!
//! It keeps nothing that must survive: what went out is in the log, and what is left is found again by what the replay
//! means. So it can end anywhere, by a crash too, and whoever has the partitions then goes on.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, atomic::AtomicUsize},
    time::Duration,
};

use posthaste_broker::Hop;
use posthaste_event::{
    clock,
    control::{Control, LetterPlace, Replay, ReplayState, Wish},
};
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

use super::{pace::Pace, progress::Progress};
use crate::{
    index::{Claim, Index},
    membership::{IndexError, Membership, Replays},
    publish::Publisher,
};

/// How long to wait for letters that another request has in its hands, or after a page of which nothing went out.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// One replay at work.
pub struct Runner {
    replays: Arc<Replays>,
    publisher: Publisher,
    replay: Arc<Replay>,
    /// Claimed for it when it was asked for; then there is nothing else to look for.
    claims: Claims,
    began: Instant,
}

/// Claims that are given back, however their holder ends.
pub struct Claims {
    open: Membership,
    claims: std::vec::IntoIter<Claim>,
}

impl Claims {
    /// Holds these.
    pub fn new(open: &Membership, claims: Vec<Claim>) -> Self {
        Self {
            open: open.clone(),
            claims: claims.into_iter(),
        }
    }
}

impl Drop for Claims {
    fn drop(&mut self) {
        let claims: Vec<Claim> = self.claims.by_ref().collect();
        if !claims.is_empty() {
            self.open.release_later(claims);
        }
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        self.replays.jobs.end(&self.replay.id);
    }
}

impl Runner {
    /// A runner of `replay`, which begins with letters that are claimed already. That it runs must be known to the registry;
    /// that it ended is told by dropping it.
    pub fn new(replays: Arc<Replays>, replay: Arc<Replay>, claims: Claims) -> Self {
        let publisher = Publisher {
            replay: Arc::clone(&replay),
            instance: Arc::clone(&replays.instance),
            open: claims.open.clone(),
            done: Arc::new(AtomicUsize::new(0)),
            skipped: Mutex::new(HashSet::new()),
        };
        Self {
            replays,
            publisher,
            replay,
            claims,
            began: Instant::now(),
        }
    }

    /// Counts the letters that went out.
    pub fn done(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.publisher.done)
    }

    /// Runs until nothing is left in the partitions that are ours, or it is told to end.
    ///
    /// # Errors
    /// When the index fails.
    pub async fn run(mut self) -> Result<(), IndexError> {
        let settings = self.replays.settings.clone();
        let mut pace = Pace::new(self.replay.ramp_ms);
        let mut after: Option<LetterPlace> = None;
        let mut idle = false;
        while self.goes_on(idle) {
            if self.stops_by_itself().await? {
                return Ok(());
            }
            let rate = self.rate().await?;
            let now_ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
            let allowed = pace.allows(now_ms, rate, settings.page_records_max);
            if allowed == 0 {
                self.wait(Duration::from_millis(pace.wait_ms(rate.unwrap_or(f64::MAX))))
                    .await;
                continue;
            }
            let page = self.next_page(after, allowed).await?;
            let Some(last) = page.last() else {
                // What another request gave back may be anywhere.
                if after.take().is_none() {
                    if self.finish().await? {
                        return Ok(());
                    }
                    idle = true;
                    self.wait(LOOK_AGAIN).await;
                }
                continue;
            };
            after = Some(LetterPlace {
                at: last.at,
                partition: last.place.0,
                offset: last.place.1,
            });
            let settled = self.publisher.page(&page, settings.page_bytes_max).await?;
            pace.spend(settled);
            idle = settled == 0;
            if idle {
                self.wait(LOOK_AGAIN).await;
            }
        }
        Ok(())
    }

    /// Whether it may go on. One that somebody waits for goes on while the group is left, as long as letters go out.
    fn goes_on(&self, idle: bool) -> bool {
        let Some(known) = self.replays.jobs.get(&self.replay.id) else {
            return false;
        };
        let is_current = self.replays.is_current(&self.publisher.open);
        known.wish() == Wish::Running && (is_current || !(self.replay.background || idle))
    }

    /// Its share of the rate: as large as its share of the partitions.
    async fn rate(&self) -> Result<Option<f64>, IndexError> {
        let Some(rate) = self.replay.rate else {
            return Ok(None);
        };
        let replay = Arc::clone(&self.replay);
        let ours = move |index: &mut Index| {
            let shares = replay.shares.iter();
            Ok(shares.filter(|share| index.is_read(share.partition)).count())
        };
        let ours = self.publisher.open.with_index(ours).await?;
        let all = self.replay.shares.len().max(1);
        Ok(Some(rate * ours.max(1) as f64 / all as f64))
    }

    async fn wait(&self, wait: Duration) {
        // Whatever changes ends the wait: it may be told to pause.
        let _ = timeout(wait, self.replays.jobs.changed.notified()).await;
    }

    async fn next_page(
        &mut self,
        after: Option<LetterPlace>,
        letters: usize,
    ) -> Result<Vec<Claim>, IndexError> {
        let claimed: Vec<Claim> = self.claims.claims.by_ref().take(letters).collect();
        if !claimed.is_empty() {
            return Ok(claimed);
        }
        let (replay, skipped) = (Arc::clone(&self.replay), self.publisher.skipped());
        let claim = move |index: &mut Index| index.claim_of(&replay, after, letters, &skipped);
        self.publisher.open.with_index(claim).await
    }

    /// Says of the partitions of which nothing is left that this is so. Answers whether that is all of them that are ours.
    async fn finish(&self) -> Result<bool, IndexError> {
        let (replay, skipped) = (Arc::clone(&self.replay), self.publisher.skipped());
        let look = move |index: &mut Index| {
            let counts = index.counts(&replay.id)?;
            let mut done = Vec::new();
            let left = index.left_of(&replay, &skipped)?;
            let is_all = left.values().all(|(_, letters)| *letters == 0);
            for (partition, (assignment, letters)) in left {
                if let Some(position) = index.position(partition)?
                    && letters == 0
                {
                    done.push((
                        assignment,
                        position,
                        counts.get(&partition).copied().unwrap_or_default(),
                    ));
                }
            }
            Ok((done, is_all))
        };
        let (done, is_all) = self.publisher.open.with_index(look).await?;
        let known = self.replays.jobs.get(&self.replay.id).unwrap_or_default();
        let mut hop = Hop::default();
        let mut parts = Vec::new();
        for (assignment, position, counts) in done {
            let number = assignment.partition.number;
            if known.parts.get(&number).is_some_and(|part| part.finished) {
                continue;
            }
            let part = self.publisher.part(number, counts, 0, true);
            hop.positions.push((assignment, position));
            hop.outputs.push(super::record(&part));
            parts.push(part);
        }
        if parts.is_empty() {
            return Ok(is_all);
        }
        if self.publisher.open.hopper.hop(hop).await.is_err() {
            // A partition of it belongs to somebody else now.
            return Ok(false);
        }
        for part in parts {
            self.replays.jobs.apply(part);
        }
        if self
            .replays
            .jobs
            .get(&self.replay.id)
            .is_some_and(|known| known.is_finished())
        {
            info!(
                replay.id = self.replay.id,
                "replay {} is finished", self.replay.id
            );
        }
        Ok(is_all)
    }

    async fn stops_by_itself(&self) -> Result<bool, IndexError> {
        let replay = Arc::clone(&self.replay);
        let counts = self
            .publisher
            .open
            .with_index(move |index| index.counts(&replay.id))
            .await?;
        let Some(known) = self.replays.jobs.get(&self.replay.id) else {
            return Ok(true);
        };
        let progress = Progress::of(&known, &self.replay, &counts);
        let letters_min = self.replays.settings.refailure_letters_min;
        let Some(reason) = progress.too_many_refailures(&known, &self.replay, letters_min) else {
            return Ok(false);
        };
        let state = Control::ReplayState(ReplayState {
            id: self.replay.id.clone(),
            state: Wish::Stopped,
            at: clock::now(),
            reason: Some(reason.clone()),
            replayed: progress.replayed,
            refailed: progress.refailed,
            unknown: Default::default(),
        });
        match self.replays.jobs.tell(&self.replays.broker, state).await {
            Ok(()) => warn!(
                replay.id = self.replay.id,
                "replay {} stops: {reason}", self.replay.id
            ),
            // Not sent on meanwhile either; the next round says it again.
            Err(error) => {
                warn!(replay.id = self.replay.id, %error, "replay {} cannot say that it stops: {error}", self.replay.id);
                self.wait(LOOK_AGAIN).await;
            }
        }
        Ok(true)
    }
}
