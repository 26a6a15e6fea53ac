//! A broadcast that cannot go on by itself: it stops, says so, holds up nobody, and nobody gets anything twice.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use posthaste_broadcast::{Broadcasts, Known, Settings, Worker};
use posthaste_broker::{Broker, NewRecord, Signal, Start, Subscription, Tracking, embedded::EmbeddedBroker};
use posthaste_event::{
    Channel, Delivery, EventView, Priority, Topic, Value, Work,
    broadcast::{Broadcast, BroadcastState, Chunk, Ended},
    clock,
    control::{Control, Wish},
    delivery::{Accepted, Policy},
};
use posthaste_service::{Health, Shutdown};
use serde_json::{Map, value::RawValue};
use tempfile::TempDir;
use tokio::time::timeout;

/// Longest wait for anything; only a failure is ever this slow.
const LIMIT: Duration = Duration::from_secs(30);

fn work(id: &str) -> Bytes {
    let payload = RawValue::from_string("{}".to_owned()).unwrap();
    let accepted = Accepted {
        id: id.to_owned(),
        correlation_id: "b".to_owned(),
        tenant: "acme".to_owned(),
        channel: Channel::Sms,
        priority: Priority::Normal,
        provider: None,
        scheduled_at: None,
        expires_at: None,
        policy: Policy::default(),
    };
    let event = EventView {
        event_id: id.to_owned(),
        tenant: "acme".to_owned(),
        channel: Channel::Sms,
        priority: Priority::Normal,
        payload: &payload,
        metadata: None,
        provider: None,
        ordering_key: None,
        scheduled_at: None,
        expires_at: None,
    };
    let work = Work {
        delivery: Delivery::accepted(accepted, "here", clock::now()).0,
        event: event.to_bytes().unwrap(),
    };
    work.encode().unwrap()
}

/// A chunk with two events.
fn chunk(id: &str, index: u32) -> Bytes {
    let works = [0, 1].map(|number| work(&format!("{id}-{index}-{number}")));
    Chunk::record(id, index, &works)
}

