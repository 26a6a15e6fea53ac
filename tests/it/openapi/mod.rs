//! What a service says of its HTTP interface is true: each example is taken, and a fuzzer that makes requests of the schemas, good ones
//! and bad ones, finds nothing that is not said, and no fault.

use std::time::{Duration, Instant};

use serde_json::Value as Json;

use crate::{
    python,
    system::{Backend, Plan, Service},
    topics_script::repository,
};

const FUZZER: &str = "schemathesis==4.32.5";
/// So many requests are made of each operation by chance; those at the borders of its schemas are a fixed number.
const BY_CHANCE: &str = "4";
/// Operations that take an event of any channel, and so have borders for minutes: they are in each share, for one channel.
const OF_EVENTS: [&str; 2] = ["ingestEvent", "putSchedule"];

/// The borders are looked at in so many shares, at least as many as there are channels.
const SHARES: u64 = 6;
/// It looks for a minute or two; on a busy machine for longer.
const LOOKING: Duration = Duration::from_secs(900);
const PATIENCE: Duration = Duration::from_secs(30);

/// Methods in the order in which examples build on each other.
const METHODS: [&str; 5] = ["put", "post", "get", "patch", "delete"];

/// Examples that are answered with something else than success where nothing has happened yet, and why.
const OTHERWISE: &[(&str, &str, u16)] = &[
    // Nothing was given up, and so nothing replayed.
    ("get", "/dead-letters/{id}", 404),
    ("get", "/replays/{id}", 404),
    ("post", "/replays/{id}/{wish}", 404),
    ("get", "/broadcasts/{id}", 404),
    ("post", "/broadcasts/{id}/{wish}", 404),
    // Ids of keys are drawn.
    ("post", "/keys/{id}/rotate", 404),
    ("get", "/keys/{id}", 404),
    ("delete", "/keys/{id}", 404),
    // The event waits for its time, which its sender asked for.
    ("post", "/events/{id}/retry-now", 409),
    // The one before has released it.
    ("delete", "/suppressions/{id}", 404),
];

async fn up(settings: &[&str]) -> (Service, Json) {
    let mut arguments = vec!["up".to_owned()];
    for setting in settings {
        arguments.extend(["--set".to_owned(), (*setting).to_owned()]);
    }
    let mut up = Service::new("up", arguments, Vec::new());
    up.launch();
    up.ready().await;
    let answer = reqwest::get(format!("{}/openapi.json", up.url())).await.unwrap();
    assert_eq!(answer.headers()["content-type"], "application/json");
    (up, answer.json().await.unwrap())
}

/// The examples of an operation's body, by media type; one without a body where it takes none.
fn bodies(operation: &Json) -> Vec<Option<(String, Json)>> {
    let Some(content) = operation["requestBody"]["content"].as_object() else {
        return vec![None];
    };
    let of_type = |(kind, media): (&String, &Json)| {
        let examples = media["examples"].as_object().unwrap().values();
        let kind = kind.clone();
        examples
            .map(move |example| Some((kind.clone(), example["value"].clone())))
            .collect::<Vec<_>>()
    };
    content.iter().flat_map(of_type).collect()
}

/// The path with its examples, and the query that must be there.
fn target(path: &str, operation: &Json) -> String {
    let (mut target, mut query) = (path.to_owned(), Vec::new());
    for parameter in operation["parameters"].as_array().unwrap() {
        let Some(example) = parameter["example"].as_str() else {
            continue;
        };
        let name = parameter["name"].as_str().unwrap();
        match parameter["in"].as_str() {
            Some("path") => target = target.replace(&format!("{{{name}}}"), example),
            _ => query.push(format!("{name}={example}")),
        }
    }
    assert!(!target.contains('{'), "{path} has a part without an example");
    format!("{target}?{}", query.join("&"))
}

#[tokio::test]
async fn every_example_is_taken() {
    let (mut up, document) = up(&[]).await;
    let client = reqwest::Client::new();
    let mut sent = 0;
    for method in METHODS {
        for (path, item) in document["paths"].as_object().unwrap() {
            let operation = &item[method];
            if operation.is_null() {
                continue;
            }
            let expected = OTHERWISE
                .iter()
                .find(|(at, of, _)| *at == method && of == path)
                .map(|(_, _, status)| *status);
            for body in bodies(operation) {
                let url = format!("{}{}", up.url(), target(path, operation));
                let begun = Instant::now();
                let (status, answer) = loop {
                    let method = method.to_uppercase().parse().unwrap();
                    let mut request = client.request(method, &url);
                    if let Some((kind, body)) = &body {
                        let text = body.as_str().map_or_else(|| body.to_string(), str::to_owned);
                        request = request.header("content-type", kind).body(text);
                    }
                    let answer = request.send().await.unwrap();
                    let (status, text) = (answer.status().as_u16(), answer.text().await.unwrap());
                    // The status follows a moment behind, and letters are read when the service begins.
                    let may_come = [404, 409, 503].contains(&status) && Some(status) != expected;
                    if !may_come || begun.elapsed() > PATIENCE {
                        break (status, text);
                    }
                    tokio::time::sleep(Duration::from_millis(50)).await;
                };
                let is_expected =
                    expected.map_or((200..300).contains(&status), |expected| status == expected);
                assert!(is_expected, "{method} {url} {body:?}: {status} {answer}");
                assert!(
                    !operation["responses"][status.to_string()].is_null(),
                    "{method} {path} says nothing of {status}"
                );
                sent += 1;
            }
        }
    }
    assert!(sent > 50, "{sent} examples");
    let page = reqwest::get(format!("{}/docs", up.url())).await.unwrap();
    let kind = page.headers()["content-type"].to_str().unwrap().to_owned();
    let page = page.text().await.unwrap();
    assert!(kind.starts_with("text/html"), "{kind}");
    // It works without the internet.
    assert!(!page.contains("http://") && !page.contains("https://"));
    up.stop().await;
}

