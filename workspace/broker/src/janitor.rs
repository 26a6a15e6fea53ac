//! Keeps the log in order: deletes, days later, what every group is done with, so that it does not grow for ever, and ends
//! what would keep readers from going on.
//!
//! Any number of processes may do this; deleting or ending twice is doing it once.

use std::time::Duration;

use posthaste_event::clock;
use tokio::time::sleep;
use tracing::{debug, info};

use crate::{Broker, Settings};

const MILLIS_A_DAY: i64 = 86_400_000;

/// How often it is looked whether something keeps readers from going on.
const SETTLE_EVERY: Duration = Duration::from_secs(10);

/// Looks every so often, never ends. An outage is waited out: what could not be done now is done the next time.
pub async fn run(broker: &dyn Broker, settings: &Settings) {
    tokio::join!(trim(broker, settings), settle(broker));
}

async fn settle(broker: &dyn Broker) {
    loop {
        sleep(SETTLE_EVERY).await;
        if let Err(error) = broker.settle().await {
            debug!(%error, "what keeps readers from going on is looked for later");
        }
    }
}

/// Does nothing when records are kept for ever.
async fn trim(broker: &dyn Broker, settings: &Settings) {
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
