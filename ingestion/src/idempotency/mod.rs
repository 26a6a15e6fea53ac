//! Requests that must not count twice: an `Idempotency-Key`, or an event id of the client's own.
//!
//! A claim on the key is written before the event, with where the log ended then. Whoever says the same key again gets the
//! answer of the first. When the first never confirmed (it crashed, or does not know itself what became of its append), the
//! next one looks at the log from there on, and appends only what is not there.

mod beside;
mod keys;
mod taking;

use std::{sync::Arc, time::Duration};

use axum::http::StatusCode;
use posthaste_broker::{BrokerError, Mark, NewRecord, Partition};
use posthaste_event::{Delivery, EventView, Millis, Topic, Value, clock, own_id};
use posthaste_service::{Problem, metrics::Refusal};
use posthaste_store::{Claim, Claims, Devices, StoreError};
use tokio::time::sleep;
use tracing::debug;

pub use beside::Beside;
pub(crate) use beside::ToBeside;
pub use keys::HEADER;
pub(crate) use keys::{Digest, KEY_CHARS_MAX, Key, Keys, Said, header};
pub(crate) use taking::{Decision, LOOK, LOOK_MAX, Taken, Taking};

use crate::{CLAIM_MAX, Intake};

/// The attribute of a CloudEvent that names it.
pub(crate) const CLOUD_EVENT_ID: &str = "id";

/// Between two sweeps, and between two steps of one.
const SWEEP_EVERY: Duration = Duration::from_secs(60);
const SWEEP_PAUSE: Duration = Duration::from_millis(100);
/// Claims, or devices, that one step forgets.
const SWEEP_CLAIMS: u32 = 1_000;
const HOUR_MS: i64 = 3_600_000;
/// How far clocks of instances may differ.
const CLOCKS_DIFFER_MS: i64 = 300_000;

/// An event that may have been taken before.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) delivery: Delivery,
    pub(crate) record: NewRecord,
    pub(crate) keys: Keys,
}

impl Asked {
    /// The event under the name of a claim that was made for the same request.
    fn renamed(&self, intake: &Intake, claim: &Claim) -> Result<(Delivery, NewRecord), Problem> {
        let failed = |reason: &dyn std::fmt::Display| {
            Problem::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                format!("the event cannot be written: {reason}"),
            )
        };
        let Some(Ok(Value::Work(mut work))) = self.record.value.as_ref().map(Value::decode) else {
            return Err(failed(&"it cannot be read"));
        };
        let view = work.event.view().map_err(|error| failed(&error))?;
        // What is sealed is bound to the id that it had.
        let resealed = intake.reseal(&view, &claim.event_id)?;
        let view = EventView {
            event_id: claim.event_id.clone(),
            payload: resealed.as_deref().unwrap_or(view.payload),
            ..view
        };
        let (key, event) = (view.key(), view.to_bytes().map_err(|error| failed(&error))?);
        // Where the claim says, so that whoever takes it over from us finds it there.
        let is_free = view.ordering_key.is_none() && claim.topic == self.record.topic;
        let partition = is_free.then_some(claim.partition);
        work.event = event;
        work.delivery.id.clone_from(&claim.event_id);
        work.delivery.correlation_id.clone_from(&claim.correlation_id);
        work.delivery.by = intake.instance.to_string();
        let value = work.encode().map_err(|error| failed(&error))?;
        let record = NewRecord {
            partition,
            ..NewRecord::new(self.record.topic, key, value)
        };
        Ok((work.delivery, record))
    }
}

/// Forgets keys and devices whose time is over, every minute. Never ends.
pub async fn sweep(claims: Arc<dyn Claims>, devices: Arc<dyn Devices>) {
    loop {
        sleep(SWEEP_EVERY).await;
        while let Ok(expired) = claims.expire(clock::now(), SWEEP_CLAIMS).await {
            debug!(expired, "idempotency keys forgotten");
            if expired < u64::from(SWEEP_CLAIMS) {
                break;
            }
            sleep(SWEEP_PAUSE).await;
        }
        while let Ok(expired) = devices.forget_devices(clock::now(), SWEEP_CLAIMS).await {
            if expired < u64::from(SWEEP_CLAIMS) {
                break;
            }
            sleep(SWEEP_PAUSE).await;
        }
    }
}

