//! The retry rule engine: failure and time in, verdict out.
//!
//! Pure: no clock, no randomness of its own, no I/O. The shipped rules (`rules.toml`, compiled in) are the manual of the
//! file format. [`Rules::parse`] refuses a file that is wrong anywhere; what passes can always be decided by.

use posthaste_event::{
    Delivery, ErrorKind, Failure, Millis,
    delivery::{Policy, RuleRef},
};
use serde_json::Map;

mod backoff;
mod duration;
mod error;
mod examples;
mod explain;
mod file;
mod rule;

pub use error::RulesError;
pub use explain::{Case, Explanation, Step};

use backoff::Swing;
use rule::{Pattern, Rule};

/// The shipped rules, commented.
pub const SHIPPED: &str = include_str!("../rules.toml");

/// How old an event may get when no rule says otherwise, in milliseconds: 3 days.
pub const MAX_AGE_DEFAULT_MS: u64 = 3 * 86_400_000;

/// The code of the failure with which an event ends that became too old.
pub const CODE_MAX_AGE: &str = "max_age";

/// A checked set of rules, the last of which fits everything.
#[derive(Debug, Clone, PartialEq)]
pub struct Rules {
    origin: String,
    version: String,
    rules: Vec<Rule>,
    tests: usize,
}

/// What becomes of an event whose send failed.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// Another try.
    Retry {
        /// When, in milliseconds since the Unix epoch; never before now.
        due: Millis,
        /// Who tries, when it is another provider than before.
        provider: Option<String>,
        /// The rule that says so.
        rule: RuleRef,
    },
    /// No other try.
    DeadLetter {
        /// Why: the failure itself, or the age of the event.
        failure: Failure,
        /// The rule that says so; `None` when no rule is for such a failure.
        rule: Option<RuleRef>,
    },
}

impl Rules {
    /// Reads and checks a rule file. `origin` names it in errors.
    ///
    /// # Errors
    /// The first fault, or the first of its own tests that it fails, with its line, key, and what would be right.
    pub fn parse(text: &str, origin: &str) -> Result<Self, RulesError> {
        file::check(text, origin)
    }

    /// The rules that are used when the user names none.
    ///
    /// # Errors
    /// Never: a test reads the same text.
    pub fn shipped() -> Result<Self, RulesError> {
        Self::parse(SHIPPED, "shipped rules")
    }

    /// Where the rules came from.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The version that the file gives itself, else a digest of its text.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// How many rules there are.
    pub fn count(&self) -> usize {
        self.rules.len()
    }

    /// How many tests of its own the file has; all of them passed.
    pub const fn tests(&self) -> usize {
        self.tests
    }

    /// The providers that the rules name and that are not known, each as an error with its line. Names that end with `*`
    /// fit whatever there is and are not checked.
    pub fn unknown_providers(&self, known: &[&str]) -> Vec<RulesError> {
        let mut faults = Vec::new();
        for rule in &self.rules {
            let matched = rule.matches.provider.iter().filter_map(|pattern| match pattern {
                Pattern::Exactly(name) => Some(("match.provider", name, rule.line)),
                Pattern::Begins(_) => None,
            });
            let failover = rule
                .failover
                .iter()
                .map(|failover| ("failover.provider", &failover.provider, failover.line));
            for (key, name, line) in matched.chain(failover) {
                if !known.contains(&name.as_str()) {
                    faults.push(RulesError {
                        origin: self.origin.clone(),
                        line,
                        key: format!("rule {:?}, {key}", rule.id),
                        problem: format!("unknown provider {name:?}"),
                        accepted: known.join(", "),
                    });
                }
            }
        }
        faults
    }

    /// The verdict on a delivery that failed. `seed` alone decides where within its jitter a wait falls: the same seed gives
    /// the same verdict.
    pub fn decide(&self, delivery: &Delivery, now: Millis, seed: u64) -> Verdict {
        self.decide_at(delivery, now, Swing::from_seed(seed))
    }

