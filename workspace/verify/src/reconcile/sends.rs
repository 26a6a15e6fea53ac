//! A message is taken once; what goes out again bears the same key; nothing goes out after its end.

use posthaste_event::{ErrorKind, Millis, Status};

use super::{Audit, Case};
use crate::{
    ledger::Send,
    report::{Excuse, Kind},
};

pub(super) fn check(case: &Case<'_>, audit: &mut Audit<'_>) {
    repeats(case, audit);
    after_the_end(case, audit);
    after_expiry(case, audit);
}

/// A call that began before the event expired may take so long to arrive, in milliseconds: a connection is made, a token
/// fetched, on a busy machine.
const ARRIVAL_MS_MAX: Millis = 1_000;

fn repeats(case: &Case<'_>, audit: &mut Audit<'_>) {
    let taken: Vec<&Send> = case.taken().collect();
    for (place, again) in taken.iter().enumerate().skip(1) {
        // Whoever asked for that rather loses the message than gets it twice: nothing explains a repeat.
        let never = case.posted.is_some_and(|posted| posted.no_duplicate);
        let same = taken[..place].iter().rev().find(|before| before.key == again.key);
        match same {
            Some(before) => {
                let excuse = case.repeat(before, again).filter(|_| !never);
                audit.find(case, Kind::RepeatedSameKey, excuse);
            }
            None => {
                let excuse = with_another_key(case, taken[place - 1], again).filter(|_| !never);
                audit.find(case, Kind::RepeatedOtherwise, excuse);
            }
        }
    }
}

/// The key changes after a definite refusal only. So a message goes out under another key, legitimately, when its first send
/// came into doubt, was tried again, and that try was refused.
fn with_another_key(case: &Case<'_>, before: &Send, again: &Send) -> Option<Excuse> {
    let excuse = case.repeat(before, again)?;
    let account = |send: &Send| send.key.rsplit_once(':').map(|(account, _)| account.to_owned());
    let refused = case
        .sends
        .iter()
        .any(|call| !call.taken && call.key == before.key && (before.at..=again.at).contains(&call.at));
    // A refusal that the sandbox never saw, but that was recorded: the connection to it was broken on purpose.
    let unreached =
        case.broken_between(before.at, again.at, |fault| fault.cuts_sandbox)
            .is_some()
            && case.steps.iter().any(|step| {
                step.error == Some(ErrorKind::Rejected) && (before.at..=again.at).contains(&step.at)
            });
    let in_doubt = matches!(excuse, Excuse::Unanswered | Excuse::InDoubt);
    let failed_over = account(before) != account(again) && in_doubt;
    (refused || failed_over || unreached).then_some(excuse)
}

fn after_the_end(case: &Case<'_>, audit: &mut Audit<'_>) {
    let Some(end) = case.end() else {
        return;
    };
    let latest = end.at + case.leniency.clock_ms;
    if let Some(late) = case.sends.iter().find(|send| send.at > latest) {
        let kind = if end.status == Status::Cancelled {
            Kind::SentAfterCancel
        } else {
            Kind::SentAfterEnd
        };
        audit.find(case, kind, case.late_arrival(end.at, late.at));
    }
}

fn after_expiry(case: &Case<'_>, audit: &mut Audit<'_>) {
    let Some(expires_at) = case.posted.and_then(|posted| posted.expires_at) else {
        return;
    };
    let latest = expires_at + case.leniency.clock_ms;
    if let Some(late) = case.sends.iter().find(|send| send.at > latest) {
        // The last of them tells: what is on its way arrives soon, what was not stopped arrives at any time.
        let last = case.sends.last().map_or(late.at, |last| last.at);
        let excuse = if last <= latest + ARRIVAL_MS_MAX {
            Some(Excuse::OnItsWay)
        } else {
            case.late_arrival(expires_at, last)
        };
        audit.find(case, Kind::SentAfterExpiry, excuse);
    }
}
