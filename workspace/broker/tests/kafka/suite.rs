//! The suite that every broker passes.

use std::sync::Arc;

use async_trait::async_trait;
use posthaste_broker::{Broker, settings::Settings};
use posthaste_testkit::{
    KafkaServer, broker_suite,
    broker_suite::{BrokerWorld, DRAIN_MS, PARTITIONS, RECORD_BYTES_MAX},
};

use crate::world::{connect, settings};

struct Prefix(Settings);

#[async_trait]
impl BrokerWorld for Prefix {
    async fn open(&self) -> Arc<dyn Broker> {
        connect(&self.0, "suite").await
    }
}

async fn prefix(_test: &str) -> Prefix {
    let server = KafkaServer::shared().await.unwrap();
    let mut settings = settings(server, PARTITIONS);
    settings.record_bytes_max = RECORD_BYTES_MAX;
    settings.drain_ms = DRAIN_MS;
    Prefix(settings)
}

broker_suite!(prefix);
