//! Items that are made durable together.

use std::{sync::Arc, time::Duration};

use axum::http::StatusCode;
use posthaste_broker::{AppendError, NewRecord};
use posthaste_event::{Channel, Delivery, FieldError, Priority, Status, clock, partition::Place};
use posthaste_killpoint as killpoint;
use posthaste_service::{Problem, auth::Caller, metrics::Refusal};
use posthaste_store::Claim;
use tokio::time::{Instant, sleep};

use super::{
    answer::{Item, Outcome},
    keyed::{self, Tried},
};
use crate::{Intake, Origin, Prepared, idempotency::Asked};

/// Most items of a batch: enough that an fsync or a request to Kafka costs little for each.
const ITEMS_MAX: usize = 1_000;
/// A batch is closed when its records have this many bytes.
const BYTES_ENOUGH: usize = 1 << 20;
/// How long a batch waits for a broker that has no place now, and how long between two looks.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(5);

#[derive(Debug)]
struct Good {
    event_id: String,
    correlation_id: String,
    status: Status,
    channel: Channel,
    priority: Priority,
}

#[derive(Debug)]
enum Kept {
    /// Its record is among those to append.
    Good(Good),
    /// It has keys, which are tried first.
    Keyed,
    Refused(Outcome),
}

/// Items in the order of the request, and the records of the good ones.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    items: Vec<(u64, Kept)>,
    records: Vec<NewRecord>,
    /// Those with keys, in the same order.
    asked: Vec<Asked>,
    bytes: usize,
    /// Where those go whose key is ours to choose.
    place: Option<Place>,
}

/// What became of a batch.
#[derive(Debug)]
pub(crate) struct Settled {
    pub(crate) items: Vec<Item>,
    /// The broker did not take it: going on would only wait for the same again.
    pub(super) is_refused_by_broker: bool,
}

impl Settled {
    /// Names the events as whoever asked calls them.
    pub(crate) fn show_to(&mut self, caller: &Caller) {
        if caller.bound_to().is_none() {
            return;
        }
        for item in &mut self.items {
            let id = match &mut item.outcome {
                Outcome::Accepted { event_id, .. } => Some(event_id),
                Outcome::Refused(problem) => problem.event_id.as_mut(),
            };
            if let Some(id) = id {
                *id = caller.shown(id).to_owned();
            }
        }
    }
}

impl Batch {
    pub(super) const fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    pub(crate) const fn is_full(&self) -> bool {
        self.items.len() >= ITEMS_MAX || self.bytes >= BYTES_ENOUGH
    }

    /// Checks an item and takes it in, whatever comes of it.
    pub(super) fn add(&mut self, intake: &Intake, origin: &Origin, index: u64, json: &[u8]) {
        if json.len() > intake.settings.event_bytes_max {
            return self.add_too_long(intake, index);
        }
        let place = self.place(intake);
        let prepared = intake.prepare(json, json, origin, Some(index), place, clock::now());
        self.take(index, prepared);
    }

    /// Where the next item goes, if it is free to choose.
    pub(crate) fn place(&mut self, intake: &Intake) -> Option<Place> {
        if self.place.is_none() {
            self.place = intake.broker.next_place(ITEMS_MAX);
        }
        self.place
    }

    /// Takes an item in that was checked, whatever came of it.
    pub(crate) fn take(&mut self, index: u64, prepared: Result<Prepared, Problem>) {
        match prepared {
            Ok(Prepared {
                delivery,
                record,
                keys,
                ..
            }) => {
                self.bytes += record.key.len() + record.value.as_ref().map_or(0, bytes::Bytes::len);
                let kept = match keys {
                    None => {
                        self.records.push(record);
                        Kept::Good(Good::of(delivery))
                    }
                    Some(keys) => {
                        self.asked.push(Asked {
                            delivery,
                            record,
                            keys,
                        });
                        Kept::Keyed
                    }
                };
                self.items.push((index, kept));
            }
            Err(problem) => self.refuse(index, problem),
        }
    }

    /// Takes in an item that was too long to be read.
    pub(crate) fn add_too_long(&mut self, intake: &Intake, index: u64) {
        intake.metrics.refused(Refusal::TooLarge).one();
        self.refuse(index, too_long(intake));
    }

    fn refuse(&mut self, index: u64, problem: Problem) {
        self.items.push((index, Kept::Refused(Outcome::refused(problem))));
    }

    /// The errors of all that is not good, with their places; `None` when all is good.
    pub(super) fn faults(&self) -> Option<Vec<FieldError>> {
        let mut faults = Vec::new();
        for (index, item) in &self.items {
            let Kept::Refused(Outcome::Refused(problem)) = item else {
                continue;
            };
            if problem.errors.is_empty() {
                faults.push(FieldError::new(
                    format!("[{index}]"),
                    &problem.detail,
                    "an event that can be taken",
                ));
            }
            faults.extend(problem.errors.iter().map(|error| {
                FieldError::new(
                    format!("[{index}].{}", error.field),
                    &error.problem,
                    &error.accepted,
                )
            }));
        }
        (!faults.is_empty()).then_some(faults)
    }

