//! Killed or stopped exactly where it hurts: around a provider's call, and inside the transaction of a hop. Whatever the
//! point, each fact is recorded once, each event comes to its end, and what a zombie brings later is refused.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use posthaste_broker::{Broker, embedded::EmbeddedBroker, kafka::KafkaBroker};
use posthaste_event::Topic;
use posthaste_killpoint::{OF_A_CALL, OF_A_HOP};
use posthaste_testkit::broker_suite::contents;
use reqwest::{Method, StatusCode};
use serde_json::{Value as Json, json};

use crate::{
    load::all_are,
    system::{Backend, Client, Plan, System},
};

const LIMIT: Duration = Duration::from_secs(120);
/// Of so many events, that many go out at once, and that many fail once; the others are dead until they are replayed.
const KINDS: usize = 10;
const SOUND: usize = 4;
const SHAKY: usize = 4;
/// Most events of one round.
const EVENTS_MAX: usize = 100;

/// Longer than a session of the group: a stopped member is taken for dead.
const SESSION: Duration = Duration::from_secs(11);

#[tokio::test]
async fn a_kill_at_any_point_repeats_no_fact_on_kafka() {
    let mut system = Plan::new(Backend::Kafka).await.dispatchers(2).start().await;
    let client = system.client();
    let mut rounds: Vec<Vec<(&str, &str)>> =
        OF_A_CALL.iter().map(|point| vec![("default", *point)]).collect();
    for point in OF_A_HOP {
        rounds.push(vec![("default", *point), ("retry", *point)]);
        // Nothing dies, to be replayed, while the retry service is away.
        rounds.push(vec![("replay", *point)]);
    }
    let mut posted = 0;
    for (number, strikes) in rounds.iter().enumerate() {
        println!("round {number}: {strikes:?}");
        posted += round(&mut system, &client, number, strikes, "kill").await;
    }
    end(system, &client, posted).await;
}

#[tokio::test]
async fn a_zombie_is_refused_whatever_it_was_about_to_do() {
    let mut system = Plan::new(Backend::Kafka).await.dispatchers(2).start().await;
    let client = system.client();
    let rounds: &[&[(&str, &str)]] = &[
        &[("default", "after-call"), ("retry", "before-commit")],
        &[("default", "before-commit"), ("retry", "before-outputs")],
    ];
    let mut posted = 0;
    for (number, strikes) in rounds.iter().enumerate() {
        println!("round {number}: {strikes:?}");
        posted += round(&mut system, &client, number, strikes, "stop").await;
    }
    end(system, &client, posted).await;
}

#[tokio::test]
async fn a_kill_at_any_point_repeats_no_fact_embedded() {
    let mut system = Plan::new(Backend::Embedded).await.start().await;
    let client = system.client();
    let mut posted = 0;
    let points: Vec<&str> = OF_A_CALL.iter().chain(OF_A_HOP).copied().collect();
    let rounds = 3 * points.len();
    for number in 0..rounds {
        // Shifted in each pass, so that a point is met at another turn.
        let strike = ("up", points[(number + number / points.len()) % points.len()]);
        println!("round {number}: {strike:?}");
        posted += round(&mut system, &client, number, &[strike], "kill").await;
    }
    end(system, &client, posted).await;
}

/// Strikes these services at these points while events of every kind are under way; returns how many were posted.
async fn round(
    system: &mut System,
    client: &Client,
    number: usize,
    strikes: &[(&str, &str)],
    how: &str,
) -> usize {
    for (name, point) in strikes {
        let service = system.service(name);
        service.stop().await;
        // Not always the first to come by.
        service.arm(Some(format!("{point}:{}:{how}", 1 + number % 6)));
        service.launch();
    }
    for (name, _) in strikes {
        // Something of an earlier round may come by the point at once.
        system.service(name).ready_or_struck().await;
    }
    let first = number * EVENTS_MAX;
    let posted = feed(system, client, strikes, first).await;
    if how == "stop" {
        tokio::time::sleep(SESSION).await;
    }
    for (name, _) in strikes {
        let service = system.service(name);
        service.arm(None);
        if how == "stop" {
            service.resume();
        } else {
            service.launch();
        }
    }
    for (name, _) in strikes {
        system.service(name).ready().await;
    }
    posted
}

