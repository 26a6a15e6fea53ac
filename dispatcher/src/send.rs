//! One send, and the recording of its outcome.

use std::{
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt as _;
use posthaste_broker::{Hop, HopError, Hopper};
use posthaste_event::{Delivery, ErrorKind, Failure, Millis, clock, delivery::Policy};
use posthaste_killpoint as killpoint;
use posthaste_provider::{Account, Message, Receipt};
use posthaste_service::Metrics;
use tokio::time::Instant;
use tracing::{debug, error, warn};

use crate::{
    gate::Pass,
    pending::{Outcome, Pending},
    unsettled::{Place, Refused},
};

/// What the tasks of one membership share.
pub struct Recorder {
    /// Puts outcomes through.
    pub hopper: Arc<dyn Hopper>,
    /// This process's name, for `delivery.by`.
    pub instance: Arc<str>,
    /// Where sends are counted.
    pub metrics: Arc<Metrics>,
    /// Sends that are over and whose outcome is not durable.
    pub unrecorded: AtomicUsize,
    /// Shortest wait of a parked event, in milliseconds.
    pub park_ms_min: u32,
}

/// What to do with an event that must not go out twice.
enum Started {
    Send(Box<Pending>),
    Record(Outcome),
    GiveBack,
}

/// How the finishing of a record ended.
pub struct Finished {
    /// Which record.
    pub place: Place,
    /// The outcome, if the broker did not take it.
    pub refused: Option<Refused>,
}

impl Recorder {
    /// Sends an event, once, and records what came of it.
    pub async fn send(
        &self,
        mut pending: Box<Pending>,
        account: Arc<Account>,
        mut pass: Pass,
    ) -> Option<Refused> {
        let by = &*self.instance;
        let message = match pending.message(&account) {
            Ok(message) => message,
            Err(reason) => {
                drop(pass);
                let now = clock::now();
                let channel = pending.work.delivery.channel;
                let route = self.metrics.route(channel, Some(account.provider.name()));
                route.dead_lettered(ErrorKind::Unreadable).one();
                let outcome = pending.dead_lettered(ErrorKind::Unreadable, "unreadable", &reason, by, now);
                return self.record(outcome).await;
            }
        };
        if pending.work.delivery.policy == Policy::NoDuplicate {
            pending = match self.start(pending).await {
                Started::Send(pending) => pending,
                Started::Record(outcome) => {
                    drop(pass);
                    return self.record(outcome).await;
                }
                Started::GiveBack => return None,
            };
        }
        pass.begin();
        let began = Instant::now();
        let result = attempt(&account, &message).await;
        let took = began.elapsed();
        // Counted before the place is free, so that whoever takes it sees the count.
        let _unrecorded = Unrecorded::new(&self.unrecorded);
        drop(pass);
        let now = clock::now();
        self.tell(&pending.work.delivery, &account, &result, took, now);
        let outcome = match result {
            Ok(receipt) => pending.sent(&account, receipt.message_id, by, now),
            Err(failure) => pending.failed(account.provider.name(), &account.name, failure, by, now),
        };
        self.record(outcome).await
    }

    /// Marks an event that must not go out twice, before the call: a crash after this leaves it in doubt.
    async fn start(&self, pending: Box<Pending>) -> Started {
        match self.hopper.start(&pending.ticket).await {
            // The mark may have taken as long as the broker was away.
            Ok(()) if pending.work.delivery.is_expired(clock::now()) => {
                self.metrics.expired(pending.work.delivery.channel).one();
                Started::Record(pending.expired(&self.instance, clock::now()))
            }
            Ok(()) => Started::Send(pending),
            Err(HopError::NoRoom) => {
                let now = clock::now();
                let delivery = &pending.work.delivery;
                let route = self.metrics.route(delivery.channel, delivery.provider.as_deref());
                route.parked.one();
                let due = now.saturating_add(Millis::from(self.park_ms_min));
                Started::Record(pending.parked(due, &self.instance, now))
            }
            Err(void @ (HopError::Fenced | HopError::Closed | HopError::TooLarge { .. })) => {
                debug!(event.id = %pending.work.delivery.id, %void, "a send that must not be repeated does not begin");
                Started::GiveBack
            }
        }
    }

    /// Counts and logs what came of a send.
    fn tell(
        &self,
        before: &Delivery,
        account: &Account,
        result: &Result<Receipt, Failure>,
        took: Duration,
        now: Millis,
    ) {
        let (channel, provider) = (before.channel, account.provider.name());
        let route = self.metrics.route(channel, Some(provider));
        route.call.observe(took);
        match result {
            Ok(_) => {
                route.sent.one();
                self.metrics
                    .latency(channel, before.priority, before.attempt == 0)
                    .observe_ms(now.saturating_sub(before.since));
                debug!(
                    event.id = %before.id, trace.id = before.trace_id(), provider, account = account.name,
                    "event sent"
                );
            }
            Err(failure) => {
                route.failed(failure.kind).one();
                debug!(
                    event.id = %before.id, trace.id = before.trace_id(), provider, account = account.name,
                    kind = %failure.kind, code = failure.code, "send failed"
                );
            }
        }
    }

    /// Hops an outcome. It is given back if the broker did not take it.
    pub async fn record(&self, outcome: Outcome) -> Option<Refused> {
        let Outcome { ticket, output } = outcome;
        let (partition, offset) = (ticket.partition(), ticket.offset());
        match self.hopper.hop(Hop::one(ticket, vec![output.clone()])).await {
            Ok(()) => None,
            Err(void @ (HopError::Fenced | HopError::Closed | HopError::NoRoom)) => {
                debug!(%partition, offset, %void, "an outcome is void");
                Some(Refused::Void(output))
            }
            Err(HopError::TooLarge { bytes }) => {
                warn!(
                    %partition, offset, bytes, "an outcome for {} is larger than the broker takes; the event is given \
                     up: raise the broker's record limit above the payload limit", output.topic
                );
                Some(Refused::TooLarge { output, bytes })
            }
        }
    }
}

/// Runs what finishes a record. A panic in it is an error of ours: the ticket goes back, and the record with it.
pub async fn finishing(place: Place, work: impl Future<Output = Option<Refused>>) -> Finished {
    let refused = AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(|_panic| {
        error!(partition = %place.0, offset = place.1, "finishing a record panicked; it is handed out again");
        None
    });
    Finished { place, refused }
}

/// Calls the provider within the account's time limit. A panic in it may have come after the request left.
async fn attempt(account: &Account, message: &Message) -> Result<Receipt, Failure> {
    let provider = account.provider.name();
    killpoint::at(killpoint::BEFORE_CALL);
    let call = AssertUnwindSafe(account.provider.send(message)).catch_unwind();
    let answer = tokio::time::timeout(account.timeout, call).await;
    killpoint::at(killpoint::AFTER_CALL);
    match answer {
        Ok(Ok(answer)) => answer,
        Ok(Err(_panic)) => {
            error!(event.id = %message.event_id, provider, "provider {provider} panicked while sending");
            let text = "the provider's code panicked";
            Err(Failure::new(
                ErrorKind::Ambiguous,
                provider,
                Some("panic".to_owned()),
                text,
            ))
        }
        Err(_elapsed) => {
            let text = format!("no answer within {} ms", account.timeout.as_millis());
            Err(Failure::new(
                ErrorKind::Ambiguous,
                provider,
                Some("timeout".to_owned()),
                &text,
            ))
        }
    }
}

struct Unrecorded<'a>(&'a AtomicUsize);

impl<'a> Unrecorded<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Unrecorded<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
