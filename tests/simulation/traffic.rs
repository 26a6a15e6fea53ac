//! What clients ask for, and what providers answer.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use posthaste_broker::NewRecord;
use posthaste_event::{
    Channel, Delivery, ErrorKind, EventView, Failure, Millis, Priority, Work,
    delivery::{Accepted, Policy},
};
use posthaste_provider::{Account, Message, Provider, Receipt};
use serde_json::value::RawValue;

use crate::cluster::{Cluster, Event};

const TENANTS: [&str; 4] = ["acme", "flood", "globex", "initech"];

/// Sends that one account of one node takes at once.
const PLACES: usize = 6;

/// Every provider, its channel, and whether it is the channel's default.
const PROVIDERS: [(&str, Channel, bool); 9] = [
    ("twilio", Channel::Sms, true),
    ("messagebird", Channel::Sms, false),
    ("sendgrid", Channel::Email, true),
    ("mailgun", Channel::Email, false),
    ("firebase", Channel::Push, true),
    ("onesignal", Channel::Push, false),
    ("slack", Channel::Slack, true),
    ("webhook", Channel::Webhook, true),
    ("in_app", Channel::InApp, true),
];

/// An account for each provider.
pub struct Accounts(Vec<Account>);

struct Named(&'static str, [Channel; 1]);

#[async_trait]
impl Provider for Named {
    fn name(&self) -> &str {
        self.0
    }

    fn channels(&self) -> &[Channel] {
        &self.1
    }

    async fn send(&self, _: &Message) -> Result<Receipt, Failure> {
        unreachable!("the simulation answers for the providers")
    }
}

impl Accounts {
    pub fn new() -> Self {
        let account = |(name, channel, _): (&'static str, Channel, bool)| Account {
            name: name.to_owned(),
            provider: Arc::new(Named(name, [channel])),
            concurrency_max: PLACES,
            timeout: Duration::from_secs(10),
        };
        Self(PROVIDERS.map(account).into())
    }

    pub fn get(&self, index: usize) -> &Account {
        &self.0[index]
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The account that carries this delivery next.
    pub fn resolve(&self, delivery: &Delivery) -> usize {
        let named = delivery.account.as_deref().or(delivery.provider.as_deref());
        PROVIDERS
            .iter()
            .position(|(name, channel, is_default)| {
                *channel == delivery.channel && named.map_or(*is_default, |named| named == *name)
            })
            .unwrap()
    }
}

/// What a provider will say, and how long it takes.
#[derive(Debug)]
pub struct Answer {
    pub after_ms: Millis,
    pub result: Result<Option<String>, Failure>,
}

impl Cluster {
    /// A burst of requests, then a pause.
    pub fn ingest(&mut self) {
        let left = self.plan.events - self.ledger.lives().len();
        if left == 0 {
            return;
        }
        let pause_ms = self.random.within(1, 600);
        self.at(pause_ms, Event::Ingest);
        if self.broker_away_until > self.now {
            return;
        }
        for _ in 0..left.min(1 + self.random.below(30)) {
            self.accept();
        }
    }

    fn accept(&mut self) {
        let number = self.ledger.lives().len();
        let random = &mut self.random;
        let (name, channel, _) = PROVIDERS[random.below(PROVIDERS.len())];
        let priority = match random.below(10) {
            0 => Priority::Critical,
            1..=2 => Priority::High,
            3..=7 => Priority::Normal,
            _ => Priority::Low,
        };
        let tenant = TENANTS[if random.chance(600) { 1 } else { random.below(4) }];
        let provider = random.chance(150).then(|| name.to_owned());
        let scheduled_at = random
            .chance(60)
            .then(|| self.now + random.within(-1_000, 600_000));
        let policy = if random.chance(150) {
            Policy::NoDuplicate
        } else {
            Policy::NoLoss
        };
        let expires_at = random
            .chance(80)
            .then(|| scheduled_at.unwrap_or(self.now).max(self.now) + random.within(1, 30_000));
        let payload = RawValue::from_string(r#"{"simulated":true}"#.to_owned()).unwrap();
        let view = EventView {
            event_id: format!("e{number}"),
            tenant: tenant.to_owned(),
            channel,
            priority,
            payload: &payload,
            metadata: None,
            provider: provider.clone(),
            ordering_key: None,
            scheduled_at,
            expires_at,
        };
        let accepted = Accepted {
            id: view.event_id.clone(),
            correlation_id: "c".to_owned(),
            tenant: view.tenant.clone(),
            channel,
            priority,
            provider,
            scheduled_at,
            expires_at,
            policy,
        };
        let (delivery, topic) = Delivery::accepted(accepted, "ingestion", self.now);
        let key = view.key();
        let event = view.to_bytes().unwrap();
        let value = Work { delivery, event }.encode().unwrap();
        let place = self.append(NewRecord::new(topic, key, value.clone()));
        self.ledger.accepted(place, &value, policy, expires_at);
        if self.random.chance(100) {
            let wait_ms = scheduled_at.map_or(20_000, |due| (due - self.now).max(0) + 5_000);
            let later_ms = self.random.within(0, wait_ms);
            self.at(later_ms, Event::Withdraw(number));
        }
    }

    /// What a provider makes of a call that begins now.
    pub fn answer(&mut self, account: usize) -> Answer {
        let provider = PROVIDERS[account].0;
        let random = &mut self.random;
        let failed = |kind, code: &str| Failure::new(kind, provider, Some(code.to_owned()), "simulated");
        let result = match random.below(100) {
            0..=11 => Err(failed(ErrorKind::Rejected, "503")),
            12..=17 => Err(failed(ErrorKind::Ambiguous, "reset")),
            18..=21 => {
                let wait_ms = random.within(100, 20_000) as u32;
                Err(failed(ErrorKind::RateLimited, "429").retry_after(Some(wait_ms)))
            }
            22..=23 => Err(failed(ErrorKind::Permanent, "400")),
            24..=25 => Err(failed(ErrorKind::Ambiguous, "timeout")),
            _ => Ok(Some("m1".to_owned())),
        };
        let is_timeout = result
            .as_ref()
            .is_err_and(|failure| failure.code.as_deref() == Some("timeout"));
        let after_ms = match random.below(50) {
            _ if is_timeout => 10_000,
            0 => random.within(100, 9_000),
            _ => random.within(2, 60),
        };
        Answer { after_ms, result }
    }
}
