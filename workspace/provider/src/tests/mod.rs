//! Tests of the provider files and the engine.

mod accounts;
mod answers;
mod apns;
mod attachments;
mod broken;
mod emails;
mod engine;
mod hostile;
mod requests;
mod tokens;

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use posthaste_event::Status;
use posthaste_store::{Changes, Document, InboxMessage, Page, Position, Query, Store, StoreError, Tallies};
use tokio::sync::Mutex;

use crate::{LoadError, Registry, Settings, file::Description, settings};

/// A store that has inboxes and nothing else.
#[derive(Default)]
pub(super) struct Inboxes {
    pub(super) messages: Mutex<Vec<InboxMessage>>,
    pub(super) away: bool,
}

#[async_trait]
impl Tallies for Inboxes {
    async fn tally(&self, _: &str, _: &str) -> Result<BTreeMap<Status, u64>, StoreError> {
        Ok(BTreeMap::new())
    }
}

#[async_trait]
impl Store for Inboxes {
    async fn apply(&self, _: Changes, _: &[Position]) -> Result<(), StoreError> {
        Err(StoreError::Refused("not here".to_owned()))
    }

    async fn progress(&self) -> Result<Option<Vec<Position>>, StoreError> {
        Ok(None)
    }

    async fn event(&self, _: &str) -> Result<Option<Document>, StoreError> {
        Ok(None)
    }

    async fn events(&self, _: &[String]) -> Result<Vec<(String, Option<Document>)>, StoreError> {
        Ok(Vec::new())
    }

    async fn replace(&self, _: Option<&Document>, _: &Document) -> Result<bool, StoreError> {
        Ok(false)
    }

    async fn search(&self, _: &Query) -> Result<Page, StoreError> {
        Err(StoreError::Refused("not here".to_owned()))
    }

    async fn counts(&self, _: Option<&str>) -> Result<BTreeMap<Status, u64>, StoreError> {
        Ok(BTreeMap::new())
    }

    async fn put_inbox(&self, message: &InboxMessage) -> Result<(), StoreError> {
        if self.away {
            return Err(StoreError::Unreachable("it is away".to_owned()));
        }
        self.messages.lock().await.push(message.clone());
        Ok(())
    }

    async fn inbox(&self, _: &str, _: &str, _: u32) -> Result<Vec<InboxMessage>, StoreError> {
        Ok(self.messages.lock().await.clone())
    }

    async fn forget(&self, _: posthaste_event::Millis, _: u32) -> Result<u64, StoreError> {
        Ok(0)
    }

    fn health(&self) -> Result<(), String> {
        Ok(())
    }
}

/// The provider file of this name.
pub(super) fn description(name: &str) -> Description {
    let path = format!("{}/providers/{name}.toml", env!("CARGO_MANIFEST_DIR"));
    Description::load(&path, &std::fs::read_to_string(&path).unwrap()).unwrap()
}

/// The default configuration with `changes` (TOML) over it.
pub(super) fn settings_with(changes: &str) -> Settings {
    let mut tables: toml::Table = toml::from_str(crate::DEFAULTS).unwrap();
    let changes: toml::Table = toml::from_str(changes).unwrap();
    lay_over(&mut tables, changes);
    settings::Settings {
        provider: tables["provider"].clone().try_into().unwrap(),
        providers: tables["providers"].clone().try_into().unwrap(),
    }
}

fn lay_over(under: &mut toml::Table, over: toml::Table) {
    for (key, value) in over {
        match (under.get_mut(&key), value) {
            (Some(toml::Value::Table(under)), toml::Value::Table(over)) => lay_over(under, over),
            (_, value) => {
                under.insert(key, value);
            }
        }
    }
}

pub(super) fn load(changes: &str, sandbox: Option<&str>) -> Result<Registry, LoadError> {
    Registry::load(&settings_with(changes), sandbox, Arc::new(Inboxes::default()))
}
