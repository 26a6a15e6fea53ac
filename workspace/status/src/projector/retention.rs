//! Forgets old documents, a few at a time.

use std::time::Duration;

use posthaste_event::clock;
use posthaste_store::Store;
use tokio::time::sleep;
use tracing::{debug, info};

/// Documents forgotten in one step: a short write, so that others need not wait.
const STEP_RECORDS: u32 = 500;

/// Between two steps.
const STEP_PAUSE: Duration = Duration::from_millis(100);

/// Forgets what is older than `retention_ms`, every so often. Never ends.
pub(super) async fn forget(store: &dyn Store, retention_ms: Option<i64>, every: Duration) {
    let Some(retention_ms) = retention_ms else {
        return std::future::pending().await;
    };
    // A store that expires documents by itself leaves nothing to do here.
    loop {
        sleep(every).await;
        let mut forgotten = 0;
        loop {
            match store
                .forget(clock::now().saturating_sub(retention_ms), STEP_RECORDS)
                .await
            {
                Ok(0) => break,
                Ok(count) => forgotten += count,
                Err(error) => {
                    debug!(%error, "old documents are forgotten later");
                    break;
                }
            }
            sleep(STEP_PAUSE).await;
        }
        if forgotten > 0 {
            info!(forgotten, "forgot {forgotten} documents past their retention");
        }
    }
}
