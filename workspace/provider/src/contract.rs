//! What a provider promises to the dispatcher.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use posthaste_event::{Channel, Failure, Millis, payload::Payload};
use serde_json::value::RawValue;

/// One message to send, once.
#[derive(Debug, Clone)]
pub struct Message {
    /// The event's id.
    pub event_id: String,
    /// Whose event it is.
    pub tenant: String,
    /// What to send.
    pub payload: Payload,
    /// The payload as it travels, if that is sealed: what is kept of the message on this side must be this.
    pub sealed: Option<Box<RawValue>>,
    /// The same for every repetition of the same send; given to providers whose API takes one.
    pub idempotency_key: String,
    /// When the event was accepted, in milliseconds since the Unix epoch.
    pub created_at: Millis,
    /// When it loses its worth, in milliseconds since the Unix epoch; for providers that keep messages for later.
    pub expires_at: Option<Millis>,
}

/// A provider's word that it took the message.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Receipt {
    /// The provider's id of the message, for its callbacks.
    pub message_id: Option<String>,
}

/// Carries a message to one company, once.
///
/// Most need no code: see `providers/`. Implement this only for what the HTTP engine cannot speak.
#[async_trait]
pub trait Provider: Send + Sync {
    /// The provider's name, such as `twilio`.
    fn name(&self) -> &str;

    /// The channels it can carry.
    fn channels(&self) -> &[Channel];

    /// Sends the message, once. Never retries and never waits for a better time: that belongs to the retry service.
    ///
    /// # Errors
    /// A [`Failure`] whose kind says what may be done next: `Ambiguous` whenever the request may have been taken.
    async fn send(&self, message: &Message) -> Result<Receipt, Failure>;
}

/// A provider with the credentials and limits of one configuration entry.
#[derive(Clone)]
pub struct Account {
    /// The entry's name; `sends` are counted and idempotency keys made by it. The default account of a provider bears its name.
    pub name: String,
    /// Who sends.
    pub provider: Arc<dyn Provider>,
    /// Sends under way at once, per process.
    pub concurrency_max: usize,
    /// Longest time that one send may take; past it the send is ambiguous.
    pub timeout: Duration,
}
