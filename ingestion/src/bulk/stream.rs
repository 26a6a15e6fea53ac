//! A stream of lines: read, made durable and answered at the same time.

use std::{convert::Infallible, sync::Arc};

use axum::{
    body::Body,
    http::header,
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _, stream};
use http_body::Frame;
use http_body_util::{BodyExt as _, BodyStream, StreamBody};
use tokio::{
    sync::OwnedSemaphorePermit,
    task::{JoinError, JoinHandle},
};
use tracing::error;

use super::{
    Told,
    answer::{Answers, Gone, Piece, Sum},
    batch::{Batch, Settled},
    lines::{Line, Lines},
};
use crate::{Intake, Origin};

/// The body once its first piece is there, or what came instead. A client that waits for `100 Continue` is told so when its body is
/// first asked for, and no more once the answer has begun.
pub(super) async fn begun(mut body: Body) -> Body {
    let first = body.frame().await;
    Body::new(StreamBody::new(stream::iter(first).chain(BodyStream::new(body))))
}

/// Answers at once, with what the client is told while its lines are taken in. `place` is held until the last one is.
pub(super) fn take(
    intake: Arc<Intake>,
    origin: Origin,
    body: Body,
    told: Told,
    place: OwnedSemaphorePermit,
) -> Response {
    let (answers, pieces) = Answers::new(
        &intake.bulk.unread,
        intake.settings.bulk_answers_bytes_max,
        told == Told::Refused,
    );
    let run = Run {
        lines: Lines::new(intake.settings.event_bytes_max),
        sum: Sum::new(Arc::clone(&origin.correlation_id)),
        intake,
        origin,
        answers,
        index: 0,
        batch: Batch::default(),
        settling: None,
    };
    tokio::spawn(async move {
        // Whoever is gone cannot be told; what was taken in is durable all the same.
        let _ = run.take_all(body).await;
        drop(place);
    });
    let pieces = stream::unfold(pieces, |mut pieces| async move {
        let (bytes, _permit): Piece = pieces.recv().await?;
        Some((Ok::<_, Infallible>(bytes), pieces))
    });
    let kind = [(header::CONTENT_TYPE, "application/x-ndjson")];
    (kind, Body::from_stream(pieces)).into_response()
}

struct Run {
    intake: Arc<Intake>,
    origin: Origin,
    answers: Answers,
    lines: Lines,
    /// Of the next item.
    index: u64,
    batch: Batch,
    /// The batch before, on its way into the log.
    settling: Option<JoinHandle<Settled>>,
    sum: Sum,
}

/// Why a stream is not read on.
enum Stop {
    Gone,
    Because(String),
}

impl From<Gone> for Stop {
    fn from(Gone: Gone) -> Self {
        Self::Gone
    }
}

impl Run {
    async fn take_all(mut self, body: Body) -> Result<(), Gone> {
        let mut stopped = self.read(body).await;
        // Whyever reading ended, what was read by then is made durable and told of.
        for _ in 0..2 {
            if matches!(stopped, Err(Stop::Gone)) {
                return Err(Gone);
            }
            stopped = stopped.and(self.flush().await);
        }
        if let Err(stop) = stopped {
            let Stop::Because(detail) = stop else {
                return Err(Gone);
            };
            self.sum.is_complete = false;
            self.sum.detail = Some(detail);
        }
        self.answers.sum(&self.sum).await
    }

    async fn read(&mut self, mut body: Body) -> Result<(), Stop> {
        while let Some(frame) = self.next_frame(&mut body).await? {
            let Ok(piece) = frame.into_data() else { continue };
            self.lines.push(&piece);
            while let Some(line) = self.lines.next() {
                self.take(line).await?;
            }
        }
        match self.lines.last() {
            Some(line) => self.take(line).await,
            None => Ok(()),
        }
    }

    /// The next piece. While none is there, what was read goes on its way.
    async fn next_frame(&mut self, body: &mut Body) -> Result<Option<Frame<Bytes>>, Stop> {
        let frame = match body.frame().now_or_never() {
            Some(frame) => frame,
            None => loop {
                if self.settling.is_none() && !self.batch.is_empty() {
                    self.flush().await?;
                }
                let Some(settling) = &mut self.settling else {
                    break body.frame().await;
                };
                tokio::select! {
                    frame = body.frame() => break frame,
                    settled = settling => {
                        self.settling = None;
                        self.tell(settled).await?;
                    }
                }
            },
        };
        frame.transpose().map_err(|_| {
            Stop::Because("the body broke off, paused for too long, or cannot be decompressed".to_owned())
        })
    }

    async fn take(&mut self, line: Line) -> Result<(), Stop> {
        let most = self.intake.settings.bulk_lines_max;
        if self.index >= most {
            return Err(Stop::Because(format!(
                "more than {most} events in one request; those from index {most} on were not read"
            )));
        }
        match line {
            Line::Item(json) => self.batch.add(&self.intake, &self.origin, self.index, &json),
            Line::TooLong => self.batch.add_too_long(&self.intake, self.index),
        }
        self.index += 1;
        if self.batch.is_full() {
            self.flush().await?;
            // Checking thousands of events must not keep a thread from all else.
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// Waits for the batch before, and sends this one on its way.
    async fn flush(&mut self) -> Result<(), Stop> {
        let told = match self.settling.take() {
            Some(settling) => self.tell(settling.await).await,
            None => Ok(()),
        };
        if !self.batch.is_empty() {
            let batch = std::mem::take(&mut self.batch);
            self.settling = Some(tokio::spawn(batch.settle(Arc::clone(&self.intake), false)));
        }
        told
    }

    async fn tell(&mut self, settled: Result<Settled, JoinError>) -> Result<(), Stop> {
        let mut settled = settled.map_err(|reason| {
            error!(%reason, "a batch of events was given up on: {reason}");
            Stop::Because("a batch failed inside the service; its log has the reason".to_owned())
        })?;
        settled.show_to(&self.origin.caller);
        self.sum.count(&settled.items);
        self.answers.items(&settled.items).await?;
        if settled.is_refused_by_broker {
            return Err(Stop::Because(format!(
                "the broker does not confirm at the moment; those from index {} on were not taken",
                self.index
            )));
        }
        Ok(())
    }
}
