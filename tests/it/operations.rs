//! What those who run Posthaste look at: metrics, what happens as it happens, and the doctor.

use std::{process::Output, time::Duration};

use serde_json::Value as Json;

use crate::{
    on_each_backend,
    system::{Backend, PATIENCE, System, posthaste},
};

on_each_backend!(
    every_service_shows_its_metrics,
    what_happens_is_told_as_it_happens,
    the_doctor_finds_nothing_wrong,
);

async fn every_service_shows_its_metrics(backend: Backend) {
    let system = System::shared(backend).await;
    let client = system.client();
    let id = client.accept(&client.sms(&client.number(0))).await;
    client.wait(&id, "SENT").await;
    let mut all = String::new();
    for name in system.names() {
        let url = format!("{}/metrics", system.url(&name));
        let answer = reqwest::get(url).await.unwrap();
        let kind = answer.headers()["content-type"].to_str().unwrap().to_owned();
        assert!(kind.starts_with("application/openmetrics-text"), "{kind}");
        let text = answer.text().await.unwrap();
        assert!(text.ends_with("# EOF\n"), "{name}: {text}");
        assert!(
            text.contains("posthaste_check_ok{check=\"broker\"} 1"),
            "{name}: {text}"
        );
        all.push_str(&text);
    }
    let sum = |series: &str| -> f64 {
        let values = all
            .lines()
            .filter_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        values.map(|value| value.parse::<f64>().unwrap()).sum()
    };
    assert!(sum(r#"posthaste_accepted_total{channel="sms",priority="normal"}"#) >= 1.0);
    assert!(sum(r#"posthaste_sent_total{channel="sms",provider="messagebird"}"#) >= 1.0);
    assert!(
        sum(r#"posthaste_latency_seconds_count{channel="sms",priority="normal",attempt="first"}"#) >= 1.0
    );
    for group in [
        "dispatcher.critical",
        "dispatcher.default",
        "dispatcher.retry",
        "retry",
        "wheel",
        "replay",
        "projector",
    ] {
        let lag = format!("posthaste_lag_records{{group=\"{group}\",");
        assert!(all.contains(&lag), "{group} has no lag");
    }
}

async fn what_happens_is_told_as_it_happens(backend: Backend) {
    let system = System::shared(backend).await;
    let client = system.client();
    let name = if backend == Backend::Embedded {
        "up"
    } else {
        "status"
    };
    let url = format!("{}/events?follow=true&tenant={}", system.url(name), client.tenant);
    let mut stream = reqwest::get(url).await.unwrap();
    assert!(stream.status().is_success(), "{stream:?}");
    let id: Json = client.accept(&client.sms(&client.number(0))).await.into();
    let mut seen = Vec::new();
    let mut text = String::new();
    while seen.len() < 2 {
        let piece = tokio::time::timeout(PATIENCE, stream.chunk()).await.unwrap();
        text.push_str(std::str::from_utf8(&piece.unwrap().unwrap()).unwrap());
        while let Some((line, rest)) = text.split_once('\n') {
            if !line.is_empty() {
                let step: Json = serde_json::from_str(line).unwrap();
                seen.push((
                    step["status"].as_str().unwrap().to_owned(),
                    step["eventId"].clone(),
                ));
            }
            text = rest.to_owned();
        }
    }
    // Two topics: which is read first is open.
    seen.sort_by(|one, other| one.0.cmp(&other.0));
    assert_eq!(
        seen,
        [("PENDING".to_owned(), id.clone()), ("SENT".to_owned(), id)]
    );
}

/// Runs a command with the configuration of a system on Kafka, some of it changed.
async fn run(system: &System, arguments: &[&str], partitions: &str) -> Output {
    let place = system.place();
    let settings = [
        ("POSTHASTE_BROKER__PREFIX", place.prefix.as_str()),
        ("POSTHASTE_BROKER__PARTITIONS", partitions),
        ("POSTHASTE_STORE__MONGODB__DATABASE", &place.prefix),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()));
    let mut command = posthaste(&settings);
    command
        .args(arguments)
        .args(["--kafka", &place.bootstrap, "--mongodb", &place.mongodb]);
    tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap()
}

async fn the_doctor_finds_nothing_wrong(backend: Backend) {
    let system = System::shared(backend).await;
    let output = if backend == Backend::Embedded {
        let mut command = posthaste(&[]);
        command.args(["doctor", "--json", "--url", &system.url("up")]);
        tokio::task::spawn_blocking(move || command.output().unwrap())
            .await
            .unwrap()
    } else {
        run(system, &["doctor", "--json", "--url", &system.url("retry")], "4").await
    };
    let findings: Vec<Json> = serde_json::from_slice(&output.stdout).unwrap();
    let errors: Vec<_> = findings.iter().filter(|one| one["severity"] == "error").collect();
    assert!(errors.is_empty() && output.status.success(), "{errors:?}");
    let said = |subject: &str, message: &str| {
        findings.iter().any(|one| {
            one["subject"].as_str().unwrap().ends_with(subject)
                && one["message"].as_str().unwrap().contains(message)
        })
    };
    assert!(said("service", "is ready"), "{findings:?}");
    if backend == Backend::Kafka {
        assert!(said("Kafka", "version 4"), "{findings:?}");
        assert!(said("MongoDB", "version 7.0.0"), "{findings:?}");
        assert!(said("dispatcher.default", "offsets behind"), "{findings:?}");
    }
}

#[tokio::test]
async fn a_service_that_expects_more_partitions_than_there_are_does_not_start() {
    let system = System::shared(Backend::Kafka).await;
    let arguments = ["ingestion", "--listen", "127.0.0.1:0"];
    let starting = run(system, &arguments, "5");
    let output = tokio::time::timeout(Duration::from_secs(60), starting)
        .await
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(
        said.contains("has 4 partitions, broker.partitions says 5"),
        "{said}"
    );
    let output = run(system, &["doctor"], "5").await;
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("PARTITIONS=5 ./kafka-topics.sh widen"), "{said}");
}
