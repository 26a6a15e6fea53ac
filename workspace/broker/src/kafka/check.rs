//! What `topics check` looks at: topics, groups, and the settings of the cluster that fight the design.

use std::{collections::HashMap, sync::Arc};

use posthaste_event::{
    Topic,
    topic::{Cleanup, GROUPS},
};
use rdkafka::{
    admin::{AdminOptions, ConfigEntry, ResourceSpecifier},
    consumer::Consumer as _,
};

use super::{
    admin::{ADMIN_TIMEOUT, ANSWER_TIMEOUT, Admin, Standing, blocking, good, warning},
    client::unreachable,
    transaction::TRANSACTION_TIMEOUT_MS,
};
use crate::{BrokerError, Finding, Severity, completion::METADATA_CHARS_MAX};

/// What is said of a topic that is not there.
const MISSING: &str = "is missing; `posthaste topics create` makes it";

/// The oldest Kafka whose transactions are fenced by the group's generation (KIP-447), which hops need.
const KAFKA_MIN: (u32, u32) = (2, 5);

/// The oldest Kafka that Posthaste is tested with.
const KAFKA_TESTED: (u32, u32) = (4, 0);

/// A day, in minutes.
const DAY_MINUTES: i64 = 24 * 60;

/// What of the topics is there.
struct Present {
    findings: Vec<Finding>,
    topics: Vec<Topic>,
    /// A broker to ask for its settings.
    broker: Option<i32>,
}

impl Admin {
    /// See [`crate::Broker::check_topics`].
    pub(super) async fn check(self: Arc<Self>) -> Result<Vec<Finding>, BrokerError> {
        let this = Arc::clone(&self);
        let Present {
            mut findings,
            topics: present,
            broker,
        } = blocking(move || this.check_partitions()).await?;
        findings.extend(self.check_settings(&present, broker).await?);
        let groups = blocking(move || self.check_groups(&present)).await?;
        findings.extend(groups);
        Ok(findings)
    }

    fn check_partitions(&self) -> Result<Present, BrokerError> {
        let metadata = self
            .observer
            .fetch_metadata(None, ANSWER_TIMEOUT)
            .map_err(|error| unreachable("asking for the topics", &error))?;
        let broker = metadata.brokers().first().map(|broker| broker.id());
        let by_name: HashMap<&str, _> = metadata
            .topics()
            .iter()
            .map(|topic| (topic.name(), topic))
            .collect();
        let mut findings = Vec::new();
        let mut present = Vec::new();
        for topic in Topic::ALL {
            let name = self.topics.name(topic).to_owned();
            let Some(found) = by_name
                .get(name.as_str())
                .filter(|found| !found.partitions().is_empty())
            else {
                findings.push(Finding {
                    severity: Severity::Error,
                    subject: name,
                    message: MISSING.to_owned(),
                });
                continue;
            };
            present.push(topic);
            let partitions = found.partitions().len();
            let replication = found.partitions().iter().map(|one| one.replicas().len()).min();
            let replication = replication.unwrap_or(0);
            findings.push(if let Some(problem) = self.too_few(topic, partitions) {
                Finding {
                    severity: Severity::Error,
                    subject: name,
                    message: problem,
                }
            } else if partitions != self.partitions as usize && topic.cleanup() == Cleanup::Delete {
                warning(
                    name,
                    format!(
                        "has {partitions} partitions, more than broker.partitions, {}",
                        self.partitions
                    ),
                )
            } else if replication < self.replication as usize {
                warning(
                    name,
                    format!(
                        "is kept {replication} times, broker.kafka.replication says {}",
                        self.replication
                    ),
                )
            } else {
                good(
                    name,
                    format!("{partitions} partitions, replication {replication}"),
                )
            });
        }
        Ok(Present {
            findings,
            topics: present,
            broker,
        })
    }

    /// Fewer partitions than configured are a mistake in one of the two. Compacted topics are never widened: a key's old
    /// value would stay in its old partition.
    fn too_few(&self, topic: Topic, partitions: usize) -> Option<String> {
        let is_wrong = partitions < self.partitions as usize && topic.cleanup() == Cleanup::Delete;
        is_wrong.then(|| {
            format!(
                "has {partitions} partitions, broker.partitions says {}; give it more with every service stopped \
                 (`PARTITIONS={} ./kafka-topics.sh widen`), or set broker.partitions = {partitions}",
                self.partitions, self.partitions
            )
        })
    }

