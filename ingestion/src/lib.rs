//! HTTP intake: takes an event, checks it, makes it durable, and only then says so.
//!
//! Nothing here looks at the status store: with it away, intake goes on. The event is written once, here, and carried byte
//! for byte from then on.

mod nesting;
mod request;
mod settings;

use std::sync::Arc;

use axum::{
    Extension, Json, Router,
    extract::{Request, State},
    http::StatusCode,
    response::{IntoResponse as _, Response},
    routing::post,
};
use posthaste_broker::{AppendError, Broker, NewRecord};
use posthaste_event::{Delivery, Status, Work, clock};
use posthaste_service::{
    Health, Problem,
    http::{CorrelationId, read_body, require_json},
};
use serde::Serialize;
use tokio::sync::Semaphore;
use tracing::{debug, warn};

pub use request::ProviderNames;
pub use settings::{DEFAULTS, Settings};

struct Intake {
    broker: Arc<dyn Broker>,
    providers: ProviderNames,
    settings: Settings,
    instance: Arc<str>,
    places: Semaphore,
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

/// The paths of the intake. `providers` are the names that a client may insist on; `instance` is this process's name, for
/// `delivery.by`.
pub fn router(
    broker: Arc<dyn Broker>,
    providers: ProviderNames,
    settings: Settings,
    instance: Arc<str>,
    health: &Health,
) -> Router {
    let watched = Arc::clone(&broker);
    health.check("ingestion", move || watched.health());
    let intake = Intake {
        broker,
        providers,
        places: Semaphore::new(settings.in_flight_max),
        settings,
        instance,
    };
    Router::new()
        .route("/event", post(ingest))
        .with_state(Arc::new(intake))
}

async fn ingest(
    State(intake): State<Arc<Intake>>,
    Extension(CorrelationId(correlation_id)): Extension<CorrelationId>,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    require_json(&parts.headers)?;
    // A full house is said before the body is read; the place itself is taken after, so that a slow body holds none.
    if intake.places.available_permits() == 0 {
        return Err(intake.full());
    }
    let body = read_body(&parts.headers, body, intake.settings.event_bytes_max).await?;
    let _place = intake.places.try_acquire().map_err(|_| intake.full())?;
    let now = clock::now();
    let checked = request::check(&body, &correlation_id, &intake.providers, &intake.settings, now)
        .map_err(|errors| Problem::fields(StatusCode::BAD_REQUEST, errors))?;
    let (delivery, topic) = Delivery::accepted(checked.accepted, &intake.instance, now);
    let work = Work {
        delivery,
        event: checked.event,
    };
    let value = work
        .encode()
        .map_err(|error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    let record = NewRecord::new(topic, checked.key, value);
    if let Err(error) = intake.broker.append(vec![record]).await {
        return Err(intake.not_durable(&work.delivery.id, &error));
    }
    debug!(event.id = %work.delivery.id, topic = %topic, "event accepted");
    let answer = Ingested {
        message: "Event Ingested",
        event_id: &work.delivery.id,
        correlation_id: &correlation_id,
        status: work.delivery.status,
    };
    Ok((StatusCode::CREATED, Json(answer)).into_response())
}

impl Intake {
    fn full(&self) -> Problem {
        Problem::unavailable(
            "too many events are being taken at the moment; nothing was stored",
            self.settings.retry_after_seconds,
        )
    }

    fn not_durable(&self, event_id: &str, error: &AppendError) -> Problem {
        match error {
            AppendError::Full => self.full(),
            AppendError::Unconfirmed { reason } => {
                // The broker itself says once when it goes and once when it is back.
                debug!(event.id = event_id, reason, "append not confirmed");
                Problem::unavailable(
                    "the event was not confirmed in time and may still go out; look this eventId up before sending it again",
                    self.settings.retry_after_seconds.max(1),
                )
                .about(event_id)
            }
            AppendError::TooLarge { bytes } => {
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
