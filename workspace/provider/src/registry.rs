//! Every account of this process, by name, channel and provider.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use posthaste_event::{Channel, FieldError};
use posthaste_store::Store;
use serde_json::{Map, Value as Json};
use tracing::info;

use crate::{
    Account, Provider,
    build::Values,
    file::{Auth, Description, FileError},
    guard::Guard,
    http::{Clients, HttpProvider},
    in_app::{self, InApp},
    oauth::{Credentials, ServiceAccount, Tokens},
    settings::{AccountSettings, Settings, Shared, given},
    signing::Signer,
};

/// The files that come with the program. A new provider is a file in `providers/` and a line here.
const FILES: [(&str, &str); 10] = [
    (
        "providers/firebase.toml",
        include_str!("../providers/firebase.toml"),
    ),
    (
        "providers/mailgun.toml",
        include_str!("../providers/mailgun.toml"),
    ),
    (
        "providers/messagebird.toml",
        include_str!("../providers/messagebird.toml"),
    ),
    (
        "providers/onesignal.toml",
        include_str!("../providers/onesignal.toml"),
    ),
    (
        "providers/sendgrid.toml",
        include_str!("../providers/sendgrid.toml"),
    ),
    ("providers/slack.toml", include_str!("../providers/slack.toml")),
    (
        "providers/slack_webhook.toml",
        include_str!("../providers/slack_webhook.toml"),
    ),
    ("providers/teams.toml", include_str!("../providers/teams.toml")),
    ("providers/twilio.toml", include_str!("../providers/twilio.toml")),
    (
        "providers/webhook.toml",
        include_str!("../providers/webhook.toml"),
    ),
];

