//! `[service.auth]`: who is asked for credentials, and whose are good.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use posthaste_event::{Channel, FieldError, Millis};
use serde::{Deserialize, Deserializer};

use super::{
    access::{Role, Roles},
    api_key,
    principal::{Principal, Tenants},
    rate::Quota,
};

/// Longest name of a tenant, as intake has it.
const TENANT_CHARS_MAX: usize = 64;

/// Stands for every tenant.
const ALL_TENANTS: &str = "*";

/// The `[service.auth]` table.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Whether requests must bring credentials.
    pub enabled: bool,
    /// Whether a service may be reachable from elsewhere although nobody is asked for credentials.
    pub insecure_no_auth: bool,
    /// Whether `/metrics` is open to anyone.
    pub metrics_open: bool,
    /// Requests of one principal in a window.
    pub rate_requests_max: u32,
    /// Length of a window, in seconds.
    pub rate_window_seconds: u32,
    /// API keys, by the name of who holds them.
    pub clients: BTreeMap<String, Client>,
}

/// A `[service.auth.clients.<name>]` table: one API key.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Client {
    /// The part of the key that is shown.
    pub key_id: String,
    /// The SHA-256 of the whole key, in hexadecimal digits.
    pub hash: String,
    /// Whose belongings it may touch; `*` for everybody's.
    pub tenant: String,
    /// What it may do with them.
    #[serde(deserialize_with = "words")]
    pub roles: Vec<String>,
    /// The channels that it may send on; without, all.
    #[serde(default, deserialize_with = "some_words")]
    pub channels: Option<Vec<String>>,
    /// When the key is over, as RFC 3339; without, never.
    #[serde(default)]
    pub expires_at: Option<String>,
}

impl Settings {
    /// Checks what types alone cannot.
    ///
    /// # Errors
    /// The first key whose value cannot work.
    pub fn check(&self) -> Result<(), FieldError> {
        let within = |key: &str, value: u32, least: u32, most: u32| {
            if (least..=most).contains(&value) {
                return Ok(());
            }
            Err(FieldError::new(
                format!("service.auth.{key}"),
                format!("{value} is out of range"),
                format!("{least} to {most}"),
            ))
        };
        within("rate_requests_max", self.rate_requests_max, 1, 1_000_000_000)?;
        within("rate_window_seconds", self.rate_window_seconds, 1, 86_400)?;
        let mut ids = BTreeMap::new();
        for (name, client) in &self.clients {
            client.check(name)?;
            if let Some(other) = ids.insert(api_key::read_id(&client.key_id), name) {
                return Err(FieldError::new(
                    format!("service.auth.clients.{name}.key_id"),
                    format!("is the one of {other:?}"),
                    "a key of its own for each",
                ));
            }
        }
        if self.enabled && self.clients.is_empty() {
            return Err(FieldError::new(
                "service.auth.enabled",
                "is true, and nobody has credentials",
                "a key in [service.auth.clients]; `posthaste api-keys generate` makes one",
            ));
        }
        Ok(())
    }

    /// Checks that nobody is let in from elsewhere without being asked who they are, unless that is wanted.
    ///
    /// # Errors
    /// When `address` is not only this machine's.
    pub fn check_reach(&self, address: SocketAddr) -> Result<(), FieldError> {
        if self.enabled || self.insecure_no_auth || address.ip().to_canonical().is_loopback() {
            return Ok(());
        }
        Err(FieldError::new(
            "service.listen",
            format!("{address} can be reached from elsewhere, and nobody is asked for credentials"),
            "an address of this machine only, such as 127.0.0.1; or service.auth.enabled; or --insecure-no-auth where \
             something before it keeps others out",
        ))
    }

    pub(super) const fn quota(&self) -> Quota {
        Quota {
            requests: self.rate_requests_max,
            seconds: self.rate_window_seconds,
        }
    }
}

