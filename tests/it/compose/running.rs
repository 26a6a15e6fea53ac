//! The services of docker-compose.yml as plain processes, in its order and with its environment: their names stand for
//! 127.0.0.1, and their ports for ports of the test's own.

use std::{
    collections::BTreeMap,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use posthaste_testkit::{KafkaServer, MongoServer, MongoStorage, Port, Process};

use super::file::{Condition, File, Service};
use crate::{
    system::{PATIENCE, posthaste},
    topics_script::{self, repository},
};

/// Longest time for a job of the file, or for a service to become healthy.
const LIMIT: Duration = Duration::from_secs(180);

/// A running composition. Its processes are killed on drop.
pub struct Running {
    file: File,
    kafka: KafkaServer,
    mongo: MongoServer,
    /// By service: its own port in the file, and the test's instead.
    ports: BTreeMap<String, (u16, Port)>,
    processes: BTreeMap<String, Process>,
    data: tempfile::TempDir,
}

impl Running {
    /// Does what `docker compose up --wait` does.
    pub async fn up(file: File) -> Self {
        let kafka = KafkaServer::start_with(&broker_settings(&file.services["kafka"])).await;
        let mut running = Self {
            ports: file.services.iter().filter_map(own_port).collect(),
            kafka: kafka.unwrap(),
            mongo: MongoServer::start(MongoStorage::Memory).await.unwrap(),
            processes: BTreeMap::new(),
            data: tempfile::tempdir().unwrap(),
            file,
        };
        let order: Vec<String> = running.file.in_order().into_iter().map(str::to_owned).collect();
        for name in &order {
            running.start(name).await;
        }
        for name in &order {
            if running.health_check(name).is_some() {
                running.healthy(name).await;
            }
        }
        running
    }

    /// Where a service is that the file publishes on this port of the machine.
    pub fn published(&self, port: u16) -> String {
        let wanted = format!("127.0.0.1:{port}:");
        let publishes = |name: &&String| {
            let ports = &self.file.services[*name].ports;
            ports.iter().any(|published| published.starts_with(&wanted))
        };
        let name = self.ports.keys().find(publishes);
        self.ports[name.unwrap_or_else(|| panic!("nothing of ours is published on {port}"))]
            .1
            .address()
    }

    /// Does what `docker compose up --scale <name>=1` does to a service of which there is none yet.
    pub async fn scale_up(&mut self, name: &str) {
        self.file.services.get_mut(name).unwrap().deploy.replicas = 1;
        self.start(name).await;
        self.healthy(name).await;
    }

    /// What `docker compose run groups <arguments>` prints.
    pub fn ask(&self, arguments: &[&str]) -> String {
        let mut command = posthaste(&[]);
        let output = command
            .args(arguments)
            .envs(self.environment("groups"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    async fn start(&mut self, name: &str) {
        let service = &self.file.services[name];
        if service.deploy.replicas == 0 {
            return;
        }
        let needed: Vec<(String, Condition)> = service
            .depends_on
            .iter()
            .map(|(name, dependency)| (name.clone(), dependency.condition))
            .collect();
        for (needed, condition) in needed {
            match condition {
                Condition::Started => {}
                Condition::Healthy => self.healthy(&needed).await,
                Condition::Completed => self.completed(&needed).await,
            }
        }
        let service = &self.file.services[name];
        let mut command = match (service.image.as_str(), name) {
            ("posthaste", _) => posthaste(&[]),
            (_, "topics") => self.topics_script(service),
            // The servers run already, and Mongo Express is not ours.
            (_, "kafka" | "mongodb" | "mongo-express") => return,
            (image, _) => panic!("the tests do not know how to run {name} ({image})"),
        };
        if service.image == "posthaste" {
            command.args(&service.command);
        }
        command.envs(self.environment(name));
        let mut process = Process::new(name).unwrap();
        process.spawn(&mut command, "./test.sh builds it").unwrap();
        self.processes.insert(name.to_owned(), process);
    }

    fn topics_script(&self, service: &Service) -> Command {
        let [path, word] = service.command.as_slice() else {
            panic!("{:?}", service.command)
        };
        let mounted = format!("./kafka-topics.sh:{path}:ro");
        assert_eq!(service.volumes, [mounted]);
        let mut command = topics_script::script(word, &[]);
        command.current_dir(repository()).env(
            "KAFKA_TOPICS_CMD",
            self.kafka.tool_line(topics_script::TOPIC_COMMAND),
        );
        command
    }

    /// What a text of the file means here: each service's name and port, and each own address.
    fn here(&self, text: &str) -> String {
        let mongo = self.mongo.uri();
        let mongo = mongo.trim_start_matches("mongodb://");
        let mut text = text
            .replace("kafka:9092", &self.kafka.bootstrap())
            .replace("mongodb:27017", mongo);
        for (name, (port, here)) in &self.ports {
            text = text.replace(&format!("{name}:{port}"), &here.address());
        }
        text
    }

    /// A service's environment.
    fn environment(&self, name: &str) -> BTreeMap<String, String> {
        let given = &self.file.services[name].environment;
        let mut environment: BTreeMap<String, String> = given
            .iter()
            .map(|(key, value)| (key.clone(), self.here(value)))
            .collect();
        if let Some((_, port)) = self.ports.get(name) {
            environment.insert("POSTHASTE_SERVICE__LISTEN".to_owned(), port.address());
        }
        // The image says /data where the file says nothing.
        let data = self.data.path().join(name).display().to_string();
        let data = environment.insert("POSTHASTE_SERVICE__DATA_DIR".to_owned(), data);
        assert!(
            data.as_ref().is_none_or(|data| data == "/data"),
            "{name}: {data:?}"
        );
        environment
    }

    /// The command of a service's health check, if it has one.
    fn health_check(&self, name: &str) -> Option<&[String]> {
        let service = &self.file.services[name];
        let check = service.healthcheck.as_ref().filter(|check| !check.disable)?;
        let [kind, command @ ..] = check.test.as_slice() else {
            panic!("{name}: a health check without a test")
        };
        assert_eq!(kind, "CMD", "{name}");
        (service.deploy.replicas > 0).then_some(command)
    }

    /// Runs a service's health check, as it is written, until it passes.
    async fn healthy(&mut self, name: &str) {
        let check = self.health_check(name);
        let check =
            check.unwrap_or_else(|| panic!("{name} has no health check, and something waits for its health"));
        let mut command = match check {
            [program, arguments @ ..] if program == "posthaste" => {
                let mut command = posthaste(&[]);
                command.args(arguments).envs(self.environment(name));
                command
            }
            [program, arguments @ ..] => {
                let mut command = Command::new(program);
                command.args(arguments.iter().map(|argument| self.own_ports(argument)));
                command
            }
            [] => panic!("{name}: a health check without a command"),
        };
        command.stdin(Stdio::null());
        let began = Instant::now();
        loop {
            let output = command.output().unwrap();
            if output.status.success() {
                return;
            }
            if let Some(process) = self.processes.get_mut(name) {
                let ended = process.try_wait();
                assert!(ended.is_none(), "{name} ended with {ended:?}:\n{}", process.log());
            }
            assert!(
                began.elapsed() < LIMIT,
                "{name} is not healthy after {LIMIT:?}: {output:?}"
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// The servers' own ports, as a command inside their containers names them.
    fn own_ports(&self, text: &str) -> String {
        let path = |address: &str| format!("/dev/tcp/{}", address.replace(':', "/"));
        text.replace("/dev/tcp/127.0.0.1/9092", &path(&self.kafka.bootstrap()))
            .replace(
                "/dev/tcp/127.0.0.1/27017",
                &path(self.mongo.uri().trim_start_matches("mongodb://")),
            )
    }

    /// Waits for a job's good end.
    async fn completed(&mut self, name: &str) {
        let process = self.processes.get_mut(name).unwrap();
        let began = Instant::now();
        loop {
            if let Some(status) = process.try_wait() {
                assert!(status.success(), "{name} ended with {status}:\n{}", process.log());
                return;
            }
            assert!(
                began.elapsed() < LIMIT,
                "{name} has not ended:\n{}",
                process.log()
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// SIGTERM for all services, each of which must end well.
    pub async fn down(mut self) {
        for (name, process) in &mut self.processes {
            if process.try_wait().is_some() {
                continue;
            }
            let ended = process.terminate(PATIENCE).await;
            let log = process.log();
            assert!(
                ended.is_some_and(|status| status.success()),
                "{name} ended with {ended:?}:\n{log}"
            );
        }
    }
}

/// The port that one of our services listens on.
fn own_port((name, service): (&String, &Service)) -> Option<(String, (u16, Port))> {
    let listen = service.environment.get("POSTHASTE_SERVICE__LISTEN")?;
    let port = listen.strip_prefix("0.0.0.0:").and_then(|port| port.parse().ok());
    let port = port.unwrap_or_else(|| panic!("{name} listens on {listen}, where nobody else gets at it"));
    Some((name.clone(), (port, Port::reserve().unwrap())))
}

/// The broker's settings in the file, without those that say where it is.
fn broker_settings(kafka: &Service) -> Vec<(String, String)> {
    let places = [
        "NODE_ID",
        "CONTROLLER_QUORUM_VOTERS",
        "LISTENERS",
        "ADVERTISED_LISTENERS",
        "LOG_DIRS",
        "HEAP_OPTS",
    ];
    let settings = kafka.environment.iter().filter_map(|(key, value)| {
        let key = key.strip_prefix("KAFKA_").filter(|key| !places.contains(key))?;
        Some((key.to_lowercase().replace('_', "."), value.clone()))
    });
    settings.collect()
}
