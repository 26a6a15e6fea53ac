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
use posthaste_broker::{Hop, HopError, Hopper, NewRecord};
use posthaste_definitions::Suppressions;
use posthaste_event::{Delivery, ErrorKind, Failure, Millis, clock, delivery::Policy};
use posthaste_killpoint as killpoint;
use posthaste_provider::{Account, Message, Receipt};
use posthaste_sealing::Keys;
use posthaste_service::{Metrics, Requests};
use posthaste_store::Devices;
use tokio::time::Instant;
use tracing::{debug, error, warn};

use crate::{
    devices,
    gate::Pass,
    open::Opened,
    pending::{Outcome, Pending},
    suppress::Kept,
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
    /// What was asked of events.
    pub requests: Arc<Requests>,
    /// To whom nothing is sent.
    pub suppressions: Arc<Suppressions>,
    /// Where a push to a user goes.
    pub devices: Arc<dyn Devices>,
    /// Whether those are suppressed of whom a provider reports it.
    pub suppresses_reported: bool,
    /// What sealed payloads open with.
    pub keys: Arc<Keys>,
    /// Sends that are over and whose outcome is not durable.
    pub unrecorded: AtomicUsize,
    /// Shortest wait of a parked event, in milliseconds.
    pub park_ms_min: u32,
}

/// An event that goes out, and a note about recipients who were left out.
type Allowed = (Box<Pending>, Option<Box<NewRecord>>);

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
    /// How.
    pub ended: Ended,
}

/// How the finishing of a record ended.
pub enum Ended {
    /// The outcome is durable.
    Recorded,
    /// The broker did not take the outcome; the record is given back.
    Refused(Refused),
    /// Nothing was to be recorded; the record is given back.
    GivenBack,
    /// The send is over; the lane must say more in the hop that records it.
    Answered(Outcome, Unrecorded),
}

impl Recorder {
    /// Sends an event, once, and records what came of it. Of an event with a place in an order it is given to the lane.
    pub async fn send(
        self: &Arc<Self>,
        mut pending: Box<Pending>,
        account: Arc<Account>,
        mut pass: Pass,
    ) -> Ended {
        let by = &*self.instance;
        let is_ordered = pending.work.delivery.order.is_some();
        let Opened { mut message, clear } = match Opened::of(&pending.work, &account, &self.keys) {
            Ok(opened) => opened,
            Err(why) => {
                drop(pass);
                let outcome = self.unsent(pending, &account, why, clock::now());
                return self.conclude(outcome, is_ordered).await;
            }
        };
        if let Some(user) = devices::user_of(&message) {
            drop(pass);
            // In a box: most events are for nobody who has devices, and need no room for this.
            let outcome = Box::pin(self.for_devices(pending, &account, user)).await;
            return self.conclude(outcome, is_ordered).await;
        }
        if pending.work.delivery.policy == Policy::NoDuplicate {
            pending = match self.start(pending, &account).await {
                Started::Send(pending) => pending,
                Started::Record(outcome) => {
                    drop(pass);
                    return self.conclude(outcome, is_ordered).await;
                }
                Started::GiveBack => return Ended::GivenBack,
            };
        }
        // A busy machine, or the mark above while the broker was away, may have taken a while.
        pending = match self.ends_unsent(pending, clock::now()) {
            Ok(outcome) => {
                drop(pass);
                return self.conclude(outcome, is_ordered).await;
            }
            Err(pending) => pending,
        };
        if !self.hopper.is_sure(&pending.ticket) && !self.hopper.still_holds(&pending.ticket).await {
            return Ended::GivenBack;
        }
        let (pending, left_out) = match self.allowed(pending, &mut message) {
            Ok(allowed) => allowed,
            Err(outcome) => {
                drop(pass);
                return self.conclude(*outcome, is_ordered).await;
            }
        };
        pass.begin();
        let began = Instant::now();
        let result = attempt(&account, &message).await;
        let took = began.elapsed();
        // Counted before the place is free, so that whoever takes it sees the count.
        let unrecorded = Unrecorded::new(self);
        drop(pass);
        let now = clock::now();
        self.tell(&pending.work.delivery, &account, &result, took, now);
        let mut outcome = match result {
            Ok(receipt) => pending.sent(&account, receipt.message_id, by, now),
            Err(failure) => {
                let failure = Opened::covered(clear.as_deref(), account.provider.name(), failure);
                self.refused(*pending, &account, &message, failure, now)
            }
        };
        let left_out = left_out.filter(|_| outcome.is_final());
        outcome.notes.extend(left_out.map(|note| *note));
        if is_ordered {
            return Ended::Answered(outcome, unrecorded);
        }
        self.record(outcome).await
    }

