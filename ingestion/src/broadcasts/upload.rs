//! Recipients on their way into chunks: checked and rendered one by one, made durable chunk by chunk, and void until the last
//! one is there.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::http::StatusCode;
use bytes::Bytes;
use posthaste_broker::{AppendError, NewRecord};
use posthaste_event::{
    Channel, FieldError, Millis, Priority, Topic,
    broadcast::{Broadcast, BroadcastRecord, Chunk},
    clock,
    control::Control,
    nesting,
};
use posthaste_killpoint as killpoint;
use posthaste_service::{Problem, metrics::Refusal};
use posthaste_store::Claim;
use serde_json::Map;
use tracing::{debug, info};
use uuid::Uuid;

use super::{Accepted, keyed::Claimed, lists, room::Place, said::Said};
use crate::{
    Intake, Origin, bulk,
    idempotency::{Digest, Key, Keys},
};

/// A chunk is closed before its events have more bytes than this, unless it is one event.
const CHUNK_BYTES_MAX: usize = 512 * 1024;
/// Errors after which nothing more is read.
const FAULTS_MAX: usize = 100;
/// So long other requests wait for a thread while recipients are taken in.
const TURN: Duration = Duration::from_millis(5);

/// A broadcast that is being taken in.
pub(super) struct Upload {
    intake: Arc<Intake>,
    origin: Origin,
    said: Said,
    tenant: String,
    id: String,
    /// When it was asked for.
    at: Millis,
    began: Instant,
    turn: Instant,
    /// Events of the chunk that is being filled.
    works: Vec<Bytes>,
    bytes: usize,
    /// Chunks that are durable, or may be.
    chunks: u32,
    recipients: u64,
    faults: Vec<FieldError>,
    /// What the first of them alone would have been answered with.
    status: StatusCode,
    counts: Vec<(Channel, Priority, u64)>,
    /// The client's key, and what was said with it so far.
    key: Option<(String, Digest)>,
    /// Whether a payload is sealed.
    is_sealed: bool,
    /// Whether it may be known what it means: then its chunks are not void.
    may_be_said: bool,
    _place: Place,
}

impl Upload {
    /// Begins. The events' correlation id is the broadcast's.
    pub(super) fn new(
        intake: Arc<Intake>,
        mut origin: Origin,
        said: Said,
        tenant: String,
        place: Place,
    ) -> Self {
        let id = Uuid::now_v7().to_string();
        let key = match origin.key.take() {
            Some(Key::Header(key)) => Some((key, Digest::new(&tenant))),
            _ => None,
        };
        Self {
            origin: Origin {
                correlation_id: id.as_str().into(),
                ..origin
            },
            intake,
            said,
            tenant,
            id,
            at: clock::now(),
            began: Instant::now(),
            turn: Instant::now(),
            works: Vec::new(),
            bytes: 0,
            chunks: 0,
            recipients: 0,
            faults: Vec::new(),
            status: StatusCode::BAD_REQUEST,
            counts: Vec::new(),
            key,
            is_sealed: false,
            may_be_said: false,
            _place: place,
        }
    }

    /// By this, too, is the request recognised when it comes again with its key.
    pub(super) fn is_recognised_by(&mut self, json: &[u8]) {
        if let Some((_, said)) = &mut self.key {
            said.add(json);
        }
    }

    /// Takes in who is on a stored list, as it is now: a page that was read is not changed by anybody.
    ///
    /// # Errors
    /// What ends the upload.
    pub(super) async fn take_list(&mut self, code: &str) -> Result<(), Problem> {
        let list = self.intake.stored_list(&self.tenant, code).await?;
        let Some(list) = list else {
            let accepted = "a code that GET /lists shows";
            let error = FieldError::new("list", "is not there", accepted);
            self.status = StatusCode::UNPROCESSABLE_ENTITY;
            return Err(self.refused(vec![error]));
        };
        for number in 0..list.pages {
            let Some(page) = self.intake.list_page(&list, number).await? else {
                let detail = "nothing was sent: the list was deleted or replaced meanwhile";
                return Err(Problem::new(StatusCode::CONFLICT, detail));
            };
            for line in page.lines() {
                self.take(line.as_bytes()).await?;
            }
        }
        Ok(())
    }

