//! `[provider]` and `[providers.<account>]` of the configuration.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read as _},
    path::Path,
    time::Duration,
};

use ipnet::IpNet;
use posthaste_event::{Channel, FieldError};
use serde::Deserialize;

use crate::file::{RESERVED, Setting, check_base_url};

/// Longest time that one send may be given, in milliseconds. Longer ones would outlive a consumer's lease on its records.
const TIMEOUT_MS_MAX: u64 = 120_000;
/// Most sends under way at once that one account may be given.
const CONCURRENCY_MAX: u64 = 10_000;

/// Most that one may read of an answer, in bytes: each send under way may hold as much.
const ANSWER_BYTES_MAX: u64 = 16 << 20;

/// Most bytes of an email's files that may be allowed: no provider takes more than some 30 MB of an email.
const ATTACHMENTS_BYTES_MAX: u64 = 64 << 20;

/// Both tables.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// What all providers share.
    pub provider: Shared,
    /// The accounts, by name.
    pub providers: Accounts,
}

/// `[providers.<account>]`, by name. Which keys one may have depends on its provider, so they are checked by the registry.
pub type Accounts = BTreeMap<String, toml::Table>;

/// `[provider]`: what all providers share.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shared {
    /// Where accounts without credentials send; empty: wherever this process says its sandbox is.
    pub sandbox_url: String,
    /// A folder with provider files of the user's own; empty: none.
    pub files_folder: String,
    /// Ranges of addresses that are not public and yet may be called by webhooks.
    pub allowed_cidrs: Vec<String>,
    /// Ranges of addresses that may not be called by webhooks in any case.
    pub refused_cidrs: Vec<String>,
    /// The proxy to providers: none if empty, the environment's, or one at an address.
    pub proxy: String,
    /// Whether webhooks take it too.
    pub proxy_webhooks: bool,
    /// Public address of this system, for callbacks of providers; empty: none are asked for.
    pub callback_url: String,
    /// Longest time to set up a connection, in milliseconds.
    pub connect_timeout_ms: u64,
    /// Idle connections kept per host.
    pub idle_connections_max: usize,
    /// How long an idle connection is kept, in milliseconds.
    pub idle_timeout_ms: u64,
    /// Most bytes read of an answer.
    pub answer_bytes_max: usize,
    /// Most bytes of an email's files, with those that are fetched.
    pub attachments_bytes_max: usize,
    /// Emails whose files are fetched and sent at once.
    pub attachment_emails_max: usize,
    /// The account that carries a channel when the event names none.
    pub defaults: BTreeMap<Channel, String>,
}

impl Settings {
    /// Checks what all providers share. Accounts are checked by the registry, which knows their providers.
    ///
    /// # Errors
    /// The first key whose value cannot work.
    pub fn check(&self) -> Result<(), FieldError> {
        let shared = &self.provider;
        for (key, value, least, most) in [
            ("connect_timeout_ms", shared.connect_timeout_ms, 1, TIMEOUT_MS_MAX),
            (
                "idle_connections_max",
                shared.idle_connections_max as u64,
                0,
                CONCURRENCY_MAX,
            ),
            ("idle_timeout_ms", shared.idle_timeout_ms, 1, 24 * 60 * 60 * 1_000),
            (
                "answer_bytes_max",
                shared.answer_bytes_max as u64,
                1_024,
                ANSWER_BYTES_MAX,
            ),
            (
                "attachments_bytes_max",
                shared.attachments_bytes_max as u64,
                0,
                ATTACHMENTS_BYTES_MAX,
            ),
            (
                "attachment_emails_max",
                shared.attachment_emails_max as u64,
                1,
                CONCURRENCY_MAX,
            ),
        ] {
            if !(least..=most).contains(&value) {
                return Err(FieldError::new(
                    format!("provider.{key}"),
                    format!("{value} is out of range"),
                    format!("{least} to {most}"),
                ));
            }
        }
        for (key, url, example) in [
            (
                "sandbox_url",
                &shared.sandbox_url,
                "such as http://127.0.0.1:3010/sandbox",
            ),
            (
                "callback_url",
                &shared.callback_url,
                "such as https://events.example.com",
            ),
        ] {
            if let Some(url) = given(url) {
                check_base_url(url)
                    .map_err(|error| FieldError::new(format!("provider.{key}"), error.0, example))?;
            }
        }
        if let Proxying::By(url) = shared.proxying() {
            check_base_url(url).map_err(|error| {
                let accepted = "such as http://proxy.example.com:3128; \"environment\"; or empty for none";
                FieldError::new("provider.proxy", error.0, accepted)
            })?;
        } else if shared.proxy_webhooks {
            return Err(FieldError::new(
                "provider.proxy_webhooks",
                "is true, and no proxy's address is given",
                "the address in provider.proxy; or false",
            ));
        }
        shared.allowed()?;
        shared.refused().map(drop)
    }
}

impl Shared {
    pub(crate) fn allowed(&self) -> Result<Vec<IpNet>, FieldError> {
        ranges("provider.allowed_cidrs", &self.allowed_cidrs)
    }

    pub(crate) fn refused(&self) -> Result<Vec<IpNet>, FieldError> {
        ranges("provider.refused_cidrs", &self.refused_cidrs)
    }

