//! The topics of Posthaste: what each is for, its name, and how the broker must keep it.

use std::{fmt, str::FromStr};

use crate::{Delivery, FieldError, Lane, Priority, fields::excerpt};

/// Partitions of a topic unless configured otherwise.
pub const PARTITIONS_DEFAULT: u32 = 12;

/// Prefix of every topic and consumer group unless configured otherwise.
pub const PREFIX_DEFAULT: &str = "events";

/// A topic, without its prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Topic {
    /// First attempts of critical events. Written by ingestion alone, never in a transaction.
    Critical,
    /// First attempts of all other events. Written by ingestion alone, never in a transaction.
    Default,
    /// Due retries and replays.
    Retry,
    /// Due retries and replays of critical events.
    RetryCritical,
    /// Failures that await a verdict.
    Failed,
    /// Failures of critical events that await a verdict.
    FailedCritical,
    /// Events that are due within [`crate::wheel::HORIZON_MS`].
    DelayNear,
    /// The same for critical events.
    DelayNearCritical,
    /// Events that wait a constant time and are judged again.
    Delay(Tier),
    /// Events given up on; replay reads them.
    DeadLetter,
    /// Requests to cancel; compacted.
    Cancel,
    /// Outcomes and notes; other systems may subscribe to it.
    Status,
    /// Pause and resume, breakers, quota shares; compacted.
    Control,
    /// Templates, configurations, key hashes, suppressions; compacted.
    Definitions,
    /// State of ordering keys; compacted.
    Keys,
    /// Events that other services put there for ingestion to take in.
    Inbox,
    /// Chunks of broadcasts, until they are handed over.
    Broadcasts,
}

/// A constant delay of the wheel, in a topic of its own: within it the log's order is the due order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Tier {
    /// 2 seconds.
    S2,
    /// 8 seconds.
    S8,
    /// 30 seconds.
    S30,
    /// 1 minute.
    M1,
    /// 2 minutes.
    M2,
    /// 4 minutes.
    M4,
    /// 8 minutes.
    M8,
    /// 30 minutes.
    M30,
    /// 2 hours.
    H2,
    /// 8 hours.
    H8,
    /// 1 day.
    D1,
}

impl Tier {
    /// Every tier, shortest first.
    pub const ALL: [Self; 11] = [
        Self::S2,
        Self::S8,
        Self::S30,
        Self::M1,
        Self::M2,
        Self::M4,
        Self::M8,
        Self::M30,
        Self::H2,
        Self::H8,
        Self::D1,
    ];

    /// How long a record waits in this tier, in milliseconds.
    pub const fn delay_ms(self) -> i64 {
        const SECOND: i64 = 1_000;
        const MINUTE: i64 = 60 * SECOND;
        const HOUR: i64 = 60 * MINUTE;
        match self {
            Self::S2 => 2 * SECOND,
            Self::S8 => 8 * SECOND,
            Self::S30 => 30 * SECOND,
            Self::M1 => MINUTE,
            Self::M2 => 2 * MINUTE,
            Self::M4 => 4 * MINUTE,
            Self::M8 => 8 * MINUTE,
            Self::M30 => 30 * MINUTE,
            Self::H2 => 2 * HOUR,
            Self::H8 => 8 * HOUR,
            Self::D1 => 24 * HOUR,
        }
    }

    /// The tier's name, the last part of its topic's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::S2 => "2s",
            Self::S8 => "8s",
            Self::S30 => "30s",
            Self::M1 => "1m",
            Self::M2 => "2m",
            Self::M4 => "4m",
            Self::M8 => "8m",
            Self::M30 => "30m",
            Self::H2 => "2h",
            Self::H8 => "8h",
            Self::D1 => "1d",
        }
    }
}

/// How the broker must keep a topic's records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cleanup {
    /// Kept until the janitor deletes what every group is done with; the broker itself expires nothing.
    Delete,
    /// The latest value per key is kept.
    Compact,
}

