//! Events with an ordering key: sent one after the other, in the order of acceptance, through failures and kills, and without
//! holding up anybody else.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    time::{Duration, Instant},
};

use reqwest::StatusCode;
use serde_json::{Value as Json, json};
use tokio::task::JoinSet;

use crate::{
    load::all_are,
    on_each_backend,
    system::{Backend, Client, PATIENCE, Plan, System},
    topics_script::widen,
};

on_each_backend!(
    order_holds_through_failures_and_kills,
    a_key_that_waits_parks_its_followers_and_holds_up_nobody,
);

const LIMIT: Duration = Duration::from_secs(240);
const KEYS: usize = 20;
const EVENTS: usize = 50;

fn own_id(key: usize, number: usize) -> String {
    format!("{key:02}-{number:05}")
}

/// As whoever is no tenant's sees it.
fn id(client: &Client, key: usize, number: usize) -> String {
    format!("{}~{}", client.tenant, own_id(key, number))
}

/// The number in an event's id.
fn number_of(id: &str) -> usize {
    id.rsplit_once('-').unwrap().1.parse().unwrap()
}

fn event(client: &Client, key: usize, number: usize) -> Json {
    let mut event = client.sms(&client.number(key));
    event["eventId"] = json!(own_id(key, number));
    event["orderingKey"] = json!(format!("key {key}"));
    event
}

/// Posts a key's events one after the other, so that their order of acceptance is known. Returns those that were accepted.
async fn post_key(client: Client, key: usize, count: usize, pause: Duration) -> Vec<usize> {
    let mut accepted = Vec::new();
    for number in 0..count {
        // No answer is a kill: the event may have landed, and is not posted again.
        if let Ok(answer) = client.post(&event(&client, key, number)).await
            && answer.status == StatusCode::CREATED
        {
            accepted.push(number);
        }
        tokio::time::sleep(pause).await;
    }
    accepted
}

async fn order_holds_through_failures_and_kills(backend: Backend) {
    let mut system = Plan::new(backend).await.dispatchers(2).start().await;
    let (client, sandbox) = (system.client(), system.sandbox());
    // The first call for some keys, and a few of all.
    let mut faults: Vec<Json> = (0..KEYS)
        .step_by(2)
        .map(|key| json!({"action": "unavailable", "recipient": digits(&client, key), "times": 1}))
        .collect();
    faults.push(json!({"action": "unavailable", "percent": 3}));
    faults.push(json!({"action": "slow", "delayMs": 10}));
    system.faults().await.set(json!(faults)).await;

    let mut posting = JoinSet::new();
    for key in 0..KEYS {
        let client = client.clone();
        let pause = Duration::from_millis(100);
        posting.spawn(async move { (key, post_key(client, key, EVENTS, pause).await) });
    }
    kill_one_after_the_other(&mut system, backend).await;
    let accepted: BTreeMap<usize, Vec<usize>> = posting.join_all().await.into_iter().collect();
    let known: usize = accepted.values().map(Vec::len).sum();
    println!("{known} of {} events were accepted", KEYS * EVENTS);

    let events = client
        .wait_for_all(LIMIT, "all at an end", |events| {
            events.len() >= known && all_are(events, events.len(), &["SENT", "DEAD_LETTERED"])
        })
        .await;
    let ended: BTreeSet<&str> = events
        .iter()
        .map(|event| event["eventId"].as_str().unwrap())
        .collect();
    for (key, numbers) in &accepted {
        let lost: Vec<_> = numbers
            .iter()
            .filter(|number| !ended.contains(&*id(&client, *key, **number)))
            .collect();
        assert!(lost.is_empty(), "lost of key {key}: {lost:?}");
        let calls = sandbox.received("recipient", &digits(&client, *key)).await;
        let mut sent: Vec<usize> = calls.iter().map(|call| number_of(&call.event)).collect();
        assert!(
            sent.is_sorted(),
            "the events of key {key} were sent out of order: {sent:?}"
        );
        sent.dedup();
        let stem = format!("{}~{key:02}-", client.tenant);
        let landed = ended.iter().filter(|event| event.starts_with(&stem));
        assert_eq!(sent.len(), landed.count(), "every event of key {key} was sent");
    }
    if backend == Backend::Kafka {
        nothing_is_left_of_any_key(&system).await;
    }
}

