//! The vocabulary of Posthaste: the event, its delivery, statuses, topics, payloads and the wire format.
//!
//! Everything here is pure. No I/O, no async; the one clock of the program is read in [`clock`] and nowhere else.
//! Formats in this crate are frozen by the golden files in `tests/golden/`: readers keep fields that they do not know.

pub mod answer;
pub mod broadcast;
pub mod cancel;
pub mod channel;
pub mod clock;
pub mod control;
pub mod definition;
pub mod delivery;
pub mod event;
pub mod failure;
pub mod field;
pub mod fields;
pub mod firing;
pub mod keys;
pub mod nesting;
pub mod number;
pub mod own_id;
pub mod partition;
pub mod payload;
pub mod priority;
pub mod record;
pub mod record_key;
pub mod schema;
pub mod status;
pub mod time;
pub mod topic;
pub mod trace;
pub mod web;
pub mod wheel;

pub use answer::Answer;
pub use channel::Channel;
pub use clock::Millis;
pub use delivery::{Delivery, Lane};
pub use event::{EventBytes, EventView};
pub use failure::{ErrorKind, Failure};
pub use field::FieldError;
pub use priority::Priority;
pub use record::{Value, Work};
pub use status::Status;
pub use topic::{Tier, Topic};
