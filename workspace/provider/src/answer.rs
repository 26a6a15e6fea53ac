//! Reading a provider's answer: accepted or not, and if not, what may be done next.
//!
//! A file's rules come first. What no rule decides is decided by the status:
//!
//! | status | meaning | why |
//! |---|---|---|
//! | 2xx | ambiguous | the file says what acceptance looks like; this was not it |
//! | 429 | rate limited | |
//! | 503 | rejected | the server says that it did not take the request; it may name a time in `Retry-After` |
//! | 408, 425, other 5xx | ambiguous | a gateway (502, 504) or a crash (500) may answer after the message went out |
//! | all else | rejected | the request was read and refused, or not read at all |

use std::cell::OnceCell;

use posthaste_event::{
    ErrorKind, Failure, Millis,
    failure::{Reported, cut},
};
use reqwest::header::HeaderMap;
use serde::Deserialize;
use serde_json::Value as Json;

use self::wanted::Wanted;
use crate::{Receipt, template::TemplateError};

mod wanted;

/// Longest wait taken from a provider, in milliseconds: a day. A longer one is a mistake or an attack.
const RETRY_AFTER_MS_MAX: u64 = 24 * 60 * 60 * 1_000;

/// Where in an answer something is.
#[derive(Debug, Clone)]
enum Source {
    /// A member of the JSON body; `*` is every element of a list, the first that has the rest wins.
    Json(Vec<String>),
    /// A header.
    Header(String),
    /// The whole body, cut to one line of text.
    Text,
}

impl Source {
    fn parse(text: &str) -> Result<Self, TemplateError> {
        if let Some(name) = text.strip_prefix("header:") {
            return reqwest::header::HeaderName::from_bytes(name.as_bytes())
                .map(|name| Self::Header(name.as_str().to_owned()))
                .map_err(|_| TemplateError(format!("{name:?} is no header name")));
        }
        if text == "text" {
            return Ok(Self::Text);
        }
        if text.is_empty() || text.split('.').any(str::is_empty) {
            return Err(TemplateError(format!(
                "{text:?} names no place; accepted: a.b.0.c, a.*.b, header:<name>, text"
            )));
        }
        Ok(Self::Json(text.split('.').map(str::to_owned).collect()))
    }
}

/// An answer, read whole or as far as the bound allows.
pub(crate) struct Answer<'a> {
    pub(crate) status: u16,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) text: &'a str,
    /// When it came.
    pub(crate) at: Millis,
}

/// An answer that is looked into.
struct Opened<'a> {
    answer: &'a Answer<'a>,
    wanted: &'a Wanted,
    /// Read when something in it is asked for; `Null` when the body is not JSON.
    json: OnceCell<Json>,
}

impl<'a> Answer<'a> {
    pub(crate) const fn new(status: u16, headers: &'a HeaderMap, text: &'a str, at: Millis) -> Self {
        Self {
            status,
            headers,
            text,
            at,
        }
    }
}

impl Opened<'_> {
    fn json(&self) -> &Json {
        self.json.get_or_init(|| self.wanted.read(self.answer.text))
    }

    fn find(&self, source: &Source) -> Option<Json> {
        match source {
            Source::Json(path) => find(self.json(), path).filter(|value| !value.is_null()).cloned(),
            Source::Header(name) => Some(self.answer.headers.get(name)?.to_str().ok()?.into()),
            Source::Text => Some(self.answer.text.trim())
                .filter(|text| !text.is_empty())
                .map(Json::from),
        }
    }

    fn first_text(&self, sources: &[Source]) -> Option<String> {
        sources
            .iter()
            .find_map(|source| match self.find(source)? {
                Json::String(text) => Some(text),
                value @ (Json::Number(_) | Json::Bool(_)) => Some(value.to_string()),
                Json::Array(items) => items.into_iter().next()?.as_str().map(str::to_owned),
                Json::Object(_) | Json::Null => None,
            })
            .filter(|text| !text.is_empty())
    }
}

