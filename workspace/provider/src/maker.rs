//! From an account's settings to a provider that can send.

use std::{sync::Arc, time::Duration};

use posthaste_event::FieldError;
use serde_json::{Map, Value as Json};
use tracing::info;

use crate::{
    LoadError,
    attachments::Fetcher,
    build::Values,
    file::{Auth, Description, Target},
    guard::{Guard, Lookup},
    http::{Clients, HttpProvider},
    jwt::Signed,
    oauth::{Credentials, ServiceAccount, Tokens},
    plain::{self, Plain},
    settings::{AccountSettings, Proxying, Shared, given},
    signing::Signer,
    smtp::{self, Smtp},
    template::{Scope, Text},
};

/// How long an HTTP/2 connection without work is kept. Apple asks that connections are not opened and closed all the time.
const HTTP2_IDLE: Duration = Duration::from_secs(15 * 60);
/// How often such a connection is asked whether it still lives (PING).
const HTTP2_ASKED: Duration = Duration::from_secs(60);

/// Makes the providers of accounts.
pub(crate) struct Maker<'a> {
    sandbox_url: Option<&'a str>,
    shared: &'a Shared,
    clients: Clients,
}

impl<'a> Maker<'a> {
    /// `lookup` finds the addresses of names that come from outside.
    pub(crate) fn new(
        sandbox_url: Option<&'a str>,
        shared: &'a Shared,
        lookup: Lookup,
    ) -> Result<Self, LoadError> {
        Ok(Self {
            sandbox_url,
            shared,
            clients: clients(shared, lookup)?,
        })
    }

    /// A mail server's. None: see [`Maker::provider`].
    pub(crate) fn smtp(&self, account: &str, own: &AccountSettings) -> Result<Option<Smtp>, FieldError> {
        self.check_timeout(account, own)?;
        let sandbox = self.sandbox_url.map(|url| {
            let url = format!("{}{}", url.trim_end_matches('/'), smtp::SANDBOX_PATH);
            (self.clients.sandbox.clone(), url)
        });
        let shared = smtp::Shared {
            connect_timeout: Duration::from_millis(self.shared.connect_timeout_ms),
            idle_timeout: Duration::from_millis(self.shared.idle_timeout_ms),
            sandbox,
            fetcher: self.clients.fetcher.clone(),
        };
        Smtp::new(account, own, shared)
    }

    fn check_timeout(&self, account: &str, own: &AccountSettings) -> Result<(), FieldError> {
        if u128::from(self.shared.connect_timeout_ms) < own.timeout.as_millis() {
            return Ok(());
        }
        // Else a timeout while connecting, when nothing was sent, could not be told from one after.
        Err(FieldError::new(
            format!("providers.{account}.timeout_ms"),
            "is not longer than provider.connect_timeout_ms",
            format!("more than {}", self.shared.connect_timeout_ms),
        ))
    }

    /// One that a file describes. None: it has no credentials, and there is no sandbox that could stand in for it.
    pub(crate) fn provider(
        &self,
        account: &str,
        description: &Arc<Description>,
        own: AccountSettings,
    ) -> Result<Option<HttpProvider>, FieldError> {
        self.check_timeout(account, &own)?;
        let has_credentials = self.has_credentials(account, description, &own)?;
        let base_url = match (&own.base_url, has_credentials) {
            (Some(url), _) => url.clone(),
            (None, true) => description.base_url.clone().unwrap_or_default(),
            (None, false) => match self.sandbox_base(description) {
                Some(url) => url,
                None => return Ok(None),
            },
        };
        let sandboxed = !has_credentials;
        let mut values = Values {
            public: Json::Object(Map::new()),
            all: Json::Object(Map::new()),
            base_url,
            sandboxed,
            callback_url: given(&self.shared.callback_url)
                .or(self.sandbox_url.filter(|_| sandboxed))
                .map(str::to_owned),
        };
        let mut secrets = Vec::new();
        for (name, setting) in &description.settings {
            let stand_in = setting.sandbox.as_ref().filter(|_| sandboxed);
            let value = own.values.get(name).or(stand_in).or(setting.default.as_ref());
            let value = value.cloned().map_or(Json::Null, Json::from);
            if let (true, Some(text)) = (setting.secret, value.as_str()) {
                secrets.extend(
                    text.split_whitespace()
                        .filter(|part| part.len() >= 6)
                        .map(str::to_owned),
                );
            } else if !setting.secret {
                values.public[name] = value.clone();
            }
            values.all[name] = value;
        }
        let tokens = self.tokens(account, description, &mut values)?;
        let signed = signed(account, description, &values)?;
        let signer = signer(account, description, &values)?;
        Ok(Some(HttpProvider {
            description: description.clone(),
            values,
            clients: self.clients.clone(),
            timeout: own.timeout,
            tokens,
            signed,
            signer,
            secrets,
        }))
    }

