//! How the sandbox misbehaves: by the recipient alone, or by rules that are put there.
//!
//! **Recipients.** Wherever the recipient (number, address, token, channel, URL) contains `sandbox-<action>`, that happens:
//! `ann+sandbox-invalid@example.com`, `#sandbox-rate-limit`, `https://example.com/sandbox-hang`. For numbers there are
//! (as far as Twilio has magic numbers, the same): +15005550001 invalid, +15005550009 invalid, +15005550429 rate-limit,
//! +15005550500 fail, +15005550503 unavailable, +15005550597 garbage, +15005550598 reset, +15005550599 hang.
//!
//! **Rules.** `PUT /sandbox/behaviour` with `{"rules": [{"action": "unavailable", "provider": "messagebird", "percent": 30}]}`
//! replaces all rules. The first rule that fits and whose chance hits is applied; recipients come before rules.

use std::sync::{
    RwLock,
    atomic::{AtomicU64, Ordering},
};

use posthaste_event::FieldError;
use serde::{Deserialize, Serialize};

use crate::apis;

/// Most rules at once.
pub(crate) const RULES_MAX: usize = 100;
/// Longest delay of a rule, in milliseconds.
pub(crate) const DELAY_MS_MAX: u64 = 600_000;
/// Wait that `rate-limit` asks for unless its rule says otherwise, in seconds.
const RETRY_AFTER_SECONDS: u32 = 1;

/// What to do with a call that is in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Take the message, as usual; to except some from a later rule.
    Accept,
    /// Take the message, late.
    Slow,
    /// Take the message, but never answer.
    Hang,
    /// Take the message, but break the connection instead of answering.
    Reset,
    /// Take the message, and answer what no such interface answers.
    Garbage,
    /// Refuse the recipient for good.
    Invalid,
    /// Refuse for now, with 503: nothing was taken.
    Unavailable,
    /// Fail with 500, and do not say whether the message was taken (it was not).
    Fail,
    /// Ask to come back later, with 429.
    RateLimit,
}

impl Action {
    /// How many there are.
    pub(crate) const COUNT: usize = 9;

    /// Each with its name.
    pub(crate) const ALL: [(Self, &'static str); Self::COUNT] = [
        (Self::Accept, "accept"),
        (Self::Slow, "slow"),
        (Self::Hang, "hang"),
        (Self::Reset, "reset"),
        (Self::Garbage, "garbage"),
        (Self::Invalid, "invalid"),
        (Self::Unavailable, "unavailable"),
        (Self::Fail, "fail"),
        (Self::RateLimit, "rate-limit"),
    ];

    /// Its name in rules and recipients.
    pub fn as_str(self) -> &'static str {
        Self::ALL
            .iter()
            .find(|(action, _)| *action == self)
            .map_or("", |(_, name)| name)
    }

    /// Whether the message is taken, whatever is answered.
    pub(crate) const fn takes(self) -> bool {
        match self {
            Self::Accept | Self::Slow | Self::Hang | Self::Reset | Self::Garbage => true,
            Self::Invalid | Self::Unavailable | Self::Fail | Self::RateLimit => false,
        }
    }

    fn named(name: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .find(|(_, known)| *known == name)
            .map(|(action, _)| *action)
    }
}

/// What to do with one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Treatment {
    pub(crate) action: Action,
    pub(crate) delay_ms: u64,
    pub(crate) retry_after_seconds: u32,
}

impl Treatment {
    const fn of(action: Action, hang_ms: u64) -> Self {
        Self {
            action,
            delay_ms: match action {
                Action::Hang => hang_ms,
                Action::Slow => 2_000,
                _ => 0,
            },
            retry_after_seconds: RETRY_AFTER_SECONDS,
        }
    }
}

/// One rule, as it is put and shown.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Rule {
    /// What to do.
    pub action: Action,
    /// Only calls of this provider.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// Only this recipient, a number with or without its `+`; `*` at the end stands for anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recipient: Option<String>,
    /// Of how many calls in a hundred; all if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub percent: Option<f64>,
    /// Only so many calls; then the rule is spent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub times: Option<u64>,
    /// How late `slow` answers, how long `hang` waits, or what any other action waits first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay_ms: Option<u64>,
    /// What `rate-limit` asks for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after_seconds: Option<u32>,
}

/// Rules as the user wrote them, before they are checked.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Written {
    action: String,
    provider: Option<String>,
    recipient: Option<String>,
    percent: Option<f64>,
    times: Option<u64>,
    delay_ms: Option<u64>,
    retry_after_seconds: Option<u32>,
}

