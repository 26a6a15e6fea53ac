//! What is measured: one file each. A round of a scenario measures its limits and then every contender on every backend, so
//! that what else the machine does meanwhile falls on all of them.

mod backlog;
mod end_to_end;
mod growth;
mod intake;
mod latency;
mod projector;
mod replay;
mod retry;
mod start;
mod wheel;

use std::{path::PathBuf, time::Duration};

use clap::ValueEnum;
use posthaste_testkit::KafkaServer;

use crate::{
    figures::{Better, Figures, Place},
    limits::Topic,
    sink::Sink,
    system::{Backend, Calls, Contender, Plan, Servers, Services, System},
    trouble::Trouble,
    usage::Moment,
};

/// The scenarios.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Scenario {
    /// Events a second that intake takes, durable, beside the limit
    Intake,
    /// HTTP to provider with the status written
    EndToEnd,
    /// One event at 200/s, HTTP to provider
    Latency,
    /// The same, critical, beside a backlog that is worked off
    Backlog,
    /// Events that fail once: how late their second try is
    Retry,
    /// Scheduled events: memory, lateness, moves
    Wheel,
    /// Dead letters back on their way
    Replay,
    /// Status documents a second, from the topics
    Projector,
    /// Cost as the work grows, and with more dispatchers
    Growth,
    /// Start to ready, idle memory and processor, size of the binary
    Start,
}

impl Scenario {
    /// As figures call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Intake => "intake",
            Self::EndToEnd => "end-to-end",
            Self::Latency => "latency",
            Self::Backlog => "backlog",
            Self::Retry => "retry",
            Self::Wheel => "wheel",
            Self::Replay => "replay",
            Self::Projector => "projector",
            Self::Growth => "growth",
            Self::Start => "start",
        }
    }

    /// Measures one round of it.
    ///
    /// # Errors
    /// When it cannot be measured at all; what fails of a single system is noted among the troubles.
    pub async fn round(self, bench: &mut Bench) -> Result<(), Trouble> {
        match self {
            Self::Intake => intake::round(bench).await,
            Self::EndToEnd => end_to_end::round(bench).await,
            Self::Latency => latency::round(bench).await,
            Self::Backlog => backlog::round(bench).await,
            Self::Retry => retry::round(bench).await,
            Self::Wheel => wheel::round(bench).await,
            Self::Replay => replay::round(bench).await,
            Self::Projector => projector::round(bench).await,
            Self::Growth => growth::round(bench).await,
            Self::Start => start::round(bench).await,
        }
    }
}

/// How much is measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Size {
    /// Rounds of each scenario.
    pub rounds: u32,
    /// Requests of intake and of the limits.
    pub requests: u64,
    /// Events of end to end.
    pub events: u64,
    /// Events before a measurement, so that connections, caches and compilers are warm.
    pub warm_up: u64,
    /// How long latency is measured, in seconds.
    pub latency_s: f64,
    /// Events that wait while critical ones pass them.
    pub backlog: u64,
    /// Events that fail once.
    pub failing: u64,
    /// Events that wait for their time.
    pub scheduled: u64,
    /// How far ahead that lies at most.
    pub ahead: Duration,
    /// Events that are due in the same second.
    pub at_once: u64,
    /// Dead letters.
    pub letters: u64,
    /// Amounts of work that are compared.
    pub growth: [u64; 3],
    /// How long an idle process is watched.
    pub idle: Duration,
    /// When one measurement is given up.
    pub limit: Duration,
}

impl Size {
    /// Some minutes for each scenario.
    pub const FULL: Self = Self {
        rounds: 5,
        requests: 100_000,
        events: 100_000,
        warm_up: 10_000,
        latency_s: 30.0,
        backlog: 1_000_000,
        failing: 10_000,
        scheduled: 1_000_000,
        ahead: Duration::from_secs(600),
        at_once: 100_000,
        letters: 100_000,
        growth: [10_000, 100_000, 1_000_000],
        idle: Duration::from_secs(15),
        limit: Duration::from_secs(240),
    };
    /// A minute or so for each scenario.
    pub const QUICK: Self = Self {
        rounds: 3,
        requests: 30_000,
        events: 20_000,
        warm_up: 3_000,
        latency_s: 6.0,
        backlog: 50_000,
        failing: 2_000,
        scheduled: 30_000,
        ahead: Duration::from_secs(30),
        at_once: 10_000,
        letters: 10_000,
        growth: [3_000, 10_000, 30_000],
        idle: Duration::from_secs(5),
        limit: Duration::from_secs(90),
    };
    /// For a test that it works at all.
    pub const TINY: Self = Self {
        rounds: 1,
        requests: 200,
        events: 100,
        warm_up: 20,
        latency_s: 0.2,
        backlog: 50,
        failing: 20,
        scheduled: 20,
        ahead: Duration::from_secs(1),
        at_once: 20,
        letters: 20,
        growth: [20, 40, 60],
        idle: Duration::from_millis(100),
        limit: Duration::from_secs(60),
    };
}

/// A run.
#[derive(Debug)]
pub struct Bench {
    /// How much.
    pub size: Size,
    /// Who.
    pub contenders: Vec<Contender>,
    /// On what.
    pub backends: Vec<Backend>,
    /// Where webhooks end.
    pub sink: Sink,
    /// What was measured.
    pub figures: Figures,
    /// The bench's own program, which is also the bare server.
    pub program: PathBuf,
    servers: Option<Servers>,
    topic: Option<Topic>,
    numbers: u64,
    systems: u32,
}

