//! Devices: collection `devices`. MongoDB itself forgets those whose time is over, as it does with claims.

use std::time::Duration;

use async_trait::async_trait;
use futures_util::TryStreamExt as _;
use mongodb::{
    Collection,
    bson::{Bson, DateTime, Document as Bsons, RawDocumentBuf, doc},
};
use posthaste_event::Millis;

use super::{Connection, MongoStore, failure, read::bsons, within, write};
use crate::{Device, Devices, StoreError};

/// The collection's name.
pub(super) const COLLECTION: &str = "devices";

/// Devices of one user that are looked at, at most, to find those that are too many.
const LOOK_MAX: i64 = 10_000;

fn collection(connection: &Connection) -> Collection<RawDocumentBuf> {
    connection.database.collection(COLLECTION)
}

fn key(tenant: &str, id: &str) -> String {
    // A tenant has no slash.
    format!("{tenant}/{id}")
}

fn read(found: RawDocumentBuf) -> Result<Device, StoreError> {
    let fields = bsons(found)?;
    let unreadable = |name: &str| {
        StoreError::Refused(format!(
            "a document of the devices collection has no readable {name}"
        ))
    };
    let text = |name: &str| {
        fields
            .get_str(name)
            .map(ToOwned::to_owned)
            .map_err(|_| unreadable(name))
    };
    Ok(Device {
        id: text("id")?,
        tenant: text("tenant")?,
        user: text("user")?,
        token: text("token")?,
        provider: fields.get_str("provider").ok().map(ToOwned::to_owned),
        at: write::number(&fields, "at").ok_or_else(|| unreadable("at"))?,
        expires_at: fields
            .get_datetime("expiresAt")
            .ok()
            .map(|at| at.timestamp_millis()),
    })
}

fn fields(device: &Device) -> Bsons {
    let mut fields = doc! {
        "id": &device.id, "tenant": &device.tenant, "user": &device.user, "token": &device.token, "at": device.at,
    };
    if let Some(provider) = &device.provider {
        fields.insert("provider", provider);
    }
    if let Some(expires_at) = device.expires_at {
        // A date, for the index by which MongoDB forgets.
        fields.insert("expiresAt", DateTime::from_millis(expires_at));
    }
    fields
}

/// A user's devices, those registered last first. The filter names what the index has, and nothing else.
async fn of_user(
    connection: &Connection,
    tenant: &str,
    user: &str,
    limit: Duration,
) -> Result<Vec<Device>, StoreError> {
    let found = collection(connection)
        .find(doc! {"tenant": tenant, "user": user})
        .limit(LOOK_MAX)
        .max_time(limit)
        .await
        .map_err(|error| failure(&error))?;
    let found: Vec<RawDocumentBuf> = found.try_collect().await.map_err(|error| failure(&error))?;
    let mut devices = found.into_iter().map(read).collect::<Result<Vec<_>, _>>()?;
    devices.sort_by(|a, b| b.at.cmp(&a.at).then_with(|| a.id.cmp(&b.id)));
    Ok(devices)
}

async fn delete(connection: &Connection, keys: Vec<String>) -> Result<u64, StoreError> {
    if keys.is_empty() {
        return Ok(0);
    }
    let deleted = collection(connection)
        .delete_many(doc! {"_id": {"$in": keys}})
        .await;
    deleted
        .map(|deleted| deleted.deleted_count)
        .map_err(|error| failure(&error))
}

impl MongoStore {
    async fn change<T>(
        &self,
        change: impl AsyncFnOnce(&Connection, Duration) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let limit = self.shared.settings.write_timeout();
        within(limit, async {
            change(self.shared.connection().await?, limit).await
        })
        .await
    }
}

#[async_trait]
impl Devices for MongoStore {
    async fn register(&self, device: &Device, most: u32) -> Result<(), StoreError> {
        self.change(async |connection, limit| {
            let filter = doc! {"_id": key(&device.tenant, &device.id)};
            let fields = RawDocumentBuf::try_from(&fields(device))
                .map_err(|error| StoreError::Refused(error.to_string()))?;
            collection(connection)
                .replace_one(filter, fields)
                .upsert(true)
                .await
                .map_err(|error| failure(&error))?;
            let devices = of_user(connection, &device.tenant, &device.user, limit).await?;
            let beyond = devices.iter().skip(most as usize);
            let beyond = beyond.map(|device| key(&device.tenant, &device.id)).collect();
            delete(connection, beyond).await.map(drop)
        })
        .await
    }

    async fn devices(
        &self,
        tenant: &str,
        user: &str,
        now: Millis,
        most: u32,
    ) -> Result<Vec<Device>, StoreError> {
        let all = self.read(async |connection, limit| of_user(connection, tenant, user, limit).await);
        let mut devices = all.await?;
        devices.retain(|device| device.expires_at.is_none_or(|at| at > now));
        devices.truncate(most as usize);
        Ok(devices)
    }

    async fn unregister(&self, tenant: &str, id: &str) -> Result<bool, StoreError> {
        let keys = vec![key(tenant, id)];
        let gone = self.change(async |connection, _| delete(connection, keys).await);
        Ok(gone.await? > 0)
    }

    async fn forget_devices(&self, now: Millis, most: u32) -> Result<u64, StoreError> {
        self.change(async |connection, limit| {
            let found = collection(connection)
                .find(doc! {"expiresAt": {"$lte": DateTime::from_millis(now)}})
                .projection(doc! {"_id": 1})
                .limit(i64::from(most))
                .max_time(limit)
                .await
                .map_err(|error| failure(&error))?;
            let found: Vec<RawDocumentBuf> = found.try_collect().await.map_err(|error| failure(&error))?;
            let keys = found
                .into_iter()
                .filter_map(|raw| match bsons(raw).ok()?.remove("_id") {
                    Some(Bson::String(key)) => Some(key),
                    _ => None,
                });
            let keys = keys.collect();
            delete(connection, keys).await
        })
        .await
    }
}
