//! What waits for a time goes out then: never before, and how late.

use posthaste_event::{Millis, Status};

use super::{Audit, Case};
use crate::report::Kind;

/// A wait: from a step that names a time, to the next step.
struct Wait {
    from: Millis,
    due_at: Millis,
    until: Millis,
    is_scheduled: bool,
}

pub(super) fn check(case: &Case<'_>, audit: &mut Audit<'_>) {
    let clock_ms = case.leniency.clock_ms;
    for wait in waits(case) {
        let during = |at: Millis| at > wait.from && at <= wait.until + clock_ms;
        if let Some(early) = case
            .sends
            .iter()
            .find(|send| during(send.at) && send.at < wait.due_at - clock_ms)
        {
            audit.find(case, Kind::SentEarly, case.late_arrival(wait.from, early.at));
        }
        if let Some(due) = case
            .sends
            .iter()
            .find(|send| during(send.at) && send.at >= wait.due_at - clock_ms)
        {
            let late_ms = (due.at - wait.due_at).max(0);
            if wait.is_scheduled {
                audit.scheduled_late_ms.push(late_ms);
            } else {
                audit.retried_late_ms.push(late_ms);
            }
        }
    }
}

fn waits(case: &Case<'_>) -> Vec<Wait> {
    let mut waits: Vec<Wait> = case
        .steps
        .iter()
        .enumerate()
        .filter_map(|(place, step)| {
            Some(Wait {
                from: step.at,
                due_at: step.due_at?,
                until: case.steps.get(place + 1).map_or(Millis::MAX / 2, |next| next.at),
                is_scheduled: step.status == Status::Scheduled,
            })
        })
        .collect();
    // What the client asked for counts, whatever became of it inside; and it is known even without a history.
    if let Some(due_at) = case.posted.and_then(|posted| posted.scheduled_at) {
        waits.retain(|wait| !wait.is_scheduled);
        let until = case.steps.get(1).map_or(Millis::MAX / 2, |next| next.at);
        waits.push(Wait {
            from: Millis::MIN,
            due_at,
            until,
            is_scheduled: true,
        });
    }
    waits
}
