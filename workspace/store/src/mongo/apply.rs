//! Changes on their way into documents.
//!
//! Most events are new, and what a batch says of one begins with its acceptance. Such a document is inserted, which costs a
//! server about half of an update that makes it. Where it was there already, or the change begins later, the change is an
//! update as ever: so it does not matter which of two writers comes first.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use crate::{Change, StoreError, change::ACCEPTED};

use super::{Connection, write};

/// So many parts of batches are written by updates alone after one in which more than one in [`KNOWN_SHARE`] inserts was in vain, as
/// when topics are read again.
const ROUNDS_WITHOUT: u32 = 16;
const KNOWN_SHARE: usize = 4;

/// Whether inserts are worth trying.
#[derive(Debug, Default)]
pub(super) struct Novelty {
    rounds_without: AtomicU32,
}

impl Novelty {
    fn is_expected(&self) -> bool {
        let one_less = |left: u32| left.checked_sub(1);
        let count = &self.rounds_without;
        // Whether there was nothing to count down. What is counted guides nothing but the effort.
        count
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less)
            .is_err()
    }

    fn learn(&self, inserts: usize, in_vain: usize) {
        if in_vain * KNOWN_SHARE > inserts {
            self.rounds_without.store(ROUNDS_WITHOUT, Ordering::Relaxed);
        }
    }
}

/// Parts of a batch that are under way at the same time: while the server works on one, the next are made and on their way.
const PARTS_AT_ONCE: usize = 4;

/// Applies the changes, each command with `batch_max` of them at most.
pub(super) async fn apply(
    connection: &Connection,
    changes: &[Change],
    novelty: &Novelty,
    batch_max: usize,
    limit: Duration,
) -> Result<(), StoreError> {
    let mut parts = Vec::new();
    for part in changes.chunks(batch_max.max(1)) {
        parts.push(apply_part(connection, part, novelty, batch_max, limit));
    }
    let done = stream::iter(parts).buffer_unordered(PARTS_AT_ONCE);
    done.try_collect().await
}

async fn apply_part(
    connection: &Connection,
    changes: &[Change],
    novelty: &Novelty,
    batch_max: usize,
    limit: Duration,
) -> Result<(), StoreError> {
    const EVENTS: &str = "events";
    let inserts_pay = novelty.is_expected();
    let (new, mut known): (Vec<&Change>, Vec<&Change>) =
        (changes.iter()).partition(|change| inserts_pay && change.timeline.has(ACCEPTED));
    if !new.is_empty() {
        let documents = new.iter().map(|change| write::new_document(change));
        let documents = documents.collect::<Result<_, _>>()?;
        let there = write::insert(connection, EVENTS, documents, batch_max, limit).await?;
        novelty.learn(new.len(), there.len());
        known.extend(there.into_iter().filter_map(|place| new.get(place).copied()));
    }
    let updates = known.into_iter().map(write::of_change);
    let updates = updates.collect::<Result<_, _>>()?;
    let loss = write::Absence::Loss;
    let made = write::run(connection, EVENTS, updates, loss, batch_max, limit).await;
    made.map(drop)
}
