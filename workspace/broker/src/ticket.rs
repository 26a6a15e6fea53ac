//! The ticket: what comes with each consumed record, and is spent in the hop that finishes it.

use std::{fmt, sync::Arc};

use crate::Partition;

/// The right, and the duty, to finish one consumed record.
///
/// Spent by [`crate::Hopper::hop`]. A ticket that is dropped gives its record back: while the partition is still ours it is
/// handed out again (with a new ticket); while it is being revoked this is how a holder says that it will not finish it.
pub struct Ticket {
    partition: Partition,
    offset: i64,
    epoch: u64,
    is_started: bool,
    returns: Option<Arc<dyn TicketReturn>>,
}

/// Where a dropped ticket goes: the backend that handed it out. Must not block.
pub trait TicketReturn: Send + Sync {
    /// The ticket for this record was dropped unspent.
    fn returned(&self, partition: Partition, offset: i64, epoch: u64);
}

impl Ticket {
    /// For backends: hands out a record. `is_started` says whether its mark is set; see [`Self::is_started`].
    pub fn issue(
        partition: Partition,
        offset: i64,
        epoch: u64,
        is_started: bool,
        returns: Arc<dyn TicketReturn>,
    ) -> Self {
        Self {
            partition,
            offset,
            epoch,
            is_started,
            returns: Some(returns),
        }
    }

    /// For backends: takes the ticket out of circulation without giving the record back.
    pub fn spend(mut self) -> (Partition, i64, u64) {
        self.returns = None;
        (self.partition, self.offset, self.epoch)
    }

    /// The record's partition.
    pub const fn partition(&self) -> Partition {
        self.partition
    }

    /// The record's offset.
    pub const fn offset(&self) -> i64 {
        self.offset
    }

    /// The assignment under which the record was handed out; no two assignments of a process share one.
    pub const fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Whether an earlier holder of the record marked it as started ([`crate::Hopper::start`]) and never finished it: what it was
    /// about to do may have happened.
    pub const fn is_started(&self) -> bool {
        self.is_started
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(returns) = self.returns.take() {
            returns.returned(self.partition, self.offset, self.epoch);
        }
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{} (epoch {})", self.partition, self.offset, self.epoch)
    }
}
