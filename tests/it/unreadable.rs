//! A record on a topic that cannot be read goes to the dead-letter topic with the reason, and the partition goes on.

use std::{
    io::Write,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use posthaste_testkit::KafkaServer;
use serde_json::Value as Json;

use crate::system::{Backend, Plan};

/// None of these is a record of ours.
const UNREADABLE: &[&str] = &[
    "not json",
    "{}",
    r#"{"delivery":{"v":1}}"#,
    "\u{1}\u{2}",
    r#"{"event":{}}"#,
];

#[tokio::test]
async fn an_unreadable_record_becomes_a_dead_letter_and_the_partition_goes_on() {
    let kafka = KafkaServer::shared().await.unwrap();
    // One partition: what follows is surely behind it.
    let system = Plan::new(Backend::Kafka)
        .await
        .setting("POSTHASTE_BROKER__PARTITIONS", "1")
        .start()
        .await;
    let client = system.client();
    for lane in ["default", "critical", "retry", "failed", "delay.near", "delay.2s"] {
        produce(kafka, &system.topic(lane), UNREADABLE);
    }
    for priority in ["default", "critical"] {
        let mut event = client.sms(&client.number(1));
        event["priority"] = priority.into();
        let id = client.accept(&event).await;
        client.wait(&id, "SENT").await;
    }
    let wanted = UNREADABLE.len() * 6;
    let start = Instant::now();
    let letters = loop {
        let letters = consume(kafka, &system.topic("dead-letter"));
        if letters.len() >= wanted || start.elapsed() > Duration::from_secs(60) {
            break letters;
        }
    };
    assert_eq!(letters.len(), wanted, "{letters:#?}");
    for letter in letters {
        let foreign = &letter["foreign"];
        assert!(
            foreign["reason"].is_string() && foreign["topic"].is_string(),
            "{letter:#}"
        );
    }
}

pub fn produce(kafka: &KafkaServer, topic: &str, values: &[&str]) {
    produce_with(kafka, topic, values, &[]);
}

/// The same with further arguments for Kafka's tool, which say what a line is.
pub fn produce_with(kafka: &KafkaServer, topic: &str, values: &[&str], arguments: &[&str]) {
    let mut tool = kafka
        .tool("org.apache.kafka.tools.ConsoleProducer")
        .args(["--bootstrap-server", &kafka.bootstrap(), "--topic", topic])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut input = tool.stdin.take().unwrap();
    writeln!(input, "{}", values.join("\n")).unwrap();
    drop(input);
    assert!(tool.wait().unwrap().success());
}

/// Every record on the topic that can be seen within a few seconds.
fn consume(kafka: &KafkaServer, topic: &str) -> Vec<Json> {
    let output = Command::output(
        kafka
            .tool("org.apache.kafka.tools.consumer.ConsoleConsumer")
            .args(["--bootstrap-server", &kafka.bootstrap(), "--topic", topic])
            .args([
                "--from-beginning",
                "--timeout-ms",
                "3000",
                "--isolation-level",
                "read_committed",
            ]),
    )
    .unwrap();
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect()
}
