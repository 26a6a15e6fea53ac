//! What processes and threads cost, from /proc.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::trouble::Trouble;

/// Linux counts processor time in hundredths of a second for everybody (`USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;

/// Processor time of some processes and the whole machine, at a moment.
#[derive(Debug, Clone, Copy, Default)]
pub struct Moment {
    own_s: f64,
    busy_s: f64,
}

/// What a measurement cost.
#[derive(Debug, Clone, Copy, Default)]
pub struct Spent {
    /// Processor time of the processes, user and system, in seconds.
    pub own_s: f64,
    /// The same of the whole machine.
    pub machine_s: f64,
}

impl Moment {
    /// Now, of these processes.
    pub fn now(pids: &[u32]) -> Self {
        Self {
            own_s: pids.iter().map(|pid| process_s(*pid).unwrap_or(0.0)).sum(),
            busy_s: busy_s().unwrap_or(0.0),
        }
    }

    /// What was spent since then.
    pub fn until_now(self, pids: &[u32]) -> Spent {
        let now = Self::now(pids);
        Spent {
            own_s: now.own_s - self.own_s,
            machine_s: now.busy_s - self.busy_s,
        }
    }
}

/// User and system time of a process with all its threads, in seconds.
fn process_s(pid: u32) -> Option<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold anything; the numbers follow the last parenthesis.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |index: usize| fields.get(index)?.parse::<f64>().ok();
    Some((ticks(11)? + ticks(12)?) / TICKS_PER_SECOND)
}

/// Time that the machine's processors were not idle, in seconds; of all processors together.
fn busy_s() -> Option<f64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let fields: Vec<f64> = stat
        .lines()
        .next()?
        .split_whitespace()
        .skip(1)
        .filter_map(|field| field.parse().ok())
        .collect();
    // user nice system idle iowait irq softirq steal
    let busy = [0, 1, 2, 5, 6, 7]
        .iter()
        .filter_map(|index| fields.get(*index))
        .sum::<f64>();
    Some(busy / TICKS_PER_SECOND)
}

/// Memory of a process.
#[derive(Debug, Clone, Copy, Default)]
pub struct Memory {
    /// Resident now, in MiB.
    pub now_mib: f64,
    /// The most that was resident, in MiB.
    pub peak_mib: f64,
}

/// Memory of these processes, added up.
pub fn memory(pids: &[u32]) -> Memory {
    let mut sum = Memory::default();
    for pid in pids {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        sum.now_mib += mib(&status, "VmRSS:");
        sum.peak_mib += mib(&status, "VmHWM:");
    }
    sum
}

fn mib(status: &str, name: &str) -> f64 {
    status
        .lines()
        .find_map(|line| {
            line.strip_prefix(name)?
                .trim()
                .strip_suffix("kB")?
                .trim()
                .parse()
                .ok()
        })
        .map_or(0.0, |kib: f64| kib / 1_024.0)
}

/// The thread that calls it, to be asked for its time by any other.
#[derive(Debug, Clone)]
pub struct Thread(PathBuf);

impl Thread {
    /// This one.
    ///
    /// # Errors
    /// Where there is no /proc.
    pub fn this() -> Result<Self, Trouble> {
        let link = fs::read_link("/proc/thread-self").map_err(Trouble::io("read /proc/thread-self"))?;
        Ok(Self(Path::new("/proc").join(link).join("schedstat")))
    }

    /// Its processor time, to the nanosecond; nothing once it has ended.
    pub fn time(&self) -> Duration {
        let text = fs::read_to_string(&self.0).unwrap_or_default();
        let nanos = text
            .split_whitespace()
            .next()
            .and_then(|nanos| nanos.parse().ok());
        Duration::from_nanos(nanos.unwrap_or(0))
    }
}

/// The machine, for the record.
pub fn machine() -> serde_json::Value {
    let first = |path: &str, name: &str| {
        let text = fs::read_to_string(path).unwrap_or_default();
        let value = text
            .lines()
            .find(|line| line.starts_with(name))
            .and_then(|line| line.split_once(':'))
            .map(|(_, value)| value.trim().to_owned());
        value.unwrap_or_default()
    };
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    serde_json::json!({
        "processor": first("/proc/cpuinfo", "model name"),
        "processors": std::thread::available_parallelism().map_or(0, usize::from),
        "memory": first("/proc/meminfo", "MemTotal"),
        "kernel": kernel.trim(),
    })
}

/// How many tasks wanted a processor in the last minute, on average.
pub fn load_average() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace()
        .next()
        .and_then(|load| load.parse().ok())
        .unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_shows_in_the_time_of_process_and_thread() {
        let pids = [std::process::id()];
        let (begun, thread) = (Moment::now(&pids), Thread::this().unwrap());
        let before = thread.time();
        let mut sum = 0_u64;
        while thread.time() - before < Duration::from_millis(50) {
            sum = (0..100_000_u64).fold(sum, |sum, n| std::hint::black_box(sum.wrapping_add(n)));
        }
        assert!(begun.until_now(&pids).own_s >= 0.03, "{sum}");
        assert!(memory(&pids).peak_mib >= memory(&pids).now_mib * 0.5);
        assert!(memory(&pids).now_mib > 1.0);
    }
}