impl Bench {
    /// Starts what all scenarios need.
    ///
    /// # Errors
    /// When a server does not start.
    pub async fn start(
        size: Size,
        contenders: Vec<Contender>,
        backends: Vec<Backend>,
        program: PathBuf,
    ) -> Result<Self, Trouble> {
        let (mut servers, mut topic) = (None, None);
        if backends.contains(&Backend::Kafka) {
            let kafka = KafkaServer::start_as_shipped().await?;
            topic = Some(Topic::create(kafka.bootstrap(), "bare").await?);
            servers = Some(Servers { kafka });
        }
        Ok(Self {
            size,
            contenders,
            backends,
            sink: Sink::start().await?,
            figures: Figures::default(),
            program,
            servers,
            topic,
            numbers: 1,
            systems: 0,
        })
    }

    /// The topic of the bare producer; with Kafka only.
    pub fn topic(&self) -> Option<Topic> {
        self.topic.clone()
    }

    /// Numbers for so many events, which no others have; the first of them.
    pub const fn numbers(&mut self, count: u64) -> u64 {
        let first = self.numbers;
        self.numbers += count;
        first
    }

    /// Everyone on everything, in this order.
    pub fn entries(&self) -> Vec<(Backend, Contender)> {
        let of = |backend: &Backend| {
            let backend = *backend;
            self.contenders
                .iter()
                .map(move |contender| (backend, contender.clone()))
        };
        self.backends.iter().flat_map(of).collect()
    }

    /// Starts a system of its own.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn system(
        &mut self,
        backend: Backend,
        contender: &Contender,
        services: Services,
        calls: Calls,
    ) -> Result<System, Trouble> {
        self.systems += 1;
        let plan = Plan {
            contender,
            backend,
            servers: self.servers.as_ref().filter(|_| backend == Backend::Kafka),
            prefix: format!("bench-{}", self.systems),
            services,
            calls,
            settings: Vec::new(),
        };
        plan.start().await
    }

    /// Notes why something could not be measured, and goes on.
    pub fn note(&mut self, scenario: Scenario, backend: Backend, contender: &Contender, trouble: &Trouble) {
        let said = format!("{}, {backend}, {}: {trouble}", scenario.name(), contender.label);
        eprintln!("{said}");
        self.figures.troubles.push(said);
    }
}

/// What a measurement of a system cost, apart for everybody who took part.
#[derive(Debug)]
pub struct Cost {
    pids: Vec<u32>,
    servers: Vec<u32>,
    own: Moment,
    others: Moment,
    sink: Duration,
    begun: std::time::Instant,
}

impl Cost {
    /// From now on.
    pub fn begin(system: &System, sink: &Sink) -> Self {
        let (pids, servers) = (system.pids(), system.server_pids());
        Self {
            own: Moment::now(&pids),
            others: Moment::now(&servers),
            sink: sink.time(),
            begun: std::time::Instant::now(),
            pids,
            servers,
        }
    }

    /// Until now.
    pub fn end(self, sink: &Sink) -> Costs {
        let own = self.own.until_now(&self.pids);
        Costs {
            own_s: own.own_s,
            machine_s: own.machine_s,
            servers_s: (!self.servers.is_empty()).then(|| self.others.until_now(&self.servers).own_s),
            sink_s: (sink.time() - self.sink).as_secs_f64(),
            elapsed_s: self.begun.elapsed().as_secs_f64(),
        }
    }
}

/// Processor seconds of everybody.
#[derive(Debug, Clone, Copy)]
pub struct Costs {
    own_s: f64,
    machine_s: f64,
    servers_s: Option<f64>,
    sink_s: f64,
    elapsed_s: f64,
}

impl Costs {
    /// Of Posthaste, for each 100,000 of so many events.
    pub fn own_per_100k(&self, events: u64) -> f64 {
        self.own_s * 100_000.0 / events.max(1) as f64
    }

    /// Notes them for each 100,000 of these events.
    pub fn place(&self, place: &mut Place<'_>, events: u64, generator: Duration) {
        let per = 100_000.0 / events.max(1) as f64;
        let unit = "core-s/100k";
        place.add("processor time", unit, Better::Lower, self.own_per_100k(events));
        if let Some(servers) = self.servers_s {
            place.add(
                "processor time of Kafka and store",
                unit,
                Better::Neither,
                servers * per,
            );
        }
        let load = generator.as_secs_f64() + self.sink_s;
        place.add(
            "processor time of load and sink",
            unit,
            Better::Neither,
            load * per,
        );
        let others = self.machine_s - self.own_s - self.servers_s.unwrap_or(0.0) - load;
        place.add(
            "others on the machine",
            "cores",
            Better::Neither,
            others.max(0.0) / self.elapsed_s,
        );
    }
}

/// Where the program is that is measured unless something else is said: beside this one.
///
/// # Errors
/// When it is not there.
pub fn beside_this() -> Result<PathBuf, Trouble> {
    let this = std::env::current_exe().map_err(Trouble::io("find this program"))?;
    let folder = this.parent().map(PathBuf::from).unwrap_or_default();
    // Tests are one folder deeper.
    [folder.join("posthaste"), folder.join("../posthaste")]
        .into_iter()
        .find(|path| path.is_file())
        .ok_or_else(|| Trouble::said("there is no posthaste beside this program; `bench/run` builds it"))
}