fn find<'j>(json: &'j Json, path: &[String]) -> Option<&'j Json> {
    let Some((first, rest)) = path.split_first() else {
        return Some(json);
    };
    match json {
        Json::Object(members) => find(members.get(first)?, rest),
        Json::Array(items) if first == "*" => items.iter().find_map(|item| find(item, rest)),
        Json::Array(items) => find(items.get(first.parse::<usize>().ok()?)?, rest),
        _ => None,
    }
}

/// What an answer can mean, as written in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Meaning {
    Accepted,
    Rejected,
    Ambiguous,
    Permanent,
    RateLimited,
}

/// One or several.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(crate) enum Several<T> {
    // Tried in this order: a list is also one value of any type.
    Many(Vec<T>),
    One(T),
}

impl<T> Several<T> {
    fn into_vec(self) -> Vec<T> {
        match self {
            Self::One(one) => vec![one],
            Self::Many(many) => many,
        }
    }
}

impl<T> Default for Several<T> {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

/// `[answer]` of a provider file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AnswerFile {
    #[serde(default)]
    message_id: Several<String>,
    #[serde(default)]
    error_code: Several<String>,
    #[serde(default)]
    error_message: Several<String>,
    /// Seconds, or a date.
    #[serde(default)]
    retry_after: Several<String>,
    /// Seconds since the Unix epoch.
    #[serde(default)]
    retry_at: Several<String>,
    rules: Vec<RuleFile>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleFile {
    #[serde(default)]
    status: Several<toml::Value>,
    #[serde(default)]
    codes: Several<String>,
    path: Option<String>,
    #[serde(default)]
    values: Several<toml::Value>,
    present: Option<bool>,
    #[serde(default)]
    message_has: Several<String>,
    meaning: Meaning,
    /// What the answer says of the recipient.
    reports: Option<Reported>,
}

/// How a provider's answers are read.
#[derive(Debug)]
pub(crate) struct Reading {
    message_id: Vec<Source>,
    error_code: Vec<Source>,
    error_message: Vec<Source>,
    retry_after: Vec<Source>,
    retry_at: Vec<Source>,
    rules: Vec<Rule>,
    wanted: Wanted,
}

#[derive(Debug)]
struct Rule {
    status: Vec<(u16, u16)>,
    codes: Vec<String>,
    path: Option<Source>,
    values: Vec<Json>,
    present: Option<bool>,
    message_has: Vec<String>,
    meaning: Meaning,
    reports: Option<Reported>,
}

impl Reading {
    /// Checks `[answer]`. The error comes with the path to the key that is wrong.
    pub(crate) fn parse(file: AnswerFile) -> Result<Self, (Vec<String>, TemplateError)> {
        let sources = |key: &str, texts: Several<String>| {
            texts
                .into_vec()
                .iter()
                .map(|text| Source::parse(text))
                .collect::<Result<Vec<_>, _>>()
                .map_err(|error| (vec![key.to_owned()], error))
        };
        let rules = file
            .rules
            .into_iter()
            .enumerate()
            .map(|(index, rule)| {
                Rule::parse(rule).map_err(|(key, error)| {
                    (vec!["rules".to_owned(), index.to_string(), key.to_owned()], error)
                })
            })
            .collect::<Result<Vec<_>, _>>()?;
        if !rules.iter().any(|rule| rule.meaning == Meaning::Accepted) {
            return Err((
                vec!["rules".to_owned()],
                TemplateError("no rule has meaning = \"accepted\", so nothing could ever be sent".to_owned()),
            ));
        }
        let mut reading = Self {
            message_id: sources("message_id", file.message_id)?,
            error_code: sources("error_code", file.error_code)?,
            error_message: sources("error_message", file.error_message)?,
            retry_after: sources("retry_after", file.retry_after)?,
            retry_at: sources("retry_at", file.retry_at)?,
            rules,
            wanted: Wanted::default(),
        };
        let mut wanted = Wanted::default();
        for source in reading.sources() {
            if let Source::Json(path) = source {
                wanted.add(path);
            }
        }
        reading.wanted = wanted;
        Ok(reading)
    }

