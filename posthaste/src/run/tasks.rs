//! The services' loops: started by name, and stopped together.

use std::{future::Future, time::Duration};

use posthaste_service::Shutdown;
use tokio::{task::JoinSet, time};
use tracing::warn;

use crate::failure::Failure;

/// The loops of this process.
#[derive(Default)]
pub struct Tasks {
    running: JoinSet<(String, Result<(), String>)>,
    stop: Shutdown,
}

impl Tasks {
    /// What the loops watch.
    pub fn stop(&self) -> Shutdown {
        self.stop.clone()
    }

    /// Starts a loop.
    pub fn spawn(
        &mut self,
        name: impl Into<String>,
        task: impl Future<Output = Result<(), String>> + Send + 'static,
    ) {
        let name = name.into();
        self.running.spawn(async move { (name, task.await) });
    }

    /// Waits for a loop to end, which none should do by itself.
    pub async fn first_end(&mut self) -> Failure {
        match self.running.join_next().await {
            Some(Ok((name, Err(error)))) => Failure::Runtime(format!("{name}: {error}")),
            Some(Ok((name, Ok(())))) => Failure::Runtime(format!("{name} ended by itself")),
            Some(Err(panic)) => Failure::Runtime(format!("a service stopped by a fault of its own: {panic}")),
            // No loops: only HTTP is served here.
            None => std::future::pending().await,
        }
    }

    /// Tells all loops to stop and waits for them, but not longer than `limit`.
    pub async fn drain(mut self, limit: Duration) {
        self.stop.cancel();
        let all = async {
            while let Some(ended) = self.running.join_next().await {
                match ended {
                    Ok((_, Ok(()))) => {}
                    Ok((name, Err(error))) => {
                        warn!(service = name, error, "{name} did not stop well: {error}")
                    }
                    Err(panic) => warn!(error = %panic, "a service stopped by a fault of its own: {panic}"),
                }
            }
        };
        if time::timeout(limit, all).await.is_err() {
            warn!("some services did not stop in time and are cut off");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_loop_that_ends_is_named_and_the_others_are_told_to_stop() {
        let mut tasks = Tasks::default();
        let stop = tasks.stop();
        tasks.spawn("good", async move {
            stop.cancelled().await;
            Ok(())
        });
        tasks.spawn("bad", async { Err("no position".to_owned()) });
        let Failure::Runtime(message) = tasks.first_end().await else {
            panic!("not a usage error")
        };
        assert_eq!(message, "bad: no position");
        tasks.drain(Duration::from_secs(20)).await;
    }
}
