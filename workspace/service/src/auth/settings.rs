//! `[service.auth]`: who is asked for credentials, and whose are good.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use jsonwebtoken::Algorithm;
use posthaste_event::{
    Channel, FieldError, Millis,
    definition::{CODE, is_code},
};
use serde::{Deserialize, Deserializer};

use super::{
    access::{Role, Roles},
    address::Proxies,
    api_key,
    failures::COUNTED_MAX,
    principal::{CONFIGS_MAX, Principal, Tenants},
    rate::Quota,
};

/// Longest name of a tenant, as intake has it.
const TENANT_CHARS_MAX: usize = 64;

/// Stands for every tenant.
const ALL_TENANTS: &str = "*";

/// The `[service.auth]` table.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthSettings {
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
    /// Credentials that are no good, from one address in a window.
    pub failures_max: u32,
    /// Length of that window, in seconds.
    pub failures_window_seconds: u32,
    /// For how long keys that were made over HTTP are good while nothing is heard of what changes, in seconds.
    pub keys_trusted_seconds: u32,
    /// Networks of proxies whose `X-Forwarded-For` is believed.
    #[serde(deserialize_with = "words")]
    pub proxies: Vec<String>,
    /// The issuer whose tokens are taken.
    pub jwt: Jwt,
    /// API keys, by the name of who holds them.
    pub clients: BTreeMap<String, Client>,
}

/// The `[service.auth.jwt]` table.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Jwt {
    /// Where the issuer publishes its keys; without, no tokens are taken.
    pub jwks_url: String,
    /// What `iss` must be.
    pub issuer: String,
    /// What `aud` must name.
    pub audience: String,
    /// The client whose roles count.
    pub client: String,
    /// How roles of the realm begin that count.
    pub realm_role_prefix: String,
    /// The role of who is bound to no tenant.
    pub all_tenants_role: String,
    /// The claim that names the tenant.
    pub tenant_claim: String,
    /// The claim that names the channels to send on.
    pub channels_claim: String,
    /// The claim that names the codes of configurations to send by.
    pub configs_claim: String,
    /// Algorithms of signatures that are taken.
    pub algorithms: Vec<String>,
    /// How far clocks may differ, in seconds.
    pub clock_skew_seconds: u32,
    /// The proxy to the issuer: none if empty, the environment's, or one at an address.
    pub jwks_proxy: String,
    /// Longest wait for the issuer, in milliseconds.
    pub jwks_timeout_ms: u64,
    /// After how long keys are fetched again, in seconds.
    pub jwks_refresh_seconds: u32,
    /// Tokens that are remembered as good.
    pub cached_tokens_max: usize,
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
    /// The codes of the configurations by which it may send, and by nothing else; without, in every way.
    #[serde(default, deserialize_with = "some_words")]
    pub configs: Option<Vec<String>>,
    /// When the key is over, as RFC 3339; without, never.
    #[serde(default)]
    pub expires_at: Option<String>,
}