    /// Takes the next recipient in. What is wrong with it is kept for [`Self::finish`], unless there is too much of that.
    ///
    /// # Errors
    /// What ends the upload at once.
    pub(super) async fn take(&mut self, json: &[u8]) -> Result<(), Problem> {
        let index = self.recipients;
        let settings = &self.intake.broadcasts.settings;
        if index >= settings.recipients_max {
            let most = settings.recipients_max;
            let error = FieldError::new("recipients", "are too many", format!("up to {most}"));
            return Err(self.refused(vec![error]));
        }
        if self.began.elapsed() > Duration::from_secs(u64::from(settings.upload_minutes_max) * 60) {
            let minutes = settings.upload_minutes_max;
            let detail = format!("nothing was sent: the recipients were not there within {minutes} minutes");
            return Err(Problem::new(StatusCode::REQUEST_TIMEOUT, detail));
        }
        if self.turn.elapsed() > TURN {
            tokio::task::yield_now().await;
            self.turn = Instant::now();
        }
        self.recipients += 1;
        match self.prepare(index, json) {
            Ok(work) if self.faults.is_empty() => self.add(work).await,
            Ok(_) => Ok(()),
            Err(problem) if problem.errors.is_empty() => Err(problem),
            Err(problem) => {
                if self.faults.is_empty() {
                    self.status = problem.status;
                }
                // What is wrong with the message is wrong with it for everybody.
                let is_of_all = problem
                    .errors
                    .iter()
                    .any(|error| !error.field.starts_with("recipients["));
                self.faults.extend(problem.errors);
                if is_of_all || self.faults.len() >= FAULTS_MAX {
                    return Err(self.refused(Vec::new()));
                }
                Ok(())
            }
        }
    }

    /// A line that is longer than any recipient may be.
    pub(super) fn take_too_long(&self) -> Problem {
        self.intake.metrics.refused(Refusal::TooLarge).one();
        let most = self.intake.settings.event_bytes_max;
        let problem = format!("has more than {most} bytes");
        let field = format!("recipients[{}]", self.recipients);
        let error = FieldError::new(field, problem, format!("up to {most} bytes"));
        self.named(Problem::fields(StatusCode::PAYLOAD_TOO_LARGE, vec![error]))
    }

    /// Everything was taken in: makes the rest durable, and the broadcast known.
    ///
    /// # Errors
    /// Nothing is sent then, but where it says otherwise.
    pub(super) async fn finish(&mut self) -> Result<Accepted, Problem> {
        if self.recipients == 0 {
            let error = FieldError::new("recipients", "are none", "at least one");
            return Err(self.refused(vec![error]));
        }
        if !self.faults.is_empty() {
            return Err(self.refused(Vec::new()));
        }
        self.flush().await?;
        let claim = match self.claimed().await? {
            None => None,
            Some(Claimed::Ours(claim)) => Some(*claim),
            Some(Claimed::Before(id)) => return Ok(self.before(id)),
        };
        self.say(claim).await?;
        Ok(Accepted {
            id: self.id.clone(),
            recipients: self.recipients,
            chunks: self.chunks,
            is_again: false,
        })
    }

    async fn claimed(&mut self) -> Result<Option<Claimed>, Problem> {
        let Some((key, said)) = self.key.take() else {
            return Ok(None);
        };
        let keys = Keys::of_broadcast(&key, &self.tenant, said.finish());
        let keys = match self.intake.sealer.ring() {
            Some(ring) if self.is_sealed => keys.covered(&ring),
            _ => keys,
        };
        let claimed = self.intake.claim_broadcast(&keys, &self.id).await?;
        killpoint::at(killpoint::CLAIMED);
        Ok(Some(claimed))
    }

