//! Schedules whose event is sealed: the definition holds what each firing carries.

use std::collections::BTreeMap;

use posthaste_definitions::schedule::Schedule;
use posthaste_event::{Channel, Work, firing::Firing};
use posthaste_sealing::{Ring, Scope, is_sealed};
use serde_json::value::{RawValue, to_raw_value};

type Fields = BTreeMap<String, Box<RawValue>>;

const PAYLOAD: &str = "payload";

/// The id of some firing of the schedule: what is sealed for it opens in all of them.
pub(super) fn firing_id(schedule: &Schedule, code: &str) -> String {
    let firing = Firing {
        schedule: code.to_owned(),
        plan: schedule.plan,
        planned_at: schedule.planned_at,
        at: schedule.planned_at,
    };
    firing.event_id()
}

/// The schedule as it is kept: with the payload of its model, if that is sealed. `None` when the event cannot be read, which it was.
pub(super) fn kept(schedule: &Schedule, model: &Work) -> Option<Schedule> {
    let view = model.event.view().ok()?;
    if !is_sealed(view.payload) {
        return Some(schedule.clone());
    }
    with_payload(schedule, view.payload)
}

/// Whether a schedule that is kept says the same as one in clear that was asked for, and is sealed if that is to be.
pub(super) fn says_the_same(
    kept: &Schedule,
    asked: &Schedule,
    model: &Work,
    code: &str,
    ring: Option<&Ring>,
) -> bool {
    let is_to_be_sealed = model.event.view().is_ok_and(|view| is_sealed(view.payload));
    let fields: Option<Fields> = serde_json::from_str(kept.event.get()).ok();
    let payload = fields.as_ref().and_then(|fields| fields.get(PAYLOAD));
    let Some(sealed) = payload.filter(|payload| is_sealed(payload)) else {
        return !is_to_be_sealed && kept.says_the_same(asked);
    };
    let clear = || {
        let scope = Scope {
            tenant: &model.delivery.tenant,
            channel: model.delivery.channel,
            event_id: &firing_id(kept, code),
        };
        let payload = ring?.open(&scope, sealed).ok()?;
        let asked_fields: Fields = serde_json::from_str(asked.event.get()).ok()?;
        // Written in the same way: a definition of a sealed event has its fields in order.
        let asked = with_payload(asked, asked_fields.get(PAYLOAD)?)?;
        Some(with_payload(kept, &payload)?.says_the_same(&asked))
    };
    is_to_be_sealed && clear().unwrap_or(false)
}

/// The event as it may be shown to who may see payloads: opened, where that can be done.
pub(super) fn opened(schedule: &Schedule, tenant: &str, code: &str, ring: &Ring) -> Option<Schedule> {
    let fields: Fields = serde_json::from_str(schedule.event.get()).ok()?;
    let sealed = fields.get(PAYLOAD).filter(|payload| is_sealed(payload))?;
    let channel: Channel = serde_json::from_str(fields.get("channel")?.get()).ok()?;
    let scope = Scope {
        tenant,
        channel,
        event_id: &firing_id(schedule, code),
    };
    with_payload(schedule, &ring.open(&scope, sealed).ok()?)
}

fn with_payload(schedule: &Schedule, payload: &RawValue) -> Option<Schedule> {
    let mut fields: Fields = serde_json::from_str(schedule.event.get()).ok()?;
    fields.insert(PAYLOAD.to_owned(), payload.to_owned());
    let event = to_raw_value(&fields).ok()?;
    Some(Schedule {
        event,
        ..schedule.clone()
    })
}