impl AuthSettings {
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
        within("failures_max", self.failures_max, 1, COUNTED_MAX)?;
        within("failures_window_seconds", self.failures_window_seconds, 1, 86_400)?;
        within("keys_trusted_seconds", self.keys_trusted_seconds, 1, 86_400)?;
        if let Err(text) = Proxies::read(&self.proxies) {
            return Err(FieldError::new(
                "service.auth.proxies",
                format!("{text:?} is no network"),
                "addresses and networks, such as 10.0.0.0/8 or fd00::7",
            ));
        }
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
        self.jwt.check()?;
        if self.enabled && self.clients.is_empty() && self.jwt.jwks_url.is_empty() {
            return Err(FieldError::new(
                "service.auth.enabled",
                "is true, and nobody has credentials",
                "a key in [service.auth.clients], which `posthaste api-keys generate` makes; or an issuer in [service.auth.jwt]",
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

    pub(super) const fn failures_quota(&self) -> Quota {
        Quota {
            requests: self.failures_max,
            seconds: self.failures_window_seconds,
        }
    }

    pub(super) const fn quota(&self) -> Quota {
        Quota {
            requests: self.rate_requests_max,
            seconds: self.rate_window_seconds,
        }
    }
}

/// Signatures that anybody can check and only the issuer can make.
const ALGORITHMS: [Algorithm; 9] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];

impl Jwt {
    fn check(&self) -> Result<(), FieldError> {
        let wrong = |key: &str, problem: String, accepted: String| {
            Err(FieldError::new(
                format!("service.auth.jwt.{key}"),
                problem,
                accepted,
            ))
        };
        let known = ALGORITHMS.map(|known| format!("{known:?}"));
        if let Some(unknown) = self.algorithms.iter().find(|name| !known.contains(name)) {
            return wrong(
                "algorithms",
                format!("{unknown:?} is not taken"),
                known.join(", "),
            );
        }
        for (key, value, least, most) in [
            ("clock_skew_seconds", u64::from(self.clock_skew_seconds), 0, 600),
            ("jwks_timeout_ms", self.jwks_timeout_ms, 100, 60_000),
            (
                "jwks_refresh_seconds",
                u64::from(self.jwks_refresh_seconds),
                10,
                86_400,
            ),
            ("cached_tokens_max", self.cached_tokens_max as u64, 1, 10_000_000),
        ] {
            if !(least..=most).contains(&value) {
                return wrong(
                    key,
                    format!("{value} is out of range"),
                    format!("{least} to {most}"),
                );
            }
        }
        if !["", "environment"].contains(&self.jwks_proxy.as_str()) && !is_web_url(&self.jwks_proxy) {
            let accepted = "such as http://proxy.example.com:3128; \"environment\"; or empty for none";
            return wrong(
                "jwks_proxy",
                "is no proxy's address".to_owned(),
                accepted.to_owned(),
            );
        }
        if self.jwks_url.is_empty() {
            return Ok(());
        }
        if !is_web_url(&self.jwks_url) {
            let accepted = "such as https://keycloak.example.com/realms/shop/protocol/openid-connect/certs";
            return wrong("jwks_url", "is no address".to_owned(), accepted.to_owned());
        }
        if self.algorithms.is_empty() {
            return wrong("algorithms", "is empty".to_owned(), known.join(", "));
        }
        for (key, value) in [
            ("issuer", &self.issuer),
            ("audience", &self.audience),
            ("all_tenants_role", &self.all_tenants_role),
            ("realm_role_prefix", &self.realm_role_prefix),
        ] {
            if value.is_empty() {
                let accepted = "a text, since keys are fetched from jwks_url".to_owned();
                return wrong(key, "is empty".to_owned(), accepted);
            }
        }
        Ok(())
    }

    pub(super) fn allowed(&self) -> Vec<Algorithm> {
        let named = |known: &Algorithm| self.algorithms.contains(&format!("{known:?}"));
        ALGORITHMS.into_iter().filter(named).collect()
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
        let configs = self.configs.as_deref().unwrap_or_default();
        if let Some(wrong_one) = configs.iter().find(|code| !is_code(code)) {
            return wrong("configs", format!("{wrong_one:?} is no code"), CODE.to_owned());
        }
        if configs.len() > CONFIGS_MAX {
            let problem = format!("lists {} codes", configs.len());
            return wrong("configs", problem, format!("up to {CONFIGS_MAX}"));
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
            configs: self.configs.clone(),
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
        Words::Text(text) if text.is_empty() => Vec::new(),
        Words::Text(text) => text.split(',').map(|word| word.trim().to_owned()).collect(),
    })
}

fn some_words<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<String>>, D::Error> {
    words(deserializer).map(Some)
}

fn time_of(text: &str) -> Option<Millis> {
    Some(text.parse::<jiff::Timestamp>().ok()?.as_millisecond())
}

fn is_web_url(text: &str) -> bool {
    reqwest::Url::parse(text).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
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
