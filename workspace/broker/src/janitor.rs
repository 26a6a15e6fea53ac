//! Keeps the log from growing for ever: deletes, days later, what every group is done with.
//!
//! Any number of processes may do this; deleting twice is deleting once.

use std::time::Duration;

use posthaste_event::clock;
use tokio::time::sleep;
use tracing::{debug, info};

use crate::{Broker, Settings};

const MILLIS_A_DAY: i64 = 86_400_000;

/// Looks every so often, never ends. Does nothing when records are kept for ever. An outage is waited out: what could not be
/// deleted now is deleted the next time.
pub async fn run(broker: &dyn Broker, settings: &Settings) {
    let Some(keep_ms) = settings.keep_ms() else {
        return std::future::pending().await;
    };
    loop {
        sleep(Duration::from_secs(settings.trim_every_minutes * 60)).await;
        match broker.trim(clock::now().saturating_sub(keep_ms)).await {
            Ok(0) => {}
            Ok(offsets) => info!(
                offsets,
                "deleted {offsets} offsets of the log that every group is done with"
            ),
            Err(error) => debug!(%error, "old records are deleted later"),
        }
    }
}

impl Settings {
    /// How long records are kept at least, in milliseconds; `None` is for ever.
    fn keep_ms(&self) -> Option<i64> {
        (self.keep_days > 0).then(|| i64::from(self.keep_days) * MILLIS_A_DAY)
    }
}
