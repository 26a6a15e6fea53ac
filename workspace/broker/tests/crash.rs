//! The embedded log against `kill -9`: whatever was acknowledged is there afterwards, and each record has one outcome.
//!
//! The test starts itself as the process to be killed, which is why it brings its own `main`.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "this is a test, though it has no #[test]"
)]

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    time::Duration,
};

use posthaste_broker::{
    Broker, Consumed, Hop, Limits, NewRecord, Settings, Signal, Start, Subscription, Tracking,
    embedded::EmbeddedBroker, settings::DEFAULTS,
};
use posthaste_event::Topic;

const CHILD: &str = "--write-until-killed";
const DEADLINE: Duration = Duration::from_secs(60);
/// Acknowledgements after which the process is killed, round by round.
const KILLS: [usize; 6] = [1, 40, 300, 900, 150, 2_000];

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.iter().position(|argument| argument == CHILD) {
        Some(at) => {
            write_until_killed(Path::new(&arguments[at + 1]), arguments[at + 2].parse().unwrap()).await
        }
        // The test runner asks for a list of what is in here.
        None if arguments.iter().any(|argument| argument == "--list") => println!("crash: test"),
        None => nothing_acknowledged_is_lost().await,
    }
}

fn settings() -> Settings {
    #[derive(serde::Deserialize)]
    struct File {
        broker: Settings,
    }
    let mut settings = toml::from_str::<File>(DEFAULTS).unwrap().broker;
    settings.partitions = 3;
    // Merged often, so that kills fall into merges too.
    settings.embedded.wal_kib = 64;
    settings.embedded.wal_kib_max = 256;
    settings
}

fn work() -> Subscription {
    Subscription {
        group: "dispatcher.default".to_owned(),
        topics: vec![Topic::Default],
        tracking: Tracking::Completion,
        start: Start::Committed,
        limits: Limits::default(),
    }
}

fn text(bytes: Option<&bytes::Bytes>) -> String {
    String::from_utf8(bytes.unwrap().to_vec()).unwrap()
}

fn outcome(consumed: Consumed) -> Hop {
    let value = consumed.record.value.clone().unwrap();
    let number = consumed.record.partition.number;
    let output = NewRecord {
        partition: Some(number),
        ..NewRecord::new(Topic::Status, value.clone(), value)
    };
    Hop::one(consumed.ticket, vec![output])
}

/// Says on standard output what was acknowledged: `a <name>` for an append, `h <name>` for a hop.
async fn write_until_killed(folder: &Path, round: usize) {
    let broker = Arc::new(EmbeddedBroker::open(folder, &settings()).unwrap());
    broker.create_topics().await.unwrap();
    let numbers = Arc::new(AtomicU64::new(0));
    for _ in 0..8 {
        let (broker, numbers) = (Arc::clone(&broker), Arc::clone(&numbers));
        tokio::spawn(async move {
            loop {
                let name = format!("{round}.{}", numbers.fetch_add(1, Ordering::Relaxed));
                let record = NewRecord::new(Topic::Default, name.clone(), name.clone());
                broker.append(vec![record]).await.unwrap();
                say(&format!("a {name}"));
            }
        });
    }
    let mut consumer = broker.subscribe(work()).await.unwrap();
    let hopper = consumer.hopper();
    loop {
        if let Signal::Records(records) = consumer.next().await.unwrap() {
            // The other way round, and some only later: the map of finished records has holes.
            for consumed in records.into_iter().rev() {
                let hopper = Arc::clone(&hopper);
                tokio::spawn(async move {
                    let name = text(consumed.record.value.as_ref());
                    if consumed.record.offset % 5 == 0 {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                    hopper.hop(outcome(consumed)).await.unwrap();
                    say(&format!("h {name}"));
                });
            }
        }
    }
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
        // Nobody listens, so nobody will kill us either.
        std::process::exit(1);
    }
}

/// Runs the process until it has acknowledged `count`, kills it, and answers all that it said.
fn kill_after(folder: &Path, round: usize, count: usize) -> Vec<String> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .arg(CHILD)
        .arg(folder)
        .arg(round.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    let (line, lines) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        for said in out.lines() {
            let Ok(said) = said else { break };
            if line.send(said).is_err() {
                break;
            }
        }
    });
    let mut said = Vec::new();
    while said.len() < count {
        match lines.recv_timeout(DEADLINE) {
            Ok(line) => said.push(line),
            Err(error) => panic!("the process said {} of {count} things: {error}", said.len()),
        }
    }
    child.kill().unwrap();
    child.wait().unwrap();
    reader.join().unwrap();
    said.extend(lines.try_iter());
    said
}

async fn nothing_acknowledged_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let mut said = Vec::new();
    for (round, count) in KILLS.into_iter().enumerate() {
        said.extend(kill_after(folder.path(), round, count));
        let broker = EmbeddedBroker::open(folder.path(), &settings()).unwrap();
        let appended = read_all(&broker, Topic::Default).await;
        let outcomes = read_all(&broker, Topic::Status).await;
        for line in &said {
            let (kind, name) = line.split_once(' ').unwrap();
            let there = if kind == "a" { &appended } else { &outcomes };
            assert_eq!(
                there.get(name),
                Some(&1),
                "round {round}: {line} was acknowledged"
            );
        }
        assert!(
            outcomes.values().all(|count| *count == 1),
            "round {round}: an outcome came twice"
        );
        broker.close(10_000).await;
    }
    // What was not finished, and only that, is still to be done.
    let broker = EmbeddedBroker::open(folder.path(), &settings()).unwrap();
    let appended = read_all(&broker, Topic::Default).await;
    let mut open = appended.len() - read_all(&broker, Topic::Status).await.len();
    let mut consumer = broker.subscribe(work()).await.unwrap();
    let hopper = consumer.hopper();
    while open > 0 {
        let signal = tokio::time::timeout(DEADLINE, consumer.next())
            .await
            .unwrap()
            .unwrap();
        if let Signal::Records(records) = signal {
            open = open.checked_sub(records.len()).unwrap();
            for consumed in records {
                hopper.hop(outcome(consumed)).await.unwrap();
            }
        }
    }
    let outcomes = read_all(&broker, Topic::Status).await;
    assert_eq!(outcomes, appended);
    consumer.close().await;
    broker.close(10_000).await;
    println!(
        "killed {} times; {} records, each with one outcome; {} acknowledgements kept: ok",
        KILLS.len(),
        appended.len(),
        said.len()
    );
}

/// The values on a topic, and how often each is there.
async fn read_all(broker: &EmbeddedBroker, topic: Topic) -> BTreeMap<String, usize> {
    let subscription = Subscription {
        group: "crash".to_owned(),
        topics: vec![topic],
        tracking: Tracking::Position,
        start: Start::LogStart,
        limits: Limits::default(),
    };
    let mut consumer = broker.subscribe(subscription).await.unwrap();
    let mut values = BTreeMap::new();
    let mut ends = 0;
    while ends < settings().partitions {
        match tokio::time::timeout(DEADLINE, consumer.next())
            .await
            .unwrap()
            .unwrap()
        {
            Signal::Read(records) => {
                for record in records {
                    *values.entry(text(record.value.as_ref())).or_default() += 1;
                }
            }
            Signal::AtEnd(_) => ends += 1,
            _ => {}
        }
    }
    consumer.close().await;
    values
}
