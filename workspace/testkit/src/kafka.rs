//! Apache Kafka for tests: one broker in KRaft mode, with a data folder and ports of its own.

use std::{path::PathBuf, process::Command, time::Duration};

use tokio::sync::OnceCell;

use crate::{
    Port, Process, StartError,
    cache::{JAVA_REMEDY, Recipe, java},
    process::{run, write},
};

const RECIPE: Recipe = Recipe {
    name: "kafka",
    pom: include_str!("../servers/kafka/pom.xml"),
    files: &[(
        "log4j2.properties",
        include_str!("../servers/kafka/log4j2.properties"),
    )],
};

/// Longer than a cold start on a loaded machine with two cores (4 s alone).
const READY_LIMIT: Duration = Duration::from_secs(90);

/// Any 16 bytes in base64url; every broker here is a cluster of its own.
const CLUSTER_ID: &str = "cG9zdGhhc3RlLXRlc3RzMQ";

/// The collector of garbage that starts fastest and needs the least memory. It stops the broker for some 25 ms at a time.
const SERIAL: &[&str] = &["-XX:+UseSerialGC"];
/// The one that Kafka's own script starts a broker with (`bin/kafka-run-class.sh`), and so the image in docker-compose.yml.
const AS_SHIPPED: &[&str] = &[
    "-XX:+UseG1GC",
    "-XX:MaxGCPauseMillis=20",
    "-XX:InitiatingHeapOccupancyPercent=35",
    "-XX:+ExplicitGCInvokesConcurrent",
];

static SHARED: OnceCell<Result<KafkaServer, StartError>> = OnceCell::const_new();

/// A running broker; killed on drop, or when the test process ends in whatever way.
#[derive(Debug)]
pub struct KafkaServer {
    process: Process,
    port: Port,
    _controller: Port,
    home: PathBuf,
    properties: PathBuf,
    collector: &'static [&'static str],
}

