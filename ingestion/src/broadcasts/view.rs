//! A broadcast as people see it.

use std::collections::BTreeMap;

use posthaste_broadcast::Known;
use posthaste_event::{
    Millis, Priority, Status,
    broadcast::{Broadcast, Ended},
    control::Wish,
    time,
};
use serde::Serialize;

/// What a broadcast can be doing.
pub(crate) const STATES: [&str; 7] = [
    "scheduled",
    "sending",
    "paused",
    "stopped",
    "cancelling",
    "cancelled",
    "done",
];

/// See the module. Times are RFC 3339.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct View {
    broadcast_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    tenant: String,
    status: &'static str,
    created_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    scheduled_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    finished_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    priority: Option<Priority>,
    chunk_size: u32,
    /// Milliseconds.
    chunk_delay: u64,
    progress: Progress,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Progress {
    /// Of the recipients, with two decimals.
    percentage: f64,
    /// Chunks that were handed over, of so many.
    step: u32,
    total_steps: u32,
    current_step: &'static str,
    data: Counts,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Counts {
    recipients: u64,
    /// Those whose events are on their way to the provider, or beyond.
    handed_over: u64,
    /// Those whose events are not, and never will be when it is cancelled.
    remaining: u64,
    /// What became of those that were handed over; only of one broadcast, and only when that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    events: Option<Tally>,
    /// Why it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    events_problem: Option<&'static str>,
}

/// Events by what became of them. A push to a user counts, and so does each that it becomes for a device.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Tally {
    /// Those whose end is to come, or not known yet.
    waiting: u64,
    sent: u64,
    /// Given up; `GET /dead-letters` has them.
    failed: u64,
    /// Not sent on purpose, such as to a suppressed recipient.
    skipped: u64,
    /// Withdrawn before they were sent.
    cancelled: u64,
    expired: u64,
}

impl Tally {
    fn of(counts: &BTreeMap<Status, u64>, handed_over: u64) -> Self {
        let mut tally = Self::default();
        for (status, count) in counts {
            let place = match status {
                Status::Pending | Status::Scheduled | Status::Retrying => &mut tally.waiting,
                Status::Sent | Status::Delivered | Status::Read => &mut tally.sent,
                Status::DeadLettered => &mut tally.failed,
                Status::Skipped => &mut tally.skipped,
                Status::Cancelled => &mut tally.cancelled,
                Status::Expired => &mut tally.expired,
            };
            *place += count;
        }
        // Of what was handed over a moment ago the store need not know yet.
        tally.waiting += handed_over.saturating_sub(counts.values().sum());
        tally
    }
}

/// What it is doing, in a word.
pub(super) fn status(known: &Known, broadcast: &Broadcast, now: Millis) -> &'static str {
    let progress = known.progress.as_ref();
    match progress.and_then(|progress| progress.ended) {
        Some(Ended::Done) if known.cancelled_at.is_none() => return "done",
        Some(Ended::Done) => return "cancelled",
        Some(Ended::Cancelled) => return "cancelled",
        None => {}
    }
    let is_ahead = progress.is_none() && broadcast.scheduled_at.is_some_and(|at| at > now);
    match known.wish() {
        Wish::Cancelled => "cancelling",
        Wish::Paused => "paused",
        Wish::Stopped => "stopped",
        Wish::Running if is_ahead => "scheduled",
        Wish::Running => "sending",
    }
}

impl View {
    pub(super) fn of(known: &Known, broadcast: &Broadcast, now: Millis) -> Self {
        let status = status(known, broadcast, now);
        let progress = known.progress.as_ref();
        let recipients = broadcast.recipients;
        let handed_over = progress.map_or(0, |progress| progress.recipients);
        // Down, so that 100 is said only when nothing is left.
        let hundredths = u128::from(handed_over) * 10_000 / u128::from(recipients.max(1));
        let ended = progress.filter(|progress| progress.ended.is_some());
        Self {
            broadcast_id: broadcast.id.clone(),
            name: broadcast.name.clone(),
            tenant: broadcast.tenant.clone(),
            status,
            created_at: time::write(broadcast.at),
            scheduled_at: broadcast.scheduled_at.map(time::write),
            finished_at: ended.map(|progress| time::write(progress.at)),
            priority: broadcast.priority,
            chunk_size: broadcast.chunk_size,
            chunk_delay: broadcast.chunk_delay_ms,
            progress: Progress {
                percentage: hundredths as f64 / 100.0,
                step: progress.map_or(0, |progress| progress.chunks),
                total_steps: broadcast.chunks,
                current_step: status,
                data: Counts {
                    recipients,
                    handed_over,
                    remaining: recipients.saturating_sub(handed_over),
                    events: None,
                    events_problem: None,
                },
            },
        }
    }

    /// The same, with what became of its events.
    pub(super) fn with(mut self, tally: Result<BTreeMap<Status, u64>, &'static str>) -> Self {
        let data = &mut self.progress.data;
        match tally {
            Ok(counts) => data.events = Some(Tally::of(&counts, data.handed_over)),
            Err(problem) => data.events_problem = Some(problem),
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_store_does_not_know_yet_waits() {
        let counts = [
            (Status::Pending, 1),
            (Status::Retrying, 2),
            (Status::Sent, 10),
            (Status::Delivered, 5),
            (Status::DeadLettered, 3),
            (Status::Cancelled, 4),
        ];
        let tally = Tally::of(&counts.into(), 30);
        let expected = Tally {
            waiting: 8,
            sent: 15,
            failed: 3,
            cancelled: 4,
            ..Tally::default()
        };
        assert_eq!(tally, expected);
        // A push to a user is more than one event.
        assert_eq!(Tally::of(&counts.into(), 5).waiting, 3);
    }
}
