//! What a schedule says, and when it fires. Pure.

use croner::Cron;
use jiff::{Timestamp, tz::TimeZone};
use posthaste_event::{FieldError, Millis, fields::excerpt};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

/// Longest pattern, in bytes: far more than seven fields need.
const CRON_BYTES_MAX: usize = 256;
const CRON_ACCEPTED: &str = "five fields (minute, hour, day of month, month, day of week), six with seconds in front, such as 0 9 * * MON-FRI; \
                             or @hourly, @daily, @weekly, @monthly, @yearly";
const ZONE_ACCEPTED: &str = "a name of the IANA time zone database, such as Europe/Berlin, or UTC";

/// What becomes of the times that passed while nothing ran.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Missed {
    /// Nothing is sent for them.
    Skip,
    /// One is sent for all of them.
    #[default]
    Once,
    /// Each is sent, one after the other.
    All,
}

impl Missed {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Skip, Self::Once, Self::All];

    /// The name in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Skip => "skip",
            Self::Once => "once",
            Self::All => "all",
        }
    }
}

/// The body of a schedule's definition.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Schedule {
    /// Names this plan: the firings that belong to another one are not sent.
    pub plan: Uuid,
    /// When it was made, in milliseconds since the Unix epoch.
    pub planned_at: Millis,
    /// At what times, as cron writes it.
    pub cron: String,
    /// By whose clock.
    pub time_zone: String,
    /// What becomes of times that passed while nothing ran.
    pub missed: Missed,
    /// Not before this time, in milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub starts_at: Option<Millis>,
    /// Not after this time, in milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends_at: Option<Millis>,
    /// Whether it rests.
    pub paused: bool,
    /// What is sent, as in `POST /event`.
    pub event: Box<RawValue>,
}

impl Schedule {
    /// When it fires.
    ///
    /// # Errors
    /// Names the field that says no time.
    pub fn timing(&self) -> Result<Timing, FieldError> {
        Ok(Timing {
            cron: cron(&self.cron)?,
            zone: zone(&self.time_zone)?,
            starts_at: self.starts_at,
            ends_at: self.ends_at,
        })
    }

    /// Whether it is the same but for when it was made.
    pub fn says_the_same(&self, other: &Self) -> bool {
        let of = |schedule: &Self| {
            let Self {
                plan: _,
                planned_at: _,
                cron,
                time_zone,
                missed,
                starts_at,
                ends_at,
                paused,
                event,
            } = schedule;
            let texts = (cron.clone(), time_zone.clone(), event.get().to_owned());
            (texts, *missed, *starts_at, *ends_at, *paused)
        };
        of(self) == of(other)
    }
}

/// The times at which a schedule fires.
#[derive(Debug, Clone)]
pub struct Timing {
    cron: Cron,
    zone: TimeZone,
    starts_at: Option<Millis>,
    ends_at: Option<Millis>,
}

impl Timing {
    /// The first time after this one, if there is another.
    pub fn after(&self, time: Millis) -> Option<Millis> {
        let from = self
            .starts_at
            .map_or(time, |starts| time.max(starts.saturating_sub(1)));
        // In whole seconds, as the pattern is: the one that has begun is over.
        let second = from.div_euclid(1_000).saturating_mul(1_000);
        let from = Timestamp::from_millisecond(second)
            .ok()?
            .to_zoned(self.zone.clone());
        let next = self.cron.find_next_occurrence(&from, false).ok()?;
        let next = next.timestamp().as_millisecond();
        self.ends_at.is_none_or(|ends| next <= ends).then_some(next)
    }

    /// The firing after the one at `at`, as of now. Unless missed times are all made up for, it is in the future.
    pub fn following(&self, at: Millis, missed: Missed, now: Millis) -> Option<Millis> {
        match missed {
            Missed::All => self.after(at),
            Missed::Skip | Missed::Once => self.after(at.max(now)),
        }
    }
}

/// Reads a pattern.
fn cron(text: &str) -> Result<Cron, FieldError> {
    let error = |problem: String| FieldError::new("cron", problem, CRON_ACCEPTED);
    if text.len() > CRON_BYTES_MAX {
        return Err(error(format!(
            "has {} bytes, more than {CRON_BYTES_MAX}",
            text.len()
        )));
    }
    text.parse()
        .map_err(|reason: croner::errors::CronError| error(format!("{:?}: {reason}", excerpt(text))))
}

