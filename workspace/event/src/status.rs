//! What can become of an event, and which status may follow which.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{FieldError, fields::excerpt};

/// Where an event stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Status {
    /// Accepted and durable, not attempted in this generation.
    Pending,
    /// Accepted for a later time.
    Scheduled,
    /// At least one attempt failed; another will follow, or a verdict is awaited.
    Retrying,
    /// The provider accepted it.
    Sent,
    /// The provider reported that it arrived.
    Delivered,
    /// The recipient opened it.
    Read,
    /// Given up; can be replayed.
    DeadLettered,
    /// Withdrawn before it was sent.
    Cancelled,
    /// Its `expiresAt` passed before it was sent.
    Expired,
    /// Not sent on purpose, such as to a suppressed recipient.
    Skipped,
}

/// Who may write a transition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writer {
    /// The intake.
    Ingestion,
    /// A dispatcher, with the outcome of a send or of a check before it.
    Dispatcher,
    /// The retry service: verdicts and the wheel.
    Retry,
    /// The replay service.
    Replay,
    /// A provider's receipt, folded by its own rank.
    Receipt,
}

/// Every allowed step from one status to the next, and who takes it. `None` is "does not exist yet".
pub const TRANSITIONS: &[(Option<Status>, Status, Writer)] = {
    use Status::*;
    use Writer::*;
    &[
        (None, Pending, Ingestion),
        (None, Scheduled, Ingestion),
        (Some(Pending), Pending, Dispatcher), // parked without an attempt
        (Some(Pending), Sent, Dispatcher),
        (Some(Pending), Retrying, Dispatcher),
        (Some(Pending), DeadLettered, Dispatcher), // a record that cannot be read
        (Some(Pending), Cancelled, Dispatcher),
        (Some(Pending), Expired, Dispatcher),
        (Some(Pending), Expired, Retry),
        (Some(Pending), Cancelled, Retry),
        (Some(Pending), DeadLettered, Retry), // parked until it was too old
        (Some(Pending), Skipped, Dispatcher),
        (Some(Scheduled), Pending, Dispatcher), // due, then parked without an attempt
        (Some(Scheduled), Sent, Dispatcher),
        (Some(Scheduled), Retrying, Dispatcher),
        (Some(Scheduled), DeadLettered, Dispatcher),
        (Some(Scheduled), Cancelled, Dispatcher),
        (Some(Scheduled), Expired, Dispatcher),
        (Some(Scheduled), Skipped, Dispatcher),
        (Some(Scheduled), Scheduled, Retry), // for another time
        (Some(Scheduled), Cancelled, Retry),
        (Some(Scheduled), Expired, Retry),
        (Some(Retrying), Retrying, Retry),
        (Some(Retrying), Retrying, Dispatcher),
        (Some(Retrying), Sent, Dispatcher),
        (Some(Retrying), DeadLettered, Retry),
        (Some(Retrying), DeadLettered, Dispatcher),
        (Some(Retrying), Cancelled, Dispatcher),
        (Some(Retrying), Cancelled, Retry),
        (Some(Retrying), Expired, Dispatcher),
        (Some(Retrying), Expired, Retry),
        (Some(Retrying), Skipped, Dispatcher),
        (Some(Sent), Delivered, Receipt),
        (Some(Sent), Read, Receipt),
        (Some(Delivered), Read, Receipt),
        (Some(DeadLettered), Pending, Replay),
    ]
};

impl Status {
    /// Every status, in the order of a life that goes well, then the other ends.
    pub const ALL: [Self; 10] = [
        Self::Pending,
        Self::Scheduled,
        Self::Retrying,
        Self::Sent,
        Self::Delivered,
        Self::Read,
        Self::DeadLettered,
        Self::Cancelled,
        Self::Expired,
        Self::Skipped,
    ];

    /// The name on the wire, such as `DEAD_LETTERED`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Scheduled => "SCHEDULED",
            Self::Retrying => "RETRYING",
            Self::Sent => "SENT",
            Self::Delivered => "DELIVERED",
            Self::Read => "READ",
            Self::DeadLettered => "DEAD_LETTERED",
            Self::Cancelled => "CANCELLED",
            Self::Expired => "EXPIRED",
            Self::Skipped => "SKIPPED",
        }
    }

    /// Whether a generation of the event ends here. Receipts may still refine `Sent`, a replay may reopen `DeadLettered`.
    pub const fn is_final(self) -> bool {
        match self {
            Self::Pending | Self::Scheduled | Self::Retrying => false,
            Self::Sent
            | Self::Delivered
            | Self::Read
            | Self::DeadLettered
            | Self::Cancelled
            | Self::Expired
            | Self::Skipped => true,
        }
    }

    /// Whether `next` may follow `self` when `writer` says so.
    pub fn may_become(self, next: Self, writer: Writer) -> bool {
        TRANSITIONS
            .iter()
            .any(|(from, to, who)| *from == Some(self) && *to == next && *who == writer)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Status {
    type Err = FieldError;

    fn from_str(name: &str) -> Result<Self, FieldError> {
        Self::ALL
            .into_iter()
            .find(|status| status.as_str().eq_ignore_ascii_case(name))
            .ok_or_else(|| {
                FieldError::new(
                    "status",
                    format!("unknown status {:?}", excerpt(name)),
                    Self::ALL.map(Self::as_str).join(", "),
                )
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_can_be_reached_and_only_open_ones_go_on() {
        for status in Status::ALL {
            assert!(
                TRANSITIONS.iter().any(|(_, to, _)| *to == status),
                "{status} is never written"
            );
            if !status.is_final() {
                assert!(
                    status.may_become(Status::Sent, Writer::Dispatcher),
                    "{status} can never be sent"
                );
            }
        }
        for end in [Status::Cancelled, Status::Expired, Status::Skipped, Status::Read] {
            assert!(
                !TRANSITIONS.iter().any(|(from, _, _)| *from == Some(end)),
                "{end} goes on"
            );
        }
    }
}
