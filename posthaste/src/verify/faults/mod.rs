//! `posthaste verify --faults`: a Posthaste of its own, broken on purpose while events go through it.

mod driver;
mod fleet;

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use posthaste_broker::{Broker, Partition};
use posthaste_verify::{
    Mix, Report,
    proxy::Link,
    schedule::{Planned, Targets, Way, schedule},
    topics,
};

use super::{pace, run::Run, target::Target};
use crate::{
    cli::{Common, verify::Verify},
    command::print,
    configuration::Settings,
    failure::Failure,
    run::backends,
};
use driver::World;
use fleet::{Member, READY_LIMIT, Start, Watchdog, free_ports, make_folder};

/// The services that run on Kafka, each a process.
const ON_KAFKA: [(&str, &[&str]); 8] = [
    ("ingestion", &["ingestion"]),
    ("critical", &["dispatcher", "--lane", "critical"]),
    ("default", &["dispatcher", "--lane", "default"]),
    ("default-2", &["dispatcher", "--lane", "default"]),
    ("retry-lane", &["dispatcher", "--lane", "retry"]),
    ("retry", &["retry"]),
    ("replay", &["replay"]),
    ("status", &["status"]),
];

/// What a broker that is made ready may take.
const TOPICS_LIMIT: Duration = Duration::from_secs(120);

