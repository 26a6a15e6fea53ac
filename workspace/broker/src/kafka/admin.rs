//! Topics, groups and settings of the cluster: what `topics create` makes and `topics check` looks at.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use posthaste_event::{
    Topic,
    topic::{Cleanup, GROUPS},
};
use rdkafka::{
    ClientConfig, Offset,
    admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication},
    consumer::{BaseConsumer, CommitMode, Consumer as _},
    error::RDKafkaErrorCode,
};

use super::{
    client::{Context, Link, refused, unreachable},
    native::Committed,
    positions,
    topics::Topics,
    transaction::TRANSACTION_TIMEOUT_MS,
};
use crate::{BrokerError, Finding, GroupLag, Partition, Severity, completion::METADATA_CHARS_MAX};

/// How long the cluster may take for one request.
const ADMIN_TIMEOUT: Duration = Duration::from_secs(15);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
const RETRY_WAIT: Duration = Duration::from_millis(50);
/// How long a new topic may take until every partition has a leader.
const LEADERS_TIMEOUT: Duration = Duration::from_secs(15);

/// A day, in minutes.
const DAY_MINUTES: i64 = 24 * 60;

/// Works on the cluster.
pub(super) struct Admin {
    pub(super) base: ClientConfig,
    pub(super) link: Arc<Link>,
    pub(super) topics: Arc<Topics>,
    pub(super) observer: Arc<BaseConsumer<Context>>,
    pub(super) partitions: u32,
    pub(super) replication: u32,
    pub(super) record_bytes_max: usize,
}

/// What a topic is configured with.
fn topic_config(topic: Topic, replication: u32) -> Vec<(&'static str, &'static str)> {
    let cleanup = match topic.cleanup() {
        Cleanup::Delete => "delete",
        Cleanup::Compact => "compact",
    };
    vec![
        ("cleanup.policy", cleanup),
        ("retention.ms", "-1"),
        ("retention.bytes", "-1"),
        // The wheel counts from when the broker took a record, and every reader is told that time.
        ("message.timestamp.type", "LogAppendTime"),
        ("min.insync.replicas", if replication >= 3 { "2" } else { "1" }),
    ]
}

impl Admin {
    fn client(&self) -> Result<AdminClient<Context>, BrokerError> {
        self.base
            .create_with_context(Context::new(&self.link))
            .map_err(|error| refused(&error))
    }

    /// A client that asks and commits for a group without joining it.
    fn outsider(&self, group: &str) -> Result<BaseConsumer<Context>, BrokerError> {
        let mut config = self.base.clone();
        config
            .set("group.id", self.topics.group(group))
            .set("isolation.level", "read_uncommitted")
            .set("enable.auto.commit", "false");
        config
            .create_with_context(Context::new(&self.link))
            .map_err(|error| refused(&error))
    }

    /// What the outsider's group has committed. A coordinator that has just come up says for a moment that it is none.
    fn committed(
        &self,
        outsider: &BaseConsumer<Context>,
        partitions: &[Partition],
    ) -> Result<HashMap<Partition, Committed>, BrokerError> {
        let deadline = Instant::now() + ADMIN_TIMEOUT;
        loop {
            match positions::committed_by(outsider, &self.topics, partitions, ANSWER_TIMEOUT) {
                Err(BrokerError::Unreachable(_)) if Instant::now() < deadline => {
                    std::thread::sleep(RETRY_WAIT);
                }
                answer => return answer,
            }
        }
    }

    /// See [`crate::Broker::create_topics`].
    pub(super) async fn create(self: Arc<Self>) -> Result<Vec<Finding>, BrokerError> {
        let mut findings = self.create_missing().await?;
        let more = blocking(move || {
            self.wait_for_leaders()?;
            self.start_groups()
        })
        .await?;
        findings.extend(more);
        Ok(findings)
    }

    async fn create_missing(&self) -> Result<Vec<Finding>, BrokerError> {
        let replication = i32::try_from(self.replication).unwrap_or(1);
        let partitions = i32::try_from(self.partitions).unwrap_or(1);
        let new = Topic::ALL.map(|topic| NewTopic {
            name: self.topics.name(topic),
            num_partitions: partitions,
            replication: TopicReplication::Fixed(replication),
            config: topic_config(topic, self.replication),
        });
        let client = self.client()?;
        let options = AdminOptions::new()
            .request_timeout(Some(ADMIN_TIMEOUT))
            .operation_timeout(Some(ADMIN_TIMEOUT));
        let results = client
            .create_topics(&new, &options)
            .await
            .map_err(|error| unreachable("creating topics", &error))?;
        // Its thread is joined on drop.
        let _ = blocking(move || {
            drop(client);
            Ok(())
        })
        .await;
        results
            .into_iter()
            .map(|result| match result {
                Ok(name) => Ok(good(
                    name,
                    format!("created with {partitions} partitions, replication {replication}"),
                )),
                Err((name, RDKafkaErrorCode::TopicAlreadyExists)) => Ok(good(name, "exists".to_owned())),
                Err((name, code)) => Err(BrokerError::Refused(format!("{name} cannot be created: {code}"))),
            })
            .collect()
    }

    fn wait_for_leaders(&self) -> Result<(), BrokerError> {
        let deadline = Instant::now() + LEADERS_TIMEOUT;
        loop {
            let ready = self
                .topics
                .all_partitions(&self.observer, &Topic::ALL)
                .and_then(|all| positions::ends(&self.observer, &self.topics, &all));
            match ready {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() >= deadline => return Err(error),
                Err(_) => std::thread::sleep(RETRY_WAIT),
            }
        }
    }

