//! What a user of Posthaste does, over HTTP.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use reqwest::{Method, StatusCode, header::HeaderMap};
use serde_json::{Value as Json, json};
use uuid::Uuid;

/// How long a condition may take to come true on a loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// Tells the users of one test process apart.
static SERIAL: AtomicUsize = AtomicUsize::new(1);

/// A user with a tenant of its own.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    ingestion: String,
    status: String,
    replay: String,
    serial: usize,
    /// Whose events these are.
    pub tenant: String,
}

/// An HTTP answer.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body, `null` when it is not JSON.
    pub body: Json,
}

impl Client {
    pub(super) fn new(ingestion: String, status: String, replay: String) -> Self {
        Self {
            http: reqwest::Client::builder()
                .timeout(Duration::from_secs(30))
                .build()
                .unwrap(),
            ingestion,
            status,
            replay,
            serial: SERIAL.fetch_add(1, Ordering::Relaxed),
            tenant: format!("t-{}", Uuid::new_v4().simple()),
        }
    }

    /// The same user, with these credentials and their tenant.
    pub fn bearing(&self, token: &str, tenant: &str) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert("authorization", format!("Bearer {token}").parse().unwrap());
        let builder = reqwest::Client::builder().default_headers(headers);
        Self {
            http: builder.timeout(Duration::from_secs(30)).build().unwrap(),
            tenant: tenant.to_owned(),
            ..self.clone()
        }
    }

    /// Any request to any service.
    pub async fn ask(&self, method: &str, url: &str, body: Option<&Json>) -> Answer {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let request = self.http.request(method, url);
        answer(match body {
            Some(body) => request.json(body),
            None => request,
        })
        .await
        .unwrap()
    }

    /// The answer of the status service, to be read as it comes.
    pub async fn stream(&self, path: &str) -> reqwest::Response {
        let answer = self
            .http
            .get(format!("{}{path}", self.status))
            .send()
            .await
            .unwrap();
        assert!(answer.status().is_success(), "{answer:?}");
        answer
    }

    /// The address of a path of the intake.
    pub fn intake(&self, path: &str) -> String {
        format!("{}{path}", self.ingestion)
    }

    /// Whose events these are.
    pub fn tenant(&self) -> &str {
        &self.tenant
    }

    /// A phone number that no other test uses; `index` (below a million) tells several apart.
    pub fn number(&self, index: usize) -> String {
        format!("+4915{:03}{index:06}", self.serial)
    }

    /// An SMS to this number.
    pub fn sms(&self, number: &str) -> Json {
        json!({
            "channel": "sms",
            "tenant": self.tenant,
            "payload": {"message": "Test SMS", "phoneNumber": number},
            "metadata": {},
            "priority": "default",
        })
    }

    /// Sends a request body as it is.
    pub async fn send(
        &self,
        path: &str,
        content_type: &str,
        body: impl Into<reqwest::Body>,
    ) -> Result<Answer, reqwest::Error> {
        let request = self
            .http
            .post(format!("{}{path}", self.ingestion))
            .header("content-type", content_type)
            .body(body);
        answer(request).await
    }

    /// The same with an `Idempotency-Key`.
    pub async fn send_keyed(
        &self,
        path: &str,
        content_type: &str,
        key: &str,
        body: impl Into<reqwest::Body>,
    ) -> Result<Answer, reqwest::Error> {
        let request = self.http.post(self.intake(path)).header("idempotency-key", key);
        answer(request.header("content-type", content_type).body(body)).await
    }

    /// Puts lines to a path of the intake.
    pub async fn put_lines(&self, path: &str, lines: &str) -> Answer {
        let request = self.http.put(self.intake(path));
        let request = request.header("content-type", "application/x-ndjson");
        answer(request.body(lines.to_owned())).await.unwrap()
    }

    /// `POST /event` with an `Idempotency-Key`.
    pub async fn post_keyed(&self, key: &str, event: &Json) -> Result<Answer, reqwest::Error> {
        let request = self
            .http
            .post(format!("{}/event", self.ingestion))
            .header("content-type", "application/json")
            .header("idempotency-key", key)
            .body(event.to_string());
        answer(request).await
    }

    /// `POST /event`.
    pub async fn post(&self, event: &Json) -> Result<Answer, reqwest::Error> {
        self.send("/event", "application/json", event.to_string()).await
    }

    /// `POST /event`, which must be accepted; returns the event's id.
    pub async fn accept(&self, event: &Json) -> String {
        let answer = self.post(event).await.unwrap();
        assert_eq!(answer.status, StatusCode::CREATED, "{event}: {answer:?}");
        assert_eq!(answer.body["message"], "Event Ingested");
        answer.body["eventId"].as_str().unwrap().to_owned()
    }

    /// The same, tried again until it is accepted: after an outage.
    pub async fn accept_in_time(&self, event: &Json) -> String {
        let start = Instant::now();
        loop {
            match self.post(event).await {
                Ok(answer) if answer.status == StatusCode::CREATED => {
                    return answer.body["eventId"].as_str().unwrap().to_owned();
                }
                refused => assert!(
                    start.elapsed() < PATIENCE,
                    "not accepted after {PATIENCE:?}: {refused:?}"
                ),
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// A `GET` of the status service.
    pub async fn get(&self, path: &str) -> Result<Answer, reqwest::Error> {
        answer(self.http.request(Method::GET, format!("{}{path}", self.status))).await
    }

    /// `GET /events/{id}`, if it is known yet.
    pub async fn event(&self, id: &str) -> Option<Json> {
        match self.get(&format!("/events/{id}")).await {
            Ok(answer) if answer.status.is_success() => Some(answer.body),
            _ => None,
        }
    }

    /// Waits until the event has this status; returns its document.
    pub async fn wait(&self, id: &str, status: &str) -> Json {
        self.wait_for(id, status, |event| event["state"]["status"] == status)
            .await
    }

    /// Waits until the event's document is as wanted; returns it.
    pub async fn wait_for(&self, id: &str, wanted: &str, holds: impl Fn(&Json) -> bool) -> Json {
        let start = Instant::now();
        loop {
            let event = self.event(id).await;
            if let Some(event) = event.as_ref().filter(|event| holds(event)) {
                return event.clone();
            }
            assert!(
                start.elapsed() < PATIENCE,
                "event {id} is not {wanted} after {PATIENCE:?}: {event:#?}"
            );
            tokio::time::sleep(LOOK).await;
        }
    }

    /// `GET /events/{id}/timeline`, once it has every step up to its last: the projector may read of the last one first.
    pub async fn timeline(&self, id: &str) -> Vec<Json> {
        let start = Instant::now();
        loop {
            let answer = self.get(&format!("/events/{id}/timeline")).await.unwrap();
            assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
            let timeline = answer.body["timeline"].as_array().unwrap();
            if (0_u64..).zip(timeline).all(|(step, entry)| entry["step"] == step) {
                return timeline.clone();
            }
            assert!(start.elapsed() < PATIENCE, "steps are missing: {timeline:#?}");
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Every event of this tenant, by pages.
    pub async fn events(&self) -> Result<Vec<Json>, String> {
        let mut events = Vec::new();
        let mut cursor = String::new();
        // Bounded: no test makes more events than this many pages hold.
        for _ in 0..100 {
            let path = format!("/events?tenant={}&limit=1000{cursor}", self.tenant);
            let answer = self.get(&path).await.map_err(|error| error.to_string())?;
            if !answer.status.is_success() {
                return Err(format!("{answer:?}"));
            }
            events.extend(answer.body["events"].as_array().unwrap().iter().cloned());
            match answer.body["next"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return Ok(events),
            }
        }
        Err("more than 100 pages".to_owned())
    }

    /// Waits until `holds` is true of all the tenant's events, at most `limit`; returns them.
    pub async fn wait_for_all(
        &self,
        limit: Duration,
        wanted: &str,
        holds: impl Fn(&[Json]) -> bool,
    ) -> Vec<Json> {
        let start = Instant::now();
        loop {
            let events = self.events().await;
            if let Ok(events) = &events
                && holds(events)
            {
                return events.clone();
            }
            if start.elapsed() > limit {
                let seen = events.map(|events| by_status(&events));
                panic!("not {wanted} after {limit:?}; events by status: {seen:?}");
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }

    /// `POST /events/{id}/retry-now`.
    pub async fn retry_now(&self, id: &str) -> Answer {
        let url = format!("{}/events/{id}/retry-now", self.status);
        answer(self.http.post(url)).await.unwrap()
    }

    /// `DELETE /events/{id}`, once the event is known.
    pub async fn cancel(&self, id: &str) -> Answer {
        self.ask_of(Method::DELETE, id, None).await
    }

    /// `PATCH /events/{id}`, once the event is known.
    pub async fn reschedule(&self, id: &str, scheduled_at: &str) -> Answer {
        let body = json!({"scheduledAt": scheduled_at});
        self.ask_of(Method::PATCH, id, Some(&body)).await
    }

    /// `DELETE /events/{id}`, once, whatever comes of it.
    pub async fn try_cancel(&self, id: &str) -> Result<Answer, reqwest::Error> {
        answer(self.http.delete(format!("{}/events/{id}", self.status))).await
    }

    async fn ask_of(&self, method: Method, id: &str, body: Option<&Json>) -> Answer {
        let start = Instant::now();
        loop {
            let request = self
                .http
                .request(method.clone(), format!("{}/events/{id}", self.status));
            let request = match body {
                Some(body) => request.json(body),
                None => request,
            };
            let answer = answer(request).await.unwrap();
            // The status follows a moment behind.
            if answer.status != StatusCode::NOT_FOUND || start.elapsed() > PATIENCE {
                return answer;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Where the status service is.
    pub fn status_url(&self) -> &str {
        &self.status
    }

    /// Asks the replay service.
    pub async fn ask_replay(
        &self,
        method: Method,
        path: &str,
        body: Option<&Json>,
    ) -> Result<Answer, reqwest::Error> {
        let request = self.http.request(method, format!("{}{path}", self.replay));
        answer(match body {
            Some(body) => request.json(body),
            None => request,
        })
        .await
    }

    /// Waits until `GET` of this path of the replay service answers what `holds` wants, through restarts of the service.
    pub async fn wait_for_replay(&self, path: &str, wanted: &str, holds: impl Fn(&Json) -> bool) -> Json {
        let start = Instant::now();
        loop {
            let answer = self.ask_replay(Method::GET, path, None).await;
            if let Ok(answer) = &answer
                && answer.status.is_success()
                && holds(&answer.body)
            {
                return answer.body.clone();
            }
            assert!(
                start.elapsed() < PATIENCE,
                "{path} is not {wanted} after {PATIENCE:?}: {answer:?}"
            );
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Where the replay service is.
    pub fn replay_url(&self) -> &str {
        &self.replay
    }

    /// Waits until the replay service lists this event's dead letter.
    pub async fn wait_for_letter(&self, id: &str) {
        let start = Instant::now();
        loop {
            let request = self.http.get(format!("{}/dead-letters", self.replay));
            let answer = answer(request.query(&[("ids", id)])).await.unwrap();
            if answer.body["deadLetters"]
                .as_array()
                .is_some_and(|letters| letters.iter().any(|letter| letter["delivery"]["id"] == id))
            {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "no dead letter of {id}: {answer:?}");
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Replays until this many have been, at most as long as anything may take; returns how many were.
    pub async fn replay_until(&self, body: &Json, wanted: u64) -> u64 {
        let start = Instant::now();
        let mut count = 0;
        while count < wanted && start.elapsed() < PATIENCE {
            count += self.replay(body).await;
            tokio::time::sleep(LOOK).await;
        }
        count
    }

    /// `POST /replay-dead-letter`, which must be accepted; returns how many were replayed.
    pub async fn replay(&self, body: &Json) -> u64 {
        let request = self
            .http
            .post(format!("{}/replay-dead-letter", self.replay))
            .json(body);
        let answer = answer(request).await.unwrap();
        assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
        answer.body["count"].as_u64().unwrap()
    }
}

/// How many events have each status.
pub fn by_status(events: &[Json]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for event in events {
        let status = event["state"]["status"].as_str().unwrap_or("none").to_owned();
        *counts.entry(status).or_default() += 1;
    }
    counts
}

async fn answer(request: reqwest::RequestBuilder) -> Result<Answer, reqwest::Error> {
    let response = request.send().await?;
    let (status, headers) = (response.status(), response.headers().clone());
    let body = response.bytes().await?;
    Ok(Answer {
        status,
        headers,
        body: serde_json::from_slice(&body).unwrap_or(Json::Null),
    })
}
