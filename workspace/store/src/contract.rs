//! What a status store promises.

use std::collections::BTreeMap;

use async_trait::async_trait;
use posthaste_event::{Channel, Millis, Status, Topic};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::{Changes, Document};

/// How far a reader has come in one partition: the next offset to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The topic.
    pub topic: Topic,
    /// The partition's number.
    pub partition: u32,
    /// The next offset to read.
    pub offset: i64,
}

/// What to look for. All that is given must match.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query {
    /// Whose events.
    pub tenant: Option<String>,
    /// Where they stand.
    pub status: Option<Status>,
    /// Their channel.
    pub channel: Option<Channel>,
    /// The provider used last.
    pub provider: Option<String>,
    /// What they belong to.
    pub correlation_id: Option<String>,
    /// Accepted at or after this time.
    pub created_from: Option<Millis>,
    /// Accepted before this time.
    pub created_until: Option<Millis>,
    /// Go on after this place: `(createdAt, id)` of the last one seen.
    pub after: Option<(Millis, String)>,
    /// At most this many, from 1 to [`PAGE_DOCUMENTS_MAX`]; what lies outside is taken as the nearer end.
    pub limit: u32,
}

/// Documents in one page at most.
pub const PAGE_DOCUMENTS_MAX: u32 = 1_000;

/// A page ends early once its payloads and remarks have this many bytes, so that a listing of large events stays answerable.
pub(crate) const PAGE_BYTES: usize = 8 << 20;

/// A part of a listing, newest first, ties by id downwards. It may be shorter than asked for and still have a next part.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    /// The documents.
    pub events: Vec<Document>,
    /// Where the next page begins, if there is one.
    pub next: Option<(Millis, String)>,
}

/// A message in a recipient's inbox of this system.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InboxMessage {
    /// The event's id; putting it twice is putting it once.
    #[serde(rename = "_id")]
    pub id: String,
    /// Whose recipient.
    pub tenant: String,
    /// Whose inbox.
    pub recipient: String,
    /// The first line.
    pub title: String,
    /// The text.
    pub body: String,
    /// Further values for the app.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Json>,
    /// When it was put there, in milliseconds since the Unix epoch.
    pub at: Millis,
}

/// Why the store did not do it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// It cannot be reached, or did not answer in time; worth trying again.
    #[error("store unreachable: {0}")]
    Unreachable(String),
    /// It refused; trying again changes nothing.
    #[error("store refused: {0}")]
    Refused(String),
}

impl StoreError {
    /// Whether trying again later can help.
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Unreachable(_) => true,
            Self::Refused(_) => false,
        }
    }
}

/// How many events of a kind stand where.
#[async_trait]
pub trait Tallies: Send + Sync {
    /// How many of a tenant's events with this correlation id have each status. All of them are looked at, so it may take ten
    /// times as long as a look-up may: see [`crate::KeptCounts`].
    ///
    /// # Errors
    /// See [`StoreError`].
    async fn tally(&self, tenant: &str, correlation_id: &str) -> Result<BTreeMap<Status, u64>, StoreError>;
}

/// A status store. Every call has a time limit.
#[async_trait]
pub trait Store: Tallies {
    /// Applies changes, and keeps `progress` in the same transaction where [`Store::progress`] is supported.
    ///
    /// # Errors
    /// See [`StoreError`]; some of the changes may have been applied, and applying all again is right.
    async fn apply(&self, changes: Changes, progress: &[Position]) -> Result<(), StoreError>;

    /// How far the projector had come, if this store keeps that; `None` when the broker has to.
    ///
    /// # Errors
    /// See [`StoreError`].
    async fn progress(&self) -> Result<Option<Vec<Position>>, StoreError>;

    /// One event's document.
    ///
    /// # Errors
    /// See [`StoreError`].
    async fn event(&self, id: &str) -> Result<Option<Document>, StoreError>;

    /// The documents of these events, in any order. An id without a document is left out; one whose document cannot be read
    /// comes with `None`.
    ///
    /// # Errors
    /// See [`StoreError`].
    async fn events(&self, ids: &[String]) -> Result<Vec<(String, Option<Document>)>, StoreError>;

    /// Puts a document right: it becomes `truth`, if it still is `seen` (`None`: it is there and cannot be read). Answers
    /// whether it was. What is no part of a [`Document`], and its receipt, stay as they are.
    ///
    /// With the comparison and the write being one, a change that is applied meanwhile is not lost: either this finds it and
    /// does nothing, or it comes on top.
    ///
    /// # Errors
    /// See [`StoreError`].
    async fn replace(&self, seen: Option<&Document>, truth: &Document) -> Result<bool, StoreError>;

    /// A page of documents, newest first.
    ///
    /// # Errors
    /// See [`StoreError`].
    async fn search(&self, query: &Query) -> Result<Page, StoreError>;

    /// How many events there are of each status, optionally of one tenant. All of them may be looked at, as by [`Tallies::tally`].
    ///
    /// # Errors
    /// See [`StoreError`].
    async fn counts(&self, tenant: Option<&str>) -> Result<BTreeMap<Status, u64>, StoreError>;

    /// Puts a message into an inbox, durably, once per id.
    ///
    /// # Errors
    /// See [`StoreError`].
    async fn put_inbox(&self, message: &InboxMessage) -> Result<(), StoreError>;

    /// A recipient's newest messages, at most `limit`.
    ///
    /// # Errors
    /// See [`StoreError`].
    async fn inbox(&self, tenant: &str, recipient: &str, limit: u32)
    -> Result<Vec<InboxMessage>, StoreError>;

    /// Forgets events and inbox messages whose retention counts from a time before `before` (see [`Change::keep_from`](crate::Change::keep_from)), at
    /// most `records_max` of each. Returns how many went.
    ///
    /// # Errors
    /// See [`StoreError`].
    async fn forget(&self, before: Millis, records_max: u32) -> Result<u64, StoreError>;

    /// Whether the store answers; the error says what is wrong in words for `/ready`. Answers from what is known, at once.
    fn health(&self) -> Result<(), String>;
}
