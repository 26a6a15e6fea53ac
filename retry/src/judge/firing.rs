//! Firings of schedules: whether one is still to be sent, and the one after it.

use bytes::Bytes;
use memchr::memmem;
use posthaste_broker::{NewRecord, Record};
use posthaste_definitions::{
    Definitions, Key, Kind,
    schedule::{Missed, Schedule},
};
use posthaste_event::{
    Delivery, Millis, Value, Work,
    firing::{self, Firing},
};
use serde::Deserialize;
use tracing::debug;

use super::Judge;

/// For how long a plan whose schedule is not known is waited for: the firing is written before the schedule.
const UNHEARD_MS: i64 = 60_000;
/// How late the firing of a schedule that skips what was missed may be.
const LATE_MS: i64 = 60_000;

/// How the schedule of a firing stands.
#[derive(Debug)]
pub(super) enum Standing {
    /// It is in force.
    InForce(Box<Schedule>),
    /// It was changed, paused or withdrawn.
    Gone,
    /// It may not have been heard of yet.
    Unheard,
}

impl Standing {
    pub(super) fn of(schedules: &Definitions, tenant: &str, firing: &Firing, now: Millis) -> Self {
        let is_fresh = || {
            let key = Key::new(Kind::Schedule, tenant, &firing.schedule).ok();
            let withdrawn_at = key.and_then(|key| schedules.withdrawn_at(&key));
            now.saturating_sub(firing.planned_at) < UNHEARD_MS
                && withdrawn_at.is_none_or(|at| at < firing.planned_at)
        };
        let known = schedules.get(Kind::Schedule, tenant, &firing.schedule);
        let known = known.and_then(|known| serde_json::from_str::<Schedule>(known.body.get()).ok());
        match known {
            Some(schedule) if schedule.plan == firing.plan && !schedule.paused => {
                Self::InForce(Box::new(schedule))
            }
            Some(schedule) if schedule.planned_at >= firing.planned_at => Self::Gone,
            _ if is_fresh() => Self::Unheard,
            _ => Self::Gone,
        }
    }

    /// Whether a firing at this time is too late to be sent.
    pub(super) fn is_missed(&self, at: Millis, now: Millis) -> bool {
        let late_ms = now.saturating_sub(at);
        matches!(self, Self::InForce(schedule) if schedule.missed == Missed::Skip && late_ms > LATE_MS)
    }
}

/// Whether it is too early to say what becomes of a record: it is a firing whose schedule may not have been heard of yet.
pub fn is_unheard(record: &Record, schedules: &Definitions, now: Millis) -> bool {
    matches!(standing_of(record, schedules, now), Some(Standing::Unheard))
}

/// Whether a record is a firing that is not to be sent any more.
pub fn is_gone(record: &Record, schedules: &Definitions, now: Millis) -> bool {
    matches!(standing_of(record, schedules, now), Some(Standing::Gone))
}

fn standing_of(record: &Record, schedules: &Definitions, now: Millis) -> Option<Standing> {
    #[derive(Deserialize)]
    struct Glance {
        delivery: Of,
    }
    #[derive(Deserialize)]
    struct Of {
        tenant: String,
        firing: Option<Firing>,
    }
    let value = record.value.as_deref().unwrap_or_default();
    // Nearly all records have none.
    memmem::find(value, br#""firing":"#)?;
    let Glance { delivery } = serde_json::from_slice(value).ok()?;
    let firing = delivery.firing?;
    Some(Standing::of(schedules, &delivery.tenant, &firing, now))
}

impl Judge<'_> {
    /// The record of the firing after this one, if there is another. `model` is this one.
    pub(super) fn next_firing(
        &self,
        model: &Work,
        before: &Firing,
        standing: &Standing,
    ) -> Option<NewRecord> {
        let Standing::InForce(schedule) = standing else {
            return None;
        };
        let at = schedule
            .timing()
            .ok()?
            .following(before.at, schedule.missed, self.now)?;
        let next = Firing { at, ..before.clone() };
        let planned = firing::plan(model, next, self.by, self.now).ok()?;
        debug!(
            schedule = before.schedule,
            at, "the next firing of the schedule is planned"
        );
        let value: Bytes = Value::Work(planned.work).encode().ok()?;
        Some(NewRecord::new(planned.topic, planned.key, value))
    }
}

/// Gives a delivery that goes on waiting its firing back.
pub(super) fn restore(value: &mut Value, firing: Firing) {
    if let Value::Work(Work {
        delivery: Delivery { firing: place, .. },
        ..
    }) = value
    {
        *place = Some(Box::new(firing));
    }
}
