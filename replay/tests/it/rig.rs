//! A broker in a folder of its own, dead letters on it, and replay services to ask.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    http::{Request, StatusCode, header},
};
use http_body_util::BodyExt as _;
use posthaste_broker::{Broker, NewRecord, Signal, Start, Subscription, Tracking, embedded::EmbeddedBroker};
use posthaste_event::{
    Channel, Delivery, ErrorKind, EventView, Failure, Priority, Topic, Value, Work, clock,
    delivery::{Accepted, Policy},
};
use posthaste_replay::{Replay, Settings};
use posthaste_service::{Health, Shutdown};
use serde_json::{Value as Json, value::RawValue};
use tempfile::TempDir;
use tokio::{task::JoinHandle, time::timeout};
use tower::ServiceExt as _;

/// Longest wait for anything; only a failure is ever this slow.
pub const LIMIT: Duration = Duration::from_secs(20);

pub fn settings() -> Settings {
    #[derive(serde::Deserialize)]
    struct File {
        replay: Settings,
    }
    toml::from_str::<File>(posthaste_replay::DEFAULTS).unwrap().replay
}

/// A broker that can be closed and opened again.
pub struct Rig {
    pub broker: Arc<dyn Broker>,
    folder: TempDir,
}

fn open(folder: &TempDir, record_bytes_max: usize) -> Arc<dyn Broker> {
    #[derive(serde::Deserialize)]
    struct File {
        broker: posthaste_broker::Settings,
    }
    let text = posthaste_broker::settings::DEFAULTS;
    let mut settings = toml::from_str::<File>(text).unwrap().broker;
    settings.partitions = 4;
    settings.record_bytes_max = record_bytes_max;
    Arc::new(EmbeddedBroker::open(folder.path(), &settings).unwrap())
}

impl Rig {
    pub async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let broker = open(&folder, 65_536);
        broker.create_topics().await.unwrap();
        Self { broker, folder }
    }

    /// Closes the broker and opens it again, as after a restart of the process.
    pub async fn reopen(&mut self, record_bytes_max: usize) {
        self.broker.close(5_000).await;
        self.broker = open(&self.folder, record_bytes_max);
    }

    pub async fn append(&self, records: Vec<NewRecord>) {
        self.broker.append(records).await.unwrap();
    }

    pub fn start(&self, name: &str) -> Running {
        self.start_with(name, settings())
    }

    pub fn start_with(&self, name: &str, settings: Settings) -> Running {
        let health = Health::default();
        let carriers = [(Channel::Sms, "messagebird".to_owned())].into();
        let broker = Arc::clone(&self.broker);
        let replay = Replay::new(broker, settings, carriers, name.into(), &health, None);
        let router = replay.router();
        let shutdown = Shutdown::new();
        let token = shutdown.clone();
        let task = tokio::spawn(async move { replay.run(token).await.unwrap() });
        Running {
            router,
            shutdown,
            task,
            health,
        }
    }

    /// What came out of replays until there are `count` events: their deliveries, by event.
    pub async fn replayed(&self, count: usize) -> BTreeMap<String, Vec<Delivery>> {
        let subscription = Subscription {
            group: "test".to_owned(),
            topics: vec![Topic::Retry, Topic::RetryCritical],
            tracking: Tracking::Position,
            start: Start::At(Vec::new()),
            limits: Default::default(),
        };
        let mut consumer = self.broker.subscribe(subscription).await.unwrap();
        let mut out: BTreeMap<String, Vec<Delivery>> = BTreeMap::new();
        let mut ended = 0;
        // Every partition is read to its end, so that what is there too often is seen too.
        let reading = async {
            while ended < 8 || out.len() < count {
                match consumer.next().await.unwrap() {
                    Signal::Read(records) => {
                        for record in records {
                            let Ok(Value::Work(work)) = record.decode("events") else {
                                panic!("not an event");
                            };
                            out.entry(work.delivery.id.clone())
                                .or_default()
                                .push(work.delivery);
                        }
                    }
                    Signal::AtEnd(_) => ended += 1,
                    _ => {}
                }
            }
        };
        let done = timeout(LIMIT, reading).await.is_ok();
        assert!(done, "{} events came out", out.len());
        consumer.close().await;
        out
    }
}

