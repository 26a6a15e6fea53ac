//! The contract suite on a MongoDB-wire server, and what only that backend does.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

use std::time::{Duration, Instant};

use mongodb::{
    Client,
    bson::{Bson, Document, doc},
};
use posthaste_store::{
    Changes, Claims, Devices, Lists, MongoStore, Settings, Store, StoreError, settings::Url,
};
use posthaste_testkit::{
    MongoServer, MongoStorage,
    life::Life,
    store_suite::{apply_all, every_call_ends_while_it_is_away, expected, until_away, until_well},
};
use tokio::sync::OnceCell;

/// One server for all tests here; each has a database of its own.
static SERVER: OnceCell<MongoServer> = OnceCell::const_new();

struct Home {
    store: MongoStore,
    settings: Settings,
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

fn settings(url: String) -> Settings {
    #[derive(serde::Deserialize)]
    struct File {
        store: Settings,
    }
    let mut settings = toml::from_str::<File>(posthaste_store::DEFAULTS).unwrap().store;
    settings.mongodb.url = Url(url);
    settings.mongodb.database = format!("test_{}", uuid::Uuid::new_v4().simple());
    // The machine may be busy with other tests.
    settings.read_timeout_ms = 20_000;
    settings.write_timeout_ms = 20_000;
    settings
}

async fn open() -> Home {
    let server = SERVER
        .get_or_init(|| async { MongoServer::start(MongoStorage::Memory).await.unwrap() })
        .await;
    let settings = settings(server.uri());
    let store = MongoStore::connect(&settings).unwrap();
    until_well(&store).await;
    until_indexed(&settings).await;
    Home { store, settings }
}

/// This server, unlike MongoDB, fails updates of a collection that is just getting an index.
async fn until_indexed(settings: &Settings) {
    let client = Client::with_uri_str(&settings.mongodb.url.0).await.unwrap();
    let inbox = client
        .database(&settings.mongodb.database)
        .collection::<Document>("inbox");
    let wait = async {
        // The last that is made.
        while !inbox
            .list_index_names()
            .await
            .is_ok_and(|names| names.iter().any(|name| name == "by_retention"))
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), wait).await.unwrap();
}

