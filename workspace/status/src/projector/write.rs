//! One write to the store, however long that takes.

use posthaste_reconnect::Reconnect;
use posthaste_store::{Change, Position, Store, StoreError};
use tokio::time::sleep;

use super::gauge::Gauge;

/// Applies the changes. While the store is away it is tried again; a change that the store will never take is left out, so
/// that it does not hold up all others for ever.
pub(super) async fn write(store: &dyn Store, changes: &[Change], positions: &[Position], gauge: &Gauge) {
    // Changes that are still to be applied, as ranges: a refused range is halved until the culprit is alone.
    let whole = 0..changes.len();
    let mut ranges = vec![whole];
    while let Some(range) = ranges.pop() {
        // Positions go with the last range, when everything before them is there.
        let progress = if ranges.is_empty() { positions } else { &[] };
        match apply(store, &changes[range.clone()], progress, gauge).await {
            Ok(()) => {}
            Err(_) if range.len() > 1 => {
                let middle = range.start + range.len() / 2;
                ranges.push(middle..range.end);
                ranges.push(range.start..middle);
            }
            Err(reason) => {
                let event = changes.get(range.start).map_or("", |change| change.id.as_str());
                gauge.refused(event, &reason);
                if ranges.is_empty() && !range.is_empty() {
                    // The positions did not get through with the culprit.
                    ranges.push(range.end..range.end);
                }
            }
        }
    }
}

/// Applies all of them; the error is the reason of a refusal.
async fn apply(
    store: &dyn Store,
    changes: &[Change],
    positions: &[Position],
    gauge: &Gauge,
) -> Result<(), String> {
    let mut waits = Reconnect::default();
    loop {
        match store.apply(changes, positions).await {
            Ok(()) => {
                gauge.written();
                return Ok(());
            }
            Err(StoreError::Refused(reason)) => return Err(reason),
            Err(StoreError::Unreachable(reason)) => {
                gauge.not_written(&reason);
                sleep(waits.next_wait()).await;
            }
        }
    }
}
