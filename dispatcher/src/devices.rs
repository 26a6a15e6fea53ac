//! A push to a user becomes an event for each device that the user has, at the moment of sending.
//!
//! Here, and not at intake, so that the devices are those of that moment, and intake does not wait for the store. The events of the
//! devices and the end of the one that they come of are one hop; each goes its own way from then on.

use posthaste_broker::NewRecord;
use posthaste_definitions::suppressions::Reason;
use posthaste_event::{
    Channel, Delivery, ErrorKind, EventView, Millis, Topic, Value, Work, clock,
    delivery::Accepted,
    payload::{Payload, Push},
    record::Note,
};
use posthaste_provider::{Account, Message};
use posthaste_sealing::{Bound, Scope, is_sealed};
use posthaste_store::Device;
use serde_json::{
    json,
    value::{RawValue, to_raw_value},
};
use tracing::debug;

use crate::{
    pending::{Outcome, Pending},
    send::Recorder,
};

/// Devices of one user that are looked up, at most; intake keeps fewer.
const DEVICES_MAX: u32 = 1_000;

/// A device that was registered this recently, in milliseconds, is not forgotten, whatever is known of it.
const ANEW_MS: Millis = 60_000;

/// Shortest and longest wait for a store that does not answer, in milliseconds: as long as the event has waited already, within these.
const AWAY_WAIT_MS: (Millis, Millis) = (1_000, 60_000);

/// The user that a message is for, if it is for one.
pub fn user_of(message: &Message) -> Option<(&Push, &str)> {
    match &message.payload {
        Payload::Push(push) => Some((push, push.user.as_deref()?)),
        _ => None,
    }
}

impl Recorder {
    /// What becomes of an event for a user: events for the user's devices, or a wait while the store does not answer.
    pub async fn for_devices(
        &self,
        pending: Box<Pending>,
        account: &Account,
        (push, user): (&Push, &str),
    ) -> Outcome {
        let (by, now) = (&*self.instance, clock::now());
        let pending = match self.ends_unsent(pending, now) {
            Ok(outcome) => return outcome,
            Err(pending) => pending,
        };
        let delivery = &pending.work.delivery;
        let devices = match self.devices_of(&delivery.tenant, user, now).await {
            Ok(devices) => devices,
            Err(reason) => {
                debug!(event.id = %delivery.id, reason, "event waits for the devices of its user");
                let (least, most) = AWAY_WAIT_MS;
                let waited_ms = now.saturating_sub(delivery.since);
                let due = now.saturating_add(waited_ms.clamp(least, most));
                return pending.parked(due, &account.name, by, now);
            }
        };
        if devices.is_empty() {
            let why = "the user has no registered device";
            return pending.dead_lettered(ErrorKind::Permanent, "no_device", why, by, now);
        }
        match self.events_for(&pending.work, push, &devices, now) {
            Ok(events) => {
                debug!(event.id = %delivery.id, devices = devices.len(), "event becomes one for each device");
                let note = self.said(delivery, &devices, now);
                let mut outcome = pending.handed_on(by, now);
                outcome.notes.extend(events);
                outcome.notes.push(note);
                outcome
            }
            Err(reason) => pending.dead_lettered(ErrorKind::Unreadable, "unreadable", &reason, by, now),
        }
    }

    /// The devices that a user has and that are not gone; those that are gone are forgotten.
    async fn devices_of(&self, tenant: &str, user: &str, now: Millis) -> Result<Vec<Device>, String> {
        let found = self.devices.devices(tenant, user, now, DEVICES_MAX).await;
        let found = found.map_err(|error| error.to_string())?;
        let mut devices = Vec::with_capacity(found.len());
        for device in found {
            let reason = self
                .suppressions
                .reason(tenant, Channel::Push, &device.token, now);
            match reason {
                // Registered anew just now, and that its suppression is over may not be heard here yet.
                Some(Reason::Bounced) if now.saturating_sub(device.at) < ANEW_MS => {}
                // Its suppression stands on the log: whether this works is not important.
                Some(Reason::Bounced) => {
                    let _forgotten = self.devices.unregister(tenant, &device.id).await;
                }
                _ => devices.push(device),
            }
        }
        Ok(devices)
    }

    /// An event for each device. Their ids say of which event and device they are.
    fn events_for(
        &self,
        work: &Work,
        push: &Push,
        devices: &[Device],
        now: Millis,
    ) -> Result<Vec<NewRecord>, String> {
        let parent = &work.delivery;
        let view = work.event.view().map_err(|error| error.to_string())?;
        devices
            .iter()
            .map(|device| {
                let payload = Push {
                    user: None,
                    token: Some(device.token.clone()),
                    ..push.clone()
                };
                let id = id_of(parent, device);
                let payload = to_raw_value(&payload).map_err(|error| error.to_string())?;
                let payload = match is_sealed(view.payload) {
                    true => self.sealed(parent, &id, &payload)?,
                    false => payload,
                };
                let provider = view.provider.clone().or_else(|| device.provider.clone());
                let event = EventView {
                    event_id: id,
                    payload: &payload,
                    provider: provider.clone(),
                    scheduled_at: None,
                    ordering_key: None,
                    ..view.clone()
                };
                let accepted = Accepted {
                    id: event.event_id.clone(),
                    correlation_id: parent.correlation_id.clone(),
                    tenant: parent.tenant.clone(),
                    channel: parent.channel,
                    priority: parent.priority,
                    provider,
                    scheduled_at: None,
                    expires_at: parent.expires_at,
                    policy: parent.policy,
                };
                let (mut delivery, _) = Delivery::accepted(accepted, &self.instance, now);
                delivery.traceparent.clone_from(&parent.traceparent);
                // First attempts are for intake alone to write: no transaction may be open on their topics.
                let topic = Topic::due(&delivery);
                let written = event
                    .to_bytes()
                    .and_then(|event| Work { delivery, event }.encode());
                let value = written.map_err(|error| error.to_string())?;
                Ok(NewRecord::new(topic, event.event_id, value))
            })
            .collect()
    }

    /// The payload of an event for a device, of one that is sealed.
    fn sealed(&self, parent: &Delivery, id: &str, payload: &RawValue) -> Result<Box<RawValue>, String> {
        let scope = Scope {
            tenant: &parent.tenant,
            channel: parent.channel,
            event_id: id,
        };
        // The one that it comes of was opened just now.
        let ring = self.keys.ring().ok_or("there is no key to seal it with")?;
        ring.seal(&scope, Bound::Event, payload)
            .map_err(|error| error.to_string())
    }

    fn said(&self, delivery: &Delivery, devices: &[Device], now: Millis) -> NewRecord {
        let events = devices
            .iter()
            .map(|device| json!({"device": device.id, "eventId": id_of(delivery, device)}));
        let note = Value::Note(Note {
            id: format!("devices-{}", delivery.generation),
            kind: "devices".to_owned(),
            event_id: delivery.id.clone(),
            tenant: delivery.tenant.clone(),
            channel: delivery.channel,
            created_at: delivery.created_at,
            at: now,
            data: json!({"events": events.collect::<Vec<_>>()}),
            unknown: Default::default(),
        });
        // Texts only: there is nothing in it that JSON could refuse.
        NewRecord::new(
            Topic::Status,
            delivery.id.clone(),
            note.encode().unwrap_or_default(),
        )
    }
}

/// A replay of an event for a user is for the devices of that time, anew.
fn id_of(parent: &Delivery, device: &Device) -> String {
    match parent.generation {
        0 => format!("{}.{}", parent.id, device.id),
        generation => format!("{}.{generation}.{}", parent.id, device.id),
    }
}