impl KafkaServer {
    /// The one broker that all tests of this process share, started on first use. Isolate by topic prefix. It cannot be
    /// killed or paused: for that, [`KafkaServer::start`] one of your own.
    ///
    /// # Errors
    /// When it cannot start; every caller gets the same answer.
    pub async fn shared() -> Result<&'static Self, StartError> {
        SHARED
            .get_or_init(Self::start)
            .await
            .as_ref()
            .map_err(StartError::clone)
    }

    /// A broker of its own. Takes about two seconds, and about 350 MB of memory.
    ///
    /// # Errors
    /// When it cannot start, with what is missing or the last lines of its log.
    pub async fn start() -> Result<Self, StartError> {
        Self::start_with::<&str, &str>(&[]).await
    }

    /// The same with the options of the Java machine that a broker ships with, for measuring. Takes twice the memory.
    ///
    /// # Errors
    /// When it cannot start, with what is missing or the last lines of its log.
    pub async fn start_as_shipped() -> Result<Self, StartError> {
        Self::start_by::<&str, &str>(&[], AS_SHIPPED).await
    }

    /// The same with broker settings added or overridden, such as `("message.max.bytes", "100000")`.
    ///
    /// # Errors
    /// When it cannot start, with what is missing or the last lines of its log.
    pub async fn start_with<K: AsRef<str>, V: AsRef<str>>(settings: &[(K, V)]) -> Result<Self, StartError> {
        Self::start_by(settings, SERIAL).await
    }

    async fn start_by<K: AsRef<str>, V: AsRef<str>>(
        settings: &[(K, V)],
        collector: &'static [&'static str],
    ) -> Result<Self, StartError> {
        let port = Port::reserve()?;
        let controller = Port::reserve()?;
        let process = Process::new("kafka")?;
        let properties = process.folder().join("server.properties");
        let mut text = broker_properties(&port, &controller, &process);
        for (key, value) in settings {
            let (key, value) = (key.as_ref(), value.as_ref());
            // The last of two equal keys is the one that counts.
            text.push_str(&format!("{key}={value}\n"));
        }
        write(&properties, &text)?;
        let file = properties.clone();
        let home = blocking(move || {
            let home = RECIPE.folder()?;
            run(
                java(&home)
                    .args(["-Xshare:auto", "-XX:TieredStopAtLevel=1"])
                    .args(["kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c"])
                    .arg(file),
                JAVA_REMEDY,
            )?;
            Ok(home)
        })
        .await?;
        let mut server = Self {
            process,
            port,
            _controller: controller,
            home,
            properties,
            collector,
        };
        server.restart().await?;
        Ok(server)
    }

    /// `host:port`, for `bootstrap.servers`.
    pub fn bootstrap(&self) -> String {
        self.port.address()
    }

    /// SIGKILL. What it had acknowledged is there after [`KafkaServer::restart`].
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// SIGKILL, and what it knew of transactions is gone with it: open ones stay open for ever.
    ///
    /// # Errors
    /// When its files cannot be removed.
    pub fn kill_and_forget_transactions(&mut self) -> std::io::Result<()> {
        self.kill();
        for entry in std::fs::read_dir(self.process.folder().join("data"))? {
            let entry = entry?;
            if entry
                .file_name()
                .to_string_lossy()
                .starts_with("__transaction_state-")
            {
                std::fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(())
    }

    /// Starts it again with the same ports and data, killing it first if it runs; returns when it serves.
    ///
    /// # Errors
    /// When it does not come up, with the last lines of its log.
    pub async fn restart(&mut self) -> Result<(), StartError> {
        let config = self.home.join("log4j2.properties");
        let mut command = java(&self.home);
        command
            .args(["-Xms256m", "-Xmx512m"])
            .args(self.collector)
            .arg(format!("-Dlog4j2.configurationFile={}", config.display()))
            .arg("kafka.Kafka")
            .arg(&self.properties);
        self.process.spawn(&mut command, JAVA_REMEDY)?;
        self.process
            .wait_until(READY_LIMIT, async |process| {
                process.log().contains("Kafka Server started")
            })
            .await
    }

    /// SIGSTOP: the broker hangs, connections stay open.
    pub fn pause(&mut self) {
        self.process.pause();
    }

    /// SIGCONT: the broker goes on after [`KafkaServer::pause`].
    pub fn resume(&mut self) {
        self.process.resume();
    }

    /// Its process, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.pid()
    }

    /// What the broker said since its last start.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// One of Kafka's command line tools by its class, such as `org.apache.kafka.tools.TopicCommand`; add its arguments.
    pub fn tool(&self, class: &str) -> Command {
        let mut command = java(&self.home);
        command
            .args(["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"])
            .arg(class);
        command
    }

    /// The same as a shell reads it, for scripts that are told their tools.
    pub fn tool_line(&self, class: &str) -> String {
        let command = self.tool(class);
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        let quoted = words.map(|word| format!("'{}'", word.to_string_lossy().replace('\'', r"'\''")));
        quoted.collect::<Vec<_>>().join(" ")
    }
}

fn broker_properties(port: &Port, controller: &Port, process: &Process) -> String {
    let (port, controller) = (port.address(), controller.address());
    let data = process.folder().join("data");
    format!(
        "process.roles=broker,controller
node.id=1
controller.quorum.voters=1@{controller}
listeners=PLAINTEXT://{port},CONTROLLER://{controller}
advertised.listeners=PLAINTEXT://{port}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={data}
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
offsets.topic.num.partitions=4
transaction.state.log.num.partitions=4
share.coordinator.state.topic.num.partitions=1
group.initial.rebalance.delay.ms=0
auto.create.topics.enable=false
# Back within three seconds of a kill, instead of eleven. Shorter, and a machine under load loses it now and then.
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=300
# Small: two cores and many partitions.
num.network.threads=2
num.io.threads=4
log.cleaner.dedupe.buffer.size=4194304
log.index.size.max.bytes=1048576
",
        data = data.display()
    )
}

pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StartError> + Send + 'static,
) -> Result<T, StartError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| StartError::Io {
            doing: "prepare a server".to_owned(),
            reason: error.to_string(),
        })?
}
