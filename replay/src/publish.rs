//! Re-publishing: each letter goes out once, in the hop that also marks it as replayed.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
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
    control::{Control, LetterPlace, Replay, ReplayPart},
    record::Replayed,
};
use tracing::{debug, error, warn};

use crate::{
    index::{
        Claim, Index, Stored,
        marks::Counts,
        pages::{Closing, Gone, Page},
    },
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
    skipped: Mutex<HashSet<Place>>,
    /// By partition: the assignment's epoch, and how many letters of this replay went out of it, those under way too.
    sent: Mutex<HashMap<u32, (u64, u64)>>,
}

/// A page made into records.
pub struct Ready {
    shares: Vec<ReadyShare>,
    /// The last of its letters, in the order in which they go out. Nothing was left without.
    pub last: Option<LetterPlace>,
    /// How many letters it has.
    pub letters: usize,
    /// What became of the replay's letters before it, by partition.
    pub counts: BTreeMap<u32, Counts>,
    /// All of its letters.
    pub claims: Vec<Claim>,
}

/// What became of a page.
#[derive(Debug, Clone, Copy)]
pub struct Sent {
    /// How many letters it had.
    pub letters: usize,
    /// How many of them went out or cannot.
    pub settled: usize,
}

/// Letters of one partition, made into records.
struct ReadyShare {
    assignment: Assignment,
    position: i64,
    counts: Counts,
    letters: Vec<Stored>,
    gone: Vec<Gone>,
    outputs: Vec<NewRecord>,
}

impl ReadyShare {
    fn into_closing(self) -> Closing {
        Closing {
            assignment: self.assignment,
            position: self.position,
            letters: self.gone,
        }
    }
}

impl Publisher {
    /// Sends letters out for `replay` under this membership.
    pub fn new(replay: Arc<Replay>, instance: Arc<str>, open: Membership) -> Self {
        Self {
            replay,
            instance,
            open,
            done: Arc::default(),
            skipped: Mutex::default(),
            sent: Mutex::default(),
        }
    }

    /// Makes the records of what was claimed.
    pub fn ready(&self, page: Page) -> Ready {
        let now = clock::now();
        let claims = page.claims();
        let shares = page.shares.into_iter().map(|share| {
            let counts = page.counts.get(&share.assignment.partition.number);
            let mut ready = ReadyShare {
                assignment: share.assignment,
                position: share.position,
                counts: counts.copied().unwrap_or_default(),
                gone: Vec::with_capacity(share.letters.len()),
                outputs: Vec::with_capacity(share.letters.len() * 2 + 1),
                letters: Vec::with_capacity(share.letters.len()),
            };
            for letter in share.letters {
                self.add(&mut ready, letter, now);
            }
            ready
        });
        Ready {
            shares: shares.collect(),
            last: page.last,
            letters: claims.len(),
            counts: page.counts,
            claims,
        }
    }

    fn add(&self, ready: &mut ReadyShare, letter: Stored, now: Millis) {
        match records(&letter, &self.replay.id, &self.instance, now) {
            Some((gone, records)) => {
                ready.outputs.extend(records);
                ready.gone.push(gone);
                ready.letters.push(letter);
            }
            None => {
                error!(place = ?letter.place, "a letter in the index cannot be read");
                self.lock_skipped().insert(letter.place);
            }
        }
    }

    /// Re-publishes a page, and releases what could not go out.
    pub async fn send(&self, ready: Ready) -> Result<Sent, IndexError> {
        let letters = ready.letters;
        let mut settled = letters;
        let sends = ready.shares.into_iter().map(|mut share| async {
            let result = self.hop(&mut share).await;
            (share, result)
        });
        let mut closing = Vec::new();
        let mut too_large = Vec::new();
        for (share, result) in join_all(sends).await {
            match result {
                Ok(()) => closing.push(share.into_closing()),
                Err(HopError::TooLarge { .. }) => too_large.push(share),
                Err(error @ (HopError::Fenced | HopError::Closed | HopError::NoRoom)) => {
                    debug!(partition = %share.assignment.partition, %error, "letters were not replayed");
                    settled -= share.letters.len();
                }
            }
        }
        // Only now is it known what became of them. Those that went out are closed, and claimed by nobody.
        let claims = ready.claims;
        if too_large.is_empty() {
            self.close(closing, claims).await?;
            return Ok(Sent { letters, settled });
        }
        self.close(closing, Vec::new()).await?;
        for share in too_large {
            settled -= share.letters.len();
            settled += self.one_by_one(share).await?;
        }
        self.close(Vec::new(), claims).await?;
        Ok(Sent { letters, settled })
    }