fn zone(name: &str) -> Result<TimeZone, FieldError> {
    // As on Windows and in the shell: names that say nothing by themselves, or a path.
    TimeZone::get(name).map_err(|_| {
        let problem = format!("{:?} is no time zone", excerpt(name));
        FieldError::new("timeZone", problem, ZONE_ACCEPTED)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(cron: &str, time_zone: &str) -> Schedule {
        Schedule {
            plan: Uuid::nil(),
            planned_at: 0,
            cron: cron.to_owned(),
            time_zone: time_zone.to_owned(),
            missed: Missed::Once,
            starts_at: None,
            ends_at: None,
            paused: false,
            event: RawValue::from_string("{}".to_owned()).unwrap(),
        }
    }

    fn at(text: &str) -> Millis {
        text.parse::<Timestamp>().unwrap().as_millisecond()
    }

    fn next(schedule: &Schedule, after: &str) -> Option<String> {
        let next = schedule.timing().unwrap().after(at(after))?;
        Some(Timestamp::from_millisecond(next).unwrap().to_string())
    }

    #[test]
    fn it_fires_by_the_clock_of_its_zone() {
        let daily = schedule("30 9 * * *", "Europe/Berlin");
        let winter = next(&daily, "2026-11-21T09:00:00Z");
        assert_eq!(winter.as_deref(), Some("2026-11-22T08:30:00Z"));
        let summer = next(&daily, "2027-06-01T07:30:00Z");
        assert_eq!(
            summer.as_deref(),
            Some("2027-06-02T07:30:00Z"),
            "not at the very time again"
        );
        let within = next(&daily, "2027-06-01T07:29:59.999Z");
        assert_eq!(within.as_deref(), Some("2027-06-01T07:30:00Z"));
    }

    #[test]
    fn a_day_of_change_fires_once() {
        let at_half_past_two = schedule("30 2 * * *", "Europe/Berlin");
        let timing = at_half_past_two.timing().unwrap();
        for (day, of) in [
            ("2027-03-27T12:00:00Z", "forward"),
            ("2026-10-24T12:00:00Z", "back"),
        ] {
            let within = at(day)..at(day) + 86_400_000;
            let mut fired = Vec::new();
            let mut last = within.start;
            while let Some(next) = timing.after(last).filter(|next| within.contains(next)) {
                fired.push(next);
                last = next;
            }
            assert_eq!(fired.len(), 1, "{of}: {fired:?}");
        }
    }

    #[test]
    fn it_begins_and_ends() {
        let hourly = Schedule {
            starts_at: Some(at("2026-11-21T12:00:00Z")),
            ends_at: Some(at("2026-11-21T13:00:00Z")),
            ..schedule("0 * * * *", "UTC")
        };
        assert_eq!(
            next(&hourly, "2026-11-20T00:00:00Z").as_deref(),
            Some("2026-11-21T12:00:00Z")
        );
        assert_eq!(
            next(&hourly, "2026-11-21T12:00:00Z").as_deref(),
            Some("2026-11-21T13:00:00Z")
        );
        assert_eq!(next(&hourly, "2026-11-21T13:00:00Z"), None);
        assert_eq!(
            next(&schedule("0 0 30 2 *", "UTC"), "2026-11-21T13:00:00Z"),
            None,
            "never"
        );
    }

    #[test]
    fn what_was_missed_is_made_up_for_as_it_says() {
        let timing = schedule("0 * * * *", "UTC").timing().unwrap();
        let (fired, now) = (at("2026-11-21T09:00:00Z"), at("2026-11-21T12:30:00Z"));
        for missed in [Missed::Skip, Missed::Once] {
            assert_eq!(
                timing.following(fired, missed, now),
                Some(at("2026-11-21T13:00:00Z"))
            );
        }
        assert_eq!(
            timing.following(fired, Missed::All, now),
            Some(at("2026-11-21T10:00:00Z"))
        );
        let early = at("2026-11-21T08:59:59Z");
        let next = timing.following(fired, Missed::Once, early);
        assert_eq!(
            next,
            Some(at("2026-11-21T10:00:00Z")),
            "one that was sent early is not sent again"
        );
    }

    #[test]
    fn what_is_no_pattern_or_zone_is_named() {
        let long = "1,".repeat(200);
        for pattern in ["", "x", "* * * *", "60 * * * *", "* * * * * * * *", &long] {
            assert_eq!(
                schedule(pattern, "UTC").timing().unwrap_err().field,
                "cron",
                "{pattern}"
            );
        }
        for name in ["", "Mars/Base", "../../etc/passwd", "/etc/localtime"] {
            assert_eq!(
                schedule("@daily", name).timing().unwrap_err().field,
                "timeZone",
                "{name}"
            );
        }
    }
}
