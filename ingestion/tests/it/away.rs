//! A store that does not answer.

use std::collections::BTreeMap;

use async_trait::async_trait;
use posthaste_event::{Millis, Status};
use posthaste_store::{Claim, Claims, List, Lists, StoreError, Tallies};

/// A store that is nowhere.
pub struct Away;

#[async_trait]
impl Claims for Away {
    async fn claim(&self, _: &[Claim], _: Millis) -> Result<Vec<Option<Claim>>, StoreError> {
        Err(StoreError::Unreachable("away".into()))
    }

    async fn take_over(&self, _: &Claim, _: &str, _: Millis) -> Result<bool, StoreError> {
        Err(StoreError::Unreachable("away".into()))
    }

    async fn confirm(&self, _: &[Claim]) -> Result<(), StoreError> {
        Err(StoreError::Unreachable("away".into()))
    }

    async fn release(&self, _: &[Claim]) -> Result<(), StoreError> {
        Err(StoreError::Unreachable("away".into()))
    }

    async fn expire(&self, _: Millis, _: u32) -> Result<u64, StoreError> {
        Err(StoreError::Unreachable("away".into()))
    }

    fn is_reachable(&self) -> Result<(), String> {
        Ok(())
    }
}

#[async_trait]
impl Tallies for Away {
    async fn tally(&self, _: &str, _: &str) -> Result<BTreeMap<Status, u64>, StoreError> {
        Err(StoreError::Unreachable("away".into()))
    }
}

#[async_trait]
impl Lists for Away {
    async fn put_page(&self, _: &str, _: u32, _: &str, _: Millis) -> Result<(), StoreError> {
        Err(StoreError::Unreachable("away".into()))
    }

    async fn page(&self, _: &str, _: u32) -> Result<Option<String>, StoreError> {
        Err(StoreError::Unreachable("away".into()))
    }

    async fn put_list(&self, _: &List) -> Result<(), StoreError> {
        Err(StoreError::Unreachable("away".into()))
    }

    async fn list(&self, _: &str, _: &str) -> Result<Option<List>, StoreError> {
        Err(StoreError::Unreachable("away".into()))
    }

    async fn lists(&self, _: &str, _: Option<&str>, _: u32) -> Result<Vec<List>, StoreError> {
        Err(StoreError::Unreachable("away".into()))
    }

    async fn all_lists(&self, _: Option<(&str, &str)>, _: u32) -> Result<Vec<List>, StoreError> {
        Err(StoreError::Unreachable("away".into()))
    }

    async fn delete_list(&self, _: &str, _: &str) -> Result<bool, StoreError> {
        Err(StoreError::Unreachable("away".into()))
    }

    async fn sweep_pages(&self, _: Millis) -> Result<u64, StoreError> {
        Err(StoreError::Unreachable("away".into()))
    }
}
