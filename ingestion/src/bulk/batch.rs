//! Items that are made durable together.

use std::{sync::Arc, time::Duration};

use axum::http::StatusCode;
use posthaste_broker::{AppendError, NewRecord};
use posthaste_event::{Channel, FieldError, Priority, Status, clock, partition::Place};
use posthaste_service::{Problem, metrics::Refusal};
use tokio::time::{Instant, sleep};

use super::answer::{Item, Outcome};
use crate::{Intake, Origin};

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
    status: Status,
    channel: Channel,
    priority: Priority,
}

/// Items in the order of the request, and the records of the good ones.
#[derive(Debug, Default)]
pub(super) struct Batch {
    items: Vec<(u64, Result<Good, Outcome>)>,
    records: Vec<NewRecord>,
    bytes: usize,
    /// Where those go whose key is ours to choose.
    place: Option<Place>,
}

/// What became of a batch.
#[derive(Debug)]
pub(super) struct Settled {
    pub(super) items: Vec<Item>,
    /// The broker did not take it: going on would only wait for the same again.
    pub(super) is_refused_by_broker: bool,
}

impl Batch {
    pub(super) const fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    pub(super) const fn is_full(&self) -> bool {
        self.items.len() >= ITEMS_MAX || self.bytes >= BYTES_ENOUGH
    }

    /// Checks an item and takes it in, whatever comes of it.
    pub(super) fn add(&mut self, intake: &Intake, origin: &Origin, index: u64, json: &[u8]) {
        if json.len() > intake.settings.event_bytes_max {
            return self.add_too_long(intake, index);
        }
        if self.records.is_empty() {
            self.place = intake.broker.next_place(ITEMS_MAX);
        }
        match intake.prepare(json, origin, self.place, clock::now()) {
            Ok((delivery, record)) => {
                self.bytes += record.key.len() + record.value.as_ref().map_or(0, bytes::Bytes::len);
                self.records.push(record);
                let good = Good {
                    event_id: delivery.id,
                    status: delivery.status,
                    channel: delivery.channel,
                    priority: delivery.priority,
                };
                self.items.push((index, Ok(good)));
            }
            Err(problem) => self.refuse(index, problem),
        }
    }

    /// Takes in an item that was too long to be read.
    pub(super) fn add_too_long(&mut self, intake: &Intake, index: u64) {
        intake.metrics.refused(Refusal::TooLarge).one();
        self.refuse(index, too_long(intake));
    }

    fn refuse(&mut self, index: u64, problem: Problem) {
        self.items.push((index, Err(Outcome::refused(problem))));
    }

    /// The errors of all that is not good, with their places; `None` when all is good.
    pub(super) fn faults(&self) -> Option<Vec<FieldError>> {
        let mut faults = Vec::new();
        for (index, item) in &self.items {
            let Err(Outcome::Refused(problem)) = item else {
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

    /// Makes the good items durable.
    pub(super) async fn settle(self, intake: Arc<Intake>) -> Settled {
        let appended = append(&intake, self.records).await;
        let items = self
            .items
            .into_iter()
            .map(|(index, item)| Item {
                index,
                outcome: match (item, &appended) {
                    (Err(refused), _) => refused,
                    (Ok(good), Ok(())) => {
                        intake.metrics.accepted(good.channel, good.priority).one();
                        Outcome::Accepted {
                            event_id: good.event_id,
                            status: good.status,
                        }
                    }
                    (Ok(good), Err(error)) => Outcome::refused(intake.not_durable(&good.event_id, error)),
                },
            })
            .collect();
        Settled {
            items,
            is_refused_by_broker: appended.is_err(),
        }
    }
}

/// A full broker is waited for: whoever sends in bulk would rather be slowed down than refused.
async fn append(intake: &Intake, records: Vec<NewRecord>) -> Result<(), AppendError> {
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
