//! The `[broadcast]` table of the configuration.

use posthaste_event::FieldError;
use serde::Deserialize;

/// The commented defaults, a fragment of the program's configuration file.
pub const DEFAULTS: &str = include_str!("../settings.toml");

/// What the keys mean is written in `settings.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Most recipients of one broadcast.
    pub recipients_max: u64,
    /// Recipients of a chunk when a broadcast does not say.
    pub chunk_size_default: u32,
    /// Most recipients of a chunk.
    pub chunk_size_max: u32,
    /// Most bytes of the files that a message brings along for all its recipients.
    pub attachments_bytes_max: usize,
    /// Most chunks of one broadcast.
    pub chunks_max: u32,
    /// Longest time between two chunks, in seconds.
    pub chunk_delay_seconds_max: u64,
    /// Longest upload, in minutes.
    pub upload_minutes_max: u32,
    /// Uploads at once.
    pub uploads_max: usize,
    /// Those of one tenant.
    pub tenant_uploads_max: usize,
    /// Broadcasts that are not at their end.
    pub unfinished_max: usize,
    /// Those of one tenant.
    pub tenant_unfinished_max: usize,
    /// Broadcasts at their end that are remembered.
    pub finished_kept_max: usize,
    /// For so long those are remembered that were cancelled after something was handed over, in days.
    pub cancelled_kept_days: u32,
    /// So many of those at most.
    pub cancelled_kept_max: usize,
    /// Stored lists of one tenant.
    pub lists_max: u32,
    /// Broadcasts whose chunks are handed over at once.
    pub running_max: usize,
}

impl Settings {
    /// Checks what the types cannot.
    ///
    /// # Errors
    /// The first value that cannot be used, with what would be accepted.
    pub fn check(&self) -> Result<(), FieldError> {
        for (key, value, least, most) in [
            ("recipients_max", self.recipients_max, 1, 100_000_000),
            ("chunk_size_max", u64::from(self.chunk_size_max), 1, 10_000),
            (
                "chunk_size_default",
                u64::from(self.chunk_size_default),
                1,
                u64::from(self.chunk_size_max),
            ),
            (
                "attachments_bytes_max",
                self.attachments_bytes_max as u64,
                0,
                64 << 20,
            ),
            ("chunks_max", u64::from(self.chunks_max), 1, 1_000_000),
            (
                "chunk_delay_seconds_max",
                self.chunk_delay_seconds_max,
                0,
                30 * 86_400,
            ),
            ("upload_minutes_max", u64::from(self.upload_minutes_max), 1, 1_440),
            ("uploads_max", self.uploads_max as u64, 1, 1_024),
            ("tenant_uploads_max", self.tenant_uploads_max as u64, 1, 1_024),
            ("unfinished_max", self.unfinished_max as u64, 1, 10_000),
            (
                "tenant_unfinished_max",
                self.tenant_unfinished_max as u64,
                1,
                10_000,
            ),
            ("finished_kept_max", self.finished_kept_max as u64, 1, 100_000),
            ("cancelled_kept_days", u64::from(self.cancelled_kept_days), 1, 400),
            ("cancelled_kept_max", self.cancelled_kept_max as u64, 1, 100_000),
            ("lists_max", u64::from(self.lists_max), 1, 1_000),
            ("running_max", self.running_max as u64, 1, 64),
        ] {
            if !(least..=most).contains(&value) {
                return Err(FieldError::new(
                    format!("broadcast.{key}"),
                    format!("{value} is out of range"),
                    format!("{least} to {most}"),
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct File {
        broadcast: Settings,
    }

    pub(crate) fn defaults() -> Settings {
        toml::from_str::<File>(DEFAULTS).unwrap().broadcast
    }

    #[test]
    fn the_defaults_can_be_used_and_what_cannot_work_is_refused_by_its_name() {
        defaults().check().unwrap();
        let wrong = Settings {
            chunk_size_default: 2_000,
            ..defaults()
        };
        assert_eq!(wrong.check().unwrap_err().field, "broadcast.chunk_size_default");
    }
}
