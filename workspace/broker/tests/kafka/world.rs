//! A broker of ours on a Kafka server, with topics of its own.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use posthaste_broker::{
    Broker, Limits, Start, Subscription, Tracking, kafka::KafkaBroker, settings::Settings,
};
use posthaste_event::Topic;
use posthaste_testkit::KafkaServer;
use serde::Deserialize;

/// Nothing here takes longer, even on a loaded machine.
pub const LIMIT: Duration = Duration::from_secs(60);

static PREFIXES: AtomicU32 = AtomicU32::new(0);

/// Settings for topics of one's own on `server`.
pub fn settings(server: &KafkaServer, partitions: u32) -> Settings {
    #[derive(Deserialize)]
    struct File {
        broker: Settings,
    }
    let file: File = toml::from_str(posthaste_broker::settings::DEFAULTS).unwrap();
    let mut settings = file.broker;
    settings.prefix = format!("t{}", PREFIXES.fetch_add(1, Ordering::Relaxed));
    settings.partitions = partitions;
    settings.drain_ms = 5_000;
    settings.kafka.bootstrap_servers = server.bootstrap();
    settings
}

/// Connects under a name.
pub async fn connect(settings: &Settings, instance: &str) -> Arc<KafkaBroker> {
    // RUST_LOG=debug shows what went on in a test that failed.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_test_writer()
        .try_init();
    KafkaBroker::connect(settings, instance).await.unwrap()
}

/// A broker with fresh topics on the shared server.
pub async fn fresh(partitions: u32) -> (Arc<KafkaBroker>, Settings) {
    let server = KafkaServer::shared().await.unwrap();
    let settings = settings(server, partitions);
    let broker = connect(&settings, "one").await;
    broker.create_topics().await.unwrap();
    (broker, settings)
}

/// A subscription of a group that completes records one by one.
pub fn subscription(group: &str, topics: &[Topic]) -> Subscription {
    Subscription {
        group: group.to_owned(),
        topics: topics.to_vec(),
        tracking: Tracking::Completion,
        start: Start::Committed,
        limits: Limits::default(),
    }
}