impl Topic {
    /// Every topic, in the order in which they are created.
    pub const ALL: [Self; 27] = [
        Self::Critical,
        Self::Default,
        Self::Retry,
        Self::RetryCritical,
        Self::Failed,
        Self::FailedCritical,
        Self::DelayNear,
        Self::DelayNearCritical,
        Self::Delay(Tier::S2),
        Self::Delay(Tier::S8),
        Self::Delay(Tier::S30),
        Self::Delay(Tier::M1),
        Self::Delay(Tier::M2),
        Self::Delay(Tier::M4),
        Self::Delay(Tier::M8),
        Self::Delay(Tier::M30),
        Self::Delay(Tier::H2),
        Self::Delay(Tier::H8),
        Self::Delay(Tier::D1),
        Self::DeadLetter,
        Self::Cancel,
        Self::Status,
        Self::Control,
        Self::Definitions,
        Self::Keys,
        Self::Inbox,
        Self::Broadcasts,
    ];

    /// The topic's name without the prefix, such as `delay.near.critical`.
    pub const fn suffix(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::Default => "default",
            Self::Retry => "retry",
            Self::RetryCritical => "retry.critical",
            Self::Failed => "failed",
            Self::FailedCritical => "failed.critical",
            Self::DelayNear => "delay.near",
            Self::DelayNearCritical => "delay.near.critical",
            Self::Delay(Tier::S2) => "delay.2s",
            Self::Delay(Tier::S8) => "delay.8s",
            Self::Delay(Tier::S30) => "delay.30s",
            Self::Delay(Tier::M1) => "delay.1m",
            Self::Delay(Tier::M2) => "delay.2m",
            Self::Delay(Tier::M4) => "delay.4m",
            Self::Delay(Tier::M8) => "delay.8m",
            Self::Delay(Tier::M30) => "delay.30m",
            Self::Delay(Tier::H2) => "delay.2h",
            Self::Delay(Tier::H8) => "delay.8h",
            Self::Delay(Tier::D1) => "delay.1d",
            Self::DeadLetter => "dead-letter",
            Self::Cancel => "cancel",
            Self::Status => "status",
            Self::Control => "control",
            Self::Definitions => "definitions",
            Self::Keys => "keys",
            Self::Inbox => "inbox",
            Self::Broadcasts => "broadcasts",
        }
    }

    /// The full name on the broker.
    pub fn name(self, prefix: &str) -> String {
        format!("{prefix}.{}", self.suffix())
    }

    /// The topic that has this full name under `prefix`, if any.
    pub fn from_name(name: &str, prefix: &str) -> Option<Self> {
        let suffix = name.strip_prefix(prefix)?.strip_prefix('.')?;
        suffix.parse().ok()
    }

    /// How the broker must keep this topic's records.
    pub const fn cleanup(self) -> Cleanup {
        match self {
            Self::Cancel | Self::Control | Self::Definitions | Self::Keys => Cleanup::Compact,
            _ => Cleanup::Delete,
        }
    }

    /// What a Kafka topic is set to, by Kafka's names. `kafka-topics.sh` does the same (`cargo xtask tidy` compares them).
    pub const fn settings(self, replication: u32) -> [(&'static str, &'static str); 7] {
        let cleanup = match self.cleanup() {
            Cleanup::Delete => "delete",
            Cleanup::Compact => "compact",
        };
        [
            ("cleanup.policy", cleanup),
            // The broker expires nothing by itself: what is not done with would be lost.
            ("retention.ms", "-1"),
            ("retention.bytes", "-1"),
            // Deleting frees the disk a segment at a time, and never the one that is being written.
            ("segment.bytes", "134217728"),
            ("segment.ms", "86400000"),
            // The wheel counts from when the broker took a record, and every reader is told that time.
            ("message.timestamp.type", "LogAppendTime"),
            ("min.insync.replicas", if replication >= 3 { "2" } else { "1" }),
        ]
    }

    /// Whether this is one of the wheel's topics, whose records carry the broker's append time.
    pub const fn is_delay(self) -> bool {
        matches!(self, Self::DelayNear | Self::DelayNearCritical | Self::Delay(_))
    }

    /// Where a first attempt goes.
    pub const fn first_attempt(priority: Priority) -> Self {
        if priority.is_critical() {
            Self::Critical
        } else {
            Self::Default
        }
    }

    /// Where a failure awaits its verdict.
    pub const fn failed(priority: Priority) -> Self {
        if priority.is_critical() {
            Self::FailedCritical
        } else {
            Self::Failed
        }
    }

    /// Where the wheel or a replay puts an event that may go now.
    pub fn due(delivery: &Delivery) -> Self {
        match delivery.lane {
            Lane::Critical | Lane::RetryCritical => Self::RetryCritical,
            Lane::Default | Lane::Retry => Self::Retry,
        }
    }
}