impl Client {
    /// Checks what types alone cannot. `name` is the client's.
    ///
    /// # Errors
    /// The first key whose value cannot work.
    pub fn check(&self, name: &str) -> Result<(), FieldError> {
        let wrong = |key: &str, problem: String, accepted: String| {
            Err(FieldError::new(
                format!("service.auth.clients.{name}.{key}"),
                problem,
                accepted,
            ))
        };
        let made = "as `posthaste api-keys generate` prints it";
        if api_key::read_id(&self.key_id).is_none() {
            return wrong(
                "key_id",
                "is no id of a key".to_owned(),
                format!("12 hexadecimal digits, {made}"),
            );
        }
        if api_key::read_hash(&self.hash).is_none() {
            return wrong(
                "hash",
                "is no SHA-256".to_owned(),
                format!("64 hexadecimal digits, {made}"),
            );
        }
        if tenants_of(&self.tenant).is_none() {
            return wrong(
                "tenant",
                format!("{:?} is no tenant", self.tenant),
                format!(
                    "1 to {TENANT_CHARS_MAX} letters, digits, dots, dashes and underscores, or \"*\" for all"
                ),
            );
        }
        if let Some(unknown) = self.roles.iter().find(|role| Role::of(role).is_none()) {
            let roles = Role::ALL.map(Role::as_str).join(", ");
            return wrong("roles", format!("{unknown:?} is no role"), roles);
        }
        if self.roles.is_empty() {
            return wrong(
                "roles",
                "is empty".to_owned(),
                Role::ALL.map(Role::as_str).join(", "),
            );
        }
        let mut channels = self.channels.iter().flatten();
        if let Some(unknown) = channels.find(|name| name.parse::<Channel>().is_err()) {
            let known = Channel::ALL.map(Channel::as_str).join(", ");
            return wrong("channels", format!("{unknown:?} is no channel"), known);
        }
        if self
            .expires_at
            .as_deref()
            .is_some_and(|text| time_of(text).is_none())
        {
            let accepted = "RFC 3339, such as 2030-01-31T00:00:00Z".to_owned();
            return wrong("expires_at", "is no time".to_owned(), accepted);
        }
        Ok(())
    }

    /// `None` when something in it was not checked.
    pub(super) fn principal(&self, name: &str) -> Option<Arc<Principal>> {
        let until = match &self.expires_at {
            Some(text) => Some(time_of(text)?),
            None => None,
        };
        let channels = match &self.channels {
            Some(names) => Some(
                names
                    .iter()
                    .map(|name| name.parse().ok())
                    .collect::<Option<Vec<_>>>()?,
            ),
            None => None,
        };
        let roles: Option<Roles> = self.roles.iter().map(|name| Role::of(name)).collect();
        Some(Arc::new(Principal {
            name: name.into(),
            tenants: tenants_of(&self.tenant)?,
            roles: roles?,
            channels,
            until,
            window: Arc::default(),
        }))
    }
}

/// A list, or a text with commas, as environment variables have it.
#[derive(Deserialize)]
#[serde(untagged)]
enum Words {
    List(Vec<String>),
    Text(String),
}

fn words<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Ok(match Words::deserialize(deserializer)? {
        Words::List(words) => words,
        Words::Text(text) => text.split(',').map(|word| word.trim().to_owned()).collect(),
    })
}

fn some_words<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<String>>, D::Error> {
    words(deserializer).map(Some)
}

fn time_of(text: &str) -> Option<Millis> {
    Some(text.parse::<jiff::Timestamp>().ok()?.as_millisecond())
}

fn tenants_of(text: &str) -> Option<Tenants> {
    if text == ALL_TENANTS {
        return Some(Tenants::All);
    }
    is_tenant(text).then(|| Tenants::One(text.into()))
}

/// Whether this can be the name of a tenant.
pub(super) fn is_tenant(text: &str) -> bool {
    let named = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    (1..=TENANT_CHARS_MAX).contains(&text.len()) && text.chars().all(named)
}
