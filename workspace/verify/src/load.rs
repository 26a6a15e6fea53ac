//! The events of a run: which, made from a seed, and how they are told from those of others.
//!
//! An event's id is `<run>-<index>`, its tenant is the run; so neither the status nor the sandbox mixes two runs.

use jiff::Timestamp;
use posthaste_event::{Channel, Millis, Priority, delivery::Policy, own_id};
use serde_json::{Value as Json, json};

use crate::chance::Chance;

/// Channels whose providers the sandbox stands in for. In-app messages stay inside, so nobody outside can witness them.
pub const CHANNELS: [Channel; 5] = [
    Channel::Sms,
    Channel::Email,
    Channel::Push,
    Channel::Slack,
    Channel::Webhook,
];

/// Scheduled events are due this long after they are posted, in milliseconds.
const SCHEDULED_MS: (u64, u64) = (2_000, 8_000);
/// Expiring events end this long after they are posted, in milliseconds.
const EXPIRING_MS: (u64, u64) = (1_000, 5_000);
/// Those that are withdrawn are asked to be this long after they were accepted, in milliseconds; scheduled ones up to when they
/// are due or so.
const CANCELLED_MS: (u64, u64) = (0, 2_000);
/// Numbers that Ofcom sets aside for films and books: +44 7700 900000 to 900999. Each run keeps to a hundred of them.
const NUMBERS: u64 = 100;

/// What the events of a run are.
#[derive(Debug, Clone)]
pub struct Mix {
    /// Name of the run: begins every event's id, and is the tenant.
    pub run: String,
    /// Where chance begins.
    pub seed: u64,
    /// Each event has one of these.
    pub channels: Vec<Channel>,
    /// Each event has one of these.
    pub priorities: Vec<Priority>,
    /// So many in a hundred are scheduled for some seconds later.
    pub scheduled_percent: f64,
    /// So many in a hundred expire within some seconds.
    pub expiring_percent: f64,
    /// So many in a hundred ask for the policy `no-duplicate`.
    pub no_duplicate_percent: f64,
    /// So many in a hundred are asked to be withdrawn within some seconds.
    pub cancelled_percent: f64,
    /// So many in a hundred have an ordering key.
    pub ordered_percent: f64,
    /// Those share so many keys.
    pub ordering_keys: u32,
}

/// An event to post.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// The body of `POST /event`.
    pub body: Json,
    /// Not before.
    pub scheduled_at: Option<Millis>,
    /// Not after.
    pub expires_at: Option<Millis>,
    /// Whether it must never be sent again, not even in doubt.
    pub no_duplicate: bool,
    /// Its ordering key's number.
    pub ordering_key: Option<u32>,
    /// So long after it was accepted somebody asks for it to be withdrawn, in milliseconds.
    pub cancel_after_ms: Option<u64>,
}

impl Mix {
    /// The id of an event.
    pub fn id(&self, index: u32) -> String {
        format!("{}-{index}", self.run)
    }

    /// The id by which it is asked for.
    pub fn asked_id(&self, index: u32) -> String {
        self.whole(&self.id(index))
    }

    /// An id of the run, or its beginning, as providers and whoever sees all tenants have it.
    pub fn whole(&self, id: &str) -> String {
        own_id::kept(&self.run, id)
    }

    /// The number of an event of this run.
    pub fn index(&self, id: &str) -> Option<u32> {
        // The run is the tenant: whoever sees those of all sees the whole id.
        let id = own_id::shown(&self.run, id);
        let number = id.strip_prefix(&self.run)?.strip_prefix('-')?;
        // Written in one way only, so that two ids are never one event.
        number
            .parse()
            .ok()
            .filter(|index: &u32| index.to_string() == number)
    }

    /// The event of this number, posted now.
    pub fn event(&self, index: u32, now: Millis) -> Event {
        let mut chance = Chance::of(self.seed, u64::from(index));
        let channel = chance.pick(&self.channels).copied().unwrap_or(Channel::Sms);
        let drawn = chance.pick(&self.priorities).copied().unwrap_or_default();
        let key = (chance.hits(self.ordered_percent) && self.ordering_keys > 0).then(|| {
            let key = chance.between(0, u64::from(self.ordering_keys));
            u32::try_from(key).unwrap_or(0)
        });
        // Order holds within one lane: events with one key have one priority, and none of them waits for a time of its own.
        let priority = match key {
            Some(key) => Chance::of(self.seed, u64::from(key))
                .pick(&self.priorities)
                .copied()
                .unwrap_or_default(),
            None => drawn,
        };
        let later = |chance: &mut Chance, (low, high)| {
            now.saturating_add(i64::try_from(chance.between(low, high)).unwrap_or(0))
        };
        let scheduled_at =
            (chance.hits(self.scheduled_percent) && key.is_none()).then(|| later(&mut chance, SCHEDULED_MS));
        let expires_at = (chance.hits(self.expiring_percent) && key.is_none() && scheduled_at.is_none())
            .then(|| later(&mut chance, EXPIRING_MS));
        let no_duplicate = chance.hits(self.no_duplicate_percent);
        let cancelled_ms = if scheduled_at.is_some() {
            (CANCELLED_MS.0, SCHEDULED_MS.1)
        } else {
            CANCELLED_MS
        };
        let cancel_after_ms = chance
            .hits(self.cancelled_percent)
            .then(|| chance.between(cancelled_ms.0, cancelled_ms.1));
        let mut body = json!({
            "eventId": self.id(index),
            "tenant": self.run,
            "channel": channel.as_str(),
            "priority": asked(channel, priority).as_str(),
            "payload": self.payload(channel, index),
            "metadata": {"verify": self.run},
        });
        if no_duplicate {
            body["policy"] = json!(Policy::NoDuplicate);
        }
        if let Some(key) = key {
            body["orderingKey"] = json!(format!("key-{key}"));
        }
        for (name, time) in [("scheduledAt", scheduled_at), ("expiresAt", expires_at)] {
            if let Some(time) = time.and_then(|time| Timestamp::from_millisecond(time).ok()) {
                body[name] = json!(time.to_string());
            }
        }
        Event {
            body,
            scheduled_at,
            expires_at,
            no_duplicate,
            ordering_key: key,
            cancel_after_ms,
        }
    }

