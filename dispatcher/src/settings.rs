//! The `[dispatcher]` table of the configuration.

use std::time::Duration;

use posthaste_event::FieldError;
use serde::Deserialize;

/// The commented defaults, a fragment of the program's configuration file.
pub const DEFAULTS: &str = include_str!("../settings.toml");

/// What the keys mean is written in `settings.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Events that one lane holds while they wait for their turn.
    pub window_records_max: usize,
    /// The same in bytes of records.
    pub window_bytes_max: usize,
    /// Events of one ordering key that wait in memory for the one before them.
    pub key_records_max: usize,
    /// Longest wait that an event may expect in an account's queue, in milliseconds.
    pub queue_wait_ms_max: u32,
    /// Sends whose outcome is not recorded yet.
    pub unrecorded_max: usize,
    /// Shortest wait of a parked event, in milliseconds.
    pub park_ms_min: u32,
    /// Longest wait of a parked event, in milliseconds.
    pub park_ms_max: u32,
    /// Age in milliseconds past which an event is not parked once more.
    pub parked_age_ms_max: u64,
    /// Places kept for the critical lane, in percent of an account's concurrency.
    pub critical_share_percent: u8,
    /// Places kept for the default lane.
    pub default_share_percent: u8,
    /// Places kept for the retry lane.
    pub retry_share_percent: u8,
    /// Whether recipients are suppressed of whom a provider says that they are gone, or want nothing more.
    pub suppress_reported: bool,
    /// Time in milliseconds, beyond [`queue_wait_ms_max`](Self::queue_wait_ms_max), after which an unfinished event counts as
    /// lost sight of.
    pub stall_ms: u64,
    /// How long a lane that stops waits for the sends under way, in milliseconds.
    pub drain_ms: u64,
}

/// A day, in milliseconds.
const DAY_MS: u64 = 86_400_000;

impl Settings {
    /// How long a lane may have an event before it was lost sight of.
    pub fn patience(&self) -> Duration {
        Duration::from_millis(self.stall_ms.saturating_add(self.queue_wait_ms_max.into()))
    }

    /// Checks what the types cannot.
    ///
    /// # Errors
    /// The first value that cannot be used, with what would be accepted.
    pub fn check(&self) -> Result<(), FieldError> {
        let refused = |key: &str, problem: String, accepted: &str| {
            Err(FieldError::new(format!("dispatcher.{key}"), problem, accepted))
        };
        if !(16..=1_000_000).contains(&self.window_records_max) {
            let problem = format!("{} events", self.window_records_max);
            return refused("window_records_max", problem, "16 to 1,000,000");
        }
        if self.window_bytes_max < 1 << 20 {
            let problem = format!("{} bytes", self.window_bytes_max);
            return refused("window_bytes_max", problem, "1,048,576 (1 MiB) or more");
        }
        if self.key_records_max == 0 {
            return refused(
                "key_records_max",
                "no event could wait for its turn".into(),
                "1 or more",
            );
        }
        if self.unrecorded_max == 0 {
            return refused("unrecorded_max", "nothing could be sent".into(), "1 or more");
        }
        if !(1..=DAY_MS).contains(&self.stall_ms) {
            let problem = format!("{} ms", self.stall_ms);
            return refused("stall_ms", problem, "1 to 86,400,000 (a day)");
        }
        if self.drain_ms > DAY_MS {
            let problem = format!("{} ms", self.drain_ms);
            return refused("drain_ms", problem, "0 to 86,400,000 (a day)");
        }
        if self.queue_wait_ms_max == 0 {
            return refused("queue_wait_ms_max", "nothing could wait".into(), "1 or more");
        }
        if self.park_ms_min == 0 || self.park_ms_min > self.park_ms_max {
            let problem = format!("{} ms, with park_ms_max = {}", self.park_ms_min, self.park_ms_max);
            return refused("park_ms_min", problem, "1 up to park_ms_max");
        }
        let shares = [
            self.critical_share_percent,
            self.default_share_percent,
            self.retry_share_percent,
        ];
        let total: u32 = shares.into_iter().map(u32::from).sum();
        if total > 90 {
            let problem = format!("with the other shares {total} percent are kept");
            return refused("critical_share_percent", problem, "shares of 90 percent together");
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct File {
        dispatcher: Settings,
    }

    pub(crate) fn defaults() -> Settings {
        toml::from_str::<File>(DEFAULTS).unwrap().dispatcher
    }

    #[test]
    fn the_defaults_can_be_used() {
        defaults().check().unwrap();
    }

    #[test]
    fn what_cannot_work_is_refused_by_its_name() {
        let wrong = Settings {
            park_ms_max: 10,
            ..defaults()
        };
        assert_eq!(wrong.check().unwrap_err().field, "dispatcher.park_ms_min");
        let wrong = Settings {
            retry_share_percent: 60,
            ..defaults()
        };
        assert!(wrong.check().is_err());
    }
}
