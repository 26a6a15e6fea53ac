//! The rule file: its shape, and every check that it must pass before it decides anything.

use std::{collections::HashSet, fmt, str::FromStr};

use posthaste_event::{Channel, ErrorKind, FieldError, Priority};
use serde::Deserialize;
use toml::Spanned;

use crate::{
    Rules,
    backoff::{Backoff, JITTER_ONE, Series},
    duration,
    error::{RulesError, Source},
    examples::{self, TestText},
    rule::{Bounds, Failover, Match, Pattern, Rule},
};

/// More rules than anybody can keep in mind; each failure reads them in turn.
const RULES_MAX: usize = 1_000;
/// More tries than any provider should see of one event.
const TRIES_MAX: u32 = 1_000;
/// Longest rule file, in bytes.
const TEXT_BYTES_MAX: usize = 1 << 20;
const NAME_ACCEPTED: &str = "1 to 64 letters, digits, \".\", \"_\" or \"-\"";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: Option<Spanned<String>>,
    max_age: Option<Spanned<String>>,
    retry_after: Option<BoundsText>,
    #[serde(default)]
    rule: Vec<Spanned<RuleText>>,
    #[serde(default)]
    test: Vec<Spanned<TestText>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleText {
    id: Spanned<String>,
    #[serde(rename = "match")]
    matches: Option<Spanned<MatchText>>,
    tries: Spanned<u32>,
    backoff: Spanned<BackoffText>,
    failover: Option<FailoverText>,
    max_age: Option<Spanned<String>>,
    retry_after: Option<BoundsText>,
    end: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MatchText {
    channel: Option<Spanned<Vec<Spanned<String>>>>,
    provider: Option<Spanned<Vec<Spanned<String>>>>,
    tenant: Option<Spanned<Vec<Spanned<String>>>>,
    priority: Option<Spanned<Vec<Spanned<String>>>>,
    error: Option<Spanned<Vec<Spanned<String>>>>,
    code: Option<Spanned<Vec<Spanned<String>>>>,
    older_than: Option<Spanned<String>>,
    younger_than: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BackoffText {
    kind: Spanned<String>,
    delay: Option<Spanned<String>>,
    first: Option<Spanned<String>>,
    factor: Option<Spanned<f64>>,
    cap: Option<Spanned<String>>,
    delays: Option<Spanned<Vec<Spanned<String>>>>,
    jitter: Option<Spanned<f64>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FailoverText {
    provider: Spanned<String>,
    delay: Spanned<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BoundsText {
    min: Spanned<String>,
    max: Spanned<String>,
}

/// What a file says, once each of its rules has passed.
struct Checked {
    version: Option<String>,
    rules: Vec<Rule>,
}

/// What a rule takes over when it says nothing itself.
struct Common {
    max_age_ms: u64,
    retry_after: Bounds,
}

/// Reads and checks a rule file, and runs its tests.
pub(crate) fn check(text: &str, origin: &str) -> Result<Rules, RulesError> {
    let source = Source { origin, text };
    if text.len() > TEXT_BYTES_MAX {
        let problem = format!("{} bytes are too many", text.len());
        return Err(source.error(0..0, "", problem, format!("at most {TEXT_BYTES_MAX} bytes")));
    }
    let file: File = toml::from_str(text).map_err(|error| source.toml(&error))?;
    let reader = Reader { source };
    let Checked { version, rules } = reader.file(&file)?;
    let rules = Rules {
        origin: origin.to_owned(),
        version: version.unwrap_or_else(|| crate::digest(text)),
        rules,
        tests: file.test.len(),
    };
    examples::run(&file.test, &reader, &rules)?;
    Ok(rules)
}

pub(crate) struct Reader<'a> {
    source: Source<'a>,
}

impl Reader<'_> {
    pub(crate) fn refuse<T, V>(
        &self,
        value: &Spanned<V>,
        key: &str,
        problem: impl Into<String>,
        accepted: impl Into<String>,
    ) -> Result<T, RulesError> {
        Err(self.source.error(value.span(), key, problem, accepted))
    }

    fn file(&self, file: &File) -> Result<Checked, RulesError> {
        let common = Common {
            max_age_ms: match &file.max_age {
                Some(text) => self.duration_above_zero(text, "max_age")?,
                None => crate::MAX_AGE_DEFAULT_MS,
            },
            retry_after: match &file.retry_after {
                Some(bounds) => self.bounds(bounds)?,
                None => Bounds::DEFAULT,
            },
        };
        let version = match &file.version {
            Some(version) => Some(self.name(version, "version")?),
            None => None,
        };
        let rules = file
            .rule
            .iter()
            .take(RULES_MAX + 1)
            .map(|text| self.rule(text.get_ref(), &common))
            .collect::<Result<Vec<_>, _>>()?;
        self.whole(file, &rules)?;
        Ok(Checked { version, rules })
    }

    /// What can be judged only over all rules.
    fn whole(&self, file: &File, rules: &[Rule]) -> Result<(), RulesError> {
        let Some((last_text, last)) = file.rule.last().zip(rules.last()) else {
            let accepted = "at least one [[rule]], the last without `match`";
            return Err(self.source.error(0..0, "rule", "there is no rule", accepted));
        };
        if file.rule.len() > RULES_MAX {
            return self.refuse(
                last_text,
                "rule",
                "too many rules",
                format!("at most {RULES_MAX}"),
            );
        }
        let mut ids = HashSet::new();
        for (text, rule) in file.rule.iter().zip(rules) {
            let key = format!("rule {:?}", rule.id);
            if !ids.insert(rule.id.as_str()) {
                return self.refuse(
                    &text.get_ref().id,
                    &key,
                    "two rules have this id",
                    "an id of its own",
                );
            }
            if rule.matches.is_everything() && !std::ptr::eq(rule, last) {
                let problem = "it fits everything, so no rule below it can ever decide";
                return self.refuse(text, &key, problem, "such a rule at the end only");
            }
        }
        if !last.matches.is_everything() {
            let key = format!("rule {:?}", last.id);
            let accepted = "a last rule without `match`, for all else";
            return self.refuse(last_text, &key, "the last rule does not fit everything", accepted);
        }
        Ok(())
    }

    fn rule(&self, text: &RuleText, common: &Common) -> Result<Rule, RulesError> {
        let id = self.name(&text.id, "id")?;
        let tries = *text.tries.get_ref();
        if !(1..=TRIES_MAX).contains(&tries) {
            let accepted = format!("1 to {TRIES_MAX}");
            return self.refuse(&text.tries, "tries", format!("{tries} tries"), accepted);
        }
        if let Some(end) = &text.end
            && end.get_ref() != "dead_letter"
        {
            let problem = format!("unknown end {:?}", end.get_ref());
            return self.refuse(end, "end", problem, "\"dead_letter\"");
        }
        let matches = match &text.matches {
            Some(matches) => self.matches(matches)?,
            None => Match::default(),
        };
        let failover = match &text.failover {
            Some(failover) => Some(self.failover(failover, &matches)?),
            None => None,
        };
        Ok(Rule {
            matches,
            tries,
            backoff: self.backoff(&text.backoff)?,
            failover,
            max_age_ms: match &text.max_age {
                Some(text) => self.duration_above_zero(text, "max_age")?,
                None => common.max_age_ms,
            },
            retry_after: match &text.retry_after {
                Some(bounds) => self.bounds(bounds)?,
                None => common.retry_after,
            },
            line: self.source.line(text.id.span().start),
            id,
        })
    }

    fn failover(&self, text: &FailoverText, matches: &Match) -> Result<Failover, RulesError> {
        let provider = self.name(&text.provider, "failover.provider")?;
        if matches.provider == [Pattern::new(&provider)] {
            let problem = format!("{provider} cannot stand in for itself");
            return self.refuse(&text.provider, "failover.provider", problem, "another provider");
        }
        Ok(Failover {
            provider,
            delay_ms: self.duration(&text.delay, "failover.delay")?,
            line: self.source.line(text.provider.span().start),
        })
    }

    fn matches(&self, text: &Spanned<MatchText>) -> Result<Match, RulesError> {
        let texts = text.get_ref();
        let matches = Match {
            channel: self.parsed::<Channel>(texts.channel.as_ref(), "match.channel")?,
            provider: self.patterns(texts.provider.as_ref(), "match.provider")?,
            tenant: self.patterns(texts.tenant.as_ref(), "match.tenant")?,
            priority: self.parsed::<Priority>(texts.priority.as_ref(), "match.priority")?,
            error: self.parsed::<ErrorKind>(texts.error.as_ref(), "match.error")?,
            code: self.patterns(texts.code.as_ref(), "match.code")?,
            older_than_ms: self.optional_duration(texts.older_than.as_ref(), "match.older_than")?,
            younger_than_ms: self.optional_duration(texts.younger_than.as_ref(), "match.younger_than")?,
        };
        if let (Some(older), Some(younger)) = (matches.older_than_ms, matches.younger_than_ms)
            && older >= younger
        {
            let problem = "no age is older and younger than that";
            return self.refuse(text, "match", problem, "older_than below younger_than");
        }
        Ok(matches)
    }

    fn list<'t>(
        &self,
        list: Option<&'t Spanned<Vec<Spanned<String>>>>,
        key: &str,
    ) -> Result<&'t [Spanned<String>], RulesError> {
        match list {
            None => Ok(&[]),
            Some(list) if list.get_ref().is_empty() => self.refuse(
                list,
                key,
                "an empty list fits nothing",
                "at least one, or no such key",
            ),
            Some(list) => Ok(list.get_ref()),
        }
    }

    fn parsed<T: FromStr<Err = FieldError> + fmt::Debug>(
        &self,
        list: Option<&Spanned<Vec<Spanned<String>>>>,
        key: &str,
    ) -> Result<Vec<T>, RulesError> {
        self.list(list, key)?
            .iter()
            .map(|name| {
                name.get_ref()
                    .parse()
                    .or_else(|error: FieldError| self.refuse(name, key, error.problem, error.accepted))
            })
            .collect()
    }

    fn patterns(
        &self,
        list: Option<&Spanned<Vec<Spanned<String>>>>,
        key: &str,
    ) -> Result<Vec<Pattern>, RulesError> {
        self.list(list, key)?
            .iter()
            .map(|text| {
                let stem = text.get_ref().strip_suffix('*').unwrap_or(text.get_ref());
                if stem.contains('*') || text.get_ref().is_empty() {
                    let problem = format!("{:?} cannot be matched", text.get_ref());
                    return self.refuse(text, key, problem, "a name, or the beginning of one and \"*\"");
                }
                Ok(Pattern::new(text.get_ref()))
            })
            .collect()
    }

    fn backoff(&self, text: &Spanned<BackoffText>) -> Result<Backoff, RulesError> {
        let texts = text.get_ref();
        let given = [
            ("delay", texts.delay.as_ref().map(Spanned::span)),
            ("first", texts.first.as_ref().map(Spanned::span)),
            ("factor", texts.factor.as_ref().map(Spanned::span)),
            ("cap", texts.cap.as_ref().map(Spanned::span)),
            ("delays", texts.delays.as_ref().map(Spanned::span)),
        ];
        let kind = texts.kind.get_ref().as_str();
        let allowed: &[&str] = match kind {
            "fixed" => &["delay"],
            "exponential" => &["first", "factor", "cap"],
            "list" => &["delays"],
            _ => {
                let problem = format!("unknown kind {kind:?}");
                return self.refuse(&texts.kind, "backoff.kind", problem, "fixed, exponential, list");
            }
        };
        for (key, span) in given {
            match span {
                Some(span) if !allowed.contains(&key) => {
                    let problem = format!("means nothing for kind {kind:?}");
                    let accepted = allowed.join(", ");
                    return Err(self
                        .source
                        .error(span, format!("backoff.{key}"), problem, accepted));
                }
                None if allowed.contains(&key) && key != "factor" => {
                    let problem = format!("{key} is missing for kind {kind:?}");
                    return self.refuse(text, "backoff", problem, duration::ACCEPTED);
                }
                _ => {}
            }
        }
        let jitter = self.number(texts.jitter.as_ref(), "backoff.jitter", 0.0, 0.0..=1.0)?;
        Ok(Backoff {
            series: self.series(text)?,
            // Between 0 and a million: checked just above.
            jitter: (jitter * f64::from(JITTER_ONE)) as u32,
        })
    }

    /// Only keys of the kind are given here, and all of them.
    fn series(&self, text: &Spanned<BackoffText>) -> Result<Series, RulesError> {
        let texts = text.get_ref();
        if let Some(delay) = &texts.delay {
            return Ok(Series::Fixed(self.duration(delay, "backoff.delay")?));
        }
        if let Some(delays) = &texts.delays {
            let delays = self
                .list(Some(delays), "backoff.delays")?
                .iter()
                .map(|delay| self.duration(delay, "backoff.delays"))
                .collect::<Result<_, _>>()?;
            return Ok(Series::List(delays));
        }
        let first = self
            .optional_duration(texts.first.as_ref(), "backoff.first")?
            .unwrap_or(0);
        let cap = self
            .optional_duration(texts.cap.as_ref(), "backoff.cap")?
            .unwrap_or(0);
        if cap < first {
            return self.refuse(
                text,
                "backoff.cap",
                "the cap is below the first wait",
                "first or longer",
            );
        }
        let factor = self.number(texts.factor.as_ref(), "backoff.factor", 2.0, 1.0..=100.0)?;
        Ok(Series::Exponential { first, factor, cap })
    }

    fn number(
        &self,
        value: Option<&Spanned<f64>>,
        key: &str,
        default: f64,
        range: std::ops::RangeInclusive<f64>,
    ) -> Result<f64, RulesError> {
        match value {
            None => Ok(default),
            Some(value) if range.contains(value.get_ref()) => Ok(*value.get_ref()),
            Some(value) => {
                let accepted = format!("{} to {}", range.start(), range.end());
                self.refuse(
                    value,
                    key,
                    format!("{} is out of range", value.get_ref()),
                    accepted,
                )
            }
        }
    }

    fn bounds(&self, text: &BoundsText) -> Result<Bounds, RulesError> {
        let bounds = Bounds {
            min_ms: self.duration(&text.min, "retry_after.min")?,
            max_ms: self.duration(&text.max, "retry_after.max")?,
        };
        if bounds.max_ms < bounds.min_ms {
            return self.refuse(
                &text.max,
                "retry_after.max",
                "below retry_after.min",
                "min or longer",
            );
        }
        Ok(bounds)
    }

    pub(crate) fn optional_duration(
        &self,
        text: Option<&Spanned<String>>,
        key: &str,
    ) -> Result<Option<u64>, RulesError> {
        text.map(|text| self.duration(text, key)).transpose()
    }

    fn duration_above_zero(&self, text: &Spanned<String>, key: &str) -> Result<u64, RulesError> {
        match self.duration(text, key)? {
            0 => self.refuse(text, key, "nothing may be that young", "a duration above 0"),
            ms => Ok(ms),
        }
    }

    fn duration(&self, text: &Spanned<String>, key: &str) -> Result<u64, RulesError> {
        duration::parse(text.get_ref()).map_or_else(
            || {
                let problem = format!("{:?} is not a duration", text.get_ref());
                self.refuse(text, key, problem, duration::ACCEPTED)
            },
            Ok,
        )
    }

    fn name(&self, text: &Spanned<String>, key: &str) -> Result<String, RulesError> {
        let name = text.get_ref();
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if !(1..=64).contains(&name.len()) || !name.bytes().all(fits) {
            let shown: String = name.chars().take(80).collect();
            return self.refuse(text, key, format!("{shown:?} is not a name"), NAME_ACCEPTED);
        }
        Ok(name.clone())
    }
}
