//! On the embedded log.

use std::sync::Arc;

use async_trait::async_trait;
use posthaste_broker::{Broker, embedded::EmbeddedBroker, settings::Settings};
use posthaste_testkit::broker_suite::BrokerWorld;

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

async fn folder() -> Folder {
    Folder {
        dir: tempfile::tempdir().unwrap(),
        settings: crate::suite::broker_settings(),
    }
}

crate::suite::definitions_suite!(folder);
