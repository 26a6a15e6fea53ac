//! What is measured: one file each. A round of a scenario measures its limits and then every contender on every backend, so
//! that what else the machine does meanwhile falls on all of them.

mod end_to_end;
mod intake;
mod latency;
mod start;

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
            let kafka = KafkaServer::start().await?;
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

    /// Until now, for each 100,000 of these events.
    pub fn end(&self, place: &mut Place<'_>, events: u64, generator: Duration, sink: &Sink) {
        let elapsed = self.begun.elapsed().as_secs_f64();
        let (own, servers) = (
            self.own.until_now(&self.pids),
            self.others.until_now(&self.servers),
        );
        let sink = (sink.time() - self.sink).as_secs_f64();
        let per = 100_000.0 / events.max(1) as f64;
        let unit = "core-s/100k";
        place.add("processor time", unit, Better::Lower, own.own_s * per);
        if !self.servers.is_empty() {
            place.add(
                "processor time of Kafka and store",
                unit,
                Better::Neither,
                servers.own_s * per,
            );
        }
        let load = generator.as_secs_f64() + sink;
        place.add(
            "processor time of load and sink",
            unit,
            Better::Neither,
            load * per,
        );
        let others = (own.machine_s - own.own_s - servers.own_s - load).max(0.0) / elapsed;
        place.add("others on the machine", "cores", Better::Neither, others);
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
