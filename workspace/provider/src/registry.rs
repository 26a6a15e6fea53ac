//! Every account of this process, by name, channel and provider.

use std::{collections::BTreeMap, sync::Arc};

use posthaste_event::{Channel, FieldError};
use posthaste_store::Store;
use tracing::{info, warn};

use crate::{
    Account, Provider,
    file::{Description, FileError},
    guard::Lookup,
    in_app::{self, InApp},
    kind::{Kind, kinds},
    maker::Maker,
    settings::{AccountSettings, Settings, Shared, given},
};

/// The files that come with the program. A new provider is a file in `providers/` and a line here.
pub(crate) const FILES: [(&str, &str); 11] = [
    ("providers/apns.toml", include_str!("../providers/apns.toml")),
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
    /// Accounts out of use for want of credentials, with their provider's name.
    without_credentials: BTreeMap<String, String>,
    defaults: BTreeMap<Channel, String>,
}

impl Registry {
    /// Sets up all accounts. `sandbox_url` is where this process knows a sandbox to be, such as
    /// `http://127.0.0.1:3010/sandbox`; the setting of that name comes before it. Calls nobody yet.
    ///
    /// # Errors
    /// See [`LoadError`]: a wrong file or setting, or no account with credentials and no sandbox to send to. Where only
    /// some have none, those are out of use.
    pub fn load(
        settings: &Settings,
        sandbox_url: Option<&str>,
        store: Arc<dyn Store>,
    ) -> Result<Self, LoadError> {
        Self::load_with(settings, sandbox_url, store, Lookup::default())
    }

    /// The same, with something of one's own to find the addresses of names that come from outside.
    pub(crate) fn load_with(
        settings: &Settings,
        sandbox_url: Option<&str>,
        store: Arc<dyn Store>,
        lookup: Lookup,
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
        let maker = Maker::new(sandbox_url, shared, lookup)?;
        let mut accounts = BTreeMap::new();
        let mut sandboxed = Vec::new();
        let mut without_credentials = BTreeMap::new();
        let in_app: Arc<dyn Provider> = Arc::new(InApp::new(store));
        for (name, table, kind) in kinds(settings, &descriptions)? {
            let own = AccountSettings::read(name, table, &kind.keys())?;
            let (concurrency_max, timeout) = (own.concurrency_max, own.timeout);
            let provider: Option<Arc<dyn Provider>> = match &kind {
                Kind::File(description) => maker.provider(name, description, own)?.map(|provider| {
                    sandboxed.extend(provider.values.sandboxed.then_some(name));
                    Arc::new(provider) as _
                }),
                Kind::Smtp => maker.smtp(name, &own)?.map(|provider| {
                    sandboxed.extend(provider.is_sandboxed().then_some(name));
                    Arc::new(provider) as _
                }),
                Kind::InApp => Some(Arc::clone(&in_app)),
            };
            let Some(provider) = provider else {
                without_credentials.insert(name.to_owned(), kind.name().to_owned());
                continue;
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
        check_credentials(&accounts, &without_credentials)?;
        let registry = Self {
            accounts,
            without_credentials,
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

    /// Whether the account or provider of this name is out of use for want of credentials.
    pub fn lacks_credentials(&self, name: &str) -> bool {
        self.without_credentials.contains_key(name)
            || self.without_credentials.values().any(|provider| provider == name)
    }

    /// The name of the account that carries a channel when nobody chose one.
    pub fn default_name(&self, channel: Channel) -> Option<&str> {
        self.defaults.get(&channel).map(String::as_str)
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
            if self.without_credentials.contains_key(name) {
                continue;
            }
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

/// Somebody can be reached, and who cannot is told.
fn check_credentials(
    accounts: &BTreeMap<String, Account>,
    without: &BTreeMap<String, String>,
) -> Result<(), FieldError> {
    if without.is_empty() {
        return Ok(());
    }
    if accounts
        .values()
        .all(|account| account.provider.name() == in_app::NAME)
    {
        return Err(FieldError::new(
            "providers",
            "none of them has credentials, and there is no sandbox to send to",
            "the credentials of one at least; or provider.sandbox_url",
        ));
    }
    let names = without.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
    warn!(accounts = %names, "accounts without credentials are out of use: {names}");
    Ok(())
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
