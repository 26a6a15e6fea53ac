//! Claims on idempotency keys: who said a key first, and what became of it.

use async_trait::async_trait;
use posthaste_event::{Millis, Status, Topic};

use crate::StoreError;

/// A key that somebody has said, and the event that was made of it.
///
/// It is written before the event. An unconfirmed claim whose lease is over belongs to a process that died, or that does not
/// know itself what became of its append: whoever takes it over looks at the log, from `offset` on, and appends only what is
/// not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The key, with its kind and its tenant.
    pub id: String,
    /// Who may append the event; a name of its own for each request.
    pub holder: String,
    /// Until when nobody else may, in milliseconds since the Unix epoch.
    pub lease_until: Millis,
    /// The digest of what was asked for.
    pub request: String,
    /// The event.
    pub event_id: String,
    /// What it belongs to.
    pub correlation_id: String,
    /// With which status it was accepted.
    pub status: Status,
    /// Where the event goes.
    pub topic: Topic,
    /// Which partition of it.
    pub partition: u32,
    /// The event is not before this offset.
    pub offset: i64,
    /// Whether the event is durable.
    pub is_confirmed: bool,
    /// When the key is forgotten, in milliseconds since the Unix epoch.
    pub expires_at: Millis,
}

/// Where claims are kept. Every call has a time limit, and what it has answered is durable.
#[async_trait]
pub trait Claims: Send + Sync {
    /// Makes these claims, each for itself: `None` where it is ours now, else who was first. Whose time is over at `now` is
    /// nobody's. No two may have the same id, and each needs a holder of its own.
    ///
    /// # Errors
    /// See [`StoreError`]; some may be ours then.
    async fn claim(&self, wanted: &[Claim], now: Millis) -> Result<Vec<Option<Claim>>, StoreError>;

    /// Makes an unconfirmed claim the one of another holder, until another time, if it still is as it was seen. Answers
    /// whether it was.
    ///
    /// # Errors
    /// See [`StoreError`].
    async fn take_over(&self, seen: &Claim, holder: &str, lease_until: Millis) -> Result<bool, StoreError>;

    /// Says that the events of these claims are durable. What another holder has by now is left alone.
    ///
    /// # Errors
    /// See [`StoreError`].
    async fn confirm(&self, claims: &[Claim]) -> Result<(), StoreError>;

    /// Gives unconfirmed claims up, so that their keys are free. What another holder has by now is left alone.
    ///
    /// # Errors
    /// See [`StoreError`].
    async fn release(&self, claims: &[Claim]) -> Result<(), StoreError>;

    /// Deletes claims whose time was over at `now`, at most `claims_max`; answers how many.
    ///
    /// # Errors
    /// See [`StoreError`].
    async fn expire(&self, now: Millis, claims_max: u32) -> Result<u64, StoreError>;

    /// Whether they can be reached; the error says what is wrong. Answers from what is known, at once.
    fn is_reachable(&self) -> Result<(), String>;
}

/// Who was first, from what was found after all had tried. One that is gone again was released meanwhile: worth trying again.
pub(crate) fn firsts(wanted: &[Claim], found: Vec<Option<Claim>>) -> Result<Vec<Option<Claim>>, StoreError> {
    wanted
        .iter()
        .zip(found)
        .map(|(wanted, found)| match found {
            Some(found) if found.holder == wanted.holder => Ok(None),
            Some(found) => Ok(Some(found)),
            None => Err(StoreError::Unreachable(
                "an idempotency key was given up just now".to_owned(),
            )),
        })
        .collect()
}
