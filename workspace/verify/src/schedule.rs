//! What is broken when: drawn from a seed, known before anything starts, and the same for the same seed.

use std::{collections::HashMap, fmt, time::Duration};

use crate::chance::Chance;

/// The load begins before the first fault.
const FIRST_MS: u64 = 2_000;
/// Draws for one moment before it stays without a fault, because all that can be broken is broken.
const DRAWS_MAX: usize = 16;

/// A connection that goes through the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Way {
    /// From the services to the sandbox.
    Sandbox,
    /// From the services to Kafka.
    Broker,
    /// From the services to MongoDB.
    Store,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sandbox => "the way to the sandbox",
            Self::Broker => "the way to the broker",
            Self::Store => "the way to the store",
        })
    }
}

/// What can be broken.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Targets {
    /// Processes that were started here, by name.
    pub processes: Vec<String>,
    /// Connections that go through the proxy.
    pub ways: Vec<Way>,
    /// Whether there are commands that stop and start the broker.
    pub broker: bool,
    /// Whether there are commands that stop and start the store.
    pub store: bool,
}

/// Something to break.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Breakage {
    /// SIGKILL, and a start later.
    Kill(String),
    /// SIGKILL to every process at once, and a start later.
    KillAll,
    /// SIGTERM, and a start once it has ended.
    Stop(String),
    /// SIGSTOP, and SIGCONT later: it comes back with what it had in its hands.
    Hang(String),
    /// The broker is stopped, and started later.
    StopBroker,
    /// The store is stopped, and started later.
    StopStore,
    /// Connections break, and no new one lasts.
    Cut(Way),
    /// Connections stay, and nothing passes.
    Stall(Way),
    /// Everything that passes is so much later, in milliseconds.
    Slow(Way, u64),
}

/// A fault and its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// So long after the load began, in milliseconds.
    pub at_ms: u64,
    /// How long it stays broken, in milliseconds.
    pub for_ms: u64,
    /// What is broken.
    pub breakage: Breakage,
}

impl fmt::Display for Planned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = |ms: u64| format!("{}.{:03} s", ms / 1_000, ms % 1_000);
        let lasting = seconds(self.for_ms);
        write!(f, "{:>11}  ", seconds(self.at_ms))?;
        match &self.breakage {
            Breakage::Kill(process) => write!(f, "kill {process}; start it {lasting} later"),
            Breakage::KillAll => write!(f, "kill every process; start them {lasting} later"),
            Breakage::Stop(process) => write!(f, "ask {process} to end; start it {lasting} after that"),
            Breakage::Hang(process) => write!(f, "let {process} stand still for {lasting}"),
            Breakage::StopBroker => write!(f, "stop the broker for {lasting}"),
            Breakage::StopStore => write!(f, "stop the store for {lasting}"),
            Breakage::Cut(way) => write!(f, "cut {way} for {lasting}"),
            Breakage::Stall(way) => write!(f, "let nothing pass on {way} for {lasting}"),
            Breakage::Slow(way, late) => write!(f, "delay {way} by {late} ms for {lasting}"),
        }
    }
}

impl Breakage {
    /// What it keeps busy: of two faults that overlap none breaks what the other does.
    fn busies(&self, targets: &Targets) -> Vec<String> {
        match self {
            Self::Kill(process) | Self::Stop(process) | Self::Hang(process) => vec![process.clone()],
            Self::KillAll => targets.processes.clone(),
            Self::StopBroker
            | Self::Cut(Way::Broker)
            | Self::Stall(Way::Broker)
            | Self::Slow(Way::Broker, _) => {
                vec![Way::Broker.to_string()]
            }
            Self::StopStore | Self::Cut(Way::Store) | Self::Stall(Way::Store) | Self::Slow(Way::Store, _) => {
                vec![Way::Store.to_string()]
            }
            Self::Cut(way) | Self::Stall(way) | Self::Slow(way, _) => vec![way.to_string()],
        }
    }
}

/// The faults of this seed over `lasting`, one every so often on average. All is whole again at the end.
pub fn schedule(seed: u64, targets: &Targets, lasting: Duration, every: Duration) -> Vec<Planned> {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let (end, every) = (millis(lasting), millis(every).max(1));
    let mut chance = Chance::of(seed, 0xfa17);
    let mut planned: Vec<Planned> = Vec::new();
    let mut busy: HashMap<String, u64> = HashMap::new();
    let mut at_ms = FIRST_MS + chance.between(0, every);
    while at_ms < end {
        for _ in 0..DRAWS_MAX {
            let Some((breakage, for_ms)) = draw(&mut chance, targets) else {
                return planned;
            };
            let for_ms = for_ms.min(end - at_ms);
            let names = breakage.busies(targets);
            let is_free = |name: &String| busy.get(name).is_none_or(|until| *until <= at_ms);
            if names.iter().all(is_free) {
                busy.extend(names.into_iter().map(|name| (name, at_ms + for_ms)));
                planned.push(Planned {
                    at_ms,
                    for_ms,
                    breakage,
                });
                break;
            }
        }
        at_ms = at_ms.saturating_add(chance.between(every * 2 / 5, every * 8 / 5).max(1));
    }
    planned
}