    /// All required settings are there, or none of them.
    fn has_credentials(
        &self,
        account: &str,
        description: &Description,
        own: &AccountSettings,
    ) -> Result<bool, FieldError> {
        let required = || {
            description
                .settings
                .iter()
                .filter(|(_, setting)| setting.required)
        };
        let missing: Vec<_> = required()
            .filter(|(name, _)| !own.values.contains_key(*name))
            .collect();
        let Some((name, setting)) = missing.first() else {
            return Ok(true);
        };
        if missing.len() == required().count() {
            return Ok(false);
        }
        Err(FieldError::new(
            format!("providers.{account}.{name}"),
            "is missing, while others of its credentials are given",
            &setting.about,
        ))
    }

    fn sandbox_base(&self, description: &Description) -> Option<String> {
        let (sandbox, prefix) = (self.sandbox_url?, description.sandbox_prefix()?);
        let sandbox = sandbox.trim_end_matches('/');
        Some(match description.target {
            Target::Path(_) => format!("{sandbox}{prefix}"),
            _ => sandbox.to_owned(),
        })
    }

    fn tokens(
        &self,
        account: &str,
        description: &Description,
        values: &mut Values,
    ) -> Result<Option<Tokens>, FieldError> {
        let Auth::GoogleServiceAccount { credentials, scope } = &description.auth else {
            return Ok(None);
        };
        let credentials = match values.all[credentials].as_str() {
            Some(json) => {
                let parsed = ServiceAccount::parse(json).map_err(|problem| {
                    FieldError::new(
                        format!("providers.{account}.{credentials}"),
                        problem,
                        "the JSON key of a service account, or its path as the key with _file",
                    )
                })?;
                if values.public["project_id"].is_null() {
                    let project = Json::from(parsed.project_id.clone());
                    values.public["project_id"] = project.clone();
                    values.all["project_id"] = project;
                }
                Credentials::Account(parsed)
            }
            None => Credentials::ThrowAway {
                token_uri: format!("{}/token", values.base_url.trim_end_matches('/')),
            },
        };
        Ok(Some(Tokens::new(
            match values.sandboxed {
                true => self.clients.sandbox.clone(),
                false => self.clients.own.clone(),
            },
            description.name.clone(),
            scope.clone(),
            credentials,
        )))
    }
}

/// Names of variables that name a proxy elsewhere.
const PROXY_VARIABLES: [&str; 6] = [
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "ALL_PROXY",
    "all_proxy",
];

/// With the proxy to providers, if there is one.
fn proxied(builder: reqwest::ClientBuilder, shared: &Shared) -> Result<reqwest::ClientBuilder, LoadError> {
    match shared.proxying() {
        Proxying::No => Ok(builder.no_proxy()),
        Proxying::ByEnvironment => Ok(builder),
        Proxying::By(url) => Ok(builder.proxy(reqwest::Proxy::all(url).map_err(LoadError::Client)?)),
    }
}

