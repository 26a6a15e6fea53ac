//! The time between joining the inbox's group and leaving it.

use std::{
    collections::{BTreeSet, VecDeque},
    future::pending,
    pin::Pin,
    sync::Arc,
};

use posthaste_broker::{
    BrokerError, Consumed, Consumer, Hop, HopError, Hopper, NewRecord, Partition, Record, Signal, Ticket,
};
use posthaste_event::{Answer, Topic, Value, answer, clock};
use posthaste_killpoint as killpoint;
use posthaste_reconnect::Reconnect;
use posthaste_service::{Problem, Shutdown, auth::Caller, metrics::Refusal};
use serde_json::Map;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, error};

use super::{State, said};
use crate::{
    Intake, Origin,
    bulk::{Batch, Outcome},
    idempotency::CLOUD_EVENT_ID,
};

/// A hop takes no further answer beyond this size: far below what a transaction may hold.
const HOP_BYTES_MAX: usize = 512 << 10;

type Taking<'a> = Pin<Box<dyn Future<Output = Taken> + Send + 'a>>;

/// What became of a batch.
#[derive(Default)]
struct Taken {
    /// What cannot be taken at the moment, in its order.
    later: Vec<Consumed>,
    /// Why.
    hindrance: Option<String>,
}

/// A record that is taken in with others.
struct Item {
    consumed: Consumed,
    answer: Answer,
    /// Whether it is the data of a CloudEvent.
    is_wrapped: bool,
}

pub(super) struct Session<'a> {
    intake: &'a Arc<Intake>,
    state: &'a State,
    consumer: Box<dyn Consumer>,
    hopper: Arc<dyn Hopper>,
    /// Partitions that are ours.
    ours: BTreeSet<Partition>,
    waiting: VecDeque<Consumed>,
    waits: Reconnect,
    not_before: Option<Instant>,
}

impl<'a> Session<'a> {
    pub(super) fn new(intake: &'a Arc<Intake>, state: &'a State, consumer: Box<dyn Consumer>) -> Self {
        Self {
            intake,
            state,
            hopper: consumer.hopper(),
            consumer,
            ours: BTreeSet::new(),
            waiting: VecDeque::new(),
            waits: Reconnect::default(),
            not_before: None,
        }
    }

    /// Takes in what comes, batch after batch, so that events stay in order.
    pub(super) async fn run(mut self, shutdown: &Shutdown) -> Result<(), BrokerError> {
        let mut taking: Option<Taking<'a>> = None;
        let ended = loop {
            if taking.is_none() && self.not_before.is_none() && !self.waiting.is_empty() {
                taking = Some(self.next_batch());
            }
            let again_at = self.not_before;
            tokio::select! {
                () = shutdown.cancelled() => break Ok(()),
                taken = under_way(&mut taking) => {
                    taking = None;
                    self.settle(taken);
                }
                signal = self.consumer.next() => match signal {
                    Ok(signal) => self.take_in(signal),
                    Err(fault) => break Err(fault),
                },
                () = sleep_until(again_at.unwrap_or_else(Instant::now)), if again_at.is_some() => {
                    self.not_before = None;
                }
            }
        };
        // What waits goes back; what is under way is waited for, as long as the broker gives it.
        drop(self.waiting);
        let mut closing = self.consumer.close();
        loop {
            tokio::select! {
                () = &mut closing => break,
                _ = under_way(&mut taking) => taking = None,
            }
        }
        ended
    }

    fn take_in(&mut self, signal: Signal) {
        match signal {
            Signal::Assigned(assignments) => {
                self.ours.extend(assignments.iter().map(|given| given.partition));
            }
            Signal::Records(records) => self.waiting.extend(records),
            // Dropping what waits says that it will not be finished here; the next owner finds it open.
            Signal::Revoking(partitions) | Signal::Revoked(partitions) => {
                self.ours.retain(|partition| !partitions.contains(partition));
                self.waiting
                    .retain(|consumed| !partitions.contains(&consumed.record.partition));
            }
            // Only for consumers that keep a position.
            Signal::Read(_) | Signal::AtEnd(_) => {}
        }
    }

    fn settle(&mut self, taken: Taken) {
        match taken.hindrance {
            Some(reason) => {
                self.state.unwell(&reason);
                self.not_before = Some(Instant::now() + self.waits.next_wait());
            }
            None => {
                self.state.well();
                self.waits.reset();
            }
        }
        for consumed in taken.later.into_iter().rev() {
            if self.ours.contains(&consumed.record.partition) {
                self.waiting.push_front(consumed);
            }
        }
    }

    /// The next batch, on its way.
    fn next_batch(&mut self) -> Taking<'a> {
        let intake = self.intake;
        let mut batch = Batch::default();
        let mut items = Vec::new();
        while !batch.is_full()
            && let Some(consumed) = self.waiting.pop_front()
        {
            let item = add(intake, &mut batch, items.len() as u64, consumed);
            items.push(item);
        }
        Box::pin(take(Arc::clone(intake), Arc::clone(&self.hopper), batch, items))
    }
}

async fn under_way(taking: &mut Option<Taking<'_>>) -> Taken {
    match taking {
        Some(taking) => taking.await,
        None => pending().await,
    }
}

