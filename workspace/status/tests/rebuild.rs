//! The status is built again from the topics: on both stores, beside live traffic, and with a store that fails.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

mod world;

use std::{collections::BTreeMap, path::Path, sync::Arc};

use posthaste_event::{Millis, Status, Value, clock};
use posthaste_service::Shutdown;
use posthaste_status::{
    Positions, Rebuilds,
    rebuild::{Kind, Report, State},
};
use posthaste_store::{Document, InboxMessage, MongoStore, Settings, Store};
use posthaste_testkit::{
    MongoServer, MongoStorage,
    life::{Life, Shuffle},
    store_suite::{apply_all, expected},
};
use serde_json::json;
use tokio::sync::OnceCell;

use world::{Flaky, World, mongo_settings, store_settings, until};

static MONGO: OnceCell<MongoServer> = OnceCell::const_new();

/// Documents are kept for ever: the lives of the tests begin on a fixed day.
fn settings() -> Settings {
    Settings {
        retention_days: 0,
        ..store_settings()
    }
}

/// A world with its own store, and one with a store in MongoDB.
async fn worlds() -> [(World, Arc<dyn Store>, Positions); 2] {
    let server = MONGO
        .get_or_init(|| async { MongoServer::start(MongoStorage::Memory).await.unwrap() })
        .await;
    let mut settings = mongo_settings(server.uri());
    settings.mongodb.database = format!("test_{}", uuid::Uuid::new_v4().simple());
    (settings.read_timeout_ms, settings.write_timeout_ms) = (20_000, 20_000);
    let mongo = MongoStore::connect(&settings).unwrap();
    until(async || mongo.health().is_ok()).await;
    let embedded = World::new().await;
    let store = embedded.store.clone();
    [
        (embedded, store, Positions::InStore),
        (World::new().await, Arc::new(mongo), Positions::InBroker),
    ]
}

fn rebuilds(world: &World, store: &Arc<dyn Store>, folder: Option<&Path>) -> Rebuilds {
    let folder = folder.map(Path::to_path_buf);
    Rebuilds::new(
        world.broker.clone(),
        store.clone(),
        &settings(),
        folder,
        Shutdown::new(),
    )
}

async fn finished(rebuilds: &Rebuilds) -> Report {
    until(async || !rebuilds.report().unwrap().state.is_running()).await;
    rebuilds.report().unwrap()
}

async fn rebuild(rebuilds: &Rebuilds, dry_run: bool) -> Report {
    rebuilds.begin(dry_run).unwrap();
    let report = finished(rebuilds).await;
    assert_eq!(report.state, State::Finished, "{report:?}");
    report
}

fn records(events: usize) -> Vec<Value> {
    let mut records: Vec<_> = (0..events)
        .flat_map(|number| Life::new(&format!("e{number}")).everything())
        .collect();
    Shuffle::new(11).shuffle(&mut records);
    records
}

async fn documents(store: &dyn Store, all: &BTreeMap<String, Document>) -> BTreeMap<String, Document> {
    let ids: Vec<String> = all.keys().cloned().collect();
    let found = store.events(&ids).await.unwrap().into_iter();
    found.map(|(id, document)| (id, document.unwrap())).collect()
}

async fn until_projected(store: &dyn Store, all: &BTreeMap<String, Document>) {
    until(async || documents(store, all).await == *all).await;
}