/// The groups (without prefix) that read `topic`.
pub fn groups_of(topic: Topic) -> impl Iterator<Item = &'static str> {
    GROUPS
        .iter()
        .filter(move |(_, topics)| topics.contains(&topic))
        .map(|(group, _)| *group)
}

/// Every consumer group (without prefix) and the topics that it reads. Members of a group may subscribe to a part of them.
pub const GROUPS: &[(&str, &[Topic])] = &[
    ("dispatcher.critical", &[Topic::Critical, Topic::RetryCritical]),
    ("dispatcher.default", &[Topic::Default]),
    ("dispatcher.retry", &[Topic::Retry]),
    ("retry", &[Topic::Failed, Topic::FailedCritical]),
    (
        "wheel",
        &[
            Topic::DelayNear,
            Topic::DelayNearCritical,
            Topic::Delay(Tier::S2),
            Topic::Delay(Tier::S8),
            Topic::Delay(Tier::S30),
            Topic::Delay(Tier::M1),
            Topic::Delay(Tier::M2),
            Topic::Delay(Tier::M4),
            Topic::Delay(Tier::M8),
            Topic::Delay(Tier::M30),
            Topic::Delay(Tier::H2),
            Topic::Delay(Tier::H8),
            Topic::Delay(Tier::D1),
        ],
    ),
    ("replay", &[Topic::DeadLetter]),
    ("broadcast", &[Topic::Broadcasts]),
    ("projector", PROJECTED),
    ("inbox", &[Topic::Inbox]),
];

/// The topics whose records tell what became of events.
pub const PROJECTED: &[Topic] = &[
    Topic::Critical,
    Topic::Default,
    Topic::Retry,
    Topic::RetryCritical,
    Topic::Failed,
    Topic::FailedCritical,
    Topic::DelayNear,
    Topic::DelayNearCritical,
    Topic::Delay(Tier::S2),
    Topic::Delay(Tier::S8),
    Topic::Delay(Tier::S30),
    Topic::Delay(Tier::M1),
    Topic::Delay(Tier::M2),
    Topic::Delay(Tier::M4),
    Topic::Delay(Tier::M8),
    Topic::Delay(Tier::M30),
    Topic::Delay(Tier::H2),
    Topic::Delay(Tier::H8),
    Topic::Delay(Tier::D1),
    Topic::DeadLetter,
    Topic::Status,
];

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.suffix())
    }
}

impl FromStr for Topic {
    type Err = FieldError;

    /// Reads a name without its prefix.
    fn from_str(suffix: &str) -> Result<Self, FieldError> {
        Self::ALL
            .into_iter()
            .find(|topic| topic.suffix() == suffix)
            .ok_or_else(|| {
                FieldError::new(
                    "topic",
                    format!("unknown topic {:?}", excerpt(suffix)),
                    Self::ALL.map(Self::suffix).join(", "),
                )
            })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_unique_and_read_back() {
        let names: HashSet<_> = Topic::ALL.iter().map(|topic| topic.name("events")).collect();
        assert_eq!(names.len(), Topic::ALL.len());
        for topic in Topic::ALL {
            assert_eq!(Topic::from_name(&topic.name("a.b"), "a.b"), Some(topic));
        }
        assert_eq!(Topic::from_name("eventscritical", "events"), None);
    }

    #[test]
    fn whatever_waits_is_read_by_the_wheel_and_projected() {
        for topic in Topic::ALL.into_iter().filter(|topic| topic.is_delay()) {
            let groups: Vec<_> = groups_of(topic).collect();
            assert_eq!(groups, ["wheel", "projector"], "{topic}");
        }
        for tier in Tier::ALL {
            assert!(Topic::ALL.contains(&Topic::Delay(tier)), "{tier:?}");
        }
    }

    #[test]
    fn tiers_are_in_order_and_named_after_their_delay() {
        assert!(
            Tier::ALL
                .windows(2)
                .all(|pair| pair[0].delay_ms() < pair[1].delay_ms())
        );
        for tier in Tier::ALL {
            assert_eq!(Topic::Delay(tier).suffix(), format!("delay.{}", tier.as_str()));
        }
    }
}
