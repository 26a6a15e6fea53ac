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
            let what = format!(
                "no account carries {channel} under this name; there are: {}",
                self.names_for(channel).join(", ")
            );
            Box::new(Unroutable::new(
                channel,
                provider,
                account,
                "unknown_provider",
                &what,
            ))
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