    /// What a service must not start with: too few partitions, a Kafka that is too old. Topics that are not there yet are
    /// left to who needs them.
    ///
    /// # Errors
    /// `Refused` with everything that is wrong, `Unreachable` when the cluster does not answer.
    pub(super) async fn fit(self: Arc<Self>) -> Result<(), BrokerError> {
        let this = Arc::clone(&self);
        let Present { findings, broker, .. } = blocking(move || this.check_partitions()).await?;
        let mut wrong: Vec<Finding> = findings
            .into_iter()
            .filter(|finding| finding.severity == Severity::Error && finding.message != MISSING)
            .collect();
        if let Some(broker) = broker {
            let settings = self.broker_settings(broker).await;
            // Who may not read the broker's settings can work all the same.
            let version = settings.ok().flatten().and_then(|found| check_version(&found));
            wrong.extend(version.filter(|finding| finding.severity == Severity::Error));
        }
        if wrong.is_empty() {
            return Ok(());
        }
        let lines: Vec<String> = wrong
            .iter()
            .map(|finding| format!("{}: {}", finding.subject, finding.message))
            .collect();
        Err(BrokerError::Refused(lines.join("\n")))
    }

    /// The settings of a broker; nothing when it does not tell them.
    async fn broker_settings(&self, broker: i32) -> Result<Option<HashMap<String, String>>, BrokerError> {
        let client = self.client()?;
        let options = AdminOptions::new().request_timeout(Some(ADMIN_TIMEOUT));
        let answers = client
            .describe_configs(&[ResourceSpecifier::Broker(broker)], &options)
            .await
            .map_err(|error| unreachable("asking for the broker's settings", &error))?;
        let found = match answers.into_iter().next() {
            Some(Ok(resource)) => Some(values(&resource.entry_map())),
            _ => None,
        };
        let _ = blocking(move || {
            drop(client);
            Ok(())
        })
        .await;
        Ok(found)
    }

    async fn check_settings(
        &self,
        present: &[Topic],
        broker: Option<i32>,
    ) -> Result<Vec<Finding>, BrokerError> {
        let client = self.client()?;
        let specifiers: Vec<_> = present
            .iter()
            .map(|topic| ResourceSpecifier::Topic(self.topics.name(*topic)))
            .collect();
        let options = AdminOptions::new().request_timeout(Some(ADMIN_TIMEOUT));
        let mut findings = Vec::new();
        if !specifiers.is_empty() {
            let answers = client
                .describe_configs(&specifiers, &options)
                .await
                .map_err(|error| unreachable("asking for the topics' settings", &error))?;
            for (topic, answer) in present.iter().zip(answers) {
                match answer {
                    Ok(resource) => self.check_topic(*topic, &values(&resource.entry_map()), &mut findings),
                    Err(code) => findings.push(warning(
                        self.topics.name(*topic).to_owned(),
                        format!("its settings cannot be read: {code}"),
                    )),
                }
            }
        }
        if let Some(broker) = broker {
            match self.broker_settings(broker).await? {
                Some(found) => findings.extend(check_broker(&found)),
                None => findings.push(warning(
                    format!("broker {broker}"),
                    "its settings cannot be read".to_owned(),
                )),
            }
        }
        let _ = blocking(move || {
            drop(client);
            Ok(())
        })
        .await;
        Ok(findings)
    }

    fn check_topic(&self, topic: Topic, found: &HashMap<String, String>, findings: &mut Vec<Finding>) {
        let name = self.topics.name(topic);
        for (key, wanted) in topic.settings(self.replication) {
            let is = found.get(key).map_or("", String::as_str);
            if is != wanted {
                let severity = match key {
                    // The broker would throw events away.
                    "cleanup.policy" | "retention.ms" | "retention.bytes" => Severity::Error,
                    "message.timestamp.type" if topic.is_delay() => Severity::Error,
                    _ => Severity::Warning,
                };
                findings.push(Finding {
                    severity,
                    subject: name.to_owned(),
                    message: format!("{key} is {is}; it should be {wanted}"),
                });
            }
        }
        let bytes_max = number(found, "max.message.bytes");
        if bytes_max.is_some_and(|max| max < self.record_bytes_max as i64) {
            findings.push(Finding {
                severity: Severity::Error,
                subject: name.to_owned(),
                message: format!(
                    "max.message.bytes is {}; it should be at least broker.record_bytes_max, {}",
                    bytes_max.unwrap_or_default(),
                    self.record_bytes_max
                ),
            });
        }
    }

