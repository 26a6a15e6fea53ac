//! Who seals: whether an event's payload is to be sealed, and with what.

use std::sync::Arc;

use posthaste_event::Channel;

use crate::{Keys, Ring, Settings};

/// What the intake seals by.
#[derive(Debug, Clone)]
pub struct Sealer {
    keys: Arc<Keys>,
    settings: Arc<Settings>,
}

impl Sealer {
    /// Seals with the active one of `keys`, and what `settings` ask for.
    pub fn new(keys: Arc<Keys>, settings: Settings) -> Self {
        Self {
            keys,
            settings: Arc::new(settings),
        }
    }

    /// Whether such events are sealed, whatever they say themselves.
    pub fn asks_for(&self, tenant: &str, channel: Channel) -> bool {
        self.settings.asks_for(tenant, channel)
    }

    /// The keys, to seal and to open with.
    pub const fn keys(&self) -> &Arc<Keys> {
        &self.keys
    }

    /// The ring in force.
    pub fn ring(&self) -> Option<Arc<Ring>> {
        self.keys.ring()
    }
}