    fn payload(&self, channel: Channel, index: u32) -> Json {
        let text = format!("Verification {}, event {index}", self.run);
        let name = format!("{}-{index}", self.run);
        match channel {
            Channel::Sms => {
                let number = u64::from(index) % NUMBERS;
                json!({"message": text, "phoneNumber": format!("+{}{number:02}", self.numbers())})
            }
            Channel::Email => json!({
                "subject": text, "body": text, "to": format!("{name}@example.com"), "from": "verify@example.com",
            }),
            Channel::Push => json!({"title": "Verification", "body": text, "token": name}),
            Channel::Slack => json!({"channel": format!("#{name}"), "text": text}),
            Channel::Webhook => {
                json!({"url": format!("https://example.com/{name}"), "body": {"verify": self.run, "event": index}})
            }
            Channel::InApp => json!({"recipient": name, "title": "Verification", "body": text}),
        }
    }

    /// The hundred phone numbers of the run, without their last two digits and the `+`.
    fn numbers(&self) -> String {
        let of_run = self.run.bytes().fold(0_u32, |sum, byte| {
            sum.wrapping_mul(31).wrapping_add(u32::from(byte))
        });
        format!("447700900{}", of_run % 10)
    }

    /// The run's recipients as the sandbox's interfaces see them, `*` for what differs from event to event.
    pub fn recipients(&self) -> Vec<String> {
        let (run, numbers) = (&self.run, self.numbers());
        let forms = |channel: &Channel| match channel {
            Channel::Sms => vec![format!("{numbers}*"), format!("+{numbers}*")],
            Channel::Email | Channel::Push => vec![format!("{run}-*")],
            Channel::Slack => vec![format!("#{run}-*")],
            Channel::Webhook => vec![format!("https://example.com/{run}-*")],
            Channel::InApp => Vec::new(),
        };
        let mut recipients: Vec<String> = self.channels.iter().flat_map(forms).collect();
        recipients.dedup();
        recipients
    }
}

/// The shipped rules let a low webhook wait a quarter of an hour for its second try: longer than a run.
const fn asked(channel: Channel, priority: Priority) -> Priority {
    match (channel, priority) {
        (Channel::Webhook, Priority::Low) => Priority::Normal,
        (_, priority) => priority,
    }
}

#[cfg(test)]
mod tests {
    use posthaste_event::payload::Payload;
    use serde_json::value::to_raw_value;

    use super::*;

    fn mix() -> Mix {
        Mix {
            run: "v1".to_owned(),
            seed: 7,
            channels: CHANNELS.to_vec(),
            priorities: vec![Priority::Critical, Priority::Low],
            scheduled_percent: 30.0,
            expiring_percent: 30.0,
            no_duplicate_percent: 30.0,
            cancelled_percent: 30.0,
            ordered_percent: 0.0,
            ordering_keys: 3,
        }
    }

    #[test]
    fn every_payload_is_one_that_intake_takes() {
        for channel in Channel::ALL {
            let payload = to_raw_value(&mix().payload(channel, 99)).unwrap();
            Payload::accept(channel, &payload).unwrap();
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_events() {
        let of = |seed| {
            let mix = Mix { seed, ..mix() };
            (0..50).map(|index| mix.event(index, 1_000)).collect::<Vec<_>>()
        };
        assert_eq!(of(7), of(7));
        assert_ne!(of(7), of(8));
        let events = of(7);
        for wanted in [
            |event: &Event| event.scheduled_at.is_some(),
            |event: &Event| event.expires_at.is_some(),
            |event: &Event| event.scheduled_at.is_none() && event.expires_at.is_none(),
            |event: &Event| event.body["priority"] == "critical",
            |event: &Event| event.cancel_after_ms.is_some(),
            |event: &Event| event.no_duplicate && event.body["policy"] == "no-duplicate",
        ] {
            assert!(events.iter().any(wanted));
        }
    }

    #[test]
    fn events_of_one_key_share_a_lane_and_wait_for_nothing() {
        let mix = Mix {
            ordered_percent: 60.0,
            ..mix()
        };
        let mut priorities = std::collections::HashMap::new();
        let mut others = 0;
        for index in 0..100 {
            let event = mix.event(index, 1_000);
            let Some(key) = event.ordering_key else {
                others += 1;
                continue;
            };
            assert_eq!((event.scheduled_at, event.expires_at), (None, None));
            let critical = event.body["priority"] == "critical";
            assert_eq!(critical, *priorities.entry(key).or_insert(critical));
        }
        assert_eq!(priorities.len(), 3);
        assert!((20..60).contains(&others), "{others}");
    }

    #[test]
    fn an_id_says_which_event_it_is() {
        let mix = mix();
        assert_eq!(mix.index(&mix.id(12)), Some(12));
        assert_eq!(mix.index(&own_id::kept(&mix.run, &mix.id(12))), Some(12));
        for other in [
            "v1-012",
            "v1-",
            "v12-1",
            "v1-x",
            "v1-+1",
            "other",
            "v1-99999999999",
            "v2~v1-1",
        ] {
            assert_eq!(mix.index(other), None, "{other}");
        }
    }
}
