//! What a caller may see of what was sent.

use std::sync::Arc;

use posthaste_event::{Channel, payload::leave_contents_out};
use posthaste_sealing::{Keys, Ring, Scope};
use posthaste_service::auth::{Caller, Role};
use posthaste_store::{Document, InboxMessage, Page};
use serde_json::Value as Json;

/// Levels of a note that may name other events.
const NOTE_LEVELS: usize = 4;

/// Payloads and remarks are for some only; to them what is sealed is shown opened, where the keys are here.
///
/// Whoever is bound to a tenant sees ids as the tenant chose them.
pub(super) struct Sight {
    caller: Caller,
    sees_payloads: bool,
    ring: Option<Arc<Ring>>,
}

impl Sight {
    pub(super) fn of(caller: &Caller, keys: &Keys) -> Self {
        Self {
            caller: caller.clone(),
            sees_payloads: caller.has(Role::ReadPayload),
            ring: keys.ring(),
        }
    }

    /// Takes away what this caller may not see, and opens what it may.
    pub(super) fn cover(&self, document: &mut Document) {
        self.cover_payload(document);
        // What is sealed is bound to the whole id, so this comes after.
        self.rename(document);
    }

    /// Names an event, and those that it names, as the caller does.
    pub(super) fn rename(&self, document: &mut Document) {
        if self.caller.bound_to().is_none() {
            return;
        }
        self.shorten(&mut document.id);
        if let Some(original) = &mut document.fixed.replay_of {
            self.shorten(original);
        }
        for note in document.notes.values_mut() {
            self.rename_in(&mut note["data"], NOTE_LEVELS);
        }
    }

    fn rename_in(&self, data: &mut Json, levels: usize) {
        let Some(levels) = levels.checked_sub(1) else {
            return;
        };
        match data {
            Json::Object(fields) => {
                for (name, value) in fields {
                    match value {
                        Json::String(id) if name == "eventId" => self.shorten(id),
                        value => self.rename_in(value, levels),
                    }
                }
            }
            Json::Array(items) => items.iter_mut().for_each(|item| self.rename_in(item, levels)),
            _ => {}
        }
    }

    fn shorten(&self, id: &mut String) {
        let shown = self.caller.shown(id).len();
        id.drain(..id.len() - shown);
    }

    fn cover_payload(&self, document: &mut Document) {
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
        self.open_payload(message);
        self.shorten(&mut message.id);
    }

    fn open_payload(&self, message: &mut InboxMessage) {
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
