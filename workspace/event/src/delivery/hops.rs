//! How a delivery changes: each public method is one hop.
//!
//! Only the holder of the work record raises `step`, in the hop that consumes it; so `(id, step)` is one fact.
//! Which status may follow which is in [`crate::status`].

use std::collections::BTreeMap;

use serde_json::Map;

use super::{Delivery, Lane, Policy, ReplayRef, RuleRef, WaitReason, Wheel};
use crate::{
    Channel, Failure, Millis, Priority, Status, Topic,
    failure::{ErrorKind, LOGGED_MESSAGE_BYTES_MAX, LoggedFailure, cut},
};

/// The version of the format that this code writes.
pub const VERSION: u8 = 1;

/// Failures kept from the beginning of a delivery.
const FAILURES_FIRST: usize = 2;
/// Failures kept from its end.
const FAILURES_LAST: usize = 8;

/// What intake knows of an event that it accepts.
#[derive(Debug, Clone)]
pub struct Accepted {
    /// The event's id.
    pub id: String,
    /// Ties together what belongs together for the client.
    pub correlation_id: String,
    /// Whose event it is.
    pub tenant: String,
    /// The event's channel.
    pub channel: Channel,
    /// The event's priority.
    pub priority: Priority,
    /// The provider that the client insists on.
    pub provider: Option<String>,
    /// Not before this time.
    pub scheduled_at: Option<Millis>,
    /// Not after this time.
    pub expires_at: Option<Millis>,
    /// What to do when a send is in doubt.
    pub policy: Policy,
}

impl Delivery {
    /// The first step. Returns the delivery and the topic it starts on: the lane of its priority, or the wheel.
    pub fn accepted(event: Accepted, by: &str, now: Millis) -> (Self, Topic) {
        let lane = if event.priority.is_critical() {
            Lane::Critical
        } else {
            Lane::Default
        };
        let mut delivery = Self {
            v: VERSION,
            id: event.id,
            correlation_id: event.correlation_id,
            tenant: event.tenant,
            channel: event.channel,
            priority: event.priority,
            created_at: now,
            step: 0,
            generation: 0,
            attempt: 0,
            status: Status::Pending,
            at: now,
            by: by.to_owned(),
            since: event.scheduled_at.map_or(now, |at| at.max(now)),
            due_at: None,
            expires_at: event.expires_at,
            policy: event.policy,
            lane,
            pinned: event.provider.is_some(),
            provider: event.provider,
            account: None,
            sends: BTreeMap::new(),
            provider_message_id: None,
            wheel: None,
            order: None,
            rule: None,
            error: None,
            failures: Vec::new(),
            failures_dropped: 0,
            replay: None,
            replay_of: None,
            traceparent: None,
            firing: None,
            unknown: Map::new(),
        };
        let topic = match event.scheduled_at {
            Some(due) if due > now => {
                delivery.status = Status::Scheduled;
                delivery.enter_wheel(WaitReason::Scheduled, due, now)
            }
            _ => Topic::first_attempt(delivery.priority),
        };
        (delivery, topic)
    }

    /// It waited in a broadcast, and is handed over only now: what is counted from its acceptance counts from here.
    #[must_use]
    pub fn handed_over(mut self, by: &str, now: Millis) -> Self {
        self.at = now;
        self.since = self.since.max(now);
        by.clone_into(&mut self.by);
        self
    }

    /// The idempotency key for a send through `account`: `id:account:n`.
    pub fn idempotency_key(&self, account: &str) -> String {
        let n = self.sends.get(account).map_or(0, |sends| sends.n);
        format!("{}:{account}:{n}", self.id)
    }

    /// The provider accepted the message. Goes to [`Topic::Status`] as an outcome.
    #[must_use]
    pub fn sent(
        mut self,
        provider: &str,
        account: &str,
        message_id: Option<String>,
        by: &str,
        now: Millis,
    ) -> Self {
        self.attempted(provider, account, by, now);
        self.status = Status::Sent;
        self.error = None;
        self.provider_message_id = message_id;
        self
    }

    /// A send of it through this account may have happened that was not recorded: whoever had it before may have crashed.
    pub fn doubt(&mut self, account: &str) {
        let sends = self.sends.entry(account.to_owned()).or_default();
        sends.ambiguous = sends.ambiguous.max(1);
    }

    /// It was refused when it was `before`, and somebody else may have sent it since, under the key that was in force then: so
    /// that key stays.
    pub fn doubt_since(&mut self, before: &Self) {
        for (account, sends) in &mut self.sends {
            let n = before.sends.get(account).map_or(0, |sends| sends.n);
            if sends.n > n {
                sends.n = n;
                sends.ambiguous = sends.ambiguous.max(1);
            }
        }
    }

