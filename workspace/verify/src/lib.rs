//! Whether Posthaste kept its promises to a run of events.
//!
//! Three ledgers are compared: what the client was answered, what the sandbox received, and what the status API and the topics
//! say. [`load`] makes the events, [`ledger`] holds the ledgers, [`reconcile()`] compares them and tells what does not fit,
//! [`report`] says so. All of that is pure, so that its own tests can break each promise; only [`topics::read`] talks to a broker.
//! [`schedule`] says from a seed what to break when, and [`proxy`] breaks connections.

pub mod chance;
pub mod ledger;
pub mod load;
pub mod proxy;
pub mod reconcile;
pub mod report;
pub mod schedule;
pub mod topics;

pub use ledger::{Answer, Fault, FaultKind, Ledgers, Posted, Send, Standing, Step};
pub use load::{Event, Mix};
pub use reconcile::{Leniency, reconcile};
pub use report::{Finding, Kind, Report};
