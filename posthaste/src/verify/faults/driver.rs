//! Breaks what the schedule says, when it says so, and makes it whole again.

use std::{
    process::Stdio,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use posthaste_event::clock;
use posthaste_verify::{
    Fault, FaultKind,
    proxy::{Link, Passage},
    schedule::{Breakage, Planned, Way},
};
use tokio::{
    process::Command,
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{
    super::witness::lock,
    fleet::{Member, READY_LIMIT},
};
use crate::{cli::verify::Breaking, failure::Failure};

/// How long a command that stops or starts a server may take.
const COMMAND_LIMIT: Duration = Duration::from_secs(120);
/// How often processes are looked after that ended by themselves.
const LOOK: Duration = Duration::from_millis(500);

/// A server that is stopped and started by commands.
pub struct Server {
    name: &'static str,
    stop: String,
    start: String,
    is_down: AtomicBool,
}

impl Server {
    fn of(name: &'static str, stop: &Option<String>, start: &Option<String>) -> Option<Self> {
        Some(Self {
            name,
            stop: stop.clone()?,
            start: start.clone()?,
            is_down: AtomicBool::new(false),
        })
    }

    async fn go_down(&self) -> Result<(), Failure> {
        self.is_down.store(true, Ordering::Relaxed);
        self.run(&self.stop).await
    }

    async fn come_up(&self) -> Result<(), Failure> {
        if self.is_down.swap(false, Ordering::Relaxed) {
            self.run(&self.start).await?;
        }
        Ok(())
    }

    async fn run(&self, command: &str) -> Result<(), Failure> {
        let wrong = |why: String| Failure::Runtime(format!("{}: {command:?} {why}", self.name));
        // Its output goes nowhere: what it leaves running in the background would hold a pipe open.
        let status = Command::new("sh")
            .args(["-c", command])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        let status = timeout(COMMAND_LIMIT, status)
            .await
            .map_err(|_| wrong(format!("took longer than {COMMAND_LIMIT:?}")))?
            .map_err(|error| wrong(format!("cannot be run: {error}")))?;
        if status.success() {
            return Ok(());
        }
        Err(wrong(format!("failed ({status})")))
    }
}

/// Everything that can be broken.
pub struct World {
    /// In the order of the schedule's names.
    pub members: Vec<Arc<Member>>,
    pub links: Vec<(Way, Link)>,
    pub broker: Option<Server>,
    pub store: Option<Server>,
    pub http: reqwest::Client,
    /// What is broken now, in words.
    pub newest: Arc<Mutex<String>>,
    /// What went wrong with the breaking.
    pub problems: Mutex<Vec<String>>,
}

impl World {
    pub fn new(
        members: Vec<Arc<Member>>,
        links: Vec<(Way, Link)>,
        breaking: &Breaking,
        http: reqwest::Client,
    ) -> Self {
        Self {
            members,
            links,
            broker: Server::of("the broker", &breaking.broker_stop, &breaking.broker_start),
            store: Server::of("the store", &breaking.store_stop, &breaking.store_start),
            http,
            newest: Arc::default(),
            problems: Mutex::default(),
        }
    }

    /// Breaks all of it in its time, and makes it whole; what was broken when.
    pub async fn run(self: &Arc<Self>, planned: Vec<Planned>) -> Vec<Fault> {
        let begun = Instant::now();
        let looking = {
            let world = Arc::clone(self);
            tokio::spawn(async move { world.look_after().await })
        };
        let mut under_way = JoinSet::new();
        for planned in planned {
            sleep_until(begun + Duration::from_millis(planned.at_ms)).await;
            *lock(&self.newest) = planned.to_string().trim().to_owned();
            let world = Arc::clone(self);
            under_way.spawn(async move { world.inflict(&planned).await });
        }
        let faults = under_way.join_all().await;
        self.heal().await;
        looking.abort();
        faults
    }

    async fn inflict(&self, planned: &Planned) -> Fault {
        let from = clock::now();
        let lasting = Duration::from_millis(planned.for_ms);
        let outcome = match &planned.breakage {
            Breakage::Kill(name) => self.kill(&self.named(name), lasting).await,
            Breakage::KillAll => self.kill(&self.members, lasting).await,
            Breakage::Stop(name) => self.stop(&self.named(name), lasting).await,
            Breakage::Hang(name) => {
                for member in self.named(name) {
                    member.hang().await;
                    sleep(lasting).await;
                    member.go_on().await;
                }
                Ok(FaultKind::Delays)
            }
            Breakage::StopBroker => down(self.broker.as_ref(), lasting, FaultKind::Forgets).await,
            // Nothing that an event waits for.
            Breakage::StopStore => down(self.store.as_ref(), lasting, FaultKind::Harmless).await,
            Breakage::Cut(way) => self.passage(*way, Passage::Cut, lasting).await,
            Breakage::Stall(way) => self.passage(*way, Passage::Stalled, lasting).await,
            Breakage::Slow(way, late_ms) => {
                let late = Duration::from_millis(*late_ms);
                self.passage(*way, Passage::Slow(late), lasting).await
            }
        };
        let kind = outcome.unwrap_or_else(|failure| {
            lock(&self.problems).push(failure.to_string());
            FaultKind::Forgets
        });
        let cuts_sandbox = matches!(
            planned.breakage,
            Breakage::Cut(Way::Sandbox) | Breakage::Stall(Way::Sandbox) | Breakage::Slow(Way::Sandbox, _)
        );
        Fault {
            kind,
            from,
            until: clock::now(),
            cuts_sandbox,
        }
    }

    async fn kill(&self, members: &[Arc<Member>], lasting: Duration) -> Result<FaultKind, Failure> {
        let mut killing = JoinSet::new();
        for member in members {
            let member = Arc::clone(member);
            killing.spawn(async move { member.kill().await });
        }
        killing.join_all().await;
        sleep(lasting).await;
        for member in members {
            member.launch().await?;
        }
        for member in members {
            member.ready(&self.http, READY_LIMIT).await;
        }
        Ok(FaultKind::Forgets)
    }

    async fn stop(&self, members: &[Arc<Member>], lasting: Duration) -> Result<FaultKind, Failure> {
        let mut kind = FaultKind::Harmless;
        for member in members {
            if !member.stop().await {
                lock(&self.problems).push(format!("{} did not end when it was asked to", member.name));
                kind = FaultKind::Forgets;
            }
            sleep(lasting).await;
            member.launch().await?;
        }
        Ok(kind)
    }

    async fn passage(&self, way: Way, passage: Passage, lasting: Duration) -> Result<FaultKind, Failure> {
        let links = || self.links.iter().filter(|(on, _)| *on == way);
        links().for_each(|(_, link)| link.set(passage));
        sleep(lasting).await;
        links().for_each(|(_, link)| link.set(Passage::Open));
        Ok(match (way, passage) {
            (Way::Store, _) => FaultKind::Harmless,
            (_, Passage::Cut | Passage::Open) => FaultKind::Forgets,
            (_, Passage::Slow(_) | Passage::Stalled) => FaultKind::Delays,
        })
    }

    fn named(&self, name: &str) -> Vec<Arc<Member>> {
        let named = self.members.iter().filter(|member| member.name == name);
        named.cloned().collect()
    }

    async fn look_after(&self) {
        loop {
            sleep(LOOK).await;
            for member in &self.members {
                if let Err(failure) = member.look_after().await {
                    lock(&self.problems).push(failure.to_string());
                }
            }
        }
    }

    /// Makes everything whole, whatever was broken.
    pub async fn heal(&self) {
        for (_, link) in &self.links {
            link.set(Passage::Open);
        }
        for server in [&self.broker, &self.store].into_iter().flatten() {
            if let Err(failure) = server.come_up().await {
                lock(&self.problems).push(failure.to_string());
            }
        }
        for member in &self.members {
            member.go_on().await;
            if let Err(failure) = member.launch().await {
                lock(&self.problems).push(failure.to_string());
            }
        }
    }

    /// Starts again what was stopped here but does not belong to the run.
    pub async fn give_back(&self) {
        for server in [&self.broker, &self.store].into_iter().flatten() {
            if let Err(failure) = server.come_up().await {
                eprintln!("{failure}");
            }
        }
    }

    /// What went wrong that no fault explains.
    pub fn surprises(&self) -> Vec<String> {
        let ended = self.members.iter().flat_map(|member| member.surprises());
        lock(&self.problems).iter().cloned().chain(ended).collect()
    }
}

async fn down(server: Option<&Server>, lasting: Duration, kind: FaultKind) -> Result<FaultKind, Failure> {
    if let Some(server) = server {
        server.go_down().await?;
        sleep(lasting).await;
        server.come_up().await?;
    }
    Ok(kind)
}
