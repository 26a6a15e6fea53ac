//! A Posthaste that is measured: release processes of their own, as they ship, on either backend.

use std::{
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use posthaste_testkit::{KafkaServer, MongoServer, MongoStorage, Port, Process};
use serde_json::Value as Json;

use crate::{trouble::Trouble, usage};

/// Longest start.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// Longest wait for what became of an event.
const STATUS_LIMIT: Duration = Duration::from_secs(10);
/// How often a document is looked for.
const LOOK: Duration = Duration::from_millis(5);
/// A partition's id begins with its topic's, and names the table of its records; see `workspace/broker/src/embedded/file.rs`.
const PARTITIONS: &str =
    "SELECT name, p.id FROM topic t JOIN partition p ON t.id = p.id >> 10 WHERE name NOT LIKE '%.keys'";
/// The sandbox's own secret: any will do.
const SECRET: &str = "whsec_cG9zdGhhc3RlIHNhbmRib3ggc2VjcmV0IG9mIDMyIGI=";

/// A program that is measured, and what it is called.
#[derive(Debug, Clone)]
pub struct Contender {
    /// Such as `posthaste`, or `old` and `new`.
    pub label: String,
    /// The executable.
    pub binary: PathBuf,
}

/// What a system stands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Backend {
    /// One process, SQLite files.
    Embedded,
    /// A process for each service, Kafka and the MongoDB stand-in.
    Kafka,
}

impl Backend {
    /// As figures call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Embedded => "embedded",
            Self::Kafka => "kafka",
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Which services run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Services {
    /// Every one.
    All,
    /// Every one, with so many dispatchers of the default lane.
    Dispatchers(usize),
    /// Intake alone: what it takes stays where it is.
    Intake,
}

/// Where calls to webhooks go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Calls {
    /// To the sandbox inside the system, as it ships.
    Sandbox,
    /// To the addresses in the events.
    Out,
}

/// The servers under the Kafka backend, started when first needed.
#[derive(Debug)]
pub struct Servers {
    /// The broker.
    pub kafka: KafkaServer,
}

/// One service.
#[derive(Debug)]
struct Service {
    name: String,
    process: Process,
    port: Port,
    arguments: Vec<String>,
    settings: Vec<(String, String)>,
}

/// A running system. Killed on drop.
#[derive(Debug)]
pub struct System {
    binary: PathBuf,
    services: Vec<Service>,
    store: Option<MongoServer>,
    kafka_pid: Option<u32>,
    started: Duration,
    http: reqwest::Client,
}

/// What to start.
#[derive(Debug)]
pub struct Plan<'a> {
    /// Which program.
    pub contender: &'a Contender,
    /// On what.
    pub backend: Backend,
    /// The servers; with Kafka only.
    pub servers: Option<&'a Servers>,
    /// Prefix of topics.
    pub prefix: String,
    /// Which services.
    pub services: Services,
    /// Where webhooks go.
    pub calls: Calls,
    /// Further settings, as environment variables.
    pub settings: Vec<(String, String)>,
}

