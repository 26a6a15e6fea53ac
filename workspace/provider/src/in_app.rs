//! Messages in the recipient's inbox of this system: the one provider without an interface to call.

use std::sync::Arc;

use async_trait::async_trait;
use posthaste_event::{Channel, ErrorKind, Failure, clock, payload::Payload};
use posthaste_store::{InboxMessage, Store, StoreError};

use crate::{Message, Provider, Receipt};

/// Its name, which is also its account's and its channel's.
pub(crate) const NAME: &str = "in_app";

/// Puts messages into the store's inboxes.
pub(crate) struct InApp {
    store: Arc<dyn Store>,
}

impl InApp {
    pub(crate) fn new(store: Arc<dyn Store>) -> Self {
        Self { store }
    }
}

#[async_trait]
impl Provider for InApp {
    fn name(&self) -> &str {
        NAME
    }

    fn channels(&self) -> &[Channel] {
        &[Channel::InApp]
    }

    async fn send(&self, message: &Message) -> Result<Receipt, Failure> {
        let Payload::InApp(content) = &message.payload else {
            return Err(Failure::new(
                ErrorKind::Permanent,
                NAME,
                Some("payload".to_owned()),
                "the payload is not one of the channel in_app",
            ));
        };
        let sealed = message.sealed.as_deref().map(|sealed| {
            // It was read before, and can be read again.
            serde_json::from_str(sealed.get()).unwrap_or_default()
        });
        // Whose inbox it is must be found; what is in it stays sealed until it is read.
        let (title, body, data) = match sealed {
            Some(sealed) => (String::new(), String::new(), Some(sealed)),
            None => (content.title.clone(), content.body.clone(), content.data.clone()),
        };
        let entry = InboxMessage {
            id: message.event_id.clone(),
            tenant: message.tenant.clone(),
            recipient: content.recipient.clone(),
            title,
            body,
            data,
            at: clock::now(),
        };
        // Putting twice is putting once, so even a write whose answer was lost can be repeated: nothing is ambiguous here.
        match self.store.put_inbox(&entry).await {
            Ok(()) => Ok(Receipt {
                message_id: Some(entry.id),
            }),
            Err(StoreError::Unreachable(reason)) => Err(Failure::new(
                ErrorKind::Rejected,
                NAME,
                Some("store_unreachable".to_owned()),
                &reason,
            )),
            Err(StoreError::Refused(reason)) => Err(Failure::new(
                ErrorKind::Permanent,
                NAME,
                Some("store_refused".to_owned()),
                &reason,
            )),
        }
    }
}
