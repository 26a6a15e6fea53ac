//! One membership of the group: the partitions that it has, and what puts its hops through.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use posthaste_broker::{Assignment, Hop, Hopper, Record, Signal};
use posthaste_event::broadcast::BroadcastGlance;
use tracing::{debug, warn};

use crate::index::Index;

/// See the module.
#[derive(Clone)]
pub(crate) struct Membership {
    index: Arc<Mutex<Index>>,
    pub(crate) hopper: Arc<dyn Hopper>,
}

impl Membership {
    pub(crate) fn new(hopper: Arc<dyn Hopper>) -> Self {
        Self {
            index: Arc::default(),
            hopper,
        }
    }

    /// The index; never held over an await.
    pub(crate) fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn on_signal(&self, signal: Signal) {
        let mut index = self.index();
        match signal {
            Signal::Assigned(assignments) => assignments
                .into_iter()
                .for_each(|assignment| index.assigned(assignment)),
            Signal::Read(records) => records.iter().for_each(|record| read(&mut index, record)),
            Signal::AtEnd(partition) => index.at_end(partition.number),
            Signal::Revoking(partitions) | Signal::Revoked(partitions) => {
                partitions
                    .iter()
                    .for_each(|partition| index.revoked(partition.number));
            }
            // Not given with this tracking; a ticket that is dropped is handed out again.
            Signal::Records(batch) => debug!(records = batch.len(), "records with tickets are not expected"),
        }
    }

    /// Commits the positions that have moved on: nothing waits for them.
    pub(crate) async fn settle(&self, positions: Vec<(Assignment, i64)>) {
        for (assignment, position) in positions {
            let hop = Hop {
                positions: vec![(assignment, position)],
                ..Hop::default()
            };
            if self.hopper.hop(hop).await.is_ok() {
                self.index().committed(assignment, position);
            }
        }
    }
}

fn read(index: &mut Index, record: &Record) {
    let glance = record.value.as_deref().map(BroadcastGlance::decode);
    if let Some(Err(error)) = &glance {
        let (partition, offset) = (record.partition, record.offset);
        warn!(%partition, offset, %error, "a record among the broadcasts cannot be read and is passed over");
    }
    let glance = glance.and_then(Result::ok);
    index.read(record.partition.number, record.offset, record.appended_at, glance);
}