/// What is started and broken, before anything is.
pub struct Plan {
    services: Vec<(&'static str, &'static [&'static str])>,
    /// Host and port of MongoDB, if the way to it can go through a proxy.
    store_behind: Option<String>,
    pub planned: Vec<Planned>,
}

impl Plan {
    pub fn new(options: &Verify, settings: &Settings, mix: &Mix) -> Result<Self, Failure> {
        let (on_kafka, on_mongodb) = (backends::has_kafka(settings), backends::has_mongodb(settings));
        if on_kafka && !on_mongodb {
            return Err(Failure::Usage(
                "with --kafka each service is a process of its own, which needs MongoDB; accepted: --mongodb URL too".to_owned(),
            ));
        }
        let breaking = &options.breaking;
        let services = if on_kafka {
            ON_KAFKA.to_vec()
        } else {
            vec![("up", ["up"].as_slice())]
        };
        let store_behind = single_host(&settings.store.mongodb.url.0).map(str::to_owned);
        let mut ways = vec![Way::Sandbox];
        if store_behind.is_some() {
            ways.push(Way::Store);
        }
        if breaking.kafka_behind.is_some() {
            ways.push(Way::Broker);
        }
        let targets = Targets {
            processes: services.iter().map(|(name, _)| (*name).to_owned()).collect(),
            ways,
            broker: breaking.broker_stop.is_some(),
            store: breaking.store_stop.is_some(),
        };
        Ok(Self {
            services,
            store_behind,
            planned: schedule(mix.seed, &targets, pace(options).lasting(), breaking.every),
        })
    }

    /// What would be broken, and when.
    pub fn show(&self, mix: &Mix) -> Result<(), Failure> {
        let lines: String = self
            .planned
            .iter()
            .map(|planned| format!("{planned}\n"))
            .collect();
        print(&format!(
            "{lines}{} faults with --seed {}\n",
            self.planned.len(),
            mix.seed
        ))
    }
}

/// `host:port` of a MongoDB that has one host, is reached without TLS, and does not name a replica set: its driver then goes
/// where it is told, and not where the server says that it is.
fn single_host(url: &str) -> Option<&str> {
    let rest = url.strip_prefix("mongodb://")?;
    let (place, options) = rest.split_once('/').unwrap_or((rest, ""));
    let host = place.rsplit_once('@').map_or(place, |(_, host)| host);
    let is_single = !host.is_empty() && !host.contains(',') && host.contains(':');
    let plain = ["replicaSet=", "tls=true", "ssl=true", "loadBalanced=true"]
        .iter()
        .all(|option| !options.contains(option));
    (is_single && plain).then_some(host)
}

/// The address of MongoDB with another host, to which the driver keeps.
fn through(url: &str, host: &str, link: &str) -> String {
    let moved = url.replacen(host, link, 1);
    let (base, options) = moved.split_once('?').unwrap_or((&moved, ""));
    let base = if base.matches('/').count() == 2 {
        format!("{base}/")
    } else {
        base.to_owned()
    };
    let separator = if options.is_empty() { "" } else { "&" };
    format!("{base}?{options}{separator}directConnection=true")
}

/// A Posthaste that belongs to the run.
struct Own {
    world: Arc<World>,
    sandbox: Arc<Member>,
    target: Target,
    folder: PathBuf,
    _watchdog: Arc<Mutex<Watchdog>>,
}

/// Starts it, breaks it while events go through it, and compares.
pub async fn verify(
    common: &Common,
    options: &Verify,
    mut settings: Settings,
    mix: &Mix,
    plan: Plan,
) -> Result<(Report, Vec<String>), Failure> {
    let stop = posthaste_service::shutdown::on_signals().map_err(Failure::runtime)?;
    let folder = options
        .breaking
        .data_dir
        .clone()
        .unwrap_or_else(|| std::env::temp_dir().join(format!("posthaste-verify-{}", mix.run)));
    make_folder(&folder)?;
    settings.service.instance = format!("verify-{}", mix.run);
    settings.service.data_dir = folder.join("up");
    settings.broker.prefix = mix.run.clone();
    let mut own = None;
    let outcome = tokio::select! {
        outcome = go(common, options, &settings, mix, &plan, folder.clone(), &mut own) => outcome,
        () = stop.cancelled() => Err(Failure::Runtime("interrupted: nothing was compared".to_owned())),
    };
    if let Some(own) = own {
        own.end().await;
    }
    let outcome = outcome?;
    let kept =
        outcome.0.broken().next().is_some() || !outcome.1.is_empty() || options.breaking.data_dir.is_some();
    if !kept {
        // What stays is in the system's folder for such things.
        let _ = std::fs::remove_dir_all(&folder);
    } else if !options.json {
        print(&format!("files and logs: {}\n", folder.display()))?;
    }
    if backends::has_kafka(&settings) && !options.json {
        print(&format!(
            "the topics {run}.* and the database {run} of this run stay\n",
            run = mix.run
        ))?;
    }
    Ok(outcome)
}

async fn go(
    common: &Common,
    options: &Verify,
    settings: &Settings,
    mix: &Mix,
    plan: &Plan,
    folder: PathBuf,
    own: &mut Option<Own>,
) -> Result<(Report, Vec<String>), Failure> {
    let own = own.insert(Own::make(common, options, settings, mix, plan, folder).await?);
    let broker = if backends::has_kafka(settings) {
        Some(topics_on(settings).await?)
    } else {
        None
    };
    own.start().await?;
    let ends = match &broker {
        Some(broker) => Some(topics::ends(broker.as_ref()).await.map_err(Failure::runtime)?),
        None => None,
    };
    let mut run = Run::new(options, mix, own.target.clone());
    run.watch(&own.world.newest);
    run.begin().await?;
    let world = Arc::clone(&own.world);
    let planned = plan.planned.clone();
    let mut ledgers = run.drive(async move || world.run(planned).await).await?;
    let surprises = own.world.surprises();
    // Stopped in good order: what they still had in their hands is on the log then, and the file is free to be read.
    fleet::end(&own.world.members).await;
    ledgers.topics = Some(match (&broker, ends) {
        (Some(broker), Some(ends)) => run.read_topics(broker, &ends).await?,
        _ => read_file(settings, &mut run).await?,
    });
    if let Some(broker) = broker {
        broker.close(1_000).await;
    }
    Ok((run.reconcile(&ledgers), surprises))
}

/// The topics in the file of a process that has ended.
async fn read_file(settings: &Settings, run: &mut Run<'_>) -> Result<topics::Topics, Failure> {
    let broker = backends::broker_now(settings).await?;
    let ends = topics::ends(broker.as_ref()).await.map_err(Failure::runtime)?;
    let starts: Vec<(Partition, i64)> = ends.into_iter().map(|(partition, _)| (partition, 0)).collect();
    let topics = run.read_topics(&broker, &starts).await;
    broker.close(1_000).await;
    topics
}

/// Topics of the run's own.
async fn topics_on(settings: &Settings) -> Result<Arc<dyn Broker>, Failure> {
    let broker = backends::broker_now(settings).await?;
    tokio::time::timeout(TOPICS_LIMIT, broker.create_topics())
        .await
        .map_err(|_| Failure::Runtime(format!("the topics were not made within {TOPICS_LIMIT:?}")))?
        .map_err(Failure::runtime)?;
    Ok(broker)
}

impl Own {
    async fn make(
        common: &Common,
        options: &Verify,
        settings: &Settings,
        mix: &Mix,
        plan: &Plan,
        folder: PathBuf,
    ) -> Result<Self, Failure> {
        let watchdog = Watchdog::start()?;
        let ports = free_ports(plan.services.len() + 1)?;
        let given = given(common);
        let start = |name: &str, arguments: &[&str], settings: &[(String, String)], port: u16| {
            let mut all: Vec<String> = arguments.iter().map(|part| (*part).to_owned()).collect();
            let data = folder.join(name).display().to_string();
            all.extend(["--data-dir".to_owned(), data]);
            all.extend(given.iter().cloned());
            let folder = folder.clone();
            Member::new(
                name,
                Start {
                    arguments: all,
                    settings: settings.to_vec(),
                    port,
                    folder,
                },
                &watchdog,
            )
        };
        let [sandbox_port, ports @ ..] = ports.as_slice() else {
            return Err(Failure::Runtime("no ports".to_owned()));
        };
        let sandbox = start("sandbox", &["sandbox"], &[], *sandbox_port);
        let mut links = Vec::new();
        let settings_of_all = own_settings(options, settings, mix, plan, &sandbox, &mut links).await?;
        let members: Vec<Arc<Member>> = plan
            .services
            .iter()
            .zip(ports)
            .map(|((name, arguments), port)| {
                let mut settings = settings_of_all.clone();
                settings.push(set("service.instance", name));
                start(name, arguments, &settings, *port)
            })
            .collect();
        let url = |name: &str| {
            let member = members.iter().find(|member| member.name == name);
            member
                .or(members.first())
                .map_or_else(String::new, |member| member.url())
        };
        let target = Target::of(url("ingestion"), url("status"), sandbox.url())?;
        let world = World::new(members, links, &options.breaking, reqwest::Client::new());
        Ok(Self {
            world: Arc::new(world),
            sandbox,
            target,
            folder,
            _watchdog: watchdog,
        })
    }

    async fn start(&self) -> Result<(), Failure> {
        let all = || [&self.sandbox].into_iter().chain(&self.world.members);
        for member in all() {
            member.launch().await?;
        }
        for member in all() {
            if !member.ready(&self.world.http, READY_LIMIT).await {
                return Err(Failure::Runtime(format!(
                    "{} is not ready after {READY_LIMIT:?}; see {} (the folder stays)",
                    member.name,
                    self.folder.join(format!("{}.log", member.name)).display()
                )));
            }
        }
        Ok(())
    }

    /// Ends everything that was started, and starts what was stopped.
    async fn end(self) {
        self.world.give_back().await;
        let mut members = self.world.members.clone();
        members.push(self.sandbox);
        fleet::end(&members).await;
    }
}

/// Keys that the run sets itself.
const OWN_KEYS: [&str; 5] = [
    "broker.prefix",
    "broker.kafka.bootstrap_servers",
    "provider.sandbox_url",
    "store.mongodb.",
    "service.",
];

/// What the user said of the configuration, for every process; what the run sets itself stands in the environment.
fn given(common: &Common) -> Vec<String> {
    let mut given = Vec::new();
    if let Some(file) = &common.config {
        given.extend(["--config".to_owned(), file.display().to_string()]);
    }
    for one in &common.set {
        if !OWN_KEYS.iter().any(|key| one.trim_start().starts_with(key)) {
            given.extend(["--set".to_owned(), one.clone()]);
        }
    }
    given
}

/// A key as an environment variable, which no list of processes shows: addresses may hold passwords.
fn set(key: &str, value: &str) -> (String, String) {
    let name = key.replace('.', "__").to_uppercase();
    (format!("POSTHASTE_{name}"), value.to_owned())
}

/// What makes the services of the run keep to its own topics, its own documents, and its own sandbox; opens the proxies.
async fn own_settings(
    options: &Verify,
    settings: &Settings,
    mix: &Mix,
    plan: &Plan,
    sandbox: &Member,
    links: &mut Vec<(Way, Link)>,
) -> Result<Vec<(String, String)>, Failure> {
    let mut own = Vec::new();
    let behind = sandbox.url().replacen("http://", "", 1);
    let link = open("127.0.0.1:0", &behind).await?;
    own.push(set(
        "provider.sandbox_url",
        &format!("http://{}/sandbox", link.address()),
    ));
    links.push((Way::Sandbox, link));
    own.push(set("broker.prefix", &settings.broker.prefix));
    if backends::has_kafka(settings) {
        let brokers = &settings.broker.kafka.bootstrap_servers;
        if let Some(behind) = &options.breaking.kafka_behind {
            links.push((Way::Broker, open(brokers, behind).await?));
        }
        own.push(set("broker.kafka.bootstrap_servers", brokers));
    }
    if backends::has_mongodb(settings) {
        let url = &settings.store.mongodb.url.0;
        let url = match &plan.store_behind {
            Some(host) => {
                let link = open("127.0.0.1:0", host).await?;
                let url = through(url, host, &link.address().to_string());
                links.push((Way::Store, link));
                url
            }
            None => url.clone(),
        };
        own.push(set("store.mongodb.url", &url));
        own.push(set("store.mongodb.database", &mix.run));
    }
    Ok(own)
}

async fn open(listen: &str, behind: &str) -> Result<Link, Failure> {
    Link::open(listen, behind)
        .await
        .map_err(|error| Failure::Runtime(format!("no proxy can listen at {listen}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_goes_through_the_proxy_when_its_driver_keeps_to_the_address() {
        for (url, host) in [
            ("mongodb://127.0.0.1:27017", Some("127.0.0.1:27017")),
            ("mongodb://127.0.0.1:27017/", Some("127.0.0.1:27017")),
            ("mongodb://me:secret@db:27017/?authSource=admin", Some("db:27017")),
            ("mongodb://a:1,b:2/", None),
            ("mongodb://a:1/?replicaSet=rs0", None),
            ("mongodb://a:1/?tls=true", None),
            ("mongodb+srv://cluster.example.com", None),
            ("", None),
        ] {
            assert_eq!(single_host(url), host, "{url}");
        }
    }

    #[test]
    fn the_proxied_address_keeps_everything_else() {
        for (url, host, moved) in [
            ("mongodb://h:1", "h:1", "mongodb://p:2/?directConnection=true"),
            (
                "mongodb://me:x@h:1/db?authSource=admin",
                "h:1",
                "mongodb://me:x@p:2/db?authSource=admin&directConnection=true",
            ),
        ] {
            assert_eq!(through(url, host, "p:2"), moved);
        }
    }
}
