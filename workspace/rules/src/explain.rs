//! The whole schedule of a failure, in words and as data: what `posthaste rules explain` says.

use std::fmt;

use posthaste_event::{
    Channel, Delivery, ErrorKind, Failure, Millis, Priority,
    delivery::{Accepted, Policy},
};
use serde::Serialize;

use crate::{Rules, Verdict, backoff::Swing, duration};

/// Longest schedule that is followed; more tries say nothing new.
const STEPS_MAX: usize = 100;

/// A failure to explain, as the command line knows it.
#[derive(Debug, Clone)]
pub struct Case {
    /// The event's channel.
    pub channel: Channel,
    /// The provider that failed.
    pub provider: String,
    /// Whose event it is.
    pub tenant: String,
    /// The event's priority.
    pub priority: Priority,
    /// What kind of failure.
    pub kind: ErrorKind,
    /// The provider's own code.
    pub code: Option<String>,
    /// The wait that the provider asked for, in milliseconds.
    pub retry_after_ms: Option<u32>,
    /// Which try of this provider failed, from 1.
    pub tries: u32,
    /// How long the event is under way, in milliseconds.
    pub age_ms: u64,
    /// Whether the client insists on the provider.
    pub pinned: bool,
    /// What to do when a send is in doubt.
    pub policy: Policy,
}

/// One verdict of the schedule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// Which send of this generation failed, from 1.
    pub attempt: u32,
    /// Whose it was.
    pub provider: String,
    /// The rule that decides; `None` when none is for such a failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// The line of that rule in its file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    /// What follows: `retry`, `failover` or `dead_letter`.
    pub then: &'static str,
    /// Who tries next.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_provider: Option<String>,
    /// The shortest and the longest wait until then, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wait_ms: Option<(u64, u64)>,
    /// Why there is no other try.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What the rules make of a failure that never goes away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// Where the rules came from.
    pub origin: String,
    /// Their version.
    pub version: String,
    /// Each verdict, in order; the last is the end.
    pub steps: Vec<Step>,
}

impl Case {
    /// The delivery that awaits a verdict, and the time.
    fn delivery(&self) -> (Delivery, Millis) {
        let accepted = Accepted {
            id: "explained".to_owned(),
            correlation_id: "explained".to_owned(),
            tenant: self.tenant.clone(),
            channel: self.channel,
            priority: self.priority,
            provider: self.pinned.then(|| self.provider.clone()),
            scheduled_at: None,
            expires_at: None,
            policy: self.policy,
        };
        let now = Millis::try_from(self.age_ms).unwrap_or(Millis::MAX);
        let (mut delivery, _) = Delivery::accepted(accepted, "", 0);
        let failure =
            Failure::new(self.kind, &self.provider, self.code.clone(), "").retry_after(self.retry_after_ms);
        for _ in 0..self.tries.clamp(1, 10_000) {
            delivery = delivery.failed(&self.provider, &self.provider, failure.clone(), "", now);
        }
        (delivery, now)
    }
}

impl Rules {
    /// Follows a failure to its end, as if every further send failed in the same way.
    pub fn explain(&self, case: &Case) -> Explanation {
        let (delivery, now) = case.delivery();
        self.explain_delivery(delivery, now)
    }

    /// The same for a delivery that has failed and awaits its verdict.
    pub fn explain_delivery(&self, mut delivery: Delivery, mut now: Millis) -> Explanation {
        let mut steps = Vec::new();
        while steps.len() < STEPS_MAX {
            let (step, due) = self.step(&delivery, now);
            let next = due.zip(step.next_provider.clone()).zip(delivery.error.clone());
            steps.push(step);
            let Some(((due, provider), failure)) = next else {
                break;
            };
            delivery = delivery.failed(&provider, &provider, failure, "", due);
            now = due;
        }
        Explanation {
            origin: self.origin.clone(),
            version: self.version.clone(),
            steps,
        }
    }

    /// What follows the failure at once.
    pub(crate) fn first_step(&self, case: &Case) -> Step {
        let (delivery, now) = case.delivery();
        self.step(&delivery, now).0
    }

    /// The verdict, and when the next send is if there is one.
    fn step(&self, delivery: &Delivery, now: Millis) -> (Step, Option<Millis>) {
        let provider = delivery.provider.clone().unwrap_or_default();
        let attempt = delivery.attempt;
        let line = |id: &str| self.rules.iter().find(|rule| rule.id == id).map(|rule| rule.line);
        match self.decide_at(delivery, now, Swing::MIDDLE) {
            Verdict::DeadLetter { failure, rule } => {
                let step = Step {
                    attempt,
                    provider,
                    line: rule.as_ref().and_then(|rule| line(&rule.id)),
                    then: "dead_letter",
                    next_provider: None,
                    wait_ms: None,
                    reason: Some(reason(delivery, &failure, rule.is_some())),
                    rule: rule.map(|rule| rule.id),
                };
                (step, None)
            }
            Verdict::Retry {
                due,
                provider: next,
                rule,
            } => {
                let step = Step {
                    attempt,
                    line: line(&rule.id),
                    rule: Some(rule.id),
                    then: if next.is_some() { "failover" } else { "retry" },
                    next_provider: Some(next.unwrap_or_else(|| provider.clone())),
                    wait_ms: self.range_ms(delivery, now),
                    reason: None,
                    provider,
                };
                (step, Some(due))
            }
        }
    }

    /// The shortest and the longest wait. A wait that the provider asked for varies upwards only, so its shortest is in the
    /// middle of the swing.
    fn range_ms(&self, delivery: &Delivery, now: Millis) -> Option<(u64, u64)> {
        let waits = [Swing::SHORTEST, Swing::MIDDLE, Swing::LONGEST]
            .map(|swing| self.wait_ms(delivery, now, swing))
            .into_iter()
            .flatten();
        waits.clone().min().zip(waits.max())
    }

    fn wait_ms(&self, delivery: &Delivery, now: Millis, swing: Swing) -> Option<u64> {
        match self.decide_at(delivery, now, swing) {
            Verdict::Retry { due, .. } => u64::try_from(due.saturating_sub(now)).ok(),
            Verdict::DeadLetter { .. } => None,
        }
    }
}

fn reason(delivery: &Delivery, failure: &Failure, ruled: bool) -> String {
    if !ruled {
        return format!("no rule names errors of the kind {}", failure.kind);
    }
    if failure.kind == ErrorKind::Rules {
        return failure.message.clone();
    }
    if failure.kind == ErrorKind::Ambiguous && delivery.policy == Policy::NoDuplicate {
        return "the policy no-duplicate forbids another send".to_owned();
    }
    "its tries are used up".to_owned()
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(provider) = &self.next_provider {
            f.write_str("retry in ")?;
            match self.wait_ms {
                Some((low, high)) if low == high => f.write_str(&duration::write(low))?,
                Some((low, high)) => {
                    write!(f, "{} to {}", duration::write(low), duration::write(high))?;
                }
                None => f.write_str("a while")?,
            }
            write!(f, " via {provider}")?;
        } else {
            f.write_str("dead-letter")?;
            if let Some(reason) = &self.reason {
                write!(f, ", {reason}")?;
            }
        }
        match (&self.rule, self.line) {
            (Some(rule), Some(line)) => write!(f, " (rule {rule}, line {line})"),
            (Some(rule), None) => write!(f, " (rule {rule})"),
            (None, _) => Ok(()),
        }
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}, version {}", self.origin, self.version)?;
        for step in &self.steps {
            writeln!(f, "send {} by {} fails: {step}", step.attempt, step.provider)?;
        }
        Ok(())
    }
}
