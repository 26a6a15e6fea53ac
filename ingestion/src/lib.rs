//! HTTP intake: takes an event, checks it, makes it durable, and only then says so.
//!
//! Nothing here looks at the status store: with it away, intake goes on. The event is written once, here, and carried byte
//! for byte from then on. Events that others put on the `inbox` topic are taken in the same way.

mod api;
mod attachments;
mod broadcasts;
mod bulk;
mod defining;
pub mod devices;
mod encryption;
mod idempotency;
mod inbox;
pub mod keys;
mod messages;
pub mod request;
mod schedules;
mod seal;
mod settings;
pub mod suppressions;
pub mod templates;

use std::{sync::Arc, time::Duration};

use axum::{
    Extension, Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts},
    response::Response,
    routing::post,
};
use posthaste_broadcast::Broadcasts;
use posthaste_broker::{AppendError, Broker, NewRecord};
use posthaste_event::{Delivery, Millis, Status, Work, clock, partition::Place, trace};
use posthaste_killpoint as killpoint;
use posthaste_sealing::Sealer;
use posthaste_service::{
    Health, Metrics, Problem,
    auth::Caller,
    http::{CorrelationId, read_body, require_json},
    metrics::Refusal,
};
use serde::Serialize;
use tokio::sync::Semaphore;
use tracing::{debug, warn};

pub use api::api;
pub use broadcasts::{Resealing, sweep_lists};
use bulk::Bulk;
use idempotency::{Asked, Key, Keys, Taken, Taking, ToBeside};
pub use idempotency::{Beside, HEADER as IDEMPOTENCY_KEY, sweep};
use posthaste_store::{Claim, Claims, Lists, Store, Tallies};
pub use request::ProviderNames;
pub use settings::{DEFAULTS, Settings};
use templates::Catalog;

/// Says that an answer is the one of an earlier request with the same key.
const REPLAYED: &str = "idempotency-replayed";

/// How much longer than an append may take nobody else looks what became of it: for claiming ([`CLAIM_MAX`]), and for a bulk
/// request's wait for a full broker.
const LEASE_BEYOND_APPEND: Duration = Duration::from_secs(8);
/// Longest time from the drawing up of a claim until it is ours; later, its event might be appended when somebody else already
/// looks for it.
const CLAIM_MAX: Duration = Duration::from_secs(3);

struct Intake {
    bulk: Bulk,
    broker: Arc<dyn Broker>,
    claims: Arc<dyn Claims>,
    beside: ToBeside,
    /// What is known of events.
    store: Arc<dyn Store>,
    /// For how long whoever said a key first may take, in milliseconds.
    lease_ms: Millis,
    providers: ProviderNames,
    catalog: Arc<Catalog>,
    sealer: Sealer,
    settings: Settings,
    instance: Arc<str>,
    metrics: Arc<Metrics>,
    places: Semaphore,
    /// One for whoever looks what the keys are needed for: it reads all that waits.
    looks: Semaphore,
    broadcasts: broadcasts::Taken,
}

/// What the events of one request have in common.
struct Origin {
    /// Who sends them.
    caller: Caller,
    correlation_id: Arc<str>,
    traceparent: Option<String>,
    /// By what the whole request is recognised.
    key: Option<Key>,
    /// The id of a firing of the schedule, if that is what they are a model for.
    firing_id: Option<String>,
}

impl Origin {
    fn new(correlation_id: Arc<str>, parts: &Parts) -> Result<Self, Problem> {
        let headers = &parts.headers;
        let key = idempotency::header(headers)
            .map_err(|error| Problem::fields(StatusCode::BAD_REQUEST, vec![error]))?;
        Ok(Self {
            caller: Caller::of(&parts.extensions),
            correlation_id,
            traceparent: traceparent(headers),
            key: key.map(|key| Key::Header(key.to_owned())),
            firing_id: None,
        })
    }

    /// A problem as whoever asked is told of it.
    fn told(&self, mut problem: Problem) -> Problem {
        if let Some(id) = &mut problem.event_id {
            *id = self.caller.shown(id).to_owned();
        }
        problem
    }
}

/// An event that was found good.
struct Prepared {
    delivery: Delivery,
    record: NewRecord,
    keys: Option<Keys>,
    is_sealed: bool,
}

/// What a client gets for an event that is durable.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Ingested<'a> {
    message: &'static str,
    event_id: &'a str,
    correlation_id: &'a str,
    status: Status,
}

/// The intake of one process.
pub struct Ingestion {
    intake: Arc<Intake>,
}