impl Plan<'_> {
    /// Starts it and waits until all is ready.
    ///
    /// # Errors
    /// When something does not start.
    pub async fn start(self) -> Result<System, Trouble> {
        let (common, settings, store) = self.place().await?;
        let mut system = System {
            binary: self.contender.binary.clone(),
            services: Vec::new(),
            store,
            kafka_pid: self.servers.and_then(|servers| servers.kafka.pid()),
            started: Duration::ZERO,
            http: reqwest::Client::new(),
        };
        if self.backend == Backend::Kafka {
            self.make_topics(&common, &settings).await?;
        }
        let mut settings = settings;
        if self.backend == Backend::Kafka && self.services != Services::Intake {
            let mut sandbox = self.launch("sandbox".to_owned(), &["sandbox".to_owned()], &settings)?;
            sandbox.ready().await?;
            let url = format!("http://{}/sandbox", sandbox.port.address());
            settings.push(("POSTHASTE_PROVIDER__SANDBOX_URL".to_owned(), url));
            system.services.push(sandbox);
        }
        let begun = Instant::now();
        for (name, mut arguments) in self.processes() {
            arguments.extend(common.iter().cloned());
            system.services.push(self.launch(name, &arguments, &settings)?);
        }
        for service in &mut system.services {
            service.ready().await?;
        }
        system.started = begun.elapsed();
        Ok(system)
    }

    /// Options, environment, and the store of this system.
    async fn place(&self) -> Result<(Vec<String>, Vec<(String, String)>, Option<MongoServer>), Trouble> {
        let mut settings = self.settings.clone();
        if self.calls == Calls::Out {
            settings.push((
                "POSTHASTE_PROVIDERS__WEBHOOK__SECRET".to_owned(),
                SECRET.to_owned(),
            ));
            let cidrs = r#"["127.0.0.0/8"]"#.to_owned();
            settings.push(("POSTHASTE_PROVIDER__ALLOWED_CIDRS".to_owned(), cidrs));
        }
        let mut common = Vec::new();
        let mut store = None;
        if let Some(servers) = self.servers {
            // Its memory is bounded: each system gets a fresh one.
            let mongodb = MongoServer::start_large(MongoStorage::Memory).await?;
            common = ["--kafka", &servers.kafka.bootstrap(), "--mongodb", &mongodb.uri()]
                .map(str::to_owned)
                .to_vec();
            settings.push(("POSTHASTE_BROKER__PREFIX".to_owned(), self.prefix.clone()));
            store = Some(mongodb);
        }
        Ok((common, settings, store))
    }

    async fn make_topics(&self, common: &[String], settings: &[(String, String)]) -> Result<(), Trouble> {
        let mut command = command(&self.contender.binary, settings);
        command.args(["topics", "create"]).args(common);
        let output = tokio::task::spawn_blocking(move || command.output())
            .await
            .map_err(Trouble::doing("make topics"))?
            .map_err(Trouble::io("run `posthaste topics create`"))?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        Err(Trouble::said(format!("topics were not made: {said}")))
    }

    fn processes(&self) -> Vec<(String, Vec<String>)> {
        let service = |name: &str, arguments: &[&str]| {
            (
                name.to_owned(),
                arguments.iter().map(|&part| part.to_owned()).collect(),
            )
        };
        let lane = |lane| ["dispatcher", "--lane", lane];
        match (self.services, self.backend) {
            (Services::Intake, Backend::Kafka) => vec![service("ingestion", &["ingestion"])],
            // The embedded log belongs to one process.
            (Services::Intake, Backend::Embedded) => {
                let others = "dispatcher,retry,replay,status,sandbox";
                vec![service("up", &["up", "--without", others])]
            }
            (_, Backend::Embedded) => vec![service("up", &["up"])],
            (services, Backend::Kafka) => {
                let mut all = vec![
                    service("ingestion", &["ingestion"]),
                    service("critical", &lane("critical")),
                    service("retry-lane", &lane("retry")),
                    service("retry", &["retry"]),
                    service("replay", &["replay"]),
                    service("status", &["status"]),
                ];
                let dispatchers = match services {
                    Services::Dispatchers(count) => count,
                    Services::All | Services::Intake => 1,
                };
                all.extend(
                    (1..=dispatchers).map(|number| service(&format!("default-{number}"), &lane("default"))),
                );
                all
            }
        }
    }

    fn launch(
        &self,
        name: String,
        arguments: &[String],
        settings: &[(String, String)],
    ) -> Result<Service, Trouble> {
        let mut service = Service {
            process: Process::new(format!("bench-{name}"))?,
            port: Port::reserve()?,
            name,
            arguments: arguments.to_vec(),
            settings: settings.to_vec(),
        };
        service.launch(&self.contender.binary)?;
        Ok(service)
    }
}

