//! What a client is told of each item, and of the whole.

use std::sync::Arc;

use axum::http::StatusCode;
use bytes::Bytes;
use posthaste_event::Status;
use posthaste_service::Problem;
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// Most errors told of one item.
const ERRORS_MAX: usize = 16;

/// What became of one item.
#[derive(Debug)]
pub(crate) struct Item {
    /// Its place in the request, from 0; blank lines do not count.
    pub(crate) index: u64,
    pub(crate) outcome: Outcome,
}

#[derive(Debug)]
pub(crate) enum Outcome {
    Accepted {
        event_id: String,
        correlation_id: String,
        status: Status,
    },
    Refused(Box<Problem>),
}

impl Outcome {
    pub(super) fn refused(mut problem: Problem) -> Self {
        problem.errors.truncate(ERRORS_MAX);
        Self::Refused(Box::new(problem))
    }
}

/// How it is written: `code` is what `POST /event` would have answered.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Written<'a> {
    index: u64,
    code: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    event_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Status>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    errors: &'a [posthaste_event::FieldError],
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_seconds: Option<u32>,
}

impl Serialize for Item {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let written = match &self.outcome {
            Outcome::Accepted { event_id, status, .. } => Written {
                index: self.index,
                code: StatusCode::CREATED.as_u16(),
                event_id: Some(event_id),
                status: Some(*status),
                detail: None,
                errors: &[],
                retry_after_seconds: None,
            },
            Outcome::Refused(problem) => Written {
                index: self.index,
                code: problem.status.as_u16(),
                event_id: problem.event_id.as_deref(),
                status: None,
                detail: Some(&problem.detail),
                errors: &problem.errors,
                retry_after_seconds: problem.retry_after_seconds,
            },
        };
        written.serialize(serializer)
    }
}

/// What became of all of them: the last line of a stream, and the head of an answer to an array.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Sum {
    /// How many are durable.
    pub(super) accepted: u64,
    /// How many are not.
    pub(super) refused: u64,
    /// Whether the request was read to its end.
    pub(super) is_complete: bool,
    /// Why it was not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) detail: Option<String>,
    pub(super) correlation_id: Arc<str>,
}

impl Sum {
    pub(super) const fn new(correlation_id: Arc<str>) -> Self {
        Self {
            accepted: 0,
            refused: 0,
            is_complete: true,
            detail: None,
            correlation_id,
        }
    }

    pub(super) fn count(&mut self, items: &[Item]) {
        let accepted = items
            .iter()
            .filter(|item| matches!(item.outcome, Outcome::Accepted { .. }))
            .count() as u64;
        self.accepted += accepted;
        self.refused += items.len() as u64 - accepted;
    }
}

/// A piece of an answer; the bytes that it takes from the budget are given back when it is on its way.
pub(super) type Piece = (Bytes, OwnedSemaphorePermit);

/// Most pieces that wait for a client.
const PIECES_MAX: usize = 65_536;

/// Lines to a client, who may still be sending. What it has not read yet waits here, within a budget that all such requests
/// share; when that is used up, reading stops until somebody reads.
#[derive(Debug)]
pub(super) struct Answers {
    pieces: mpsc::Sender<Piece>,
    budget: Arc<Semaphore>,
    bytes_max: u32,
    only_refused: bool,
}

/// The client is gone.
#[derive(Debug)]
pub(super) struct Gone;

impl Answers {
    pub(super) fn new(
        budget: &Arc<Semaphore>,
        bytes_max: u32,
        only_refused: bool,
    ) -> (Self, mpsc::Receiver<Piece>) {
        let (pieces, receiver) = mpsc::channel(PIECES_MAX);
        let answers = Self {
            pieces,
            budget: Arc::clone(budget),
            bytes_max,
            only_refused,
        };
        (answers, receiver)
    }

    pub(super) async fn items(&self, items: &[Item]) -> Result<(), Gone> {
        let mut lines = Vec::with_capacity(items.len() * 96);
        for item in items {
            if !self.only_refused || matches!(item.outcome, Outcome::Refused(_)) {
                write(&mut lines, item);
            }
        }
        self.send(lines).await
    }

    pub(super) async fn sum(&self, sum: &Sum) -> Result<(), Gone> {
        let mut line = Vec::new();
        write(&mut line, sum);
        self.send(line).await
    }

    async fn send(&self, lines: Vec<u8>) -> Result<(), Gone> {
        if lines.is_empty() {
            return if self.pieces.is_closed() {
                Err(Gone)
            } else {
                Ok(())
            };
        }
        let bytes = u32::try_from(lines.len()).unwrap_or(u32::MAX).min(self.bytes_max);
        let permit = tokio::select! {
            permit = Arc::clone(&self.budget).acquire_many_owned(bytes) => permit.map_err(|_| Gone)?,
            () = self.pieces.closed() => return Err(Gone),
        };
        self.pieces.send((lines.into(), permit)).await.map_err(|_| Gone)
    }
}

/// Nothing here has a form that JSON lacks, so writing into memory does not fail; a line that did would be left out.
fn write(lines: &mut Vec<u8>, value: &impl Serialize) {
    let start = lines.len();
    if serde_json::to_writer(&mut *lines, value).is_err() {
        lines.truncate(start);
        return;
    }
    lines.push(b'\n');
}
