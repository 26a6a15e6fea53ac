//! An event in a lane's hands, and the records that can become of it.

use bytes::Bytes;
use posthaste_broker::{Consumed, NewRecord, Record, Ticket};
use posthaste_event::{
    Delivery, Failure, Millis, Priority, Status, Topic, Value, Work,
    delivery::{Policy, WaitReason, Wheel},
    failure::ErrorKind,
    keys,
    record::Foreign,
    record_key,
};
use posthaste_provider::Account;
use serde_json::Error as JsonError;

use crate::{unsettled::Place, window::Waiting};

/// A record that was taken from the lane and has no outcome yet.
#[derive(Debug)]
pub struct Pending {
    /// The duty to finish it.
    pub ticket: Ticket,
    /// The record's key, which every outcome keeps.
    pub key: Bytes,
    /// The event and its delivery.
    pub work: Work,
    /// Size of the record, in bytes.
    pub bytes: usize,
    /// Whether somebody else may have sent it, and crashed before that was recorded.
    pub is_doubtful: bool,
}

/// A finished record: its ticket and what is appended in the hop that spends it.
#[derive(Debug)]
pub struct Outcome {
    /// The duty that ends.
    pub ticket: Ticket,
    /// What became of the event.
    pub output: NewRecord,
    /// What else is said in that hop: of the event's ordering key.
    pub notes: Vec<NewRecord>,
}

impl Outcome {
    /// Whether the event is final with it.
    pub fn is_final(&self) -> bool {
        matches!(self.output.topic, Topic::Status | Topic::DeadLetter)
    }
}

impl Waiting for Box<Pending> {
    fn tenant(&self) -> &str {
        &self.work.delivery.tenant
    }

    fn priority(&self) -> Priority {
        self.work.delivery.priority
    }

    fn is_reserved(&self) -> bool {
        self.parked_for_ms(0).is_some()
    }

    fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Pending {
    /// Reads a record of a lane. What is not an event on its way becomes a foreign record on the dead-letter topic.
    ///
    /// # Errors
    /// The outcome of a record that cannot be read.
    pub fn read(consumed: Consumed, prefix: &str, is_doubtful: bool) -> Result<Box<Self>, Box<Outcome>> {
        let Consumed { record, ticket } = consumed;
        let foreign = match record.decode(prefix) {
            Ok(Value::Work(work)) => {
                let bytes = size(&record);
                let key = match record.key {
                    Some(key) => key,
                    None => Bytes::copy_from_slice(work.delivery.id.as_bytes()),
                };
                // A send that must not happen twice is marked before it begins: without the mark there was none.
                let is_doubtful = is_doubtful && work.delivery.policy != Policy::NoDuplicate;
                return Ok(Box::new(Self {
                    ticket,
                    key,
                    work,
                    bytes,
                    is_doubtful,
                }));
            }
            Ok(_) => Foreign::new(
                record.partition.topic.name(prefix),
                record.partition.number,
                record.offset,
                record.key.as_deref(),
                record.value.as_deref(),
                "not an event on its way: {delivery, event} is expected here".to_owned(),
            ),
            Err(foreign) => *foreign,
        };
        let key = record
            .key
            .unwrap_or_else(|| Bytes::from(format!("{}@{}", record.partition, record.offset)));
        let value = encoded(Value::Foreign(foreign).encode());
        Err(Box::new(Outcome {
            ticket,
            output: NewRecord::new(Topic::DeadLetter, key, value),
            notes: Vec::new(),
        }))
    }

    /// Where its record stands.
    pub fn place(&self) -> Place {
        (self.ticket.partition(), self.ticket.offset())
    }

    /// Its next record is larger than the broker takes; see [`too_large`].
    pub fn too_large(self, bytes: usize, by: &str, now: Millis) -> Outcome {
        too_large(self.ticket, self.key, self.work.delivery, bytes, by, now)
    }

    /// Whether it has an ordering key and its place is not known yet. Without one the record's key is the event's own.
    pub fn wants_place(&self) -> bool {
        let delivery = &self.work.delivery;
        delivery.order.is_none()
            && *self.key != *delivery.id.as_bytes()
            && record_key::event_id(&self.key) != Some(&delivery.id)
    }

    /// If it was parked for want of a place and comes back now: how long it waited, in milliseconds.
    pub fn parked_for_ms(&self, now: Millis) -> Option<Millis> {
        let delivery = &self.work.delivery;
        let wheel = delivery.wheel.as_ref()?;
        (wheel.reason == WaitReason::Rate).then(|| now.saturating_sub(delivery.at).max(0))
    }

    /// The provider accepted it.
    pub fn sent(self, account: &Account, message_id: Option<String>, by: &str, now: Millis) -> Outcome {
        let provider = account.provider.name();
        let delivery = self
            .work
            .delivery
            .sent(provider, &account.name, message_id, by, now);
        outcome(self.ticket, self.key, delivery)
    }

    /// It went on as other events; nothing was sent for it alone.
    pub fn handed_on(self, by: &str, now: Millis) -> Outcome {
        let delivery = self.work.delivery.ended(Status::Sent, None, by, now);
        outcome(self.ticket, self.key, delivery)
    }

    /// The attempt failed; the retry service decides.
    pub fn failed(
        mut self,
        provider: &str,
        account: &str,
        failure: Failure,
        by: &str,
        now: Millis,
    ) -> Outcome {
        if self.is_doubtful {
            self.work.delivery.doubt(account);
        }
        let delivery = self.work.delivery.failed(provider, account, failure, by, now);
        let topic = Topic::failed(delivery.priority);
        let work = Work {
            delivery,
            event: self.work.event,
        };
        moved(self.ticket, self.key, topic, &work)
    }

    /// Its time passed before it was sent.
    pub fn expired(self, by: &str, now: Millis) -> Outcome {
        let provider = self.work.delivery.provider.as_deref().unwrap_or("");
        let failure = Failure::new(
            ErrorKind::Expired,
            provider,
            None,
            "its expiresAt passed before it was sent",
        );
        let delivery = self.work.delivery.ended(Status::Expired, Some(failure), by, now);
        outcome(self.ticket, self.key, delivery)
    }

    /// It is withdrawn, as somebody asked for.
    pub fn cancelled(self, by: &str, now: Millis) -> Outcome {
        let delivery = self.work.delivery.cancelled(self.is_doubtful, by, now);
        outcome(self.ticket, self.key, delivery)
    }

    /// Its recipient is to get nothing. Where a send before that is in doubt the outcome says so, as with [`Pending::cancelled`].
    pub fn skipped(self, code: &str, why: &str, by: &str, now: Millis) -> Outcome {
        let delivery = self.work.delivery;
        let is_doubtful = self.is_doubtful || delivery.sends.values().any(|sends| sends.ambiguous > 0);
        let (kind, doubt) = match is_doubtful {
            true => (
                ErrorKind::Ambiguous,
                "; it may have been sent before that was known",
            ),
            false => (ErrorKind::Permanent, ""),
        };
        let provider = delivery.provider.as_deref().unwrap_or("");
        let failure = Failure::new(kind, provider, Some(code.to_owned()), &format!("{why}{doubt}"));
        let delivery = delivery.ended(Status::Skipped, Some(failure), by, now);
        outcome(self.ticket, self.key, delivery)
    }

    /// It waits until `due` for a place at its account; no attempt is spent. A send that somebody else may have begun by this
    /// account stays in doubt.
    pub fn parked(self, due: Millis, account: &str, by: &str, now: Millis) -> Outcome {
        self.put_aside(WaitReason::Rate, due, account, by, now)
    }

    /// The same, for the key that its payload is sealed with.
    pub fn waits_for_key(self, due: Millis, account: &str, by: &str, now: Millis) -> Outcome {
        self.put_aside(WaitReason::Key, due, account, by, now)
    }

    fn put_aside(mut self, reason: WaitReason, due: Millis, account: &str, by: &str, now: Millis) -> Outcome {
        if self.is_doubtful {
            self.work.delivery.doubt(account);
        }
        let topic = self.work.delivery.park(reason, due, by, now);
        let waits = keys::waits(&self.work.delivery).map(note);
        let mut outcome = moved(self.ticket, self.key, topic, &self.work);
        outcome.notes.extend(waits);
        outcome
    }

    /// It waits until `due` for its turn among those with the same ordering key.
    pub fn waits_for_turn(mut self, due: Millis, by: &str, now: Millis) -> Outcome {
        let delivery = &mut self.work.delivery;
        let is_waiting = |wheel: &Wheel| wheel.reason == WaitReason::Order;
        let topic = if delivery.wheel.as_ref().is_some_and(is_waiting) {
            delivery.wait_on(due, now)
        } else {
            delivery.park(WaitReason::Order, due, by, now)
        };
        moved(self.ticket, self.key, topic, &self.work)
    }

    /// It is given up without asking the retry service: nothing that it could do would help.
    pub fn dead_lettered(self, kind: ErrorKind, code: &str, message: &str, by: &str, now: Millis) -> Outcome {
        let provider = self.work.delivery.provider.as_deref().unwrap_or("");
        let failure = Failure::new(kind, provider, Some(code.to_owned()), message);
        let work = Work {
            delivery: self.work.delivery.dead_lettered(failure, None, by, now),
            event: self.work.event,
        };
        moved(self.ticket, self.key, Topic::DeadLetter, &work)
    }
}

/// The outcome of an event whose next record is larger than the broker takes: a status without the event. The event
/// itself stays on the lane's topic.
pub fn too_large(
    ticket: Ticket,
    key: Bytes,
    delivery: Delivery,
    bytes: usize,
    by: &str,
    now: Millis,
) -> Outcome {
    let provider = delivery.provider.clone().unwrap_or_default();
    let message = format!("its record of {bytes} bytes is larger than the broker takes");
    let failure = Failure::new(
        ErrorKind::Permanent,
        &provider,
        Some("too_large".to_owned()),
        &message,
    );
    outcome(ticket, key, delivery.dead_lettered(failure, None, by, now))
}

/// A record of the keys topic.
pub fn note((key, value): (String, Bytes)) -> NewRecord {
    NewRecord::new(Topic::Keys, key, value)
}

/// What ends before its turn says so at once; the lane says it of those that have their turn.
fn ended_early(delivery: &Delivery) -> Vec<NewRecord> {
    let order = delivery.order.as_ref().filter(|order| order.after.is_some());
    order
        .and_then(|_| keys::ended(delivery))
        .map(note)
        .into_iter()
        .collect()
}

fn outcome(ticket: Ticket, key: Bytes, delivery: Delivery) -> Outcome {
    let notes = ended_early(&delivery);
    let value = encoded(Value::Outcome(delivery).encode());
    Outcome {
        ticket,
        output: NewRecord::new(Topic::Status, key, value),
        notes,
    }
}

fn moved(ticket: Ticket, key: Bytes, topic: Topic, work: &Work) -> Outcome {
    Outcome {
        ticket,
        output: NewRecord::new(topic, key, encoded(work.encode())),
        notes: match topic {
            Topic::DeadLetter => ended_early(&work.delivery),
            _ => Vec::new(),
        },
    }
}

fn size(record: &Record) -> usize {
    let length = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
    length(&record.key) + length(&record.value)
}

#[expect(
    clippy::expect_used,
    reason = "every map key in a delivery is a string and every number is finite, so JSON can hold it"
)]
fn encoded(value: Result<Bytes, JsonError>) -> Bytes {
    value.expect("a delivery is JSON")
}
