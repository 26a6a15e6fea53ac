//! A running Posthaste: its processes, and what they need.

mod client;
mod sandbox;
mod service;

use std::{collections::BTreeMap, sync::LazyLock};

use posthaste_testkit::{KafkaServer, MongoServer, MongoStorage};
use tokio::sync::{Mutex, OnceCell};
use uuid::Uuid;

pub use client::{Answer, Client, PATIENCE};
pub use sandbox::{Faults, Sandbox};
pub use service::{Service, posthaste, run, run_command, run_to_end};

/// What the system under test stands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// One process, SQLite files.
    Embedded,
    /// A process per service, Kafka and MongoDB.
    Kafka,
}

/// The services that run as processes of their own on Kafka, and how often.
const ON_KAFKA: &[(&str, &[&str])] = &[
    ("ingestion", &["ingestion"]),
    ("critical", &["dispatcher", "--lane", "critical"]),
    ("default", &DEFAULT_LANE),
    ("retry-lane", &["dispatcher", "--lane", "retry"]),
    ("retry", &["retry"]),
    ("replay", &["replay"]),
    ("status", &["status"]),
];

const DEFAULT_LANE: [&str; 3] = ["dispatcher", "--lane", "default"];

static EMBEDDED: OnceCell<System> = OnceCell::const_new();
static ON_SHARED_KAFKA: OnceCell<System> = OnceCell::const_new();
static SHARED_MONGO: OnceCell<MongoServer> = OnceCell::const_new();

/// Tells the runs apart that share a broker.
static RUN: LazyLock<String> = LazyLock::new(|| Uuid::now_v7().simple().to_string()[20..].to_owned());

/// Where a system's records and documents are.
#[derive(Debug, Clone)]
pub struct Place {
    /// The broker.
    pub bootstrap: String,
    /// The store's connection string.
    pub mongodb: String,
    /// Prefix of the topics, and name of the database.
    pub prefix: String,
}

impl Place {
    /// Of its own, on the shared servers.
    pub async fn new() -> Self {
        Self {
            bootstrap: KafkaServer::shared().await.unwrap().bootstrap(),
            mongodb: shared_mongodb().await,
            prefix: format!("t{}{}", *RUN, &Uuid::new_v4().simple().to_string()[..6]),
        }
    }
}

/// What to start.
#[derive(Debug, Clone)]
pub struct Plan {
    backend: Backend,
    place: Option<Place>,
    dispatchers: usize,
    settings: Vec<(String, String)>,
    /// A program and its arguments that starts each service in its turn.
    under: Vec<String>,
}

impl Plan {
    /// The usual: one of each service, on the shared servers, with topics and a database of its own.
    pub async fn new(backend: Backend) -> Self {
        let place = match backend {
            Backend::Embedded => None,
            Backend::Kafka => Some(Place::new().await),
        };
        Self {
            backend,
            place,
            dispatchers: 1,
            settings: Vec::new(),
            under: Vec::new(),
        }
    }

    /// On this broker instead of the shared one.
    pub fn broker(mut self, kafka: &KafkaServer) -> Self {
        self.place.as_mut().unwrap().bootstrap = kafka.bootstrap();
        self
    }

    /// On this store instead of the shared one.
    pub fn store(self, mongo: &MongoServer) -> Self {
        self.store_at(mongo.uri())
    }

    /// On the store with this connection string.
    pub fn store_at(mut self, uri: String) -> Self {
        self.place.as_mut().unwrap().mongodb = uri;
        self
    }

    /// So many dispatchers of the default lane.
    pub fn dispatchers(mut self, count: usize) -> Self {
        self.dispatchers = count;
        self
    }

    /// With this environment variable for every service.
    pub fn setting(mut self, variable: &str, value: &str) -> Self {
        self.settings.push((variable.to_owned(), value.to_owned()));
        self
    }

    /// With every service started by this program, which is given the service's command as its last arguments.
    pub fn under(mut self, command: &[&str]) -> Self {
        self.under = command.iter().map(|&part| part.to_owned()).collect();
        self
    }

    /// Starts it and waits until every process is ready.
    pub async fn start(self) -> System {
        System::start(self).await
    }
}

async fn shared_mongodb() -> String {
    SHARED_MONGO
        .get_or_init(async || MongoServer::start(MongoStorage::Memory).await.unwrap())
        .await
        .uri()
}

/// A running system. Its processes are killed on drop.
pub struct System {
    services: BTreeMap<String, Service>,
    sandbox: Service,
    /// What every process is started with: options, and environment.
    common: Vec<String>,
    settings: Vec<(String, String)>,
    faults: Mutex<()>,
    backend: Backend,
    place: Option<Place>,
}