fn tell_of_unused_proxy(shared: &Shared) {
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    if shared.proxying() == Proxying::No
        && let Some(variable) = PROXY_VARIABLES.into_iter().find(|name| is_set(name))
    {
        info!(
            variable,
            "{variable} has no effect: provider.proxy says that providers are called without a proxy"
        );
    }
}

fn clients(shared: &Shared, lookup: Lookup) -> Result<Clients, LoadError> {
    tell_of_unused_proxy(shared);
    let limit = Duration::from_millis(shared.connect_timeout_ms);
    let guard = Guard::new(shared.allowed()?, shared.refused()?, lookup, limit);
    let builder = || {
        reqwest::Client::builder()
            .user_agent(plain::NAME)
            // A redirected POST may have been acted on, and may lead where nobody checked.
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(Duration::from_millis(shared.connect_timeout_ms))
            .pool_max_idle_per_host(shared.idle_connections_max)
            .pool_idle_timeout(Duration::from_millis(shared.idle_timeout_ms))
            .tcp_nodelay(true)
    };
    let foreign = match shared.proxy_webhooks {
        true => proxied(builder(), shared)?,
        // A proxy would resolve the name itself, behind the guard's back.
        false => builder().no_proxy().dns_resolver(guard.clone()),
    };
    let foreign = foreign.build().map_err(LoadError::Client)?;
    let (bytes_max, at_once) = (shared.attachments_bytes_max, shared.attachment_emails_max);
    Ok(Clients {
        fetcher: Fetcher::new(foreign.clone(), guard.clone(), bytes_max, at_once),
        own: proxied(builder(), shared)?.build().map_err(LoadError::Client)?,
        own_http2: proxied(builder(), shared)?
            .http2_prior_knowledge()
            // One connection carries everything and is meant to stay, so it is asked whether it still lives.
            .pool_idle_timeout(HTTP2_IDLE)
            .http2_keep_alive_interval(HTTP2_ASKED)
            .http2_keep_alive_timeout(Duration::from_millis(shared.connect_timeout_ms))
            .http2_keep_alive_while_idle(true)
            .build()
            .map_err(LoadError::Client)?,
        sandbox: builder().no_proxy().build().map_err(LoadError::Client)?,
        foreign,
        own_plain: (shared.proxying() == Proxying::No).then(|| Plain::new(shared, None)),
        sandbox_plain: Plain::new(shared, None),
        foreign_plain: (!shared.proxy_webhooks).then(|| Plain::new(shared, Some(guard.clone()))),
        guard,
        answer_bytes_max: shared.answer_bytes_max.max(1),
    })
}

fn signed(account: &str, description: &Description, values: &Values) -> Result<Option<Signed>, FieldError> {
    let Auth::JwtEs256 {
        key, key_id, issuer, ..
    } = &description.auth
    else {
        return Ok(None);
    };
    let null = Json::Null;
    let scope = Scope::new(&null, &values.public, &null);
    let said = |text: &Text| {
        text.render(&scope).map_err(|error| {
            let field = format!("providers.{account}");
            FieldError::new(
                field,
                format!("cannot sign tokens: {error}"),
                "text for every key",
            )
        })
    };
    Signed::new(values.all[key].as_str(), said(key_id)?, said(issuer)?)
        .map(Some)
        .map_err(|problem| {
            FieldError::new(
                format!("providers.{account}.{key}"),
                problem,
                "a private key in PEM form, or the path of its .p8 file as the key with _file",
            )
        })
}

fn signer(account: &str, description: &Description, values: &Values) -> Result<Option<Signer>, FieldError> {
    let Auth::StandardWebhooks { secret } = &description.auth else {
        return Ok(None);
    };
    let text = values.all[secret].as_str().unwrap_or_default();
    Signer::parse(text).map(Some).map_err(|problem| {
        FieldError::new(
            format!("providers.{account}.{secret}"),
            problem,
            "whsec_ and the base64 of 24 to 64 random bytes; two of them with a space between during a rotation",
        )
    })
}