    fn decide_at(&self, delivery: &Delivery, now: Millis, swing: Swing) -> Verdict {
        let Some(failure) = &delivery.error else {
            let provider = delivery.provider.as_deref().unwrap_or("");
            let message = "the event awaits a verdict on a failure, but names none";
            return Verdict::DeadLetter {
                failure: Failure::new(ErrorKind::Unreadable, provider, None, message),
                rule: None,
            };
        };
        let error = (failure.kind, failure.code.as_deref().unwrap_or(""));
        let Some(rule) = self.rule_for(delivery, Some(error), now) else {
            return Verdict::DeadLetter {
                failure: failure.clone(),
                rule: None,
            };
        };
        let in_doubt = failure.kind == ErrorKind::Ambiguous && delivery.policy == Policy::NoDuplicate;
        let next = if in_doubt {
            None
        } else {
            next_try(rule, delivery, failure, swing)
        };
        let Some((wait_ms, provider)) = next else {
            return Verdict::DeadLetter {
                failure: failure.clone(),
                rule: Some(self.refer(rule)),
            };
        };
        // The wait counts from the failure, not from when its turn for a verdict came. Another machine's clock may be
        // ahead of ours; that must not make the wait longer.
        let due = delivery.at.min(now).saturating_add_unsigned(wait_ms).max(now);
        if age_ms(delivery, due) >= rule.max_age_ms {
            return Verdict::DeadLetter {
                failure: too_old(rule, delivery),
                rule: Some(self.refer(rule)),
            };
        }
        Verdict::Retry {
            due,
            provider: provider.map(str::to_owned),
            rule: self.refer(rule),
        }
    }

    /// The end of an event that waits for something other than a retry (a token, a circuit, an operator) and has become too
    /// old. Rules that match on errors do not take part.
    pub fn outlived(&self, delivery: &Delivery, now: Millis) -> Option<(Failure, RuleRef)> {
        let rule = self.rule_for(delivery, None, now)?;
        (age_ms(delivery, now) >= rule.max_age_ms).then(|| (too_old(rule, delivery), self.refer(rule)))
    }

    fn rule_for(&self, delivery: &Delivery, error: Option<(ErrorKind, &str)>, now: Millis) -> Option<&Rule> {
        let age_ms = age_ms(delivery, now);
        self.rules
            .iter()
            .find(|rule| rule.matches.fits(delivery, error, age_ms))
    }

    fn refer(&self, rule: &Rule) -> RuleRef {
        RuleRef {
            id: rule.id.clone(),
            version: self.version.clone(),
            unknown: Map::new(),
        }
    }
}

/// How long to wait and who tries then (`None`: the same as before). Nothing when all tries are used up.
fn next_try<'r>(
    rule: &'r Rule,
    delivery: &Delivery,
    failure: &Failure,
    swing: Swing,
) -> Option<(u64, Option<&'r str>)> {
    let provider = delivery.provider.as_deref();
    let tries = provider.map_or(delivery.attempt, |provider| tries_of(delivery, provider));
    if tries < rule.tries {
        let wait_ms = match failure.retry_after_ms {
            // Never before the time that the provider asked for.
            Some(asked_ms) => {
                let held_ms = rule.retry_after.hold(u64::from(asked_ms));
                rule.backoff.jittered(held_ms, swing.upwards())
            }
            None => rule.backoff.wait_ms(tries, swing),
        };
        return Some((wait_ms, None));
    }
    let failover = rule.failover.as_ref().filter(|failover| {
        !delivery.pinned
            && provider != Some(failover.provider.as_str())
            && tries_of(delivery, &failover.provider) == 0
    })?;
    let wait_ms = rule.backoff.jittered(failover.delay_ms, swing);
    Some((wait_ms, Some(&failover.provider)))
}

/// Sends by this provider in this generation, over all its accounts.
fn tries_of(delivery: &Delivery, provider: &str) -> u32 {
    delivery
        .sends
        .values()
        .filter(|sends| sends.provider == provider)
        .fold(0, |sum, sends| sum.saturating_add(sends.tries))
}

/// How long the event is under way at `now`, in milliseconds.
fn age_ms(delivery: &Delivery, now: Millis) -> u64 {
    u64::try_from(now.saturating_sub(delivery.since)).unwrap_or(0)
}

fn too_old(rule: &Rule, delivery: &Delivery) -> Failure {
    let mut message = format!(
        "under way for longer than max_age, {}",
        duration::write(rule.max_age_ms)
    );
    if let Some(last) = &delivery.error {
        message = format!("{message}; the last failure: {}, {}", last.kind, last.message);
    }
    let provider = delivery.provider.as_deref().unwrap_or("");
    Failure::new(
        ErrorKind::Rules,
        provider,
        Some(CODE_MAX_AGE.to_owned()),
        &message,
    )
}

/// 16 hexadecimal digits of a text (FNV-1a, 64 bit).
fn digest(text: &str) -> String {
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    format!("{hash:016x}")
}

#[cfg(test)]
mod tests;
