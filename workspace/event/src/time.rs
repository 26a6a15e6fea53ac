//! Times as clients say them.

use jiff::Timestamp;

use crate::{FieldError, Millis, fields::excerpt};

const DAY_MS: i64 = 86_400_000;

/// A time in UTC with milliseconds, as RFC 3339; a number past the year 9999.
pub fn write(time: Millis) -> String {
    Timestamp::from_millisecond(time).map_or_else(|_| time.to_string(), |time| format!("{time:.3}"))
}

/// Reads a time with its offset that lies no more than so many days ahead of `now`. Past ones are the caller's to judge.
///
/// # Errors
/// Names the field, and what would be accepted.
pub fn read(name: &str, text: &str, days_ahead_max: u32, now: Millis) -> Result<Millis, FieldError> {
    const FORM: &str = "a time with its offset, such as 2030-01-31T09:00:00Z or 2030-01-31T09:00:00+02:00";
    let Ok(time) = text.parse::<Timestamp>() else {
        return Err(FieldError::new(
            name,
            format!("{:?} is no time", excerpt(text)),
            FORM,
        ));
    };
    let millis = time.as_millisecond();
    if millis > now.saturating_add(i64::from(days_ahead_max) * DAY_MS) {
        return Err(FieldError::new(
            name,
            "is too far ahead",
            format!("up to {days_ahead_max} days from now"),
        ));
    }
    Ok(millis)
}
