//! Start to ready, what an idle process takes, and the size of the binary.

use std::time::Duration;

use super::{Bench, Scenario};
use crate::{
    figures::Better,
    system::{Backend, Calls, Contender, Services},
    trouble::Trouble,
    usage::Moment,
};

const NAME: &str = Scenario::Start.name();

/// What begins after the start is over by then.
const SETTLE: Duration = Duration::from_secs(1);

pub async fn round(bench: &mut Bench) -> Result<(), Trouble> {
    for (backend, contender) in bench.entries() {
        if let Err(trouble) = measure(bench, backend, &contender).await {
            bench.note(Scenario::Start, backend, &contender, &trouble);
        }
    }
    Ok(())
}

async fn measure(bench: &mut Bench, backend: Backend, contender: &Contender) -> Result<(), Trouble> {
    let system = bench
        .system(backend, contender, Services::All, Calls::Sandbox)
        .await?;
    tokio::time::sleep(SETTLE).await;
    let pids = system.pids();
    let before = Moment::now(&pids);
    tokio::time::sleep(bench.size.idle).await;
    let spent = before.until_now(&pids);
    let memory = system.memory();
    let binary = std::fs::metadata(&contender.binary).map_err(Trouble::io("look at the binary"))?;
    let mut place = bench.figures.of(NAME, backend.name(), &contender.label);
    let started = system.started().as_secs_f64() * 1_000.0;
    place.add("start to ready", "ms", Better::Lower, started);
    let share = 100.0 * spent.own_s / bench.size.idle.as_secs_f64();
    place.add("processor, idle", "% of a core", Better::Lower, share);
    place.add("memory, idle", "MiB", Better::Lower, memory.now_mib);
    place.add("processes", "processes", Better::Neither, pids.len() as f64);
    let mib = binary.len() as f64 / f64::from(1 << 20);
    place.add("binary", "MiB", Better::Lower, mib);
    Ok(())
}