/// Why the accounts cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A provider file is wrong.
    #[error(transparent)]
    File(#[from] FileError),
    /// A value of the configuration is wrong; the field is its full key.
    #[error(transparent)]
    Setting(#[from] FieldError),
    /// The HTTP client cannot be set up, for example since the system has no certificates.
    #[error("the http client cannot be set up: {0}")]
    Client(#[source] reqwest::Error),
}

/// Every account of this process.
pub struct Registry {
    accounts: BTreeMap<String, Account>,
    defaults: BTreeMap<Channel, String>,
}

impl Registry {
    /// Sets up all accounts. `sandbox_url` is where this process knows a sandbox to be, such as
    /// `http://127.0.0.1:3010/sandbox`; the setting of that name comes before it. Calls nobody yet.
    ///
    /// # Errors
    /// See [`LoadError`]: a wrong file or setting, or an account without credentials and no sandbox to send to.
    pub fn load(
        settings: &Settings,
        sandbox_url: Option<&str>,
        store: Arc<dyn Store>,
    ) -> Result<Self, LoadError> {
        let shared = &settings.provider;
        let descriptions = descriptions(shared)?;
        let sandbox_url = given(&shared.sandbox_url).or(sandbox_url);
        if let Some(url) = sandbox_url {
            crate::file::check_base_url(url).map_err(|error| {
                FieldError::new(
                    "provider.sandbox_url",
                    error.0,
                    "such as http://127.0.0.1:3010/sandbox",
                )
            })?;
        }
        let maker = Maker {
            sandbox_url,
            shared,
            clients: clients(shared)?,
        };
        let mut accounts = BTreeMap::new();
        let mut sandboxed = Vec::new();
        let in_app: Arc<dyn Provider> = Arc::new(InApp::new(store));
        let nothing = toml::Table::new();
        // Each provider has an account of its own name, whether the configuration mentions it or not.
        let names = descriptions.keys().map(String::as_str).chain([in_app::NAME]);
        let names: std::collections::BTreeSet<&str> = names
            .chain(settings.providers.keys().map(String::as_str))
            .collect();
        for name in names {
            let table = settings.providers.get(name).unwrap_or(&nothing);
            let kind = kind(name, table, &descriptions)?;
            let description = descriptions.get(kind);
            let own = AccountSettings::read(name, table, description.map(Arc::as_ref))?;
            let (concurrency_max, timeout) = (own.concurrency_max, own.timeout);
            let provider = match description {
                Some(description) => {
                    let provider = maker.provider(name, description, own)?;
                    if provider.values.sandboxed {
                        sandboxed.push(name);
                    }
                    Arc::new(provider)
                }
                None => in_app.clone(),
            };
            accounts.insert(
                name.to_owned(),
                Account {
                    name: name.to_owned(),
                    provider,
                    concurrency_max,
                    timeout,
                },
            );
        }
        if let (false, Some(url)) = (sandboxed.is_empty(), sandbox_url) {
            let names = sandboxed.join(", ");
            info!(accounts = %names, sandbox = %url, "accounts without credentials send to the sandbox, not to anybody: {names}");
        }
        let registry = Self {
            accounts,
            defaults: shared.defaults.clone(),
        };
        registry.check_defaults()?;
        Ok(registry)
    }

    /// The account of this name.
    pub fn account(&self, name: &str) -> Option<&Account> {
        self.accounts.get(name)
    }

    /// The account that carries a channel when nobody chose one.
    pub fn default_for(&self, channel: Channel) -> Option<&Account> {
        self.account(self.defaults.get(&channel)?)
    }

    /// The account to use for a provider's name: the account that bears it, else the first of that provider. `None` if there
    /// is none, or if it cannot carry the channel. An account's name is taken too.
    pub fn for_provider(&self, channel: Channel, provider: &str) -> Option<&Account> {
        let carries = |account: &&Account| account.provider.channels().contains(&channel);
        self.account(provider).filter(carries).or_else(|| {
            self.accounts
                .values()
                .filter(carries)
                .find(|account| account.provider.name() == provider)
        })
    }

    /// Whether a client may ask for this provider (or account) on this channel.
    pub fn knows(&self, channel: Channel, provider: &str) -> bool {
        self.for_provider(channel, provider).is_some()
    }

    /// The names that [`Registry::knows`] accepts, for error messages.
    pub fn names_for(&self, channel: Channel) -> Vec<&str> {
        self.accounts
            .values()
            .filter(|account| account.provider.channels().contains(&channel))
            .map(|account| account.name.as_str())
            .collect()
    }

    /// All accounts, by name.
    pub fn accounts(&self) -> impl Iterator<Item = &Account> {
        self.accounts.values()
    }

    fn check_defaults(&self) -> Result<(), FieldError> {
        for channel in Channel::ALL {
            let field = || format!("provider.defaults.{channel}");
            let accepted = || self.names_for(channel).join(", ");
            let Some(name) = self.defaults.get(&channel) else {
                return Err(FieldError::new(field(), "is missing", accepted()));
            };
            if !self.knows(channel, name) || self.account(name).is_none() {
                return Err(FieldError::new(
                    field(),
                    format!("{name:?} is no account that carries {channel}"),
                    accepted(),
                ));
            }
        }
        Ok(())
    }
}

/// The files that come with the program, then the user's own, which may replace them by name.
pub(crate) fn descriptions(shared: &Shared) -> Result<BTreeMap<String, Arc<Description>>, LoadError> {
    let mut all = BTreeMap::new();
    for (file, text) in FILES {
        let description = Description::load(file, text)?;
        all.insert(description.name.clone(), Arc::new(description));
    }
    if let Some(folder) = given(&shared.files_folder) {
        for description in Description::load_folder(std::path::Path::new(folder))? {
            all.insert(description.name.clone(), Arc::new(description));
        }
    }
    Ok(all)
}

/// The provider of an account: `kind`, or its own name.
pub(crate) fn kind<'a>(
    name: &'a str,
    table: &'a toml::Table,
    descriptions: &BTreeMap<String, Arc<Description>>,
) -> Result<&'a str, FieldError> {
    // The name becomes part of idempotency keys, metrics and environment variables.
    if name.is_empty()
        || name.len() > 32
        || !name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-".contains(&b))
    {
        return Err(FieldError::new(
            format!("providers.{name}"),
            "cannot be an account's name",
            "1 to 32 small letters, digits, _ and -",
        ));
    }
    let kind = match table.get("kind") {
        None => name,
        Some(toml::Value::String(kind)) => given(kind).unwrap_or(name),
        Some(_) => "",
    };
    if kind == in_app::NAME || descriptions.contains_key(kind) {
        return Ok(kind);
    }
    let known: Vec<&str> = descriptions
        .keys()
        .map(String::as_str)
        .chain([in_app::NAME])
        .collect();
    Err(FieldError::new(
        format!("providers.{name}.kind"),
        format!("{kind:?} is no provider"),
        known.join(", "),
    ))
}