impl Ingestion {
    /// `providers` are the names that a client may insist on; `instance` is this process's name, for `delivery.by`. Keys that
    /// must not count twice are kept in `claims`, beside the store of events; see [`sweep`]. An append of `broker` takes at most
    /// `append_max`. `catalog` has the templates that messages are made of, `broadcasts` what is known of those, with stored
    /// lists, what became of their events, and their settings;
    /// `sealer` says whose payloads are sealed, and with what. Requests with keys wait for what is done beside them, so that has to
    /// run; it ends when nothing has the intake any more.
    #[expect(clippy::too_many_arguments, reason = "what a service is given, once")]
    pub fn new(
        broker: Arc<dyn Broker>,
        (claims, store): (Arc<dyn Claims>, Arc<dyn Store>),
        append_max: Duration,
        providers: ProviderNames,
        catalog: Arc<Catalog>,
        (broadcasts, lists, tallies, broadcast_settings): (
            Arc<Broadcasts>,
            Arc<dyn Lists>,
            Arc<dyn Tallies>,
            posthaste_broadcast::Settings,
        ),
        sealer: Sealer,
        settings: Settings,
        instance: Arc<str>,
        health: &Health,
        metrics: Arc<Metrics>,
    ) -> (Self, Beside) {
        let watched = Arc::clone(&broker);
        health.check("ingestion", move || watched.health());
        let (to_beside, beside) = ToBeside::new(Arc::clone(&store), Arc::clone(&claims));
        let intake = Intake {
            bulk: Bulk::new(&settings),
            broker,
            claims,
            beside: to_beside,
            store,
            lease_ms: Millis::try_from((append_max + LEASE_BEYOND_APPEND).as_millis()).unwrap_or(Millis::MAX),
            providers,
            catalog,
            sealer,
            places: Semaphore::new(settings.in_flight_max),
            looks: Semaphore::new(1),
            settings,
            instance,
            metrics,
            broadcasts: broadcasts::Taken::new(broadcasts, lists, tallies, broadcast_settings),
        };
        let ingestion = Self {
            intake: Arc::new(intake),
        };
        (ingestion, beside)
    }

    /// The paths of the intake.
    pub fn router(&self) -> Router {
        let intake = &self.intake;
        Router::new()
            .route("/event", post(ingest))
            .route("/events", post(bulk::ingest_many))
            .with_state(Arc::clone(intake))
            .merge(messages::router(Arc::clone(intake)))
            .merge(broadcasts::router(Arc::clone(intake)))
            .merge(schedules::router(Arc::clone(intake)))
            .merge(encryption::router(Arc::clone(intake)))
            .merge(templates::router(Arc::clone(&intake.catalog)))
    }
}

async fn ingest(
    State(intake): State<Arc<Intake>>,
    Extension(CorrelationId(correlation_id)): Extension<CorrelationId>,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let invalid = intake.metrics.refused(Refusal::Invalid);
    require_json(&parts.headers).inspect_err(|_| invalid.one())?;
    // A full house is said before the body is read; the place itself is taken after, so that a slow body holds none.
    if intake.places.available_permits() == 0 {
        return Err(intake.full());
    }
    let body = read_body(&parts.headers, body, intake.settings.event_bytes_max)
        .await
        .inspect_err(|problem| intake.count_unread(problem))?;
    let _place = intake.places.try_acquire().map_err(|_| intake.full())?;
    let origin = Origin::new(correlation_id, &parts).inspect_err(|_| invalid.one())?;
    let place = intake.broker.next_place(1);
    let Prepared {
        delivery,
        record,
        keys,
        ..
    } = intake.prepare(&body, &body, &origin, None, place, clock::now())?;
    if let Some(keys) = keys {
        let asked = Asked {
            delivery,
            record,
            keys,
        };
        // In a box: most events bring no key, and need no room for this.
        let taking = Box::pin(Taking::new(&intake, asked, intake.patience()).take());
        let taken = taking.await.map_err(|problem| origin.told(problem))?;
        return Ok(answer(&taken, &origin.caller));
    }
    if let Err(error) = intake.broker.append(vec![record]).await {
        return Err(intake.not_durable(&delivery.id, &error));
    }
    intake.accepted(&delivery);
    Ok(ingested(&delivery.id, &origin.correlation_id, delivery.status))
}

