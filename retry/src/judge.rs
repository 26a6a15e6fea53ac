//! What becomes of a record: a verdict for a failure, the next place for what waits. Pure.

mod firing;

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::Arc,
};

use bytes::Bytes;
use posthaste_broker::{NewRecord, Record};
use posthaste_definitions::Definitions;
use posthaste_event::{
    Delivery, ErrorKind, Failure, Millis, Status, Topic, Value, Work,
    delivery::{Policy, RuleRef, WaitReason},
    firing::Firing,
    keys,
    record::Foreign,
    wheel::HORIZON_MS,
};
use posthaste_rules::{Rules, Verdict};
use posthaste_service::Metrics;
use serde::Deserialize;
use tracing::debug;

use self::firing::Standing;
pub use self::firing::{is_gone, is_unheard};

/// How far the clocks of two machines may differ before a record of a near topic counts as misplaced.
const CLOCKS_DIFFER_MS: i64 = 30_000;

/// Longest key that a record keeps which could not be read; longer ones could make it too large as well.
const FOREIGN_KEY_BYTES_MAX: usize = 1_024;

/// What to do with records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// A verdict on a failure.
    Verdict,
    /// The next place of an event whose time to be looked at has come.
    Move,
    /// The lane of an event that is to go before its time.
    Release,
    /// The end of an event that is withdrawn.
    Cancel,
    /// The next place of a scheduled event that is to go out at another time.
    Reschedule {
        /// That time.
        due: Millis,
        /// When it was asked for.
        asked_at: Millis,
    },
    /// A place for an event outside of a near topic that is too full.
    MakeRoom,
    /// The dead-letter topic: no other outcome was small enough for the broker.
    Bury {
        /// Whether what it was still fits.
        with_value: bool,
    },
}

/// An event that leaves the wheel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    /// Why it was there.
    pub reason: WaitReason,
    /// When it should leave.
    pub due: Millis,
}

/// What becomes of a record.
#[derive(Debug)]
pub struct Outcome {
    /// The event's next record, or the end of it.
    pub output: NewRecord,
    /// What is said of its ordering key in the same hop.
    pub said: Option<NewRecord>,
    /// The next firing of its schedule, if it is one and leaves the wheel.
    pub next: Option<NewRecord>,
    /// Whether it leaves the wheel with it.
    pub left: Option<Left>,
}

impl Outcome {
    const fn alone(output: NewRecord) -> Self {
        Self {
            output,
            said: None,
            next: None,
            left: None,
        }
    }

    /// All records of it, which belong into one hop.
    pub fn into_outputs(self) -> impl Iterator<Item = NewRecord> {
        std::iter::once(self.output).chain(self.said).chain(self.next)
    }

    /// Whether the event is final with it.
    pub fn is_final(&self) -> bool {
        matches!(self.output.topic, Topic::Status | Topic::DeadLetter)
    }

    fn saying(self, said: Option<(String, Bytes)>) -> Self {
        Self {
            said: said.map(|(key, value)| NewRecord::new(Topic::Keys, key, value)),
            ..self
        }
    }
}

/// Decides under the rules of one moment.
pub struct Judge<'a> {
    /// The rules in force.
    pub rules: &'a Arc<Rules>,
    /// Prefix of the topics' names.
    pub prefix: &'a str,
    /// This instance, for `delivery.by`.
    pub by: &'a str,
    /// The schedules in force.
    pub schedules: &'a Definitions,
    /// Where verdicts are counted.
    pub metrics: &'a Metrics,
    /// The moment.
    pub now: Millis,
}

/// When a record of the wheel must be looked at.
///
/// In a near topic that is when it wakes: due or expired. One that is not due within the horizon has no business there and
/// is looked at right away. In a tier it is when the tier's time is over, which is before the event is due; the broker's
/// clock may be ahead of ours, so it is never later than the event wakes or the tier's time from now on.
pub fn looks_at(topic: Topic, appended_at: Millis, wakes_at: Millis, now: Millis) -> Millis {
    match topic {
        Topic::Delay(tier) => appended_at.min(now).saturating_add(tier.delay_ms()).min(wakes_at),
        _ if wakes_at.saturating_sub(now) > HORIZON_MS + CLOCKS_DIFFER_MS => now,
        _ => wakes_at,
    }
}

