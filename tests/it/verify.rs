//! `posthaste verify`: a run that is broken by its seed keeps every promise, and a pipeline that does not is found out.

use std::{
    process::{Command, Stdio},
    sync::{Arc, OnceLock},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Request, State},
    http::StatusCode,
    response::Response,
};
use posthaste_testkit::KafkaServer;
use serde_json::{Value as Json, json};
use tokio::time::{Instant, sleep};

use crate::{
    on_each_backend,
    system::{Backend, Place, Plan, System, posthaste, run_command},
};

on_each_backend!(a_run_that_is_broken_by_its_seed_keeps_every_promise);

/// How `verify` ended, what it reported, and its lines of evidence.
struct Verdict {
    code: Option<i32>,
    report: Json,
    findings: Vec<Json>,
    /// For whoever reads that a test failed.
    said: String,
}

impl Verdict {
    /// So many findings of this kind, and so many of them allowed.
    fn found(&self, kind: &str) -> (u64, u64) {
        let found = &self.report["findings"][kind];
        let count = |name: &str| found[name].as_u64().unwrap_or(u64::MAX);
        (count("count"), count("allowed"))
    }

    /// The events with such a finding.
    fn events(&self, kind: &str) -> Vec<&str> {
        let of_kind = self.findings.iter().filter(|line| line["finding"] == kind);
        of_kind.map(|line| line["event"].as_str().unwrap()).collect()
    }
}

/// `posthaste verify` with these options.
async fn verify(options: Vec<String>) -> Verdict {
    let folder = tempfile::tempdir().unwrap();
    let evidence = folder.path().join("evidence.jsonl");
    let mut command = posthaste(&[]);
    command
        .args(["verify", "--json", "--evidence"])
        .arg(&evidence)
        .args(options)
        .stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output())
        .await
        .unwrap()
        .unwrap();
    let evidence = std::fs::read_to_string(evidence).unwrap_or_default();
    let report: Json = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let errors = String::from_utf8_lossy(&output.stderr);
    Verdict {
        code: output.status.code(),
        findings: evidence
            .lines()
            .skip(1)
            .map(|line| serde_json::from_str(line).unwrap())
            .collect(),
        said: format!("{errors}\n{report:#}\n{evidence}"),
        report,
    }
}

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

/// Kills, hangs, and connections that break, on a Posthaste of the run's own.
async fn a_run_that_is_broken_by_its_seed_keeps_every_promise(backend: Backend) {
    let mut options = words("--faults --seed 3 -n 400 --rate 20 --every 2s");
    options.extend(words(
        "--failing 5 --unanswered 2 --scheduled 20 --expiring 5 --cancelled 20 --no-duplicate 10 --ordered 20 --ordering-keys 5",
    ));
    if backend == Backend::Kafka {
        let place = Place::new().await;
        options.extend(["--kafka", &place.bootstrap, "--mongodb", &place.mongodb].map(str::to_owned));
        // Few, since all tests share a small broker.
        options.extend(words("--set broker.partitions=3"));
    }
    let verdict = verify(options).await;
    assert_eq!(verdict.code, Some(0), "{}", verdict.said);
    let report = &verdict.report;
    assert!(report["faults"].as_u64().unwrap() >= 5, "{report:#}");
    assert!(report["accepted"].as_u64().unwrap() >= 50, "{report:#}");
    assert_eq!(verdict.found("lost"), (0, 0), "{report:#}");
    assert_eq!(verdict.found("sentAfterCancel"), (0, 0), "{report:#}");
    assert!(
        report["byStatus"]["CANCELLED"].as_u64().unwrap_or(0) >= 5,
        "{report:#}"
    );
    // The topics were read, too.
    assert_eq!(verdict.found("endedTwice"), (0, 0), "{report:#}");
    println!("{report:#}");
}

/// What stands between and is not honest: it swallows this event's intake, and makes that event's call twice.
#[derive(Clone)]
struct Liar {
    upstream: Arc<OnceLock<String>>,
    /// Part of the body of a request that is answered but not passed on.
    swallows: &'static str,
    /// Part of the body of a request that is passed on twice.
    repeats: &'static str,
    http: reqwest::Client,
}

