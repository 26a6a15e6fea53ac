//! `kafka-topics.sh`: topics are made, checked and widened with Kafka's own tool, again and again, and wrong use is told.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use posthaste_event::Topic;
use posthaste_testkit::KafkaServer;
use uuid::Uuid;

use crate::system::{System, run_to_end};

/// Kafka's kafka-topics.sh.
pub const TOPIC_COMMAND: &str = "org.apache.kafka.tools.TopicCommand";
const CONSOLE_CONSUMER: &str = "org.apache.kafka.tools.consumer.ConsoleConsumer";
const CONSOLE_PRODUCER: &str = "org.apache.kafka.tools.ConsoleProducer";

/// What the script says and how it ends.
#[derive(Debug)]
struct Said {
    code: i32,
    lines: String,
    errors: String,
}

/// The script with a clean environment.
pub fn script(word: &str, environment: &[(&str, &str)]) -> Command {
    let mut command = Command::new(repository().join("kafka-topics.sh"));
    command.arg(word).env_remove("KAFKA_HOME");
    for variable in [
        "BOOTSTRAP",
        "PREFIX",
        "PARTITIONS",
        "REPLICATION",
        "COMMAND_CONFIG",
        "JOBS",
        "KEYS_TIMEOUT_MS",
        "KAFKA_TOPICS_CMD",
        "KAFKA_CONSUMER_CMD",
        "ALLOW_WIDEN",
    ] {
        command.env_remove(variable);
    }
    command.envs(environment.iter().copied());
    command
}