/// Runs these phases of the fuzzer on a system of one process.
async fn fuzz(phases: &str, share: Option<u64>) {
    let (mut up, document) = up(&[]).await;
    fuzz_at(&up.url(), &document, phases, BY_CHANCE, share).await;
    up.stop().await;
}

/// The names of the operations that the fuzzer asks for; it does not ask for what it was given. Of a share every [`SHARES`]th, and
/// those of [`OF_EVENTS`].
fn operations(document: &Json, share: Option<u64>) -> Vec<String> {
    let paths = document["paths"].as_object().unwrap();
    let items = paths.iter().filter(|(path, _)| *path != "/openapi.json");
    let mut names: Vec<String> = items
        .flat_map(|(_, item)| item.as_object().unwrap().values())
        .map(|operation| operation["operationId"].as_str().unwrap().to_owned())
        .collect();
    names.sort();
    let mut number = 0;
    names.retain(|name| {
        number += 1;
        let is_of_events = OF_EVENTS.contains(&name.as_str());
        share.is_none_or(|share| is_of_events || number % SHARES == share % SHARES)
    });
    names
}

/// What a service says of itself; in a share, [`OF_EVENTS`] take events of one channel.
fn narrowed(document: &Json, share: Option<u64>) -> Json {
    let mut document = document.clone();
    let Some(share) = share else { return document };
    let of_share = |events: &Json| {
        let channels = events["oneOf"].as_array().unwrap();
        assert!(channels.len() as u64 <= SHARES, "a channel is in no share");
        channels[(share % SHARES) as usize % channels.len()].clone()
    };
    let schemas = &mut document["components"]["schemas"];
    let event = of_share(&schemas["Event"]);
    schemas["ScheduledEvent"] = of_share(&schemas["ScheduledEvent"]);
    document["paths"]["/event"]["post"]["requestBody"]["content"]["application/json"]["schema"] = event;
    document
}

/// Runs these phases of the fuzzer on what a service says of itself.
async fn fuzz_at(url: &str, document: &Json, phases: &str, by_chance: &str, share: Option<u64>) {
    let operations = operations(document, share);
    let mut narrow = tempfile::Builder::new().suffix(".json").tempfile().unwrap();
    serde_json::to_writer(&mut narrow, &narrowed(document, share)).unwrap();
    let mut fuzzer = tokio::process::Command::from(python::module(FUZZER, "schemathesis.cli"));
    fuzzer
        .args(["--config-file", "schemathesis.toml", "run"])
        .arg(narrow.path())
        .args(["--url", url])
        .args(["--phases", phases, "--checks", "all", "--continue-on-failure"])
        .args([
            "--max-examples",
            by_chance,
            "--seed",
            "7",
            "--generation-deterministic",
        ])
        .args(
            operations
                .iter()
                .flat_map(|name| ["--include-operation-id", name.as_str()]),
        )
        .args(["--request-timeout", "20"])
        .args(["--no-color", "--warnings", "off"])
        .current_dir(repository().join("tests/it/openapi"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .kill_on_drop(true);
    let found = tokio::time::timeout(LOOKING, fuzzer.output()).await;
    let found = found
        .unwrap_or_else(|_| panic!("the fuzzer was not done in {LOOKING:?}"))
        .unwrap();
    let said = String::from_utf8_lossy(&found.stdout);
    assert!(
        found.status.success(),
        "share {share:?} of {SHARES}: {said}\n{}",
        String::from_utf8_lossy(&found.stderr)
    );
    // Whether it came to all of them is not a matter of its exit code.
    assert!(
        said.contains(&format!("Tested: {}\n", operations.len())),
        "{said}"
    );
}

/// All that is at the borders takes minutes, so each day has its share, and six days have all; `POSTHASTE_TEST_SHARE` chooses another, to look at what one found.
fn share_of_today() -> u64 {
    let days = posthaste_event::clock::now() / (24 * 60 * 60 * 1_000);
    let chosen = std::env::var("POSTHASTE_TEST_SHARE").ok();
    chosen.map_or(days.unsigned_abs(), |share| share.parse().unwrap())
}

#[tokio::test]
async fn a_fuzzer_finds_nothing_at_some_borders_of_the_schemas_that_is_not_said() {
    fuzz("coverage", Some(share_of_today())).await;
}

#[tokio::test]
#[ignore = "it takes minutes: cargo test --workspace --test it openapi -- --ignored"]
async fn a_fuzzer_finds_nothing_at_the_borders_of_the_schemas_that_is_not_said() {
    for share in 0..SHARES {
        fuzz("coverage", Some(share)).await;
    }
}

#[tokio::test]
async fn a_fuzzer_finds_nothing_by_chance_that_is_not_said() {
    fuzz("examples,fuzzing", None).await;
}

#[tokio::test]
async fn a_fuzzer_finds_nothing_on_kafka_that_is_not_said() {
    let system = Plan::new(Backend::Kafka).await.start().await;
    for service in ["ingestion", "status", "replay"] {
        let url = system.url(service);
        let document = reqwest::get(format!("{url}/openapi.json")).await.unwrap();
        fuzz_at(
            &url,
            &document.json().await.unwrap(),
            "examples,fuzzing",
            "2",
            None,
        )
        .await;
    }
}