posthaste_testkit::store_suite!(open);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_programs_find_numbers_for_times_and_plain_fields() {
    let home = open().await;
    let records = Life::new("seen").everything();
    apply_all(home.store(), &records, 4).await;
    let client = Client::with_uri_str(&home.settings.mongodb.url.0).await.unwrap();
    let events = client
        .database(&home.settings.mongodb.database)
        .collection::<Document>("events");
    let event = events.find_one(doc! {"_id": "seen"}).await.unwrap().unwrap();
    assert!(matches!(event.get("createdAt"), Some(Bson::Int64(_))), "{event}");
    assert!(
        matches!(event.get("keepFrom"), Some(Bson::DateTime(_))),
        "{event}"
    );
    assert_eq!(
        event.get_document("payload").unwrap().get_str("message").unwrap(),
        "Hello"
    );
    let state = event.get_document("state").unwrap();
    assert_eq!(state.keys().next().map(String::as_str), Some("step"));
    assert_eq!(state.get_str("status").unwrap(), "SENT");
    assert_eq!(event.get_document("timeline").unwrap().len(), 10);
    assert!(
        event.get_document("notes").unwrap().contains_key("n%2E2%24"),
        "{event}"
    );

    // What somebody else put there hides nothing.
    events
        .insert_one(doc! {"_id": "strange", "createdAt": 1_i64, "state": "?"})
        .await
        .unwrap();
    let query = posthaste_store::Query {
        limit: 10,
        ..Default::default()
    };
    assert_eq!(home.store.search(&query).await.unwrap().events.len(), 1);
    assert!(matches!(
        home.store.event("strange").await,
        Err(StoreError::Refused(_))
    ));
    // It can be put right all the same, and what is not ours stays in it.
    let update = doc! {"$set": {"mine": 1, "timeline": [1], "notes": null}};
    events.update_one(doc! {"_id": "strange"}, update).await.unwrap();
    let ids = ["strange".to_owned()];
    assert_eq!(
        home.store.events(&ids).await.unwrap(),
        [("strange".to_owned(), None)]
    );
    let truth = expected(&Life::new("strange").everything())
        .remove("strange")
        .unwrap();
    assert!(!home.store.replace(Some(&truth), &truth).await.unwrap());
    assert!(home.store.replace(None, &truth).await.unwrap());
    assert_eq!(home.store.event("strange").await.unwrap(), Some(truth));
    let event = events.find_one(doc! {"_id": "strange"}).await.unwrap().unwrap();
    assert_eq!(event.get("mine"), Some(&Bson::Int32(1)));
    let ours = events.find_one(doc! {"_id": "seen"}).await.unwrap().unwrap();
    for (name, value) in &ours {
        // The same types in the same order, so that `$max` goes on comparing them.
        if let (Some(Bson::Document(put)), Bson::Document(applied)) = (event.get(name), value) {
            assert!(
                put.keys().eq(applied.keys()) || name == "timeline",
                "{name}: {put}"
            );
        }
        let kind = |bson: Option<&Bson>| bson.map(Bson::element_type);
        assert_eq!(kind(event.get(name)), kind(Some(value)), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_may_come_late_and_go_and_come_back() {
    let mut server = MongoServer::start(MongoStorage::File).await.unwrap();
    server.kill();
    let settings = Settings {
        read_timeout_ms: 300,
        write_timeout_ms: 300,
        ..settings(server.uri())
    };
    let store = MongoStore::connect(&settings).unwrap();
    assert!(store.health().is_err());
    every_call_ends_while_it_is_away(&store).await;

    server.restart().await.unwrap();
    until_well(&store).await;
    let records = Life::new("before").straight();
    until_applied(&store, &records).await;

    server.kill();
    until_away(&store).await;
    every_call_ends_while_it_is_away(&store).await;
    server.restart().await.unwrap();
    until_well(&store).await;
    assert_eq!(
        store.event("before").await.unwrap().unwrap(),
        expected(&records)["before"]
    );

    // A server that hangs: connections stay open, no answer comes.
    server.pause();
    let asked = Instant::now();
    every_call_ends_while_it_is_away(&store).await;
    assert!(asked.elapsed() < Duration::from_secs(20));
    until_away(&store).await;
    server.resume();
    until_well(&store).await;
    until_applied(&store, &Life::new("after").straight()).await;
    assert!(store.event("after").await.unwrap().is_some());
}

async fn until_applied(store: &dyn Store, records: &[posthaste_event::Value]) {
    let mut fold = posthaste_store::Fold::default();
    for record in records {
        fold.add(record.clone());
    }
    let changes = Changes::from(fold.into_changes());
    let wait = async {
        while store.apply(changes.clone(), &[]).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), wait).await.unwrap();
}

#[tokio::test]
async fn an_address_that_cannot_be_one_is_refused_without_showing_it() {
    for (url, database) in [
        ("http://me:secret@host", "posthaste"),
        ("", "posthaste"),
        ("mongodb://secret@", "p"),
        ("mongodb://host", "a.b"),
    ] {
        let mut settings = settings(url.to_owned());
        settings.mongodb.database = database.to_owned();
        let Err(error) = MongoStore::connect(&settings) else {
            panic!("{url} was taken")
        };
        assert!(
            error.to_string().contains("accepted: ") && !error.to_string().contains("secret"),
            "{error}"
        );
    }
}

/// Answers every command as a MongoDB 4.2 would answer `hello`, and nothing else.
async fn an_old_server() -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let hello = doc! {
        "helloOk": true, "isWritablePrimary": true, "ismaster": true, "maxBsonObjectSize": 16_777_216,
        "maxMessageSizeBytes": 48_000_000, "maxWriteBatchSize": 100_000, "minWireVersion": 0,
        "maxWireVersion": 8, "ok": 1.0,
    };
    let hello = hello.to_vec().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let hello = hello.clone();
            tokio::spawn(async move {
                // https://www.mongodb.com/docs/manual/reference/mongodb-wire-protocol/
                const OP_REPLY: i32 = 1;
                const OP_QUERY: i32 = 2_004;
                const OP_MSG: i32 = 2_013;
                while let Ok(length) = stream.read_i32_le().await {
                    let mut rest = vec![0; length as usize - 4];
                    stream.read_exact(&mut rest).await.unwrap();
                    let number = |at: usize| i32::from_le_bytes(rest[at..at + 4].try_into().unwrap());
                    let (request, kind) = (number(0), number(8));
                    let (kind, head) = if kind == OP_QUERY {
                        // Flags, cursor id (two numbers), first place, count.
                        (OP_REPLY, [8, 0, 0, 0, 1].map(i32::to_le_bytes).concat())
                    } else {
                        // Flags, and a section that is one document.
                        (OP_MSG, vec![0; 5])
                    };
                    let length = 16 + head.len() + hello.len();
                    let mut answer = [length as i32, 0, request, kind].map(i32::to_le_bytes).concat();
                    answer.extend(head);
                    answer.extend(&hello);
                    if stream.write_all(&answer).await.is_err() {
                        break;
                    }
                }
            });
        }
    });
    format!("mongodb://{address}")
}

#[tokio::test]
async fn a_server_that_is_too_old_is_named_as_such_and_takes_nothing_away() {
    let mut settings = settings(an_old_server().await);
    settings.read_timeout_ms = 2_000;
    let store = MongoStore::connect(&settings).unwrap();
    let begin = Instant::now();
    let expected = "its version does not fit; accepted: MongoDB 4.4 or later";
    while !store.health().is_err_and(|reason| reason.contains(expected)) {
        assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", store.health());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Whoever writes tries again until somebody has mended it: nothing is left out for good.
    let error = store.event("e1").await.unwrap_err();
    assert!(
        error.is_retryable() && error.to_string().contains(expected),
        "{error}"
    );
}

#[tokio::test]
async fn a_server_tells_its_version_and_its_time() {
    let home = open().await;
    let server = home.store.server().await.unwrap();
    assert_eq!(server.version, "7.0.0");
    assert!(server.now.is_some());
}