/// Loses every document, as if somebody had dropped them.
async fn lose(store: &dyn Store) {
    assert!(store.forget(Millis::MAX, 1_000_000).await.unwrap() > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_documents_come_back_whole_and_the_inbox_stays() {
    let records = records(60);
    let all = expected(&records);
    for (world, store, positions) in worlds().await {
        world.append(&records).await;
        let running = world.project(store.clone(), positions);
        until_projected(store.as_ref(), &all).await;
        lose(store.as_ref()).await;
        let message = InboxMessage {
            id: "m1".into(),
            tenant: "acme".into(),
            recipient: "r".into(),
            title: "t".into(),
            body: "b".into(),
            data: Some(json!({"kept": true})),
            at: clock::now(),
        };
        store.put_inbox(&message).await.unwrap();
        let rebuilds = rebuilds(&world, &store, None);

        let report = rebuild(&rebuilds, true).await;
        assert_eq!((report.missing, report.repaired), (60, 0), "{report:?}");
        assert_eq!(
            documents(store.as_ref(), &all).await,
            BTreeMap::new(),
            "a dry run"
        );
        let report = rebuild(&rebuilds, false).await;
        assert_eq!((report.missing, report.repaired), (60, 60), "{report:?}");
        assert_eq!((report.compared, report.different), (60, 0), "{report:?}");
        assert!(!report.status_behind);
        assert_eq!(documents(store.as_ref(), &all).await, all);
        assert_eq!(store.inbox("acme", "r", 10).await.unwrap(), [message]);

        let report = rebuild(&rebuilds, false).await;
        assert_eq!((report.missing, report.different), (0, 0), "{report:?}");
        assert_eq!(report.percent, 100.0);
        running.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_changed_by_hand_is_named_and_put_right() {
    let records = records(20);
    let all = expected(&records);
    for (world, store, positions) in worlds().await {
        world.append(&records).await;
        let running = world.project(store.clone(), positions);
        until_projected(store.as_ref(), &all).await;
        let change = async |id: &str, change: fn(&mut Document)| {
            let mut wrong = all[id].clone();
            change(&mut wrong);
            assert!(store.replace(Some(&all[id]), &wrong).await.unwrap());
        };
        change("e1", |document| {
            let state = document.state.as_mut().unwrap();
            (state.step, state.status) = (77, Status::Expired);
        })
        .await;
        change("e2", |document| {
            document.timeline.get_mut("1").unwrap().at += 1_000_000_000;
            document.notes.remove("n1");
        })
        .await;
        change("e3", |document| document.fixed.payload = Some(json!("changed"))).await;

        let rebuilds = rebuilds(&world, &store, None);
        let mut report = rebuild(&rebuilds, true).await;
        report
            .differences
            .sort_by(|one, other| one.event_id.cmp(&other.event_id));
        let named: Vec<_> = (report.differences.iter())
            .map(|difference| (difference.event_id.as_str(), difference.fields.join(" ")))
            .collect();
        let wanted = [("e1", "state"), ("e2", "notes.n1 timeline.1"), ("e3", "payload")];
        assert_eq!(named, wanted.map(|(id, fields)| (id, fields.to_owned())));
        assert!(
            report
                .differences
                .iter()
                .all(|one| one.kind == Kind::Different && !one.repaired)
        );
        let report = rebuild(&rebuilds, false).await;
        assert_eq!((report.different, report.repaired), (3, 3), "{report:?}");
        assert_eq!(documents(store.as_ref(), &all).await, all);
        running.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_older_than_the_topics_stays() {
    let old = Life::new("old").everything();
    let half = Life::new("half").everything();
    let late = &half[4..];
    for (world, store, positions) in worlds().await {
        world.append(late).await;
        let mut all = old.clone();
        all.extend(half.clone());
        apply_all(store.as_ref(), &all, 100).await;
        let all = expected(&all);
        let running = world.project(store.clone(), positions);
        let report = rebuild(&rebuilds(&world, &store, None), false).await;
        assert_eq!(
            (report.compared, report.missing, report.different),
            (1, 0, 0),
            "{report:?}"
        );
        assert_eq!(report.older, Some(1));
        assert_eq!(documents(store.as_ref(), &all).await, all);
        running.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn live_traffic_goes_on_and_nothing_of_it_is_lost() {
    let lives = |from: usize, until: usize| -> Vec<Value> {
        (from..until)
            .flat_map(|life| Life::new(&format!("live-{life}")).everything())
            .collect()
    };
    for (world, store, positions) in worlds().await {
        let before = lives(0, 100);
        world.append(&before).await;
        let running = world.project(store.clone(), positions);
        until_projected(store.as_ref(), &expected(&before)).await;
        lose(store.as_ref()).await;

        let rebuilds = rebuilds(&world, &store, None);
        let mut all = before;
        let mut from = 100;
        for round in 0.. {
            rebuilds.begin(false).unwrap();
            // Lives that begin, go on and end while it reads and compares, in several pieces.
            let mut live = lives(from, from + 30);
            from += 30;
            Shuffle::new(round + 1).shuffle(&mut live);
            for piece in live.chunks(40) {
                world.append(piece).await;
            }
            all.extend(live);
            let report = finished(&rebuilds).await;
            assert_eq!(
                (report.state, report.changing),
                (State::Finished, 0),
                "{report:?}"
            );
            if round == 2 {
                break;
            }
        }
        let all = expected(&all);
        until_projected(store.as_ref(), &all).await;
        let report = rebuild(&rebuilds, true).await;
        assert_eq!((report.missing, report.different), (0, 0), "{report:?}");
        running.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_at_a_time_and_its_files_go_with_it() {
    let world = World::new().await;
    world.append(&records(5)).await;
    let folder = tempfile::tempdir().unwrap();
    // As a crash leaves it.
    std::fs::create_dir(folder.path().join("rebuild")).unwrap();
    std::fs::write(folder.path().join("rebuild/status.db"), "not a database").unwrap();
    let flaky = Arc::new(Flaky::new(world.store.clone()));
    flaky.away(true);
    let store: Arc<dyn Store> = flaky.clone();
    let running = world.project(world.store.clone(), Positions::InStore);
    let rebuilds = rebuilds(&world, &store, Some(folder.path()));
    assert!(rebuilds.report().is_none() && rebuilds.stop().is_none());
    let begun = rebuilds.begin(false).unwrap();
    // The store is away: it waits, and says for what.
    until(async || rebuilds.report().unwrap().reason.is_some()).await;
    let refused = rebuilds.begin(false).unwrap_err();
    assert_eq!(refused.rebuild_id, begun.rebuild_id);
    rebuilds.stop().unwrap();
    assert_eq!(finished(&rebuilds).await.state, State::Stopped);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);

    rebuilds.begin(false).unwrap();
    until(async || rebuilds.report().unwrap().reason.is_some()).await;
    flaky.away(false);
    assert_eq!(finished(&rebuilds).await.state, State::Finished);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_store_refuses_and_what_is_past_its_retention_is_told() {
    let world = World::new().await;
    let mut records = records(5);
    let forgotten = Life::new("forgotten").created_at(1_000_000_000_000);
    records.extend(forgotten.straight());
    world.append(&records).await;
    let flaky = Arc::new(Flaky::new(world.store.clone()));
    flaky.refuse("e3");
    let store: Arc<dyn Store> = flaky;
    let running = world.project(world.store.clone(), Positions::InStore);
    until_projected(world.store.as_ref(), &expected(&records)).await;
    lose(world.store.as_ref()).await;
    let settings = Settings {
        retention_days: 3_650,
        ..settings()
    };
    let rebuilds = Rebuilds::new(world.broker.clone(), store, &settings, None, Shutdown::new());
    let report = rebuild(&rebuilds, false).await;
    assert_eq!(
        (report.missing, report.repaired, report.refused, report.forgotten),
        (5, 4, 1, 1),
        "{report:?}"
    );
    let refused = report.differences.iter().find(|one| !one.repaired).unwrap();
    assert_eq!(refused.event_id, "e3");
    assert!(refused.reason.as_ref().unwrap().contains("refused for a test"));
    running.stop().await;
}
