//! The `[status]` table of the configuration.

use posthaste_event::FieldError;
use serde::Deserialize;

/// The commented defaults, a fragment of the program's configuration file.
pub const DEFAULTS: &str = include_str!("../settings.toml");

/// What the keys mean is written in `settings.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Records in one write.
    pub batch_records_max: usize,
    /// Their size, in KiB.
    pub batch_kib_max: usize,
    /// How long records are gathered under load, in milliseconds.
    pub gather_ms: u64,
    /// How long the broker may hold records back, in milliseconds.
    pub fetch_wait_ms: u32,
    /// How often positions are committed, in milliseconds.
    pub commit_every_ms: u64,
    /// How often old documents are forgotten, in minutes.
    pub forget_every_minutes: u64,
    /// How long to wait for the last write, in milliseconds.
    pub drain_ms: u64,
}

impl Settings {
    /// Checks what the types cannot.
    ///
    /// # Errors
    /// The first value that cannot be used, with what would be accepted.
    pub fn check(&self) -> Result<(), FieldError> {
        let within = |key: &str, value: u64, least: u64, most: u64| {
            if (least..=most).contains(&value) {
                return Ok(());
            }
            Err(FieldError::new(
                format!("status.{key}"),
                format!("{value} is out of range"),
                format!("{least} to {most}"),
            ))
        };
        within("batch_records_max", self.batch_records_max as u64, 1, 10_000)?;
        within("batch_kib_max", self.batch_kib_max as u64, 1, 262_144)?;
        within("gather_ms", self.gather_ms, 0, 10_000)?;
        within("fetch_wait_ms", self.fetch_wait_ms.into(), 0, 1_000)?;
        within("commit_every_ms", self.commit_every_ms, 10, 60_000)?;
        within("forget_every_minutes", self.forget_every_minutes, 1, 10_080)?;
        within("drain_ms", self.drain_ms, 0, 600_000)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn defaults() -> Settings {
        #[derive(Deserialize)]
        struct File {
            status: Settings,
        }
        toml::from_str::<File>(DEFAULTS).unwrap().status
    }

    #[test]
    fn the_defaults_can_be_used_and_what_cannot_work_is_refused_by_its_name() {
        let defaults = defaults();
        defaults.check().unwrap();
        let wrong = Settings {
            batch_records_max: 0,
            ..defaults
        };
        assert_eq!(wrong.check().unwrap_err().field, "status.batch_records_max");
    }
}