fn ingested(event_id: &str, correlation_id: &str, status: Status) -> Response {
    let answer = Ingested {
        message: "Event Ingested",
        event_id,
        correlation_id,
        status,
    };
    // By way of a list of bytes: `Json` checks its buffer for every comma. Texts and a name are always JSON.
    let json = serde_json::to_vec(&answer).unwrap_or_default();
    let mut response = Response::new(Body::from(json));
    *response.status_mut() = StatusCode::CREATED;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

fn answer(taken: &Taken, caller: &Caller) -> Response {
    let mut response = ingested(caller.shown(&taken.event_id), &taken.correlation_id, taken.status);
    if taken.is_again {
        response
            .headers_mut()
            .insert(REPLAYED, HeaderValue::from_static("true"));
    }
    response
}

fn traceparent(headers: &HeaderMap) -> Option<String> {
    let header = headers.get("traceparent")?.to_str().ok()?;
    trace::sampled(header).map(str::to_owned)
}

impl Intake {
    /// Checks an event that its client wrote itself, and makes it a record; one that brings no id gets one that goes to `place`.
    /// `item` is its place in a request with many, `said` what its client said, by which it is recognised.
    fn prepare(
        &self,
        body: &[u8],
        said: &[u8],
        origin: &Origin,
        item: Option<u64>,
        place: Option<Place>,
        now: Millis,
    ) -> Result<Prepared, Problem> {
        let by_none = origin.caller.may_send_by(None, messages::CONFIG);
        by_none.inspect_err(|_| self.metrics.refused(Refusal::Invalid).one())?;
        self.prepare_composed(body, said, origin, item, place, now)
    }

    /// The same for one that was made here, by a configuration that its client may send by.
    fn prepare_composed(
        &self,
        body: &[u8],
        said: &[u8],
        origin: &Origin,
        item: Option<u64>,
        place: Option<Place>,
        now: Millis,
    ) -> Result<Prepared, Problem> {
        let correlation_id = &origin.correlation_id;
        let tenant = origin.caller.tenant_default();
        let (providers, settings) = (&self.providers, &self.settings);
        let checked = request::check_for(body, correlation_id, providers, settings, now, place, tenant)
            .map_err(|errors| Problem::fields(StatusCode::BAD_REQUEST, errors))
            .and_then(|checked| {
                let accepted = &checked.accepted;
                origin.caller.may_send(&accepted.tenant, accepted.channel)?;
                self.seal(checked, origin)
            })
            .inspect_err(|_| self.metrics.refused(Refusal::Invalid).one())?;
        let own_id = checked.has_own_id.then_some(checked.accepted.id.as_str());
        let keys = Keys::of(origin.key.as_ref(), item, own_id, &checked.accepted.tenant, said);
        let keys = match self.sealer.ring() {
            Some(ring) if checked.is_sealed => keys.map(|keys| keys.covered(&ring)),
            _ => keys,
        };
        let (mut delivery, topic) = Delivery::accepted(checked.accepted, &self.instance, now);
        delivery.traceparent.clone_from(&origin.traceparent);
        let work = Work {
            delivery,
            event: checked.event,
        };
        let value = work
            .encode()
            .map_err(|error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
        Ok(Prepared {
            delivery: work.delivery,
            record: NewRecord::new(topic, checked.key, value),
            keys,
            is_sealed: checked.is_sealed,
        })
    }

    /// Makes an event durable whose keys are claimed.
    async fn append_claimed(
        &self,
        delivery: &Delivery,
        record: NewRecord,
        claims: &[Claim],
    ) -> Result<(), Problem> {
        killpoint::at(killpoint::CLAIMED);
        match self.broker.append(vec![record]).await {
            Ok(()) => {
                killpoint::at(killpoint::APPENDED);
                self.confirm_soon(claims).await;
                Ok(())
            }
            Err(error) => {
                if !matches!(error, AppendError::Unconfirmed { .. }) {
                    self.release(claims).await;
                }
                Err(self.not_durable(&delivery.id, &error))
            }
        }
    }

    fn accepted(&self, delivery: &Delivery) {
        self.metrics.accepted(delivery.channel, delivery.priority).one();
        debug!(event.id = %delivery.id, trace.id = delivery.trace_id(), "event accepted");
    }

    fn count_unread(&self, problem: &Problem) {
        let refusal = if problem.status == StatusCode::PAYLOAD_TOO_LARGE {
            Refusal::TooLarge
        } else {
            Refusal::Invalid
        };
        self.metrics.refused(refusal).one();
    }

    fn full(&self) -> Problem {
        self.metrics.refused(Refusal::Full).one();
        Problem::unavailable(
            "too many events are being taken at the moment; nothing was stored",
            self.settings.retry_after_seconds,
        )
    }

    fn not_durable(&self, event_id: &str, error: &AppendError) -> Problem {
        match error {
            AppendError::Full => self.full(),
            AppendError::Unconfirmed { reason } => {
                self.metrics.refused(Refusal::Unconfirmed).one();
                // The broker itself says once when it goes and once when it is back.
                debug!(event.id = event_id, reason, "append not confirmed");
                Problem::unavailable(
                    "the event was not confirmed in time and may still go out; look this eventId up before sending it again",
                    self.settings.retry_after_seconds.max(1),
                )
                .about(event_id)
            }
            AppendError::TooLarge { bytes } => {
                self.metrics.refused(Refusal::TooLarge).one();
                warn!(
                    event.id = event_id,
                    bytes, "an event within ingestion.event_bytes_max is larger than the broker takes"
                );
                Problem::new(
                    StatusCode::PAYLOAD_TOO_LARGE,
                    format!(
                        "with its delivery the event has {bytes} bytes, more than the broker takes; nothing was stored"
                    ),
                )
            }
        }
    }
}
