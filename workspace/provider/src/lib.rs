//! Providers: who carries a message to its recipient.
//!
//! Most providers are data: one file in `providers/`, run by the HTTP engine. The few that need code implement
//! [`Provider`]. A provider is used through an [`Account`]: its credentials, base address and limits from the configuration.
//! All accounts of a process are in its [`Registry`].

mod answer;
mod attachments;
mod body;
mod build;
pub mod checked;
pub mod contract;
mod fields;
mod file;
mod filters;
mod guard;
mod http;
mod in_app;
mod jwt;
mod kind;
mod maker;
mod multipart;
mod names;
mod node;
mod oauth;
mod plain;
mod registry;
mod scope;
pub mod settings;
mod signing;
mod smtp;
mod template;
#[cfg(test)]
mod tests;

pub use contract::{Account, Message, Provider, Receipt};
pub use file::FileError;
pub use names::names;
pub use registry::{LoadError, Registry};
pub use settings::Settings;

/// The commented default configuration of `[provider]` and `[providers.*]`.
pub const DEFAULTS: &str = include_str!("../settings.toml");