/// A replay service at work.
pub struct Running {
    pub router: Router,
    shutdown: Shutdown,
    task: JoinHandle<()>,
    pub health: Health,
}

impl Running {
    /// Sends a request. Waits while the answer is that the letters are being read.
    pub async fn ask(&self, method: &str, path: &str, body: Option<Json>) -> (StatusCode, Json) {
        let asking = async {
            loop {
                let (status, answer) = ask(&self.router, method, path, body.as_ref()).await;
                let detail = answer["detail"].as_str().unwrap_or_default();
                let early = ["been read yet", "are being read", "no partition"];
                if status != StatusCode::SERVICE_UNAVAILABLE
                    || !early.iter().any(|text| detail.contains(text))
                {
                    return (status, answer);
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(LIMIT, asking).await.expect("the letters were never read")
    }

    /// Asks for a replay, which must succeed.
    pub async fn replay(&self, body: Json) -> Json {
        let (status, answer) = self.ask("POST", "/replay-dead-letter", Some(body)).await;
        assert_eq!(status, StatusCode::CREATED, "{answer}");
        answer
    }

    pub async fn list(&self, query: &str) -> Json {
        let (status, answer) = self.ask("GET", &format!("/dead-letters?{query}"), None).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        answer
    }

    /// Waits until `count` letters are listed.
    pub async fn wait_for(&self, count: usize) {
        let waiting = async {
            while self.list("limit=500").await["deadLetters"]
                .as_array()
                .unwrap()
                .len()
                != count
            {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(LIMIT, waiting).await.expect("the letters did not come");
    }

    pub async fn stop(self) {
        self.shutdown.cancel();
        timeout(LIMIT, self.task)
            .await
            .expect("the service did not stop")
            .unwrap();
    }

    /// Ends it without a goodbye.
    pub async fn crash(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

pub async fn ask(router: &Router, method: &str, path: &str, body: Option<&Json>) -> (StatusCode, Json) {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::CONTENT_TYPE, "application/json")
        .body(body.map_or_else(Body::empty, |body| Body::from(body.to_string())))
        .unwrap();
    let response = router.clone().oneshot(request).await.unwrap();
    let status = response.status();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&bytes).unwrap())
}

/// A dead letter to append.
pub struct Letter {
    pub id: String,
    pub tenant: &'static str,
    pub priority: Priority,
    pub provider: &'static str,
    pub kind: ErrorKind,
    pub message: &'static str,
    pub text: String,
    pub policy: Policy,
}

impl Letter {
    pub fn new(id: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            tenant: "default",
            priority: Priority::Normal,
            provider: "twilio",
            kind: ErrorKind::Permanent,
            message: "no such number",
            text: "hello".to_owned(),
            policy: Policy::NoLoss,
        }
    }

    pub fn record(&self) -> NewRecord {
        let accepted = Accepted {
            id: self.id.clone(),
            correlation_id: format!("c-{}", self.id),
            tenant: self.tenant.to_owned(),
            channel: Channel::Sms,
            priority: self.priority,
            provider: None,
            scheduled_at: None,
            expires_at: None,
            policy: self.policy,
        };
        let now = clock::now();
        let (delivery, _) = Delivery::accepted(accepted, "test", now);
        let failure = Failure::new(self.kind, self.provider, Some("21211".into()), self.message);
        let delivery = delivery
            .failed(self.provider, self.provider, failure.clone(), "test", now)
            .dead_lettered(failure, None, "test", now);
        let payload = format!(r#"{{"message":"{}","phoneNumber":"+12025555555"}}"#, self.text);
        let payload: &RawValue = serde_json::from_str(&payload).unwrap();
        let event = EventView {
            event_id: self.id.clone(),
            tenant: self.tenant.to_owned(),
            channel: Channel::Sms,
            priority: self.priority,
            payload,
            metadata: None,
            provider: None,
            ordering_key: None,
            scheduled_at: None,
            expires_at: None,
        };
        let event = event.to_bytes().unwrap();
        let value = Work { delivery, event }.encode().unwrap();
        NewRecord::new(Topic::DeadLetter, self.id.clone(), value)
    }
}

pub fn letters(prefix: &str, count: usize) -> Vec<NewRecord> {
    (0..count)
        .map(|number| Letter::new(format!("{prefix}{number:04}")).record())
        .collect()
}