    /// What the first request with this key was answered; where that is not known here, this one said the same.
    fn before(&self, id: String) -> Accepted {
        let known = self.intake.broadcasts.known.get(&id);
        let broadcast = known.and_then(|known| known.broadcast);
        let (recipients, chunks) = broadcast.map_or((self.recipients, self.chunks), |broadcast| {
            (broadcast.recipients, broadcast.chunks)
        });
        Accepted {
            id,
            recipients,
            chunks,
            is_again: true,
        }
    }

    /// Says what the chunks mean.
    async fn say(&mut self, claim: Option<Claim>) -> Result<(), Problem> {
        let broadcast = Broadcast {
            id: self.id.clone(),
            tenant: self.tenant.clone(),
            name: self.said.name.clone(),
            at: self.at,
            by: self.intake.instance.to_string(),
            recipients: self.recipients,
            chunks: self.chunks,
            chunk_size: self.said.chunk_size,
            chunk_delay_ms: self.said.chunk_delay_ms,
            priority: self.said.priority,
            scheduled_at: self.said.scheduled_at,
            unknown: Map::new(),
        };
        let (taken, broker) = (&self.intake.broadcasts, &self.intake.broker);
        let told = Control::Broadcast(Box::new(broadcast));
        killpoint::at(killpoint::BROADCAST_UNSAID);
        self.may_be_said = true;
        if let Err(error) = taken.known.tell(broker, told).await {
            if !matches!(error, AppendError::Unconfirmed { .. }) {
                self.may_be_said = false;
                self.intake.release(claim.as_slice()).await;
            }
            return Err(self.unconfirmed(&error));
        }
        killpoint::at(killpoint::BROADCAST_SAID);
        self.intake.confirm(claim.as_slice()).await;
        for (channel, priority, count) in &self.counts {
            self.intake.metrics.accepted(*channel, *priority).add(*count);
        }
        info!(
            broadcast.id = self.id,
            recipients = self.recipients,
            "broadcast {} to {} recipients is taken",
            self.id,
            self.recipients
        );
        taken
            .known
            .forget_old(broker, &taken.settings, clock::now())
            .await;
        Ok(())
    }

    /// Lets whoever has its chunks forget them, if it came to nothing. Nothing is lost when that is not heard.
    pub(super) async fn leave(self) {
        if self.chunks == 0 || self.may_be_said {
            return;
        }
        let dropped = BroadcastRecord::Dropped { id: self.id.clone() };
        let Ok(value) = dropped.encode() else { return };
        if let Err(error) = self.intake.broker.append(vec![self.record(value)]).await {
            debug!(broadcast.id = self.id, %error, "the chunks of a broken upload are forgotten later");
        }
    }

    fn record(&self, value: Bytes) -> NewRecord {
        NewRecord::new(
            Topic::Broadcasts,
            Broadcast::chunk_key(&self.tenant, &self.id),
            value,
        )
    }

    /// The record of the recipient's event.
    fn prepare(&mut self, index: u64, json: &[u8]) -> Result<Bytes, Problem> {
        let bad = |errors| Problem::fields(StatusCode::BAD_REQUEST, errors);
        let here = |problem: String, accepted: &str| {
            bad(vec![FieldError::new(
                format!("recipients[{index}]"),
                problem,
                accepted,
            )])
        };
        let text = std::str::from_utf8(json).map_err(|error| {
            here(
                format!("is not UTF-8 from byte {} on", error.valid_up_to()),
                "JSON in UTF-8",
            )
        })?;
        let settings = &self.intake.settings;
        if text.len() > settings.event_bytes_max {
            let accepted = format!("up to {} bytes", settings.event_bytes_max);
            return Err(here(format!("has {} bytes", text.len()), &accepted));
        }
        if nesting::is_deeper(text, settings.nesting_max) {
            return Err(here(
                format!("is nested deeper than {} levels", settings.nesting_max),
                "less nesting",
            ));
        }
        let message = &self.said.message;
        let recipient = message.recipient(text).map_err(|errors| {
            bad(errors
                .into_iter()
                .map(|error| lists::named(index, error))
                .collect())
        })?;
        let request = message
            .request(&recipient, &self.tenant, self.said.priority)
            .map_err(|error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
        let place = self.intake.broker.next_place(1);
        let prepared = if message.is_templated {
            self.intake.prepare_one_of(&self.origin, &request, place)
        } else {
            let now = clock::now();
            self.intake
                .prepare(request.as_bytes(), &[], &self.origin, None, place, now)
        };
        let prepared = prepared.map_err(|mut problem| {
            let errors = std::mem::take(&mut problem.errors).into_iter();
            let errors: Vec<_> = errors
                .map(|error| message.told(&recipient, index, error))
                .collect();
            if errors.is_empty() {
                return problem;
            }
            Problem::fields(problem.status, errors)
        })?;
        self.is_sealed |= prepared.is_sealed;
        self.count(prepared.delivery.channel, prepared.delivery.priority);
        let record = prepared.record;
        record
            .value
            .ok_or_else(|| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "an event without a value"))
    }