impl Liar {
    async fn listen(swallows: &'static str, repeats: &'static str) -> (Self, String) {
        let liar = Self {
            upstream: Arc::default(),
            swallows,
            repeats,
            http: reqwest::Client::new(),
        };
        let router = Router::new().fallback(pass).with_state(liar.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        (liar, url)
    }

    async fn send(&self, parts: &axum::http::request::Parts, body: Bytes) -> Response {
        let url = format!("{}{}", self.upstream.get().unwrap(), parts.uri);
        let mut headers = parts.headers.clone();
        headers.remove("host");
        let request = self.http.request(parts.method.clone(), url).headers(headers);
        let answer = request.body(body).send().await.unwrap();
        let mut response = Response::builder().status(answer.status());
        if let Some(kind) = answer.headers().get("content-type") {
            response = response.header("content-type", kind);
        }
        response.body(Body::from(answer.bytes().await.unwrap())).unwrap()
    }
}

async fn pass(State(liar): State<Liar>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    let text = String::from_utf8_lossy(&body).into_owned();
    let has = |part: &str| !part.is_empty() && text.contains(part);
    if has(liar.swallows) {
        let answer = json!({"message": "Event Ingested"}).to_string();
        let response = Response::builder().status(StatusCode::CREATED);
        return response
            .header("content-type", "application/json")
            .body(Body::from(answer))
            .unwrap();
    }
    if has(liar.repeats) {
        liar.send(&parts, body.clone()).await;
    }
    liar.send(&parts, body).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_is_swallowed_and_a_call_that_is_repeated_are_found() {
    let (intake, intake_url) = Liar::listen("event 7\"", "").await;
    let (provider, provider_url) = Liar::listen("", "event 9\"").await;
    let system = Plan::new(Backend::Embedded)
        .await
        .setting(
            "POSTHASTE_PROVIDER__SANDBOX_URL",
            &format!("{provider_url}/sandbox"),
        )
        .start()
        .await;
    intake.upstream.set(system.url("up")).unwrap();
    provider.upstream.set(system.sandbox_url()).unwrap();
    // Slack's interface takes JSON, in which the text stands as it is.
    let mut options = words("-n 30 --rate 30 --settle 5 --channels slack --url");
    options.extend([intake_url, "--sandbox".to_owned(), system.sandbox_url()]);
    let verdict = verify(options).await;
    assert_eq!(verdict.code, Some(3), "{}", verdict.said);
    assert_eq!(verdict.findings.len(), 2, "{}", verdict.said);
    for (kind, event) in [("lost", "-7"), ("repeatedSameKey", "-9")] {
        let events = verdict.events(kind);
        assert!(
            events.len() == 1 && events[0].ends_with(event),
            "{kind}: {}",
            verdict.said
        );
    }
}

/// Posted before and after the dispatcher is stopped: each of four partitions has some of both.
const EVENTS: usize = 60;
const LIMIT: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_skipped_and_one_that_is_read_again_are_found() {
    let mut system = Plan::new(Backend::Kafka).await.start().await;
    let place = system.place().clone();
    let mut options =
        words("-n 300 --rate 20 --settle 30 --channels sms --priorities default --expect-faults");
    options.extend(words("--kafka"));
    options.push(place.bootstrap.clone());
    options.push("--set".to_owned());
    options.push(format!("broker.prefix={}", place.prefix));
    for (option, url) in [
        ("--url", system.url("ingestion")),
        ("--status-url", system.url("status")),
        ("--sandbox", system.sandbox_url()),
    ] {
        options.extend([option.to_owned(), url]);
    }
    let verifying = tokio::spawn(verify(options));

    events_of(&system, EVENTS).await;
    system.service("default").stop().await;
    events_of(&system, EVENTS * 2).await;
    let kafka = KafkaServer::shared().await.unwrap();
    for (partition, shift) in [(0, "-1"), (1, "1")] {
        let mut command = kafka.tool("org.apache.kafka.tools.consumer.group.ConsumerGroupCommand");
        shift_offset(&mut command, &place, &system.topic("default"), partition, shift);
        run_command(command).await;
    }
    system.service("default").launch();

    let verdict = verifying.await.unwrap();
    assert_eq!(verdict.code, Some(3), "{}", verdict.said);
    // Faults from outside explain that something went out twice; not that it did after its end was recorded.
    assert_eq!(verdict.found("lost"), (1, 0), "{}", verdict.said);
    assert_eq!(verdict.found("repeatedSameKey"), (1, 1), "{}", verdict.said);
    assert_eq!(verdict.found("sentAfterEnd"), (1, 0), "{}", verdict.said);
    assert_eq!(verdict.found("recordedTwice"), (1, 0), "{}", verdict.said);
    assert_eq!(verdict.events("sentAfterEnd"), verdict.events("recordedTwice"));
}

/// Waits until the status knows so many events.
async fn events_of(system: &System, count: usize) {
    let url = format!("{}/events?limit=1000", system.url("status"));
    let begun = Instant::now();
    loop {
        let answer: Json = reqwest::get(&url).await.unwrap().json().await.unwrap();
        if answer["events"].as_array().map_or(0, Vec::len) >= count {
            return;
        }
        assert!(begun.elapsed() < LIMIT, "fewer than {count} events: {answer:#}");
        sleep(Duration::from_millis(50)).await;
    }
}

fn shift_offset(command: &mut Command, place: &Place, topic: &str, partition: u32, by: &str) {
    let group = format!("{}.dispatcher.default", place.prefix);
    command
        .args(["--bootstrap-server", &place.bootstrap, "--group", &group])
        .args(["--topic", &format!("{topic}:{partition}")])
        .args(["--reset-offsets", "--shift-by", by, "--execute"]);
}
