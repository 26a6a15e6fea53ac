//! What this process counts, and `/metrics`, which shows it to Prometheus.
//!
//! Every metric of Posthaste is here. The label sets are made when the process starts, from what is known then (channels,
//! providers, kinds of failure), so counting is one atomic addition: no lock, no allocation, and no label that a client could
//! choose. A provider that is not known is `other`. Counted is what this process did; after a partition has moved, what
//! it had decided and could not record is decided, and counted, once more by whoever took over.

mod histogram;
mod lag;
mod text;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use axum::{
    Router,
    http::header,
    response::{IntoResponse as _, Response},
    routing::get,
};
use posthaste_event::{Channel, ErrorKind, Priority, delivery::WaitReason};

pub use histogram::Histogram;
pub use lag::{Group, Lag};

use crate::{Health, Problem};

/// Stands for every provider that the configuration does not know.
const OTHER: &str = "other";

const CHANNELS: usize = Channel::ALL.len();
const KINDS: usize = ErrorKind::ALL.len();
const PRIORITIES: [Priority; 4] = [
    Priority::Low,
    Priority::Normal,
    Priority::High,
    Priority::Critical,
];
const WAITS: [(WaitReason, &str); 7] = WaitReason::NAMES;

/// A number that only rises.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// One more.
    pub fn one(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// So many more.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// How many so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Why an event was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Something in the request was wrong.
    Invalid,
    /// It was larger than what is taken.
    TooLarge,
    /// Too many were being taken.
    Full,
    /// The broker did not confirm it in time.
    Unconfirmed,
}

const REFUSALS: [(Refusal, &str); 4] = [
    (Refusal::Invalid, "invalid"),
    (Refusal::TooLarge, "too_large"),
    (Refusal::Full, "full"),
    (Refusal::Unconfirmed, "unconfirmed"),
];

/// What became of events of one channel at one provider.
#[derive(Debug, Default)]
pub struct Route {
    provider: Box<str>,
    /// Accepted by the provider.
    pub sent: Count,
    /// Put into the wheel for want of a place, no attempt spent.
    pub parked: Count,
    /// Verdicts for another try after a failure here.
    pub retried: Count,
    /// How long the provider took to answer.
    pub call: Histogram,
    failed: [Count; KINDS],
    dead_lettered: [Count; KINDS],
}

impl Route {
    /// Sends that failed in this way.
    pub const fn failed(&self, kind: ErrorKind) -> &Count {
        &self.failed[kind as usize]
    }

    /// Events given up for this.
    pub const fn dead_lettered(&self, kind: ErrorKind) -> &Count {
        &self.dead_lettered[kind as usize]
    }
}

/// The counters of one process.
#[derive(Debug)]
pub struct Metrics {
    accepted: [[Count; PRIORITIES.len()]; CHANNELS],
    refused: [Count; REFUSALS.len()],
    expired: [Count; CHANNELS],
    cancelled: [Count; CHANNELS],
    skipped: [Count; CHANNELS],
    /// The last of each channel is [`OTHER`].
    routes: [Vec<Route>; CHANNELS],
    /// First attempts, and later ones.
    latency: [[[Histogram; 2]; PRIORITIES.len()]; CHANNELS],
    lateness: [Histogram; WAITS.len()],
    /// Records that could not be read and went to the dead-letter topic.
    pub unreadable: Count,
    /// Rule files that were taken up while running.
    pub rules_reloaded: Count,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new(&BTreeMap::new())
    }
}

impl Metrics {
    /// Nothing counted yet. `providers` are the known ones of each channel.
    pub fn new(providers: &BTreeMap<Channel, Vec<String>>) -> Self {
        let route = |provider: &str| Route {
            provider: provider.into(),
            ..Route::default()
        };
        Self {
            accepted: Default::default(),
            refused: Default::default(),
            expired: Default::default(),
            cancelled: Default::default(),
            skipped: Default::default(),
            routes: Channel::ALL.map(|channel| {
                let known = providers.get(&channel).map(Vec::as_slice).unwrap_or_default();
                let known = known.iter().map(|provider| route(provider));
                known.chain([route(OTHER)]).collect()
            }),
            latency: Default::default(),
            lateness: Default::default(),
            unreadable: Count::default(),
            rules_reloaded: Count::default(),
        }
    }

    /// Events answered with 2xx.
    pub const fn accepted(&self, channel: Channel, priority: Priority) -> &Count {
        &self.accepted[channel as usize][priority as usize]
    }

    /// Requests that stored nothing for certain.
    pub const fn refused(&self, refusal: Refusal) -> &Count {
        &self.refused[refusal as usize]
    }

    /// Events whose time passed before they were sent.
    pub const fn expired(&self, channel: Channel) -> &Count {
        &self.expired[channel as usize]
    }

    /// Events that were withdrawn before they were sent.
    pub const fn cancelled(&self, channel: Channel) -> &Count {
        &self.cancelled[channel as usize]
    }

    /// Events that were not sent since their recipients are suppressed.
    pub const fn skipped(&self, channel: Channel) -> &Count {
        &self.skipped[channel as usize]
    }

    /// What is counted of a channel's events at a provider; a few comparisons.
    pub fn route(&self, channel: Channel, provider: Option<&str>) -> &Route {
        let routes = &self.routes[channel as usize];
        let last = routes.len() - 1;
        let known = provider.and_then(|provider| {
            routes[..last]
                .iter()
                .position(|route| *route.provider == *provider)
        });
        &routes[known.unwrap_or(last)]
    }

    /// From being accepted (or scheduled for, or replayed) to being accepted by a provider; `is_first` for those that went out
    /// at the first attempt.
    pub const fn latency(&self, channel: Channel, priority: Priority, is_first: bool) -> &Histogram {
        &self.latency[channel as usize][priority as usize][!is_first as usize]
    }

    /// How much later than due an event left the wheel.
    pub const fn lateness(&self, reason: WaitReason) -> &Histogram {
        &self.lateness[reason as usize]
    }
}

/// What `/metrics` shows.
#[derive(Clone)]
pub struct Exposition {
    /// What was counted.
    pub metrics: Arc<Metrics>,
    /// The checks of `/ready`.
    pub health: Health,
    /// How far the groups of this process are behind.
    pub lag: Arc<Lag>,
    /// This process's name.
    pub instance: Arc<str>,
}

impl Exposition {
    /// `GET /metrics`.
    pub fn router(self) -> Router {
        Router::new().route("/metrics", get(move || async move { self.answer().await }))
    }

    async fn answer(&self) -> Response {
        const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        let lags = self.lag.read().await;
        match text::write(self, lags) {
            Ok(text) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
            Err(error) => Problem::new(
                axum::http::StatusCode::INTERNAL_SERVER_ERROR,
                format!("the metrics cannot be written: {error}"),
            )
            .into_response(),
        }
    }
}

#[cfg(test)]
mod tests;