impl Intake {
    /// Claims on each key of each event, none of them made yet.
    pub(crate) async fn wanted(&self, asked: &[&Asked]) -> Result<Vec<Vec<Claim>>, Problem> {
        let places: Vec<_> = asked
            .iter()
            .map(|asked| (asked.record.topic, &*asked.record.key))
            .collect();
        let marks = self.marks(&places).await?;
        let now = clock::now();
        Ok(asked
            .iter()
            .zip(marks)
            .map(|(asked, mark)| self.claims_of(asked, mark, now))
            .collect())
    }

    /// Where the partitions end to which records with these keys go, for claims that are made now.
    pub(crate) async fn marks(&self, places: &[(Topic, &[u8])]) -> Result<Vec<Mark>, Problem> {
        self.check_claims()?;
        self.broker.health().map_err(|reason| self.no_mark(&reason))?;
        let marks = self.broker.mark(places).await;
        marks.map_err(|error| self.no_mark(&error.to_string()))
    }

    /// Whether claims can be made at the moment.
    pub(crate) fn check_claims(&self) -> Result<(), Problem> {
        let is_reachable = self.claims.is_reachable();
        is_reachable.map_err(|reason| self.no_store(&reason))
    }

    /// When a key is forgotten that is said now.
    pub(crate) fn key_expires_at(&self, now: Millis) -> Millis {
        now.saturating_add(i64::from(self.settings.key_hours) * HOUR_MS)
    }

    fn claims_of(&self, asked: &Asked, mark: Mark, now: Millis) -> Vec<Claim> {
        let delivery = &asked.delivery;
        let ids = asked.keys.ids.iter();
        ids.map(|id| Claim {
            id: id.clone(),
            holder: uuid::Uuid::new_v4().simple().to_string(),
            lease_until: self.lease_until(now),
            request: asked.keys.request.clone(),
            event_id: delivery.id.clone(),
            correlation_id: delivery.correlation_id.clone(),
            status: delivery.status,
            topic: mark.partition.topic,
            partition: mark.partition.number,
            offset: mark.offset,
            is_confirmed: false,
            expires_at: self.key_expires_at(now),
        })
        .collect()
    }

    /// Which of these have an id that was used before in a way that its claim does not tell: when ids were one space for all tenants, an
    /// event was kept as its client called it. One of another tenant would be shown as this one. One of the same tenant may be this
    /// very event, if it is no older than a claim.
    pub(crate) async fn were_used_before(&self, asked: &[&Asked]) -> Result<Vec<bool>, StoreError> {
        let has_own_id = |asked: &&&Asked| asked.keys.ids.iter().any(|id| Said::of(id) == Said::EventId);
        let called = |asked: &Asked| own_id::shown(&asked.delivery.tenant, &asked.delivery.id).to_owned();
        let ids = asked.iter().filter(has_own_id);
        let ids: Vec<String> = ids.map(|asked| called(asked)).collect();
        if ids.is_empty() {
            return Ok(vec![false; asked.len()]);
        }
        let known = self.beside.events(ids).await?;
        let claimed_since = clock::now().saturating_sub(i64::from(self.settings.key_hours) * HOUR_MS);
        let was_used = |asked: &&Asked| {
            let called = called(asked);
            let Some(known) = known.get(&called).filter(|_| has_own_id(&asked)) else {
                return false;
            };
            let fixed = known.as_ref().map(|document| &document.fixed);
            match (asked.delivery.id == called, fixed) {
                // A document that cannot be read may be anybody's.
                (true, fixed) => fixed.is_none_or(|fixed| fixed.tenant != asked.delivery.tenant),
                (false, fixed) => fixed.is_some_and(|fixed| {
                    fixed.tenant == asked.delivery.tenant && fixed.created_at > claimed_since
                }),
            }
        };
        Ok(asked.iter().map(was_used).collect())
    }

    /// Makes claims, in time or not at all.
    pub(crate) async fn claim(&self, wanted: &[Claim]) -> Result<Vec<Option<Claim>>, Problem> {
        let firsts = self.claims.claim(wanted, clock::now()).await;
        let firsts = firsts.map_err(|error| self.no_store(&error.to_string()))?;
        if !self.are_in_time(wanted) {
            self.release(wanted).await;
            return Err(self.no_store("claiming took too long"));
        }
        Ok(firsts)
    }

    /// Whether claims drawn up then are young enough to append their events now.
    pub(crate) fn are_in_time(&self, claims: &[Claim]) -> bool {
        let leases = claims.iter().map(|claim| claim.lease_until);
        let first_ends = leases.min().unwrap_or(Millis::MAX);
        let left_ms = first_ends.saturating_sub(clock::now());
        Duration::from_millis(left_ms.max(0).unsigned_abs()) + CLAIM_MAX >= self.lease()
    }

