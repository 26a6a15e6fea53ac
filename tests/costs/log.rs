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

impl Written {
    const fn since(self, before: Self) -> Self {
        Self {
            commits: self.commits - before.commits,
            pages: self.pages - before.pages,
        }
    }
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

/// Events whose ids are drawn such that all go to one partition, as intake does with 64 after each other.
fn events(partition: u32) -> (Vec<NewRecord>, Bytes) {
    let value = taken_in(&body(), &posthaste_ingestion::ProviderNames::new(), &settings()).1;
    let record = |number| NewRecord {
        partition: Some(partition),
        ..NewRecord::new(
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
    // A partition's first records make its tables deeper, which later ones do not.
    for partition in 0..broker_settings().partitions {
        batch(&broker, &mut member, partition, folder.path()).await;
    }
    let (appended, hopped) = batch(&broker, &mut member, 0, folder.path()).await;
    at_most("commits of a batch", appended.commits, 1);
    at_most("pages of a batch of 64", appended.pages, 19);
    at_most("commits of 64 outcomes", hopped.commits, 1);
    at_most("pages of 64 outcomes", hopped.pages, 14);
    broker.close(1_000).await;
}

/// What a batch writes, and what becomes of it.
async fn batch(
    broker: &EmbeddedBroker,
    member: &mut Member,
    partition: u32,
    folder: &Path,
) -> (Written, Written) {
    let before = written(folder);
    let (records, value) = events(partition);
    broker.append(records).await.unwrap();
    let appended = written(folder);
    within("reading", async {
        while member.held.len() < BATCH {
            member.poll().await;
        }
    })
    .await;
    let outcome = sent(&value);
    let record = |number: usize| NewRecord {
        partition: Some(partition),
        ..NewRecord::new(Topic::Status, number.to_string(), outcome.clone())
    };
    let hop = Hop {
        completes: member.held.drain(..).map(|consumed| consumed.ticket).collect(),
        outputs: (0..BATCH).map(record).collect(),
        ..Hop::default()
    };
    member.hopper.hop(hop).await.unwrap();
    let hopped = written(folder);
    (appended.since(before), hopped.since(appended))
}
