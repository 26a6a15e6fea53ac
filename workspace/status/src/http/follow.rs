//! `GET /events?follow=true`: what becomes of events, as it happens.
//!
//! One JSON object a line, for as long as the client reads; an empty line when nothing has happened for a while. Each stream
//! reads the topics from their ends on, as a consumer group of its own that commits nothing: the projector may be in another
//! process, or behind. A client that is too slow is told how many lines it missed; it never holds anything up.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
};
use futures_util::stream;
use posthaste_broker::{
    Broker, BrokerError, Consumer, Limits, Record, Signal, Start, Subscription, Tracking,
};
use posthaste_event::{Channel, Priority, Value, clock, topic::PROJECTED};
use posthaste_service::{Problem, Shutdown, auth::Caller};
use posthaste_store::{Change, Fold, Query};
use serde::Serialize;
use serde_json::json;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::{MissedTickBehavior, interval, timeout},
};
use tracing::{debug, warn};

use super::answer::Step;

/// Streams at once per process: each of them reads every topic.
const STREAMS_MAX: usize = 8;

/// Those of them that one tenant may have, so that it leaves others some.
const TENANT_STREAMS_MAX: usize = STREAMS_MAX / 2;

/// How long a new stream may take to find the ends of the topics and to join its group.
const BEGIN_LIMIT: Duration = Duration::from_secs(20);

/// A stream says something at least this often, so that whoever is between knows that it lives.
const SIGN_EVERY: Duration = Duration::from_secs(5);

/// Parcels of lines that wait for a slow client; beyond them lines are left out.
const PARCELS_MAX: usize = 64;

/// Nobody waits for a stream: it need not hold much.
const LIMITS: Limits = Limits {
    partition_records_max: 1_024,
    records_max: 4_096,
    bytes_max: 8 << 20,
    batch_records_max: 256,
    gather_ms: 0,
};

/// What streams read from, and when they end.
#[derive(Clone)]
pub struct Follow {
    broker: Arc<dyn Broker>,
    shutdown: Shutdown,
    places: Arc<Semaphore>,
    tenants: Tenants,
}

/// Streams that are open, of each tenant that whoever asked is bound to.
type Tenants = Arc<Mutex<HashMap<String, usize>>>;

/// What an open stream takes up.
struct Place {
    of: Option<(Tenants, String)>,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some((tenants, tenant)) = &self.of else { return };
        let mut tenants = tenants.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = tenants.get_mut(tenant) {
            *open -= 1;
            if *open == 0 {
                tenants.remove(tenant);
            }
        }
    }
}

/// One step of one event.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    tenant: String,
    channel: Channel,
    #[serde(skip_serializing_if = "Option::is_none")]
    priority: Option<Priority>,
    #[serde(skip_serializing_if = "Option::is_none")]
    correlation_id: Option<String>,
    #[serde(flatten)]
    step: Step,
}

impl Follow {
    /// What it reads from.
    pub(super) fn broker(&self) -> &Arc<dyn Broker> {
        &self.broker
    }

    /// Streams from this broker, until `shutdown`.
    pub fn new(broker: Arc<dyn Broker>, shutdown: Shutdown) -> Self {
        Self {
            broker,
            shutdown,
            places: Arc::new(Semaphore::new(STREAMS_MAX)),
            tenants: Tenants::default(),
        }
    }

    fn place(&self, caller: &Caller) -> Option<Place> {
        let permit = Arc::clone(&self.places).try_acquire_owned().ok()?;
        let mut place = Place {
            of: None,
            _permit: permit,
        };
        if let Some(tenant) = caller.bound_to() {
            let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
            let open = tenants.entry(tenant.to_owned()).or_default();
            if *open >= TENANT_STREAMS_MAX {
                return None;
            }
            *open += 1;
            place.of = Some((Arc::clone(&self.tenants), tenant.to_owned()));
        }
        Some(place)
    }

    /// Begins a stream of what matches `filter`: what happens after the answer's head was sent is in it. It ends when the
    /// credentials that it was asked for with are over.
    pub(super) async fn begin(&self, filter: Query, caller: &Caller) -> Result<Response, Problem> {
        let place = self.place(caller).ok_or_else(|| {
            Problem::unavailable(
                format!(
                    "{STREAMS_MAX} streams are open here, or {TENANT_STREAMS_MAX} of this tenant; there is no place for another one"
                ),
                super::RETRY_SECONDS,
            )
        })?;
        let consumer = timeout(BEGIN_LIMIT, self.join())
            .await
            .unwrap_or_else(|_| Err(BrokerError::Unreachable("no answer in time".to_owned())))
            .map_err(|error| {
                warn!(%error, "a stream of events cannot begin: {error}");
                Problem::unavailable(
                    "the broker does not answer; /ready says more",
                    super::RETRY_SECONDS,
                )
            })?;
        let (sender, receiver) = mpsc::channel(PARCELS_MAX);
        let stream = Stream {
            filter,
            caller: caller.clone(),
            sender,
            missed: 0,
            _place: place,
        };
        tokio::spawn(stream.run(consumer, self.shutdown.clone()));
        let lines = stream::unfold(receiver, async |mut receiver| {
            let parcel: Bytes = receiver.recv().await?;
            Some((Ok::<_, std::convert::Infallible>(parcel), receiver))
        });
        let head = [(header::CONTENT_TYPE, "application/x-ndjson")];
        Ok((StatusCode::OK, head, Body::from_stream(lines)).into_response())
    }

