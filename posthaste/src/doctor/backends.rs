//! The broker and the store: reachable, of the right version, and with what Posthaste needs in them.

use std::{sync::Arc, time::Duration};

use posthaste_broker::{Broker, BrokerError, Severity, embedded::EmbeddedBroker, kafka::KafkaBroker};
use posthaste_event::topic::GROUPS;
use posthaste_store::MongoStore;
use tokio::time::timeout;

use super::Doctor;
use crate::run::backends::{has_kafka, has_mongodb};

/// Everything that is asked of a broker, together.
const BROKER_LIMIT: Duration = Duration::from_secs(60);

/// How long a broker may take to close.
const CLOSE_MS: u64 = 2_000;

impl Doctor<'_> {
    pub(super) async fn broker(&mut self) {
        let settings = self.settings;
        if has_kafka(settings) {
            let servers = &settings.broker.kafka.bootstrap_servers;
            let instance = format!("doctor-{}", uuid::Uuid::new_v4().simple());
            match KafkaBroker::connect(&settings.broker, &instance).await {
                Ok(broker) => {
                    self.good("Kafka", format!("answers at {servers}"));
                    self.look_into(broker).await;
                }
                Err(error @ BrokerError::Unreachable(_)) => {
                    let set_by = self.set_by("broker.kafka.bootstrap_servers");
                    self.wrong(
                        "Kafka",
                        format!(
                            "{error}; is it running at {servers}, and does broker.kafka.security fit its listener? ({set_by})"
                        ),
                    );
                }
                Err(error) => self.wrong("Kafka", error.to_string()),
            }
            return;
        }
        let folder = &settings.service.data_dir;
        if !folder.join("log.db").exists() {
            return self.good(
                "log",
                "is not there yet; `posthaste up` makes it, or --kafka names a Kafka",
            );
        }
        match EmbeddedBroker::open(folder, &settings.broker) {
            Ok(broker) => self.look_into(Arc::new(broker)).await,
            // The contract has no kind of its own for this, and only this says so.
            Err(BrokerError::Storage(reason)) if reason.contains("another process") => {
                self.good("log", "is in use by a process that runs; see service");
            }
            Err(error) => self.wrong("log", error.to_string()),
        }
    }

    async fn look_into(&mut self, broker: Arc<dyn Broker>) {
        let looked = timeout(BROKER_LIMIT, async {
            match broker.check_topics().await {
                Ok(findings) => {
                    let is_made = !findings.iter().any(|finding| {
                        finding.severity == Severity::Error && finding.message.contains("is missing")
                    });
                    self.findings.extend(findings);
                    if is_made {
                        self.lag(broker.as_ref()).await;
                    }
                }
                Err(error) => self.wrong("topics", error.to_string()),
            }
        });
        if looked.await.is_err() {
            let seconds = BROKER_LIMIT.as_secs();
            self.wrong(
                "topics",
                format!("the broker did not answer everything within {seconds} s"),
            );
        }
        broker.close(CLOSE_MS).await;
    }

    async fn lag(&mut self, broker: &dyn Broker) {
        for (group, topics) in GROUPS {
            let subject = format!("{}.{group}", broker.prefix());
            match broker.lag(group, topics).await {
                Ok(partitions) => {
                    let behind: i64 = partitions
                        .iter()
                        .map(|one| one.committed.map_or(0, |committed| (one.end - committed).max(0)))
                        .sum();
                    let without = partitions.iter().filter(|one| one.committed.is_none()).count();
                    let mut message = format!("{behind} offsets behind the end of its topics");
                    if without > 0 {
                        message.push_str(&format!(", no position yet in {without} partitions"));
                    }
                    self.good(&subject, message);
                }
                Err(error) => self.wrong(&subject, error.to_string()),
            }
        }
    }

    pub(super) async fn store(&mut self) {
        if !has_mongodb(self.settings) {
            return self.good(
                "status store",
                "a file in the data folder; --mongodb names a MongoDB",
            );
        }
        let subject = "MongoDB";
        let store = match MongoStore::connect(&self.settings.store) {
            Ok(store) => store,
            Err(error) => return self.wrong(subject, error.to_string()),
        };
        match store.server().await {
            Ok(server) => {
                self.good(subject, format!("answers, version {}", server.version));
                if !server.has_replicas {
                    self.warn(
                        subject,
                        "it is a server without replicas: with its disk the status is lost until it is rebuilt from the topics",
                    );
                }
                if let Some(theirs) = server.now {
                    self.compare_clock(subject, theirs, 0);
                }
            }
            Err(error) => {
                let set_by = self.set_by("store.mongodb.url");
                self.wrong(
                    subject,
                    format!("{error}; events go out without it, but nobody can look them up ({set_by})"),
                );
            }
        }
    }
}