/// One that is found, but has something else in it.
fn unreadable(id: &str, index: u32) -> Bytes {
    Chunk::record(id, index, &[Bytes::from_static(br#""no event""#)])
}

struct World {
    broker: Arc<dyn Broker>,
    broadcasts: Arc<Broadcasts>,
    shutdown: Shutdown,
    _folder: TempDir,
}

impl World {
    /// A worker on an embedded log with one partition.
    async fn new() -> Self {
        #[derive(serde::Deserialize)]
        struct File {
            broker: posthaste_broker::Settings,
        }
        #[derive(serde::Deserialize)]
        struct Own {
            broadcast: Settings,
        }
        let folder = tempfile::tempdir().unwrap();
        let mut settings = toml::from_str::<File>(posthaste_broker::settings::DEFAULTS)
            .unwrap()
            .broker;
        settings.partitions = 1;
        let broker: Arc<dyn Broker> = Arc::new(EmbeddedBroker::open(folder.path(), &settings).unwrap());
        broker.create_topics().await.unwrap();
        let broadcasts = Arc::new(Broadcasts::default());
        let own = toml::from_str::<Own>(posthaste_broadcast::DEFAULTS)
            .unwrap()
            .broadcast;
        let worker = Worker::new(
            Arc::clone(&broker),
            Arc::clone(&broadcasts),
            own,
            "here".into(),
            &Health::default(),
        );
        let shutdown = Shutdown::new();
        let token = shutdown.clone();
        tokio::spawn(async move { Arc::new(worker).run(token).await.unwrap() });
        Self {
            broker,
            broadcasts,
            shutdown,
            _folder: folder,
        }
    }

    /// Puts a broadcast on the log, and says what it means.
    async fn broadcast(&self, id: &str, chunks: &[Bytes], said: u32) {
        let key = Broadcast::chunk_key("acme", id);
        let records = chunks
            .iter()
            .map(|chunk| NewRecord::new(Topic::Broadcasts, key.clone(), chunk.clone()));
        self.broker.append(records.collect()).await.unwrap();
        let broadcast = Broadcast {
            id: id.to_owned(),
            tenant: "acme".to_owned(),
            name: None,
            at: clock::now(),
            by: "here".to_owned(),
            recipients: u64::from(said) * 2,
            chunks: said,
            chunk_size: 2,
            chunk_delay_ms: 0,
            priority: None,
            scheduled_at: None,
            unknown: Map::new(),
        };
        self.tell(Control::Broadcast(Box::new(broadcast))).await;
    }

    async fn tell(&self, value: Control) {
        self.broadcasts.tell(&self.broker, value).await.unwrap();
    }

    async fn wish(&self, id: &str, state: Wish) {
        let state = BroadcastState {
            id: id.to_owned(),
            state,
            at: clock::now(),
            tenant: None,
            unknown: Map::new(),
        };
        self.tell(Control::BroadcastState(state)).await;
    }

    async fn wait(&self, id: &str, wanted: &str, holds: impl Fn(&Known) -> bool) -> Known {
        let reached = async {
            loop {
                let changed = self.broadcasts.changed.notified();
                if let Some(known) = self.broadcasts.get(id).filter(&holds) {
                    return known;
                }
                changed.await;
            }
        };
        match timeout(LIMIT, reached).await {
            Ok(known) => known,
            Err(_) => panic!("not {wanted}: {:?}", self.broadcasts.get(id)),
        }
    }

    /// How often each event was handed over.
    async fn handed_over(&self) -> BTreeMap<String, usize> {
        let subscription = Subscription {
            group: "test".to_owned(),
            topics: vec![Topic::Retry],
            tracking: Tracking::Position,
            start: Start::At(Vec::new()),
            limits: Default::default(),
        };
        let mut consumer = self.broker.subscribe(subscription).await.unwrap();
        let mut times = BTreeMap::new();
        let reading = async {
            loop {
                match consumer.next().await.unwrap() {
                    Signal::Read(records) => {
                        for record in records {
                            let Ok(Value::Work(work)) = record.decode("events") else {
                                panic!("not an event");
                            };
                            *times.entry(work.delivery.id).or_insert(0) += 1;
                        }
                    }
                    Signal::AtEnd(_) => return,
                    _ => {}
                }
            }
        };
        timeout(LIMIT, reading).await.unwrap();
        consumer.close().await;
        times
    }
}

fn is_stopped(known: &Known) -> bool {
    known.wish() == Wish::Stopped
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_with_a_chunk_that_cannot_be_read_rests_until_somebody_says_what_to_do() {
    let world = World::new().await;
    let broken = [
        (
            "bad",
            vec![chunk("bad", 0), unreadable("bad", 1), chunk("bad", 2)],
        ),
        ("gap", vec![chunk("gap", 0), chunk("gap", 2)]),
    ];
    for (id, chunks) in &broken {
        world.broadcast(id, chunks, 3).await;
    }
    for id in ["bad", "gap"] {
        let known = world.wait(id, "stopped", is_stopped).await;
        let progress = known.progress.unwrap();
        assert_eq!(
            (progress.chunks, progress.recipients, progress.ended),
            (1, 2, None),
            "{id}"
        );
    }
    // Others in the same partition go on.
    world
        .broadcast("good", &[chunk("good", 0), chunk("good", 1)], 2)
        .await;
    let ended = |known: &Known| known.progress.as_ref().and_then(|progress| progress.ended);
    world
        .wait("good", "done", |known| ended(known) == Some(Ended::Done))
        .await;

    // Resumed, it stops at the same place.
    let first = world.broadcasts.get("bad").unwrap().state.unwrap().at;
    world.wish("bad", Wish::Running).await;
    let again =
        |known: &Known| is_stopped(known) && known.state.as_ref().is_some_and(|state| state.at > first);
    world.wait("bad", "stopped again", again).await;
    for id in ["bad", "gap"] {
        world.wish(id, Wish::Cancelled).await;
        world
            .wait(id, "cancelled", |known| ended(known) == Some(Ended::Cancelled))
            .await;
    }
    let expected: BTreeMap<String, usize> = ["bad-0", "gap-0", "good-0", "good-1"]
        .iter()
        .flat_map(|chunk| [0, 1].map(|number| (format!("{chunk}-{number}"), 1)))
        .collect();
    assert_eq!(world.handed_over().await, expected);
    world.shutdown.cancel();
}
