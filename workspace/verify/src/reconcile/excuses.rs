//! When something that should not be breaks no promise all the same.
//!
//! A send that was not recorded yet when something broke may go out again. What was recorded may not: so a fault explains
//! only sends close before it and after it.

use posthaste_event::{ErrorKind, Millis};

use super::Case;
use crate::{
    ledger::{Fault, FaultKind, Send},
    report::Excuse,
};

/// Longest time from a send to its outcome's record while nothing is broken, in milliseconds: a few on an idle machine.
const RECORDING_MS_MAX: Millis = 10_000;

/// How long after its end a fault still shows, in milliseconds: groups find together again, and a process that stood still
/// learns that its work went to others.
const AFTERMATH_MS: Millis = 30_000;

impl Case<'_> {
    /// Why the message may have been taken at `before` and again at `again`, though its key says that it is one send.
    pub(super) fn repeat(&self, before: &Send, again: &Send) -> Option<Excuse> {
        if !before.answered {
            return Some(Excuse::Unanswered);
        }
        let slack = self.leniency.clock_ms;
        let in_doubt = |at: Millis| (before.at - slack..=again.at + slack).contains(&at);
        if self
            .steps
            .iter()
            .any(|step| step.error == Some(ErrorKind::Ambiguous) && in_doubt(step.at))
        {
            return Some(Excuse::InDoubt);
        }
        self.broken_between(before.at, again.at, |_| true)
    }

    /// Why something may have arrived at `at` that should have arrived by `latest`, or never.
    pub(super) fn late_arrival(&self, latest: Millis, at: Millis) -> Option<Excuse> {
        let delays = |fault: &Fault| fault.kind == FaultKind::Delays;
        self.broken_here(latest, at, delays)
            .or_else(|| self.leniency.hangs_from_outside.then_some(Excuse::Expected))
    }

    /// Whether something was broken that can have undone, or held up, what happened at `from` and shows at `until`.
    pub(super) fn broken_between(
        &self,
        from: Millis,
        until: Millis,
        counts: impl Fn(&Fault) -> bool,
    ) -> Option<Excuse> {
        self.broken_here(from, until, counts)
            .or_else(|| self.leniency.faults_from_outside.then_some(Excuse::Expected))
    }

    /// The same of what was broken by us.
    fn broken_here(&self, from: Millis, until: Millis, counts: impl Fn(&Fault) -> bool) -> Option<Excuse> {
        let explains = |fault: &Fault| {
            fault.kind != FaultKind::Harmless
                && fault.from <= until
                && from >= fault.from.saturating_sub(RECORDING_MS_MAX)
                && from <= fault.until.saturating_add(AFTERMATH_MS)
        };
        let mut faults = self.ledgers.faults.iter();
        faults
            .any(|fault| counts(fault) && explains(fault))
            .then_some(Excuse::Fault)
    }
}