/// Checks a record and takes it into the batch.
fn add(intake: &Intake, batch: &mut Batch, index: u64, consumed: Consumed) -> Item {
    let record = &consumed.record;
    let mut answer = answer_to(intake, record);
    let size = record.value.as_ref().map_or(0, bytes::Bytes::len);
    if size > intake.settings.event_bytes_max {
        batch.add_too_long(intake, index);
        return Item {
            consumed,
            answer,
            is_wrapped: false,
        };
    }
    let said = said::read(record, &intake.settings);
    let is_wrapped = said.as_ref().is_ok_and(said::Said::is_wrapped);
    let prepared = match said {
        Ok(said) => {
            answer.cloud_event_id = said.cloud_event_id.as_deref().and_then(answer::said);
            let origin = Origin {
                // Whoever may write to the topic may send for every tenant: the broker's own rights say who that is.
                caller: Caller::anyone(),
                correlation_id: format!("inbox-{}-{}", record.partition.number, record.offset).into(),
                traceparent: said.traceparent,
                key: Some(said.key),
                firing_id: None,
            };
            let event = said.event.as_bytes();
            let place = batch.place(intake);
            intake.prepare(event, event, &origin, None, place, clock::now())
        }
        Err(errors) => {
            intake.metrics.refused(Refusal::Invalid).one();
            Err(Problem::fields(axum::http::StatusCode::BAD_REQUEST, errors))
        }
    };
    batch.take(index, prepared);
    Item {
        consumed,
        answer,
        is_wrapped,
    }
}

/// An answer to a record that says nothing yet.
fn answer_to(intake: &Intake, record: &Record) -> Answer {
    let key = record.key.as_deref().map(std::str::from_utf8);
    Answer {
        partition: record.partition.number,
        offset: record.offset,
        key: key.and_then(Result::ok).and_then(answer::said),
        cloud_event_id: None,
        code: 0,
        event_id: None,
        correlation_id: None,
        status: None,
        detail: None,
        errors: Vec::new(),
        at: clock::now(),
        by: intake.instance.to_string(),
        unknown: Map::new(),
    }
}

/// Makes the good ones durable, and finishes all that have an answer.
async fn take(intake: Arc<Intake>, hopper: Arc<dyn Hopper>, batch: Batch, items: Vec<Item>) -> Taken {
    let settled = batch.settle(intake, false).await;
    let mut taken = Taken::default();
    let mut hops: Vec<(Hop, usize)> = Vec::new();
    for (settled, mut item) in settled.items.into_iter().zip(items) {
        match settled.outcome {
            Outcome::Accepted {
                event_id,
                correlation_id,
                status,
            } => {
                item.answer.code = axum::http::StatusCode::CREATED.as_u16();
                item.answer.event_id = Some(event_id);
                item.answer.correlation_id = Some(correlation_id);
                item.answer.status = Some(status);
            }
            // The store or the broker is away, or somebody else who died has the claim.
            Outcome::Refused(problem) if problem.retry_after_seconds.is_some() => {
                taken.hindrance.get_or_insert(problem.detail);
                taken.later.push(item.consumed);
                continue;
            }
            Outcome::Refused(problem) => item.refuse(*problem),
        }
        let (ticket, answer) = (item.consumed.ticket, item.answer);
        collect(&mut hops, ticket, &answer);
    }
    killpoint::at(killpoint::TAKEN);
    for (hop, _) in hops {
        match hopper.hop(hop).await {
            Ok(()) => {}
            // The next owner of the partition finds the claims.
            Err(HopError::Fenced | HopError::Closed | HopError::NoRoom) => {
                debug!("answers to the inbox are void");
            }
            Err(HopError::TooLarge { bytes }) => {
                error!(bytes, "answers to the inbox are larger than the broker takes");
            }
        }
    }
    taken
}

impl Item {
    fn refuse(&mut self, problem: Problem) {
        let errors = problem.errors.into_iter().map(|mut error| {
            if self.is_wrapped && error.field != CLOUD_EVENT_ID {
                error.field.insert_str(0, said::DATA);
            }
            error
        });
        let answer = &mut self.answer;
        answer.event_id = problem.event_id;
        *answer = answer
            .clone()
            .refused(problem.status.as_u16(), &problem.detail, errors.collect());
    }
}

/// Adds an answer to the last hop of its partition, or to a new one: losing a partition voids nothing of another.
fn collect(hops: &mut Vec<(Hop, usize)>, ticket: Ticket, answer: &Answer) {
    let key = match &answer.event_id {
        Some(id) => id.clone(),
        None => format!("inbox/{}/{}", answer.partition, answer.offset),
    };
    let value = Value::Answer(Box::new(answer.clone()))
        .encode()
        .unwrap_or_default();
    let bytes = key.len() + value.len();
    let output = NewRecord::new(Topic::Status, key, value);
    let partition = ticket.partition();
    let has_room = |(hop, so_far): &&mut (Hop, usize)| {
        let first = hop.completes.first();
        first.is_some_and(|first| first.partition() == partition)
            && so_far.saturating_add(bytes) <= HOP_BYTES_MAX
    };
    match hops.iter_mut().rev().find(has_room) {
        Some((hop, so_far)) => {
            hop.completes.push(ticket);
            hop.outputs.push(output);
            *so_far += bytes;
        }
        None => hops.push((Hop::one(ticket, vec![output]), bytes)),
    }
}
