//! What became of the events of a broadcast: counted in the store when somebody asks, and not more often than that is worth.

use std::sync::Arc;

use posthaste_event::broadcast::Broadcast;
use posthaste_store::{Counts, KeptCounts, Tallies, Uncounted};

/// Why nothing is known.
pub(super) const NO_STORE: &str = "the status store does not answer";

/// See the module.
pub(super) struct Tallied {
    tallies: Arc<dyn Tallies>,
    /// By id.
    kept: KeptCounts<String>,
}

impl Tallied {
    pub(super) fn new(tallies: Arc<dyn Tallies>) -> Self {
        Self {
            tallies,
            kept: KeptCounts::default(),
        }
    }

    /// How many of a broadcast's events have each status, as of a moment ago.
    ///
    /// # Errors
    /// Why that is not known, in words.
    pub(super) async fn of(&self, broadcast: &Broadcast) -> Result<Counts, &'static str> {
        let count = {
            let (tallies, tenant) = (Arc::clone(&self.tallies), broadcast.tenant.clone());
            let id = broadcast.id.clone();
            async move { tallies.tally(&tenant, &id).await }
        };
        match self.kept.get(&broadcast.id, count).await {
            Ok(counted) => Ok(counted.counts),
            Err(Uncounted::Failed(_)) => Err(NO_STORE),
            Err(Uncounted::Slow) => Err("counting takes a while; ask again"),
            Err(Uncounted::Busy) => Err("other broadcasts are being counted; ask again"),
        }
    }
}
