//! The `[broker]` part of the configuration, shared by both backends.

use serde::Deserialize;

use crate::kafka::KafkaSettings;

/// The commented defaults.
pub const DEFAULTS: &str = include_str!("../settings.toml");

/// Most partitions that a topic can have.
pub const PARTITIONS_MAX: u32 = 1_024;

/// `[broker]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Prefix of topics and groups.
    pub prefix: String,
    /// Partitions of topics that are created.
    pub partitions: u32,
    /// Largest record, key and value together, in bytes.
    pub record_bytes_max: usize,
    /// Time limit of an append, in milliseconds.
    pub append_timeout_ms: u64,
    /// Time to finish what is under way when a partition goes to another member, in milliseconds.
    pub drain_ms: u64,
    /// How long records stay after every group is done with them, in days; 0 is for ever.
    pub keep_days: u32,
    /// How often to look for records whose time is over, in minutes.
    pub trim_every_minutes: u64,
    /// `[broker.embedded]`.
    pub embedded: EmbeddedSettings,
    /// `[broker.kafka]`.
    pub kafka: KafkaSettings,
}

/// `[broker.embedded]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmbeddedSettings {
    /// Appends that may wait for the disk, in KiB.
    pub appends_kib_max: u32,
    /// Hops that may wait for the disk, in KiB.
    pub hops_kib_max: u32,
    /// Records kept ready per partition and consumer.
    pub ready_records_max: usize,
    /// KiB of records kept ready per consumer.
    pub ready_kib_max: usize,
    /// The write-ahead log is merged in the background whenever about this much was written, in KiB.
    pub wal_kib: u64,
    /// Size of the write-ahead log at which writers wait for the merge, in KiB.
    pub wal_kib_max: u64,
    /// How long a tombstone stays readable, in hours.
    pub tombstone_hours: u32,
}

impl Settings {
    /// Checks what the types do not.
    ///
    /// # Errors
    /// Names the key, what it is and what would be accepted.
    pub fn check(&self) -> Result<(), String> {
        let named = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if self.prefix.is_empty() || self.prefix.len() > 128 || !self.prefix.chars().all(named) {
            return Err(format!(
                "broker.prefix is {:?}; accepted: 1 to 128 letters, digits, '.', '_' and '-'",
                self.prefix
            ));
        }
        let embedded = &self.embedded;
        let ranges: [(&str, u64, u64, u64); 13] = [
            ("partitions", self.partitions.into(), 1, PARTITIONS_MAX.into()),
            ("record_bytes_max", self.record_bytes_max as u64, 1_024, 64 << 20),
            ("append_timeout_ms", self.append_timeout_ms, 1, 600_000),
            ("drain_ms", self.drain_ms, 1, 600_000),
            ("keep_days", self.keep_days.into(), 0, 36_500),
            ("trim_every_minutes", self.trim_every_minutes, 1, 1_440),
            (
                "embedded.appends_kib_max",
                embedded.appends_kib_max.into(),
                64,
                4 << 20,
            ),
            ("embedded.hops_kib_max", embedded.hops_kib_max.into(), 64, 4 << 20),
            (
                "embedded.ready_records_max",
                embedded.ready_records_max as u64,
                1,
                1 << 20,
            ),
            (
                "embedded.ready_kib_max",
                embedded.ready_kib_max as u64,
                1,
                1 << 20,
            ),
            ("embedded.wal_kib", embedded.wal_kib, 64, 4 << 20),
            (
                "embedded.wal_kib_max",
                embedded.wal_kib_max,
                embedded.wal_kib,
                16 << 20,
            ),
            (
                "embedded.tombstone_hours",
                embedded.tombstone_hours.into(),
                1,
                24 * 365,
            ),
        ];
        self.kafka.check()?;
        match ranges
            .into_iter()
            .find(|(_, value, least, most)| !(least..=most).contains(&value))
        {
            Some((key, value, least, most)) => {
                Err(format!("broker.{key} is {value}; accepted: {least} to {most}"))
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct File {
        broker: Settings,
    }

    #[test]
    fn the_defaults_are_complete_and_accepted() {
        let file: File = toml::from_str(DEFAULTS).unwrap();
        assert_eq!(file.broker.check(), Ok(()));
        assert_eq!(file.broker.prefix, posthaste_event::topic::PREFIX_DEFAULT);
        assert_eq!(file.broker.partitions, posthaste_event::topic::PARTITIONS_DEFAULT);
    }

    #[test]
    fn what_is_out_of_range_is_named() {
        let mut settings = toml::from_str::<File>(DEFAULTS).unwrap().broker;
        settings.partitions = 0;
        assert_eq!(
            settings.check().unwrap_err(),
            "broker.partitions is 0; accepted: 1 to 1024"
        );
        settings.partitions = 1;
        settings.prefix = "a b".to_owned();
        assert!(settings.check().unwrap_err().starts_with("broker.prefix"));
    }
}
