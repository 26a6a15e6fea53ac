//! The stand-in for the providers: told how to fail, asked what it received.

use serde_json::{Value as Json, json};
use tokio::sync::MutexGuard;

use super::Service;

/// One message that a provider's interface was given.
#[derive(Debug, Clone)]
pub struct Call {
    /// Whose interface.
    pub provider: String,
    /// The event that it carries.
    pub event: String,
    /// Whether the message was taken, whatever was answered.
    pub accepted: bool,
    /// When, in milliseconds since the Unix epoch.
    pub at: i64,
}

/// How often the interfaces took messages.
#[derive(Debug, PartialEq, Eq)]
pub struct Counts {
    /// All messages taken.
    pub taken: u64,
    /// Different events among them.
    pub events: u64,
    /// Different idempotency keys among them.
    pub keys: u64,
    /// Some of the events that were taken more than once.
    pub repeated: Vec<String>,
}

/// A client of the sandbox's own interface.
pub struct Sandbox {
    http: reqwest::Client,
    url: String,
}

/// The right to make the sandbox fail: only one test at a time has it. The rules stand until [`Faults::none`] or the
/// next test's, so each rule names what it is for.
pub struct Faults<'a> {
    sandbox: Sandbox,
    _turn: MutexGuard<'a, ()>,
}

impl Sandbox {
    pub(super) fn new(url: String) -> Self {
        Self {
            http: reqwest::Client::new(),
            url: format!("{url}/sandbox"),
        }
    }

    /// What was received, oldest first, of one `event` or `recipient`, or by one `provider`.
    pub async fn received(&self, by: &str, what: &str) -> Vec<Call> {
        let request = self.http.get(format!("{}/messages", self.url));
        let answer = json_of(request.query(&[(by, what), ("limit", "1000")])).await;
        let messages = answer["messages"].as_array().unwrap();
        assert!(messages.len() < 1_000, "more messages than can be listed");
        let calls = messages.iter().rev().map(|message| Call {
            provider: message["provider"].as_str().unwrap().to_owned(),
            event: message["event"].as_str().unwrap_or_default().to_owned(),
            accepted: message["messageId"].is_string(),
            at: message["at"].as_i64().unwrap(),
        });
        calls.collect()
    }

    /// How often this event was taken by any provider.
    pub async fn times(&self, event: &str) -> u64 {
        let request = self.http.get(format!("{}/counts", self.url));
        let answer = json_of(request.query(&[("event", event)])).await;
        answer["times"].as_u64().unwrap()
    }

    /// How often anything was taken.
    pub async fn counts(&self) -> Counts {
        let answer = json_of(self.http.get(format!("{}/counts", self.url))).await;
        let events = &answer["events"];
        assert_eq!(events["exact"], true, "{answer:#}");
        let providers = answer["providers"].as_object().unwrap();
        let keys = providers.values().map(|provider| &provider["keys"]["distinct"]);
        Counts {
            taken: events["total"].as_u64().unwrap(),
            events: events["distinct"].as_u64().unwrap(),
            keys: keys.map(|distinct| distinct.as_u64().unwrap()).sum(),
            repeated: answer["repeatedEvents"]
                .as_array()
                .unwrap()
                .iter()
                .map(|event| event.as_str().unwrap().to_owned())
                .collect(),
        }
    }

    pub(super) fn faults(self, turn: MutexGuard<'_, ()>) -> Faults<'_> {
        Faults {
            sandbox: self,
            _turn: turn,
        }
    }
}

impl Faults<'_> {
    /// From now on exactly these rules hold.
    pub async fn set(&self, rules: Json) {
        let sandbox = &self.sandbox;
        let request = sandbox.http.put(format!("{}/behaviour", sandbox.url));
        json_of(request.json(&json!({"rules": rules}))).await;
    }

    /// Nothing fails any more.
    pub async fn none(&self) {
        self.set(json!([])).await;
    }
}

async fn json_of(request: reqwest::RequestBuilder) -> Json {
    let response = request.send().await.unwrap();
    let status = response.status();
    let body = response.text().await.unwrap();
    assert!(status.is_success(), "the sandbox answered {status}: {body}");
    serde_json::from_str(&body).unwrap()
}

/// What makes services send to this sandbox.
pub(super) fn settings(sandbox: &Service) -> Vec<(String, String)> {
    vec![(
        "POSTHASTE_PROVIDER__SANDBOX_URL".to_owned(),
        format!("{}/sandbox", sandbox.url()),
    )]
}
