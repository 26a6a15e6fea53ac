//! What a lane says of keys in hops of their own: that events wait behind others, and that nothing waits any more.

use std::sync::Arc;

use posthaste_broker::{Hop, HopError, NewRecord};
use posthaste_event::{
    Millis, Topic,
    keys::{KeyState, OrderKey, Part},
};
use tokio::time::Instant;
use tracing::{debug, warn};

use super::{Done, FORGOTTEN_MAX, Lane, Said, between, order};
use crate::{
    order::{
        first::Parked,
        view::{Known, Spot},
    },
    pending::{Outcome, Pending, note},
    unsettled::Place,
};

impl Lane<'_> {
    /// Parks events of a key behind the place `after`, all in one hop.
    pub(super) fn park_behind(
        &mut self,
        key: &OrderKey,
        mut after: u64,
        items: Vec<(Spot, Box<Pending>)>,
        known: Known,
        now: Millis,
    ) {
        let Some(partition) = self.ordered.first.partition(key) else {
            return;
        };
        let mut hop = Hop::default();
        let mut places = Vec::with_capacity(items.len());
        let mut nth = 0;
        for (spot, mut pending) in items {
            let place = pending.place();
            pending.work.delivery.order = Some(order(key, spot, Some(after)));
            (after, nth) = (spot.seq, spot.nth);
            self.under_way.insert(place);
            places.push((after, place));
            let outcome = self.put_behind(key, pending, (known, nth), now);
            hop.completes.push(outcome.ticket);
            hop.outputs.push(outcome.output);
            hop.outputs.extend(outcome.notes);
        }
        let tail = KeyState::Tail {
            seq: after,
            partition: partition.number,
            nth,
        };
        hop.outputs.push(note(key.record(tail)));
        debug!(lane = %self.name, key = key.key, events = places.len(), "events wait for their turn");
        let (hopper, key) = (Arc::clone(&self.recorder.hopper), key.clone());
        self.tasks.spawn(async move {
            let result = hopper.hop(hop).await;
            Done::Said(Said::Parked {
                key,
                items: places,
                result,
            })
        });
    }

    fn put_behind(
        &mut self,
        key: &OrderKey,
        pending: Box<Pending>,
        (known, nth): (Known, u64),
        now: Millis,
    ) -> Outcome {
        if pending.ticket.is_started() {
            return self.interrupted(pending, now);
        }
        let pending = match self.ends_unsent(pending, now) {
            Ok(mut outcome) => {
                self.recorder.forget_requests(&mut outcome);
                return outcome;
            }
            Err(pending) => pending,
        };
        let by = &*self.dispatcher.instance;
        if let Some(bytes) = self.ordered.too_large.remove(&pending.place()) {
            return pending.too_large(bytes, by, now);
        }
        let between = between(&self.dispatcher.settings);
        let queueing = self.ordered.first.queueing(key, now);
        let due = queueing.map_or(now, |queueing| queueing.put_off(known, nth, between, now));
        self.route(&pending.work.delivery).parked.one();
        pending.waits_for_turn(due, by, now)
    }

    /// Forgets what is written down of a key that nothing waits for.
    pub(super) fn forget(&mut self, key: &OrderKey) {
        let owned = self.ordered.first.partition(key);
        let owned = owned.and_then(|partition| self.ordered.partitions.get(&partition));
        let Some(assignment) = owned.map(|owned| owned.assignment) else {
            return self.ordered.first.forgotten(key, false);
        };
        let (gone, reached) = self
            .dispatcher
            .keys
            .look(|view| (view.gone(key, FORGOTTEN_MAX + 1), view.known(key).reached));
        let is_all = gone.len() <= FORGOTTEN_MAX;
        let mut parts: Vec<Part> = gone.into_iter().take(FORGOTTEN_MAX).map(Part::Gone).collect();
        let mut outputs = Vec::new();
        if is_all {
            parts.extend([Part::Done, Part::Wait, Part::Tail]);
        } else if let Some(Spot { seq, nth }) = reached {
            // What is forgotten was passed over; whoever takes over must not wait for it.
            outputs.push(note(key.record(KeyState::Done { seq, nth })));
        }
        outputs.extend(parts.iter().map(|part| NewRecord {
            value: None,
            ..NewRecord::new(Topic::Keys, key.record_key(*part), "")
        }));
        let hop = Hop {
            fences: vec![assignment],
            outputs,
            ..Hop::default()
        };
        let (hopper, key) = (Arc::clone(&self.recorder.hopper), key.clone());
        self.tasks.spawn(async move {
            let done = hopper.hop(hop).await.is_ok();
            Done::Said(Said::Forgot {
                key,
                parts,
                is_all,
                done,
            })
        });
    }

    pub(in crate::lane) fn on_said(&mut self, said: Said, now: Millis) {
        match said {
            Said::Parked { key, items, result } => self.on_parked(&key, items, result, now),
            Said::Forgot {
                key,
                parts,
                is_all,
                done,
            } => {
                if done {
                    for part in parts {
                        self.dispatcher.keys.note(&key, part, None);
                    }
                }
                self.ordered.first.forgotten(&key, done && is_all);
                if done {
                    self.go_on(&key, now);
                }
            }
            Said::Barrier { name, done } => {
                if !done {
                    self.dispatcher.keys.forget_barrier(&name);
                    // The next look asks again, unless the partitions are gone.
                    self.ordered.barrier.take_if(|(asked, _)| *asked == name);
                }
            }
        }
    }

    fn on_parked(
        &mut self,
        key: &OrderKey,
        items: Vec<(u64, Place)>,
        result: Result<(), HopError>,
        now: Millis,
    ) {
        let how = match result {
            Ok(()) => Parked::Durable,
            Err(HopError::TooLarge { bytes }) => {
                if let [(_, place)] = items.as_slice() {
                    warn!(
                        partition = %place.0, offset = place.1, bytes,
                        "an event cannot wait for its turn, since its record would be larger than the broker takes; it is given up"
                    );
                    self.ordered.too_large.insert(*place, bytes);
                }
                Parked::TooLarge
            }
            Err(HopError::Fenced | HopError::Closed | HopError::NoRoom) => Parked::Refused,
        };
        let seqs: Vec<u64> = items.iter().map(|(seq, _)| *seq).collect();
        self.ordered.first.parked(key, &seqs, how, Instant::now());
        if let Some((outcome, counted)) = self.ordered.held_back.remove(key) {
            self.record_counted(outcome, counted);
        }
        for (_, place) in items {
            self.under_way.remove(&place);
            if let Some(consumed) = self.early.remove(&place) {
                self.admit(consumed, now);
            }
        }
        self.go_on(key, now);
    }
}
