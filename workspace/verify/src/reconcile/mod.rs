//! Compares the ledgers of a run, event by event.

mod ends;
mod excuses;
mod order;
mod sends;
#[cfg(test)]
mod tests;
mod waits;

use std::collections::{BTreeSet, HashMap};

use posthaste_event::Millis;
use serde_json::{Value as Json, json};

use crate::{
    ledger::{Answer, Ledgers, Posted, Send, Standing, Step, is_final},
    load::Mix,
    report::{Excuse, Finding, Kind, Lateness, Report},
    topics::Fact,
};

/// What is not held against Posthaste.
#[derive(Debug, Clone, Copy)]
pub struct Leniency {
    /// How far the clocks of sandbox and services may be apart, in milliseconds.
    pub clock_ms: Millis,
    /// Somebody else is breaking things meanwhile: what a fault explains is explained at any time.
    pub faults_from_outside: bool,
    /// And lets processes or connections stand still: what was under way may arrive late at any time.
    pub hangs_from_outside: bool,
}

/// Everything that is known of one event.
struct Case<'a> {
    index: u32,
    posted: Option<&'a Posted>,
    /// In the order in which they came.
    sends: Vec<&'a Send>,
    standing: Option<&'a Standing>,
    facts: &'a [Fact],
    /// By their numbers, each once.
    steps: Vec<Step>,
    has_topics: bool,
    ledgers: &'a Ledgers,
    leniency: &'a Leniency,
}

/// Compares, and tells everything that does not fit.
pub fn reconcile(ledgers: &Ledgers, mix: &Mix, leniency: &Leniency) -> Report {
    let mut sends: HashMap<u32, Vec<&Send>> = HashMap::new();
    for send in &ledgers.sends {
        sends.entry(send.event).or_default().push(send);
    }
    let in_topics = ledgers.topics.iter().flat_map(|topics| topics.events.keys());
    let all: BTreeSet<u32> = ledgers
        .posted
        .keys()
        .chain(sends.keys())
        .chain(ledgers.standings.keys())
        .chain(in_topics)
        .copied()
        .collect();
    let mut audit = Audit {
        mix,
        report: Report {
            calls: ledgers.sends.len(),
            taken: ledgers.sends.iter().filter(|send| send.taken).count(),
            sends_are_partial: ledgers.sends_are_partial,
            topic_records: ledgers.topics.as_ref().map(|topics| topics.records),
            faults: ledgers.faults.len(),
            ..Report::default()
        },
        scheduled_late_ms: Vec::new(),
        retried_late_ms: Vec::new(),
    };
    for index in all {
        let case = Case::of(index, ledgers, sends.remove(&index).unwrap_or_default(), leniency);
        audit.judge(&case);
    }
    order::check(ledgers, &mut audit, leniency);
    let mut report = audit.report;
    report.scheduled = Lateness::of(audit.scheduled_late_ms);
    report.retried = Lateness::of(audit.retried_late_ms);
    report
}

/// What was found so far.
struct Audit<'a> {
    mix: &'a Mix,
    report: Report,
    scheduled_late_ms: Vec<Millis>,
    retried_late_ms: Vec<Millis>,
}

impl Audit<'_> {
    fn judge(&mut self, case: &Case<'_>) {
        let answer = case.posted.map_or(Answer::Refused, |posted| posted.answer);
        let report = &mut self.report;
        match (answer, case.is_there()) {
            (Answer::Accepted, _) => report.accepted += 1,
            (Answer::Unknown, true) => report.unknown_there += 1,
            (Answer::Unknown, false) => {
                report.unknown_absent += 1;
                return;
            }
            (Answer::Refused, false) => {
                report.refused += 1;
                return;
            }
            (Answer::Refused, true) => {
                report.refused += 1;
                self.find(case, Kind::RefusedButThere, None);
            }
        }
        let is_asked = case.posted.is_some_and(|posted| posted.cancel_asked_at.is_some());
        self.report.cancels += usize::from(is_asked);
        if let Some(standing) = case.standing {
            *self.report.by_status.entry(standing.status.as_str()).or_default() += 1;
        }
        ends::check(case, self);
        sends::check(case, self);
        waits::check(case, self);
    }

    fn find(&mut self, case: &Case<'_>, kind: Kind, excuse: Option<Excuse>) {
        self.report.findings.push(Finding {
            kind,
            event: self.mix.id(case.index),
            excuse,
            seen: case.seen(),
        });
    }
}

