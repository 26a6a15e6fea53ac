//! Every accepted event is at exactly one end, and every ledger names the same.

use std::collections::{BTreeMap, BTreeSet};

use super::{Audit, Case};
use posthaste_event::{ErrorKind, Status};

use crate::{
    ledger::{is_final, is_sent},
    report::{Excuse, Kind},
};

pub(super) fn check(case: &Case<'_>, audit: &mut Audit<'_>) {
    let Some(end) = case.end() else {
        audit.find(case, Kind::Lost, None);
        return;
    };
    let mut ends_once = true;
    if case.has_topics {
        ends_once = facts_are_whole(case, audit);
        let newest = case.facts.iter().map(|fact| (fact.step.step, fact.step.status));
        let stands = case.standing.map(|standing| (standing.step, standing.status));
        if newest.max_by_key(|(step, _)| *step) != stands {
            audit.find(case, Kind::Disagreement, None);
        }
    }
    if ends_once {
        audit.report.ended += 1;
    }
    let is_cancelled = end.status == Status::Cancelled;
    if is_cancelled && case.posted.is_none_or(|posted| posted.cancel_asked_at.is_none()) {
        audit.find(case, Kind::CancelledUnasked, None);
    }
    let first = case.taken().next();
    match (is_sent(end.status), first) {
        // What the sandbox forgot it may have taken.
        (true, None) if !case.ledgers.sends_are_partial => audit.find(case, Kind::SentUnseen, None),
        (false, Some(first)) => {
            let last = case.sends.last().copied().unwrap_or(first);
            // Whoever withdraws it knows whether a send before that is in doubt, and says so: nothing else explains one.
            let says_so = case
                .steps
                .last()
                .is_some_and(|step| step.step == end.step && step.error == Some(ErrorKind::Ambiguous));
            let excuse = if is_cancelled {
                says_so.then_some(Excuse::InDoubt)
            } else {
                case.repeat(first, last)
                    .or_else(|| case.broken_between(first.at, end.at, |_| true))
            };
            audit.find(case, Kind::SeenUnsaid, excuse);
        }
        _ => {}
    }
}

/// Each step once and none missing, and one end in each generation. Gives whether the ends are in order.
fn facts_are_whole(case: &Case<'_>, audit: &mut Audit<'_>) -> bool {
    let mut steps = BTreeSet::new();
    let mut ends: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
    let mut said_twice = false;
    for fact in case.facts {
        said_twice |= !steps.insert(fact.step.step);
        let ends = ends.entry(fact.generation).or_default();
        if is_final(fact.step.status) {
            ends.insert(fact.step.step);
        }
    }
    if said_twice {
        audit.find(case, Kind::RecordedTwice, None);
    }
    let newest = steps.last().copied();
    if newest.is_none_or(|newest| steps.len() as u64 != u64::from(newest) + 1) {
        audit.find(case, Kind::RecordMissing, None);
    }
    let ended_twice = ends.values().any(|ends| ends.len() > 1);
    if ended_twice {
        audit.find(case, Kind::EndedTwice, None);
    }
    // A final step that was said twice is two ends as well: whoever reads the topic sees both.
    let finals_twice = case.facts.iter().filter(|fact| fact.is_final()).count()
        > ends.values().map(BTreeSet::len).sum::<usize>();
    !ended_twice && !finals_twice
}
