//! How far this process's consumer groups are behind, asked of the broker when somebody looks.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
    time::Duration,
};

use futures_util::future::join_all;
use posthaste_broker::Broker;
use posthaste_event::Topic;
use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};
use tracing::debug;

/// The broker is not asked more often: several collectors share an answer.
const FRESH: Duration = Duration::from_secs(5);

/// A scrape waits no longer than this for the broker; without its answer it shows no lag.
const PATIENCE: Duration = Duration::from_secs(3);

/// A consumer group and its topics.
pub type Group = (&'static str, &'static [Topic]);

/// The records between where a group stands and a topic's end, for each group and topic.
pub type Lags = BTreeMap<(&'static str, Topic), i64>;

/// Asks a broker that may not be there yet.
#[derive(Default)]
pub struct Lag {
    source: OnceLock<(Arc<dyn Broker>, Vec<Group>)>,
    last: Mutex<Option<(Instant, Lags)>>,
}

impl Lag {
    /// From now on it can be asked. Only the first call counts.
    pub fn follow(&self, broker: Arc<dyn Broker>, groups: Vec<Group>) {
        let _first = self.source.set((broker, groups));
    }

    /// Empty while the broker is away.
    pub async fn read(&self) -> Lags {
        let Some((broker, groups)) = self.source.get() else {
            return Lags::new();
        };
        let mut last = self.last.lock().await;
        if let Some((at, lags)) = &*last
            && at.elapsed() < FRESH
        {
            return lags.clone();
        }
        let lags = ask(broker.as_ref(), groups).await;
        *last = Some((Instant::now(), lags.clone()));
        lags
    }
}

/// A group whose answer does not come in time is left out; the others are shown.
async fn ask(broker: &dyn Broker, groups: &[Group]) -> Lags {
    let asked = groups
        .iter()
        .map(async |(group, topics)| (*group, timeout(PATIENCE, broker.lag(group, topics)).await));
    let mut lags = Lags::new();
    for (group, answer) in join_all(asked).await {
        match answer {
            Ok(Ok(partitions)) => {
                for one in partitions {
                    let behind = one.committed.map_or(0, |committed| (one.end - committed).max(0));
                    *lags.entry((group, one.partition.topic)).or_default() += behind;
                }
            }
            Ok(Err(error)) => debug!(group, %error, "no lag to show"),
            Err(_late) => debug!(group, "the broker did not tell the lag in time"),
        }
    }
    lags
}