    fn check_groups(&self, present: &[Topic]) -> Result<Vec<Finding>, BrokerError> {
        let mut findings = Vec::new();
        for (group, topics) in GROUPS {
            let outsider = self.outsider(group)?;
            let subject = self.topics.group(group);
            let before = findings.len();
            for topic in topics.iter().copied().filter(|topic| present.contains(topic)) {
                match self.start_of(&outsider, topic)? {
                    Standing::Has => {}
                    Standing::New(_) => findings.push(warning(
                        subject.clone(),
                        format!(
                            "has no position on {}; `posthaste topics create` sets its start",
                            self.topics.name(topic)
                        ),
                    )),
                    Standing::Unclear => findings.push(self.unclear(&subject, topic)),
                }
            }
            if findings.len() == before {
                findings.push(good(subject, "has its positions".to_owned()));
            }
        }
        Ok(findings)
    }
}

/// Settings of the broker that fight the design.
fn check_broker(found: &HashMap<String, String>) -> Vec<Finding> {
    let at_least = [
        (
            "transaction.max.timeout.ms",
            i64::from(TRANSACTION_TIMEOUT_MS),
            Severity::Error,
            "hops use transactions of this length",
        ),
        (
            "offset.metadata.max.bytes",
            METADATA_CHARS_MAX as i64,
            Severity::Error,
            "the map of finished records needs as much",
        ),
        (
            "offsets.retention.minutes",
            7 * DAY_MINUTES,
            Severity::Warning,
            "a group that is away for longer loses its positions",
        ),
    ];
    let mut findings: Vec<Finding> = check_version(found).into_iter().collect();
    for (key, least, severity, why) in at_least {
        if let Some(is) = number(found, key) {
            findings.push(if is < least {
                Finding {
                    severity,
                    subject: key.to_owned(),
                    message: format!("is {is}; it should be at least {least}: {why}"),
                }
            } else {
                good(key.to_owned(), format!("is {is}"))
            });
        }
    }
    const CLEANUP: &str = "transaction.abort.timed.out.transaction.cleanup.interval.ms";
    if let Some(is) = number(found, CLEANUP).filter(|is| *is > 10_000) {
        findings.push(warning(
            CLEANUP.to_owned(),
            format!("is {is}; the transactions of a dead instance hold its partitions back for as long"),
        ));
    }
    if found
        .get("auto.create.topics.enable")
        .is_some_and(|is| is == "true")
    {
        findings.push(warning(
            "auto.create.topics.enable".to_owned(),
            "is true; a topic that is created by accident has the wrong settings".to_owned(),
        ));
    }
    findings
}

/// A broker tells no client its version, but up to Kafka 3 it has a setting that follows it; Kafka 4 has done away with it.
fn check_version(found: &HashMap<String, String>) -> Option<Finding> {
    let subject = "Kafka".to_owned();
    let Some(told) = found.get("inter.broker.protocol.version") else {
        return Some(good(subject, "version 4 or later".to_owned()));
    };
    let mut numbers = told.split(['.', '-']).map(str::parse::<u32>);
    let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else {
        return None;
    };
    let version = (major, minor);
    let (min, tested) = (KAFKA_MIN, KAFKA_TESTED);
    Some(if version < min {
        Finding {
            severity: Severity::Error,
            subject,
            message: format!(
                "version {told} is too old: its transactions cannot be fenced; accepted: {}.{} or later, best {}",
                min.0, min.1, tested.0
            ),
        }
    } else if version < tested {
        warning(
            subject,
            format!(
                "speaks version {told}; Posthaste is tested with {} and later",
                tested.0
            ),
        )
    } else {
        good(subject, format!("version {told}"))
    })
}

fn values(entries: &HashMap<&str, &ConfigEntry>) -> HashMap<String, String> {
    entries
        .iter()
        .filter_map(|(key, entry)| Some(((*key).to_owned(), entry.value.clone()?)))
        .collect()
}

fn number(found: &HashMap<String, String>, key: &str) -> Option<i64> {
    found.get(key)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kafka_that_is_too_old_is_an_error_and_an_untested_one_a_warning() {
        let of = |version: Option<&str>| {
            let told =
                version.map(|version| ("inter.broker.protocol.version".to_owned(), version.to_owned()));
            check_version(&told.into_iter().collect())
        };
        for (version, severity) in [
            (Some("0.11.0-IV2"), Severity::Error),
            (Some("2.4-IV1"), Severity::Error),
            (Some("2.5-IV0"), Severity::Warning),
            (Some("3.9-IV0"), Severity::Warning),
            (Some("4.1-IV1"), Severity::Good),
            (None, Severity::Good),
        ] {
            assert_eq!(of(version).unwrap().severity, severity, "{version:?}");
        }
        assert_eq!(of(Some("new")), None);
        assert_eq!(
            of(Some("2.4-IV1")).unwrap().message,
            "version 2.4-IV1 is too old: its transactions cannot be fenced; accepted: 2.5 or later, best 4"
        );
    }
}