    /// An attempt failed. Goes to [`Topic::failed`] with the event, for a verdict.
    #[must_use]
    pub fn failed(mut self, provider: &str, account: &str, failure: Failure, by: &str, now: Millis) -> Self {
        self.attempted(provider, account, by, now);
        self.status = Status::Retrying;
        let sends = self.sends.entry(account.to_owned()).or_default();
        if failure.kind == ErrorKind::Ambiguous {
            sends.ambiguous = sends.ambiguous.saturating_add(1);
        } else if sends.ambiguous == 0 {
            // After a doubt it says nothing of the send before it, which may have arrived.
            sends.n = sends.n.saturating_add(1);
        }
        self.log(LoggedFailure {
            step: self.step,
            attempt: self.attempt,
            provider: provider.to_owned(),
            account: account.to_owned(),
            at: now,
            kind: failure.kind,
            code: failure.code.clone(),
            message: cut(&failure.message, LOGGED_MESSAGE_BYTES_MAX).to_owned(),
            unknown: Map::new(),
        });
        self.error = Some(failure);
        self
    }

    /// The event ends without a send: cancelled, expired or skipped. Goes to [`Topic::Status`] as an outcome.
    #[must_use]
    pub fn ended(mut self, status: Status, error: Option<Failure>, by: &str, now: Millis) -> Self {
        self.step(by, now);
        self.status = status;
        self.wheel = None;
        self.due_at = None;
        self.error = error;
        self
    }

    /// It is withdrawn, as somebody asked for. Goes to [`Topic::Status`] as an outcome. Where a send before that is in doubt
    /// (`is_doubtful`: one that nobody recorded), the outcome says so: nobody knows whether this came in time.
    #[must_use]
    pub fn cancelled(self, is_doubtful: bool, by: &str, now: Millis) -> Self {
        let is_doubtful = is_doubtful || self.sends.values().any(|sends| sends.ambiguous > 0);
        let error = is_doubtful.then(|| {
            let is_ambiguous = |error: &&Failure| error.kind == ErrorKind::Ambiguous;
            self.error
                .as_ref()
                .filter(is_ambiguous)
                .cloned()
                .unwrap_or_else(|| {
                    let provider = self.provider.as_deref().unwrap_or("");
                    let text = "it may have been sent before it was cancelled";
                    Failure::new(ErrorKind::Ambiguous, provider, Some("cancelled".to_owned()), text)
                })
        });
        self.ended(Status::Cancelled, error, by, now)
    }

    /// A scheduled event is to go out at another time. Returns the topic it waits in, or its lane when that time has come.
    pub fn reschedule(&mut self, due: Millis, by: &str, now: Millis) -> Topic {
        self.step(by, now);
        self.status = Status::Scheduled;
        self.since = due.max(now);
        self.enter_wheel(WaitReason::Scheduled, due, now)
    }

    /// What cannot be sent now waits until `due`, and no attempt is spent. Returns the topic it waits in.
    /// For want of a place ([`WaitReason::Rate`]) `due` is the slot that was reserved for it.
    pub fn park(&mut self, reason: WaitReason, due: Millis, by: &str, now: Millis) -> Topic {
        self.step(by, now);
        self.status = if self.attempt == 0 {
            Status::Pending
        } else {
            Status::Retrying
        };
        let topic = self.enter_wheel(reason, due, now);
        if let (WaitReason::Rate, Some(wheel)) = (reason, &mut self.wheel) {
            wheel.reserved_at = Some(due);
        }
        topic
    }

    /// It is put off once more until `due`, for the same reason as before: a move inside the wheel, which says nothing new.
    /// Returns the topic it waits in.
    pub fn wait_on(&mut self, due: Millis, now: Millis) -> Topic {
        self.due_at = Some(due);
        self.moved(crate::wheel::waits_in(
            self.priority,
            crate::wheel::wakes_at(self),
            now,
        ))
    }

    /// Its turn among those with the same ordering key has come, and stays.
    pub const fn take_turn(&mut self) {
        if let Some(order) = &mut self.order {
            order.after = None;
        }
    }

    /// The verdict "try again at `due`", through `provider` if the rule fails over. Returns the topic it waits in.
    pub fn retry(
        &mut self,
        due: Millis,
        provider: Option<String>,
        rule: RuleRef,
        by: &str,
        now: Millis,
    ) -> Topic {
        self.step(by, now);
        self.status = Status::Retrying;
        self.rule = Some(rule);
        if let Some(provider) = provider {
            self.provider = Some(provider);
            // Which account serves that provider is the dispatcher's to know.
            self.account = None;
        }
        self.enter_wheel(WaitReason::Retry, due, now)
    }

    /// The verdict "give up". Goes to [`Topic::DeadLetter`] with the event.
    #[must_use]
    pub fn dead_lettered(mut self, error: Failure, rule: Option<RuleRef>, by: &str, now: Millis) -> Self {
        self.step(by, now);
        self.status = Status::DeadLettered;
        self.wheel = None;
        self.due_at = None;
        self.rule = rule.or(self.rule);
        self.error = Some(error);
        self
    }

