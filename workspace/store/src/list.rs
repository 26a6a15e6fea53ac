//! Stored lists of recipients: what a broadcast can be sent to without an upload of its own.
//!
//! A list is put page by page under a version that nobody sees, and is there when its last page is: then its name leads to
//! that version. Pages that no list leads to, since it was replaced or deleted, or since an upload broke off, are swept later, so that
//! whoever reads the old version meanwhile reads it to the end.

use async_trait::async_trait;
use posthaste_event::Millis;

use crate::StoreError;

/// Lists in one answer at most.
pub const PAGE_LISTS_MAX: u32 = 1_000;

/// A list, but for its recipients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct List {
    /// Whose it is.
    pub tenant: String,
    /// Its name, once for a tenant.
    pub code: String,
    /// The pages that it leads to.
    pub version: String,
    /// How many recipients they have.
    pub recipients: u64,
    /// How many there are, numbered from 0.
    pub pages: u32,
    /// When it was put, in milliseconds since the Unix epoch.
    pub at: Millis,
    /// Who put it.
    pub by: String,
}

/// Where lists are kept. Every call has a time limit, and what it has answered is durable.
#[async_trait]
pub trait Lists: Send + Sync {
    /// Puts a page of a version; putting it twice is putting it once. It must be some hundred KiB at most.
    ///
    /// # Errors
    /// See [`StoreError`].
    async fn put_page(&self, version: &str, number: u32, text: &str, at: Millis) -> Result<(), StoreError>;

    /// A page of a version, if it is there.
    ///
    /// # Errors
    /// See [`StoreError`].
    async fn page(&self, version: &str, number: u32) -> Result<Option<String>, StoreError>;

    /// Makes this the list of its name, whether or not there was one.
    ///
    /// # Errors
    /// See [`StoreError`].
    async fn put_list(&self, list: &List) -> Result<(), StoreError>;

    /// The list of this name.
    ///
    /// # Errors
    /// See [`StoreError`].
    async fn list(&self, tenant: &str, code: &str) -> Result<Option<List>, StoreError>;

    /// A tenant's lists behind a code, by code, at most so many ([`PAGE_LISTS_MAX`]).
    ///
    /// # Errors
    /// See [`StoreError`].
    async fn lists(&self, tenant: &str, after: Option<&str>, limit: u32) -> Result<Vec<List>, StoreError>;

    /// Lists of all tenants, each once, in an order of the store's own: those behind this tenant's list with this code, at most so many
    /// ([`PAGE_LISTS_MAX`]).
    ///
    /// # Errors
    /// See [`StoreError`].
    async fn all_lists(&self, after: Option<(&str, &str)>, limit: u32) -> Result<Vec<List>, StoreError>;

    /// Deletes a list; answers whether it was there.
    ///
    /// # Errors
    /// See [`StoreError`].
    async fn delete_list(&self, tenant: &str, code: &str) -> Result<bool, StoreError>;

    /// Deletes pages that were put before this time and that no list leads to; answers how many.
    ///
    /// # Errors
    /// See [`StoreError`].
    async fn sweep_pages(&self, before: Millis) -> Result<u64, StoreError>;
}
