//! Why a broker does not do what it was asked.

use crate::Partition;
#[cfg(doc)]
use crate::{Hopper, Tracking};

/// Why a hop did not happen. Broker outages are not among these: a hop waits them out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HopError {
    /// The partition is no longer ours, or the record was finished by somebody else: the outcome is void, drop it.
    #[error("the partition belongs to another member now; the outcome is void")]
    Fenced,
    /// A record is larger than the broker takes. The hop's tickets are given back: its records come again, for a smaller one.
    #[error("a record of {bytes} bytes is larger than the broker takes")]
    TooLarge {
        /// Size of the record, in bytes.
        bytes: usize,
    },
    /// The consumer was closed.
    #[error("the consumer is closed")]
    Closed,
    /// Only of [`Hopper::start`]: the commit cannot name one more started record. Try again when others are finished.
    #[error("the commit has no room to mark another record as started")]
    NoRoom,
}

/// Why an append did not succeed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// Nothing was appended: too much is waiting. Try again later.
    #[error("too many appends are waiting")]
    Full,
    /// It was not confirmed in time and may still land.
    #[error("the broker did not confirm in time: {reason}")]
    Unconfirmed {
        /// What the broker said.
        reason: String,
    },
    /// Nothing was appended: the record is larger than the broker takes.
    #[error("a record of {bytes} bytes is larger than the broker takes")]
    TooLarge {
        /// Size of the record, in bytes.
        bytes: usize,
    },
}

/// Why something cannot be done at all.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// The broker cannot be reached; worth trying again.
    #[error("broker unreachable: {0}")]
    Unreachable(String),
    /// Topics are missing.
    #[error("missing topics: {}; `posthaste topics create` makes them", .0.join(", "))]
    MissingTopics(Vec<String>),
    /// The group has no committed position in any partition of a topic that holds records: reading from the start could
    /// send history again.
    #[error(
        "group {group} has no position on {topic}; `posthaste topics create` sets the start for new groups"
    )]
    NoPositions {
        /// Full name of the group.
        group: String,
        /// Full name of the topic.
        topic: String,
    },
    /// A record was not finished for long, though nothing explains that: see [`crate::watchdog`].
    #[error(
        "offset {offset} of {partition} was not finished for {seconds} s though nothing is in its way; it is taken up again"
    )]
    Stalled {
        /// Where it is.
        partition: Partition,
        /// Which one.
        offset: i64,
        /// For how long, in seconds.
        seconds: u64,
    },
    /// Records of ours were not handed out for long, though nothing explains that: see [`crate::watchdog`].
    #[error(
        "{partition} was not read on from offset {offset} for {seconds} s though there are records and nothing is in the way; \
         the group is joined anew"
    )]
    Unheard {
        /// Where they are.
        partition: Partition,
        /// Where reading should go on.
        offset: i64,
        /// For how long, in seconds.
        seconds: u64,
    },
    /// The data folder or file cannot be used.
    #[error("{0}")]
    Storage(String),
    /// The committed map of finished records cannot be read; the partition is not touched.
    #[error("the commit metadata of {partition} for group {group} cannot be read: {reason}")]
    Metadata {
        /// Which partition.
        partition: String,
        /// Full name of the group.
        group: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Anything else that the broker refuses.
    #[error("{0}")]
    Refused(String),
}

impl BrokerError {
    /// Whether trying again later can help without anybody's doing.
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::MissingTopics(_) | Self::Stalled { .. } | Self::Unheard { .. } => {
                true
            }
            Self::NoPositions { .. } | Self::Storage(_) | Self::Metadata { .. } | Self::Refused(_) => false,
        }
    }
}
