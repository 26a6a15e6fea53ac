//! Firings of schedules: events that are planned one at a time.
//!
//! The event of a schedule's next time waits in the wheel like any other that is scheduled, and says of which schedule it is.
//! Whoever takes it out of there plans the one after it in the same hop: so each time is planned once, whatever crashes, and
//! by however many instances.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    Delivery, EventView, Millis, Topic, Work,
    delivery::{Accepted, WaitReason},
};

/// Which firing of which schedule an event is, as long as the one after it is not planned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Firing {
    /// The schedule's code.
    pub schedule: String,
    /// Names the plan that it belongs to: a schedule that was changed has another.
    pub plan: Uuid,
    /// When that plan was made, in milliseconds since the Unix epoch.
    pub planned_at: Millis,
    /// The time of the schedule that it stands for, in milliseconds since the Unix epoch.
    pub at: Millis,
}

/// An event that is planned, and where its record goes.
#[derive(Debug)]
pub struct Planned {
    /// The event.
    pub work: Work,
    /// The topic of its record.
    pub topic: Topic,
    /// The key of its record.
    pub key: String,
}

impl Firing {
    /// The id of the event: always the same for the same time of the same plan. A UUIDv7 of that time.
    pub fn event_id(&self) -> String {
        let mut random = [0; 10];
        // What is random of the plan's own name; the time makes the difference among its firings.
        for (random, plan) in random.iter_mut().zip(self.plan.as_bytes().iter().rev()) {
            *random = *plan;
        }
        let at = u64::try_from(self.at).unwrap_or_default();
        uuid::Builder::from_unix_timestamp_millis(at, &random)
            .into_uuid()
            .to_string()
    }
}

/// Where the part of an id begins that is the plan's.
const PLAN_PART: usize = 14;

/// The part of a firing's id that all firings of its plan share: the plan's own 74 bits. `None` for what cannot be one's id.
pub fn plan_part(event_id: &str) -> Option<&str> {
    let is_id = event_id.len() == uuid::fmt::Hyphenated::LENGTH;
    event_id.get(PLAN_PART..).filter(|_| is_id)
}

/// Plans a firing: an event like `model`, at the firing's time, or at once when that is over. It may be sent for as long after
/// it as the model after its own time.
///
/// # Errors
/// When the model's event cannot be read.
pub fn plan(model: &Work, firing: Firing, by: &str, now: Millis) -> Result<Planned, serde_json::Error> {
    let before = &model.delivery;
    let from = before
        .firing
        .as_ref()
        .map_or(before.created_at, |firing| firing.at);
    let lasts_ms = before.expires_at.map(|expires| expires.saturating_sub(from));
    let expires_at = lasts_ms.map(|lasts_ms| firing.at.saturating_add(lasts_ms));
    let view = model.event.view()?;
    let view = EventView {
        event_id: firing.event_id(),
        scheduled_at: Some(firing.at),
        expires_at,
        ..view
    };
    let accepted = Accepted {
        id: view.event_id.clone(),
        correlation_id: before.correlation_id.clone(),
        tenant: before.tenant.clone(),
        channel: before.channel,
        priority: before.priority,
        provider: before.provider.clone().filter(|_| before.pinned),
        // One that is late goes through the wheel as well: there the one after it is planned.
        scheduled_at: Some(firing.at.max(now.saturating_add(1))),
        expires_at,
        policy: before.policy,
    };
    let (mut delivery, topic) = Delivery::accepted(accepted, by, now);
    debug_assert_eq!(
        delivery.wheel.as_ref().map(|wheel| wheel.reason),
        Some(WaitReason::Scheduled)
    );
    delivery.firing = Some(Box::new(firing));
    let (key, event) = (view.key(), view.to_bytes()?);
    Ok(Planned {
        work: Work { delivery, event },
        topic,
        key,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Channel, Priority, Status, delivery::Policy};

    const NOW: Millis = 1_790_000_000_000;

    fn firing(at: Millis) -> Firing {
        Firing {
            schedule: "daily".into(),
            plan: Uuid::from_u128(0x8f3b_93e1_5dd2_4c0f_a1b2_03f4_c5d6_e7f8),
            planned_at: NOW,
            at,
        }
    }

    fn model(expires_at: Option<Millis>) -> Work {
        let payload = serde_json::from_str(r#"{"message":"hello","phoneNumber":"2025555555"}"#).unwrap();
        let view = EventView {
            event_id: "model".into(),
            tenant: "acme".into(),
            channel: Channel::Sms,
            priority: Priority::High,
            payload,
            metadata: None,
            provider: None,
            ordering_key: None,
            scheduled_at: None,
            expires_at,
        };
        let accepted = Accepted {
            id: "model".into(),
            correlation_id: "c".into(),
            tenant: "acme".into(),
            channel: Channel::Sms,
            priority: Priority::High,
            provider: None,
            scheduled_at: None,
            expires_at,
            policy: Policy::NoLoss,
        };
        let (delivery, _) = Delivery::accepted(accepted, "me", NOW);
        Work {
            delivery,
            event: view.to_bytes().unwrap(),
        }
    }

    #[test]
    fn each_time_is_an_event_of_its_own_and_always_the_same() {
        let first = firing(NOW + 60_000);
        assert_eq!(first.event_id(), first.clone().event_id());
        assert_ne!(first.event_id(), firing(NOW + 120_000).event_id());
        let other = Firing {
            plan: Uuid::from_u128(0x8f3b_93e1_5dd2_4c0f_a1b2_03f4_c5d6_e7f9),
            ..first.clone()
        };
        assert_ne!(first.event_id(), other.event_id());
        assert!(
            first.event_id() < firing(NOW + 120_000).event_id(),
            "by their times"
        );
        let part = |firing: &Firing| plan_part(&firing.event_id()).unwrap().to_owned();
        assert_eq!(part(&first), part(&firing(NOW + 120_000)));
        assert_ne!(part(&first), part(&other));
    }

    #[test]
    fn a_plan_goes_on_from_what_was_planned_before() {
        let first = plan(&model(Some(NOW + 5_000)), firing(NOW + 60_000), "me", NOW).unwrap();
        let second = plan(&first.work, firing(NOW + 120_000), "you", NOW + 60_001).unwrap();
        for (planned, at) in [(&first, NOW + 60_000), (&second, NOW + 120_000)] {
            let delivery = &planned.work.delivery;
            assert_eq!((delivery.status, delivery.due_at), (Status::Scheduled, Some(at)));
            assert_eq!(delivery.expires_at, Some(at + 5_000));
            assert_eq!(planned.work.event.view().unwrap().event_id, delivery.id);
            assert_eq!(planned.key, delivery.id);
            assert!(planned.topic.is_delay());
        }
    }

    #[test]
    fn one_that_is_late_goes_through_the_wheel() {
        let late = plan(&model(None), firing(NOW - 60_000), "me", NOW).unwrap();
        assert!(late.topic.is_delay());
        assert_eq!(late.work.delivery.due_at, Some(NOW + 1));
        assert_eq!(late.work.delivery.firing.unwrap().at, NOW - 60_000);
    }
}
