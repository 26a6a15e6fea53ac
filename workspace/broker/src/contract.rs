//! What a broker promises to the services.

use std::{fmt, pin::Pin, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use posthaste_event::{Millis, Topic, Value, partition::Place, record::Foreign};

use crate::error::{AppendError, BrokerError, HopError};
pub use crate::ticket::{Ticket, TicketReturn};

/// One partition of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Partition {
    /// The topic.
    pub topic: Topic,
    /// The partition's number, from 0.
    pub number: u32,
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.number)
    }
}

/// Where a partition ended, now or a moment ago: what is appended from now on is not before this offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the two say what they are")]
pub struct Mark {
    pub partition: Partition,
    pub offset: i64,
}

/// Whether a record is the one that is looked for.
pub type IsIt = Box<dyn Fn(&Record) -> bool + Send>;

/// A record to append.
#[derive(Debug, Clone)]
pub struct NewRecord {
    /// Where to.
    pub topic: Topic,
    /// Decides the partition, and what a compacted topic keeps.
    pub key: Bytes,
    /// `None` is a tombstone on a compacted topic.
    pub value: Option<Bytes>,
    /// The partition, where the key must not decide.
    pub partition: Option<u32>,
}

impl NewRecord {
    /// A record whose key decides its partition.
    pub fn new(topic: Topic, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Self {
            topic,
            key: key.into(),
            value: Some(value.into()),
            partition: None,
        }
    }
}

/// A record that was read.
#[derive(Debug, Clone)]
pub struct Record {
    /// Where it stands.
    pub partition: Partition,
    /// Its place in the partition. Offsets rise but are not contiguous.
    pub offset: i64,
    /// Its key, as it is on the log (a foreign record may have none).
    pub key: Option<Bytes>,
    /// Its value; `None` is a tombstone.
    pub value: Option<Bytes>,
    /// When the broker appended it, in milliseconds since the Unix epoch. Never goes back within a delay topic's partition.
    pub appended_at: Millis,
    /// Its headers, on the inbox alone: no record of ours has any. `None`: it has none.
    pub headers: Option<Box<Headers>>,
}

/// Headers that somebody else gave a record, in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers(pub Vec<Header>);

/// A header of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Its name; what is no UTF-8 in it is replaced.
    pub name: String,
    /// Its value; `None` is no value, which is not the same as an empty one.
    pub value: Option<Vec<u8>>,
}

impl Record {
    /// Reads the value.
    ///
    /// # Errors
    /// The foreign record to put on the dead-letter topic instead, so that the partition goes on.
    pub fn decode(&self, prefix: &str) -> Result<Value, Box<Foreign>> {
        let reason = match &self.value {
            Some(value) => match Value::decode(value) {
                Ok(value) => return Ok(value),
                Err(error) => error.to_string(),
            },
            None => "no value".to_owned(),
        };
        Err(Box::new(Foreign::new(
            self.partition.topic.name(prefix),
            self.partition.number,
            self.offset,
            self.key.as_deref(),
            self.value.as_deref(),
            reason,
        )))
    }
}

/// A record and the duty to finish it.
#[derive(Debug)]
pub struct Consumed {
    /// The record.
    pub record: Record,
    /// Spend it in a hop.
    pub ticket: Ticket,
}

/// A partition that is ours from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Assignment {
    /// The partition.
    pub partition: Partition,
    /// Names this assignment; hops are fenced by it.
    pub epoch: u64,
    /// Where the group stands: the next offset to finish.
    pub committed: i64,
}

/// What a consumer says.
#[derive(Debug)]
pub enum Signal {
    /// These partitions are ours from now on. Comes before their first record.
    Assigned(Vec<Assignment>),
    /// Records, in offset order within a partition. With [`Tracking::Completion`] each comes with a ticket.
    Records(Vec<Consumed>),
    /// The same with [`Tracking::Position`].
    Read(Vec<Record>),
    /// With [`Tracking::Position`]: everything that stood in the partition at this moment has been read. Said once per assignment.
    AtEnd(Partition),
    /// These partitions go to another member: no more of their records come. Hop or drop their tickets; the partition is
    /// given up when none is left, or when the drain time is over.
    Revoking(Vec<Partition>),
    /// These partitions are gone (drained, or taken away): what is still held of them is void.
    Revoked(Vec<Partition>),
}

/// How a consumer's progress is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tracking {
    /// Each record is finished by itself, in any order; the backend keeps the map of what is finished.
    Completion,
    /// The consumer reads on and says itself what position to commit.
    Position,
}

/// Where reading begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// Where the group stands. A partition without a position whose siblings have one is new and starts at its beginning;
    /// when none has one, subscribing fails with [`BrokerError::NoPositions`].
    Committed,
    /// The first record that is there, whatever the group has committed.
    LogStart,
    /// These offsets, kept by the caller; a partition that is not named starts at its first record. What
    /// the group commits all the same says how far it has come ([`Broker::lag`], [`Broker::trim`]), and starts nobody.
    At(Vec<(Partition, i64)>),
}