    /// One of them is too large; the others go out. Answers how many went out or cannot.
    async fn one_by_one(&self, share: ReadyShare) -> Result<usize, IndexError> {
        let mut settled = 0;
        for letter in share.letters {
            let mut one = ReadyShare {
                gone: Vec::new(),
                outputs: Vec::new(),
                letters: Vec::new(),
                ..share
            };
            let place = letter.place;
            self.add(&mut one, letter, clock::now());
            match self.hop(&mut one).await {
                Ok(()) => self.close(vec![one.into_closing()], Vec::new()).await?,
                Err(error @ HopError::TooLarge { .. }) => {
                    let (partition, offset) = place;
                    warn!(partition, offset, %error, "a dead letter cannot go out again: {error}");
                    self.lock_skipped().insert(place);
                }
                Err(error @ (HopError::Fenced | HopError::Closed | HopError::NoRoom)) => {
                    debug!(partition = %one.assignment.partition, %error, "letters were not replayed");
                    return Ok(settled);
                }
            }
            settled += 1;
        }
        Ok(settled)
    }

    async fn hop(&self, share: &mut ReadyShare) -> Result<(), HopError> {
        let assignment = share.assignment;
        let letters = share.letters.len() as u64;
        if letters == 0 {
            return Ok(());
        }
        let counts = Counts {
            replayed: self.count_in(assignment, share.counts.replayed, letters),
            ..share.counts
        };
        let mut outputs = std::mem::take(&mut share.outputs);
        // What people are told of the progress is as true as the marks: it is in the same transaction.
        outputs.push(jobs::record(&self.part(
            assignment.partition.number,
            counts,
            false,
        )));
        // The position is committed even when it does not change: that is what refuses a member that lost the partition.
        let hop = Hop {
            completes: Vec::new(),
            positions: vec![(assignment, share.position)],
            outputs,
            ..Hop::default()
        };
        let result = self.open.hopper.hop(hop).await;
        if result.is_err() {
            self.count_out(assignment, letters);
        }
        result
    }

    /// Closes letters that went out, and then releases claims.
    async fn close(&self, closing: Vec<Closing>, claims: Vec<Claim>) -> Result<(), IndexError> {
        let letters: usize = closing.iter().map(|closing| closing.letters.len()).sum();
        self.done.fetch_add(letters, Ordering::Relaxed);
        let replay = Arc::clone(&self.replay);
        let close = move |index: &mut Index| {
            index.close(closing, &replay.id)?;
            index.release(&claims);
            Ok(())
        };
        self.open.with_index(close).await
    }

    /// So many more letters are on their way out of a partition, of which `before` had gone when this assignment began to send.
    /// Answers how many that makes.
    fn count_in(&self, assignment: Assignment, before: u64, letters: u64) -> u64 {
        let mut sent = self.lock_sent();
        let found = sent.entry(assignment.partition.number);
        let (epoch, count) = found.or_insert((assignment.epoch, before));
        if *epoch != assignment.epoch {
            (*epoch, *count) = (assignment.epoch, before);
        }
        *count += letters;
        *count
    }

    /// They did not go out.
    fn count_out(&self, assignment: Assignment, letters: u64) {
        if let Some((epoch, count)) = self.lock_sent().get_mut(&assignment.partition.number)
            && *epoch == assignment.epoch
        {
            *count = count.saturating_sub(letters);
        }
    }

    /// Letters that cannot go out.
    pub fn skipped(&self) -> HashSet<Place> {
        self.lock_skipped().clone()
    }

    fn lock_skipped(&self) -> MutexGuard<'_, HashSet<Place>> {
        self.skipped.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_sent(&self) -> MutexGuard<'_, HashMap<u32, (u64, u64)>> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How far this replay is in a partition.
    pub fn part(&self, partition: u32, counts: Counts, finished: bool) -> Control {
        let skipped = self.lock_skipped();
        Control::ReplayPart(ReplayPart {
            id: self.replay.id.clone(),
            partition,
            replayed: counts.replayed,
            refailed: counts.refailed,
            skipped: skipped.iter().filter(|place| place.0 == partition).count() as u64,
            finished,
            at: clock::now(),
            by: self.instance.to_string(),
            unknown: Default::default(),
        })
    }
}

/// The mark and the event. Nothing for a letter that cannot be read, which the index does not offer.
fn records(letter: &Stored, replay_id: &str, by: &str, now: Millis) -> Option<(Gone, [NewRecord; 2])> {
    let Ok(Value::Work(work)) = Value::decode(&letter.value) else {
        return None;
    };
    let key = match &letter.key {
        Some(key) => key.clone(),
        None => Bytes::copy_from_slice(work.delivery.id.as_bytes()),
    };
    let gone = Gone {
        place: letter.place,
        event_id: work.delivery.id.clone(),
        step: work.delivery.step,
    };
    let mark = Value::Replayed(Replayed {
        event_id: gone.event_id.clone(),
        step: gone.step,
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
    Some((gone, [mark, event]))
}
