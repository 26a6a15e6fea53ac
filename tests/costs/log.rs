//! What the embedded log writes: commits (an fsync each, with synchronous=FULL) and pages, read from its write-ahead log.

use std::{fs, path::Path};

use bytes::Bytes;
use posthaste_broker::{Broker, Hop, NewRecord, Settings, embedded::EmbeddedBroker, settings::DEFAULTS};
use posthaste_event::Topic;
use posthaste_testkit::broker_suite::{Member, tracked, within};

use super::{at_most, body, sent, settings, taken_in};

/// Records of a batch: as many as requests are under way in the measurements of `bench/`.
const BATCH: usize = 64;

fn broker_settings() -> Settings {
    #[derive(serde::Deserialize)]
    struct File {
        broker: Settings,
    }
    toml::from_str::<File>(DEFAULTS).unwrap().broker
}

/// Commits and pages in a write-ahead log. See https://sqlite.org/fileformat2.html#walformat: 32 bytes, then frames of 24 bytes
/// and a page; a frame that ends a commit has the size of the database after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Written {
    commits: u64,
    pages: u64,
}

fn written(folder: &Path) -> Written {
    let wal = fs::read(folder.join("log.db-wal")).unwrap();
    let number = |at: usize| u32::from_be_bytes(wal[at..at + 4].try_into().unwrap());
    let (page, salt) = (number(8) as usize, &wal[16..24]);
    let frames = wal[32..].chunks_exact(24 + page);
    let mut written = Written { commits: 0, pages: 0 };
    // Frames of an earlier round have another salt.
    for (index, _) in frames
        .clone()
        .enumerate()
        .filter(|(_, frame)| frame[8..16] == *salt)
    {
        written.pages += 1;
        written.commits += u64::from(number(32 + index * (24 + page) + 4) != 0);
    }
    written
}

fn events() -> (Vec<NewRecord>, Bytes) {
    let value = taken_in(&body(), &posthaste_ingestion::ProviderNames::new(), &settings()).1;
    let record = |number| {
        NewRecord::new(
            Topic::Default,
            format!("019aa2f0-0000-7000-8000-{number:012}"),
            value.clone(),
        )
    };
    ((0..BATCH).map(record).collect(), value)
}

#[tokio::test]
async fn a_batch_is_one_commit_and_so_is_what_becomes_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let broker = EmbeddedBroker::open(folder.path(), &broker_settings()).unwrap();
    broker.create_topics().await.unwrap();
    let mut member = Member::join(&broker, tracked("costs", &[Topic::Default])).await;
    let before = written(folder.path());

    let (records, value) = events();
    broker.append(records).await.unwrap();
    let appended = written(folder.path());
    at_most("commits of a batch", appended.commits - before.commits, 1);
    at_most("pages of a batch of 64", appended.pages - before.pages, 22);

    within("reading", async {
        while member.held.len() < BATCH {
            member.poll().await;
        }
    })
    .await;
    let outcome = sent(&value);
    let hop = Hop {
        completes: member.held.drain(..).map(|consumed| consumed.ticket).collect(),
        outputs: (0..BATCH)
            .map(|number| NewRecord::new(Topic::Status, number.to_string(), outcome.clone()))
            .collect(),
        ..Hop::default()
    };
    member.hopper.hop(hop).await.unwrap();
    let hopped = written(folder.path());
    at_most("commits of 64 outcomes", hopped.commits - appended.commits, 1);
    // How the rows of positions lie on pages goes by how many groups and topics there are: 17 with two fewer of each.
    at_most("pages of 64 outcomes", hopped.pages - appended.pages, 20);
    broker.close(1_000).await;
}
