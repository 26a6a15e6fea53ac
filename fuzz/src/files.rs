//! What operators write: rule files, provider files, the configuration.

use std::{path::PathBuf, sync::LazyLock};

use posthaste_event::{
    Channel, Delivery, ErrorKind, Failure, FieldError, Priority,
    delivery::{Accepted, Policy},
};
use posthaste_provider::checked::Checked;
use posthaste_rules::{Rules, Verdict};
use posthaste_service::config::{Configuration, Sources};

use super::NOW;

/// A rule file.
pub fn rules(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else {
        return false;
    };
    let rules = match Rules::parse(text, "rules.toml") {
        Ok(rules) => rules,
        Err(error) => {
            // What is wrong with the file as a whole has no line.
            assert!(!error.problem.is_empty(), "{error:.300}");
            return false;
        }
    };
    let _unknown = rules.unknown_providers(&["twilio"]);
    for channel in Channel::ALL {
        for kind in ErrorKind::ALL {
            decide(&rules, channel, kind);
        }
    }
    true
}

/// Every file comes to an end with every event, unless it allows for more tries than this.
fn decide(rules: &Rules, channel: Channel, kind: ErrorKind) {
    let mut delivery = delivery(channel);
    for _ in 0..20 {
        let wait = (kind == ErrorKind::RateLimited).then_some(u32::MAX);
        let failure = Failure::new(kind, "twilio", Some("429".to_owned()), "refused").retry_after(wait);
        let provider = delivery.provider.clone().unwrap_or_else(|| "twilio".to_owned());
        delivery = delivery.failed(&provider, &provider, failure, "here", NOW);
        match rules.decide(&delivery, NOW, 7) {
            Verdict::Retry { due, provider, rule } => {
                assert!(due >= NOW, "{due}");
                assert!(due <= NOW + 366 * 86_400_000, "{due}");
                delivery.retry(due, provider, rule, "here", NOW);
            }
            Verdict::DeadLetter { .. } => break,
        }
    }
}

fn delivery(channel: Channel) -> Delivery {
    let accepted = Accepted {
        id: "e1".to_owned(),
        correlation_id: "c1".to_owned(),
        tenant: "acme".to_owned(),
        channel,
        priority: Priority::Normal,
        provider: None,
        scheduled_at: None,
        expires_at: None,
        policy: Policy::NoLoss,
    };
    Delivery::accepted(accepted, "here", NOW).0
}

/// A provider file, tried with its samples. What is good reads answers, too.
pub fn provider(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else {
        return false;
    };
    match Checked::read("provider.toml", text) {
        Ok(checked) => {
            assert!(!checked.channels().is_empty());
            for (status, body) in [
                (200, r#"{"id": "m1", "errors": [{"code": 21211}]}"#),
                (429, ""),
                (500, "oops"),
            ] {
                let _either = checked.answer(status, &reqwest::header::HeaderMap::new(), body, NOW);
            }
            true
        }
        Err(error) => {
            assert!(error.line > 0 && !error.to_string().is_empty(), "{error:.300}");
            false
        }
    }
}

/// The defaults of all that the library crates read, without their comments: they are read anew each time.
static DEFAULTS: LazyLock<String> = LazyLock::new(|| {
    let commented = [
        posthaste_service::DEFAULTS,
        posthaste_ingestion::DEFAULTS,
        posthaste_broker::settings::DEFAULTS,
        posthaste_dispatcher::DEFAULTS,
        posthaste_retry::DEFAULTS,
        posthaste_replay::DEFAULTS,
        posthaste_status::DEFAULTS,
        posthaste_store::DEFAULTS,
        posthaste_provider::DEFAULTS,
    ]
    .join("\n");
    commented.parse::<toml::Table>().unwrap().to_string()
});

/// A configuration: lines that begin with `POSTHASTE_` are variables of the environment, all others are the user's file.
pub fn configuration(data: &[u8]) -> bool {
    static FILE: LazyLock<PathBuf> =
        LazyLock::new(|| std::env::temp_dir().join(format!("posthaste-fuzz-{}.toml", std::process::id())));
    let Ok(text) = std::str::from_utf8(data) else {
        return false;
    };
    let is_variable = |line: &&str| line.starts_with("POSTHASTE_") && line.contains('=');
    let environment = text
        .lines()
        .filter(is_variable)
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let file: String = text
        .lines()
        .filter(|line| !is_variable(line))
        .flat_map(|line| [line, "\n"])
        .collect();
    std::fs::write(&*FILE, file).unwrap();
    let loaded = Configuration::load(Sources {
        defaults: &DEFAULTS,
        open: &["providers"],
        file: Some(&FILE),
        environment,
        overrides: &[],
    });
    let _ = std::fs::remove_file(&*FILE);
    let configuration = match loaded {
        Ok(configuration) => configuration,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return false;
        }
    };
    for entry in configuration.entries() {
        assert!(
            configuration.value(&entry.key).is_some() || entry.key.contains(['"', '\'']),
            "{}",
            entry.key
        );
    }
    settings(&configuration, text.to_ascii_lowercase().contains("provider"))
}

/// Reads every table and checks it, as at the start of the program. Says whether providers were given and could be named.
fn settings(configuration: &Configuration, with_providers: bool) -> bool {
    macro_rules! check {
        ($($table:literal: $settings:ty),* $(,)?) => {$(
            match configuration.section::<$settings>($table) {
                Ok(settings) => refused(configuration, settings.check()),
                Err(error) => assert!(!error.to_string().is_empty()),
            }
        )*};
    }
    check! {
        "service": posthaste_service::Settings,
        "ingestion": posthaste_ingestion::Settings,
        "dispatcher": posthaste_dispatcher::Settings,
        "retry": posthaste_retry::Settings,
        "replay": posthaste_replay::Settings,
        "status": posthaste_status::Settings,
        "store": posthaste_store::Settings,
    }
    if let Ok(broker) = configuration.section::<posthaste_broker::settings::Settings>("broker")
        && let Err(error) = broker.check()
    {
        assert!(!error.is_empty());
    }
    if let Ok(service) = configuration.section::<posthaste_service::Settings>("service") {
        refused(configuration, service.listen_address(3_000).map(drop));
    }
    // Every provider file is read for it.
    if !with_providers {
        return false;
    }
    let providers = (
        configuration.section("provider"),
        configuration.section("providers"),
    );
    if let (Ok(provider), Ok(providers)) = providers {
        let mut settings = posthaste_provider::Settings { provider, providers };
        // Nothing is read from the machine's own folders.
        settings.provider.files_folder.clear();
        refused(configuration, settings.check());
        return posthaste_provider::names(&settings).is_ok();
    }
    false
}

fn refused(configuration: &Configuration, checked: Result<(), FieldError>) {
    if let Err(error) = checked {
        let said = configuration.refuse(&error).to_string();
        assert!(
            said.contains(&error.field) && !error.accepted.is_empty(),
            "{said}"
        );
    }
}