    /// A dead letter goes out again, as the next generation. Goes to [`Topic::due`] with the event.
    #[must_use]
    pub fn replayed(mut self, replay_id: &str, by: &str, now: Millis) -> Self {
        let from_step = self.step;
        self.step(by, now);
        self.status = Status::Pending;
        self.generation = self.generation.saturating_add(1);
        self.attempt = 0;
        self.since = now;
        self.due_at = None;
        self.wheel = None;
        self.rule = None;
        self.error = None;
        self.provider_message_id = None;
        // It was given up, and those behind it have gone on.
        self.order = None;
        self.lane = Lane::back(self.priority);
        if !self.pinned {
            self.provider = None;
            self.account = None;
        }
        for sends in self.sends.values_mut() {
            sends.n = sends.n.saturating_add(1);
            sends.tries = 0;
            sends.ambiguous = 0;
        }
        self.replay = Some(ReplayRef {
            id: replay_id.to_owned(),
            from_step,
            at: now,
            unknown: Map::new(),
        });
        self
    }

    /// Moves inside the wheel, or out of it when its time has come: says nothing new, so `step` stays.
    /// Returns the topic it goes to.
    pub fn move_in_wheel(&mut self, now: Millis) -> Topic {
        self.moved(crate::wheel::waits_in(
            self.priority,
            crate::wheel::wakes_at(self),
            now,
        ))
    }

    /// Leaves a near topic that is too full for the largest tier within what remains, and comes back from there. What is due
    /// sooner than the shortest tier moves as usual. Returns the topic it goes to.
    pub fn make_room(&mut self, now: Millis) -> Topic {
        let remains_ms = crate::wheel::wakes_at(self).saturating_sub(now);
        match crate::wheel::tier_within(remains_ms) {
            Some(tier) => self.moved(Some(Topic::Delay(tier))),
            None => self.move_in_wheel(now),
        }
    }

    /// Leaves the wheel before its time, since an operator asked for that. Returns the topic it goes to.
    pub fn leave_wheel(&mut self, now: Millis) -> Topic {
        self.due_at = Some(now);
        self.moved(None)
    }

    fn moved(&mut self, to: Option<Topic>) -> Topic {
        if let Some(wheel) = &mut self.wheel {
            wheel.moves = wheel.moves.saturating_add(1);
            if let Some(topic) = to {
                wheel.tier = tier_name(topic);
            }
        }
        to.unwrap_or_else(|| Topic::due(self))
    }

    /// Whether the record says something new, or is only a move inside the wheel.
    pub fn is_fact(&self) -> bool {
        self.wheel.as_ref().is_none_or(|wheel| wheel.moves == 0)
    }

    /// The trace that the event belongs to, for logs.
    pub fn trace_id(&self) -> Option<&str> {
        crate::trace::trace_id(self.traceparent.as_deref()?)
    }

    /// Whether its time to be sent has passed.
    pub fn is_expired(&self, now: Millis) -> bool {
        self.expires_at.is_some_and(|expires| expires <= now)
    }

    fn step(&mut self, by: &str, now: Millis) {
        self.step = self.step.saturating_add(1);
        self.at = now;
        if self.by != by {
            by.clone_into(&mut self.by);
        }
    }

    fn attempted(&mut self, provider: &str, account: &str, by: &str, now: Millis) {
        self.step(by, now);
        self.attempt = self.attempt.saturating_add(1);
        self.wheel = None;
        self.due_at = None;
        self.provider = Some(provider.to_owned());
        self.account = Some(account.to_owned());
        let sends = self.sends.entry(account.to_owned()).or_default();
        provider.clone_into(&mut sends.provider);
        sends.tries = sends.tries.saturating_add(1);
    }

    fn enter_wheel(&mut self, reason: WaitReason, due: Millis, now: Millis) -> Topic {
        self.lane = Lane::back(self.priority);
        self.due_at = Some(due);
        let topic = crate::wheel::waits_in(self.priority, crate::wheel::wakes_at(self), now)
            .unwrap_or_else(|| Topic::due(self));
        self.wheel = topic.is_delay().then(|| Wheel {
            reason,
            tier: tier_name(topic),
            moves: 0,
            reserved_at: None,
            unknown: Map::new(),
        });
        topic
    }

    fn log(&mut self, failure: LoggedFailure) {
        self.failures.push(failure);
        if self.failures.len() > FAILURES_FIRST + FAILURES_LAST {
            self.failures.remove(FAILURES_FIRST);
            self.failures_dropped = self.failures_dropped.saturating_add(1);
        }
    }
}

fn tier_name(topic: Topic) -> String {
    match topic {
        Topic::Delay(tier) => tier.as_str().to_owned(),
        _ => "near".to_owned(),
    }
}

#[cfg(test)]
mod tests;