/// The same for a record whose delivery was not read yet: only as much of it is read as this needs. What cannot be read is
/// looked at right away.
pub fn looks_at_record(record: &Record, now: Millis) -> Millis {
    #[derive(Deserialize)]
    struct Glance {
        delivery: Times,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Times {
        at: Millis,
        due_at: Option<Millis>,
        expires_at: Option<Millis>,
    }
    let topic = record.partition.topic;
    if !topic.is_delay() {
        return now;
    }
    let value = record.value.as_deref().unwrap_or_default();
    serde_json::from_slice::<Glance>(value).map_or(now, |Glance { delivery }| {
        // As `wheel::wakes_at`, which wants the whole delivery.
        let due = delivery.due_at.unwrap_or(delivery.at);
        let wakes_at = delivery.expires_at.map_or(due, |expires| due.min(expires));
        looks_at(topic, record.appended_at, wakes_at, now)
    })
}

impl Judge<'_> {
    /// What becomes of a record.
    pub fn outcome(&self, record: &Record, ask: Ask) -> Outcome {
        let buried = |reason: &str, with_value| Outcome::alone(self.bury(record, reason, with_value));
        if let Ask::Bury { with_value } = ask {
            let said = match record.decode(self.prefix) {
                Ok(Value::Work(work)) => keys::ended(&work.delivery),
                _ => None,
            };
            return buried("too large to be moved on", with_value).saying(said);
        }
        let mut work = match record.decode(self.prefix) {
            Ok(Value::Work(work)) => work,
            Ok(_) => return buried("not an event: it cannot be tried again", true),
            Err(foreign) => return Outcome::alone(self.foreign(record, *foreign)),
        };
        let status = work.delivery.status;
        if status.is_final() || (ask == Ask::Verdict && status != Status::Retrying) {
            let reason = format!("an event that is {status} does not wait for anything here");
            return buried(&reason, true);
        }
        let due = waits_for(&work.delivery);
        let key = record
            .key
            .clone()
            .unwrap_or_else(|| Bytes::from(work.delivery.id.clone()));
        let firing = self.firing(&mut work);
        let (topic, mut value) = match ask {
            Ask::Move if matches!(&firing, Some((_, _, Standing::Gone))) => self.cancelled(work.delivery),
            Ask::Move if matches!(&firing, Some((_, firing, standing)) if standing.is_missed(firing.at, self.now)) => {
                self.expired(work.delivery)
            }
            Ask::Verdict => self.verdict(work),
            // Of one that must not go out twice and may have gone out, the doubt is what counts: its verdict says so.
            Ask::Cancel if is_in_doubt(record.partition.topic, &work.delivery) => self.verdict(work),
            Ask::Cancel => self.cancelled(work.delivery),
            Ask::Reschedule { due, .. } => self.reschedule(work, due),
            Ask::Move | Ask::Release | Ask::MakeRoom | Ask::Bury { .. } => self.next_place(work, ask),
        };
        let mut next = None;
        if let Some((model, firing, standing)) = firing {
            if topic.is_delay() {
                firing::restore(&mut value, firing);
            } else {
                next = self.next_firing(&model, &firing, &standing);
            }
        }
        let said = match &value {
            // Those behind it in the order of its key go on, or know how long to wait.
            Value::Work(Work { delivery, .. }) | Value::Outcome(delivery) if delivery.status.is_final() => {
                keys::ended(delivery)
            }
            Value::Work(Work { delivery, .. }) if ask == Ask::Verdict => keys::waits(delivery),
            _ => None,
        };
        // One that goes before its time says nothing of how punctual the wheel is.
        let is_timely = !matches!(ask, Ask::Release | Ask::Reschedule { .. });
        let left = due.filter(|_| is_timely && matches!(topic, Topic::Retry | Topic::RetryCritical));
        match value.encode() {
            Ok(json) => {
                let output = NewRecord::new(topic, key, json);
                Outcome {
                    left,
                    next,
                    ..Outcome::alone(output)
                }
                .saying(said)
            }
            Err(error) => buried(&error.to_string(), true),
        }
    }

    /// The firing that an event is as long as it waits for its time: itself as it is, which firing, and how its schedule stands.
    fn firing(&self, work: &mut Work) -> Option<(Work, Firing, Standing)> {
        if work.delivery.firing.is_none() || work.delivery.status != Status::Scheduled {
            return None;
        }
        let model = work.clone();
        let firing = *work.delivery.firing.take()?;
        let standing = Standing::of(self.schedules, &work.delivery.tenant, &firing, self.now);
        Some((model, firing, standing))
    }

    fn verdict(&self, work: Work) -> (Topic, Value) {
        let Work { mut delivery, event } = work;
        let route = self.metrics.route(delivery.channel, delivery.provider.as_deref());
        match self.rules.decide(&delivery, self.now, seed(&delivery)) {
            Verdict::Retry { .. } if delivery.is_expired(self.now) => self.expired(delivery),
            Verdict::Retry { due, provider, rule } => {
                route.retried.one();
                debug!(
                    event.id = %delivery.id, trace.id = delivery.trace_id(), rule = rule.id, version = rule.version,
                    due, "event will be tried again"
                );
                let topic = delivery.retry(due, provider, rule, self.by, self.now);
                (topic, Value::Work(Work { delivery, event }))
            }
            Verdict::DeadLetter { failure, rule } => {
                route.dead_lettered(failure.kind).one();
                debug!(
                    event.id = %delivery.id, trace.id = delivery.trace_id(), kind = %failure.kind, "event is given up"
                );
                let delivery = delivery.dead_lettered(failure, rule, self.by, self.now);
                (Topic::DeadLetter, Value::Work(Work { delivery, event }))
            }
        }
    }

    fn cancelled(&self, delivery: Delivery) -> (Topic, Value) {
        self.metrics.cancelled(delivery.channel).one();
        debug!(event.id = %delivery.id, trace.id = delivery.trace_id(), "event is withdrawn");
        let ended = delivery.cancelled(false, self.by, self.now);
        (Topic::Status, Value::Outcome(ended))
    }

    fn reschedule(&self, work: Work, due: Millis) -> (Topic, Value) {
        let Work { mut delivery, event } = work;
        if delivery.is_expired(self.now) {
            return self.expired(delivery);
        }
        debug!(event.id = %delivery.id, trace.id = delivery.trace_id(), due, "event is scheduled for another time");
        let topic = delivery.reschedule(due, self.by, self.now);
        (topic, Value::Work(Work { delivery, event }))
    }

    fn next_place(&self, work: Work, ask: Ask) -> (Topic, Value) {
        let Work { mut delivery, event } = work;
        if delivery.is_expired(self.now) {
            return self.expired(delivery);
        }
        if let Some((failure, rule)) = self.outlived(&delivery) {
            let route = self.metrics.route(delivery.channel, delivery.provider.as_deref());
            route.dead_lettered(failure.kind).one();
            let delivery = delivery.dead_lettered(failure, Some(rule), self.by, self.now);
            return (Topic::DeadLetter, Value::Work(Work { delivery, event }));
        }
        let topic = match ask {
            Ask::MakeRoom => delivery.make_room(self.now),
            Ask::Release => delivery.leave_wheel(self.now),
            Ask::Move | Ask::Verdict | Ask::Cancel | Ask::Reschedule { .. } | Ask::Bury { .. } => {
                delivery.move_in_wheel(self.now)
            }
        };
        (topic, Value::Work(Work { delivery, event }))
    }

    /// Retries and schedules have an end of their own; every other wait has one here.
    fn outlived(&self, delivery: &Delivery) -> Option<(Failure, RuleRef)> {
        match delivery.wheel.as_ref()?.reason {
            WaitReason::Scheduled | WaitReason::Retry => None,
            WaitReason::Rate
            | WaitReason::Circuit
            | WaitReason::Order
            | WaitReason::Paused
            | WaitReason::Key => self.rules.outlived(delivery, self.now),
        }
    }

    fn expired(&self, delivery: Delivery) -> (Topic, Value) {
        self.metrics.expired(delivery.channel).one();
        let provider = delivery.provider.as_deref().unwrap_or("");
        let mut message = "expiresAt passed before it was sent".to_owned();
        if let Some(last) = &delivery.error {
            message = format!("{message}; the last failure: {}, {}", last.kind, last.message);
        }
        let failure = Failure::new(ErrorKind::Expired, provider, None, &message);
        let ended = delivery.ended(Status::Expired, Some(failure), self.by, self.now);
        (Topic::Status, Value::Outcome(ended))
    }

    fn bury(&self, record: &Record, reason: &str, with_value: bool) -> NewRecord {
        let foreign = Foreign::new(
            record.partition.topic.name(self.prefix),
            record.partition.number,
            record.offset,
            record.key.as_deref().filter(|_| with_value),
            record.value.as_deref().filter(|_| with_value),
            reason.to_owned(),
        );
        self.foreign(record, foreign)
    }

    fn foreign(&self, record: &Record, foreign: Foreign) -> NewRecord {
        self.metrics.unreadable.one();
        let key = record
            .key
            .clone()
            .filter(|key| key.len() <= FOREIGN_KEY_BYTES_MAX)
            .unwrap_or_default();
        // Numbers and texts: there is nothing in it that JSON could refuse.
        let json = Value::Foreign(foreign).encode().unwrap_or_default();
        NewRecord::new(Topic::DeadLetter, key, json)
    }
}

fn waits_for(delivery: &Delivery) -> Option<Left> {
    let reason = delivery.wheel.as_ref()?.reason;
    Some(Left {
        reason,
        due: delivery.due_at?,
    })
}

/// A failure that may have been a send, of an event that must not go out twice.
fn is_in_doubt(topic: Topic, delivery: &Delivery) -> bool {
    let is_failure = matches!(topic, Topic::Failed | Topic::FailedCritical);
    let error = delivery.error.as_ref().map(|error| error.kind);
    is_failure && delivery.policy == Policy::NoDuplicate && error == Some(ErrorKind::Ambiguous)
}

/// The same for the same failure, whoever decides: after a takeover the verdict is what it would have been.
fn seed(delivery: &Delivery) -> u64 {
    let mut hasher = DefaultHasher::new();
    (delivery.id.as_str(), delivery.step).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests;
