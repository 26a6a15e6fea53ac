//! The `[encryption]` table of the configuration, and the sources of keys that it names.

use std::{fs::File, io::Read as _, path::PathBuf, sync::Arc};

use posthaste_event::{Channel, FieldError};
use serde::Deserialize;

use crate::{Ring, Source};

/// The commented defaults, a fragment of the program's configuration file.
pub const DEFAULTS: &str = include_str!("../settings.toml");

/// Largest file of keys, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// What the keys mean is written in `settings.toml`.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// File with the keys; empty for none.
    pub keys_file: String,
    /// The text of such a file; empty for none.
    pub keys: String,
    /// How often the file is read, in milliseconds.
    pub keys_poll_ms: u64,
    /// Whether every payload is sealed.
    pub all: bool,
    /// Tenants whose payloads are.
    pub tenants: Vec<String>,
    /// Channels whose payloads are.
    pub channels: Vec<String>,
}

/// Never shows a key.
impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings")
            .field("keys_file", &self.keys_file)
            .field("all", &self.all)
            .field("tenants", &self.tenants)
            .field("channels", &self.channels)
            .finish_non_exhaustive()
    }
}

impl Settings {
    /// Checks what the types cannot.
    ///
    /// # Errors
    /// The first value that cannot be used, with what would be accepted.
    pub fn check(&self) -> Result<(), FieldError> {
        if !self.keys_file.is_empty() && !self.keys.is_empty() {
            return Err(FieldError::new(
                "encryption.keys",
                "cannot be given together with encryption.keys_file",
                "one of the two",
            ));
        }
        if !(10..=600_000).contains(&self.keys_poll_ms) {
            return Err(FieldError::new(
                "encryption.keys_poll_ms",
                format!("{} is out of range", self.keys_poll_ms),
                "10 to 600000",
            ));
        }
        let named = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if let Some(wrong) = (self.tenants.iter()).find(|name| name.is_empty() || !name.chars().all(named)) {
            return Err(FieldError::new(
                "encryption.tenants",
                format!("{wrong:?} is no tenant"),
                "names of letters, digits and ._-",
            ));
        }
        if let Some(wrong) = (self.channels.iter()).find(|name| name.parse::<Channel>().is_err()) {
            return Err(FieldError::new(
                "encryption.channels",
                format!("{wrong:?} is no channel"),
                Channel::ALL.map(Channel::as_str).join(", "),
            ));
        }
        Ok(())
    }

    /// The setting that asks for sealing, if one does.
    pub fn asked_by(&self) -> Option<&'static str> {
        if self.all {
            Some("encryption.all")
        } else if !self.tenants.is_empty() {
            Some("encryption.tenants")
        } else if !self.channels.is_empty() {
            Some("encryption.channels")
        } else {
            None
        }
    }

    /// Whether the payloads of a tenant's events on a channel are sealed without their asking for it.
    pub fn asks_for(&self, tenant: &str, channel: Channel) -> bool {
        self.all
            || self.tenants.iter().any(|name| name == tenant)
            || self.channels.iter().any(|name| name == channel.as_str())
    }

    /// Where the keys come from, if any are set up.
    pub fn source(&self) -> Option<Arc<dyn Source>> {
        if !self.keys_file.is_empty() {
            return Some(Arc::new(KeysFile(PathBuf::from(&self.keys_file))));
        }
        (!self.keys.is_empty()).then(|| Arc::new(Given(self.keys.clone())) as Arc<dyn Source>)
    }
}

/// Keys in a file.
struct KeysFile(PathBuf);

impl Source for KeysFile {
    fn ring(&self) -> Result<Ring, String> {
        let path = self.0.display();
        let mut text = String::new();
        let read = File::open(&self.0).and_then(|file| file.take(FILE_BYTES_MAX).read_to_string(&mut text));
        read.map_err(|error| format!("{path} cannot be read: {error}"))?;
        Ring::parse(&text).map_err(|error| format!("{path}: {error}"))
    }

    fn may_change(&self) -> bool {
        true
    }
}

/// Keys that the configuration itself holds.
struct Given(String);

impl Source for Given {
    fn ring(&self) -> Result<Ring, String> {
        Ring::parse(&self.0).map_err(|error| format!("encryption.keys: {error}"))
    }

    fn may_change(&self) -> bool {
        false
    }
}

#[cfg(test)]
pub(crate) fn defaults() -> Settings {
    #[derive(Deserialize)]
    struct Defaults {
        encryption: Settings,
    }
    toml::from_str::<Defaults>(DEFAULTS).unwrap().encryption
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_is_found_and_what_cannot_be_is_named() {
        let defaults = defaults();
        defaults.check().unwrap();
        assert_eq!(defaults.asked_by(), None);
        assert!(!defaults.asks_for("acme", Channel::Sms));
        assert!(defaults.source().is_none());
        let with = |change: &dyn Fn(&mut Settings)| {
            let mut settings = defaults.clone();
            change(&mut settings);
            settings
        };
        let acme = with(&|settings| settings.tenants = vec!["acme".to_owned()]);
        assert!(acme.asks_for("acme", Channel::Sms) && !acme.asks_for("acm", Channel::Sms));
        let sms = with(&|settings| settings.channels = vec!["sms".to_owned()]);
        assert!(sms.asks_for("x", Channel::Sms) && !sms.asks_for("x", Channel::Email));
        for (settings, field) in [
            (
                with(&|settings| settings.tenants = vec!["a/b".to_owned()]),
                "encryption.tenants",
            ),
            (
                with(&|settings| settings.channels = vec!["fax".to_owned()]),
                "encryption.channels",
            ),
            (
                with(&|settings| settings.keys_poll_ms = 0),
                "encryption.keys_poll_ms",
            ),
            (
                with(&|settings| (settings.keys, settings.keys_file) = ("a".to_owned(), "b".to_owned())),
                "encryption.keys",
            ),
        ] {
            assert_eq!(settings.check().unwrap_err().field, field);
        }
        let given = with(&|settings| settings.keys = "hush".to_owned());
        let refused = given.source().unwrap().ring().unwrap_err();
        assert!(
            refused.starts_with("encryption.keys: ") && !refused.contains("hush"),
            "{refused}"
        );
        assert!(!format!("{given:?}").contains("hush"));
    }
}
