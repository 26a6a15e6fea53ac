//! A disk that takes nothing more: intake says so, nothing accepted is lost, and all goes on when there is room again.
//!
//! A limit on the size of files stands in for the full disk: it needs no rights, holds for one process, and can be lifted
//! while that runs.

use std::{process::Command, time::Instant};

use reqwest::StatusCode;

use crate::{
    load::all_sent,
    system::{Backend, PATIENCE, Plan},
};

/// No file may grow beyond this, in blocks of 512 bytes: 3 MiB.
const LIMITED: &[&str] = &["sh", "-c", "trap '' XFSZ; ulimit -S -f 6144; exec \"$@\"", "sh"];

#[tokio::test]
async fn on_a_full_disk_intake_answers_503_and_all_that_was_accepted_is_sent_later() {
    let mut system = Plan::new(Backend::Embedded).await.under(LIMITED).start().await;
    let (client, sandbox) = (system.client(), system.sandbox());
    let mut accepted = Vec::new();
    let start = Instant::now();
    let refused = loop {
        assert!(start.elapsed() < PATIENCE, "{} fit", accepted.len());
        let mut event = client.sms(&client.number(accepted.len()));
        event["metadata"]["note"] = "x".repeat(20_000).into();
        let answer = client.post(&event).await.unwrap();
        if answer.status != StatusCode::CREATED {
            break answer;
        }
        accepted.push(answer.body["eventId"].as_str().unwrap().to_owned());
    };
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE, "{refused:?}");
    assert!(refused.headers.contains_key("retry-after"), "{refused:?}");
    assert!(refused.body["eventId"].is_string(), "{refused:?}");
    assert!(accepted.len() > 10, "only {} fit", accepted.len());
    // What is small may fit for a while yet, and then the log is well again until the next that does not.
    while client.get("/ready").await.unwrap().status != StatusCode::SERVICE_UNAVAILABLE {
        assert!(start.elapsed() < PATIENCE, "/ready does not tell of it");
        let answer = client
            .post(&client.sms(&client.number(accepted.len())))
            .await
            .unwrap();
        if answer.status == StatusCode::CREATED {
            accepted.push(answer.body["eventId"].as_str().unwrap().to_owned());
        }
    }

    let lifted = Command::new("prlimit")
        .args(["--pid", &system.service("up").pid().to_string()])
        .arg("--fsize=unlimited")
        .status()
        .unwrap();
    assert!(lifted.success(), "prlimit: {lifted}");
    accepted.push(client.accept_in_time(&client.sms(&client.number(999_999))).await);
    let events = all_sent(&client, &accepted).await;
    let counts = sandbox.counts().await;
    assert_eq!((counts.taken, counts.events), (events, events), "{counts:?}");
}

#[tokio::test]
async fn a_process_killed_on_a_full_disk_loses_nothing() {
    let mut system = Plan::new(Backend::Embedded).await.under(LIMITED).start().await;
    let (client, sandbox) = (system.client(), system.sandbox());
    let mut accepted = Vec::new();
    loop {
        let mut event = client.sms(&client.number(accepted.len()));
        event["metadata"]["note"] = "x".repeat(20_000).into();
        let answer = client.post(&event).await.unwrap();
        if answer.status != StatusCode::CREATED {
            break;
        }
        accepted.push(answer.body["eventId"].as_str().unwrap().to_owned());
    }
    system.kill_all();
    system.service("up").under_nothing();
    system.service("up").launch();
    system.service("up").ready().await;
    let events = all_sent(&client, &accepted).await;
    let counts = sandbox.counts().await;
    assert_eq!((counts.events, counts.keys), (events, events), "{counts:?}");
}
