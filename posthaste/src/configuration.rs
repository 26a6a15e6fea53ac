//! The whole configuration: every crate's commented defaults put together, and the settings read from it.

use posthaste_ingestion::ProviderNames;
use posthaste_provider::LoadError;
use posthaste_rules::Rules;
use posthaste_service::{
    Configuration,
    config::{ConfigError, Override, Sources},
};

use crate::{
    cli::{Common, Place},
    failure::Failure,
};

/// Every crate's part, in the order in which the manual shows them.
const PARTS: &[&str] = &[
    posthaste_service::DEFAULTS,
    posthaste_ingestion::DEFAULTS,
    posthaste_broadcast::DEFAULTS,
    posthaste_definitions::DEFAULTS,
    posthaste_sealing::DEFAULTS,
    posthaste_broker::settings::DEFAULTS,
    posthaste_dispatcher::DEFAULTS,
    posthaste_retry::DEFAULTS,
    posthaste_replay::DEFAULTS,
    posthaste_status::DEFAULTS,
    posthaste_store::DEFAULTS,
    posthaste_provider::DEFAULTS,
    posthaste_sandbox::DEFAULTS,
];

const HEAD: &str = "\
# The configuration of Posthaste: every key with its default. A file of your own needs only the keys that it changes.
# Later wins: these defaults, the file (--config FILE), the environment, the command line. The environment's name of a key is
# its path with two underscores between the parts: [broker.kafka] client_id is POSTHASTE_BROKER__KAFKA__CLIENT_ID.
";

/// The compiled-in default configuration, which is the manual.
pub fn defaults() -> String {
    let mut text = HEAD.to_owned();
    for part in PARTS {
        text.push('\n');
        text.push_str(part.trim_end());
        text.push('\n');
    }
    text
}

/// The settings of every crate.
#[derive(Debug, Clone)]
pub struct Settings {
    pub service: posthaste_service::Settings,
    pub ingestion: posthaste_ingestion::Settings,
    pub broadcast: posthaste_broadcast::Settings,
    pub definitions: posthaste_definitions::Settings,
    pub encryption: posthaste_sealing::Settings,
    pub broker: posthaste_broker::settings::Settings,
    pub dispatcher: posthaste_dispatcher::Settings,
    pub retry: posthaste_retry::Settings,
    pub replay: posthaste_replay::Settings,
    pub status: posthaste_status::Settings,
    pub store: posthaste_store::Settings,
    pub provider: posthaste_provider::Settings,
    pub sandbox: posthaste_sandbox::Settings,
}

/// Puts the configuration together from its sources.
pub fn load(common: &Common, place: &Place) -> Result<Configuration, ConfigError> {
    let environment = std::env::vars_os()
        .map(|(name, value)| {
            (
                name.to_string_lossy().into_owned(),
                value.to_string_lossy().into_owned(),
            )
        })
        .collect();
    Configuration::load(Sources {
        defaults: &defaults(),
        open: &["providers"],
        file: common.config.as_deref(),
        environment,
        overrides: &overrides(common, place)?,
    })
}

fn overrides(common: &Common, place: &Place) -> Result<Vec<Override>, ConfigError> {
    let mut overrides = Vec::new();
    for set in &common.set {
        let (key, value) = set.split_once('=').ok_or_else(|| {
            ConfigError(vec![format!(
                "--set {set:?} has no =; accepted: KEY=VALUE, such as broker.prefix=test"
            )])
        })?;
        overrides.push(Override::new("--set", key.trim(), value));
    }
    for (option, key, value) in [
        ("--log", "service.log_level", &common.log),
        ("--log-format", "service.log_format", &common.log_format),
    ] {
        if let Some(value) = value {
            overrides.push(Override::new(option, key, value));
        }
    }
    for (option, key, value) in place.given() {
        overrides.push(Override::new(option, key, value));
    }
    Ok(overrides)
}

