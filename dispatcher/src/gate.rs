//! The bulkheads: how many sends are under way at each provider account, over all lanes of this process.

use std::{
    collections::HashMap,
    fmt,
    str::FromStr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use posthaste_event::{FieldError, Millis, Topic};
use tokio::{sync::Notify, time::Instant};

use crate::{
    Settings,
    pace::{Pace, Stay},
};

/// A dispatcher's lane: its consumer group, and the topics that the group reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LaneName {
    /// Critical events: first attempts, retries and replays.
    Critical,
    /// First attempts of all others.
    Default,
    /// Their retries and replays.
    Retry,
}

impl LaneName {
    /// Every lane.
    pub const ALL: [Self; 3] = [Self::Critical, Self::Default, Self::Retry];

    /// The name on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::Default => "default",
            Self::Retry => "retry",
        }
    }

    /// The consumer group, without prefix.
    pub const fn group(self) -> &'static str {
        match self {
            Self::Critical => "dispatcher.critical",
            Self::Default => "dispatcher.default",
            Self::Retry => "dispatcher.retry",
        }
    }

    /// The topics that it reads.
    pub const fn topics(self) -> &'static [Topic] {
        match self {
            Self::Critical => &[Topic::Critical, Topic::RetryCritical],
            Self::Default => &[Topic::Default],
            Self::Retry => &[Topic::Retry],
        }
    }

    const fn index(self) -> usize {
        match self {
            Self::Critical => 0,
            Self::Default => 1,
            Self::Retry => 2,
        }
    }
}

impl fmt::Display for LaneName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for LaneName {
    type Err = FieldError;

    fn from_str(name: &str) -> Result<Self, FieldError> {
        Self::ALL
            .into_iter()
            .find(|lane| lane.as_str() == name)
            .ok_or_else(|| {
                FieldError::new(
                    "lane",
                    format!("unknown lane {name:?}"),
                    "critical, default, retry",
                )
            })
    }
}

/// The gates of every account, shared by the lanes of one process.
pub struct Gates {
    gates: Mutex<HashMap<String, Arc<Gate>>>,
    percents: [u8; 3],
    running: [AtomicBool; 3],
    released: [Notify; 3],
}

impl Gates {
    /// No account yet, no lane running.
    pub fn new(settings: &Settings) -> Self {
        Self {
            gates: Mutex::new(HashMap::new()),
            percents: [
                settings.critical_share_percent,
                settings.default_share_percent,
                settings.retry_share_percent,
            ],
            running: Default::default(),
            released: Default::default(),
        }
    }

    /// A lane begins or ends: places are kept only for lanes that run here.
    pub fn set_running(&self, lane: LaneName, running: bool) {
        self.running[lane.index()].store(running, Ordering::Relaxed);
        self.wake();
    }

    /// The gate of an account.
    pub fn gate(self: &Arc<Self>, account: &str, concurrency_max: usize) -> Arc<Gate> {
        let mut gates = lock(&self.gates);
        if let Some(gate) = gates.get(account) {
            return Arc::clone(gate);
        }
        let kept = self.percents.map(|percent| kept_places(concurrency_max, percent));
        let gate = Arc::new(Gate {
            gates: Arc::clone(self),
            concurrency_max: concurrency_max.max(1),
            kept,
            state: Mutex::new(State {
                in_use: [0; 3],
                pace: Pace::new(concurrency_max),
                quiet_since: Instant::now(),
            }),
        });
        gates.insert(account.to_owned(), Arc::clone(&gate));
        gate
    }

    /// Waits until a place may have become free anywhere. Remembers one wake-up that nobody waited for.
    pub async fn released(&self, lane: LaneName) {
        self.released[lane.index()].notified().await;
    }

    fn wake(&self) {
        for lane in LaneName::ALL {
            if self.running[lane.index()].load(Ordering::Relaxed) {
                self.released[lane.index()].notify_one();
            }
        }
    }
}

/// Rounded up from two places on, so that a small account keeps one for critical events too.
fn kept_places(concurrency_max: usize, percent: u8) -> usize {
    if concurrency_max < 2 {
        return 0;
    }
    (concurrency_max * usize::from(percent))
        .div_ceil(100)
        .min(concurrency_max / 3 + 1)
}

/// The places at one account.
pub struct Gate {
    gates: Arc<Gates>,
    concurrency_max: usize,
    kept: [usize; 3],
    state: Mutex<State>,
}

struct State {
    in_use: [usize; 3],
    pace: Pace,
    /// Since when sends are under way without one of them having ended.
    quiet_since: Instant,
}

impl State {
    fn total(&self) -> usize {
        self.in_use.iter().sum()
    }

    fn silent_ms(&self, now: Instant) -> f64 {
        if self.total() == 0 {
            return 0.0;
        }
        now.saturating_duration_since(self.quiet_since).as_secs_f64() * 1_000.0
    }
}

