//! Topics and groups of the cluster: what `topics create` makes, and how far groups are behind.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use posthaste_event::{Topic, topic::GROUPS};
use rdkafka::{
    ClientConfig, Offset,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    consumer::{BaseConsumer, CommitMode, Consumer as _},
    error::RDKafkaErrorCode,
};

use super::{
    client::{Context, Link, refused, unreachable},
    hanging::Suspects,
    native::Committed,
    positions,
    topics::Topics,
};
use crate::{BrokerError, Finding, GroupLag, Partition, Severity};

/// How long the cluster may take for one request.
pub(super) const ADMIN_TIMEOUT: Duration = Duration::from_secs(15);
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
const RETRY_WAIT: Duration = Duration::from_millis(50);
/// How long new topics may take until every partition has a leader: with hundreds of partitions on one busy small broker this is
/// not a matter of moments.
const LEADERS_TIMEOUT: Duration = Duration::from_secs(60);

/// Asks again while the cluster is not there yet. Blocks.
fn patiently<T>(ask: impl Fn() -> Result<T, BrokerError>) -> Result<T, BrokerError> {
    let deadline = Instant::now() + ADMIN_TIMEOUT;
    loop {
        match ask() {
            Err(BrokerError::Unreachable(_)) if Instant::now() < deadline => std::thread::sleep(RETRY_WAIT),
            answer => return answer,
        }
    }
}

/// Works on the cluster.
pub(super) struct Admin {
    pub(super) base: ClientConfig,
    pub(super) link: Arc<Link>,
    pub(super) topics: Arc<Topics>,
    pub(super) observer: Arc<BaseConsumer<Context>>,
    pub(super) partitions: u32,
    pub(super) replication: u32,
    pub(super) record_bytes_max: usize,
    pub(super) is_plaintext: bool,
    pub(super) hanging: Suspects,
}

impl Admin {
    pub(super) fn client(&self) -> Result<AdminClient<Context>, BrokerError> {
        self.base
            .create_with_context(Context::new(&self.link))
            .map_err(|error| refused(&error))
    }

    /// A client that asks and commits for a group without joining it.
    pub(super) fn outsider(&self, group: &str) -> Result<BaseConsumer<Context>, BrokerError> {
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
    pub(super) fn committed(
        &self,
        outsider: &BaseConsumer<Context>,
        partitions: &[Partition],
    ) -> Result<HashMap<Partition, Committed>, BrokerError> {
        patiently(|| positions::committed_by(outsider, &self.topics, partitions, ANSWER_TIMEOUT))
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
            config: topic.settings(self.replication).to_vec(),
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

    pub(super) fn unclear(&self, group: &str, topic: Topic) -> Finding {
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

    pub(super) fn start_of(
        &self,
        outsider: &BaseConsumer<Context>,
        topic: Topic,
    ) -> Result<Standing, BrokerError> {
        let all = self.topics.all_partitions(&self.observer, &[topic])?;
        let committed = self.committed(outsider, &all)?;
        if committed.values().any(|committed| committed.offset >= 0) {
            return Ok(Standing::Has);
        }
        // The leaders of new partitions are known here a moment later than to the cluster.
        let ends = patiently(|| positions::ends(&self.observer, &self.topics, &all))?;
        if ends.values().any(|(low, high)| low != high) {
            return Ok(Standing::Unclear);
        }
        Ok(Standing::New(
            ends.into_iter()
                .map(|(partition, (low, _))| (partition, low))
                .collect(),
        ))
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

/// How a group stands on a topic.
pub(super) enum Standing {
    /// It has a position.
    Has,
    /// It has none, and there is nothing in the topic: it begins here.
    New(Vec<(Partition, i64)>),
    /// It has none, and there are records.
    Unclear,
}

pub(super) fn good(subject: String, message: String) -> Finding {
    Finding {
        severity: Severity::Good,
        subject,
        message,
    }
}

pub(super) fn warning(subject: String, message: String) -> Finding {
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
