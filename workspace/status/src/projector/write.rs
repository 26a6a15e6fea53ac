//! One write to the store, however long that takes.

use std::ops::Range;

use posthaste_reconnect::Reconnect;
use posthaste_store::{Changes, Position, Store, StoreError};
use tokio::time::sleep;

use super::gauge::Gauge;

/// A store that does not get through with so few changes has another reason.
const PORTION_MIN: usize = 64;

/// How many changes the store is given at once: fewer after it did not get through with them in time, slowly more again.
#[derive(Debug)]
pub(super) struct Portion(usize);

impl Default for Portion {
    fn default() -> Self {
        Self(usize::MAX)
    }
}

impl Portion {
    fn too_many(&mut self, changes: usize) {
        self.0 = (changes / 2).max(PORTION_MIN);
    }

    fn well(&mut self, changes: usize) {
        if changes >= self.0 {
            self.0 = self.0.saturating_add(self.0 / 4);
        }
    }

    /// The changes in portions, the last one first.
    fn of(&self, changes: usize) -> Vec<Range<usize>> {
        let mut portions: Vec<_> = (0..changes)
            .step_by(self.0.max(1))
            .map(|start| start..start.saturating_add(self.0).min(changes))
            .collect();
        if portions.is_empty() {
            portions.push(0..0);
        }
        portions.reverse();
        portions
    }
}

/// Applies the changes. While the store is away it is tried again, and what is too much for it at once is halved; a change that
/// it will never take is left out, so that it does not hold up all others for ever.
pub(super) async fn write(
    store: &dyn Store,
    changes: &Changes,
    positions: &[Position],
    gauge: &Gauge,
    portion: &mut Portion,
) {
    let mut waits = Reconnect::default();
    // Changes that are still to be applied. What is written in two parts may as well be: the parts commute.
    let mut ranges = portion.of(changes.len());
    while let Some(range) = ranges.pop() {
        // Positions go with the last range, when everything before them is there.
        let progress = if ranges.is_empty() { positions } else { &[] };
        match store.apply(changes.part(&range), progress).await {
            Ok(()) => {
                gauge.written();
                portion.well(range.len());
                waits.reset();
            }
            Err(StoreError::Unreachable(reason)) => {
                gauge.not_written(&reason);
                if range.len() > PORTION_MIN {
                    portion.too_many(range.len());
                    halve(&range, &mut ranges);
                } else {
                    ranges.push(range);
                }
                sleep(waits.next_wait()).await;
            }
            // Halved until the culprit is alone.
            Err(StoreError::Refused(_)) if range.len() > 1 => halve(&range, &mut ranges),
            Err(StoreError::Refused(reason)) => {
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

fn halve(range: &Range<usize>, ranges: &mut Vec<Range<usize>>) {
    let middle = range.start + range.len() / 2;
    ranges.push(middle..range.end);
    ranges.push(range.start..middle);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn portions_cover_all_and_follow_what_the_store_can_do() {
        let lengths = |portion: &Portion, changes| {
            let mut portions = portion.of(changes);
            portions.reverse();
            assert_eq!(
                portions.iter().cloned().flatten().collect::<Vec<_>>(),
                (0..changes).collect::<Vec<_>>()
            );
            portions.iter().map(ExactSizeIterator::len).collect::<Vec<_>>()
        };
        let mut portion = Portion::default();
        assert_eq!(lengths(&portion, 4_000), [4_000]);
        assert_eq!(lengths(&portion, 0), [0]);
        portion.too_many(4_000);
        assert_eq!(lengths(&portion, 4_100), [2_000, 2_000, 100]);
        for _ in 0..10 {
            portion.too_many(100);
        }
        assert_eq!(lengths(&portion, 100), [PORTION_MIN, 100 - PORTION_MIN]);
        portion.well(10);
        assert_eq!(lengths(&portion, 100).len(), 2, "a small write says nothing");
        for _ in 0..30 {
            portion.well(lengths(&portion, 4_000)[0]);
        }
        assert_eq!(lengths(&portion, 4_000), [4_000]);
    }
}