    /// All that is looked for.
    fn sources(&self) -> impl Iterator<Item = &Source> {
        let in_rules = self.rules.iter().filter_map(|rule| rule.path.as_ref());
        let lists = [
            &self.message_id,
            &self.error_code,
            &self.error_message,
            &self.retry_after,
            &self.retry_at,
        ];
        lists.into_iter().flatten().chain(in_rules)
    }

    /// What the answer means.
    pub(crate) fn read(&self, provider: &str, answer: &Answer<'_>) -> Result<Receipt, Failure> {
        let opened = Opened {
            answer,
            wanted: &self.wanted,
            json: OnceCell::new(),
        };
        let code = opened
            .first_text(&self.error_code)
            .map(|code| cut(&code, 64).to_owned());
        let message = opened.first_text(&self.error_message);
        let (meaning, reports) = self
            .rules
            .iter()
            .find(|rule| rule.holds(&opened, code.as_deref(), message.as_deref()))
            .map_or_else(
                || (by_status(answer.status), None),
                |rule| (rule.meaning, rule.reports),
            );
        let kind = match meaning {
            Meaning::Accepted => {
                return Ok(Receipt {
                    message_id: opened
                        .first_text(&self.message_id)
                        .map(|id| cut(&id, 256).to_owned()),
                });
            }
            Meaning::Rejected => ErrorKind::Rejected,
            Meaning::Ambiguous => ErrorKind::Ambiguous,
            Meaning::Permanent => ErrorKind::Permanent,
            Meaning::RateLimited => ErrorKind::RateLimited,
        };
        let message = match message {
            Some(message) => one_line(&message),
            None if (300..400).contains(&answer.status) => format!(
                "{provider} answered {}: a redirect, and those are never followed",
                answer.status
            ),
            None => format!(
                "{provider} answered {} without a reason that can be read",
                answer.status
            ),
        };
        let code = code.unwrap_or_else(|| answer.status.to_string());
        Err(Failure::new(kind, provider, Some(code), &message)
            .retry_after(self.retry_after(&opened))
            .reporting(reports))
    }

