//! One replay at work in this process: page by page, at its pace, until nothing of it is left here.
//!
//! It keeps nothing that must survive: what went out is in the log, and what is left is found again by what the replay
//! means. So it can end anywhere, by a crash too, and whoever has the partitions then goes on.

use std::{
    pin::pin,
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use futures_util::stream::{FuturesUnordered, StreamExt as _};
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
    publish::{Publisher, Ready, Sent},
};

/// How long to wait for letters that another request has in its hands, or after a page of which nothing went out.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Pages on their way at the same time: the log takes one, the one before is closed in the index, and the next is ready. More would make others wait
/// for the log, and come to nothing when the replay is paused.
const PAGES_UNDER_WAY: usize = 3;

/// One replay at work.
pub struct Runner {
    replays: Arc<Replays>,
    publisher: Arc<Publisher>,
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

/// Where a replay is on its way through its letters.
struct Course {
    pace: Pace,
    /// The last letter that was claimed.
    after: Option<LetterPlace>,
    /// Nothing of the last page went out.
    idle: bool,
}

impl Course {
    fn new(ramp_ms: u64) -> Self {
        Self {
            pace: Pace::new(ramp_ms),
            after: None,
            idle: false,
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
        let instance = Arc::clone(&replays.instance);
        let publisher = Arc::new(Publisher::new(Arc::clone(&replay), instance, claims.open.clone()));
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
        let publisher = Arc::clone(&self.publisher);
        let mut pages = FuturesUnordered::new();
        let mut course = Course::new(self.replay.ramp_ms);
        while self.goes_on(course.idle) {
            let page_max = self.replays.settings.page_records_max;
            let rate = self.rate().await?;
            let now_ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
            let allowed = course.pace.allows(now_ms, rate, page_max);
            // What a rate allows by and by goes out page by page.
            if !pages.is_empty() && (pages.len() == PAGES_UNDER_WAY || allowed < page_max) {
                if let Some(sent) = pages.next().await {
                    self.on_sent(&mut course, sent?).await;
                }
                continue;
            }
            if allowed == 0 {
                let wait_ms = course.pace.wait_ms(rate.unwrap_or(f64::MAX));
                self.wait(Duration::from_millis(wait_ms)).await;
                continue;
            }
            let (page, sent) = self.next_page_beside(&mut pages, course.after, allowed).await?;
            for sent in sent {
                self.on_sent(&mut course, sent).await;
            }
            // It may have been told to end while the page was made.
            if !self.goes_on(course.idle) || self.stops_by_itself(&page).await {
                self.give_back(page).await?;
                break;
            }
            if let Some(last) = page.last {
                course.after = Some(last);
                course.pace.spend(page.letters);
                pages.push(publisher.send(page));
            } else if let Some(sent) = pages.next().await {
                self.on_sent(&mut course, sent?).await;
            } else if course.after.take().is_none() {
                // Not before it was looked for from the start: what another request gave back may be anywhere.
                if self.finish().await? {
                    return Ok(());
                }
                course.idle = true;
                self.wait(LOOK_AGAIN).await;
            }
        }
        while let Some(sent) = pages.next().await {
            sent?;
        }
        Ok(())
    }

    /// Makes the next page while others are on their way; those that got there meanwhile come with it.
    async fn next_page_beside(
        &mut self,
        pages: &mut FuturesUnordered<impl Future<Output = Result<Sent, IndexError>>>,
        after: Option<LetterPlace>,
        letters: usize,
    ) -> Result<(Ready, Vec<Sent>), IndexError> {
        let mut sent = Vec::new();
        let mut next = pin!(self.next_page(after, letters));
        loop {
            tokio::select! {
                page = &mut next => return Ok((page?, sent)),
                Some(done) = pages.next() => sent.push(done?),
            }
        }
    }

    async fn on_sent(&self, course: &mut Course, sent: Sent) {
        course.pace.give_back(sent.letters - sent.settled);
        course.idle = sent.settled == 0;
        if course.idle {
            self.wait(LOOK_AGAIN).await;
        }
    }

    async fn give_back(&self, page: Ready) -> Result<(), IndexError> {
        let release = move |index: &mut Index| {
            index.release(&page.claims);
            Ok(())
        };
        self.publisher.open.with_index(release).await
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

    /// Claims the next letters from `after` on, and makes their records.
    async fn next_page(&mut self, after: Option<LetterPlace>, letters: usize) -> Result<Ready, IndexError> {
        let bytes_max = self.replays.settings.page_bytes_max;
        let (publisher, replay) = (Arc::clone(&self.publisher), Arc::clone(&self.replay));
        let open = &self.publisher.open;
        let claimed = self.claims.claims.as_slice();
        if claimed.is_empty() {
            let skipped = self.publisher.skipped();
            let claim =
                move |index: &mut Index, ()| index.next_page(&replay, after, (letters, bytes_max), &skipped);
            let ready = move |page| publisher.ready(page);
            return open.beside_index(|| (), claim, ready).await;
        }
        let claimed = claimed[..letters.min(claimed.len())].to_vec();
        let read = move |index: &mut Index, ()| index.page_of(&replay.id, &claimed, bytes_max);
        let ready = move |(page, looked_at)| (publisher.ready(page), looked_at);
        let (page, looked_at) = open.beside_index(|| (), read, ready).await?;
        // From now on the page has them.
        self.claims.claims.by_ref().take(looked_at).for_each(drop);
        Ok(page)
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
            let part = self.publisher.part(number, counts, true);
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

    /// Whether too much of what went out died again, as it was counted before this page. Says so to everybody.
    async fn stops_by_itself(&self, page: &Ready) -> bool {
        let Some(known) = self.replays.jobs.get(&self.replay.id) else {
            return true;
        };
        let progress = Progress::of(&known, &self.replay, &page.counts);
        let letters_min = self.replays.settings.refailure_letters_min;
        let Some(reason) = progress.too_many_refailures(&known, &self.replay, letters_min) else {
            return false;
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
        true
    }
}
