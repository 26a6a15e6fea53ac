//! Starts the replays that have something to do in the partitions that are ours: those that were asked for elsewhere or
//! before a crash, and those that were resumed.

use std::{sync::Arc, time::Duration};

use posthaste_event::control::{Replay, Wish};
use posthaste_service::Shutdown;
use tokio::time::timeout;
use tracing::{info, warn};

use super::runner::{Claims, Runner};
use crate::{index::Index, membership::Replays};

/// How often it looks, when nothing was said to have changed: partitions come and go without a word here.
const LOOK: Duration = Duration::from_millis(500);

/// Runs until `shutdown`.
pub async fn conduct(replays: Arc<Replays>, shutdown: Shutdown) {
    while !shutdown.is_cancelled() {
        // Before everything is read, a later wish to end it may still be unread.
        if replays.jobs.is_read() {
            start_what_is_left(&replays).await;
        }
        let changed = timeout(LOOK, replays.jobs.changed.notified());
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = changed => {}
        }
    }
}

async fn start_what_is_left(replays: &Arc<Replays>) {
    let Ok(open) = replays.open() else { return };
    for known in replays.jobs.unfinished() {
        let Some(replay) = known.replay.clone() else {
            continue;
        };
        if known.is_running || known.wish() != Wish::Running {
            continue;
        }
        let unfinished: Vec<u32> = unfinished(&replay, &known);
        let is_ours =
            move |index: &mut Index| Ok(unfinished.iter().any(|partition| index.is_read(*partition)));
        if !matches!(open.with_index(is_ours).await, Ok(true)) || !replays.jobs.begin(&replay.id) {
            continue;
        }
        info!(replay.id = replay.id, "replay {} goes on", replay.id);
        let claims = Claims::new(&open, Vec::new());
        let runner = Runner::new(Arc::clone(replays), Arc::clone(&replay), claims);
        replays.under_way.spawn(async move {
            if let Err(error) = runner.run().await {
                warn!(replay.id = replay.id, %error, "replay {} broke off and goes on later: {error}", replay.id);
            }
        });
    }
}

fn unfinished(replay: &Replay, known: &super::Known) -> Vec<u32> {
    let shares = replay.shares.iter().map(|share| share.partition);
    shares
        .filter(|partition| !known.parts.get(partition).is_some_and(|part| part.finished))
        .collect()
}