/// Posts events, and has the dead replayed, until each of these services is struck; returns how many were accepted.
async fn feed(system: &mut System, client: &Client, strikes: &[(&str, &str)], first: usize) -> usize {
    let struck: Vec<_> = strikes
        .iter()
        .map(|(name, _)| system.service(name).strike())
        .collect();
    let replays = strikes.iter().any(|(name, _)| ["replay", "up"].contains(name));
    let faults = system.faults().await;
    faults.set(misbehaviour(client, first)).await;
    let start = Instant::now();
    let (mut next, mut accepted) = (first, 0);
    while !struck.iter().all(|has_come| has_come()) {
        assert!(start.elapsed() < LIMIT, "these never came by: {strikes:?}");
        if next < first + EVENTS_MAX {
            // No answer: this may be the process that was killed. The event may be there or not.
            let answer = client.post(&client.sms(&client.number(next))).await;
            accepted += usize::from(answer.is_ok_and(|answer| answer.status == StatusCode::CREATED));
            next += 1;
        }
        if replays {
            let everything = json!({});
            let _ = client
                .ask_replay(Method::POST, "/replay-dead-letter", Some(&everything))
                .await;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    faults.none().await;
    accepted
}

/// Some fail once, some for good.
fn misbehaviour(client: &Client, first: usize) -> Json {
    let rule = |index: usize| {
        let recipient = client.number(index).trim_start_matches('+').to_owned();
        match index % KINDS {
            kind if kind < SOUND => None,
            kind if kind < SOUND + SHAKY => {
                Some(json!({"action": "unavailable", "recipient": recipient, "times": 1}))
            }
            _ => Some(json!({"action": "invalid", "recipient": recipient})),
        }
    };
    (first..first + EVENTS_MAX).filter_map(rule).collect()
}

/// Brings everything to its end, stops the system, and looks at what was recorded.
async fn end(mut system: System, client: &Client, posted: usize) {
    system.faults().await.none().await;
    client
        .wait_for_all(LIMIT, "all at an end", |events| {
            events.len() >= posted && all_are(events, events.len(), &["SENT", "DEAD_LETTERED"])
        })
        .await;
    let everything = json!({});
    while client.replay(&everything).await > 0 {}
    let events = client
        .wait_for_all(LIMIT, "all SENT", |events| {
            events.len() >= posted && all_are(events, events.len(), &["SENT"])
        })
        .await;
    let counts = system.sandbox().counts().await;
    println!(
        "{} events, {} sends repeated with their key",
        events.len(),
        counts.taken - counts.keys
    );
    assert_eq!(counts.events, events.len() as u64, "{counts:?}");
    // A further send of a recorded one would bear a key of its own only after a definite refusal; those were not taken.
    assert_eq!(counts.keys, counts.events, "{counts:?}");
    system.stop_all().await;
    let facts = facts(&system).await;
    let twice: Vec<_> = facts.iter().filter(|(_, times)| **times > 1).collect();
    assert!(twice.is_empty(), "recorded more than once: {twice:#?}");
    assert!(facts.len() > events.len(), "{} facts", facts.len());
}

/// How often each fact stands on the topics: topic, event, step, and which move of the wheel.
pub async fn facts(system: &System) -> BTreeMap<(String, String, u64, u64), usize> {
    let broker = reader(system).await;
    let mut facts = BTreeMap::new();
    for topic in Topic::ALL {
        for record in contents(&*broker, topic).await {
            let Some(value) = record.value else { continue };
            let value: Json = serde_json::from_slice(&value).unwrap();
            let delivery = &value["delivery"];
            if let (Some(id), Some(step)) = (delivery["id"].as_str(), delivery["step"].as_u64()) {
                let moves = delivery["wheel"]["moves"].as_u64().unwrap_or(0);
                *facts
                    .entry((topic.to_string(), id.to_owned(), step, moves))
                    .or_default() += 1;
            }
        }
    }
    broker.close(1_000).await;
    facts
}

/// The topics, as whoever reads what is committed sees them.
pub async fn reader(system: &System) -> Arc<dyn Broker> {
    #[derive(serde::Deserialize)]
    struct File {
        broker: posthaste_broker::Settings,
    }
    let mut settings = toml::from_str::<File>(posthaste_broker::settings::DEFAULTS)
        .unwrap()
        .broker;
    match system.backend() {
        Backend::Embedded => {
            let folder = system.data("up");
            let folder: &Path = &folder;
            Arc::new(EmbeddedBroker::open(folder, &settings).unwrap())
        }
        Backend::Kafka => {
            let place = system.place();
            settings.prefix.clone_from(&place.prefix);
            settings.partitions = 4;
            settings.kafka.bootstrap_servers.clone_from(&place.bootstrap);
            KafkaBroker::connect(&settings, "looks").await.unwrap()
        }
    }
}
