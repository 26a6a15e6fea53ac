//! What a lane does not send: what it leaves on the log or puts off, what was withdrawn or has expired, what is in doubt.

use posthaste_event::{Delivery, ErrorKind, Failure, Millis};
use posthaste_service::metrics::Route;
use tokio::time::Instant;
use tracing::warn;

use super::{Lane, Seat};
use crate::{
    hold::Crowd,
    pace::Stay,
    pending::{Outcome, Pending},
};

/// An account that would empty within this time, in milliseconds, whatever queue the lane has memory for is only busy; see
/// [`Hold`].
const QUICK_MS: u32 = 4_000;

impl Lane<'_> {
    /// Whether reading stops for a moment because some account's queue is nearly full.
    pub(super) fn holds(&mut self) -> bool {
        let held = self.hold.is_holding();
        let crowd = if self.recording {
            self.crowd()
        } else {
            Crowd::default()
        };
        let holds = self.hold.holds(crowd, Instant::now());
        if held && !holds {
            self.seats.iter_mut().for_each(|seat| seat.is_seen = false);
        }
        holds
    }

    fn crowd(&self) -> Crowd {
        let mut crowd = Crowd::default();
        for (index, seat) in self.seats.iter().enumerate() {
            if self.window.waiting(index) == 0 {
                crowd.has_idle |= seat.is_seen;
                continue;
            }
            let quarters = self.window.quarters(index, self.queue_max(index));
            if quarters >= 2 {
                crowd.is_half_full = true;
                crowd.is_full |= quarters >= 3;
                crowd.is_slow |= seat.gate.queue_max(QUICK_MS) < self.window.queue_records_max();
            }
        }
        crowd
    }

    /// Looks after every account's queue, now and then.
    pub(super) fn shed_all(&mut self, now: Millis) {
        for seat in 0..self.seats.len() {
            if self.window.waiting(seat) > 0 {
                self.shed(seat, now);
            }
            if self.window.quarters(seat, self.queue_max(seat)) < 2 {
                self.seats[seat].crowded_since = None;
            }
        }
    }

    /// Parks what an account's queue has no room for.
    pub(super) fn shed(&mut self, seat: usize, now: Millis) {
        let queue_max = self.queue_max(seat);
        while let Some(pending) = self.window.shed(seat, queue_max) {
            self.seats[seat].crowded_since.get_or_insert(now);
            self.hold.parked();
            let outcome = self.put_off(seat, pending, now);
            self.record(outcome);
        }
    }

    fn queue_max(&self, seat: usize) -> usize {
        let queue_wait_ms_max = self.dispatcher.settings.queue_wait_ms_max;
        self.seats[seat].gate.queue_max(queue_wait_ms_max)
    }

    pub(super) fn put_off(&self, seat: usize, pending: Box<Pending>, now: Millis) -> Outcome {
        let settings = &self.dispatcher.settings;
        let by = &*self.dispatcher.instance;
        let pending = match self.ends_unsent(pending, now) {
            Ok(outcome) => return outcome,
            Err(pending) => pending,
        };
        let delivery = &pending.work.delivery;
        let age_ms = u64::try_from(now.saturating_sub(delivery.since)).unwrap_or(0);
        if age_ms > settings.parked_age_ms_max {
            let text = "no free place at its account for too long";
            self.route_at(delivery, seat)
                .dead_lettered(ErrorKind::RateLimited)
                .one();
            return pending.dead_lettered(ErrorKind::RateLimited, "no_place", text, by, now);
        }
        self.route_at(delivery, seat).parked.one();
        let Seat {
            gate, crowded_since, ..
        } = &self.seats[seat];
        let stay = Stay {
            waits_since: delivery.since,
            crowded_since: crowded_since.unwrap_or(now),
            parked_for_ms: pending.parked_for_ms(now),
        };
        let slot = gate.reserve(&stay, (settings.park_ms_min, settings.park_ms_max), now);
        pending.parked(slot, &self.seats[seat].account.name, by, now)
    }

    /// Somebody began to send it and nobody recorded what came of that: it is in doubt, as after a timeout.
    pub(super) fn interrupted(&self, pending: Box<Pending>, now: Millis) -> Outcome {
        let delivery = &pending.work.delivery;
        let (provider, account) = (delivery.provider.as_deref(), delivery.account.as_deref());
        let resolved = self
            .dispatcher
            .accounts
            .resolve(delivery.channel, provider, account);
        let (provider, account) = match &resolved {
            Ok(account) => (account.provider.name(), &*account.name),
            Err(unroutable) => (&*unroutable.provider, &*unroutable.account),
        };
        warn!(
            lane = %self.name, event.id = %delivery.id, provider,
            "a dispatcher stopped while it sent event {}, which must not go out twice: it may have been sent", delivery.id
        );
        let text = "the dispatcher stopped between starting the send and recording what came of it";
        let failure = Failure::new(
            ErrorKind::Ambiguous,
            provider,
            Some("interrupted".to_owned()),
            text,
        );
        let metrics = &self.dispatcher.metrics;
        metrics
            .route(delivery.channel, Some(provider))
            .failed(ErrorKind::Ambiguous)
            .one();
        pending.failed(provider, account, failure, &self.dispatcher.instance, now)
    }

    /// What ends without a send: it was withdrawn, or its time has passed. `Err` is one that goes on.
    pub(super) fn ends_unsent(&self, pending: Box<Pending>, now: Millis) -> Result<Outcome, Box<Pending>> {
        self.recorder.ends_unsent(pending, now)
    }

    pub(super) fn route(&self, delivery: &Delivery) -> &Route {
        let provider = delivery.provider.as_deref();
        self.dispatcher.metrics.route(delivery.channel, provider)
    }

    /// An event that has not failed yet may name no provider.
    pub(super) fn route_at(&self, delivery: &Delivery, seat: usize) -> &Route {
        let provider = self.seats[seat].account.provider.name();
        self.dispatcher.metrics.route(delivery.channel, Some(provider))
    }
}
