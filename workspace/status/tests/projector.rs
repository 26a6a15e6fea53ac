//! The projector on the embedded broker, with both stores, and with a store that fails on request.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

mod world;

use std::{sync::Arc, time::Duration};

use posthaste_event::{Topic, Value};
use posthaste_service::{Health, Shutdown};
use posthaste_status::Positions;
use posthaste_store::{MongoStore, Query, Store};
use posthaste_testkit::{
    MongoServer, MongoStorage,
    life::{Life, Shuffle},
    store_suite::{expected, walk},
};

use world::{Flaky, Running, World, mongo_settings, settings, until};

/// Records of some events, in any order.
fn records(events: usize) -> Vec<Value> {
    let mut records: Vec<_> = (0..events)
        .flat_map(|number| Life::new(&format!("e{number}")).everything())
        .collect();
    Shuffle::new(7).shuffle(&mut records);
    records
}

async fn until_all_there(store: &dyn Store, records: &[Value]) {
    let all = expected(records);
    until(async || {
        for (id, document) in &all {
            if store.event(id).await.ok().flatten().as_ref() != Some(document) {
                return false;
            }
        }
        true
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_stands_on_any_topic_becomes_documents() {
    let world = World::new().await;
    let records = records(40);
    let (before, later) = records.split_at(records.len() / 2);
    world.append(before).await;
    let running = world.project(world.store.clone(), Positions::InStore);
    world.append(later).await;
    until_all_there(world.store.as_ref(), &records).await;
    assert_eq!(running.health.missing(), Vec::new());
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_goes_on_where_it_stopped_wherever_that_is_kept() {
    for positions in [Positions::InStore, Positions::InBroker] {
        let world = World::new().await;
        let first = records(20);
        world.append(&first).await;
        let running = world.project(world.store.clone(), positions);
        until_all_there(world.store.as_ref(), &first).await;
        running.stop().await;

        let second = Life::new("second").everything();
        world.append(&second).await;
        let counting = Arc::new(Flaky::new(world.store.clone()));
        let running = world.project(counting.clone(), positions);
        until_all_there(world.store.as_ref(), &second).await;
        running.stop().await;
        assert_eq!(
            counting.seen(),
            ["second"],
            "{positions:?}: nothing old was read again"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_away_stops_nothing_and_is_caught_up_with() {
    let world = World::new().await;
    let store = Arc::new(Flaky::new(world.store.clone()));
    let running = world.project(store.clone(), Positions::InStore);
    until(async || running.health.missing().is_empty()).await;
    store.away(true);
    let records = records(60);
    world.append(&records).await;
    until(async || !running.health.missing().is_empty()).await;
    let posthaste_service::Missing { name, reason, .. } = running.health.missing().remove(0);
    assert!(
        name == "projector" && reason.contains("away for a test"),
        "{name}: {reason}"
    );
    world.append(&Life::new("meanwhile").everything()).await;
    store.away(false);
    until_all_there(world.store.as_ref(), &records).await;
    until_all_there(world.store.as_ref(), &Life::new("meanwhile").everything()).await;
    until(async || running.health.missing().is_empty()).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_too_slow_for_all_at_once_gets_less() {
    for positions in [Positions::InBroker, Positions::InStore] {
        let world = World::new().await;
        let store = Arc::new(Flaky::new(world.store.clone()));
        store.slow(100);
        world.append(&records(900)).await;
        let running = world.project(store, positions);
        until_all_there(world.store.as_ref(), &records(900)).await;
        running.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_written_is_committed_though_there_is_always_more_to_write() {
    let world = World::new().await;
    let store = Arc::new(Flaky::new(world.store.clone()));
    store.away_after(300);
    world.append(&records(900)).await;
    let mut settings = settings();
    settings.batch_records_max = 20;
    settings.commit_every_ms = 10;
    let running = world.project_with(store, Positions::InBroker, settings);
    until(async || {
        let lag = world.broker.lag("projector", &[Topic::Default]).await.unwrap();
        lag.iter()
            .any(|lag| lag.committed.is_some_and(|offset| offset > 0))
    })
    .await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_ends_when_told_even_while_the_store_is_away() {
    let world = World::new().await;
    let store = Arc::new(Flaky::new(world.store.clone()));
    store.away(true);
    let running = world.project(store.clone(), Positions::InBroker);
    world.append(&records(3)).await;
    until(async || {
        running
            .health
            .missing()
            .iter()
            .any(|missing| missing.reason.contains("behind"))
    })
    .await;
    running.stop().await;
    // What was not written was not committed either.
    store.away(false);
    let running = world.project(store, Positions::InBroker);
    until_all_there(world.store.as_ref(), &records(3)).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_read_or_stored_holds_up_nothing_else() {
    let world = World::new().await;
    let store = Arc::new(Flaky::new(world.store.clone()));
    store.refuse("e3");
    world.append_raw(Topic::Default, b"no JSON").await;
    world.append_raw(Topic::Status, br#"{"delivery":{}}"#).await;
    let records = records(8);
    world.append(&records).await;
    world.append_raw(Topic::Default, b"").await;
    let running = world.project(store, Positions::InStore);
    let mut all = expected(&records);
    all.remove("e3");
    until(async || {
        let seen = walk(
            world.store.as_ref(),
            Query {
                limit: 100,
                ..Query::default()
            },
        )
        .await;
        let mut whole = seen.len() == all.len();
        for (id, document) in &all {
            whole &= world.store.event(id).await.unwrap().as_ref() == Some(document);
        }
        whole
    })
    .await;
    // The place behind all of it is kept: a second run has nothing to do.
    until(async || {
        let positions = world.store.progress().await.unwrap().unwrap();
        positions.iter().map(|position| position.offset).sum::<i64>() > 0
    })
    .await;
    running.stop().await;
    let counting = Arc::new(Flaky::new(world.store.clone()));
    let running = world.project(counting.clone(), Positions::InStore);
    let last = Life::new("last").straight();
    world.append(&last).await;
    until_all_there(world.store.as_ref(), &last).await;
    running.stop().await;
    assert_eq!(counting.seen(), ["last"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_was_made_anew_is_read_from_its_start() {
    let world = World::new().await;
    let old = records(30);
    world.append(&old).await;
    let running = world.project(world.store.clone(), Positions::InStore);
    until_all_there(world.store.as_ref(), &old).await;
    running.stop().await;

    let anew = world.with_new_log().await;
    let young = Life::new("young").everything();
    anew.append(&young).await;
    let running = anew.project(anew.store.clone(), Positions::InStore);
    until_all_there(anew.store.as_ref(), &young).await;
    running.stop().await;
    assert!(
        anew.store.event("e1").await.unwrap().is_some(),
        "what was known stays known"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_instances_share_the_topics_and_one_takes_over() {
    let world = World::new().await;
    let first = world.project(world.store.clone(), Positions::InBroker);
    let second = world.project(world.store.clone(), Positions::InBroker);
    let records = records(60);
    let (before, after) = records.split_at(records.len() / 2);
    world.append(before).await;
    first.stop().await;
    world.append(after).await;
    until_all_there(world.store.as_ref(), &records).await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mongodb_may_die_and_come_back() {
    let mut server = MongoServer::start(MongoStorage::File).await.unwrap();
    let settings = mongo_settings(server.uri());
    let world = World::new().await;
    let store: Arc<dyn Store> = Arc::new(MongoStore::connect(&settings).unwrap());
    // What the caller says of positions is not what this store can do: the broker keeps them.
    let running = world.project(store.clone(), Positions::InStore);
    let records = records(30);
    let (before, after) = records.split_at(records.len() / 2);
    world.append(before).await;
    until_all_there(store.as_ref(), before).await;
    server.kill();
    world.append(after).await;
    until(async || !running.health.missing().is_empty()).await;
    server.restart().await.unwrap();
    until_all_there(store.as_ref(), &records).await;
    until(async || running.health.missing().is_empty()).await;
    running.stop().await;

    // And a fresh instance begins behind it all.
    let counting = Arc::new(Flaky::new(store.clone()));
    let running = world.project(counting.clone(), Positions::InBroker);
    let last = Life::new("last").straight();
    world.append(&last).await;
    until_all_there(store.as_ref(), &last).await;
    running.stop().await;
    assert_eq!(counting.seen(), ["last"]);
}

#[tokio::test]
async fn settings_out_of_range_are_refused_by_name() {
    let world = World::new().await;
    let mut settings = world::settings();
    settings.gather_ms = 99_999;
    let projector = world.projector(world.store.clone(), Positions::InStore);
    let ended = posthaste_status::run(&settings, projector, &Health::default(), Shutdown::new()).await;
    assert!(ended.unwrap_err().to_string().starts_with("status.gather_ms"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_event_is_there_at_once() {
    let world = World::new().await;
    let running: Running = world.project(world.store.clone(), Positions::InStore);
    until(async || running.health.missing().is_empty()).await;
    // Idle for longer than records are gathered.
    tokio::time::sleep(Duration::from_millis(60)).await;
    let asked = tokio::time::Instant::now();
    world.append(&[Life::new("alone").accepted()]).await;
    until(async || world.store.event("alone").await.unwrap().is_some()).await;
    // Far below any poll of seconds, far above what a busy machine needs.
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    running.stop().await;
}
