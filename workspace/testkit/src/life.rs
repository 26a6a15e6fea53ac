//! Records of whole lives of events, as the services write them, for tests of whatever reads them.

#![expect(clippy::unwrap_used, reason = "test code: what cannot go on must fail")]

use posthaste_event::{
    Channel, Delivery, ErrorKind, EventView, Failure, Millis, Priority, Topic, Value, Work,
    delivery::{Accepted, Policy, RuleRef, WaitReason},
    record::{Note, Replayed},
};
use posthaste_store::{Fixed, Text};
use serde_json::{Map, Value as Json, json, value::RawValue};

/// When the lives begin, in milliseconds since the Unix epoch.
pub const NOW: Millis = 1_790_000_000_000;

/// One event; its fields may be changed before records are made of it.
#[derive(Debug, Clone)]
pub struct Life {
    /// The event's id.
    pub id: String,
    /// When it is accepted.
    pub created_at: Millis,
    tenant: String,
    channel: Channel,
    priority: Priority,
    correlation_id: String,
    payload: Json,
}

impl Life {
    /// An SMS of the tenant `default`, accepted at [`NOW`].
    pub fn new(id: &str) -> Self {
        Self {
            id: id.to_owned(),
            created_at: NOW,
            tenant: "default".to_owned(),
            channel: Channel::Sms,
            priority: Priority::Normal,
            correlation_id: format!("c-{id}"),
            payload: json!({"message": "Hello", "phoneNumber": "2025555555"}),
        }
    }

    /// Accepted then.
    #[must_use]
    pub const fn created_at(mut self, at: Millis) -> Self {
        self.created_at = at;
        self
    }

    /// Of this tenant.
    #[must_use]
    pub fn tenant(mut self, tenant: &str) -> Self {
        tenant.clone_into(&mut self.tenant);
        self
    }

    /// On this channel. The payload stays.
    #[must_use]
    pub const fn channel(mut self, channel: Channel) -> Self {
        self.channel = channel;
        self
    }

    /// With this priority.
    #[must_use]
    pub const fn priority(mut self, priority: Priority) -> Self {
        self.priority = priority;
        self
    }

    /// Belonging to this.
    #[must_use]
    pub fn correlation(mut self, id: &str) -> Self {
        id.clone_into(&mut self.correlation_id);
        self
    }

    /// With this payload.
    #[must_use]
    pub fn payload(mut self, payload: Json) -> Self {
        self.payload = payload;
        self
    }

    /// What a note of this event says about it.
    pub fn fixed(&self) -> Fixed<Text> {
        Fixed::new(self.tenant.clone(), self.channel, self.created_at)
    }

    fn delivery(&self, scheduled_at: Option<Millis>) -> Delivery {
        let accepted = Accepted {
            id: self.id.clone(),
            correlation_id: self.correlation_id.clone(),
            tenant: self.tenant.clone(),
            channel: self.channel,
            priority: self.priority,
            provider: None,
            scheduled_at,
            expires_at: Some(self.created_at + 86_400_000),
            // So that stores keep it: the usual one is not written.
            policy: match scheduled_at {
                Some(_) => Policy::NoDuplicate,
                None => Policy::NoLoss,
            },
        };
        Delivery::accepted(accepted, "ingestion-1", self.created_at).0
    }

    fn work(&self, delivery: &Delivery, scheduled_at: Option<Millis>) -> Value {
        let payload = RawValue::from_string(self.payload.to_string()).unwrap();
        let metadata = RawValue::from_string(r#"{"campaign":"spring"}"#.to_owned()).unwrap();
        let event = EventView {
            event_id: self.id.clone(),
            tenant: self.tenant.clone(),
            channel: self.channel,
            priority: self.priority,
            payload: &payload,
            metadata: Some(&metadata),
            provider: None,
            ordering_key: Some("key".to_owned()),
            scheduled_at,
            expires_at: Some(self.created_at + 86_400_000),
        };
        Value::Work(Work {
            delivery: delivery.clone(),
            event: event.to_bytes().unwrap(),
        })
    }

    /// The first record: accepted, to be sent at once.
    pub fn accepted(&self) -> Value {
        self.work(&self.delivery(None), None)
    }

    /// The first record of an event that waits until `at`.
    pub fn scheduled(&self, at: Millis) -> Value {
        self.work(&self.delivery(Some(at)), Some(at))
    }

    /// A note with this id.
    pub fn note(&self, id: &str) -> Value {
        Value::Note(Note {
            id: id.to_owned(),
            kind: "cancelRequested".to_owned(),
            event_id: self.id.clone(),
            tenant: self.tenant.clone(),
            channel: self.channel,
            created_at: self.created_at,
            at: self.created_at + 5,
            data: json!({"by": "operator", "why.$": {"note": id}}),
            unknown: Map::new(),
        })
    }

    /// Sent at the first try through `twilio`.
    pub fn straight(&self) -> Vec<Value> {
        let sent = self.delivery(None).sent(
            "twilio",
            "twilio",
            Some("SM1".into()),
            "dispatcher-1",
            self.created_at + 20,
        );
        vec![self.accepted(), Value::Outcome(sent)]
    }

    /// Parked, failed, retried, failed over, given up, replayed, and sent through `messagebird`; with moves inside the wheel,
    /// the mark of the replay, and two notes.
    pub fn everything(&self) -> Vec<Value> {
        let mut telling = Telling {
            life: self,
            now: self.created_at,
            delivery: self.delivery(None),
            records: vec![self.accepted()],
        };
        telling.parked_then_failed_over();
        telling.given_up_then_replayed();
        telling.records.extend([self.note("n1"), self.note("n.2$")]);
        telling.records
    }
}

/// The records of [`Life::everything`] as they come about.
struct Telling<'a> {
    life: &'a Life,
    now: Millis,
    delivery: Delivery,
    records: Vec<Value>,
}

