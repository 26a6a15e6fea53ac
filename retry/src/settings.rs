//! The `[retry]` table of the configuration.

use std::{fs, io::Read as _};

use posthaste_broker::Limits;
use posthaste_event::FieldError;
use posthaste_rules::{Rules, RulesError};
use serde::Deserialize;

/// The commented defaults.
pub const DEFAULTS: &str = include_str!("../settings.toml");

/// Offsets that the commit metadata can always describe, whatever is finished among them.
const OFFSETS_MAX: usize = 24_000;

/// The settings of the retry service; `settings.toml` explains each.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "settings.toml is their manual")]
pub struct Settings {
    pub rules_file: String,
    pub rules_poll_ms: u64,
    pub hops_max: usize,
    pub hop_records_max: usize,
    pub verdict_records_max: usize,
    pub verdict_kib_max: usize,
    pub near_offsets_max: usize,
    pub near_kib_max: usize,
    pub tier_records_max: usize,
    pub tier_kib_max: usize,
    pub clock_check_ms: u64,
    /// Time in milliseconds after which a failure without a verdict counts as lost sight of.
    pub stall_ms: u64,
}

/// Why the rules cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RulesFileError {
    /// The file cannot be read.
    #[error("the rules file {file} cannot be read: {error}; `rules_file` in `[retry]` names it")]
    Unreadable {
        /// The file's name.
        file: String,
        /// What the system says.
        error: std::io::Error,
    },
    /// The file is wrong.
    #[error(transparent)]
    Wrong(#[from] RulesError),
}

impl Settings {
    /// Checks what the types do not.
    ///
    /// # Errors
    /// The first key that is out of range, and its range.
    pub fn check(&self) -> Result<(), FieldError> {
        for (key, value, min, max) in [
            ("hops_max", self.hops_max, 1, 1_024),
            ("hop_records_max", self.hop_records_max, 1, 4_096),
            ("verdict_records_max", self.verdict_records_max, 1, 1_000_000),
            ("verdict_kib_max", self.verdict_kib_max, 1_024, 16 << 20),
            ("near_offsets_max", self.near_offsets_max, 16, OFFSETS_MAX),
            ("near_kib_max", self.near_kib_max, 1_024, 16 << 20),
            ("tier_records_max", self.tier_records_max, 1, OFFSETS_MAX),
            ("tier_kib_max", self.tier_kib_max, 1_024, 16 << 20),
            (
                "rules_poll_ms",
                usize::try_from(self.rules_poll_ms).unwrap_or(usize::MAX),
                10,
                3_600_000,
            ),
            (
                "stall_ms",
                usize::try_from(self.stall_ms).unwrap_or(usize::MAX),
                1,
                86_400_000,
            ),
            (
                "clock_check_ms",
                usize::try_from(self.clock_check_ms).unwrap_or(usize::MAX),
                1,
                10_000,
            ),
        ] {
            if !(min..=max).contains(&value) {
                return Err(FieldError::new(
                    format!("retry.{key}"),
                    format!("{value} is out of range"),
                    format!("{min} to {max}"),
                ));
            }
        }
        Ok(())
    }

    /// The rules that these settings name.
    ///
    /// # Errors
    /// When the file cannot be read, or is wrong.
    pub fn rules(&self) -> Result<Rules, RulesFileError> {
        if self.rules_file.is_empty() {
            return Ok(Rules::shipped()?);
        }
        Ok(Rules::parse(&self.rules_text()?, &self.rules_file)?)
    }

    /// The text of the rule file that these settings name.
    ///
    /// # Errors
    /// When there is no such file, or it cannot be read.
    pub fn rules_text(&self) -> Result<String, RulesFileError> {
        let mut text = String::new();
        // A little more than the rules accept, so that they can say that it is too much.
        fs::File::open(&self.rules_file)
            .and_then(|file| file.take(2 << 20).read_to_string(&mut text))
            .map_err(|error| RulesFileError::Unreadable {
                file: self.rules_file.clone(),
                error,
            })?;
        Ok(text)
    }

    pub(crate) fn verdict_limits(&self) -> Limits {
        Limits {
            partition_records_max: self.verdict_records_max.min(OFFSETS_MAX),
            records_max: self.verdict_records_max,
            bytes_max: self.verdict_kib_max << 10,
            batch_records_max: self.hop_records_max,
            gather_ms: 0,
        }
    }

    pub(crate) fn near_limits(&self) -> Limits {
        Limits {
            partition_records_max: self.near_offsets_max,
            // The bytes are the bound over all partitions.
            records_max: usize::MAX,
            bytes_max: self.near_kib_max << 10,
            batch_records_max: self.hop_records_max,
            gather_ms: 0,
        }
    }

    pub(crate) fn tier_limits(&self) -> Limits {
        Limits {
            partition_records_max: self.tier_records_max,
            // A bound over all partitions would let a tier of a day hold up the one of two seconds.
            records_max: usize::MAX,
            bytes_max: self.tier_kib_max << 10,
            batch_records_max: self.hop_records_max,
            gather_ms: 0,
        }
    }
}

#[cfg(test)]
pub(crate) fn defaults() -> Settings {
    #[derive(Deserialize)]
    struct File {
        retry: Settings,
    }
    toml::from_str::<File>(DEFAULTS).unwrap().retry
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_pass_their_own_checks_and_name_the_shipped_rules() {
        let settings = defaults();
        settings.check().unwrap();
        assert_eq!(settings.rules().unwrap(), Rules::shipped().unwrap());
    }

    #[test]
    fn a_wrong_setting_is_named_with_its_range() {
        let mut settings = defaults();
        settings.near_offsets_max = 50_000;
        assert_eq!(
            settings.check().unwrap_err().to_string(),
            "retry.near_offsets_max: 50000 is out of range; accepted: 16 to 24000"
        );
    }

    #[test]
    fn a_wrong_rules_file_is_refused_by_name_and_line() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("mine.toml");
        let mut settings = defaults();
        settings.rules_file = file.display().to_string();
        let missing = settings.rules().unwrap_err().to_string();
        assert!(missing.contains("mine.toml cannot be read"), "{missing}");
        fs::write(&file, "[[rule]]\nid = \"a\"\nbackof = 1\n").unwrap();
        let wrong = settings.rules().unwrap_err().to_string();
        assert!(wrong.contains("mine.toml:3: backof: unknown field"), "{wrong}");
    }
}