/// Bounds of what a consumer has in its hands. Reading pauses at the high mark and goes on at half of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Records handed out and not finished, per partition.
    pub partition_records_max: usize,
    /// Records handed out and not finished, over all partitions.
    pub records_max: usize,
    /// Bytes of keys and values of those, over all partitions.
    pub bytes_max: usize,
    /// Records in one [`Signal`].
    pub batch_records_max: usize,
    /// How long what can be read may be held back for more to come with it, in milliseconds: for readers of many topics that are
    /// in no hurry, since on Kafka each answer names every partition. 0: not at all.
    pub gather_ms: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            partition_records_max: 4_096,
            records_max: 16_384,
            bytes_max: 64 << 20,
            batch_records_max: 512,
            gather_ms: 0,
        }
    }
}

/// What a consumer asks for.
#[derive(Debug, Clone)]
pub struct Subscription {
    /// The group's name without the prefix, such as `dispatcher.critical`. Members of one group share its partitions.
    pub group: String,
    /// The topics.
    pub topics: Vec<Topic>,
    /// How progress is kept.
    pub tracking: Tracking,
    /// Where reading begins.
    pub start: Start,
    /// Bounds of what is in hand.
    pub limits: Limits,
}

/// What to do in one transaction.
#[derive(Debug, Default)]
pub struct Hop {
    /// The consumed records that this finishes.
    pub completes: Vec<Ticket>,
    /// With [`Tracking::Position`]: commit this next offset for this assignment. Committing an unchanged offset is allowed, and is a fence.
    pub positions: Vec<(Assignment, i64)>,
    /// With [`Tracking::Completion`]: assignments that must be alive, for outputs that finish no record. Nothing else changes.
    pub fences: Vec<Assignment>,
    /// What to append.
    pub outputs: Vec<NewRecord>,
    /// Nobody is waiting for this: it may be held back for 20 ms for others to go with it, unless there was no hop for as long, and
    /// for 60 ms while transactions take long.
    pub may_wait: bool,
}

impl Hop {
    /// Finishes one record with these outputs.
    pub fn one(ticket: Ticket, outputs: Vec<NewRecord>) -> Self {
        Self {
            completes: vec![ticket],
            outputs,
            ..Self::default()
        }
    }
}

/// Puts hops through. Clones share the same queue; hops that wait together are committed together: at once when
/// idle, every 20 to 60 ms at most where all may wait ([`Hop::may_wait`]).
#[async_trait]
pub trait Hopper: Send + Sync {
    /// Appends the outputs and finishes the inputs, all or nothing, and returns when that is durable.
    ///
    /// While the broker is away it waits (the caller's partition may be lost meanwhile, which ends the wait). The queue is
    /// bounded: with many hops under way the call waits for its turn. Dropping the future does not undo the hop.
    ///
    /// # Errors
    /// See [`HopError`].
    async fn hop(&self, hop: Hop) -> Result<(), HopError>;

    /// Marks a record as started, and returns when that is durable: from then on whoever is handed the record knows
    /// ([`Ticket::is_started`]), until it is finished. For work that must not be done twice even after a crash. Marking twice
    /// is marking once.
    ///
    /// # Errors
    /// See [`HopError`]; the mark may be set all the same.
    async fn start(&self, ticket: &Ticket) -> Result<(), HopError>;

    /// Whether hops go through at the moment. A dispatcher that cannot record starts no new send.
    fn is_recording(&self) -> bool;

    /// Whether this ticket's record is ours, as far as can be known at once. Cheap; to be asked before each thing that cannot
    /// be undone. Where not, ask [`Hopper::still_holds`].
    fn is_sure(&self, _ticket: &Ticket) -> bool {
        true
    }

    /// Waits until it is known whether this ticket's record is still ours: after the process stood still for longer than its
    /// session somebody else may have it, and may be through with it. Not for long: when it cannot be known, it is not.
    async fn still_holds(&self, _ticket: &Ticket) -> bool {
        true
    }
}

/// An answer to [`Consumer::unread`] that is on its way.
pub type Unread = Pin<Box<dyn Future<Output = Result<Vec<(Partition, i64)>, BrokerError>> + Send>>;

/// One member of a group.
#[async_trait]
pub trait Consumer: Send {
    /// The next thing to know. Cancel-safe. Waits while there is nothing.
    ///
    /// # Errors
    /// Only when the consumer cannot go on at all, such as [`BrokerError::NoPositions`] of topics that appeared later.
    /// Outages are waited out.
    async fn next(&mut self) -> Result<Signal, BrokerError>;

    /// Puts this member's hops through.
    fn hopper(&self) -> Arc<dyn Hopper>;

    /// With [`Tracking::Completion`]: the oldest record of each partition that was read and is not finished. Cheap.
    fn unfinished(&self) -> Vec<(Partition, i64)>;

