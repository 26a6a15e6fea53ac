//! A clock that jumps: an hour ahead, and two hours back. Waiting is never endless, nothing is lost or sent twice.
//!
//! `libfaketime` gives the services a wall clock that a file sets while they run; their monotonic clock stays the
//! machine's, as it does when somebody sets a real one.
//!
//! On Kafka the services' clocks jump and those of the broker and the store stay, as on two machines.

use std::{fs, path::Path, time::Duration};

use jiff::{SignedDuration, Timestamp};
use posthaste_event::clock;
use serde_json::json;
use tempfile::TempDir;

use crate::{
    load::{all_sent, post_all},
    system::{Backend, Client, Plan, Sandbox},
};

/// Where Debian's package `libfaketime` puts it, for each kind of machine.
fn library() -> String {
    let places = ["x86_64-linux-gnu", "aarch64-linux-gnu"]
        .map(|machine| format!("/usr/lib/{machine}/faketime/libfaketimeMT.so.1"));
    places
        .iter()
        .find(|place| Path::new(place).is_file())
        .unwrap_or_else(|| {
            panic!("none of {places:?} is there: apt-get install libfaketime (./test.sh does it)")
        })
        .clone()
}

/// Sets the services' clocks so many hours away from the true time.
fn set(file: &Path, hours: i64) {
    // Never half written.
    let new = file.with_extension("new");
    fs::write(&new, format!("{:+}h", hours)).unwrap();
    fs::rename(new, file).unwrap();
}

mod embedded {
    #[tokio::test]
    async fn a_clock_that_jumps_loses_and_repeats_nothing() {
        super::jump(super::Backend::Embedded).await;
    }
}

mod kafka {
    #[tokio::test]
    async fn a_clock_that_jumps_loses_and_repeats_nothing() {
        super::jump(super::Backend::Kafka).await;
    }
}

async fn jump(backend: Backend) {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("clock");
    set(&file, 0);
    let mut system = Plan::new(backend)
        .await
        .setting("LD_PRELOAD", &library())
        .setting("FAKETIME_TIMESTAMP_FILE", file.to_str().unwrap())
        .setting("FAKETIME_NO_CACHE", "1")
        .setting("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .start()
        .await;
    let (client, sandbox) = (system.client(), system.sandbox());
    let mut accepted = post_all(&client, 0..50).await;
    // Due in half an hour: the jump ahead makes it due.
    let later = Timestamp::from_millisecond(clock::now()).unwrap() + SignedDuration::from_mins(30);
    let mut scheduled = client.sms(&client.number(100));
    scheduled["scheduledAt"] = json!(later.to_string());
    let waiting = client.accept(&scheduled).await;
    client.wait(&waiting, "SCHEDULED").await;
    accepted.push(waiting.clone());

    set(&file, 1);
    accepted.extend(post_all(&client, 200..250).await);
    client.wait(&waiting, "SENT").await;

    set(&file, -1);
    accepted.extend(post_all(&client, 300..350).await);
    all_sent_once(&client, &sandbox, &accepted).await;

    // What was written in the future is there after a start in the past.
    system.restart_all().await;
    accepted.push(client.accept_in_time(&client.sms(&client.number(400))).await);
    set(&file, 0);
    accepted.push(client.accept_in_time(&client.sms(&client.number(401))).await);
    tokio::time::sleep(Duration::from_millis(200)).await;
    all_sent_once(&client, &sandbox, &accepted).await;
}

async fn all_sent_once(client: &Client, sandbox: &Sandbox, accepted: &[String]) {
    let events = all_sent(client, accepted).await;
    let counts = sandbox.counts().await;
    assert_eq!(events, accepted.len() as u64);
    assert_eq!((counts.taken, counts.events), (events, events), "{counts:?}");
}