    /// Takes recipients out who must get nothing; `Err` when nobody is left. The note says who was left out.
    fn allowed(&self, pending: Box<Pending>, message: &mut Message) -> Result<Allowed, Box<Outcome>> {
        if self.suppressions.is_empty() {
            return Ok((pending, None));
        }
        match self.without_suppressed(pending, message, clock::now()) {
            Kept::All(kept) => Ok((kept, None)),
            Kept::Some(kept, note) => Ok((kept, Some(note))),
            Kept::None(outcome) => Err(outcome),
        }
    }

    /// What comes of a send that failed, and of what the provider says of the recipient.
    fn refused(
        &self,
        pending: Pending,
        account: &Account,
        message: &Message,
        failure: Failure,
        now: Millis,
    ) -> Outcome {
        let provider = account.provider.name();
        let suppressed = self.suppresses(&pending.work.delivery, message, provider, &failure, now);
        let mut outcome = pending.failed(provider, &account.name, failure, &self.instance, now);
        outcome.notes.extend(suppressed);
        outcome
    }

    /// What ends without a send: it was withdrawn, or its time has passed. `Err` is one that goes on.
    pub fn ends_unsent(&self, pending: Box<Pending>, now: Millis) -> Result<Outcome, Box<Pending>> {
        let delivery = &pending.work.delivery;
        if self.requests.cancels(delivery) {
            self.metrics.cancelled(delivery.channel).one();
            debug!(event.id = %delivery.id, trace.id = delivery.trace_id(), "event is withdrawn");
            return Ok(pending.cancelled(&self.instance, now));
        }
        if delivery.is_expired(now) {
            self.metrics.expired(delivery.channel).one();
            return Ok(pending.expired(&self.instance, now));
        }
        Err(pending)
    }

    /// Adds to the outcome of an event that is final with it that nothing more is asked of the event.
    pub fn forget_requests(&self, outcome: &mut Outcome) {
        if !self.requests.is_empty() && outcome.is_final() {
            let (key, value) = (&outcome.output.key, outcome.output.value.as_deref());
            outcome.notes.extend(self.requests.forgets(key, value, None));
        }
    }

    async fn conclude(self: &Arc<Self>, outcome: Outcome, is_ordered: bool) -> Ended {
        if is_ordered {
            return Ended::Answered(outcome, Unrecorded::new(self));
        }
        self.record(outcome).await
    }

    /// Marks an event that must not go out twice, before the call: a crash after this leaves it in doubt.
    async fn start(&self, pending: Box<Pending>, account: &Account) -> Started {
        match self.hopper.start(&pending.ticket).await {
            Ok(()) => Started::Send(pending),
            Err(HopError::NoRoom) => {
                let now = clock::now();
                let delivery = &pending.work.delivery;
                let route = self.metrics.route(delivery.channel, delivery.provider.as_deref());
                route.parked.one();
                let due = now.saturating_add(Millis::from(self.park_ms_min));
                Started::Record(pending.parked(due, &account.name, &self.instance, now))
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
    pub async fn record(&self, mut outcome: Outcome) -> Ended {
        self.forget_requests(&mut outcome);
        let Outcome {
            ticket,
            output,
            notes,
        } = outcome;
        let (partition, offset) = (ticket.partition(), ticket.offset());
        let mut outputs = vec![output.clone()];
        outputs.extend(notes);
        let hop = Hop {
            may_wait: true,
            ..Hop::one(ticket, outputs)
        };
        match self.hopper.hop(hop).await {
            Ok(()) => Ended::Recorded,
            Err(void @ (HopError::Fenced | HopError::Closed | HopError::NoRoom)) => {
                debug!(%partition, offset, %void, "an outcome is void");
                Ended::Refused(Refused::Void(output))
            }
            Err(HopError::TooLarge { bytes }) => {
                warn!(
                    %partition, offset, bytes, "an outcome for {} is larger than the broker takes; the event is given \
                     up: raise the broker's record limit above the payload limit", output.topic
                );
                Ended::Refused(Refused::TooLarge { output, bytes })
            }
        }
    }
}

/// Runs what finishes a record. A panic in it is an error of ours: the ticket goes back, and the record with it.
///
/// Not `async`: each block that awaits what it was given has room for it twice, and there are as many of these as events are
/// under way.
pub fn finishing(
    place: Place,
    work: impl Future<Output = Ended> + Send,
) -> impl Future<Output = Finished> + Send {
    AssertUnwindSafe(work).catch_unwind().map(move |ended| {
        let ended = ended.unwrap_or_else(|_panic| {
            error!(partition = %place.0, offset = place.1, "finishing a record panicked; it is handed out again");
            Ended::GivenBack
        });
        Finished { place, ended }
    })
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

/// Counts a send that is over and whose outcome is not durable.
pub struct Unrecorded(Arc<Recorder>);

impl Unrecorded {
    fn new(recorder: &Arc<Recorder>) -> Self {
        recorder.unrecorded.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(recorder))
    }
}

impl Drop for Unrecorded {
    fn drop(&mut self) {
        self.0.unrecorded.fetch_sub(1, Ordering::Relaxed);
    }
}
