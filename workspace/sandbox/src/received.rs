//! The newest messages, for looking at.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

use posthaste_event::Millis;
use serde::Serialize;

use crate::{apis::Attached, behaviour::undialled};

/// A message that an interface was given.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Received {
    /// Whose interface.
    pub(crate) provider: &'static str,
    /// When, in milliseconds since the Unix epoch.
    pub(crate) at: Millis,
    /// To whom.
    pub(crate) recipient: String,
    /// The event that it carries, where the interface has a place to say so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) event: Option<String>,
    /// Its idempotency key, likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) key: Option<String>,
    /// What was done with it.
    pub(crate) action: &'static str,
    /// The id it was given, if it was taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) message_id: Option<String>,
    /// The files that came with it, as far as the interface shows them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) attachments: Vec<Attached>,
    /// The request's body, cut.
    pub(crate) body: String,
}

/// Which messages to look at. All that is given must fit.
#[derive(Debug, Default)]
pub(crate) struct Filter {
    pub(crate) provider: Option<String>,
    pub(crate) recipient: Option<String>,
    pub(crate) event: Option<String>,
    pub(crate) limit: usize,
}

/// The newest messages.
pub(crate) struct Ring {
    messages: Mutex<VecDeque<Received>>,
    messages_max: usize,
}

impl Ring {
    pub(crate) const fn new(messages_max: usize) -> Self {
        Self {
            messages: Mutex::new(VecDeque::new()),
            messages_max,
        }
    }

    pub(crate) fn push(&self, message: Received) {
        if self.messages_max == 0 {
            return;
        }
        let mut messages = self.messages.lock().unwrap_or_else(PoisonError::into_inner);
        let oldest = if messages.len() >= self.messages_max {
            messages.pop_front()
        } else {
            None
        };
        messages.push_back(message);
        drop(messages);
        // Freed outside of the lock.
        drop(oldest);
    }

    pub(crate) fn find(&self, filter: &Filter) -> Vec<Received> {
        let is = |wanted: &Option<String>, found: Option<&str>| {
            wanted.as_deref().is_none_or(|wanted| found == Some(wanted))
        };
        let recipient = filter.recipient.as_deref().map(|one| undialled(one).to_owned());
        let messages = self.messages.lock().unwrap_or_else(PoisonError::into_inner);
        messages
            .iter()
            .rev()
            .filter(|message| {
                is(&filter.provider, Some(message.provider))
                    && is(&recipient, Some(undialled(&message.recipient)))
                    && is(&filter.event, message.event.as_deref())
            })
            .take(filter.limit)
            .cloned()
            .collect()
    }
}
