//! The log that carries the events: one contract, two backends.
//!
//! [`Broker`] is the contract. [`kafka`] runs on Apache Kafka, [`embedded`] on one SQLite file. What services may rely on
//! is written at the contract and checked by one suite (`tests/`) on both.
//!
//! Everything after intake is a *hop*: outputs are appended and the consumed record is completed in one transaction,
//! fenced by the assignment under which the record was handed out. A record therefore has exactly one outcome,
//! whoever dies or falls asleep in between.

pub mod completion;
pub mod contract;
pub mod embedded;
pub mod error;
pub mod follow;
pub mod janitor;
pub mod kafka;
pub mod settings;
pub mod ticket;
pub mod watchdog;

pub use contract::{
    Assignment, Broker, Consumed, Consumer, Finding, GroupLag, Header, Headers, Hop, Hopper, IsIt, Limits,
    Mark, NewRecord, Partition, Record, Severity, Signal, Start, Subscription, Ticket, Tracking, Unread,
};
pub use error::{AppendError, BrokerError, HopError};
pub use follow::{News, follow};
pub use settings::Settings;
pub use watchdog::Watched;