impl Telling<'_> {
    fn later(&mut self, by_ms: Millis) -> Millis {
        self.now += by_ms;
        self.now
    }

    /// Says where the delivery stands now.
    fn say(&mut self, delivery: Delivery) {
        self.records.push(self.life.work(&delivery, None));
        self.delivery = delivery;
    }

    fn waits(&mut self, change: impl FnOnce(&mut Delivery, Millis) -> Topic, by_ms: Millis) {
        let now = self.later(by_ms);
        let mut delivery = self.delivery.clone();
        change(&mut delivery, now);
        self.say(delivery);
    }

    fn fails(&mut self, provider: &str, failure: Failure, by: &str, by_ms: Millis) {
        let now = self.later(by_ms);
        self.say(self.delivery.clone().failed(provider, provider, failure, by, now));
    }

    fn parked_then_failed_over(&mut self) {
        let busy =
            || Failure::new(ErrorKind::Rejected, "twilio", Some("503".into()), "busy").retry_after(Some(900));
        self.waits(
            |delivery, now| delivery.park(WaitReason::Rate, now + 40_000, "dispatcher-1", now),
            3,
        );
        self.waits(|delivery, now| delivery.move_in_wheel(now), 30_000);
        self.waits(|delivery, now| delivery.move_in_wheel(now), 10_100);
        self.fails("twilio", busy(), "dispatcher-1", 30);
        self.waits(
            |delivery, now| delivery.retry(now + 1_000, None, rule("sms-twilio"), "retry-1", now),
            2,
        );
        self.waits(|delivery, now| delivery.move_in_wheel(now), 1_001);
        self.fails("twilio", busy(), "dispatcher-1", 30);
        let other = Some("messagebird".to_owned());
        self.waits(
            |delivery, now| delivery.retry(now + 1_000, other, rule("sms-twilio"), "retry-1", now),
            2,
        );
    }

    fn given_up_then_replayed(&mut self) {
        let wrong = || {
            Failure::new(
                ErrorKind::Permanent,
                "messagebird",
                Some("21".into()),
                "no such number",
            )
        };
        self.fails("messagebird", wrong(), "dispatcher-2", 1_050);
        let now = self.later(2);
        let letter =
            self.delivery
                .clone()
                .dead_lettered(wrong(), Some(rule("sms-messagebird")), "retry-1", now);
        let step = letter.step;
        self.say(letter);
        let now = self.later(60_000);
        self.say(self.delivery.clone().replayed("r1", "replay-1", now));
        self.records.push(Value::Replayed(Replayed {
            event_id: self.life.id.clone(),
            step,
            replay_id: "r1".into(),
            unknown: Map::new(),
        }));
        let now = self.later(25);
        let sent = self.delivery.clone().sent(
            "messagebird",
            "messagebird",
            Some("mb-7".into()),
            "dispatcher-3",
            now,
        );
        self.records.push(Value::Outcome(sent));
    }
}

fn rule(id: &str) -> RuleRef {
    RuleRef {
        id: id.to_owned(),
        version: "7".to_owned(),
        unknown: Map::new(),
    }
}

/// Numbers that look random and come from one seed (xorshift64*), so that a failing case can be run again.
#[derive(Debug)]
pub struct Shuffle(u64);

impl Shuffle {
    /// Starts from a seed.
    pub const fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `end`, which must not be 0.
    pub fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(number).unwrap_or(0) % end
    }

    /// Puts the items into another order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}
