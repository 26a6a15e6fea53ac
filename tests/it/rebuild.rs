//! The status documents are lost, and built again from the topics: the same as before, and beside live traffic.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use posthaste_store::{EmbeddedStore, MongoStore, Settings, Store, settings::Url};
use serde_json::{Value as Json, json};

use crate::{
    load::id_of,
    on_each_backend,
    system::{Backend, Client, PATIENCE, Plan, System, run},
};

on_each_backend!(
    lost_documents_are_rebuilt_as_they_were,
    a_rebuild_beside_live_traffic_loses_nothing,
);

const SETTLE: Duration = Duration::from_secs(120);

const fn status_service(backend: Backend) -> &'static str {
    match backend {
        Backend::Embedded => "up",
        Backend::Kafka => "status",
    }
}

/// Throws every status document away while the status service is down. Where the projector stands is kept: it will not bring
/// them back.
async fn lose_documents(system: &mut System, backend: Backend) {
    let name = status_service(backend);
    system.service(name).stop().await;
    let store: Arc<dyn Store> = match backend {
        Backend::Embedded => {
            let data = system.service(name).data();
            Arc::new(EmbeddedStore::open(&data, &settings()).unwrap())
        }
        Backend::Kafka => {
            let mut settings = settings();
            settings.mongodb.url = Url(system.place().mongodb.clone());
            settings.mongodb.database.clone_from(&system.place().prefix);
            Arc::new(MongoStore::connect(&settings).unwrap())
        }
    };
    let lost = store.forget(i64::MAX, 1_000_000).await.unwrap();
    assert!(lost > 0);
    drop(store);
    let service = system.service(name);
    service.launch();
    service.ready().await;
}

fn settings() -> Settings {
    #[derive(serde::Deserialize)]
    struct File {
        store: Settings,
    }
    let mut settings = toml::from_str::<File>(posthaste_store::DEFAULTS).unwrap().store;
    (settings.read_timeout_ms, settings.write_timeout_ms) = (20_000, 20_000);
    settings
}

/// Runs the command against the status service.
async fn rebuild(client: &Client, options: &[&str]) -> (Option<i32>, Json) {
    let url = client.status_url();
    let mut arguments = vec!["status", "rebuild", "--json", "--url", url];
    arguments.extend(options);
    let (code, said, complaint) = run(&arguments).await;
    let report = serde_json::from_str(&said).unwrap_or_else(|_| panic!("{said}\n{complaint}"));
    (code, report)
}

/// Every event, whole.
async fn documents(client: &Client, ids: &[String]) -> BTreeMap<String, Json> {
    let mut documents = BTreeMap::new();
    for id in ids {
        if let Some(document) = client.event(id).await {
            documents.insert(id.clone(), document);
        }
    }
    documents
}

/// Events that go every way: sent at once, retried, given up, replayed, scheduled, on several channels.
async fn make_events(system: &System, client: &Client) -> Vec<String> {
    let faults = system.faults().await;
    let recipient = |index| client.number(index).trim_start_matches('+').to_owned();
    faults
        .set(json!([
            {"action": "unavailable", "recipient": recipient(1), "times": 1},
            {"action": "invalid", "recipient": recipient(2), "times": 1},
            {"action": "invalid", "recipient": recipient(3), "times": 1},
        ]))
        .await;
    let mut ids = Vec::new();
    for index in 0..30 {
        ids.push(client.accept(&client.sms(&client.number(index))).await);
    }
    let mut urgent = client.sms(&client.number(31));
    (urgent["priority"], urgent["metadata"]) = (json!("critical"), json!({"a.b": {"$c": [1, null, "ü"]}}));
    ids.push(client.accept(&urgent).await);
    let mail = json!({"channel": "email", "tenant": client.tenant,
        "payload": {"subject": "s", "body": "b", "to": "to@example.com", "from": "from@example.com"}});
    ids.push(client.accept(&mail).await);
    let mut scheduled = client.sms(&client.number(32));
    scheduled["scheduledAt"] = json!(
        jiff::Timestamp::from_millisecond(posthaste_event::clock::now() + 86_400_000)
            .unwrap()
            .to_string()
    );
    let scheduled = client.accept(&scheduled).await;
    client.wait(&ids[2], "DEAD_LETTERED").await;
    client.wait(&ids[3], "DEAD_LETTERED").await;
    let body = json!({"filter": {"ids": [ids[3]]}});
    assert_eq!(client.replay_until(&body, 1).await, 1);
    for (index, id) in ids.iter().enumerate() {
        if index != 2 {
            client.wait(id, "SENT").await;
        }
    }
    client.wait(&scheduled, "SCHEDULED").await;
    ids.push(scheduled);
    ids
}

