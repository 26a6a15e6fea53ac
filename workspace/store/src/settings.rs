//! The store's part of the configuration.

use std::{fmt, time::Duration};

use posthaste_event::FieldError;
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

/// Longest retention, in days: an index of MongoDB forgets after 2^31 seconds at most.
const RETENTION_DAYS_MAX: u64 = 24_000;

impl Settings {
    /// Checks what types alone cannot.
    ///
    /// # Errors
    /// The first key whose value cannot work.
    pub fn check(&self) -> Result<(), FieldError> {
        let (embedded, mongodb) = (&self.embedded, &self.mongodb);
        for (key, value, least, most) in [
            ("read_timeout_ms", self.read_timeout_ms, 10, 600_000),
            ("write_timeout_ms", self.write_timeout_ms, 10, 600_000),
            (
                "retention_days",
                self.retention_days.into(),
                0,
                RETENTION_DAYS_MAX,
            ),
            ("embedded.readers", embedded.readers.into(), 1, 256),
            (
                "mongodb.connections_max",
                mongodb.connections_max.into(),
                1,
                10_000,
            ),
            (
                "mongodb.batch_documents_max",
                mongodb.batch_documents_max.into(),
                1,
                100_000,
            ),
        ] {
            if !(least..=most).contains(&value) {
                return Err(FieldError::new(
                    format!("store.{key}"),
                    format!("{value} is out of range"),
                    format!("{least} to {most}"),
                ));
            }
        }
        Ok(())
    }

    pub(crate) const fn read_timeout(&self) -> Duration {
        Duration::from_millis(self.read_timeout_ms)
    }

    /// For what looks at all events there are.
    pub(crate) fn count_timeout(&self) -> Duration {
        self.read_timeout() * 10
    }

    pub(crate) const fn write_timeout(&self) -> Duration {
        Duration::from_millis(self.write_timeout_ms)
    }

    /// Updates in one command of MongoDB.
    pub(crate) fn batch_max(&self) -> usize {
        self.mongodb.batch_documents_max.max(1) as usize
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
        store.check().unwrap();
        store.mongodb.url = Url("mongodb://me:secret@host".into());
        assert!(!format!("{store:?}").contains("secret"));
    }

    #[test]
    fn what_cannot_work_is_refused_by_its_name() {
        #[derive(Deserialize)]
        struct File {
            store: Settings,
        }
        let File { mut store } = toml::from_str(DEFAULTS).unwrap();
        store.retention_days = 100_000;
        assert_eq!(
            store.check().unwrap_err().to_string(),
            "store.retention_days: 100000 is out of range; accepted: 0 to 24000"
        );
        store.retention_days = 0;
        store.embedded.readers = 0;
        assert_eq!(store.check().unwrap_err().field, "store.embedded.readers");
    }
}