/// One fault and how long it lasts; `None` when there is nothing to break.
fn draw(chance: &mut Chance, targets: &Targets) -> Option<(Breakage, u64)> {
    let process = targets
        .processes
        .first()
        .and(chance.pick(&targets.processes))
        .cloned();
    let way = targets.ways.first().and(chance.pick(&targets.ways)).copied();
    let mut choices: Vec<Breakage> = Vec::new();
    if let Some(process) = &process {
        // Named more often: happens more often.
        choices.extend([0; 6].map(|_| Breakage::Kill(process.clone())));
        choices.extend([0; 3].map(|_| Breakage::Hang(process.clone())));
        choices.push(Breakage::Stop(process.clone()));
        if targets.processes.len() > 1 {
            choices.push(Breakage::KillAll);
        }
    }
    if let Some(way) = way {
        let late_ms = chance.between(20, 1_000);
        choices.extend([
            Breakage::Cut(way),
            Breakage::Stall(way),
            Breakage::Slow(way, late_ms),
        ]);
    }
    if targets.broker {
        choices.push(Breakage::StopBroker);
    }
    if targets.store {
        choices.push(Breakage::StopStore);
    }
    let breakage = chance.pick(&choices)?.clone();
    let is_long = chance.hits(25.0);
    let (low, high) = match (&breakage, is_long) {
        (Breakage::Kill(_) | Breakage::KillAll | Breakage::Stop(_), _) => (0, 2_000),
        // Long enough that its group gives its work to others, which it does not know when it goes on.
        (Breakage::Hang(_), true) => (8_000, 15_000),
        (Breakage::Hang(_), false) => (200, 3_000),
        (Breakage::StopBroker | Breakage::StopStore, _) => (1_000, 8_000),
        (Breakage::Cut(_) | Breakage::Stall(_) | Breakage::Slow(..), true) => (4_000, 12_000),
        (Breakage::Cut(_) | Breakage::Stall(_) | Breakage::Slow(..), false) => (200, 3_000),
    };
    Some((breakage, chance.between(low, high)))
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    fn everything() -> Targets {
        Targets {
            processes: ["ingestion", "default", "default-2", "status"]
                .map(str::to_owned)
                .to_vec(),
            ways: vec![Way::Sandbox, Way::Store, Way::Broker],
            broker: true,
            store: true,
        }
    }

    fn of(seed: u64) -> Vec<Planned> {
        schedule(
            seed,
            &everything(),
            Duration::from_secs(600),
            Duration::from_secs(2),
        )
    }

    #[test]
    fn the_same_seed_gives_the_same_schedule() {
        assert_eq!(of(1), of(1));
        assert_ne!(of(1), of(2));
        let lines = |planned: &[Planned]| {
            planned
                .iter()
                .map(|planned| format!("{}\n", planned.to_string().trim_start()))
                .collect::<String>()
        };
        // A seed that found something must find it in the next version too.
        expect![[r#"
            2.866 s  let nothing pass on the way to the sandbox for 1.952 s
            5.881 s  kill default; start it 1.379 s later
            8.479 s  let nothing pass on the way to the broker for 0.299 s
            9.346 s  let ingestion stand still for 0.436 s
            10.839 s  kill every process; start them 1.933 s later
            13.965 s  stop the broker for 4.748 s
            16.433 s  kill default; start it 0.004 s later
            17.907 s  stop the store for 6.505 s
        "#]]
        .assert_eq(&lines(&of(1)[..8]));
    }

    #[test]
    fn every_kind_happens_and_all_is_whole_at_the_end() {
        let planned = of(3);
        assert!((250..350).contains(&planned.len()), "{}", planned.len());
        let kinds: std::collections::HashSet<_> = planned
            .iter()
            .map(|planned| std::mem::discriminant(&planned.breakage))
            .collect();
        assert_eq!(kinds.len(), 9);
        assert!(
            planned
                .iter()
                .all(|planned| planned.at_ms + planned.for_ms <= 600_000)
        );
    }

    #[test]
    fn nothing_is_broken_twice_at_once() {
        let (planned, targets) = (of(5), everything());
        for (place, one) in planned.iter().enumerate() {
            for other in &planned[place + 1..] {
                let meet = other.at_ms < one.at_ms + one.for_ms;
                let (ours, theirs) = (one.breakage.busies(&targets), other.breakage.busies(&targets));
                assert!(
                    !meet || ours.iter().all(|name| !theirs.contains(name)),
                    "{one}\n{other}"
                );
            }
        }
    }

    #[test]
    fn one_process_alone_is_killed_and_hung() {
        let targets = Targets {
            processes: vec!["up".to_owned()],
            ..Targets::default()
        };
        let planned = schedule(1, &targets, Duration::from_secs(60), Duration::from_secs(2));
        assert!(planned.len() > 15);
        assert!(
            planned
                .iter()
                .all(|planned| planned.breakage != Breakage::KillAll)
        );
        assert_eq!(
            schedule(
                1,
                &Targets::default(),
                Duration::from_secs(60),
                Duration::from_secs(2)
            ),
            []
        );
    }
}
