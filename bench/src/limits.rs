//! The limits of this machine: each stage of an event's way alone, with nothing of Posthaste in it, on the same bytes.

mod bare_axum;
mod client;
mod log;
mod producer;

use std::{path::Path, sync::Arc, time::Duration};

use crate::{
    load::Closed,
    sink::{Arrivals, Sink},
    trouble::Trouble,
    usage::{Moment, Spent},
};

pub use bare_axum::{BareAxum, COMMAND, serve as serve_bare_axum};
pub use producer::Topic;

/// Connections, tasks or rows of a transaction: as many as requests are under way in the measurements of intake.
pub const AT_ONCE: usize = 64;

/// How fast a stage is, and what it costs.
#[derive(Debug, Clone, Copy)]
pub struct Limit {
    /// A second.
    pub rate: f64,
    /// What the stage took, without the load generator and the sink.
    pub spent: Spent,
}

/// A bare axum handler that parses the same JSON.
///
/// # Errors
/// When it does not start or answer.
pub async fn http(program: &Path, mut load: Closed) -> Result<Limit, Trouble> {
    let server = BareAxum::start(program).await?;
    load.address = server.address();
    let pids = [server.pid()];
    let before = Moment::now(&pids);
    let loaded = load.run().await?.all_accepted()?;
    Ok(Limit {
        rate: loaded.rate(),
        spent: before.until_now(&pids),
    })
}

/// SQLite committing rows of these bytes, [`AT_ONCE`] in a transaction, an fsync for each.
///
/// # Errors
/// When the file cannot be written.
pub async fn sqlite(value: Vec<u8>, rows: u64) -> Result<Limit, Trouble> {
    of_this_process(log::append(value, rows), rows).await
}

/// SQLite putting documents of these bytes, [`AT_ONCE`] in a transaction.
///
/// # Errors
/// When the file cannot be written.
pub async fn sqlite_documents(value: Vec<u8>, rows: u64) -> Result<Limit, Trouble> {
    of_this_process(log::put(value, rows), rows).await
}

/// librdkafka producing records of these bytes with acks=all, [`AT_ONCE`] tasks awaiting theirs.
///
/// # Errors
/// When the broker does not answer.
pub async fn kafka(topic: &Topic, value: Vec<u8>, records: u64) -> Result<Limit, Trouble> {
    of_this_process(topic.awaited(value, records), records).await
}

/// The same as fast as it goes, nobody awaiting a single one.
///
/// # Errors
/// When the broker does not answer.
pub async fn kafka_bulk(topic: &Topic, value: Vec<u8>, records: u64) -> Result<Limit, Trouble> {
    of_this_process(topic.bulk(value, records), records).await
}

/// A reqwest client posting these bytes to the sink.
///
/// # Errors
/// When it does not answer.
pub async fn client(sink: &Sink, body: Vec<u8>, calls: u64) -> Result<Limit, Trouble> {
    sink.expect(Arrivals::new(0, 0, Duration::ZERO));
    let before = sink.time();
    let mut limit = of_this_process(client::post(sink.address(), Arc::new(body), calls), calls).await?;
    limit.spent.own_s -= (sink.time() - before).as_secs_f64();
    Ok(limit)
}

async fn of_this_process(
    work: impl Future<Output = Result<Duration, Trouble>>,
    count: u64,
) -> Result<Limit, Trouble> {
    let pids = [std::process::id()];
    let before = Moment::now(&pids);
    let elapsed = work.await?;
    Ok(Limit {
        rate: count as f64 / elapsed.as_secs_f64().max(1e-9),
        spent: before.until_now(&pids),
    })
}
