//! A lane takes partitions of first attempts over: their ordered events go once all that was said of their keys is known.

use std::{collections::HashSet, sync::Arc};

use posthaste_broker::{Assignment, Hop};
use posthaste_event::{Millis, keys::OrderKey};
use tracing::debug;
use uuid::Uuid;

use super::{Done, Lane, Owned, Said, is_first};
use crate::LaneName;

impl Lane<'_> {
    pub(in crate::lane) fn order_assigned(&mut self, assignments: &[Assignment]) {
        for assignment in assignments {
            if is_first(assignment.partition.topic) {
                let owned = Owned {
                    assignment: *assignment,
                    is_synced: false,
                    early: Vec::new(),
                };
                self.ordered.partitions.insert(assignment.partition, owned);
            }
        }
        self.ask_for_barrier();
    }

    /// Makes known when everything that was said of keys before the newest assignments has been read.
    pub(super) fn ask_for_barrier(&mut self) {
        let unsynced = self.ordered.partitions.values().filter(|owned| !owned.is_synced);
        let assignments: Vec<Assignment> = unsynced.map(|owned| owned.assignment).collect();
        if assignments.is_empty() || self.ordered.barrier.is_some() || self.is_draining {
            return;
        }
        let name = Uuid::now_v7().simple().to_string();
        let Some(outputs) = self.dispatcher.keys.barrier(&name, &self.ordered.listener) else {
            return;
        };
        self.ordered.barrier = Some((name.clone(), assignments.clone()));
        let hopper = Arc::clone(&self.recorder.hopper);
        // Fenced: whoever had the partitions before can say nothing more once this is written.
        let hop = Hop {
            fences: assignments,
            outputs,
            ..Hop::default()
        };
        self.tasks.spawn(async move {
            let done = hopper.hop(hop).await.is_ok();
            Done::Said(Said::Barrier { name, done })
        });
    }

    pub(super) fn on_barrier(&mut self, name: &str, now: Millis) {
        let Some((_, assignments)) = self.ordered.barrier.take_if(|(asked, _)| asked == name) else {
            return;
        };
        let mut keys: HashSet<OrderKey> = HashSet::new();
        let critical = self.name == LaneName::Critical;
        let mut early = Vec::new();
        for assignment in assignments {
            let partition = assignment.partition;
            let Some(owned) = self.ordered.partitions.get_mut(&partition) else {
                continue;
            };
            if owned.assignment.epoch != assignment.epoch || owned.is_synced {
                continue;
            }
            owned.is_synced = true;
            early.append(&mut owned.early);
            let open = self
                .dispatcher
                .keys
                .look(|view| view.open_in(critical, partition.number));
            keys.extend(open.iter().map(|(key, _)| key.clone()));
            self.ordered.first.synced(partition, open);
        }
        debug!(lane = %self.name, keys = keys.len(), events = early.len(), "what was said of ordering keys is known");
        for pending in early {
            self.place_first(pending, now);
        }
        for key in keys {
            self.go_on(&key, now);
        }
    }
}