/// Reads and checks every table, so that a mistake shows at once and not when its service is first needed.
pub fn settings(configuration: &Configuration) -> Result<Settings, ConfigError> {
    let settings = Settings {
        service: configuration.section("service")?,
        ingestion: configuration.section("ingestion")?,
        broadcast: configuration.section("broadcast")?,
        definitions: configuration.section("definitions")?,
        encryption: configuration.section("encryption")?,
        broker: configuration.section("broker")?,
        dispatcher: configuration.section("dispatcher")?,
        retry: configuration.section("retry")?,
        replay: configuration.section("replay")?,
        status: configuration.section("status")?,
        store: configuration.section("store")?,
        sandbox: configuration.section("sandbox")?,
        provider: posthaste_provider::Settings {
            provider: configuration.section("provider")?,
            providers: configuration.section("providers")?,
        },
    };
    for checked in [
        settings.service.check(),
        settings.ingestion.check(),
        settings.broadcast.check(),
        settings.definitions.check(),
        settings.encryption.check(),
        settings.dispatcher.check(),
        settings.retry.check(),
        settings.replay.check(),
        settings.status.check(),
        settings.store.check(),
        settings.provider.check(),
    ] {
        checked.map_err(|error| configuration.refuse(&error))?;
    }
    settings
        .broker
        .check()
        .map_err(|error| ConfigError(vec![error]))?;
    Ok(settings)
}

/// The providers that a client may ask for, by channel.
pub fn provider_names(configuration: &Configuration, settings: &Settings) -> Result<ProviderNames, Failure> {
    posthaste_provider::names(&settings.provider).map_err(|error| provider_failure(configuration, error))
}

/// The error of a provider file or a setting, with the place where it was set.
pub fn provider_failure(configuration: &Configuration, error: LoadError) -> Failure {
    match error {
        LoadError::Setting(error) => configuration.refuse(&error).into(),
        error => Failure::usage(error),
    }
}

/// The retry rules, none of which names a provider that there is not.
pub fn rules(settings: &Settings, names: &ProviderNames) -> Result<Rules, Failure> {
    let rules = settings.retry.rules().map_err(Failure::usage)?;
    only_known(rules, names).map_err(Failure::Usage)
}

/// The same for a later text of the rule file.
///
/// # Errors
/// What is wrong with it, in words.
pub fn rules_of(text: &str, file: &str, names: &ProviderNames) -> Result<Rules, String> {
    let rules = Rules::parse(text, file).map_err(|error| error.to_string())?;
    only_known(rules, names)
}

fn only_known(rules: Rules, names: &ProviderNames) -> Result<Rules, String> {
    let known: Vec<&str> = names.values().flatten().map(String::as_str).collect();
    let unknown = rules.unknown_providers(&known);
    if unknown.is_empty() {
        return Ok(rules);
    }
    let lines: Vec<_> = unknown.iter().map(ToString::to_string).collect();
    Err(lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(set: &[&str]) -> Result<Settings, ConfigError> {
        let common = Common {
            set: set.iter().map(|set| (*set).to_owned()).collect(),
            ..Common::default()
        };
        load(&common, &Place::default()).and_then(|configuration| settings(&configuration))
    }

    #[test]
    fn the_manual_is_a_configuration_that_passes_every_check() {
        with(&[]).unwrap();
    }

    #[test]
    fn every_key_of_the_manual_is_explained() {
        let mut explained = false;
        for (index, line) in defaults().lines().map(str::trim).enumerate() {
            if line.starts_with('#') {
                explained = true;
            } else if line.is_empty() || line.starts_with('[') {
                // A table's own comment stands above it or explains its first keys.
                explained = explained && line.starts_with('[');
            } else {
                assert!(explained, "line {}: {line} has no comment", index + 1);
            }
        }
    }

    #[test]
    fn the_command_line_wins_and_is_named_when_it_is_wrong() {
        assert_eq!(with(&["broker.prefix=test"]).unwrap().broker.prefix, "test");
        for (set, expected) in [
            ("broker.prefix", "has no ="),
            ("broker.prefx=a", "did you mean broker.prefix?"),
            (
                "ingestion.nesting_max=1000",
                "option --set: ingestion.nesting_max",
            ),
            ("broker.partitions=0", "broker.partitions"),
            ("service.log_format=xml", "service.log_format"),
            ("store.embedded.readers=0", "option --set: store.embedded.readers"),
            (
                "provider.callback_url=here",
                "option --set: provider.callback_url",
            ),
            ("provider.answer_bytes_max=0", "provider.answer_bytes_max"),
            ("retry.stall_ms=0", "retry.stall_ms"),
        ] {
            let error = with(&[set]).unwrap_err().to_string();
            assert!(error.contains(expected), "{set}: {error}");
        }
    }
}