/// Reads `{"rules": [...]}`.
///
/// # Errors
/// Every field that cannot be taken, with what would be.
pub fn parse(json: &[u8]) -> Result<Vec<Rule>, Vec<FieldError>> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Body {
        rules: Vec<serde_json::Value>,
    }
    let body: Body = serde_json::from_slice(json).map_err(|error| {
        vec![FieldError::new(
            "body",
            error.to_string(),
            "{\"rules\": [{\"action\": ...}]}",
        )]
    })?;
    if body.rules.len() > RULES_MAX {
        return Err(vec![FieldError::new(
            "rules",
            format!("holds {} rules", body.rules.len()),
            format!("at most {RULES_MAX}"),
        )]);
    }
    let mut rules = Vec::new();
    let mut errors = Vec::new();
    for (index, rule) in body.rules.into_iter().enumerate() {
        match check(index, rule) {
            Ok(rule) => rules.push(rule),
            Err(mut wrong) => errors.append(&mut wrong),
        }
    }
    if errors.is_empty() { Ok(rules) } else { Err(errors) }
}

fn check(index: usize, rule: serde_json::Value) -> Result<Rule, Vec<FieldError>> {
    let names = || Action::ALL.map(|(_, name)| name).join(", ");
    let rule: Written = serde_json::from_value(rule).map_err(|error| {
        let accepted = "action, provider, recipient, percent, times, delayMs, retryAfterSeconds";
        vec![FieldError::new(
            format!("rules[{index}]"),
            error.to_string(),
            accepted,
        )]
    })?;
    let mut errors = Vec::new();
    let mut refuse = |field: &str, problem: String, accepted: String| {
        errors.push(FieldError::new(
            format!("rules[{index}].{field}"),
            problem,
            accepted,
        ));
    };
    let action = Action::named(&rule.action);
    if action.is_none() {
        refuse("action", format!("unknown action {:?}", rule.action), names());
    }
    if let Some(provider) = &rule.provider
        && !apis::ALL.iter().any(|api| api.name == provider)
    {
        let known: Vec<&str> = apis::ALL.iter().map(|api| api.name).collect();
        refuse(
            "provider",
            format!("unknown provider {provider:?}"),
            known.join(", "),
        );
    }
    if rule
        .percent
        .is_some_and(|percent| !(0.0..=100.0).contains(&percent))
    {
        refuse("percent", "is out of range".to_owned(), "0 to 100".to_owned());
    }
    if rule.delay_ms.is_some_and(|delay| delay > DELAY_MS_MAX) {
        refuse(
            "delayMs",
            "is too long".to_owned(),
            format!("0 to {DELAY_MS_MAX}"),
        );
    }
    match action {
        Some(action) if errors.is_empty() => Ok(Rule {
            action,
            provider: rule.provider,
            recipient: rule.recipient,
            percent: rule.percent,
            times: rule.times,
            delay_ms: rule.delay_ms,
            retry_after_seconds: rule.retry_after_seconds,
        }),
        _ => Err(errors),
    }
}

/// The rules in force.
pub(crate) struct Behaviour {
    rules: RwLock<Vec<(Rule, AtomicU64)>>,
    hang_ms: u64,
    seed: u64,
    calls: AtomicU64,
}

impl Behaviour {
    pub(crate) const fn new(seed: u64, hang_ms: u64) -> Self {
        Self {
            rules: RwLock::new(Vec::new()),
            hang_ms,
            seed,
            calls: AtomicU64::new(0),
        }
    }

    pub(crate) fn replace(&self, rules: Vec<Rule>) {
        let rules = rules.into_iter().map(|rule| (rule, AtomicU64::new(0))).collect();
        *self
            .rules
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = rules;
    }

    /// The rules, each with how often it was applied.
    pub(crate) fn rules(&self) -> Vec<(Rule, u64)> {
        let rules = self
            .rules
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        rules
            .iter()
            .map(|(rule, applied)| (rule.clone(), applied.load(Ordering::Relaxed)))
            .collect()
    }

    /// What to do with this call.
    pub(crate) fn treat(&self, provider: &str, recipient: &str) -> Treatment {
        if let Some(action) = by_recipient(recipient) {
            return Treatment::of(action, self.hang_ms);
        }
        let rules = self
            .rules
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if rules.is_empty() {
            return Treatment::of(Action::Accept, self.hang_ms);
        }
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        for (index, (rule, applied)) in rules.iter().enumerate() {
            if !rule.fits(provider, recipient) || !self.hits(rule, call, index) {
                continue;
            }
            let spent = |times: u64| {
                let take = |count: u64| (count < times).then(|| count + 1);
                applied
                    .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
                    .is_err()
            };
            if spent(rule.times.unwrap_or(u64::MAX)) {
                continue;
            }
            let usual = Treatment::of(rule.action, self.hang_ms);
            return Treatment {
                action: rule.action,
                delay_ms: rule.delay_ms.unwrap_or(usual.delay_ms),
                retry_after_seconds: rule.retry_after_seconds.unwrap_or(usual.retry_after_seconds),
            };
        }
        Treatment::of(Action::Accept, self.hang_ms)
    }

    fn hits(&self, rule: &Rule, call: u64, index: usize) -> bool {
        rule.percent.is_none_or(|percent| {
            let draw = mix(self.seed ^ mix(call.wrapping_mul(RULES_MAX as u64) + index as u64));
            #[expect(
                clippy::cast_precision_loss,
                reason = "53 bits are kept, as many as there are"
            )]
            let draw = (draw >> 11) as f64 / (1_u64 << 53) as f64;
            draw * 100.0 < percent
        })
    }
}

