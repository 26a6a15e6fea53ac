//! Providers: who carries a message to its recipient.
//!
//! Most providers are data: one file in `providers/`, run by the HTTP engine. The few that need code implement
//! [`Provider`]. A provider is used through an [`Account`]: its credentials, base address and limits from the configuration.

pub mod contract;

pub use contract::{Account, Message, Provider, Receipt};
