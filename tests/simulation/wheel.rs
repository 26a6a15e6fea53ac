//! The retry service: what waits for a verdict or for its time. `Waiting` and `Judge` are the product's own; their loop is
//! here on a virtual clock.

use std::collections::{BTreeMap, BTreeSet};

use posthaste_broker::{Consumed, Partition};
use posthaste_event::{Millis, Topic};
use posthaste_retry::{
    judge::{Ask, Judge, looks_at_record},
    waiting::{Bounds, Taken, Waiting},
};
use posthaste_service::Wanted;

use crate::{
    cluster::{Cluster, Deed, Sabotage},
    log::Place,
    node::{Hop, Move, Node, Waits},
};

/// Small, so that room has to be made.
const NEAR: Bounds = Bounds {
    offsets_max: 60,
    bytes_max: 64 << 10,
};

/// Records taken out at once.
const BATCH: usize = 32;

/// Failures, failures of critical events, near, near critical, tiers.
const MEMBERS: usize = 5;

/// The members of one process.
pub struct Members {
    waiting: [Waiting<Consumed>; MEMBERS],
    /// When each is looked at next.
    wakes: [Option<Millis>; MEMBERS],
    /// Let go before their time; see [`Sabotage::IsEarly`].
    early: BTreeSet<Place>,
}

const fn member_of(topic: Topic) -> usize {
    match topic {
        Topic::Failed => 0,
        Topic::FailedCritical => 1,
        Topic::DelayNear => 2,
        Topic::DelayNearCritical => 3,
        _ => 4,
    }
}

impl Members {
    pub fn new() -> Self {
        let bounds = |member| matches!(member, 2 | 3).then_some(NEAR);
        Self {
            waiting: std::array::from_fn(|member| Waiting::new(bounds(member))),
            wakes: [None; MEMBERS],
            early: BTreeSet::new(),
        }
    }

    pub fn begin(&mut self, partition: Partition) {
        self.waiting[member_of(partition.topic)].begin(partition);
    }

    pub fn forget(&mut self, partition: Partition) {
        self.waiting[member_of(partition.topic)].forget(partition);
    }
}

impl Cluster {
    /// A record waits for its time.
    pub fn wait(&mut self, node: usize, consumed: Consumed) {
        let record = &consumed.record;
        let (partition, offset) = (record.partition, record.offset);
        let member = member_of(partition.topic);
        let mut wakes_at = looks_at_record(record, self.now);
        if self.nodes[node].requests.wanted(record).is_some() {
            wakes_at = self.now;
        }
        let bytes = record.value.as_ref().map_or(0, bytes::Bytes::len);
        if member > 1 && self.sabotages(Sabotage::IsEarly) {
            wakes_at = self.now;
            self.nodes[node].members.early.insert((partition, offset));
        }
        self.nodes[node].members.waiting[member].hold(partition, offset, wakes_at, bytes, consumed);
        // Near topics may have to make room.
        let at_least_ms = if member == 2 || member == 3 {
            5
        } else {
            Millis::MAX
        };
        self.wake_at(node, member, at_least_ms);
    }

    fn wake_at(&mut self, node: usize, member: usize, at_most_ms: Millis) {
        let members = &mut self.nodes[node].members;
        let Some(next) = members.waiting[member].next_wake() else {
            return;
        };
        let later_ms = (next - self.now).max(0).min(at_most_ms);
        if members.wakes[member].is_none_or(|wakes| wakes > self.now + later_ms) {
            members.wakes[member] = Some(self.now + later_ms);
            self.deed_at(node, later_ms, Deed::Wake(member));
        }
    }

    /// `Session::wake`.
    pub fn wake_asked(&mut self, node: usize) {
        let now = self.now;
        let Node {
            members, requests, ..
        } = &mut self.nodes[node];
        for member in 2..MEMBERS {
            members.waiting[member].wake(now, |consumed| requests.wanted(&consumed.record).is_some());
        }
        for member in 2..MEMBERS {
            self.wake_at(node, member, Millis::MAX);
        }
    }

    /// `Session::next_hops`.
    pub fn wake(&mut self, node: usize, member: usize) {
        let now = self.now;
        let members = &mut self.nodes[node].members;
        members.wakes[member] = None;
        let due = members.waiting[member].take_due(now, BATCH);
        let overflow = members.waiting[member].take_overflow(now, BATCH);
        if !overflow.is_empty() {
            self.sees("room made in the wheel");
        }
        let is_full = due.len() == BATCH || overflow.len() == BATCH;
        let ask = if member < 2 { Ask::Verdict } else { Ask::Move };
        let due = due.into_iter().map(|taken| (taken, ask));
        let overflow = overflow.into_iter().map(|taken| (taken, Ask::MakeRoom));
        let judge = Judge {
            rules: &self.rules,
            prefix: "events",
            by: &self.nodes[node].name.clone(),
            schedules: &self.schedules,
            metrics: &self.metrics,
            now,
        };
        // The early ones are looked up while these are.
        let requests = std::mem::take(&mut self.nodes[node].requests);
        let mut withdrawn = 0;
        let mut hops: BTreeMap<(Partition, u64), Vec<Move>> = BTreeMap::new();
        for (Taken { partition, item, .. }, ask) in due.chain(overflow) {
            let Consumed { record, ticket } = item;
            let from = (partition, record.offset);
            let ask = if self.nodes[node].members.early.remove(&from) {
                Ask::Release
            } else if requests.wanted(&record) == Some(Wanted::Cancel) {
                withdrawn += 1;
                Ask::Cancel
            } else {
                ask
            };
            let outcome = judge.outcome(&record, ask);
            let done = if outcome.is_final() {
                requests.forgets(&outcome.output.key, outcome.output.value.as_deref(), None)
            } else {
                Vec::new()
            };
            if let Some(left) = outcome.left {
                self.late_ms_max = self.late_ms_max.max(now - left.due);
            }
            let (_, _, epoch) = ticket.spend();
            hops.entry((partition, epoch)).or_default().push(Move {
                from,
                outputs: outcome.into_outputs().chain(done).collect(),
                call: None,
            });
        }
        self.nodes[node].requests = requests;
        for _ in 0..withdrawn {
            self.sees("withdrawn while it waited");
        }
        for ((partition, epoch), moves) in hops {
            let waits = Waits::Member;
            self.hop(
                node,
                Hop {
                    partition,
                    epoch,
                    moves,
                    waits,
                },
            );
        }
        self.wake_at(node, member, if is_full { 1 } else { Millis::MAX });
    }
}