/// The program, with these settings and none of the caller's environment.
fn command(binary: &Path, settings: &[(String, String)]) -> Command {
    let mut command = Command::new(binary);
    for (variable, _) in std::env::vars_os() {
        if variable.to_string_lossy().starts_with("POSTHASTE_") {
            command.env_remove(variable);
        }
    }
    command.envs(settings.iter().map(|(key, value)| (key, value)));
    command
}

impl Service {
    /// Starts it (again), with the port and the data that it has.
    fn launch(&mut self, binary: &Path) -> Result<(), Trouble> {
        let mut command = command(binary, &self.settings);
        command
            .args(&self.arguments)
            .args(["--listen", &self.port.address()])
            .arg("--data-dir")
            .arg(self.data())
            .env("POSTHASTE_SERVICE__INSTANCE", &self.name);
        self.process.spawn(&mut command, "build it with `bench/run`")?;
        Ok(())
    }

    fn data(&self) -> PathBuf {
        self.process.folder().join("data")
    }

    async fn ready(&mut self) -> Result<(), Trouble> {
        let begun = Instant::now();
        let http = reqwest::Client::new();
        let url = format!("http://{}/ready", self.port.address());
        loop {
            let answer = http.get(&url).timeout(Duration::from_secs(2)).send().await;
            if answer.is_ok_and(|answer| answer.status().is_success()) {
                return Ok(());
            }
            if self.process.try_wait().is_some() || begun.elapsed() > READY_LIMIT {
                let log = self.process.log();
                let lines: Vec<&str> = log.lines().collect();
                let tail = lines[lines.len().saturating_sub(20)..].join("\n");
                return Err(Trouble::said(format!("{} did not get ready:\n{tail}", self.name)));
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    fn address(&self) -> Result<SocketAddr, Trouble> {
        let address = self.port.address();
        address
            .parse()
            .map_err(Trouble::doing(format!("read the address {address}")))
    }
}

impl System {
    /// From the first start of a process until every one was ready.
    pub const fn started(&self) -> Duration {
        self.started
    }

    /// Where intake is.
    ///
    /// # Errors
    /// Never in practice: the port is a number.
    pub fn intake(&self) -> Result<SocketAddr, Trouble> {
        self.one_of(&["ingestion", "up"])?.address()
    }

    /// Where a service is: `status`, `replay`, `sandbox`, ...
    ///
    /// # Errors
    /// When it does not run.
    pub fn url(&self, name: &str) -> Result<String, Trouble> {
        Ok(format!("http://{}", self.one_of(&[name, "up"])?.port.address()))
    }

    fn one_of(&self, names: &[&str]) -> Result<&Service, Trouble> {
        self.services
            .iter()
            .find(|service| names.contains(&service.name.as_str()))
            .ok_or_else(|| Trouble::said(format!("no service {names:?} runs")))
    }

    /// Kills the one process, makes it forget the status that it has written, and starts it again; embedded only.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn forget_status(&mut self) -> Result<(), Trouble> {
        for service in self.services.iter_mut().filter(|service| service.name == "up") {
            service.process.kill();
            for file in ["status.db", "status.db-wal", "status.db-shm"] {
                // Not every one is there.
                let _ = std::fs::remove_file(service.data().join(file));
            }
        }
        self.launch("up").await
    }

    /// Kills a service.
    pub fn kill(&mut self, name: &str) {
        for service in self.services.iter_mut().filter(|service| service.name == name) {
            service.process.kill();
        }
    }

    /// Starts a service that was killed, and waits until it is ready.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn launch(&mut self, name: &str) -> Result<(), Trouble> {
        for service in self.services.iter_mut().filter(|service| service.name == name) {
            service.launch(&self.binary)?;
            service.ready().await?;
        }
        Ok(())
    }

    /// Records of events in the embedded log, by topic; nothing on Kafka. Those about ordering keys are not among them: each lane
    /// writes some for its partitions, whatever comes. Kills the process.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn records(&mut self) -> Result<Vec<(String, u64)>, Trouble> {
        self.kill("up");
        let Some(service) = self.services.iter().find(|service| service.name == "up") else {
            return Ok(Vec::new());
        };
        let file = service.data().join("log.db");
        let read = || -> rusqlite::Result<Vec<(String, u64)>> {
            let log = rusqlite::Connection::open(&file)?;
            let mut query = log.prepare(PARTITIONS)?;
            let partitions: Vec<(String, i64)> = query
                .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect::<rusqlite::Result<_>>()?;
            let mut records = BTreeMap::<String, u64>::new();
            for (topic, id) in partitions {
                let count = format!("SELECT count(*) FROM record_{id}");
                let count: i64 = log.query_row(&count, [], |row| row.get(0))?;
                *records.entry(topic).or_default() += count.unsigned_abs();
            }
            records.retain(|_, count| *count > 0);
            Ok(records.into_iter().collect())
        };
        read().map_err(Trouble::doing("read the log"))
    }

