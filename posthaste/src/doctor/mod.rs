//! `posthaste doctor`: looks at everything that Posthaste needs, and says what is wrong and how to mend it.
//!
//! It only looks: nothing is created, changed or sent. Everything is looked at even when something before it is wrong, but
//! for what cannot be looked at without.

mod backends;
mod machine;

use posthaste_broker::{Finding, Severity};
use posthaste_service::{Configuration, config::Origin};

use crate::{
    cli::{Common, Place},
    command::{runtime, show_findings},
    configuration::{self, Settings},
    failure::Failure,
};

/// Clocks may differ by this much before anything suffers from it, in milliseconds.
const CLOCKS_DIFFER_MS: i64 = 5_000;

/// What is looked at, and what was found.
struct Doctor<'a> {
    configuration: &'a Configuration,
    settings: &'a Settings,
    findings: Vec<Finding>,
}

/// Looks at everything. A configuration that cannot be read is wrong use; all else is found and told.
pub fn doctor(common: &Common, place: &Place, url: Option<&str>, json: bool) -> Result<(), Failure> {
    let configuration = configuration::load(common, place)?;
    let settings = configuration::settings(&configuration)?;
    let mut doctor = Doctor {
        configuration: &configuration,
        settings: &settings,
        findings: Vec::new(),
    };
    doctor.rules_and_providers();
    doctor.clock();
    doctor.data_folder();
    runtime()?.block_on(async {
        doctor.broker().await;
        doctor.store().await;
        doctor.service(url).await;
    });
    show_findings(&doctor.findings, json)
}

impl Doctor<'_> {
    fn tell(&mut self, severity: Severity, subject: &str, message: impl Into<String>) {
        self.findings.push(Finding {
            severity,
            subject: subject.to_owned(),
            message: message.into(),
        });
    }

    fn good(&mut self, subject: &str, message: impl Into<String>) {
        self.tell(Severity::Good, subject, message);
    }

    fn warn(&mut self, subject: &str, message: impl Into<String>) {
        self.tell(Severity::Warning, subject, message);
    }

    fn wrong(&mut self, subject: &str, message: impl Into<String>) {
        self.tell(Severity::Error, subject, message);
    }

    /// Where a key was set, for messages.
    fn set_by(&self, key: &str) -> String {
        self.configuration
            .value(key)
            .map_or_else(String::new, |(_, origin)| format!("{key} is set by {origin}"))
    }

    fn rules_and_providers(&mut self) {
        let changed = self
            .configuration
            .entries()
            .filter(|entry| entry.origin != Origin::Default)
            .count();
        self.good(
            "configuration",
            format!("{changed} keys differ from the default; `posthaste config show --changed` lists them"),
        );
        let names = match configuration::provider_names(self.configuration, self.settings) {
            Ok(names) => names,
            Err(failure) => return self.wrong("providers", failure.to_string()),
        };
        match configuration::rules(self.settings, &names) {
            Ok(rules) => self.good(
                "rules",
                format!(
                    "{}, version {}: {} rules, {} tests passed",
                    rules.origin(),
                    rules.version(),
                    rules.count(),
                    rules.tests()
                ),
            ),
            Err(failure) => self.wrong("rules", failure.to_string()),
        }
        let accounts: std::collections::BTreeSet<String> = names.into_values().flatten().collect();
        let with: Vec<String> = accounts
            .into_iter()
            .filter(|account| {
                let prefix = format!("providers.{account}.");
                self.configuration
                    .entries()
                    .any(|entry| entry.key.starts_with(&prefix) && entry.origin != Origin::Default)
            })
            .collect();
        if with.is_empty() {
            self.warn(
                "providers",
                "no account is configured: everything goes to the sandbox and to nobody, and a dispatcher alone does not \
                 start without provider.sandbox_url; credentials go under [providers.<account>]",
            );
        } else {
            self.good("providers", format!("configured: {}", with.join(", ")));
        }
    }
}

#[cfg(test)]
mod tests;
