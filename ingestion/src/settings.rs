//! Settings of the intake.

use posthaste_event::{FieldError, payload::ATTACHMENTS_MAX};
use serde::Deserialize;

/// The commented `[ingestion]` table of the default configuration.
pub const DEFAULTS: &str = include_str!("../settings.toml");

/// The `[ingestion]` table.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Largest event, in bytes.
    pub event_bytes_max: usize,
    /// Deepest nesting of objects and lists.
    pub nesting_max: usize,
    /// Events that are being made durable at once.
    pub in_flight_max: usize,
    /// Requests with many events that are being taken at once.
    pub bulk_requests_max: usize,
    /// Largest body of such a request that is read whole, in bytes after decompression.
    pub bulk_bytes_max: usize,
    /// Most events in such a body.
    pub bulk_items_max: usize,
    /// Most events in a stream of lines.
    pub bulk_lines_max: u64,
    /// Answers to streams that wait to be read, in bytes over all requests.
    pub bulk_answers_bytes_max: u32,
    /// For how long a key is remembered, in hours.
    pub key_hours: u32,
    /// How far ahead times may lie, in days.
    pub ahead_days_max: u32,
    /// Most templates, and most configurations, of one tenant.
    pub definitions_max: usize,
    /// Largest template or configuration, in bytes.
    pub definition_bytes_max: usize,
    /// Most API keys of one tenant.
    pub api_keys_max: usize,
    /// Most devices of one user.
    pub devices_max: u32,
    /// Most files of one email.
    pub attachments_max: usize,
    /// Largest file that an event brings along, in bytes before base64.
    pub attachment_bytes_max: usize,
    /// Most bytes of all files that an event brings along, before base64.
    pub attachments_bytes_max: usize,
    /// Folder with templates and configurations; empty for none.
    pub definitions_folder: String,
    /// Whether events are taken from the inbox, where the broker is one that others can reach.
    pub inbox: bool,
    /// What a client is told to wait, in seconds.
    pub retry_after_seconds: u32,
}

impl Settings {
    /// Checks what types alone cannot.
    ///
    /// # Errors
    /// The first key whose value cannot work.
    pub fn check(&self) -> Result<(), FieldError> {
        for (key, value, least, most) in [
            ("event_bytes_max", self.event_bytes_max as u64, 1_024, 16 << 20),
            // serde_json itself stops at 128.
            ("nesting_max", self.nesting_max as u64, 8, 96),
            ("in_flight_max", self.in_flight_max as u64, 1, 1_000_000),
            ("bulk_requests_max", self.bulk_requests_max as u64, 1, 1_024),
            ("bulk_bytes_max", self.bulk_bytes_max as u64, 1_024, 256 << 20),
            ("bulk_items_max", self.bulk_items_max as u64, 1, 100_000),
            ("bulk_lines_max", self.bulk_lines_max, 1, 1_000_000_000),
            (
                "bulk_answers_bytes_max",
                u64::from(self.bulk_answers_bytes_max),
                1 << 20,
                1 << 30,
            ),
            ("key_hours", u64::from(self.key_hours), 1, 24 * 30),
            ("definitions_max", self.definitions_max as u64, 1, 1_000_000),
            (
                "definition_bytes_max",
                self.definition_bytes_max as u64,
                1_024,
                1 << 20,
            ),
            ("api_keys_max", self.api_keys_max as u64, 1, 10_000),
            ("devices_max", u64::from(self.devices_max), 1, 1_000),
            (
                "attachments_max",
                self.attachments_max as u64,
                0,
                ATTACHMENTS_MAX as u64,
            ),
            (
                "attachment_bytes_max",
                self.attachment_bytes_max as u64,
                0,
                16 << 20,
            ),
            (
                "attachments_bytes_max",
                self.attachments_bytes_max as u64,
                0,
                16 << 20,
            ),
            ("ahead_days_max", u64::from(self.ahead_days_max), 1, 3_660),
            (
                "retry_after_seconds",
                u64::from(self.retry_after_seconds),
                0,
                3_600,
            ),
        ] {
            if !(least..=most).contains(&value) {
                return Err(FieldError::new(
                    format!("ingestion.{key}"),
                    format!("{value} is out of range"),
                    format!("{least} to {most}"),
                ));
            }
        }
        Ok(())
    }
}
