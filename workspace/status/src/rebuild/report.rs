//! What a rebuild says of itself.

use std::sync::{Mutex, MutexGuard, PoisonError};

use posthaste_event::{Millis, clock};
use serde::Serialize;
use tokio::sync::watch;

use crate::http::answer::Time;

/// Differences that are named; more are only counted.
const NAMED_MAX: usize = 100;

/// How much of the whole is the reading of the topics, in percent. The rest is comparing.
const READING_PERCENT: f64 = 80.0;

/// Where a rebuild stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It reads the topics.
    Reading,
    /// It compares, and puts right unless it is a dry run.
    Comparing,
    /// It has compared everything.
    Finished,
    /// It was told to stop.
    Stopped,
    /// It could not go on.
    Failed,
}

impl State {
    /// Whether it is not over.
    pub const fn is_running(self) -> bool {
        match self {
            Self::Reading | Self::Comparing => true,
            Self::Finished | Self::Stopped | Self::Failed => false,
        }
    }
}

/// What is wrong with a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// It is not there.
    Missing,
    /// It says something else than the topics, or less.
    Different,
    /// It is there and cannot be read.
    Unreadable,
}

/// A document that is not as the topics say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Difference {
    /// Of which event.
    pub event_id: String,
    /// What is wrong with it.
    pub kind: Kind,
    /// The fields that differ, such as `state` or `timeline.3`; none when the whole document is missing.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<String>,
    /// Whether it is right now.
    pub repaired: bool,
    /// Why it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// How far a rebuild is, or what came of it.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Its id.
    pub rebuild_id: String,
    /// Where it stands.
    pub state: State,
    /// Whether it only compares.
    pub dry_run: bool,
    /// When it began.
    pub started_at: Time,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Time>,
    /// What it waits for at the moment, or why it did not finish.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How much is done.
    pub percent: f64,
    /// Records read from the topics.
    pub records: u64,
    /// Records among them that nobody can read.
    pub unreadable_records: u64,
    /// Events that the topics tell of and that were compared.
    pub compared: u64,
    /// About how many there are to compare.
    pub events: u64,
    /// Documents that were not there.
    pub missing: u64,
    /// Documents that said something else than the topics, or less.
    pub different: u64,
    /// Of those missing and different: what is right now.
    pub repaired: u64,
    /// Documents that changed whenever they were to be put right. Another rebuild finds them quiet.
    pub changing: u64,
    /// Documents that the store does not take.
    pub refused: u64,
    /// Events that the topics tell of and that are past their retention: not looked at.
    pub forgotten: u64,
    /// About how many documents are kept of which the topics tell nothing any more; absent when counting took too long.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub older: Option<u64>,
    /// Whether the projector was behind the topics when comparing began, so that it may still bring what counts as missing.
    pub status_behind: bool,
    /// What was wrong.
    pub differences: Vec<Difference>,
    /// How many of them are not named.
    pub differences_unnamed: u64,
}

/// A report while it is being made.
pub(super) struct Progress {
    report: Mutex<Report>,
    /// Documents before the rebuild.
    before: Mutex<Option<u64>>,
    over: watch::Sender<bool>,
}

impl Progress {
    pub fn new(rebuild_id: String, dry_run: bool) -> Self {
        Self {
            report: Mutex::new(Report {
                rebuild_id,
                state: State::Reading,
                dry_run,
                started_at: Time(clock::now()),
                finished_at: None,
                reason: None,
                percent: 0.0,
                records: 0,
                unreadable_records: 0,
                compared: 0,
                events: 0,
                missing: 0,
                different: 0,
                repaired: 0,
                changing: 0,
                refused: 0,
                forgotten: 0,
                older: None,
                status_behind: false,
                differences: Vec::new(),
                differences_unnamed: 0,
            }),
            before: Mutex::default(),
            over: watch::Sender::new(false),
        }
    }

    pub fn report(&self) -> Report {
        self.change().clone()
    }

    pub fn is_dry_run(&self) -> bool {
        self.change().dry_run
    }

    pub fn started_at(&self) -> Millis {
        self.change().started_at.0
    }

    /// How many documents there were.
    pub fn before(&self, documents: Option<u64>) {
        *self.before.lock().unwrap_or_else(PoisonError::into_inner) = documents;
    }

    /// Records were read; so much of the topics is done, from 0 to 1.
    pub fn read(&self, records: u64, unreadable: u64, done: f64) {
        let mut report = self.change();
        report.records += records;
        report.unreadable_records += unreadable;
        if report.state == State::Reading {
            report.percent = (READING_PERCENT * done.clamp(0.0, 1.0)).max(report.percent);
        }
    }

    pub fn waits(&self, reason: Option<String>) {
        self.change().reason = reason;
    }

    pub fn status_is_behind(&self) {
        self.change().status_behind = true;
    }

    /// Comparing begins, of about so many.
    pub fn compares(&self, events: Option<u64>) {
        let mut report = self.change();
        report.state = State::Comparing;
        report.percent = READING_PERCENT;
        report.events = events.unwrap_or(0);
    }

    /// So many documents were compared, of which these were there before the rebuild, and others past their retention.
    pub fn compared(&self, count: u64, known_before: u64, forgotten: u64) {
        let mut report = self.change();
        report.compared += count;
        report.forgotten += forgotten;
        // Events of which only notes are known were not counted.
        report.events = report.events.max(report.compared + report.forgotten);
        let done = (report.compared + report.forgotten) as f64 / report.events.max(1) as f64;
        report.percent = READING_PERCENT + (100.0 - READING_PERCENT) * done;
        drop(report);
        if let Some(before) = &mut *self.before.lock().unwrap_or_else(PoisonError::into_inner) {
            *before = before.saturating_sub(known_before);
        }
    }

    pub fn differs(&self, difference: Difference) {
        let mut report = self.change();
        match difference.kind {
            Kind::Missing => report.missing += 1,
            Kind::Different | Kind::Unreadable => report.different += 1,
        }
        report.repaired += u64::from(difference.repaired);
        if report.differences.len() < NAMED_MAX {
            report.differences.push(difference);
        } else {
            report.differences_unnamed += 1;
        }
    }

    pub fn refused(&self) {
        self.change().refused += 1;
    }

    pub fn changing(&self) {
        self.change().changing += 1;
    }

    /// It is over.
    pub fn end(&self, state: State, reason: Option<String>) -> Report {
        let mut report = self.change();
        report.state = state;
        report.reason = reason;
        report.finished_at = Some(Time(clock::now()));
        if state == State::Finished {
            report.percent = 100.0;
            report.older = *self.before.lock().unwrap_or_else(PoisonError::into_inner);
        }
        let ended = report.clone();
        drop(report);
        self.over.send_replace(true);
        ended
    }

    /// Waits for the end.
    pub async fn over(&self) {
        let mut over = self.over.subscribe();
        // The sender lives as long as this does.
        let _over = over.wait_for(|over| *over).await;
    }

    fn change(&self) -> MutexGuard<'_, Report> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