fn clients(shared: &Shared) -> Result<Clients, LoadError> {
    let allowed = shared.allowed()?;
    let guard = Guard::new(allowed);
    let builder = || {
        reqwest::Client::builder()
            .user_agent(concat!("Posthaste/", env!("CARGO_PKG_VERSION")))
            // A redirected POST may have been acted on, and may lead where nobody checked.
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(Duration::from_millis(shared.connect_timeout_ms))
            .pool_max_idle_per_host(shared.idle_connections_max)
            .pool_idle_timeout(Duration::from_millis(shared.idle_timeout_ms))
            .tcp_nodelay(true)
    };
    Ok(Clients {
        own: builder().build().map_err(LoadError::Client)?,
        sandbox: builder().no_proxy().build().map_err(LoadError::Client)?,
        foreign: builder()
            // A proxy would resolve the name itself, behind the guard's back.
            .no_proxy()
            .dns_resolver(guard.clone())
            .build()
            .map_err(LoadError::Client)?,
        guard,
        answer_bytes_max: shared.answer_bytes_max.max(1),
    })
}

struct Maker<'a> {
    sandbox_url: Option<&'a str>,
    shared: &'a Shared,
    clients: Clients,
}

impl Maker<'_> {
    fn provider(
        &self,
        account: &str,
        description: &Arc<Description>,
        own: AccountSettings,
    ) -> Result<HttpProvider, FieldError> {
        if u128::from(self.shared.connect_timeout_ms) >= own.timeout.as_millis() {
            // Else a timeout while connecting, when nothing was sent, could not be told from one after.
            return Err(FieldError::new(
                format!("providers.{account}.timeout_ms"),
                "is not longer than provider.connect_timeout_ms",
                format!("more than {}", self.shared.connect_timeout_ms),
            ));
        }
        let has_credentials = self.has_credentials(account, description, &own)?;
        let base_url = match (&own.base_url, has_credentials) {
            (Some(url), _) => url.clone(),
            (None, true) => description.base_url.clone().unwrap_or_default(),
            (None, false) => self.sandbox_base(account, description)?,
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
        let signer = signer(account, description, &values)?;
        Ok(HttpProvider {
            description: description.clone(),
            values,
            clients: self.clients.clone(),
            timeout: own.timeout,
            tokens,
            signer,
            secrets,
        })
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

    fn sandbox_base(&self, account: &str, description: &Description) -> Result<String, FieldError> {
        let (Some(sandbox), Some(prefix)) = (self.sandbox_url, description.sandbox_prefix()) else {
            let needed: Vec<String> = description
                .settings
                .iter()
                .filter(|(_, setting)| setting.required)
                .map(|(name, setting)| format!("{name} ({})", setting.about))
                .collect();
            return Err(FieldError::new(
                format!("providers.{account}"),
                "has no credentials, and there is no sandbox to send to",
                match description.sandbox_prefix() {
                    Some(_) => format!("{}; or provider.sandbox_url", needed.join(", ")),
                    None => needed.join(", "),
                },
            ));
        };
        let sandbox = sandbox.trim_end_matches('/');
        Ok(match description.target {
            crate::file::Target::Path(_) => format!("{sandbox}{prefix}"),
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
