//! The contract suite on the SQLite file, and what only it does.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

use std::time::Duration;

use posthaste_event::{Status, Topic, delivery::Policy};
use posthaste_store::{
    Change, Changes, Claims, Devices, EmbeddedStore, Lists, Position, Query, Settings, Store, StoreError,
    embedded::FILE,
};
use posthaste_testkit::{
    life::{Life, NOW},
    store_suite::{self, apply_all, expected, until_away, until_well, walk},
};
use proptest::prelude::*;
use tempfile::TempDir;

struct Home {
    // Closed before its folder goes.
    store: EmbeddedStore,
    dir: TempDir,
}

impl Home {
    fn store(&self) -> &dyn Store {
        &self.store
    }

    fn claims(&self) -> &dyn Claims {
        &self.store
    }

    fn devices(&self) -> &dyn Devices {
        &self.store
    }

    fn lists(&self) -> &dyn Lists {
        &self.store
    }
}

fn settings() -> Settings {
    #[derive(serde::Deserialize)]
    struct File {
        store: Settings,
    }
    toml::from_str::<File>(posthaste_store::DEFAULTS).unwrap().store
}

async fn open() -> Home {
    let dir = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(dir.path(), &settings()).unwrap();
    Home { store, dir }
}

posthaste_testkit::store_suite!(open);

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn no_order_of_records_makes_a_difference(seed in any::<u64>()) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(async {
            let home = open().await;
            store_suite::shuffled(home.store(), seed).await;
        });
    }
}

#[tokio::test]
async fn everything_is_there_after_it_was_closed_and_opened() {
    let home = open().await;
    let records = Life::new("kept").everything();
    let position = Position {
        topic: Topic::Status,
        partition: 3,
        offset: 17,
    };
    apply_all(home.store(), &records, 4).await;
    home.store.apply(Vec::new().into(), &[position]).await.unwrap();
    drop(home.store);
    let store = EmbeddedStore::open(home.dir.path(), &settings()).unwrap();
    let document = store.event("kept").await.unwrap().unwrap();
    assert_eq!(document, expected(&records)["kept"]);
    assert_eq!(store.progress().await.unwrap().unwrap(), [position]);
}

#[tokio::test]
async fn a_file_that_another_program_holds_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let quick = Settings {
        write_timeout_ms: 300,
        ..settings()
    };
    let store = EmbeddedStore::open(dir.path(), &quick).unwrap();
    let other = rusqlite::Connection::open(dir.path().join(FILE)).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let change = Changes::from(vec![Change::new("held".into(), Life::new("held").fixed())]);
    let error = store.apply(change.clone(), &[]).await.unwrap_err();
    assert!(error.is_retryable(), "{error}");
    // Look-ups go on, and the health check says what is wrong once SQLite has given up waiting.
    assert_eq!(store.event("held").await.unwrap(), None);
    until_away(&store).await;
    other.execute_batch("ROLLBACK").unwrap();
    let write = async {
        while store.apply(change.clone(), &[]).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), write)
        .await
        .unwrap();
    until_well(&store).await;
    assert!(store.event("held").await.unwrap().is_some());
}

#[tokio::test]
async fn what_is_not_its_file_is_refused_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(
        dir.path().join(FILE),
        "this is not a database, whatever its name says",
    )
    .unwrap();
    let Err(StoreError::Refused(reason)) = EmbeddedStore::open(dir.path(), &settings()) else {
        panic!("took it")
    };
    assert!(reason.contains(FILE), "{reason}");

    let newer = tempfile::tempdir().unwrap();
    let file = rusqlite::Connection::open(newer.path().join(FILE)).unwrap();
    file.pragma_update(None, "user_version", 99).unwrap();
    let Err(StoreError::Refused(reason)) = EmbeddedStore::open(newer.path(), &settings()) else {
        panic!("took it")
    };
    assert!(reason.contains("version 99"), "{reason}");
}

#[tokio::test]
async fn a_file_of_the_first_version_goes_on() {
    let (now, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let before = Life::new("before");
    {
        let store = EmbeddedStore::open(now.path(), &settings()).unwrap();
        apply_all(&store, &before.straight(), 10).await;
    }
    let file = rusqlite::Connection::open(dir.path().join(FILE)).unwrap();
    let written_now = now.path().join(FILE);
    file.execute("ATTACH ? AS now", [written_now.to_str().unwrap()])
        .unwrap();
    file.execute_batch(include_str!("golden/status-1.sql")).unwrap();
    let columns = "place, id, tenant, channel, created_at, correlation_id, priority, payload, metadata, ordering_key, \
                   scheduled_at, expires_at, replay_of, keep_from, step, state_at, status, provider, state";
    file.execute_batch(&format!(
        "INSERT INTO events ({columns}) SELECT {columns} FROM now.events;
         INSERT INTO steps SELECT place, entry.key, entry.value ->> 'at', entry.value ->> 'status', entry.value ->> 'by',
             entry.value FROM now.events, json_each(timeline) AS entry;
         PRAGMA user_version = 1"
    ))
    .unwrap();
    drop(file);
    let store = EmbeddedStore::open(dir.path(), &settings()).unwrap();
    assert_eq!(
        store.counts(None).await.unwrap(),
        std::collections::BTreeMap::from([(Status::Sent, 1)])
    );
    let waits = Life::new("waits").scheduled(NOW + 1_000);
    apply_all(&store, std::slice::from_ref(&waits), 10).await;
    let old = store.event("before").await.unwrap().unwrap();
    assert_eq!(Some(&old), expected(&before.straight()).get("before"));
    let new = store.event("waits").await.unwrap().unwrap();
    assert_eq!(new.fixed.policy, Some(Policy::NoDuplicate));
}

#[tokio::test]
async fn a_look_up_that_takes_too_long_is_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let fine = EmbeddedStore::open(dir.path(), &settings()).unwrap();
    let records: Vec<_> = (0..200)
        .flat_map(|number| Life::new(&format!("many-{number}")).straight())
        .collect();
    apply_all(&fine, &records, 500).await;
    let hurried = EmbeddedStore::open(
        dir.path(),
        &Settings {
            read_timeout_ms: 0,
            ..settings()
        },
    )
    .unwrap();
    let all = Query {
        limit: 1_000,
        ..Query::default()
    };
    let error = hurried.search(&all).await.unwrap_err();
    assert!(error.is_retryable(), "{error}");
    assert_eq!(walk(&fine, all).await.len(), 200);
}