/// The checkout.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn said(output: &Output) -> Said {
    Said {
        code: output.status.code().unwrap(),
        lines: String::from_utf8_lossy(&output.stdout).into_owned(),
        errors: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// `kafka-topics.sh widen` on a system's topics: its exit code, and what it complained of.
pub async fn widen(system: &System, partitions: u32) -> (i32, String) {
    let kafka = KafkaServer::shared().await.unwrap();
    let mut command = script(
        "widen",
        &[("ALLOW_WIDEN", "stopped"), ("KEYS_TIMEOUT_MS", "3000")],
    );
    command
        .env("BOOTSTRAP", kafka.bootstrap())
        .env("PREFIX", &system.place().prefix)
        .env("PARTITIONS", partitions.to_string())
        .env("KAFKA_TOPICS_CMD", kafka.tool_line(TOPIC_COMMAND))
        .env("KAFKA_CONSUMER_CMD", kafka.tool_line(CONSOLE_CONSUMER));
    let said = said(&finish(command).await);
    (said.code, said.errors)
}

/// Topics of one prefix on the shared broker.
struct Topics {
    kafka: &'static KafkaServer,
    prefix: String,
}

impl Topics {
    async fn new() -> Self {
        Self {
            kafka: KafkaServer::shared().await.unwrap(),
            prefix: format!("s{}", &Uuid::new_v4().simple().to_string()[..10]),
        }
    }

    async fn run(&self, word: &'static str, partitions: u32, more: &[(&str, &str)]) -> Said {
        let mut command = script(word, more);
        command
            .env("BOOTSTRAP", self.kafka.bootstrap())
            .env("PREFIX", &self.prefix)
            .env("PARTITIONS", partitions.to_string())
            .env("KAFKA_TOPICS_CMD", self.kafka.tool_line(TOPIC_COMMAND))
            .env("KAFKA_CONSUMER_CMD", self.kafka.tool_line(CONSOLE_CONSUMER))
            .env("KEYS_TIMEOUT_MS", "3000");
        said(&finish(command).await)
    }

    /// `posthaste topics …`, to its good end.
    async fn program(&self, word: &str, partitions: u32) {
        let bootstrap = self.kafka.bootstrap();
        let prefix = format!("broker.prefix={}", self.prefix);
        let partitions = format!("broker.partitions={partitions}");
        let place = ["--kafka", &bootstrap, "--set", &prefix, "--set", &partitions].map(str::to_owned);
        run_to_end(&["topics", word], &place, &[]).await;
    }

    fn name(&self, topic: Topic) -> String {
        topic.name(&self.prefix)
    }

    /// One of Kafka's tools, to its good end.
    async fn tool(&self, class: &str, arguments: &[&str], input: &str) {
        let mut command = self.kafka.tool(class);
        command
            .args(["--bootstrap-server", &self.kafka.bootstrap()])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = tokio::task::spawn_blocking(move || child.wait_with_output())
            .await
            .unwrap()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    /// Writes a record with this key and value, or a tombstone.
    async fn write(&self, topic: Topic, key: &str, value: Option<&str>) {
        let name = self.name(topic);
        let line = format!("{key}\t{}\n", value.unwrap_or("NULL"));
        let arguments = [
            "--topic",
            &name,
            "--reader-property",
            "parse.key=true",
            "--reader-property",
            "null.marker=NULL",
        ];
        self.tool(CONSOLE_PRODUCER, &arguments, &line).await;
    }
}

async fn finish(mut command: Command) -> Output {
    tokio::task::spawn_blocking(move || command.stdin(Stdio::null()).output())
        .await
        .unwrap()
        .unwrap()
}

#[tokio::test]
async fn topics_are_made_once_checked_and_accepted_by_the_program() {
    let topics = Topics::new().await;
    // One is there already, made by somebody else in the wrong way.
    let wrong = topics.name(Topic::DeadLetter);
    let arguments = ["--create", "--topic", &wrong, "--partitions", "2", "--config"];
    let arguments = [&arguments[..], &["retention.ms=86400000"]].concat();
    topics.tool(TOPIC_COMMAND, &arguments, "").await;

    let made = topics.run("create", 2, &[]).await;
    assert_eq!(made.code, 1, "{made:?}");
    assert_eq!(
        made.lines.matches("created ").count(),
        Topic::ALL.len() - 1,
        "{made:?}"
    );
    assert_eq!(
        made.lines.matches("ok    ").count(),
        Topic::ALL.len() - 1,
        "{made:?}"
    );
    let complaint =
        format!("WRONG {wrong}: retention.ms is 86400000, it should be -1; mend it with kafka-configs.sh");
    assert!(made.lines.contains(&complaint), "{made:?}");

    // What it says is what helps.
    let entity = [
        "--alter",
        "--entity-type",
        "topics",
        "--entity-name",
        &wrong,
        "--add-config",
    ];
    let settings = Topic::DeadLetter.settings(1);
    let settings = settings.map(|(key, value)| format!("{key}={value}")).join(",");
    let arguments = [&entity[..], &[&settings]].concat();
    topics.tool("kafka.admin.ConfigCommand", &arguments, "").await;
    let again = topics.run("create", 2, &[]).await;
    assert_eq!(again.code, 0, "{again:?}");
    assert!(!again.lines.contains("created"), "{again:?}");

    // The program finds nothing to make and nothing wrong, and sets the groups' starts.
    topics.program("create", 2).await;
    topics.program("check", 2).await;

    let narrow = topics.run("check", 3, &[]).await;
    assert_eq!(narrow.code, 1, "{narrow:?}");
    let complaint = "has 2 partitions, PARTITIONS says 3; `kafka-topics.sh widen` adds the others";
    assert!(narrow.lines.contains(complaint), "{narrow:?}");
}

#[tokio::test]
async fn topics_are_widened_when_no_key_is_in_use_and_somebody_says_so() {
    let topics = Topics::new().await;
    // The program makes them in one call; the script one by one.
    topics.program("create", 1).await;
    topics.write(Topic::Keys, "t/k#tail", Some("{\"seq\":1}")).await;

    let unasked = topics.run("widen", 2, &[]).await;
    assert_eq!(unasked.code, 2, "{unasked:?}");
    assert!(unasked.errors.contains("ALLOW_WIDEN=stopped"), "{unasked:?}");

    let allowed = [("ALLOW_WIDEN", "stopped")];
    let in_use = topics.run("widen", 2, &allowed).await;
    assert_eq!(in_use.code, 1, "{in_use:?}");
    assert!(in_use.errors.contains("1 records of"), "{in_use:?}");

    topics.write(Topic::Keys, "t/k#tail", None).await;
    let widened = topics.run("widen", 2, &allowed).await;
    assert_eq!(widened.code, 0, "{widened:?}");
    for (topic, wanted) in [
        (Topic::Critical, "2 partitions"),
        (Topic::DelayNearCritical, "2 partitions"),
        // A key's old value would stay in its old partition.
        (Topic::Keys, "1 partitions"),
    ] {
        let line = format!("ok    {}: {wanted}", topics.name(topic));
        assert!(widened.lines.contains(&line), "{widened:?}");
    }
    let again = topics.run("widen", 2, &[]).await;
    assert_eq!(again.code, 0, "nothing is left to widen: {again:?}");
}

#[tokio::test]
async fn wrong_use_is_told_with_what_is_right() {
    let tool = tempfile::tempdir().unwrap();
    let deaf = tool.path().join("deaf tool");
    fs::write(&deaf, "#!/bin/sh\necho 'Error while executing topic command : Timed out waiting for a node assignment.'\nexit 1\n")
        .unwrap();
    fs::set_permissions(&deaf, fs::Permissions::from_mode(0o755)).unwrap();
    let deaf = format!("'{}'", deaf.display());
    for (word, environment, code, wanted) in [
        (
            "make",
            &[][..],
            2,
            "\"make\" is not known; accepted: create, check, widen, plan",
        ),
        (
            "plan",
            &[("PARTITIONS", "none")],
            2,
            "PARTITIONS is \"none\"; accepted: a number from 1",
        ),
        ("plan", &[("PARTITIONS", "0")], 2, "PARTITIONS is \"0\""),
        ("plan", &[("REPLICATION", "1.5")], 2, "REPLICATION is \"1.5\""),
        (
            "plan",
            &[("PREFIX", "a b")],
            2,
            "PREFIX is \"a b\"; accepted: 1 to 200 letters",
        ),
        (
            "check",
            &[("BOOTSTRAP", "kafka")],
            2,
            "BOOTSTRAP is \"kafka\"; accepted: host:port",
        ),
        (
            "check",
            &[("COMMAND_CONFIG", "/nowhere")],
            2,
            "COMMAND_CONFIG: cannot read /nowhere",
        ),
        (
            "check",
            &[("KAFKA_TOPICS_CMD", "no-such-tool")],
            1,
            "no-such-tool: command not found",
        ),
        (
            "create",
            &[("KAFKA_TOPICS_CMD", &deaf)],
            1,
            "asking localhost:9092 for its topics failed: Error while",
        ),
        (
            "widen",
            &[("KAFKA_TOPICS_CMD", &deaf)],
            1,
            "Timed out waiting for a node assignment",
        ),
    ] {
        let said = said(&finish(script(word, environment)).await);
        assert_eq!(said.code, code, "{word} {environment:?}: {said:?}");
        assert!(said.errors.contains(wanted), "{word} {environment:?}: {said:?}");
        assert_eq!(said.lines, "", "{word} {environment:?}: {said:?}");
    }
}
