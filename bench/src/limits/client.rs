//! reqwest posting to the sink, as providers are called.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::AT_ONCE;
use crate::trouble::Trouble;

/// Longest call.
const CALL_LIMIT: Duration = Duration::from_secs(10);

pub async fn post(address: SocketAddr, body: Arc<Vec<u8>>, calls: u64) -> Result<Duration, Trouble> {
    let http = reqwest::Client::builder()
        .timeout(CALL_LIMIT)
        .pool_max_idle_per_host(AT_ONCE)
        .build()
        .map_err(Trouble::doing("make a client"))?;
    let url: Arc<str> = format!("http://{address}/").into();
    let begun = Instant::now();
    let mut tasks = JoinSet::new();
    for task in 0..AT_ONCE as u64 {
        let (http, url, body) = (http.clone(), Arc::clone(&url), Arc::clone(&body));
        tasks.spawn(async move {
            for _ in (task..calls).step_by(AT_ONCE) {
                let answer = http.post(&*url).body(body.to_vec()).send().await?;
                answer.error_for_status()?.bytes().await?;
            }
            Ok::<(), reqwest::Error>(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.map_err(Trouble::doing("post to the sink"))?
            .map_err(Trouble::doing("post to the sink"))?;
    }
    Ok(begun.elapsed())
}
