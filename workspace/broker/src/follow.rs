//! Follows compacted topics: everybody who does is told all of them, from their start, and everything that comes later.

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
};

use posthaste_event::Topic;
use posthaste_reconnect::Reconnect;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

use crate::{
    Broker, BrokerError, Consumer as _, Partition, Record, Signal, Start, Subscription, Tracking, Watched,
    watchdog::READING_PATIENCE,
};

/// What a follower is told.
#[derive(Debug)]
pub enum News {
    /// These partitions are all there are; they are read from their start.
    Follows(Vec<Partition>),
    /// Records, in offset order within a partition. After an outage all of them may come again.
    Records(Vec<Record>),
    /// Everything that stood in the topics when following began has been told.
    AllRead,
    /// They cannot be read at the moment, and why.
    Away(String),
}

/// Follows `topics` until `shutdown`, and tells `on_news` what comes. Outages are waited out and logged once.
///
/// Nothing is committed, and no other follower takes part: each has a group of its own, which ends with it.
pub async fn follow(
    broker: &Arc<dyn Broker>,
    topics: &[Topic],
    shutdown: &CancellationToken,
    mut on_news: impl FnMut(News) + Send,
) {
    let mut waits = Reconnect::default();
    let mut told = false;
    let names: Vec<_> = topics.iter().map(|topic| topic.suffix()).collect();
    let names = names.join("+");
    while !shutdown.is_cancelled() {
        let mut on_news = |news: News| {
            if matches!(news, News::AllRead) {
                waits.reset();
                if std::mem::take(&mut told) {
                    info!("what {names} says is read again");
                }
            }
            on_news(news);
        };
        let Err(error) = read(broker, topics, &names, shutdown, &mut on_news).await else {
            return;
        };
        on_news(News::Away(error.to_string()));
        if !told {
            warn!(%error, "what {names} says cannot be read; trying again: {error}");
            told = true;
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(waits.next_wait()) => {}
        }
    }
}

async fn read(
    broker: &Arc<dyn Broker>,
    topics: &[Topic],
    names: &str,
    shutdown: &CancellationToken,
    on_news: &mut (impl FnMut(News) + Send),
) -> Result<(), BrokerError> {
    let subscription = Subscription {
        // Nobody else's: who shares a group shares its partitions.
        group: format!("{names}.{}", Uuid::now_v7().simple()),
        topics: topics.to_vec(),
        tracking: Tracking::Position,
        start: Start::At(Vec::new()),
        limits: Default::default(),
    };
    let consumer = tokio::select! {
        consumer = broker.subscribe(subscription) => consumer?,
        () = shutdown.cancelled() => return Ok(()),
    };
    let mut consumer = Watched::reader(consumer, Arc::clone(broker), READING_PATIENCE);
    let mut unread: HashSet<Partition> = HashSet::new();
    let mut followed: BTreeSet<Partition> = BTreeSet::new();
    let ended = loop {
        let signal = tokio::select! {
            () = shutdown.cancelled() => break Ok(()),
            signal = consumer.next() => match signal {
                Ok(signal) => signal,
                Err(error) => break Err(error),
            },
        };
        match signal {
            Signal::Assigned(assignments) => {
                unread.extend(assignments.iter().map(|assignment| assignment.partition));
                followed.extend(unread.iter().copied());
                on_news(News::Follows(followed.iter().copied().collect()));
            }
            Signal::Read(records) => on_news(News::Records(records)),
            Signal::AtEnd(partition) => {
                if unread.remove(&partition) && unread.is_empty() {
                    on_news(News::AllRead);
                }
            }
            // They come back, since nobody else is in the group, and are read from their start.
            Signal::Revoking(partitions) | Signal::Revoked(partitions) => {
                unread.retain(|partition| !partitions.contains(partition));
            }
            Signal::Records(_) => {}
        }
    };
    Box::new(consumer).close().await;
    ended
}