impl Rule {
    fn fits(&self, provider: &str, recipient: &str) -> bool {
        self.provider.as_ref().is_none_or(|only| only == provider)
            && self
                .recipient
                .as_ref()
                .is_none_or(|only| match only.strip_suffix('*') {
                    Some(prefix) => undialled(recipient).starts_with(undialled(prefix)),
                    None => undialled(recipient) == undialled(only),
                })
    }
}

/// A recipient without the plus of a phone number: some interfaces take numbers with it and some without, and whoever looks for
/// one need not know which.
pub(crate) fn undialled(recipient: &str) -> &str {
    recipient.strip_prefix('+').unwrap_or(recipient)
}

/// Splitmix64: spreads a counter over all numbers.
const fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn by_recipient(recipient: &str) -> Option<Action> {
    // The numbers of Twilio's test credentials, and some more in their manner.
    if let Some(last) = recipient.trim_start_matches('+').strip_prefix("15005550") {
        return match last {
            "001" | "009" => Some(Action::Invalid),
            "429" => Some(Action::RateLimit),
            "500" => Some(Action::Fail),
            "503" => Some(Action::Unavailable),
            "597" => Some(Action::Garbage),
            "598" => Some(Action::Reset),
            "599" => Some(Action::Hang),
            _ => None,
        };
    }
    let (_, rest) = recipient.split_once("sandbox-")?;
    Action::ALL
        .iter()
        .find(|(_, name)| rest.starts_with(name))
        .map(|(action, _)| *action)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_rule_is_refused_by_the_name_of_its_field() {
        for (json, field) in [
            ("", "body"),
            (r#"{"rules": [], "x": 1}"#, "body"),
            (r#"{"rules": [{}]}"#, "rules[0]"),
            (r#"{"rules": [{"action": "explode"}]}"#, "rules[0].action"),
            (
                r#"{"rules": [{"action": "fail", "provider": "nobody"}]}"#,
                "rules[0].provider",
            ),
            (
                r#"{"rules": [{"action": "fail"}, {"action": "fail", "percent": 101}]}"#,
                "rules[1].percent",
            ),
            (
                r#"{"rules": [{"action": "slow", "delayMs": 99999999}]}"#,
                "rules[0].delayMs",
            ),
            (r#"{"rules": [{"action": "slow", "delay": 1}]}"#, "rules[0]"),
        ] {
            let errors = parse(json.as_bytes()).unwrap_err();
            assert_eq!(errors[0].field, field, "{json}: {errors:?}");
        }
    }

    #[test]
    fn a_number_is_the_same_with_and_without_its_plus() {
        let takes = |only: &str, recipient| {
            let behaviour = Behaviour::new(7, 1);
            let rule = format!(r#"{{"rules": [{{"action": "fail", "recipient": "{only}"}}]}}"#);
            behaviour.replace(parse(rule.as_bytes()).unwrap());
            behaviour.treat("messagebird", recipient).action == Action::Fail
        };
        for only in ["+4915155555555", "4915155555555", "+49*", "49*"] {
            assert!(
                takes(only, "+4915155555555") && takes(only, "4915155555555"),
                "{only}"
            );
            assert!(!takes(only, "+4815155555555"), "{only}");
        }
    }

    #[test]
    fn thirty_percent_is_thirty_percent_and_repeatable() {
        let count = || {
            let behaviour = Behaviour::new(7, 1);
            behaviour.replace(parse(br#"{"rules": [{"action": "fail", "percent": 30}]}"#).unwrap());
            (0..10_000)
                .filter(|_| behaviour.treat("twilio", "+1").action == Action::Fail)
                .count()
        };
        assert_eq!(count(), count());
        assert!((2_800..3_200).contains(&count()), "{}", count());
    }

    #[test]
    fn the_first_rule_that_fits_is_applied_until_it_is_spent() {
        let behaviour = Behaviour::new(1, 9_000);
        let rules = r#"{"rules": [
            {"action": "accept", "recipient": "+49*"},
            {"action": "rate-limit", "provider": "twilio", "times": 2, "retryAfterSeconds": 5},
            {"action": "hang", "provider": "twilio"}
        ]}"#;
        behaviour.replace(parse(rules.as_bytes()).unwrap());
        let mut actions = Vec::new();
        for recipient in ["+491", "+11", "+12", "+13"] {
            actions.push(behaviour.treat("twilio", recipient).action);
        }
        assert_eq!(
            actions,
            [Action::Accept, Action::RateLimit, Action::RateLimit, Action::Hang]
        );
        assert_eq!(behaviour.treat("mailgun", "a@b").action, Action::Accept);
        assert_eq!(
            behaviour.treat("mailgun", "a+sandbox-invalid@b").action,
            Action::Invalid
        );
        assert_eq!(behaviour.rules()[1].1, 2);
    }
}
