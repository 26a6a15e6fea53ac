//! What a caller may see of what was sent.

use std::sync::Arc;

use posthaste_event::{Channel, payload::leave_contents_out};
use posthaste_sealing::{Keys, Ring, Scope};
use posthaste_service::auth::{Caller, Role};
use posthaste_store::{Document, InboxMessage, Page};
use serde_json::Value as Json;

/// Payloads and remarks are for some only; to them what is sealed is shown opened, where the keys are here.
pub(super) struct Sight {
    sees_payloads: bool,
    ring: Option<Arc<Ring>>,
}

impl Sight {
    pub(super) fn of(caller: &Caller, keys: &Keys) -> Self {
        Self {
            sees_payloads: caller.has(Role::ReadPayload),
            ring: keys.ring(),
        }
    }

    /// Takes away what this caller may not see, and opens what it may.
    pub(super) fn cover(&self, document: &mut Document) {
        let fixed = &mut document.fixed;
        if !self.sees_payloads {
            fixed.payload = None;
            fixed.metadata = None;
            return;
        }
        let Some((ring, payload)) = self.ring.as_ref().zip(fixed.payload.as_mut()) else {
            return;
        };
        let scope = Scope {
            tenant: &fixed.tenant,
            channel: fixed.channel,
            event_id: &document.id,
        };
        if let Some(mut opened) = ring.open_json(&scope, payload) {
            // As of those that were never sealed.
            leave_contents_out(&mut opened);
            *payload = opened;
        }
    }

    /// The same of a page.
    pub(super) fn of_page(&self, mut page: Page) -> Page {
        page.events.iter_mut().for_each(|document| self.cover(document));
        page
    }

    /// Opens a message of an inbox, which holds what its event's payload was.
    pub(super) fn open(&self, message: &mut InboxMessage) {
        let Some((ring, sealed)) = self.ring.as_ref().zip(message.data.as_ref()) else {
            return;
        };
        let scope = Scope {
            tenant: &message.tenant,
            channel: Channel::InApp,
            event_id: &message.id,
        };
        let Some(mut payload) = ring.open_json(&scope, sealed) else {
            return;
        };
        let text = |name: &str| payload[name].as_str().unwrap_or_default().to_owned();
        (message.title, message.body) = (text("title"), text("body"));
        message.data = Some(payload["data"].take()).filter(|data| *data != Json::Null);
    }
}
