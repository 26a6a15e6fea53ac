//! Opens what is sealed, right before the send; and what becomes of an event that cannot be read.

use posthaste_event::payload::Payload;
use posthaste_event::{ErrorKind, Failure, Millis, Work};
use posthaste_provider::{Account, Message};
use posthaste_sealing::{Keys, Mask, OpenError, Scope, is_sealed};
use serde_json::value::RawValue;
use tracing::debug;

use crate::{
    pending::{Outcome, Pending},
    send::Recorder,
};

/// Shortest and longest wait for a key, in milliseconds: as long as the event has waited already, within these.
const KEY_WAIT_MS: (Millis, Millis) = (1_000, 60_000);

/// A message, and what must not be repeated of it.
pub struct Opened {
    /// What is sent.
    pub message: Message,
    /// The payload in clear, of one that was sealed.
    pub clear: Option<Box<RawValue>>,
}

/// Why there is no message to send.
pub enum Unsent {
    /// Nothing will ever make one of it. Names fields, never values.
    Unreadable {
        /// For the dead letter.
        code: &'static str,
        /// In words.
        reason: String,
    },
    /// The key is not here; it may come.
    NoKey,
}

impl Opened {
    /// The message of an event, to go through `account`; the payload is read here, once.
    pub fn of(work: &Work, account: &Account, keys: &Keys) -> Result<Self, Unsent> {
        let unreadable = |reason| Unsent::Unreadable {
            code: "unreadable",
            reason,
        };
        let delivery = &work.delivery;
        let view = work
            .event
            .view()
            .map_err(|error| unreadable(format!("the event cannot be read (column {})", error.column())))?;
        let clear = if is_sealed(view.payload) {
            let scope = Scope {
                tenant: &delivery.tenant,
                channel: delivery.channel,
                event_id: &delivery.id,
            };
            Some(keys.open(&scope, view.payload)?)
        } else {
            None
        };
        let payload =
            Payload::parse(delivery.channel, clear.as_deref().unwrap_or(view.payload)).map_err(|errors| {
                let fields: Vec<_> = errors
                    .iter()
                    .map(|error| format!("{} cannot be used, accepted: {}", error.field, error.accepted))
                    .collect();
                unreadable(fields.join("; "))
            })?;
        let message = Message {
            event_id: delivery.id.clone(),
            tenant: delivery.tenant.clone(),
            payload,
            sealed: clear.is_some().then(|| view.payload.to_owned()),
            idempotency_key: delivery.idempotency_key(&account.name),
            created_at: delivery.created_at,
            expires_at: delivery.expires_at,
        };
        Ok(Self { message, clear })
    }

    /// A failure as it may be kept: providers quote what they were given.
    pub fn covered(clear: Option<&RawValue>, provider: &str, failure: Failure) -> Failure {
        let Some(clear) = clear else {
            return failure;
        };
        let said = Mask::of(clear).text(&failure.message);
        Failure {
            retry_after_ms: failure.retry_after_ms,
            reported: failure.reported,
            ..Failure::new(failure.kind, provider, failure.code, &said)
        }
    }
}

impl From<OpenError> for Unsent {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::UnknownKey { .. } => Self::NoKey,
            OpenError::Broken(_) => Self::Unreadable {
                code: "sealed",
                reason: error.to_string(),
            },
        }
    }
}

impl Recorder {
    /// What becomes of an event of which no message could be made: it waits for its key, or is given up.
    pub fn unsent(&self, pending: Box<Pending>, account: &Account, why: Unsent, now: Millis) -> Outcome {
        let delivery = &pending.work.delivery;
        let route = self
            .metrics
            .route(delivery.channel, Some(account.provider.name()));
        let by = &*self.instance;
        match why {
            Unsent::Unreadable { code, reason } => {
                route.dead_lettered(ErrorKind::Unreadable).one();
                pending.dead_lettered(ErrorKind::Unreadable, code, &reason, by, now)
            }
            Unsent::NoKey => {
                route.parked.one();
                debug!(event.id = %delivery.id, trace.id = delivery.trace_id(), "event waits for its key");
                let waited_ms = now.saturating_sub(delivery.since);
                let (least, most) = KEY_WAIT_MS;
                let due = now.saturating_add(waited_ms.clamp(least, most));
                pending.waits_for_key(due, &account.name, by, now)
            }
        }
    }
}