    /// The processes of Posthaste.
    pub fn pids(&self) -> Vec<u32> {
        self.services
            .iter()
            .filter_map(|service| service.process.pid())
            .collect()
    }

    /// The broker's and the store's processes, if there are any.
    pub fn server_pids(&self) -> Vec<u32> {
        let store = self.store.as_ref().and_then(MongoServer::pid);
        self.kafka_pid.into_iter().chain(store).collect()
    }

    /// What its processes hold in memory.
    pub fn memory(&self) -> usage::Memory {
        usage::memory(&self.pids())
    }

    /// Asks a service to do something.
    ///
    /// # Errors
    /// When it does not answer with JSON and 2xx.
    pub async fn post(&self, service: &str, path: &str, body: &Json) -> Result<Json, Trouble> {
        let doing = || format!("post to {path} of {service}");
        let request = self.http.post(format!("{}{path}", self.url(service)?)).json(body);
        let answer = request.timeout(STATUS_LIMIT).send().await;
        let answer = answer.map_err(Trouble::doing(doing()))?;
        let status = answer.status();
        let text = answer.text().await.map_err(Trouble::doing(doing()))?;
        if !status.is_success() {
            return Err(Trouble::said(format!("{}: {status}: {text}", doing())));
        }
        serde_json::from_str(&text).map_err(Trouble::doing(doing()))
    }

    /// Asks a service.
    ///
    /// # Errors
    /// When it does not answer with JSON and 2xx.
    pub async fn get(&self, service: &str, path: &str) -> Result<Json, Trouble> {
        let url = format!("{}{path}", self.url(service)?);
        let doing = || format!("get {path} of {service}");
        let answer = self.http.get(&url).timeout(STATUS_LIMIT).send().await;
        let answer = answer.map_err(Trouble::doing(doing()))?;
        let status = answer.status();
        let body = answer.bytes().await.map_err(Trouble::doing(doing()))?;
        if !status.is_success() {
            return Err(Trouble::said(format!("{}: {status}", doing())));
        }
        serde_json::from_slice(&body).map_err(Trouble::doing(doing()))
    }

    /// Waits until each of these events has this status.
    ///
    /// # Errors
    /// When one has not after `limit`.
    pub async fn all_have(&self, ids: &[String], status: &str, limit: Duration) -> Result<(), Trouble> {
        let begun = Instant::now();
        for id in ids {
            loop {
                let event = self.get("status", &format!("/events/{id}")).await;
                if event
                    .as_ref()
                    .is_ok_and(|event| event["state"]["status"] == status)
                {
                    break;
                }
                if begun.elapsed() > limit {
                    let state = event.map(|event| event["state"].clone());
                    return Err(Trouble::said(format!(
                        "{id} is not {status} after {limit:?}: {state:?}"
                    )));
                }
                tokio::time::sleep(LOOK).await;
            }
        }
        Ok(())
    }
}
