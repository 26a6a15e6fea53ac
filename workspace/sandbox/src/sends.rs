//! Every call that was in order, one short entry each, to be read from start to end while it grows.
//!
//! For whoever checks what was sent against what was promised: entries are numbered, nothing is merged, and a reader that
//! comes too late is told what it missed.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

use posthaste_event::{Millis, clock};
use serde::Serialize;
use uuid::Uuid;

use crate::{behaviour::Action, serve::event_of};

/// Entries looked at for one answer, so that a filter that fits nothing holds up nobody.
const SCANNED_MAX: usize = 50_000;

/// A call.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    /// When it came, in milliseconds since the Unix epoch.
    pub(crate) at: Millis,
    /// Whose interface.
    pub(crate) provider: &'static str,
    /// What was done with it.
    pub(crate) action: Action,
    /// The idempotency key, where the interface has a place for one.
    pub(crate) key: Option<Box<str>>,
}

/// The newest calls, in the order in which they came.
pub(crate) struct Sends {
    /// Tells one memory from the next: numbers begin again with it.
    memory: String,
    entries: Mutex<Kept>,
    entries_max: usize,
}

#[derive(Default)]
struct Kept {
    /// Number of the first entry that is still here.
    first: u64,
    entries: VecDeque<Entry>,
}

/// What `GET /sandbox/sends` answers.
#[derive(Debug, Serialize)]
pub(crate) struct Answer {
    /// Another one than before: the sandbox started anew or was told to forget, and numbers began again.
    memory: String,
    /// The sandbox's clock, in milliseconds since the Unix epoch.
    now: Millis,
    /// Number of the oldest entry kept: who asks for less has missed some.
    first: u64,
    /// What to ask for next.
    next: u64,
    sends: Vec<Line>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Line {
    at: Millis,
    provider: &'static str,
    action: &'static str,
    /// Whether the message was taken, whatever was answered.
    taken: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<Box<str>>,
}

impl Sends {
    pub(crate) fn new(entries_max: usize) -> Self {
        Self {
            memory: Uuid::new_v4().simple().to_string(),
            entries: Mutex::default(),
            entries_max,
        }
    }

    pub(crate) fn push(&self, entry: Entry) {
        let mut kept = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let oldest = if kept.entries.len() >= self.entries_max {
            kept.first += 1;
            kept.entries.pop_front()
        } else {
            None
        };
        if self.entries_max > 0 {
            kept.entries.push_back(entry);
        }
        drop(kept);
        // Freed outside of the lock.
        drop(oldest);
    }

    /// The entries from this number on, at most `limit`: all, or those of events whose id begins so.
    pub(crate) fn from(&self, number: u64, prefix: Option<&str>, limit: usize) -> Answer {
        let is_wanted = |entry: &Entry| {
            prefix.is_none_or(|prefix| {
                let event = entry.key.as_deref().and_then(event_of);
                event.is_some_and(|event| event.starts_with(prefix))
            })
        };
        let kept = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let skipped = usize::try_from(number.saturating_sub(kept.first)).unwrap_or(usize::MAX);
        let mut found: Vec<Entry> = Vec::new();
        let mut scanned = 0;
        for entry in kept.entries.iter().skip(skipped).take(SCANNED_MAX) {
            if found.len() == limit {
                break;
            }
            scanned += 1;
            if is_wanted(entry) {
                found.push(entry.clone());
            }
        }
        let begun = kept.first + skipped.min(kept.entries.len()) as u64;
        let first = kept.first;
        drop(kept);
        Answer {
            memory: self.memory.clone(),
            now: clock::now(),
            first,
            next: begun + scanned,
            sends: found.into_iter().map(Line::of).collect(),
        }
    }
}

impl Line {
    fn of(entry: Entry) -> Self {
        Self {
            at: entry.at,
            provider: entry.provider,
            action: entry.action.as_str(),
            taken: entry.action.takes(),
            event: entry.key.as_deref().and_then(event_of).map(str::to_owned),
            key: entry.key,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(sends: &Sends, key: &str) {
        sends.push(Entry {
            at: 1,
            provider: "twilio",
            action: Action::Accept,
            key: Some(key.into()),
        });
    }

    fn keys(answer: &Answer) -> Vec<&str> {
        answer
            .sends
            .iter()
            .map(|line| line.key.as_deref().unwrap())
            .collect()
    }

    #[test]
    fn a_reader_gets_every_entry_once_and_in_order() {
        let sends = Sends::new(10);
        for key in ["a:t:0", "b:t:0", "a:t:1"] {
            push(&sends, key);
        }
        let answer = sends.from(0, None, 2);
        assert_eq!((keys(&answer), answer.next), (vec!["a:t:0", "b:t:0"], 2));
        let answer = sends.from(answer.next, None, 2);
        assert_eq!((keys(&answer), answer.next), (vec!["a:t:1"], 3));
        let answer = sends.from(answer.next, None, 2);
        assert_eq!((keys(&answer), answer.next), (vec![], 3));
        push(&sends, "c:t:0");
        assert_eq!(keys(&sends.from(answer.next, None, 2)), ["c:t:0"]);
    }

    #[test]
    fn a_filter_leaves_out_and_goes_on_behind_what_it_left_out() {
        let sends = Sends::new(10);
        for key in ["run-1:t:0", "other:t:0", "run-2:t:0"] {
            push(&sends, key);
        }
        let answer = sends.from(0, Some("run-"), 100);
        assert_eq!((keys(&answer), answer.next), (vec!["run-1:t:0", "run-2:t:0"], 3));
    }

    #[test]
    fn a_reader_that_comes_too_late_is_told() {
        let sends = Sends::new(2);
        for key in ["a:t:0", "b:t:0", "c:t:0"] {
            push(&sends, key);
        }
        let answer = sends.from(0, None, 100);
        assert_eq!(
            (answer.first, keys(&answer), answer.next),
            (1, vec!["b:t:0", "c:t:0"], 3)
        );
        assert_ne!(sends.memory, Sends::new(2).memory);
        // From another memory, perhaps: numbers that were never given out.
        assert_eq!(sends.from(99, None, 100).next, 3);
    }

    #[test]
    fn none_are_kept_when_none_shall_be() {
        let sends = Sends::new(0);
        push(&sends, "a:t:0");
        let answer = sends.from(0, None, 100);
        assert_eq!((answer.first, answer.next, answer.sends.len()), (1, 1, 0));
    }
}