impl Gate {
    /// Takes a place, if the lane may have one now.
    pub fn try_enter(self: &Arc<Self>, lane: LaneName) -> Option<Pass> {
        let now = Instant::now();
        let mut state = lock(&self.state);
        let total = state.total();
        if self.concurrency_max.saturating_sub(total) <= self.kept_for_others(lane, &state.in_use) {
            return None;
        }
        if total == 0 {
            state.quiet_since = now;
        }
        state.in_use[lane.index()] += 1;
        drop(state);
        Some(Pass {
            gate: Arc::clone(self),
            lane,
            entered: now,
            used: false,
        })
    }

    /// How many events of this account may wait in memory, when none may expect to wait longer than `wait_ms`.
    pub fn queue_max(&self, wait_ms: u32) -> usize {
        let state = lock(&self.state);
        let silent_ms = state.silent_ms(Instant::now());
        state.pace.within(f64::from(wait_ms), silent_ms)
    }

    /// Takes the next slot for an event that is parked; see [`Pace::reserve`].
    pub fn reserve(&self, stay: &Stay, park_ms: (u32, u32), now: Millis) -> Millis {
        let mut state = lock(&self.state);
        let silent_ms = state.silent_ms(Instant::now());
        state.pace.reserve(stay, park_ms, now, silent_ms)
    }

    fn kept_for_others(&self, lane: LaneName, in_use: &[usize; 3]) -> usize {
        if lane == LaneName::Critical {
            return 0;
        }
        let others = LaneName::ALL.into_iter().filter(|other| *other != lane);
        let running = others.filter(|other| self.gates.running[other.index()].load(Ordering::Relaxed));
        let kept: usize = running
            .map(|other| self.kept[other.index()].saturating_sub(in_use[other.index()]))
            .sum();
        // An account too small for everybody's share still lets each lane in when nobody else is there.
        kept.min(self.concurrency_max - 1)
    }
}

/// A place at an account, given back when dropped.
pub struct Pass {
    gate: Arc<Gate>,
    lane: LaneName,
    entered: Instant,
    used: bool,
}

impl Pass {
    /// The call to the provider begins: how long the place is held from now on measures the account's pace.
    pub fn begin(&mut self) {
        self.entered = Instant::now();
        self.used = true;
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let now = Instant::now();
        let mut state = lock(&self.gate.state);
        if self.used {
            let took = now.saturating_duration_since(self.entered);
            state.pace.finished(took.as_secs_f64() * 1_000.0);
            state.quiet_since = now;
        }
        let in_use = &mut state.in_use[self.lane.index()];
        *in_use = in_use.saturating_sub(1);
        drop(state);
        self.gate.gates.wake();
    }
}

/// What is guarded is counters only: a panic elsewhere cannot leave them half-written.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gates(running: &[LaneName]) -> Arc<Gates> {
        let settings = crate::settings::tests::defaults();
        let gates = Arc::new(Gates::new(&settings));
        for lane in running {
            gates.set_running(*lane, true);
        }
        gates
    }

    fn fill(gate: &Arc<Gate>, lane: LaneName) -> Vec<Pass> {
        std::iter::from_fn(|| gate.try_enter(lane)).collect()
    }

    #[test]
    fn one_lane_alone_may_use_every_place_and_no_more() {
        for concurrency_max in [1, 2, 3, 32] {
            let gate = gates(&[LaneName::Retry]).gate("twilio", concurrency_max);
            let passes = fill(&gate, LaneName::Retry);
            assert_eq!(passes.len(), concurrency_max);
            drop(passes);
            assert_eq!(fill(&gate, LaneName::Retry).len(), concurrency_max);
        }
    }

    #[test]
    fn a_flood_of_retries_leaves_places_for_the_others() {
        let gate = gates(&LaneName::ALL).gate("twilio", 32);
        let retries = fill(&gate, LaneName::Retry);
        assert_eq!(retries.len(), 32 - 8 - 8);
        let first = fill(&gate, LaneName::Default);
        assert_eq!(first.len(), 8);
        let critical = fill(&gate, LaneName::Critical);
        assert_eq!(critical.len(), 8);
        assert!(gate.try_enter(LaneName::Retry).is_none());
    }

    #[test]
    fn critical_may_take_every_place() {
        let gate = gates(&LaneName::ALL).gate("twilio", 32);
        assert_eq!(fill(&gate, LaneName::Critical).len(), 32);
    }

    #[test]
    fn every_lane_gets_in_at_the_smallest_account() {
        for concurrency_max in 1..5 {
            let gate = gates(&LaneName::ALL).gate("twilio", concurrency_max);
            for lane in LaneName::ALL {
                assert!(gate.try_enter(lane).is_some(), "{lane} at {concurrency_max}");
            }
        }
    }

    #[tokio::test]
    async fn a_place_that_becomes_free_wakes_the_other_lanes() {
        let gates = gates(&LaneName::ALL);
        let gate = gates.gate("twilio", 1);
        let pass = gate.try_enter(LaneName::Default);
        gates.released(LaneName::Retry).await; // of `set_running`
        drop(pass);
        gates.released(LaneName::Retry).await;
    }
}
