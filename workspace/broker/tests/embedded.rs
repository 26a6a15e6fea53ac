//! The broker suite on the embedded log.
#![expect(clippy::unwrap_used, reason = "this is a test")]

use std::sync::Arc;

use async_trait::async_trait;
use posthaste_broker::{Broker, Settings, embedded::EmbeddedBroker, settings::DEFAULTS};
use posthaste_testkit::{
    broker_suite,
    broker_suite::{BrokerWorld, DRAIN_MS, PARTITIONS, RECORD_BYTES_MAX},
};

struct Folder {
    dir: tempfile::TempDir,
    settings: Settings,
}

#[async_trait]
impl BrokerWorld for Folder {
    async fn open(&self) -> Arc<dyn Broker> {
        Arc::new(EmbeddedBroker::open(self.dir.path(), &self.settings).unwrap())
    }
}

async fn folder(_test: &str) -> Folder {
    #[derive(serde::Deserialize)]
    struct File {
        broker: Settings,
    }
    let mut settings = toml::from_str::<File>(DEFAULTS).unwrap().broker;
    settings.partitions = PARTITIONS;
    settings.record_bytes_max = RECORD_BYTES_MAX;
    settings.drain_ms = DRAIN_MS;
    Folder {
        dir: tempfile::tempdir().unwrap(),
        settings,
    }
}

broker_suite!(folder);
