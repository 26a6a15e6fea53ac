//! A broadcast as people see it.

use posthaste_broadcast::Known;
use posthaste_event::{
    Millis, Priority,
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
}

/// What it is doing, in a word.
pub(super) fn status(known: &Known, broadcast: &Broadcast, now: Millis) -> &'static str {
    let progress = known.progress.as_ref();
    match progress.and_then(|progress| progress.ended) {
        Some(Ended::Done) => return "done",
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
                },
            },
        }
    }
}
