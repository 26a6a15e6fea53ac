//! Events with an ordering key: which of them may go. See `posthaste_event::keys` for what is written down of it.
//!
//! The lane of first attempts gives each event its place and sends one of a key at a time ([`first`]). When one leaves the
//! lane unsent, the key is *open*: whatever comes later is parked, and lets go in the lane of retries when what stands before
//! it is done ([`turns`]). Both know how far a key has come from the keys topic ([`keys`]).

pub mod first;
pub mod keys;
#[cfg(test)]
mod model;
pub mod turns;
pub mod view;
pub mod wait;