impl<'a> Case<'a> {
    fn of(index: u32, ledgers: &'a Ledgers, mut sends: Vec<&'a Send>, leniency: &'a Leniency) -> Self {
        sends.sort_by_key(|send| send.at);
        let facts = ledgers
            .topics
            .as_ref()
            .and_then(|topics| topics.events.get(&index))
            .map(Vec::as_slice)
            .unwrap_or_default();
        let history = ledgers
            .histories
            .get(&index)
            .map(Vec::as_slice)
            .unwrap_or_default();
        let mut steps: Vec<Step> = match facts {
            [] => history.to_vec(),
            facts => facts.iter().map(|fact| fact.step).collect(),
        };
        // Of a step that was said twice the first counts: what came after it was sent after it.
        steps.sort_by_key(|step| (step.step, step.at));
        steps.dedup_by_key(|step| step.step);
        Self {
            index,
            posted: ledgers.posted.get(&index),
            sends,
            standing: ledgers.standings.get(&index),
            facts,
            steps,
            has_topics: ledgers.topics.is_some(),
            ledgers,
            leniency,
        }
    }

    /// Whether any ledger but the client's knows the event.
    fn is_there(&self) -> bool {
        !self.sends.is_empty() || self.standing.is_some() || !self.facts.is_empty()
    }

    /// Its end and when that was first written, by whatever ledger tells it.
    fn end(&self) -> Option<Step> {
        let newest = self.steps.last().copied();
        let stands = self.standing.map(|standing| Step {
            step: standing.step,
            at: standing.at,
            status: standing.status,
            due_at: None,
            error: None,
        });
        [newest, stands]
            .into_iter()
            .flatten()
            .filter(|step| is_final(step.status))
            .max_by_key(|step| (step.step, std::cmp::Reverse(step.at)))
    }

    fn taken(&self) -> impl Iterator<Item = &'a Send> {
        self.sends.iter().copied().filter(|send| send.taken)
    }

    /// For the evidence.
    fn seen(&self) -> Json {
        let sends: Vec<Json> = self
            .sends
            .iter()
            .map(|send| json!({"at": send.at, "key": send.key, "taken": send.taken, "answered": send.answered}))
            .collect();
        let steps: Vec<Json> = self
            .steps
            .iter()
            .map(
                |step| json!({"step": step.step, "at": step.at, "status": step.status, "error": step.error, "dueAt": step.due_at}),
            )
            .collect();
        let mut seen = json!({
            "answer": self.posted.map(|posted| format!("{:?}", posted.answer).to_lowercase()),
            "status": self.standing.map(|standing| json!({"status": standing.status, "step": standing.step, "at": standing.at})),
            "sends": sends,
            "steps": steps,
        });
        if self.has_topics {
            let places = self.facts.iter().map(
                |fact| json!({"step": fact.step.step, "at": format!("{}@{}", fact.partition, fact.offset)}),
            );
            seen["topics"] = places.collect();
        }
        if self.posted.is_some_and(|posted| posted.no_duplicate) {
            seen["policy"] = "no-duplicate".into();
        }
        if let Some(expires_at) = self.posted.and_then(|posted| posted.expires_at) {
            seen["expiresAt"] = expires_at.into();
        }
        if let Some(asked_at) = self.posted.and_then(|posted| posted.cancel_asked_at) {
            seen["cancelAskedAt"] = asked_at.into();
        }
        seen
    }
}