    fn retry_after(&self, opened: &Opened<'_>) -> Option<u32> {
        let header = Source::Header("retry-after".to_owned());
        let after = opened
            .first_text(&self.retry_after)
            .or_else(|| opened.first_text(std::slice::from_ref(&header)))
            .and_then(|text| wait_ms(&text, opened.answer.at));
        after.or_else(|| {
            let at: i64 = opened.first_text(&self.retry_at)?.trim().parse().ok()?;
            let wait = u64::try_from(at.saturating_mul(1_000).saturating_sub(opened.answer.at)).unwrap_or(0);
            u32::try_from(wait.min(RETRY_AFTER_MS_MAX)).ok()
        })
    }
}

/// `Retry-After`: seconds (RFC 9110 section 10.2.3, some send fractions), or a date.
pub(crate) fn wait_ms(text: &str, now: Millis) -> Option<u32> {
    let text = text.trim();
    let ms = match text.parse::<f64>() {
        Ok(seconds) if seconds.is_finite() && seconds >= 0.0 => {
            // `as` saturates.
            (seconds * 1_000.0).ceil() as u64
        }
        Ok(_) => return None,
        Err(_) => {
            let at = jiff::fmt::rfc2822::parse(text).ok()?.timestamp().as_millisecond();
            u64::try_from(at.saturating_sub(now)).unwrap_or(0)
        }
    };
    u32::try_from(ms.min(RETRY_AFTER_MS_MAX)).ok()
}

const fn by_status(status: u16) -> Meaning {
    match status {
        429 => Meaning::RateLimited,
        503 => Meaning::Rejected,
        200..=299 | 408 | 425 | 500..=599 => Meaning::Ambiguous,
        _ => Meaning::Rejected,
    }
}

/// Text of an answer, made fit for a log line.
pub(crate) fn one_line(text: &str) -> String {
    let cut = cut(text, 2 * posthaste_event::failure::MESSAGE_BYTES_MAX);
    let words: Vec<&str> = cut
        .split(|c: char| c.is_whitespace() || c.is_control())
        .filter(|word| !word.is_empty())
        .collect();
    words.join(" ")
}

impl Rule {
    fn parse(file: RuleFile) -> Result<Self, (&'static str, TemplateError)> {
        let status = file
            .status
            .into_vec()
            .iter()
            .map(|value| statuses(value).map_err(|error| ("status", error)))
            .collect::<Result<_, _>>()?;
        let path = file
            .path
            .as_deref()
            .map(Source::parse)
            .transpose()
            .map_err(|error| ("path", error))?;
        let values: Vec<Json> = file
            .values
            .into_vec()
            .into_iter()
            .map(|value| serde_json::to_value(value).unwrap_or_default())
            .collect();
        if file.reports.is_some() && file.meaning != Meaning::Permanent {
            return Err((
                "reports",
                TemplateError("only what is `permanent` says something of the recipient".to_owned()),
            ));
        }
        if path.is_some() == (values.is_empty() && file.present.is_none()) {
            return Err((
                "path",
                TemplateError("`path` goes with `values` or `present`, and neither stands alone".to_owned()),
            ));
        }
        Ok(Self {
            status,
            codes: file.codes.into_vec(),
            path,
            values,
            present: file.present,
            message_has: file
                .message_has
                .into_vec()
                .iter()
                .map(|text| text.to_lowercase())
                .collect(),
            meaning: file.meaning,
            reports: file.reports,
        })
    }

    /// Whether all that the rule asks for is so.
    fn holds(&self, opened: &Opened<'_>, code: Option<&str>, message: Option<&str>) -> bool {
        let status = self.status.is_empty()
            || self
                .status
                .iter()
                .any(|(from, until)| (*from..=*until).contains(&opened.answer.status));
        let code =
            self.codes.is_empty() || code.is_some_and(|code| self.codes.iter().any(|known| known == code));
        let message = self.message_has.is_empty()
            || message.is_some_and(|message| {
                let message = message.to_lowercase();
                self.message_has.iter().any(|part| message.contains(part))
            });
        status && code && message && self.path_holds(opened)
    }

    fn path_holds(&self, opened: &Opened<'_>) -> bool {
        let Some(source) = &self.path else {
            return true;
        };
        let found = opened.find(source);
        let is_there = found.as_ref().is_some_and(|value| match value {
            Json::String(text) => !text.is_empty(),
            Json::Array(items) => !items.is_empty(),
            Json::Object(members) => !members.is_empty(),
            _ => true,
        });
        self.present.is_none_or(|present| present == is_there)
            && (self.values.is_empty() || found.is_some_and(|found| self.values.contains(&found)))
    }
}

/// `201`, `"2xx"` or `"400-499"`.
fn statuses(value: &toml::Value) -> Result<(u16, u16), TemplateError> {
    let range = match value {
        toml::Value::Integer(status) => u16::try_from(*status).ok().map(|status| (status, status)),
        toml::Value::String(text) => match text.strip_suffix("xx") {
            Some(class) => class
                .parse::<u16>()
                .ok()
                .filter(|class| (1..=5).contains(class))
                .map(|class| (class * 100, class * 100 + 99)),
            None => text
                .split_once('-')
                .and_then(|(from, until)| Some((from.parse().ok()?, until.parse().ok()?))),
        },
        _ => None,
    };
    range
        .filter(|(from, until)| 100 <= *from && from <= until && *until <= 599)
        .ok_or_else(|| {
            TemplateError(format!(
                "{value} is no status; accepted: 201, \"2xx\", \"400-499\""
            ))
        })
}

#[cfg(test)]
mod tests;