    pub(crate) fn proxying(&self) -> Proxying<'_> {
        match given(&self.proxy) {
            None => Proxying::No,
            Some("environment") => Proxying::ByEnvironment,
            Some(url) => Proxying::By(url),
        }
    }
}

/// How providers are reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Proxying<'a> {
    No,
    ByEnvironment,
    By(&'a str),
}

fn ranges(key: &str, texts: &[String]) -> Result<Vec<IpNet>, FieldError> {
    let range = |text: &String| {
        text.parse().map_err(|_| {
            FieldError::new(
                key,
                format!("{text:?} is no range of addresses"),
                "such as 10.1.0.0/16 or fd00::/8",
            )
        })
    };
    texts.iter().map(range).collect()
}

/// An empty text is a value that was not given: so the commented default can list every key, and the environment can set it.
pub(crate) fn given(text: &str) -> Option<&str> {
    Some(text.trim()).filter(|text| !text.is_empty())
}

/// One account, checked against its provider.
pub(crate) struct AccountSettings {
    pub(crate) base_url: Option<String>,
    pub(crate) concurrency_max: usize,
    pub(crate) timeout: Duration,
    /// The provider's own settings, as far as they were given.
    pub(crate) values: BTreeMap<String, String>,
}

/// Limits of an account that does not set its own.
pub(crate) const CONCURRENCY_DEFAULT: u64 = 64;
/// The same, in milliseconds.
pub(crate) const TIMEOUT_MS_DEFAULT: u64 = 10_000;

impl AccountSettings {
    /// Checks `[providers.<account>]`; `keys` are those that its provider has.
    pub(crate) fn read(
        account: &str,
        table: &toml::Table,
        keys: &BTreeMap<String, Setting>,
    ) -> Result<Self, FieldError> {
        let field = |key: &str| format!("providers.{account}.{key}");
        let mut values = BTreeMap::new();
        for (key, value) in table {
            if RESERVED.contains(&key.as_str()) {
                continue;
            }
            let (name, from_file) = match key.strip_suffix("_file") {
                Some(name) => (name, true),
                None => (key.as_str(), false),
            };
            if !keys.contains_key(name) {
                return Err(FieldError::new(field(key), "unknown key", accepted_keys(keys)));
            }
            let Some(text) = given_text(value, || field(key))? else {
                continue;
            };
            let text = if from_file {
                read_secret(&text).map_err(|problem| {
                    FieldError::new(field(key), problem, "the path of a file that can be read")
                })?
            } else {
                text
            };
            if values.insert(name.to_owned(), text).is_some() {
                return Err(FieldError::new(
                    field(key),
                    format!("{name} and {name}_file are both given"),
                    "one of them",
                ));
            }
        }
        let base_url = match table.get("base_url") {
            Some(value) => given_text(value, || field("base_url"))?,
            None => None,
        };
        if let Some(url) = &base_url {
            check_base_url(url).map_err(|error| {
                FieldError::new(
                    field("base_url"),
                    error.0,
                    "an address such as https://api.example.com",
                )
            })?;
        }
        let number = |key: &str, default: u64, max: u64| {
            table
                .get(key)
                .map_or(Ok(default), |value| positive(value, max).ok_or(()))
                .map_err(|()| {
                    FieldError::new(
                        field(key),
                        "is no such number",
                        format!("a whole number from 1 to {max}"),
                    )
                })
        };
        let concurrency_max = number("concurrency_max", CONCURRENCY_DEFAULT, CONCURRENCY_MAX)?;
        Ok(Self {
            base_url,
            concurrency_max: usize::try_from(concurrency_max).unwrap_or(usize::MAX),
            timeout: Duration::from_millis(number("timeout_ms", TIMEOUT_MS_DEFAULT, TIMEOUT_MS_MAX)?),
            values,
        })
    }
}

fn accepted_keys(keys: &BTreeMap<String, Setting>) -> String {
    let own = keys
        .iter()
        .map(|(name, setting)| format!("{name} ({}; or {name}_file)", setting.about));
    RESERVED
        .map(str::to_owned)
        .into_iter()
        .chain(own)
        .collect::<Vec<_>>()
        .join(", ")
}

fn given_text(value: &toml::Value, field: impl Fn() -> String) -> Result<Option<String>, FieldError> {
    match value {
        toml::Value::String(text) => Ok(given(text).map(str::to_owned)),
        // From the environment a number and a text look the same.
        toml::Value::Integer(number) => Ok(Some(number.to_string())),
        _ => Err(FieldError::new(
            field(),
            format!("is of type {}", value.type_str()),
            "text",
        )),
    }
}

fn positive(value: &toml::Value, max: u64) -> Option<u64> {
    match value {
        toml::Value::Integer(number) => u64::try_from(*number).ok(),
        toml::Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
    .filter(|number| (1..=max).contains(number))
}

fn read_secret(path: &str) -> Result<String, String> {
    let text = read_bounded(Path::new(path)).map_err(|error| format!("{path} cannot be read: {error}"))?;
    given(&text)
        .map(str::to_owned)
        .ok_or_else(|| format!("{path} is empty"))
}

/// Largest file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The text of a file, unless it has more of it than any file of ours.
pub(crate) fn read_bounded(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    fs::File::open(path)?
        .take(FILE_BYTES_MAX + 1)
        .read_to_string(&mut text)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        let problem = format!("it has more than {FILE_BYTES_MAX} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, problem));
    }
    Ok(text)
}
