//! Ends transactions that their coordinator has forgotten.
//!
//! Kafka can lose the end of a transaction in some of its partitions: a coordinator that finds no leader for a partition, as
//! while a broker stops or starts, takes it for deleted and counts the transaction as complete
//! (<https://issues.apache.org/jira/browse/KAFKA-20734>, in 4.3 at least). Readers of committed records never get past such a
//! place, and where it is the offsets of a group, nobody of that group can start. `kafka-transactions.sh` can find and end
//! them by hand; this does it by itself, for transactions of ours.

use std::{
    collections::{HashMap, HashSet},
    io,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use posthaste_event::Topic;
use rdkafka::consumer::Consumer as _;
use tracing::warn;

use super::{
    admin::{ANSWER_TIMEOUT, Admin, blocking},
    client::unreachable,
    wire::{Known, Open, Partitions, Wire},
};
use crate::BrokerError;

/// Where Kafka keeps what groups have committed.
const OFFSETS: &str = "__consumer_offsets";
/// Where coordinators keep what they know.
const TRANSACTIONS: &str = "__transaction_state";

/// A transaction that is seen open for this long is suspicious: the broker aborts ours after 5 s, and looks every 10 s.
const SUSPECT_AFTER: Duration = Duration::from_secs(20);
/// One whose producer may be alive, and has aborted its last transaction, is left alone for longer.
const IDLE_AFTER: Duration = Duration::from_secs(60);

/// Open transactions, and when each was seen first.
pub(super) type Suspects = Mutex<HashMap<Open, Instant>>;

/// How to end it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// Not: its coordinator will, or it is not ours.
    Leave,
    Commit,
    Abort,
}

impl Admin {
    /// See [`crate::Broker::settle`].
    pub(super) async fn settle(self: Arc<Self>) -> Result<u64, BrokerError> {
        if !self.is_plaintext {
            return Ok(0);
        }
        blocking(move || {
            let settled = self.settle_blocking();
            if settled.is_err() {
                // What was open before an outage may be ended by its coordinator once that is back.
                self.hanging
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .clear();
            }
            settled
        })
        .await
    }

    fn settle_blocking(&self) -> Result<u64, BrokerError> {
        let mut cluster = self.cluster()?;
        let mut open = Vec::new();
        for (leader, partitions) in std::mem::take(&mut cluster.led) {
            let found = cluster
                .ask(leader, |wire| wire.open_transactions(&partitions))
                .map_err(failed)?;
            open.extend(found.into_iter().map(|one| (leader, one)));
        }
        let now = Instant::now();
        let suspects = self.suspects(&open, now);
        if suspects.is_empty() {
            return Ok(0);
        }
        let ids: HashSet<i64> = suspects.iter().map(|(_, one, _)| one.producer_id).collect();
        let known = cluster
            .known(&ids.into_iter().collect::<Vec<_>>())
            .map_err(failed)?;
        let mut ended = 0;
        for (leader, one, age) in suspects {
            let of_it = known.iter().find(|known| known.producer_id == one.producer_id);
            let verdict = verdict(self.topics.prefix(), &one, of_it, age);
            if verdict == Verdict::Leave {
                continue;
            }
            let commit = verdict == Verdict::Commit;
            let code = cluster
                .ask(leader, |wire| wire.end(&one, commit))
                .map_err(failed)?;
            let how = if commit { "committed" } else { "aborted" };
            if code == 0 {
                ended += 1;
                warn!(topic = %one.topic, partition = one.partition, offset = one.start_offset, producer_id = one.producer_id, "a transaction that Kafka had forgotten was {how}");
            } else {
                warn!(topic = %one.topic, partition = one.partition, offset = one.start_offset, producer_id = one.producer_id, code, "a transaction that Kafka has forgotten could not be ended; kafka-transactions.sh can");
            }
        }
        Ok(ended)
    }

    /// Those that have been open for long, and how long.
    fn suspects(&self, open: &[(i32, Open)], now: Instant) -> Vec<(i32, Open, Duration)> {
        let mut seen = self.hanging.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::take(&mut *seen);
        let mut suspects = Vec::new();
        for (leader, one) in open {
            let first = before.get(one).copied().unwrap_or(now);
            seen.insert(one.clone(), first);
            let age = now.saturating_duration_since(first);
            if age >= SUSPECT_AFTER {
                suspects.push((*leader, one.clone(), age));
            }
        }
        suspects
    }

    fn cluster(&self) -> Result<Cluster, BrokerError> {
        let metadata = self
            .observer
            .fetch_metadata(None, ANSWER_TIMEOUT)
            .map_err(|error| unreachable("asking who leads which partition", &error))?;
        let brokers = metadata
            .brokers()
            .iter()
            .filter_map(|broker| {
                let port = u16::try_from(broker.port()).ok()?;
                Some((broker.id(), (broker.host().to_owned(), port)))
            })
            .collect();
        let mut led: HashMap<i32, Partitions> = HashMap::new();
        let ours: HashSet<&str> = Topic::ALL
            .into_iter()
            .map(|topic| self.topics.name(topic))
            .collect();
        for topic in metadata.topics() {
            if topic.name() == TRANSACTIONS
                && topic.partitions().iter().any(|partition| partition.leader() < 0)
            {
                return Err(failed(io::Error::other("a coordinator is away")));
            }
            if topic.name() != OFFSETS && !ours.contains(topic.name()) {
                continue;
            }
            for partition in topic
                .partitions()
                .iter()
                .filter(|partition| partition.leader() >= 0)
            {
                let of_leader = led.entry(partition.leader()).or_default();
                match of_leader.last_mut().filter(|(name, _)| name == topic.name()) {
                    Some((_, numbers)) => numbers.push(partition.id()),
                    None => of_leader.push((topic.name().to_owned(), vec![partition.id()])),
                }
            }
        }
        Ok(Cluster {
            brokers,
            led,
            wires: HashMap::new(),
        })
    }
}