/// Kills services without a word, and starts each again at once.
async fn kill_one_after_the_other(system: &mut System, backend: Backend) {
    let killed: &[&str] = match backend {
        Backend::Embedded => &["up", "up", "up"],
        Backend::Kafka => &[
            "default",
            "retry-lane",
            "default-2",
            "retry",
            "default",
            "retry-lane",
        ],
    };
    for name in killed {
        tokio::time::sleep(Duration::from_millis(900)).await;
        let service = system.service(name);
        service.kill();
        service.launch();
    }
    for name in killed {
        system.service(name).ready().await;
    }
}

async fn nothing_is_left_of_any_key(system: &System) {
    let start = Instant::now();
    loop {
        let (code, errors) = widen(system, 6).await;
        if code == 0 {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "{errors}");
    }
}

fn digits(client: &Client, key: usize) -> String {
    client.number(key).trim_start_matches('+').to_owned()
}

/// A rule file in which a failure waits for this long.
fn rules(folder: &tempfile::TempDir, wait: &str) -> String {
    let file = folder.path().join("rules.toml");
    let text = format!(
        "version = \"waits\"\n[[rule]]\nid = \"all\"\ntries = 3\nbackoff = {{ kind = \"fixed\", delay = \"{wait}\" }}\n"
    );
    fs::write(&file, text).unwrap();
    file.display().to_string()
}

async fn a_key_that_waits_parks_its_followers_and_holds_up_nobody(backend: Backend) {
    const FOLLOWERS: usize = 1_000;
    let folder = tempfile::tempdir().unwrap();
    let plan = Plan::new(backend).await;
    let system = plan
        .setting("POSTHASTE_RETRY__RULES_FILE", &rules(&folder, "60s"))
        .setting("POSTHASTE_DISPATCHER__KEY_RECORDS_MAX", "32")
        .start()
        .await;
    let (client, sandbox) = (system.client(), system.sandbox());
    let faults = json!([{"action": "unavailable", "recipient": digits(&client, 0), "times": 1}]);
    system.faults().await.set(faults).await;

    let start = Instant::now();
    let accepted = post_key(client.clone(), 0, FOLLOWERS, Duration::ZERO).await;
    assert_eq!(accepted.len(), FOLLOWERS);
    println!("{FOLLOWERS} events of one key in {:?}", start.elapsed());
    let waits = client.event(&id(&client, 0, 0)).await.unwrap();
    assert_eq!(waits["state"]["status"], "RETRYING", "{waits:#}");
    // Nobody of the key overtakes, and others do not wait.
    let other = Instant::now();
    for key in 1..4 {
        for number in 0..5 {
            client.accept(&event(&client, key, number)).await;
        }
        client.wait(&id(&client, key, 4), "SENT").await;
    }
    assert!(
        other.elapsed() < Duration::from_secs(20),
        "others waited {:?}",
        other.elapsed()
    );
    let calls = sandbox.received("recipient", &digits(&client, 0)).await;
    assert_eq!(calls.len(), 1, "only the first was tried");
    let follower = client
        .wait_for(&id(&client, 0, FOLLOWERS - 1), "parked", |event| {
            event["timeline"].as_array().is_some_and(|steps| steps.len() > 1)
        })
        .await;
    assert_eq!(follower["timeline"][1]["reason"], "order", "{follower:#}");
    assert_eq!(follower["state"]["status"], "PENDING", "{follower:#}");

    if backend == Backend::Kafka {
        let (code, errors) = widen(&system, 6).await;
        assert_eq!(code, 1, "{errors}");
        assert!(errors.contains("are in use"), "{errors}");
    }

    let events = client
        .wait_for_all(LIMIT, "all SENT", |events| {
            all_are(events, FOLLOWERS + 15, &["SENT"])
        })
        .await;
    let mut sent: Vec<(usize, &str)> = events
        .iter()
        .filter(|event| event["orderingKey"] == "key 0")
        .map(|event| {
            let at = event["state"]["at"].as_str().unwrap();
            (number_of(event["eventId"].as_str().unwrap()), at)
        })
        .collect();
    sent.sort_unstable();
    assert!(sent.is_sorted_by_key(|(_, at)| *at), "sent out of order");
    println!("all sent after {:?}", start.elapsed());
    let last = client.event(&id(&client, 0, FOLLOWERS - 1)).await.unwrap();
    let steps = last["timeline"].as_array().unwrap().len();
    assert!(steps <= 4, "waiting on says nothing new: {last:#}");
    assert_eq!(sandbox.counts().await.taken, FOLLOWERS as u64 + 15);
}