    /// Asks the log itself what it has for this member that was not read yet: partitions of ours, each with the offset at which
    /// reading goes on. Not those that wait for room, or go to another member. Answers within seconds; any
    /// partition may be among them for a moment.
    ///
    /// # Errors
    /// When the log cannot be asked now.
    fn unread(&self) -> Unread;

    /// Whether a record whose ticket is dropped comes again within a moment, and holds up no other. Then a holder need not keep
    /// records that it has nothing to do with for long. Else giving back is for faults, and reading goes back to the record.
    fn gives_again(&self) -> bool {
        false
    }

    /// Leaves the group: hands out no more records, waits until every ticket is spent or dropped or the drain time is over,
    /// then gives the partitions up. The holder must drop or hop its tickets, before or while this waits.
    async fn close(self: Box<Self>);
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// As it should be.
    Good,
    /// Works, but fights the design.
    Warning,
    /// Does not work.
    Error,
}

/// One line of what `topics create` did or `topics check` found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What it is about: a topic's or group's full name, or a broker setting.
    pub subject: String,
    /// What was done or found, and how to mend it.
    pub message: String,
}

/// How far a group is behind in one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupLag {
    /// The partition.
    pub partition: Partition,
    /// The next offset to finish, if the group has committed one.
    pub committed: Option<i64>,
    /// The next offset to be written.
    pub end: i64,
}

/// A broker. Cheap to clone behind an `Arc`; every method may be called from any task.
#[async_trait]
pub trait Broker: Send + Sync {
    /// Prefix of topics and groups.
    fn prefix(&self) -> &str;

    /// Appends records and returns when all are durable: acknowledged by every in-sync replica, or past the fsync.
    /// Records of one call to one partition stay in order. For intake only: services behind it hop.
    ///
    /// # Errors
    /// See [`AppendError`]; `Unconfirmed` at the latest after the append time limit (default 5 s).
    async fn append(&self, records: Vec<NewRecord>) -> Result<(), AppendError>;

    /// Where the next so many appends would best go, if their keys are free to choose: what goes to one partition goes together,
    /// and costs less. Each partition gets its turn. `None`: nothing would be gained.
    fn next_place(&self, _records: usize) -> Option<Place> {
        None
    }

    /// Where the partitions end that records with these keys go to, for [`Broker::find`].
    ///
    /// # Errors
    /// See [`BrokerError`].
    async fn mark(&self, wanted: &[(Topic, &[u8])]) -> Result<Vec<Mark>, BrokerError>;

    /// The first record from a mark on that is the one, among those that are there when it begins and were appended by `until`
    /// (by the clock of whoever did). Takes 15 s at most.
    ///
    /// # Errors
    /// See [`BrokerError`].
    async fn find(&self, from: Mark, until: Millis, is_it: IsIt) -> Result<Option<Record>, BrokerError>;

    /// Joins a group.
    ///
    /// # Errors
    /// See [`BrokerError`].
    async fn subscribe(&self, subscription: Subscription) -> Result<Box<dyn Consumer>, BrokerError>;

    /// Creates what is missing of [`Topic::ALL`], and commits the start for each empty group of
    /// [`posthaste_event::topic::GROUPS`]. Repeating it changes nothing.
    ///
    /// # Errors
    /// See [`BrokerError`].
    async fn create_topics(&self) -> Result<Vec<Finding>, BrokerError>;

    /// Compares topics, groups and broker settings with what they should be; changes nothing.
    ///
    /// # Errors
    /// See [`BrokerError`].
    async fn check_topics(&self) -> Result<Vec<Finding>, BrokerError>;

    /// How far a group is behind, for each partition of `topics`.
    ///
    /// # Errors
    /// See [`BrokerError`].
    async fn lag(&self, group: &str, topics: &[Topic]) -> Result<Vec<GroupLag>, BrokerError>;

    /// Deletes what nobody will read again: records of topics with [`posthaste_event::topic::Cleanup::Delete`] that were
    /// appended before `before` and lie behind every group of [`posthaste_event::topic::GROUPS`] that reads them. A group that
    /// has no position keeps everything. Answers how many offsets went, those without a record included.
    ///
    /// # Errors
    /// See [`BrokerError`]; what was deleted by then stays deleted.
    async fn trim(&self, before: Millis) -> Result<u64, BrokerError>;

    /// Ends what is open in the log for good and keeps others from reading on, if there is such a thing; answers how many.
    /// Meant to be called every few seconds: only what was seen several times is touched.
    ///
    /// # Errors
    /// See [`BrokerError`].
    async fn settle(&self) -> Result<u64, BrokerError> {
        Ok(0)
    }

    /// Whether the broker answers; the error says what is wrong in words for `/ready`. Answers from what is known, at once.
    fn health(&self) -> Result<(), String>;

    /// Flushes what is under way and closes, within `drain_ms` milliseconds.
    async fn close(&self, drain_ms: u64);
}
