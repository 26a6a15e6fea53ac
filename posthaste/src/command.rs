//! Commands that look at configuration, rules and topics, and start no service.

use std::{io::Write as _, path::Path};

use clap::CommandFactory as _;
use posthaste_broker::{Finding, Severity};
use posthaste_rules::Rules;
use posthaste_service::{
    Configuration,
    config::{Entry, Origin},
};
use serde_json::json;

use crate::{
    cli::{self, Common, Place},
    configuration, explain,
    failure::Failure,
    run::backends,
};

/// `posthaste config …`.
pub fn config(common: &Common, command: cli::Config) -> Result<(), Failure> {
    match command {
        cli::Config::Default => print(&configuration::defaults()),
        cli::Config::Check => {
            checked(common)?;
            print("the configuration is good\n")
        }
        cli::Config::Show { changed, json } => {
            let configuration = checked(common)?;
            let entries = configuration
                .entries()
                .filter(|entry| !changed || entry.origin != Origin::Default);
            if json {
                let entries: Vec<_> = entries.map(|entry| entry_as_json(&entry)).collect();
                return print_json(&json!(entries));
            }
            let mut text = String::new();
            for entry in entries {
                text.push_str(&format!("{} = {} # {}\n", entry.key, entry.value, entry.origin));
            }
            print(&text)
        }
    }
}

fn entry_as_json(entry: &Entry) -> serde_json::Value {
    // A masked value is no TOML: it stays the text that it is.
    let value = toml::from_str::<toml::Table>(&format!("value = {}", entry.value))
        .ok()
        .and_then(|mut table| table.remove("value"))
        .map_or_else(|| json!(entry.value), |value| json!(value));
    let origin = match &entry.origin {
        Origin::Default => json!({ "from": "default" }),
        Origin::File { path, line } => json!({ "from": "file", "file": path, "line": line }),
        Origin::Environment(name) => json!({ "from": "environment", "name": name }),
        Origin::Option(name) => json!({ "from": "option", "name": name }),
    };
    json!({ "key": entry.key, "value": value, "origin": origin })
}

/// `posthaste completions …`.
pub fn completions(shell: clap_complete::Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut cli::Cli::command(), "posthaste", &mut script);
    print(&String::from_utf8_lossy(&script))
}

fn checked(common: &Common) -> Result<Configuration, Failure> {
    let configuration = configuration::load(common, &Place::default())?;
    let settings = configuration::settings(&configuration)?;
    let names = configuration::provider_names(&configuration, &settings)?;
    configuration::rules(&settings, &names)?;
    Ok(configuration)
}

/// `posthaste rules …`.
pub fn rules(common: &Common, command: cli::Rules) -> Result<(), Failure> {
    match command {
        cli::Rules::Check { file, show, json } => {
            let (rules, text) = read_rules(common, file.as_deref())?;
            if json {
                return print_json(&json!({
                    "origin": rules.origin(), "version": rules.version(),
                    "rules": rules.count(), "tests": rules.tests(),
                }));
            }
            if show {
                print(&text)?;
            }
            let verdict = format!(
                "{}: {} rules, {} tests of its own passed, version {}, all good\n",
                rules.origin(),
                rules.count(),
                rules.tests(),
                rules.version()
            );
            // With --show the rules alone go to standard output, so that they can be kept in a file.
            if show {
                eprint!("{verdict}");
                Ok(())
            } else {
                print(&verdict)
            }
        }
        cli::Rules::Explain(explain) => explain::explain(common, &explain),
    }
}

/// The rules that a file, or else the configuration, names, and their text.
pub fn read_rules(common: &Common, file: Option<&Path>) -> Result<(Rules, String), Failure> {
    let configuration = configuration::load(common, &Place::default())?;
    let mut settings = configuration::settings(&configuration)?;
    if let Some(file) = file {
        settings.retry.rules_file = file.display().to_string();
    }
    let names = configuration::provider_names(&configuration, &settings)?;
    let rules = configuration::rules(&settings, &names)?;
    let text = if settings.retry.rules_file.is_empty() {
        posthaste_rules::SHIPPED.to_owned()
    } else {
        std::fs::read_to_string(&settings.retry.rules_file).map_err(Failure::usage)?
    };
    Ok((rules, text))
}

/// `posthaste topics …`.
pub fn topics(common: &Common, command: cli::Topics) -> Result<(), Failure> {
    let (create, json, place) = match command {
        cli::Topics::Create { json, place } => (true, json, place),
        cli::Topics::Check { json, place } => (false, json, place),
    };
    let configuration = configuration::load(common, &place)?;
    let settings = configuration::settings(&configuration)?;
    posthaste_service::telemetry::start(&settings.service).map_err(|error| configuration.refuse(&error))?;
    let findings = runtime()?.block_on(async {
        let broker = backends::broker_now(&settings).await?;
        let findings = if create {
            broker.create_topics().await
        } else {
            broker.check_topics().await
        };
        broker.close(1_000).await;
        findings.map_err(Failure::runtime)
    })?;
    show_findings(&findings, json)
}

/// Prints findings; a failure when something does not work.
pub fn show_findings(findings: &[Finding], as_json: bool) -> Result<(), Failure> {
    let word = |severity| match severity {
        Severity::Good => "good",
        Severity::Warning => "warning",
        Severity::Error => "error",
    };
    if as_json {
        let findings: Vec<_> = findings
            .iter()
            .map(|finding| {
                json!({ "severity": word(finding.severity), "subject": finding.subject, "message": finding.message })
            })
            .collect();
        print_json(&json!(findings))?;
    } else {
        let lines: String = findings
            .iter()
            .map(|finding| {
                format!(
                    "{:8} {}: {}\n",
                    word(finding.severity),
                    finding.subject,
                    finding.message
                )
            })
            .collect();
        print(&lines)?;
    }
    let errors = findings
        .iter()
        .filter(|finding| finding.severity == Severity::Error)
        .count();
    match errors {
        0 => Ok(()),
        1 => Err(Failure::Runtime("1 thing does not work".to_owned())),
        errors => Err(Failure::Runtime(format!("{errors} things do not work"))),
    }
}

/// One thread is enough for a command that asks one question.
pub fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Failure::runtime)
}

/// Prints to standard output. A reader that went away, as `head` does, is no failure.
pub fn print(text: &str) -> Result<(), Failure> {
    print_on(text).map(drop)
}

/// The same for who has more to print: gives whether somebody still reads.
pub fn print_on(text: &str) -> Result<bool, Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure::runtime(error)),
    }
}

/// Prints a JSON value and a line end.
pub fn print_json(value: &serde_json::Value) -> Result<(), Failure> {
    print(&format!("{value:#}\n"))
}
