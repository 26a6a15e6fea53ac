//! The `[definitions]` table of the configuration.

use posthaste_event::FieldError;
use serde::Deserialize;

/// The commented defaults, a fragment of the program's configuration file.
pub const DEFAULTS: &str = include_str!("../settings.toml");

/// Most suppressed recipients that can be configured: some 5 GB in a dispatcher.
const SUPPRESSIONS_MAX: usize = 100_000_000;

/// What the keys mean is written in `settings.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Most memory, in bytes.
    pub bytes_max: usize,
    /// Most suppressed recipients.
    pub suppressions_max: usize,
    /// Country code of suppressed phone numbers that have none.
    pub suppressions_country_code: String,
}

impl Settings {
    /// Checks what the types cannot.
    ///
    /// # Errors
    /// The first value that cannot be used, with what would be accepted.
    pub fn check(&self) -> Result<(), FieldError> {
        let (least, most) = (1 << 20, 16 << 30);
        if !(least..=most).contains(&self.bytes_max) {
            return Err(FieldError::new(
                "definitions.bytes_max",
                format!("{} is out of range", self.bytes_max),
                format!("{least} to {most}"),
            ));
        }
        if !(1..=SUPPRESSIONS_MAX).contains(&self.suppressions_max) {
            return Err(FieldError::new(
                "definitions.suppressions_max",
                format!("{} is out of range", self.suppressions_max),
                format!("1 to {SUPPRESSIONS_MAX}"),
            ));
        }
        let code = &self.suppressions_country_code;
        if !(1..=3).contains(&code.len()) || !code.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(FieldError::new(
                "definitions.suppressions_country_code",
                format!("{code:?} is no country code"),
                "1 to 3 digits",
            ));
        }
        Ok(())
    }

    /// Bytes that are held at most of what was taken in elsewhere.
    pub(crate) const fn heard_bytes_max(&self) -> usize {
        self.bytes_max + self.bytes_max / 4
    }
}
