//! The status store: what became of each event, for people and programs to look up.
//!
//! [`Store`] is the contract; `mongo` keeps it in MongoDB, `embedded` in one SQLite file. What goes in is made by `fold`
//! from the records of the topics. Writes commute and can be repeated: applying the same changes in any order, any number of
//! times, gives the same documents. The store is never on the way of an event: with it away, delivery goes on.

pub mod contract;
pub mod document;

pub use contract::{InboxMessage, Page, Position, Query, Store, StoreError};
pub use document::{Change, Document, State, TimelineEntry};
