//! Devices of users: where a push to a user goes.

use async_trait::async_trait;
use posthaste_event::Millis;

use crate::StoreError;

/// A device, by the token that its app was given for pushes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Names it: the same token of the same tenant has the same id.
    pub id: String,
    /// Whose user.
    pub tenant: String,
    /// Whose device, in the tenant's own words.
    pub user: String,
    /// What the push service knows it by.
    pub token: String,
    /// The account that reaches it, where the channel's usual one does not.
    pub provider: Option<String>,
    /// When it was registered last, in milliseconds since the Unix epoch.
    pub at: Millis,
    /// When it is forgotten, in milliseconds since the Unix epoch; without, never by itself.
    pub expires_at: Option<Millis>,
}

/// Keeps devices. Every call has a time limit.
#[async_trait]
pub trait Devices: Send + Sync {
    /// Registers a device, or does so again: it is this user's from now on, whoever had it. Of more than `most` devices of the
    /// user those go that were registered longest ago.
    ///
    /// # Errors
    /// See [`StoreError`]; repeating it is right.
    async fn register(&self, device: &Device, most: u32) -> Result<(), StoreError>;

    /// A user's devices that are not over at `now`, those registered last first, at most `most`.
    ///
    /// # Errors
    /// See [`StoreError`].
    async fn devices(
        &self,
        tenant: &str,
        user: &str,
        now: Millis,
        most: u32,
    ) -> Result<Vec<Device>, StoreError>;

    /// Forgets a tenant's device; answers whether it was there.
    ///
    /// # Errors
    /// See [`StoreError`].
    async fn unregister(&self, tenant: &str, id: &str) -> Result<bool, StoreError>;

    /// Forgets devices that are over at `now`, at most `most`; answers how many.
    ///
    /// # Errors
    /// See [`StoreError`].
    async fn forget_devices(&self, now: Millis, most: u32) -> Result<u64, StoreError>;
}
