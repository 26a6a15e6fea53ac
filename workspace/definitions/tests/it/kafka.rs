//! On Kafka.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use async_trait::async_trait;
use posthaste_broker::{Broker, kafka::KafkaBroker, settings::Settings};
use posthaste_testkit::{KafkaServer, broker_suite::BrokerWorld};

static PREFIXES: AtomicU32 = AtomicU32::new(0);

struct Prefix(Settings);

#[async_trait]
impl BrokerWorld for Prefix {
    async fn open(&self) -> Arc<dyn Broker> {
        KafkaBroker::connect(&self.0, "one").await.unwrap()
    }
}

async fn prefix() -> Prefix {
    let server = KafkaServer::shared().await.unwrap();
    let mut settings = crate::suite::broker_settings();
    settings.prefix = format!("d{}", PREFIXES.fetch_add(1, Ordering::Relaxed));
    settings.kafka.bootstrap_servers = server.bootstrap();
    Prefix(settings)
}

crate::suite::definitions_suite!(prefix);