async fn lost_documents_are_rebuilt_as_they_were(backend: Backend) {
    let mut system = Plan::new(backend).await.start().await;
    let client = system.client();
    let ids = make_events(&system, &client).await;
    let before = documents(&client, &ids).await;
    assert_eq!(before.len(), ids.len());
    lose_documents(&mut system, backend).await;
    assert_eq!(documents(&client, &ids).await, BTreeMap::new());

    let (code, report) = rebuild(&client, &["--dry-run"]).await;
    assert_eq!(code, Some(1), "{report:#}");
    assert_eq!(report["missing"], ids.len(), "{report:#}");
    assert_eq!(documents(&client, &ids).await, BTreeMap::new(), "a dry run");

    // One that is killed in the middle, or at its end: the next begins anew.
    let (code, begun) = rebuild(&client, &["--detach"]).await;
    assert_eq!((code, &begun["dryRun"]), (Some(0), &json!(false)), "{begun:#}");
    let service = system.service(status_service(backend));
    service.kill();
    service.launch();
    service.ready().await;
    let (code, report) = rebuild(&client, &[]).await;
    assert_eq!(
        (code, &report["state"]),
        (Some(0), &json!("finished")),
        "{report:#}"
    );
    assert_eq!(documents(&client, &ids).await, before);

    let (code, report) = rebuild(&client, &["--dry-run"]).await;
    assert_eq!(code, Some(0), "{report:#}");
    // What went on meanwhile goes on: the scheduled one still waits, and a new one is sent.
    let id = client.accept(&client.sms(&client.number(40))).await;
    client.wait(&id, "SENT").await;
}

async fn a_rebuild_beside_live_traffic_loses_nothing(backend: Backend) {
    let mut system = Plan::new(backend).await.start().await;
    let client = system.client();
    let mut ids = Vec::new();
    for index in 0..200 {
        ids.push(client.accept(&client.sms(&client.number(index))).await);
    }
    for id in &ids {
        client.wait(id, "SENT").await;
    }
    lose_documents(&mut system, backend).await;
    let stop = Arc::new(AtomicBool::new(false));
    let load = tokio::spawn({
        let (client, stop) = (client.clone(), Arc::clone(&stop));
        async move {
            let mut accepted = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let number = client.number(1_000 + accepted.len());
                accepted.push(client.accept(&client.sms(&number)).await);
            }
            accepted
        }
    });
    for round in 0..3 {
        let (code, report) = rebuild(&client, &[]).await;
        assert_eq!(code, Some(0), "round {round}: {report:#}");
        assert_eq!(report["statusBehind"], false, "round {round}: {report:#}");
    }
    stop.store(true, Ordering::Relaxed);
    let during = load.await.unwrap();
    assert!(during.len() > 20, "only {} events meanwhile", during.len());
    ids.extend(during);
    let all_sent = |events: &[Json]| {
        let sent = events.iter().filter(|event| event["state"]["status"] == "SENT");
        let sent: std::collections::BTreeSet<&str> = sent.map(id_of).collect();
        ids.iter().all(|id| sent.contains(id.as_str()))
    };
    client.wait_for_all(SETTLE, "all SENT", all_sent).await;
    // The documents say what the topics say, those of the traffic meanwhile too.
    let start = std::time::Instant::now();
    loop {
        let (code, report) = rebuild(&client, &["--dry-run"]).await;
        if code == Some(0) {
            assert_eq!(report["compared"], ids.len(), "{report:#}");
            break;
        }
        assert!(start.elapsed() < PATIENCE, "{report:#}");
    }
}
