//! Intake on a broker that does what a test tells it.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use async_trait::async_trait;
use axum::{
    Router,
    body::{Body, to_bytes},
    http::{HeaderMap, Request, StatusCode},
};
use posthaste_broker::{
    AppendError, Broker, BrokerError, Consumer, Finding, GroupLag, NewRecord, Subscription,
};
use posthaste_event::{Channel, Millis, Topic};
use posthaste_ingestion::{DEFAULTS, ProviderNames, Settings, router};
use posthaste_service::{Health, Metrics, http::assemble};
use serde_json::{Value as Json, json};
use tokio::sync::Notify;
use tower::ServiceExt as _;

/// A broker that keeps what is appended, or answers what it is told to.
#[derive(Default)]
pub struct Scripted {
    pub appended: Mutex<Vec<NewRecord>>,
    pub fails: Mutex<Option<AppendError>>,
    pub holds: Option<Arc<Notify>>,
    pub waiting: AtomicUsize,
    pub tried: AtomicUsize,
}

#[async_trait]
impl Broker for Scripted {
    fn prefix(&self) -> &str {
        "events"
    }

    async fn append(&self, records: Vec<NewRecord>) -> Result<(), AppendError> {
        self.tried.fetch_add(1, Ordering::SeqCst);
        if let Some(holds) = &self.holds {
            self.waiting.fetch_add(1, Ordering::SeqCst);
            holds.notified().await;
        }
        if let Some(error) = self.fails.lock().unwrap().clone() {
            return Err(error);
        }
        self.appended.lock().unwrap().extend(records);
        Ok(())
    }

    async fn subscribe(&self, _: Subscription) -> Result<Box<dyn Consumer>, BrokerError> {
        Err(BrokerError::Refused("not for intake".into()))
    }

    async fn create_topics(&self) -> Result<Vec<Finding>, BrokerError> {
        Ok(Vec::new())
    }

    async fn check_topics(&self) -> Result<Vec<Finding>, BrokerError> {
        Ok(Vec::new())
    }

    async fn lag(&self, _: &str, _: &[Topic]) -> Result<Vec<GroupLag>, BrokerError> {
        Ok(Vec::new())
    }

    async fn trim(&self, _: Millis) -> Result<u64, BrokerError> {
        Ok(0)
    }

    fn health(&self) -> Result<(), String> {
        Ok(())
    }

    async fn close(&self, _: u64) {}
}

pub struct Fixture {
    pub broker: Arc<Scripted>,
    pub router: Router,
    pub metrics: Arc<Metrics>,
}

impl Fixture {
    pub fn new(broker: Scripted, change: impl FnOnce(&mut Settings)) -> Self {
        let table: toml::Table = toml::from_str(DEFAULTS).unwrap();
        let mut settings: Settings = table["ingestion"].clone().try_into().unwrap();
        change(&mut settings);
        let table: toml::Table = toml::from_str(posthaste_service::DEFAULTS).unwrap();
        let service = table["service"].clone().try_into().unwrap();
        let broker = Arc::new(broker);
        let providers: ProviderNames = [(Channel::Sms, vec!["twilio".to_owned()])].into();
        let health = Health::default();
        let metrics = Arc::new(Metrics::new(&providers));
        let routes = router(
            broker.clone(),
            providers,
            settings,
            "here".into(),
            &health,
            Arc::clone(&metrics),
        );
        let router = assemble(routes, health, "here".into(), &service);
        Self {
            broker,
            router,
            metrics,
        }
    }

    pub async fn post(&self, content_type: &str, body: impl Into<Body>) -> (StatusCode, HeaderMap, Json) {
        self.post_traced(content_type, body, "").await
    }

    pub async fn post_traced(
        &self,
        content_type: &str,
        body: impl Into<Body>,
        traceparent: &str,
    ) -> (StatusCode, HeaderMap, Json) {
        let request = Request::post("/event")
            .header("content-type", content_type)
            .header("x-correlation-id", "c-1")
            .header("traceparent", traceparent)
            .body(body.into())
            .unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, headers, serde_json::from_slice(&body).unwrap())
    }

    pub fn stored(&self) -> usize {
        self.broker.appended.lock().unwrap().len()
    }
}

pub fn sms() -> String {
    json!({
        "channel": "sms",
        "payload": { "message": "Test SMS", "phoneNumber": "2025555555" },
        "metadata": {},
        "priority": "default"
    })
    .to_string()
}
