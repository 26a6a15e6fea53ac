//! Which account carries an event.

use posthaste_event::{Channel, ErrorKind, Failure};
use posthaste_provider::{Account, Registry};

/// The accounts that the configuration names.
pub trait Accounts: Send + Sync {
    /// The account for an event: the one named, else the default account of the provider named, else the default of
    /// the channel.
    ///
    /// # Errors
    /// When there is none; see [`Unroutable`].
    fn resolve(
        &self,
        channel: Channel,
        provider: Option<&str>,
        account: Option<&str>,
    ) -> Result<&Account, Box<Unroutable>>;

    /// Every account.
    fn all(&self) -> Vec<&Account>;
}

impl Accounts for Registry {
    fn resolve(
        &self,
        channel: Channel,
        provider: Option<&str>,
        account: Option<&str>,
    ) -> Result<&Account, Box<Unroutable>> {
        let found = match (account, provider) {
            (Some(name), _) => self
                .account(name)
                .filter(|account| account.provider.channels().contains(&channel)),
            (None, Some(name)) => self.for_provider(channel, name),
            (None, None) => self.default_for(channel),
        };
        found.ok_or_else(|| {
            let wanted = account.or(provider).or(self.default_name(channel));
            let (code, what) = match wanted.filter(|name| self.lacks_credentials(name)) {
                Some(name) => ("no_credentials", format!("{name} has no credentials here")),
                None => (
                    "unknown_provider",
                    format!("no account carries {channel} under this name"),
                ),
            };
            let what = format!("{what}; there are: {}", self.names_for(channel).join(", "));
            Box::new(Unroutable::new(channel, provider, account, code, &what))
        })
    }

    fn all(&self) -> Vec<&Account> {
        self.accounts().collect()
    }
}

/// No account can carry the event as it asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unroutable {
    /// The provider that was asked for, or the channel that has none.
    pub provider: String,
    /// The account that was asked for, or the provider.
    pub account: String,
    /// The failure, for the retry service to judge: nothing was sent, so it may fail over.
    pub failure: Failure,
}

impl Unroutable {
    /// `what` is missing for an event that asked for this.
    pub fn new(
        channel: Channel,
        provider: Option<&str>,
        account: Option<&str>,
        code: &str,
        what: &str,
    ) -> Self {
        let provider = provider.or(account).unwrap_or(channel.as_str());
        Self {
            failure: Failure::new(ErrorKind::Rejected, provider, Some(code.to_owned()), what),
            provider: provider.to_owned(),
            account: account.unwrap_or(provider).to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use posthaste_store::{EmbeddedStore, Store};

    use super::*;

    #[test]
    fn an_account_without_credentials_is_told_from_an_unknown_one() {
        let folder = tempfile::tempdir().unwrap();
        #[derive(serde::Deserialize)]
        struct File {
            store: posthaste_store::Settings,
        }
        let file: File = toml::from_str(posthaste_store::settings::DEFAULTS).unwrap();
        let store: Arc<dyn Store> = Arc::new(EmbeddedStore::open(folder.path(), &file.store).unwrap());
        let mut settings: posthaste_provider::Settings =
            toml::from_str(posthaste_provider::DEFAULTS).unwrap();
        let twilio = "account_sid = 'AC1'\nauth_token = 'a-token'\nfrom = '+12025550100'";
        settings
            .providers
            .insert("twilio".to_owned(), toml::from_str(twilio).unwrap());
        let registry = Registry::load(&settings, None, store).unwrap();
        let code = |provider| {
            let error = registry.resolve(Channel::Sms, provider, None).err().unwrap();
            let said = &error.failure;
            (said.code.clone().unwrap(), said.message.clone())
        };
        let (default, message) = code(None);
        assert_eq!(default, "no_credentials");
        assert!(
            message.contains("messagebird") && message.contains("there are: twilio"),
            "{message}"
        );
        assert_eq!(code(Some("messagebird")).0, "no_credentials");
        assert_eq!(code(Some("pigeon")).0, "unknown_provider");
        assert!(registry.resolve(Channel::Sms, Some("twilio"), None).is_ok());
    }
}
