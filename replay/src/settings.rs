//! The `[replay]` table of the configuration.

use posthaste_event::FieldError;
use serde::Deserialize;

/// The commented defaults, a fragment of the program's configuration file.
pub const DEFAULTS: &str = include_str!("../settings.toml");

/// What the keys mean is written in `settings.toml`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Dead letters that a request re-publishes when it does not say.
    pub limit_default: usize,
    /// Dead letters that a request re-publishes at most.
    pub limit_max: usize,
    /// Dead letters of a replay that nobody waits for, at most.
    pub background_limit_max: usize,
    /// Requests that re-publish at the same time.
    pub requests_max: usize,
    /// Replays that nobody waits for, unfinished at the same time.
    pub unfinished_max: usize,
    /// Finished replays that are remembered.
    pub finished_kept_max: usize,
    /// A replay stops when more than this part of what it sent out died again.
    pub refailure_ratio_max: f64,
    /// Letters that must have gone out before that is judged.
    pub refailure_letters_min: u64,
    /// Letters re-published in one step.
    pub page_records_max: usize,
    /// Their size in bytes.
    pub page_bytes_max: usize,
    /// How long a request waits for its letters, in milliseconds.
    pub request_timeout_ms: u64,
    /// How long to wait for replays under way when stopping, in milliseconds.
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
                format!("replay.{key}"),
                format!("{value} is out of range"),
                format!("{least} to {most}"),
            ))
        };
        within("limit_max", self.limit_max as u64, 1, 100_000)?;
        within(
            "limit_default",
            self.limit_default as u64,
            1,
            self.limit_max as u64,
        )?;
        within(
            "background_limit_max",
            self.background_limit_max as u64,
            1,
            100_000_000,
        )?;
        within("requests_max", self.requests_max as u64, 1, 64)?;
        within("unfinished_max", self.unfinished_max as u64, 1, 1_000)?;
        within("finished_kept_max", self.finished_kept_max as u64, 1, 10_000)?;
        within(
            "refailure_letters_min",
            self.refailure_letters_min,
            1,
            u64::from(u32::MAX),
        )?;
        if !(0.001..=1.0).contains(&self.refailure_ratio_max) {
            return Err(FieldError::new(
                "replay.refailure_ratio_max",
                format!("{} is out of range", self.refailure_ratio_max),
                "0.001 to 1",
            ));
        }
        within("page_records_max", self.page_records_max as u64, 1, 10_000)?;
        within("page_bytes_max", self.page_bytes_max as u64, 1, 64 << 20)?;
        within("request_timeout_ms", self.request_timeout_ms, 100, 3_600_000)?;
        within("drain_ms", self.drain_ms, 0, 3_600_000)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct File {
        replay: Settings,
    }

    pub(crate) fn defaults() -> Settings {
        toml::from_str::<File>(DEFAULTS).unwrap().replay
    }

    #[test]
    fn the_defaults_can_be_used_and_what_cannot_work_is_refused_by_its_name() {
        let defaults = defaults();
        defaults.check().unwrap();
        let wrong = Settings {
            limit_default: 20_000,
            ..defaults
        };
        assert_eq!(wrong.check().unwrap_err().field, "replay.limit_default");
    }
}
