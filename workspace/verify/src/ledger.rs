//! What each side says of a run's events.
//!
//! Events go by their number in the run. Times are milliseconds since the Unix epoch, each by the clock of who wrote it.

use std::collections::HashMap;

use posthaste_event::{ErrorKind, Millis, Status};

use crate::topics::Topics;

/// All of it.
#[derive(Debug, Default)]
pub struct Ledgers {
    /// What the client posted, and was answered.
    pub posted: HashMap<u32, Posted>,
    /// What the sandbox received, in its order.
    pub sends: Vec<Send>,
    /// Whether the sandbox lost a part of what it received: it was started anew, or its log was too short.
    pub sends_are_partial: bool,
    /// Where the status API says that events stand.
    pub standings: HashMap<u32, Standing>,
    /// The steps of events that waited for a time or failed, by the status API. Where the topics are at hand they tell.
    pub histories: HashMap<u32, Vec<Step>>,
    /// What stands in the topics, if they could be read.
    pub topics: Option<Topics>,
    /// What was broken on purpose, and when.
    pub faults: Vec<Fault>,
}

/// An event that was posted.
#[derive(Debug, Clone)]
pub struct Posted {
    /// What came of it.
    pub answer: Answer,
    /// Its place among the events of its ordering key, each of which was posted after the one before was answered.
    pub place: Option<Place>,
    /// Not before.
    pub scheduled_at: Option<Millis>,
    /// Not after.
    pub expires_at: Option<Millis>,
    /// Whether it must never be sent again, not even in doubt.
    pub no_duplicate: bool,
    /// When somebody asked for it to be withdrawn, as far as it is known that this was asked.
    pub cancel_asked_at: Option<Millis>,
}

/// A place in the order of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// The key's number.
    pub key: u32,
    /// Rises with each event of the key.
    pub seq: u32,
}

/// What the client knows after posting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// 2xx: it is durable.
    Accepted,
    /// No answer, or one that leaves it open: it may be there or not.
    Unknown,
    /// It was refused, or never left: it is not there.
    Refused,
}

/// A call that the sandbox received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Send {
    /// The event.
    pub event: u32,
    /// When it came.
    pub at: Millis,
    /// Account and number of the idempotency key, `account:n`.
    pub key: Box<str>,
    /// Whether the message was taken.
    pub taken: bool,
    /// Whether the caller was told what came of it. Otherwise it cannot but send again.
    pub answered: bool,
}

/// Where the status API says that an event stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Its status.
    pub status: Status,
    /// Its newest step.
    pub step: u32,
    /// When that was written.
    pub at: Millis,
    /// Sends in this generation.
    pub attempt: u32,
}

/// A step of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Its number.
    pub step: u32,
    /// When it was written.
    pub at: Millis,
    /// The status from then on.
    pub status: Status,
    /// Until when the event waits.
    pub due_at: Option<Millis>,
    /// How the send before it failed, if it did.
    pub error: Option<ErrorKind>,
}

/// Something that was broken on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// What it does.
    pub kind: FaultKind,
    /// From when.
    pub from: Millis,
    /// Until when it was whole again.
    pub until: Millis,
    /// Whether it broke the way to the sandbox, so that a send may have been refused without its knowing.
    pub cuts_sandbox: bool,
}

/// What a fault can do to a send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// Nothing: no event waits for what was broken, or it ended in good order.
    Harmless,
    /// What was under way is forgotten: a process or a server dies, a connection breaks.
    Forgets,
    /// What was under way may arrive much later: a process stands still, a connection is slow.
    Delays,
}

/// Whether an event that stands here will not be sent any more, by itself.
pub const fn is_final(status: Status) -> bool {
    match status {
        Status::Pending | Status::Scheduled | Status::Retrying => false,
        Status::Sent
        | Status::Delivered
        | Status::Read
        | Status::DeadLettered
        | Status::Cancelled
        | Status::Expired
        | Status::Skipped => true,
    }
}

/// Whether a provider took the message.
pub const fn is_sent(status: Status) -> bool {
    matches!(status, Status::Sent | Status::Delivered | Status::Read)
}
