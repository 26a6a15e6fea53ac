//! What a service says of its HTTP interface is true: each example is taken, and a fuzzer that makes requests of the schemas, good ones
//! and bad ones, finds nothing that is not said, and no fault.

use std::time::{Duration, Instant};

use serde_json::Value as Json;

use crate::{python, system::Service, topics_script::repository};

const FUZZER: &str = "schemathesis==4.32.5";
/// So many requests are made of each operation by chance; those at the borders of its schemas are a fixed number.
const BY_CHANCE: &str = "4";
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

/// Runs these phases of the fuzzer.
async fn fuzz(phases: &str) {
    let (mut up, document) = up(&[]).await;
    let mut fuzzer = tokio::process::Command::from(python::module(FUZZER, "schemathesis.cli"));
    fuzzer
        .args(["--config-file", "schemathesis.toml", "run"])
        .arg(format!("{}/openapi.json", up.url()))
        .args(["--phases", phases, "--checks", "all", "--continue-on-failure"])
        .args([
            "--max-examples",
            BY_CHANCE,
            "--seed",
            "7",
            "--generation-deterministic",
        ])
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
        "{said}\n{}",
        String::from_utf8_lossy(&found.stderr)
    );
    // Whether it came to all of them is not a matter of its exit code. It does not ask for what it was given.
    let operations: usize = document["paths"]
        .as_object()
        .unwrap()
        .iter()
        .filter(|(path, _)| *path != "/openapi.json")
        .map(|(_, item)| item.as_object().unwrap().len())
        .sum();
    assert!(said.contains(&format!("Tested: {operations}\n")), "{said}");
    up.stop().await;
}

#[tokio::test]
#[ignore = "it takes minutes: cargo test --workspace --test it openapi -- --ignored"]
async fn a_fuzzer_finds_nothing_at_the_borders_of_the_schemas_that_is_not_said() {
    fuzz("coverage").await;
}

#[tokio::test]
async fn a_fuzzer_finds_nothing_by_chance_that_is_not_said() {
    fuzz("examples,fuzzing").await;
}
