//! The tests inside a rule file: a failure, and what its author expects to become of it.
//!
//! They are run whenever the file is read, so that a file whose rules do not do what its author says is never in force.

use posthaste_event::{ErrorKind, FieldError, Priority, delivery::Policy};
use serde::Deserialize;
use toml::Spanned;

use crate::{
    Rules, duration,
    error::RulesError,
    explain::{Case, Step},
    file::Reader,
};

/// More tests than anybody reads; each of them reads the rules in turn.
const TESTS_MAX: usize = 1_000;

/// Accepted after `then`.
const OUTCOMES: &[&str] = &["retry", "failover", "dead_letter"];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TestText {
    name: Spanned<String>,
    given: Spanned<GivenText>,
    expect: Spanned<ExpectText>,
}

/// A failure, as `posthaste rules explain` takes it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GivenText {
    channel: Spanned<String>,
    provider: Spanned<String>,
    tenant: Option<Spanned<String>>,
    priority: Option<Spanned<String>>,
    error: Option<Spanned<String>>,
    code: Option<Spanned<String>>,
    retry_after: Option<Spanned<String>>,
    tries: Option<Spanned<u32>>,
    age: Option<Spanned<String>>,
    pinned: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExpectText {
    rule: Option<Spanned<String>>,
    then: Option<Spanned<String>>,
    provider: Option<Spanned<String>>,
    wait: Option<Spanned<String>>,
}

/// Runs the tests of a file on its rules.
///
/// # Errors
/// The first test that cannot be read or that the rules do not pass.
pub(crate) fn run(tests: &[Spanned<TestText>], reader: &Reader<'_>, rules: &Rules) -> Result<(), RulesError> {
    if let Some(beyond) = tests.get(TESTS_MAX) {
        return reader.refuse(beyond, "test", "too many tests", format!("at most {TESTS_MAX}"));
    }
    tests
        .iter()
        .try_for_each(|test| Example::new(test.get_ref(), reader)?.run(rules))
}

/// A test that could be read.
struct Example<'t, 'r> {
    text: &'t TestText,
    reader: &'t Reader<'r>,
    case: Case,
    wait_ms: Option<u64>,
}

impl<'t, 'r> Example<'t, 'r> {
    fn new(text: &'t TestText, reader: &'t Reader<'r>) -> Result<Self, RulesError> {
        let expect = text.expect.get_ref();
        if let Some(then) = &expect.then
            && !OUTCOMES.contains(&then.get_ref().as_str())
        {
            let problem = format!("unknown outcome {:?}", then.get_ref());
            return reader.refuse(then, "expect.then", problem, OUTCOMES.join(", "));
        }
        let expects_nothing = expect.rule.is_none()
            && expect.then.is_none()
            && expect.provider.is_none()
            && expect.wait.is_none();
        if expects_nothing {
            let accepted = "at least one of rule, then, provider, wait";
            return reader.refuse(&text.expect, "expect", "nothing is expected", accepted);
        }
        let wait_ms = reader.optional_duration(expect.wait.as_ref(), "expect.wait")?;
        Ok(Self {
            case: case(text.given.get_ref(), reader)?,
            text,
            reader,
            wait_ms,
        })
    }

    fn run(&self, rules: &Rules) -> Result<(), RulesError> {
        let step = rules.first_step(&self.case);
        let expect = self.text.expect.get_ref();
        self.compare(&step, "rule", expect.rule.as_ref(), step.rule.as_deref())?;
        self.compare(&step, "then", expect.then.as_ref(), Some(step.then))?;
        let next = step.next_provider.as_deref();
        self.compare(&step, "provider", expect.provider.as_ref(), next)?;
        if let (Some(expected), Some(text)) = (self.wait_ms, &expect.wait) {
            let fits = step
                .wait_ms
                .is_some_and(|(low, high)| (low..=high).contains(&expected));
            if !fits {
                let wait = step.wait_ms.map(|(low, high)| match low == high {
                    true => format!("{:?}", duration::write(low)),
                    false => format!("{:?} to {:?}", duration::write(low), duration::write(high)),
                });
                return self.fail(&step, "wait", text, wait);
            }
        }
        Ok(())
    }

    fn compare(
        &self,
        step: &Step,
        key: &str,
        expected: Option<&Spanned<String>>,
        is: Option<&str>,
    ) -> Result<(), RulesError> {
        match expected {
            Some(expected) if Some(expected.get_ref().as_str()) != is => {
                self.fail(step, key, expected, is.map(|is| format!("{is:?}")))
            }
            _ => Ok(()),
        }
    }

    /// `fitting` is what the rules would pass with; nothing when there is no such thing.
    fn fail(
        &self,
        step: &Step,
        key: &str,
        expected: &Spanned<String>,
        fitting: Option<String>,
    ) -> Result<(), RulesError> {
        let name: String = self.text.name.get_ref().chars().take(80).collect();
        let problem = format!("{:?} is expected, but the rules say: {step}", expected.get_ref());
        let accepted = fitting.unwrap_or_else(|| format!("no {key} here, or other rules"));
        self.reader.refuse(
            expected,
            &format!("test {name:?}, expect.{key}"),
            problem,
            accepted,
        )
    }
}

fn case(given: &GivenText, reader: &Reader<'_>) -> Result<Case, RulesError> {
    let tries = given.tries.as_ref().map_or(1, |tries| *tries.get_ref());
    if let Some(text) = &given.tries
        && !(1..=10_000).contains(&tries)
    {
        return reader.refuse(text, "given.tries", format!("{tries} tries"), "1 to 10000");
    }
    let retry_after = reader.optional_duration(given.retry_after.as_ref(), "given.retry_after")?;
    let age = reader.optional_duration(given.age.as_ref(), "given.age")?;
    let text = |value: &Option<Spanned<String>>| value.as_ref().map(|value| value.get_ref().clone());
    Ok(Case {
        channel: parsed(reader, &given.channel, "given.channel")?,
        provider: given.provider.get_ref().clone(),
        tenant: text(&given.tenant).unwrap_or_else(|| "default".to_owned()),
        priority: match &given.priority {
            Some(priority) => parsed(reader, priority, "given.priority")?,
            None => Priority::default(),
        },
        kind: match &given.error {
            Some(kind) => parsed(reader, kind, "given.error")?,
            None => ErrorKind::Rejected,
        },
        code: text(&given.code),
        retry_after_ms: retry_after.map(|ms| u32::try_from(ms).unwrap_or(u32::MAX)),
        tries,
        age_ms: age.unwrap_or(0),
        pinned: given.pinned.unwrap_or(false),
        policy: Policy::NoLoss,
    })
}

fn parsed<T>(reader: &Reader<'_>, text: &Spanned<String>, key: &str) -> Result<T, RulesError>
where
    T: std::str::FromStr<Err = FieldError>,
{
    text.get_ref()
        .parse()
        .or_else(|error: FieldError| reader.refuse(text, key, error.problem, error.accepted))
}