    async fn join(&self) -> Result<Box<dyn Consumer>, BrokerError> {
        let group = format!("tail.{}", uuid::Uuid::new_v4().simple());
        let ends = self.broker.lag(&group, PROJECTED).await?;
        let ends = ends.into_iter().map(|lag| (lag.partition, lag.end)).collect();
        let subscription = Subscription {
            group,
            topics: PROJECTED.to_vec(),
            tracking: Tracking::Position,
            start: Start::At(ends),
            limits: LIMITS,
        };
        self.broker.subscribe(subscription).await
    }
}

struct Stream {
    filter: Query,
    caller: Caller,
    sender: mpsc::Sender<Bytes>,
    /// Lines left out since the client last took something.
    missed: u64,
    _place: Place,
}

impl Stream {
    async fn run(mut self, mut consumer: Box<dyn Consumer>, shutdown: Shutdown) {
        let mut sign = interval(SIGN_EVERY);
        sign.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let sender = self.sender.clone();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = sender.closed() => break,
                _ = sign.tick() => {
                    if self.caller.until().is_some_and(|until| until <= clock::now()) {
                        break;
                    }
                    self.offer(Vec::from(*b"\n"), 0);
                }
                signal = consumer.next() => match signal {
                    Ok(Signal::Read(records)) => self.tell(&records),
                    Ok(_) => {}
                    Err(error) => {
                        debug!(%error, "a stream of events ends");
                        break;
                    }
                },
            }
        }
        drop((self, sender));
        consumer.close().await;
    }

    fn tell(&mut self, records: &[Record]) {
        let (mut lines, mut count) = (Vec::new(), 0);
        for record in records {
            let Some(Ok(value)) = record.value.as_ref().map(Value::decode) else {
                continue;
            };
            let mut fold = Fold::default();
            fold.add(value);
            for change in fold.into_changes() {
                for line in lines_of(&self.filter, &self.caller, change) {
                    // Texts and numbers only: JSON can hold them.
                    if serde_json::to_writer(&mut lines, &line).is_ok() {
                        lines.push(b'\n');
                        count += 1;
                    }
                }
            }
        }
        if count > 0 {
            self.offer(lines, count);
        }
    }

    fn offer(&mut self, mut lines: Vec<u8>, count: u64) {
        if self.missed > 0 {
            let mut told = format!("{}\n", json!({ "missed": self.missed })).into_bytes();
            told.append(&mut lines);
            lines = told;
        }
        match self.sender.try_send(lines.into()) {
            Ok(()) => self.missed = 0,
            Err(_full_or_closed) => self.missed += count,
        }
    }
}

fn lines_of(filter: &Query, caller: &Caller, change: Change) -> impl Iterator<Item = Line> {
    let Change {
        id, fixed, timeline, ..
    } = change;
    let id = caller.shown(&id).to_owned();
    let is_meant = filter
        .tenant
        .as_ref()
        .is_none_or(|tenant| *tenant == fixed.tenant)
        && filter.channel.is_none_or(|channel| channel == fixed.channel)
        && (filter.correlation_id.is_none() || filter.correlation_id == fixed.correlation_id);
    timeline
        .into_iter()
        .filter(move |(_, entry)| {
            is_meant
                && filter.status.is_none_or(|status| status == entry.status)
                && (filter.provider.is_none() || filter.provider == entry.provider)
        })
        .map(move |(step, entry)| Line {
            tenant: fixed.tenant.clone(),
            channel: fixed.channel,
            priority: fixed.priority,
            correlation_id: fixed.correlation_id.clone(),
            step: Step::of(Some(id.clone()), step, entry),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_client_that_does_not_read_is_told_what_it_missed_and_holds_nothing() {
        let (sender, mut receiver) = mpsc::channel(2);
        let permit = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        let place = Place {
            of: None,
            _permit: permit,
        };
        let mut stream = Stream {
            filter: Query::default(),
            caller: Caller::anyone(),
            sender,
            missed: 0,
            _place: place,
        };
        for number in 0..10 {
            stream.offer(format!("{number}\n").into_bytes(), 1);
        }
        assert_eq!(receiver.recv().await.unwrap(), "0\n");
        assert_eq!(receiver.recv().await.unwrap(), "1\n");
        stream.offer(b"10\n".to_vec(), 1);
        assert_eq!(receiver.recv().await.unwrap(), "{\"missed\":8}\n10\n");
        stream.offer(b"11\n".to_vec(), 1);
        assert_eq!(receiver.recv().await.unwrap(), "11\n");
    }
}