    fn count(&mut self, channel: Channel, priority: Priority) {
        let of_kind = |(of, at, _): &&mut (Channel, Priority, u64)| (*of, *at) == (channel, priority);
        match self.counts.iter_mut().find(of_kind) {
            Some((_, _, count)) => *count += 1,
            None => self.counts.push((channel, priority, 1)),
        }
    }

    async fn add(&mut self, work: Bytes) -> Result<(), Problem> {
        if !self.works.is_empty() && self.bytes + work.len() > CHUNK_BYTES_MAX {
            self.flush().await?;
        }
        self.bytes += work.len();
        self.works.push(work);
        if self.works.len() >= self.said.chunk_size as usize {
            self.flush().await?;
        }
        Ok(())
    }

    /// Makes the chunk durable that is being filled.
    async fn flush(&mut self) -> Result<(), Problem> {
        if self.works.is_empty() {
            return Ok(());
        }
        let most = self.intake.broadcasts.settings.chunks_max;
        if self.chunks >= most {
            let problem = format!("makes more than {most} chunks of so many recipients");
            let error = FieldError::new("chunkSize", problem, "larger chunks, or fewer recipients");
            return Err(self.refused(vec![error]));
        }
        let works = std::mem::take(&mut self.works);
        self.bytes = 0;
        let record = self.record(Chunk::record(&self.id, self.chunks, &works));
        self.chunks += 1;
        let appended = bulk::append(&self.intake, vec![record]).await;
        killpoint::at(killpoint::CHUNK_APPENDED);
        appended.map_err(|error| match error {
            AppendError::TooLarge { bytes } => {
                let detail =
                    format!("nothing was sent: an event has {bytes} bytes, more than the broker takes");
                Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
            }
            AppendError::Full | AppendError::Unconfirmed { .. } => {
                self.intake.metrics.refused(Refusal::Unconfirmed).one();
                let retry = self.intake.settings.retry_after_seconds.max(1);
                Problem::unavailable(
                    "nothing was sent: the broker does not confirm at the moment",
                    retry,
                )
            }
        })
    }

    /// All that was found wrong, and this.
    fn refused(&mut self, errors: Vec<FieldError>) -> Problem {
        let mut faults = std::mem::take(&mut self.faults);
        faults.extend(errors);
        self.named(Problem::fields(self.status, faults))
    }

    fn named(&self, mut problem: Problem) -> Problem {
        problem.detail.insert_str(0, "nothing was sent: ");
        problem
    }

    fn unconfirmed(&self, error: &AppendError) -> Problem {
        let retry = self.intake.settings.retry_after_seconds.max(1);
        match error {
            AppendError::Unconfirmed { .. } => {
                self.intake.metrics.refused(Refusal::Unconfirmed).one();
                let detail = format!(
                    "broadcast {} was not confirmed in time and may still be sent; look at GET /broadcasts/{} before sending it again",
                    self.id, self.id
                );
                Problem::unavailable(detail, retry)
            }
            AppendError::Full => Problem::unavailable("nothing was sent: too much is being written", retry),
            AppendError::TooLarge { bytes } => {
                let detail = format!("nothing was sent: the broker does not take {bytes} bytes");
                Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
            }
        }
    }
}
