//! The servers start, come back after a kill, and say why when they cannot start.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{net::TcpStream, process::Command};

use posthaste_testkit::{KafkaServer, MongoServer, MongoStorage};

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{command:?}: {said}");
    said
}

#[tokio::test]
async fn kafka_keeps_its_topics_over_a_kill_and_a_restart() {
    let mut kafka = KafkaServer::start().await.unwrap();
    let bootstrap = kafka.bootstrap();
    let topics = |arguments: &[&str]| {
        let mut command = kafka.tool("org.apache.kafka.tools.TopicCommand");
        command.args(["--bootstrap-server", &bootstrap]).args(arguments);
        command
    };
    let mut create = topics(&["--create", "--topic", "letters", "--partitions", "3"]);
    let mut list = topics(&["--list"]);
    run(&mut create);
    kafka.kill();
    assert!(TcpStream::connect(&bootstrap).is_err());
    kafka.restart().await.unwrap();
    assert_eq!(kafka.bootstrap(), bootstrap);
    assert!(run(&mut list).contains("letters"));
}

#[tokio::test]
async fn the_shared_broker_is_one_and_the_same() {
    let (first, second) = tokio::join!(KafkaServer::shared(), KafkaServer::shared());
    assert_eq!(first.unwrap().bootstrap(), second.unwrap().bootstrap());
}

#[tokio::test]
async fn a_broker_that_cannot_start_says_why() {
    let error = KafkaServer::start_with(&[("num.io.threads", "many")])
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("num.io.threads"), "{error}");
}

#[tokio::test]
async fn mongodb_listens_again_on_its_port_after_a_kill() {
    for storage in [MongoStorage::Memory, MongoStorage::File] {
        let mut mongo = MongoServer::start(storage).await.unwrap();
        let address = mongo.uri().replace("mongodb://", "");
        TcpStream::connect(&address).unwrap();
        mongo.kill();
        assert!(TcpStream::connect(&address).is_err());
        mongo.restart().await.unwrap();
        TcpStream::connect(&address).unwrap();
    }
}
