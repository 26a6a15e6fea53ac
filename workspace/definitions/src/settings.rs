//! The `[definitions]` table of the configuration.

use posthaste_event::FieldError;
use serde::Deserialize;

/// The commented defaults, a fragment of the program's configuration file.
pub const DEFAULTS: &str = include_str!("../settings.toml");

/// What the keys mean is written in `settings.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Most memory, in bytes.
    pub bytes_max: usize,
}

impl Settings {
    /// Checks what the types cannot.
    ///
    /// # Errors
    /// The first value that cannot be used, with what would be accepted.
    pub fn check(&self) -> Result<(), FieldError> {
        let (least, most) = (1 << 20, 16 << 30);
        if (least..=most).contains(&self.bytes_max) {
            return Ok(());
        }
        Err(FieldError::new(
            "definitions.bytes_max",
            format!("{} is out of range", self.bytes_max),
            format!("{least} to {most}"),
        ))
    }

    /// Bytes that are held at most of what was taken in elsewhere.
    pub(crate) const fn heard_bytes_max(&self) -> usize {
        self.bytes_max + self.bytes_max / 4
    }
}
