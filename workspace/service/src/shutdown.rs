//! Stopping on request: the first signal asks everything to finish, the second ends the process.

use std::{io, time::Duration};

use futures_util::FutureExt as _;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{info, warn};

use crate::Shutdown;

/// Exit status of a process that was told to stop twice, as a shell reports SIGINT.
const EXIT_AT_ONCE: i32 = 130;

/// A signal that follows the first within this time is the same request.
const ECHO: Duration = Duration::from_millis(300);

/// A token that SIGINT or SIGTERM cancels. A second signal ends the process at once: what was in flight is taken up by the
/// next process that holds those partitions.
///
/// # Errors
/// When the signals cannot be watched.
pub fn on_signals() -> io::Result<Shutdown> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let shutdown = Shutdown::new();
    let token = shutdown.clone();
    tokio::spawn(async move {
        let name = either(&mut interrupt, &mut terminate).await;
        info!("stopping on {name}: finishing what is under way; once more ends at once");
        token.cancel();
        // Some parents (`timeout`, a shell's process group) deliver one request twice.
        tokio::time::sleep(ECHO).await;
        while let Some(Some(())) = interrupt.recv().now_or_never() {}
        while let Some(Some(())) = terminate.recv().now_or_never() {}
        let name = either(&mut interrupt, &mut terminate).await;
        warn!("ending at once on a second {name}");
        std::process::exit(EXIT_AT_ONCE);
    });
    Ok(shutdown)
}

async fn either(interrupt: &mut Signal, terminate: &mut Signal) -> &'static str {
    tokio::select! {
        _ = interrupt.recv() => "SIGINT",
        _ = terminate.recv() => "SIGTERM",
    }
}