    /// Commits the start for groups that have no position yet. Not on topics that hold records already: their first record
    /// may be history that was sent long ago, and which start is right only people can say.
    fn start_groups(&self) -> Result<Vec<Finding>, BrokerError> {
        let mut findings = Vec::new();
        for (group, topics) in GROUPS {
            let outsider = self.outsider(group)?;
            let subject = self.topics.group(group);
            let mut starts = Vec::new();
            for topic in topics.iter().copied() {
                match self.start_of(&outsider, topic)? {
                    Standing::Has => {}
                    Standing::New(offsets) => starts.extend(offsets),
                    Standing::Unclear => findings.push(self.unclear(&subject, topic)),
                }
            }
            if starts.is_empty() {
                findings.push(good(subject, "has its positions".to_owned()));
                continue;
            }
            let list = positions::list(
                &self.topics,
                starts
                    .iter()
                    .map(|(partition, offset)| (*partition, Offset::Offset(*offset))),
            );
            findings.push(match outsider.commit(&list, CommitMode::Sync) {
                Ok(()) => good(subject, format!("starts in {} partitions", starts.len())),
                // Members that are there already commit the start of new partitions themselves.
                Err(error) => warning(subject, format!("its start could not be committed: {error}")),
            });
        }
        Ok(findings)
    }

    fn unclear(&self, group: &str, topic: Topic) -> Finding {
        let name = self.topics.name(topic);
        Finding {
            severity: Severity::Error,
            subject: group.to_owned(),
            message: format!(
                "has no position on {name}, which holds records: decide whether they were sent, then run \
                 kafka-consumer-groups.sh --group {group} --topic {name} --reset-offsets \
                 --to-earliest (send them all) or --to-latest (send none) --execute"
            ),
        }
    }

    fn start_of(&self, outsider: &BaseConsumer<Context>, topic: Topic) -> Result<Standing, BrokerError> {
        let all = self.topics.all_partitions(&self.observer, &[topic])?;
        let committed = self.committed(outsider, &all)?;
        if committed.values().any(|committed| committed.offset >= 0) {
            return Ok(Standing::Has);
        }
        let ends = positions::ends(&self.observer, &self.topics, &all)?;
        if ends.values().any(|(low, high)| low != high) {
            return Ok(Standing::Unclear);
        }
        Ok(Standing::New(
            ends.into_iter()
                .map(|(partition, (low, _))| (partition, low))
                .collect(),
        ))
    }

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
                    message: "is missing; `posthaste topics create` makes it".to_owned(),
                });
                continue;
            };
            present.push(topic);
            let partitions = found.partitions().len();
            let replication = found.partitions().iter().map(|one| one.replicas().len()).min();
            let replication = replication.unwrap_or(0);
            findings.push(if partitions != self.partitions as usize {
                warning(
                    name,
                    format!(
                        "has {partitions} partitions, broker.partitions says {}",
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
            let answers = client
                .describe_configs(&[ResourceSpecifier::Broker(broker)], &options)
                .await
                .map_err(|error| unreachable("asking for the broker's settings", &error))?;
            match answers.into_iter().next() {
                Some(Ok(resource)) => findings.extend(check_broker(&values(&resource.entry_map()))),
                _ => findings.push(warning(
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
        for (key, wanted) in topic_config(topic, self.replication) {
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

    /// See [`crate::Broker::lag`]. Blocks.
    pub(super) fn lag(&self, group: &str, topics: &[Topic]) -> Result<Vec<GroupLag>, BrokerError> {
        let all = self.topics.all_partitions(&self.observer, topics)?;
        let outsider = self.outsider(group)?;
        let committed = self.committed(&outsider, &all)?;
        let ends = positions::ends(&self.observer, &self.topics, &all)?;
        Ok(all
            .into_iter()
            .map(|partition| GroupLag {
                partition,
                committed: committed
                    .get(&partition)
                    .map(|committed| committed.offset)
                    .filter(|offset| *offset >= 0),
                end: ends.get(&partition).map_or(0, |(_, high)| *high),
            })
            .collect())
    }
}

/// What of the topics is there.
struct Present {
    findings: Vec<Finding>,
    topics: Vec<Topic>,
    /// A broker to ask for its settings.
    broker: Option<i32>,
}

/// How a group stands on a topic.
enum Standing {
    /// It has a position.
    Has,
    /// It has none, and there is nothing in the topic: it begins here.
    New(Vec<(Partition, i64)>),
    /// It has none, and there are records.
    Unclear,
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
    let mut findings = Vec::new();
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

fn values(entries: &HashMap<&str, &rdkafka::admin::ConfigEntry>) -> HashMap<String, String> {
    entries
        .iter()
        .filter_map(|(key, entry)| Some(((*key).to_owned(), entry.value.clone()?)))
        .collect()
}

fn number(found: &HashMap<String, String>, key: &str) -> Option<i64> {
    found.get(key)?.parse().ok()
}

fn good(subject: String, message: String) -> Finding {
    Finding {
        severity: Severity::Good,
        subject,
        message,
    }
}

fn warning(subject: String, message: String) -> Finding {
    Finding {
        severity: Severity::Warning,
        subject,
        message,
    }
}

/// Runs what blocks on a thread that may.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BrokerError> + Send + 'static,
) -> Result<T, BrokerError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(BrokerError::Refused(format!("a task ended early: {error}"))))
}
