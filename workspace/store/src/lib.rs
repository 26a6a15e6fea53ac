//! The status store: what became of each event, for people and programs to look up.
//!
//! [`Store`] is the contract; `mongo` keeps it in MongoDB, `embedded` in one SQLite file. What goes in is made by `fold`
//! from the records of the topics. Writes commute and can be repeated: applying the same changes in any order, any number of
//! times, gives the same documents. The store is never on the way of an event: with it away, delivery goes on.

pub mod change;
pub mod claim;
pub mod contract;
pub mod counted;
pub mod device;
pub mod document;
pub mod embedded;
pub mod fold;
pub mod list;
pub mod mongo;
pub mod settings;

mod condition;

pub use change::{Change, Changes, Text, Timeline};
pub use claim::{Claim, Claims};
pub use contract::{InboxMessage, PAGE_DOCUMENTS_MAX, Page, Position, Query, Store, StoreError, Tallies};
pub use counted::{Counted, Counts, KeptCounts, Uncounted};
pub use device::{Device, Devices};
pub use document::{Document, Fixed, State, TimelineEntry};
pub use embedded::EmbeddedStore;
pub use fold::{Fold, Parted};
pub use list::{List, Lists};
pub use mongo::{MongoStore, ServerInfo};
pub use settings::{DEFAULTS, Settings};
