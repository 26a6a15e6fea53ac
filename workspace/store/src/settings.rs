//! The store's part of the configuration.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

/// The commented defaults, a part of the compiled-in configuration.
pub const DEFAULTS: &str = include_str!("../settings.toml");

/// `[store]`; see `settings.toml` for what each key means.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Longest search or look-up, in milliseconds.
    pub read_timeout_ms: u64,
    /// Longest write, in milliseconds.
    pub write_timeout_ms: u64,
    /// Days after which documents are forgotten; 0 is never.
    pub retention_days: u32,
    /// The SQLite file.
    pub embedded: EmbeddedSettings,
    /// MongoDB.
    pub mongodb: MongoSettings,
}

/// `[store.embedded]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmbeddedSettings {
    /// Look-ups at once, at least 1.
    pub readers: u32,
}

/// `[store.mongodb]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MongoSettings {
    /// Its address; empty when it is not used.
    pub url: Url,
    /// The database's name.
    pub database: String,
    /// Connections at most.
    pub connections_max: u32,
    /// Documents in one write command, at least 1.
    pub batch_documents_max: u32,
}

/// An address that may hold a password: it is never shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Url(pub String);

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "(none)" } else { "(hidden)" })
    }
}

impl Settings {
    pub(crate) const fn read_timeout(&self) -> Duration {
        Duration::from_millis(self.read_timeout_ms)
    }

    pub(crate) const fn write_timeout(&self) -> Duration {
        Duration::from_millis(self.write_timeout_ms)
    }

    /// How long documents are kept, in milliseconds; `None` is for ever.
    pub fn retention_ms(&self) -> Option<i64> {
        (self.retention_days > 0).then(|| i64::from(self.retention_days) * 86_400_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_complete_and_the_address_is_never_shown() {
        #[derive(Deserialize)]
        struct File {
            store: Settings,
        }
        let File { mut store } = toml::from_str(DEFAULTS).unwrap();
        assert_eq!(store.retention_ms(), Some(90 * 86_400_000));
        store.mongodb.url = Url("mongodb://me:secret@host".into());
        assert!(!format!("{store:?}").contains("secret"));
    }
}