    pub(crate) fn lease(&self) -> Duration {
        Duration::from_millis(self.lease_ms.unsigned_abs())
    }

    pub(crate) fn lease_until(&self, now: Millis) -> Millis {
        now.saturating_add(self.lease_ms)
    }

    /// Whether the event of a claim is on the log though nobody confirmed that.
    pub(crate) async fn is_there(&self, claim: &Claim) -> Result<bool, Problem> {
        let id = claim.event_id.clone();
        let is_it = move |record: &posthaste_broker::Record| {
            let value = record.value.as_ref().map(Value::decode);
            matches!(value, Some(Ok(Value::Work(work))) if work.delivery.id == id)
        };
        self.is_on_log(claim, is_it).await
    }

    /// Whether such a record was appended by the owners of a claim.
    pub(crate) async fn is_on_log(
        &self,
        claim: &Claim,
        is_it: impl Fn(&posthaste_broker::Record) -> bool + Send + Sync + 'static,
    ) -> Result<bool, Problem> {
        let from = Mark {
            partition: Partition {
                topic: claim.topic,
                number: claim.partition,
            },
            offset: claim.offset,
        };
        // Nobody appends it later than its lease; its time on the log is by that instance's clock.
        let until = claim.lease_until.saturating_add(CLOCKS_DIFFER_MS);
        let found = self.broker.find(from, until, Box::new(is_it)).await;
        found
            .map(|record| record.is_some())
            .map_err(|error: BrokerError| self.no_mark(&error.to_string()))
    }

    /// Says that events are durable, soon. Whoever asks again before that waits for it.
    pub(crate) async fn confirm_soon(&self, claims: &[Claim]) {
        if !self.beside.confirm_soon(claims) {
            self.confirm(claims).await;
        }
    }

    /// Says that events are durable. If that does not get through, the log says so too.
    pub(crate) async fn confirm(&self, claims: &[Claim]) {
        if claims.is_empty() {
            return;
        }
        if let Err(error) = self.claims.confirm(claims).await {
            debug!(%error, "idempotency keys were not confirmed");
        }
    }

    /// Gives claims up whose events were not appended. If that does not get through, their lease ends.
    pub(crate) async fn release(&self, claims: &[Claim]) {
        if claims.is_empty() {
            return;
        }
        if let Err(error) = self.claims.release(claims).await {
            debug!(%error, "idempotency keys were not given up");
        }
    }

    pub(crate) fn claims_failed(&self, error: &StoreError) -> Problem {
        self.no_store(&error.to_string())
    }

    fn no_store(&self, reason: &str) -> Problem {
        debug!(reason, "a request with a key is not taken");
        self.metrics.refused(Refusal::Unconfirmed).one();
        Problem::unavailable(
            "idempotency keys and event ids of your own cannot be checked at the moment; nothing was stored. Events without them are taken",
            self.settings.retry_after_seconds.max(1),
        )
    }

    fn no_mark(&self, reason: &str) -> Problem {
        debug!(reason, "a request with a key is not taken");
        self.metrics.refused(Refusal::Unconfirmed).one();
        Problem::unavailable(
            "the broker does not answer at the moment; nothing was stored",
            self.settings.retry_after_seconds.max(1),
        )
    }

    /// The same is being taken by somebody else, for longer than we wait.
    pub(crate) fn still_taken(&self, event_id: &str) -> Problem {
        self.metrics.refused(Refusal::Full).one();
        Problem {
            retry_after_seconds: Some(self.settings.retry_after_seconds.max(1)),
            ..Problem::new(
                StatusCode::CONFLICT,
                "a request with this key is being taken at this moment; ask again for its answer",
            )
        }
        .about(event_id)
    }

    /// The key was said before, with something else.
    pub(crate) fn conflict(&self, said: Said) -> Problem {
        self.metrics.refused(Refusal::Invalid).one();
        let (status, field, problem) = match said {
            Said::EventId => (
                StatusCode::CONFLICT,
                "eventId",
                "was used before, for another event",
            ),
            Said::CloudEvent => (
                StatusCode::CONFLICT,
                CLOUD_EVENT_ID,
                "was used before, by this source for another event",
            ),
            Said::Header => (
                StatusCode::UNPROCESSABLE_ENTITY,
                HEADER,
                "was used before, with another body",
            ),
        };
        let hours = self.settings.key_hours;
        let accepted =
            format!("the same body, which gets the same answer, or one that was not used for {hours} h");
        let error = posthaste_event::FieldError::new(field, problem, accepted);
        Problem::fields(status, vec![error])
    }
}