    /// Makes the good items durable; with `all_or_nothing` none of them when a key is in the way.
    pub(crate) async fn settle(self, intake: Arc<Intake>, all_or_nothing: bool) -> Settled {
        let mut records = self.records;
        let patience = intake.patience();
        let tried = match self.asked.is_empty() {
            true => Vec::new(),
            false => keyed::try_all(&intake, self.asked, all_or_nothing, &mut records).await,
        };
        let is_hindered = all_or_nothing
            && tried
                .iter()
                .any(|tried| matches!(tried, Tried::Decided(Outcome::Refused(_))));
        let has_claims = tried.iter().any(|tried| matches!(tried, Tried::Ours { .. }));
        if has_claims {
            killpoint::at(killpoint::CLAIMED);
        }
        let appended = match is_hindered {
            true => Ok(()),
            false => append(&intake, records).await,
        };
        if has_claims {
            killpoint::at(killpoint::APPENDED);
        }
        settle_claims(&intake, &tried, &appended).await;
        let hindrance = is_hindered.then(|| refusal_among(&tried)).flatten();
        let mut tried = tried.into_iter();
        let mut items = Vec::with_capacity(self.items.len());
        for (index, kept) in self.items {
            let outcome = match (kept, &hindrance) {
                (Kept::Refused(outcome), _) => outcome,
                (Kept::Good(_), Some(problem)) => Outcome::refused(problem.clone()),
                (Kept::Good(good), None) => good.settled(&intake, &appended),
                (Kept::Keyed, _) => match tried.next() {
                    Some(Tried::Ours { delivery, .. }) => Good::of(*delivery).settled(&intake, &appended),
                    Some(Tried::Decided(outcome)) => outcome,
                    Some(Tried::Later(asked)) => keyed::take_later(&intake, asked, patience).await,
                    None => Outcome::refused(intake.full()),
                },
            };
            items.push(Item { index, outcome });
        }
        Settled {
            items,
            is_refused_by_broker: appended.is_err(),
        }
    }
}

impl Good {
    fn of(delivery: Delivery) -> Self {
        Self {
            event_id: delivery.id,
            correlation_id: delivery.correlation_id,
            status: delivery.status,
            channel: delivery.channel,
            priority: delivery.priority,
        }
    }

    fn settled(self, intake: &Intake, appended: &Result<(), AppendError>) -> Outcome {
        match appended {
            Ok(()) => {
                intake.metrics.accepted(self.channel, self.priority).one();
                Outcome::Accepted {
                    event_id: self.event_id,
                    correlation_id: self.correlation_id,
                    status: self.status,
                }
            }
            Err(error) => Outcome::refused(intake.not_durable(&self.event_id, error)),
        }
    }
}

/// Confirms the claims of what was appended; gives them up where surely nothing was.
async fn settle_claims(intake: &Intake, tried: &[Tried], appended: &Result<(), AppendError>) {
    let ours: Vec<Claim> = tried
        .iter()
        .filter_map(|tried| match tried {
            Tried::Ours { claims, .. } => Some(claims),
            Tried::Decided(_) | Tried::Later(_) => None,
        })
        .flatten()
        .cloned()
        .collect();
    match appended {
        Ok(()) => intake.confirm_soon(&ours).await,
        Err(AppendError::Unconfirmed { .. }) => {}
        Err(AppendError::Full | AppendError::TooLarge { .. }) => intake.release(&ours).await,
    }
}

fn refusal_among(tried: &[Tried]) -> Option<Problem> {
    tried.iter().find_map(|tried| match tried {
        Tried::Decided(Outcome::Refused(problem)) => Some(Problem {
            errors: Vec::new(),
            ..(**problem).clone()
        }),
        _ => None,
    })
}

/// A full broker is waited for: whoever sends in bulk would rather be slowed down than refused.
pub(crate) async fn append(intake: &Intake, records: Vec<NewRecord>) -> Result<(), AppendError> {
    if records.is_empty() {
        return Ok(());
    }
    let until = Instant::now() + PATIENCE;
    loop {
        // Cheap: the bytes are counted references.
        match intake.broker.append(records.clone()).await {
            Err(AppendError::Full) if Instant::now() < until => sleep(PAUSE).await,
            result => return result,
        }
    }
}

fn too_long(intake: &Intake) -> Problem {
    Problem::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        format!(
            "the event is too large; accepted: up to {} bytes",
            intake.settings.event_bytes_max
        ),
    )
}
