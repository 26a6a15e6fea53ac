//! The one place where the clock is read. Code that decides takes the time as an argument.

use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds since the Unix epoch, UTC. Every time on the wire and in the store has this form.
pub type Millis = i64;

/// The wall clock now, in milliseconds since the Unix epoch. A clock set before 1970 reads as 0.
pub fn now() -> Millis {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
