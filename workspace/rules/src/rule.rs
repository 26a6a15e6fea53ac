//! One rule: what it is for, and what it says.

use posthaste_event::{Channel, Delivery, ErrorKind, Priority};

use crate::backoff::Backoff;

/// A name, or the beginning of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Pattern {
    Exactly(String),
    Begins(String),
}

impl Pattern {
    pub(crate) fn new(text: &str) -> Self {
        match text.strip_suffix('*') {
            Some(stem) => Self::Begins(stem.to_owned()),
            None => Self::Exactly(text.to_owned()),
        }
    }

    fn fits(&self, name: &str) -> bool {
        match self {
            Self::Exactly(whole) => name == whole,
            Self::Begins(stem) => name.starts_with(stem.as_str()),
        }
    }
}

/// What a rule is for; an empty list and `None` fit everything.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Match {
    pub(crate) channel: Vec<Channel>,
    pub(crate) provider: Vec<Pattern>,
    pub(crate) tenant: Vec<Pattern>,
    pub(crate) priority: Vec<Priority>,
    pub(crate) error: Vec<ErrorKind>,
    pub(crate) code: Vec<Pattern>,
    pub(crate) older_than_ms: Option<u64>,
    pub(crate) younger_than_ms: Option<u64>,
}

impl Match {
    pub(crate) fn is_everything(&self) -> bool {
        *self == Self::default()
    }

    /// Whether the rule is for this delivery, `age_ms` old, that failed with `error`; `None` is an event that has not failed
    /// but waits.
    pub(crate) fn fits(&self, delivery: &Delivery, error: Option<(ErrorKind, &str)>, age_ms: u64) -> bool {
        let provider = delivery.provider.as_deref().unwrap_or("");
        one_of(&self.channel, |channel| *channel == delivery.channel)
            && one_of(&self.provider, |pattern| pattern.fits(provider))
            && one_of(&self.tenant, |pattern| pattern.fits(&delivery.tenant))
            && one_of(&self.priority, |priority| *priority == delivery.priority)
            && self.fits_error(error)
            && self.older_than_ms.is_none_or(|ms| age_ms > ms)
            && self.younger_than_ms.is_none_or(|ms| age_ms < ms)
    }

    fn fits_error(&self, error: Option<(ErrorKind, &str)>) -> bool {
        let Some((kind, code)) = error else {
            return self.error.is_empty() && self.code.is_empty();
        };
        let named = self.error.contains(&kind);
        (named || (self.error.is_empty() && may_succeed_later(kind)))
            && one_of(&self.code, |pattern| pattern.fits(code))
    }
}

/// Whether a rule that does not name this kind of error may try again after it.
const fn may_succeed_later(kind: ErrorKind) -> bool {
    match kind {
        ErrorKind::Rejected | ErrorKind::Ambiguous | ErrorKind::RateLimited => true,
        ErrorKind::Permanent | ErrorKind::Expired | ErrorKind::Rules | ErrorKind::Unreadable => false,
    }
}

fn one_of<T>(list: &[T], fits: impl Fn(&T) -> bool) -> bool {
    list.is_empty() || list.iter().any(fits)
}

/// Who tries next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failover {
    pub(crate) provider: String,
    pub(crate) delay_ms: u64,
    /// Where it stands in the file.
    pub(crate) line: usize,
}

/// The shortest and the longest wait that a provider may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub(crate) min_ms: u64,
    pub(crate) max_ms: u64,
}

impl Bounds {
    pub(crate) const DEFAULT: Self = Self {
        min_ms: 1_000,
        max_ms: 3_600_000,
    };

    pub(crate) fn hold(self, ms: u64) -> u64 {
        // Not `clamp`, which panics on bounds the wrong way round.
        ms.max(self.min_ms).min(self.max_ms)
    }
}

/// One rule.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Rule {
    pub(crate) id: String,
    pub(crate) matches: Match,
    pub(crate) tries: u32,
    pub(crate) backoff: Backoff,
    pub(crate) failover: Option<Failover>,
    pub(crate) max_age_ms: u64,
    pub(crate) retry_after: Bounds,
    /// Where it stands in the file.
    pub(crate) line: usize,
}