/// Whether nobody else will end a transaction that was seen open for this long, and how it ends then.
fn verdict(prefix: &str, open: &Open, known: Option<&Known>, age: Duration) -> Verdict {
    let is_ours = |name: &str| {
        name.strip_prefix(prefix)
            .is_some_and(|rest| rest.starts_with('.'))
    };
    let Some(known) = known else {
        // Its transactional id has expired. Among the offsets it may be another program's.
        return if is_ours(&open.topic) {
            Verdict::Abort
        } else {
            Verdict::Leave
        };
    };
    let is_known = known
        .partitions
        .iter()
        .any(|(topic, numbers)| *topic == open.topic && numbers.contains(&open.partition));
    if is_known || !is_ours(&known.id) {
        return Verdict::Leave;
    }
    if i32::from(known.producer_epoch) != open.producer_epoch {
        // Of a producer that is gone. Nobody knows any more what was decided; to do it again is better than to lose it.
        return Verdict::Abort;
    }
    match known.state.as_str() {
        // Its producer works and believes it done. What it aborted, it has done again since.
        "CompleteCommit" | "Ongoing" | "PrepareCommit" => Verdict::Commit,
        _ if age >= IDLE_AFTER => Verdict::Abort,
        _ => Verdict::Leave,
    }
}

/// Brokers, and connections to some of them.
struct Cluster {
    brokers: HashMap<i32, (String, u16)>,
    led: HashMap<i32, Partitions>,
    wires: HashMap<i32, Wire>,
}

impl Cluster {
    fn ask<T>(&mut self, broker: i32, request: impl FnOnce(&mut Wire) -> io::Result<T>) -> io::Result<T> {
        let wire = match self.wires.entry(broker) {
            std::collections::hash_map::Entry::Occupied(wire) => wire.into_mut(),
            std::collections::hash_map::Entry::Vacant(place) => {
                let (host, port) = self
                    .brokers
                    .get(&broker)
                    .ok_or_else(|| io::Error::other("a leader without an address"))?;
                place.insert(Wire::connect(host, *port)?)
            }
        };
        request(wire)
    }

    /// What the coordinators know of these producers.
    fn known(&mut self, producer_ids: &[i64]) -> io::Result<Vec<Known>> {
        let mut known = Vec::new();
        let brokers: Vec<i32> = self.brokers.keys().copied().collect();
        for broker in brokers {
            let ids = self.ask(broker, |wire| wire.transactional_ids(producer_ids))?;
            if !ids.is_empty() {
                let described = self.ask(broker, |wire| wire.transactions(&ids))?;
                if described.len() < ids.len() {
                    // One that is not described now is not forgotten.
                    return Err(io::Error::other("a coordinator is just changing"));
                }
                known.extend(described);
            }
        }
        Ok(known)
    }
}

fn failed(error: io::Error) -> BrokerError {
    BrokerError::Unreachable(format!("asking for open transactions: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(topic: &str) -> Open {
        Open {
            topic: topic.to_owned(),
            partition: 3,
            producer_id: 37,
            producer_epoch: 5,
            coordinator_epoch: 8,
            start_offset: 14_736,
        }
    }

    fn known(state: &str, producer_epoch: i16) -> Known {
        Known {
            id: "events.status.projector.0".to_owned(),
            state: state.to_owned(),
            producer_id: 37,
            producer_epoch,
            partitions: Vec::new(),
        }
    }

    fn judged(open: &Open, known: Option<&Known>) -> Verdict {
        verdict("events", open, known, SUSPECT_AFTER)
    }

    #[test]
    fn what_a_coordinator_still_knows_of_is_left_to_it() {
        let open = open(OFFSETS);
        let mut ongoing = known("Ongoing", 5);
        assert_eq!(judged(&open, Some(&ongoing)), Verdict::Commit);
        ongoing.partitions = vec![(OFFSETS.to_owned(), vec![1, 3])];
        assert_eq!(judged(&open, Some(&ongoing)), Verdict::Leave);
    }

    #[test]
    fn transactions_of_others_are_left_alone() {
        let mut other = known("CompleteCommit", 5);
        other.id = "eventsourcing.orders".to_owned();
        assert_eq!(judged(&open(OFFSETS), Some(&other)), Verdict::Leave);
        assert_eq!(judged(&open(OFFSETS), None), Verdict::Leave);
        assert_eq!(judged(&open("events.status"), None), Verdict::Abort);
    }

    #[test]
    fn what_a_living_producer_believes_done_is_done_and_the_rest_is_done_again() {
        let open = open(OFFSETS);
        assert_eq!(judged(&open, Some(&known("CompleteCommit", 5))), Verdict::Commit);
        assert_eq!(judged(&open, Some(&known("CompleteCommit", 6))), Verdict::Abort);
        assert_eq!(judged(&open, Some(&known("Empty", 6))), Verdict::Abort);
        let aborted = known("CompleteAbort", 5);
        assert_eq!(judged(&open, Some(&aborted)), Verdict::Leave);
        assert_eq!(
            verdict("events", &open, Some(&aborted), IDLE_AFTER),
            Verdict::Abort
        );
    }
}