impl System {
    /// The system that all tests of this process share which break nothing.
    pub async fn shared(backend: Backend) -> &'static Self {
        let cell = match backend {
            Backend::Embedded => &EMBEDDED,
            Backend::Kafka => &ON_SHARED_KAFKA,
        };
        cell.get_or_init(async || Plan::new(backend).await.start().await)
            .await
    }

    async fn start(plan: Plan) -> Self {
        // The sandbox stands outside of what gets killed: it is the witness of what was sent.
        let mut sandbox = Service::new("sandbox", vec!["sandbox".to_owned()], Vec::new());
        sandbox.launch();
        sandbox.ready().await;
        let mut settings = sandbox::settings(&sandbox);
        let mut common = Vec::new();
        if let Some(place) = &plan.place {
            common.extend(["--kafka", &place.bootstrap, "--mongodb", &place.mongodb].map(str::to_owned));
            settings.push(("POSTHASTE_BROKER__PREFIX".to_owned(), place.prefix.clone()));
            // Few, since all tests share a small broker.
            settings.push(("POSTHASTE_BROKER__PARTITIONS".to_owned(), "4".to_owned()));
            settings.push((
                "POSTHASTE_STORE__MONGODB__DATABASE".to_owned(),
                place.prefix.clone(),
            ));
        }
        settings.extend(plan.settings.iter().cloned());
        if plan.place.is_some() {
            service::run_to_end(&["topics", "create"], &common, &settings).await;
        }
        let mut services = BTreeMap::new();
        for (name, mut arguments) in processes(&plan) {
            arguments.extend(common.iter().cloned());
            let mut service = Service::new(&name, arguments, settings.clone()).under(&plan.under);
            service.launch();
            services.insert(name, service);
        }
        for service in services.values_mut() {
            service.ready().await;
        }
        Self {
            services,
            sandbox,
            common,
            settings,
            faults: Mutex::new(()),
            backend: plan.backend,
            place: plan.place,
        }
    }

    /// A client with a tenant of its own.
    pub fn client(&self) -> Client {
        let address = |name: &str| match self.backend {
            Backend::Embedded => self.url("up"),
            Backend::Kafka => self.url(name),
        };
        Client::new(address("ingestion"), address("status"), address("replay"))
    }

    /// The stand-in for the providers.
    pub fn sandbox(&self) -> Sandbox {
        Sandbox::new(self.sandbox.url())
    }

    /// Where that is.
    pub fn sandbox_url(&self) -> String {
        self.sandbox.url()
    }

    /// Makes the sandbox fail, as soon as no other test does.
    pub async fn faults(&self) -> Faults<'_> {
        self.sandbox().faults(self.faults.lock().await)
    }

    /// The processes that may be killed, by name.
    pub fn names(&self) -> Vec<String> {
        self.services.keys().cloned().collect()
    }

    /// One of the processes.
    pub fn service(&mut self, name: &str) -> &mut Service {
        self.services.get_mut(name).unwrap()
    }

    /// Where one of the processes serves HTTP.
    pub fn url(&self, name: &str) -> String {
        self.services[name].url()
    }

    /// Where its records and documents are; on Kafka only.
    pub fn place(&self) -> &Place {
        self.place.as_ref().unwrap()
    }

    /// What it stands on.
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// The data folder of one of the processes.
    pub fn data(&self, name: &str) -> std::path::PathBuf {
        self.services[name].data()
    }

    /// Full name of a topic.
    pub fn topic(&self, suffix: &str) -> String {
        format!("{}.{suffix}", self.place().prefix)
    }

    /// Starts further dispatchers of the default lane; returns their names. Does not wait for them.
    pub fn add_dispatchers(&mut self, count: usize) -> Vec<String> {
        let first = self.services.len();
        let names: Vec<String> = (first..first + count)
            .map(|number| format!("added-{number}"))
            .collect();
        for name in &names {
            let mut arguments = DEFAULT_LANE.map(str::to_owned).to_vec();
            arguments.extend(self.common.iter().cloned());
            let mut service = Service::new(name, arguments, self.settings.clone());
            service.launch();
            self.services.insert(name.clone(), service);
        }
        names
    }

    /// Stops every process by SIGTERM, each of which must end well.
    pub async fn stop_all(&mut self) {
        for service in self.services.values_mut() {
            service.stop().await;
        }
    }

    /// SIGKILLs every process at once.
    pub fn kill_all(&mut self) {
        for service in self.services.values_mut() {
            service.kill();
        }
    }

    /// SIGKILLs every process at once and starts them all again.
    pub async fn restart_all(&mut self) {
        self.kill_all();
        for service in self.services.values_mut() {
            service.launch();
        }
        for service in self.services.values_mut() {
            service.ready().await;
        }
    }
}

fn processes(plan: &Plan) -> Vec<(String, Vec<String>)> {
    let owned = |arguments: &[&str]| arguments.iter().map(|&part| part.to_owned()).collect();
    match plan.backend {
        Backend::Embedded => vec![("up".to_owned(), owned(&["up"]))],
        Backend::Kafka => {
            let mut processes: Vec<(String, Vec<String>)> = ON_KAFKA
                .iter()
                .map(|(name, arguments)| ((*name).to_owned(), owned(arguments)))
                .collect();
            for further in 2..=plan.dispatchers {
                processes.push((format!("default-{further}"), owned(&DEFAULT_LANE)));
            }
            processes
        }
    }
}
