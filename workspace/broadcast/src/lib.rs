//! Broadcasts: one message for many recipients, handed over to the dispatchers in chunks, each once.
//!
//! Intake checks and renders all of a broadcast while it is uploaded, and puts its events on a topic of their own, chunk after
//! chunk in one partition. When the last one is durable it says on the control topic what the broadcast means; before that there
//! is none. Whoever has the partition hands the chunks over: the events, the mark that they were, and the proof
//! that the partition is still its own go in one hop. The mark stands behind the chunks, so whoever takes the partition
//! over reads on from it. A broadcast that rests or waits holds nothing but the places of its chunks.
//!
//! **Invariant:** nothing here makes or changes an event, and nothing is appended outside of a hop but what somebody asked for.

mod index;
mod known;
mod membership;
mod settings;
mod turn;
mod worker;

pub use known::{Broadcasts, Known};
pub use settings::{DEFAULTS, Settings};
pub use worker::Worker;
