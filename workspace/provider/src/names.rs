//! The names that clients may ask for, known without credentials: intake checks them and sends nothing.

use std::collections::BTreeMap;

use posthaste_event::Channel;

use crate::{LoadError, Settings, kind::kinds, registry::descriptions};

/// The accounts that can carry each channel, by name.
///
/// # Errors
/// A provider file that is wrong, or an account of a provider that there is not.
pub fn names(settings: &Settings) -> Result<BTreeMap<Channel, Vec<String>>, LoadError> {
    let descriptions = descriptions(&settings.provider)?;
    let mut names: BTreeMap<Channel, Vec<String>> = BTreeMap::new();
    for (name, _, kind) in kinds(settings, &descriptions)? {
        for channel in kind.channels() {
            names.entry(*channel).or_default().push(name.to_owned());
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_are_known_by_channel_without_credentials() {
        let mut settings: Settings = toml::from_str(crate::DEFAULTS).unwrap();
        settings
            .providers
            .insert("twilio_eu".into(), toml::from_str("kind = \"twilio\"").unwrap());
        let names = names(&settings).unwrap();
        assert_eq!(names[&Channel::Sms], ["messagebird", "twilio", "twilio_eu"]);
        assert_eq!(names[&Channel::InApp], ["in_app"]);
    }
}
