//! What a lane does not send: what it puts off, what has expired, what is in doubt.

use posthaste_event::{Delivery, ErrorKind, Failure, Millis};
use posthaste_service::metrics::Route;
use tracing::warn;

use super::Lane;
use crate::pending::{Outcome, Pending};

impl Lane<'_> {
    pub(super) fn shed_all(&mut self, now: Millis) {
        for seat in 0..self.seats.len() {
            if self.window.waiting(seat) > 0 {
                self.shed(seat, now);
            }
        }
    }

    /// Parks what an account's queue has no room for.
    pub(super) fn shed(&mut self, seat: usize, now: Millis) {
        let queue_max = self.seats[seat]
            .gate
            .queue_max(self.dispatcher.settings.queue_wait_ms_max);
        while let Some(pending) = self.window.shed(seat, queue_max) {
            let outcome = self.put_off(seat, pending, now);
            self.record(outcome);
        }
    }

    pub(super) fn put_off(&self, seat: usize, pending: Box<Pending>, now: Millis) -> Outcome {
        let settings = &self.dispatcher.settings;
        let by = &*self.dispatcher.instance;
        let delivery = &pending.work.delivery;
        if delivery.is_expired(now) {
            return self.expired(pending, now);
        }
        let age_ms = u64::try_from(now.saturating_sub(delivery.since)).unwrap_or(0);
        if age_ms > settings.parked_age_ms_max {
            let text = "no free place at its account for too long";
            self.route_at(delivery, seat)
                .dead_lettered(ErrorKind::RateLimited)
                .one();
            return pending.dead_lettered(ErrorKind::RateLimited, "no_place", text, by, now);
        }
        self.route_at(delivery, seat).parked.one();
        let mut slot = self.seats[seat]
            .gate
            .reserve(now, settings.park_ms_min, settings.park_ms_max);
        if let Some(waited_ms) = pending.parked_for_ms(now) {
            // The slot did not hold: each further wait is twice as long, so that no event comes and goes in a loop.
            let wait_ms = waited_ms
                .saturating_mul(2)
                .min(Millis::from(settings.park_ms_max));
            slot = slot.max(now + wait_ms);
        }
        pending.parked(slot, by, now)
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

    pub(super) fn expired(&self, pending: Box<Pending>, now: Millis) -> Outcome {
        self.dispatcher
            .metrics
            .expired(pending.work.delivery.channel)
            .one();
        pending.expired(&self.dispatcher.instance, now)
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
