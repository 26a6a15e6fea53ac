//! How much a principal may ask for: so many requests in a window of time. Pure: the time is an argument.

use std::sync::Mutex;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use posthaste_event::Millis;

/// <https://datatracker.ietf.org/doc/draft-ietf-httpapi-ratelimit-headers/>
const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const LIMIT: HeaderName = HeaderName::from_static("ratelimit");

/// So many requests, in so many seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Quota {
    pub(super) requests: u32,
    pub(super) seconds: u32,
}

/// What is left after a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Left {
    pub(super) requests: u32,
    /// Until the window is over.
    pub(super) seconds: u32,
    /// Whether this request is one too many.
    pub(super) is_over: bool,
}

/// What one principal asked for in the present window.
#[derive(Debug, Default)]
pub(super) struct Window(Mutex<(Millis, u32)>);

impl Window {
    /// Counts a request.
    pub(super) fn take(&self, quota: Quota, now: Millis) -> Left {
        let length_ms = i64::from(quota.seconds) * 1_000;
        // Whoever panicked in here left two numbers, which are good whatever they are.
        let mut window = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (since, used) = &mut *window;
        // A clock that was set back must not make a window that lasts.
        if now >= *since + length_ms || now < *since {
            (*since, *used) = (now, 0);
        }
        let is_over = *used >= quota.requests;
        *used = used.saturating_add(u32::from(!is_over));
        let ms = (*since + length_ms - now).max(1);
        Left {
            requests: quota.requests - *used,
            seconds: u32::try_from((ms + 999) / 1_000).unwrap_or(quota.seconds),
            is_over,
        }
    }
}

/// Says what is allowed to whom, and what is left of it.
pub(super) fn say(headers: &mut HeaderMap, whom: &str, quota: Quota, left: Left) {
    let policy = format!("\"{whom}\";q={};w={}", quota.requests, quota.seconds);
    let limit = format!("\"{whom}\";r={};t={}", left.requests, left.seconds);
    for (name, text) in [(POLICY, policy), (LIMIT, limit)] {
        if let Ok(value) = HeaderValue::try_from(text) {
            headers.insert(name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUOTA: Quota = Quota {
        requests: 3,
        seconds: 10,
    };

    #[test]
    fn so_many_go_through_and_the_rest_waits_for_the_next_window() {
        let window = Window::default();
        let take = |now| {
            let left = window.take(QUOTA, now);
            (left.requests, left.seconds, left.is_over)
        };
        assert_eq!(take(1_000_000), (2, 10, false));
        assert_eq!(take(1_000_001), (1, 10, false));
        assert_eq!(take(1_004_000), (0, 6, false));
        assert_eq!(take(1_004_001), (0, 6, true));
        assert_eq!(take(1_009_999), (0, 1, true));
        assert_eq!(take(1_010_000), (2, 10, false));
    }

    #[test]
    fn a_clock_that_is_set_back_locks_nobody_out() {
        let window = Window::default();
        for _ in 0..5 {
            window.take(QUOTA, 1_000_000);
        }
        assert!(!window.take(QUOTA, 500_000).is_over);
    }

    #[test]
    fn the_headers_are_those_of_the_draft() {
        let mut headers = HeaderMap::new();
        say(&mut headers, "principal", QUOTA, Window::default().take(QUOTA, 0));
        assert_eq!(headers["ratelimit-policy"], "\"principal\";q=3;w=10");
        assert_eq!(headers["ratelimit"], "\"principal\";r=2;t=10");
    }
}
