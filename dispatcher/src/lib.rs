//! Dispatchers: take events from their lane and send each through a provider, once.
//!
//! A lane never waits between attempts and never changes the provider after a failure: every outcome is hopped on, and
//! what follows is decided by the retry service. What cannot be sent now is parked in the delay wheel, so that one
//! provider's trouble delays only its own events.

// Decided without I/O, and open to the simulation in `tests/simulation`.
pub mod pace;
pub mod pending;
pub mod unsettled;
pub mod window;

mod accounts;
mod devices;
mod gate;
mod hold;
mod lane;
mod open;
mod order;
mod send;
mod settings;
mod state;
mod suppress;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use posthaste_broker::{Broker, BrokerError, Start, Subscription, Tracking, Watched, follow};
use posthaste_definitions::Suppressions;
use posthaste_event::Topic;
use posthaste_reconnect::Reconnect;
use posthaste_service::{Health, Metrics, Requests, Shutdown};
use posthaste_store::Devices;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

pub use accounts::{Accounts, Unroutable};
pub use gate::LaneName;
pub use settings::{DEFAULTS, Settings};

use gate::Gates;
use lane::Lane;
use order::keys::Keys;
use state::LaneState;

/// A membership that lasted this long was a good one: the waits before the next start over.
const STEADY: Duration = Duration::from_secs(60);

/// The lanes of one process. They share the places at the provider accounts.
pub struct Dispatcher {
    broker: Arc<dyn Broker>,
    accounts: Arc<dyn Accounts>,
    settings: Settings,
    instance: Arc<str>,
    health: Health,
    metrics: Arc<Metrics>,
    /// What was asked of events.
    requests: Arc<Requests>,
    /// To whom nothing is sent.
    suppressions: Arc<Suppressions>,
    /// What sealed payloads open with.
    sealing_keys: Arc<posthaste_sealing::Keys>,
    /// Where a push to a user goes.
    devices: Arc<dyn Devices>,
    gates: Arc<Gates>,
    keys: Arc<Keys>,
    /// Ends the following of the keys topic with this.
    following: Mutex<Option<AbortOnDropHandle<()>>>,
}

impl Dispatcher {
    /// No lane runs yet. `instance` is this process's name, for `delivery.by`. Whoever makes this sees to it that `requests` and
    /// `suppressions` are followed: lanes begin when they are known.
    #[expect(clippy::too_many_arguments, reason = "what a service is given, once")]
    pub fn new(
        broker: Arc<dyn Broker>,
        accounts: Arc<dyn Accounts>,
        settings: Settings,
        instance: Arc<str>,
        health: Health,
        metrics: Arc<Metrics>,
        requests: Arc<Requests>,
        suppressions: Arc<Suppressions>,
        sealing_keys: Arc<posthaste_sealing::Keys>,
        devices: Arc<dyn Devices>,
    ) -> Self {
        let gates = Arc::new(Gates::new(&settings));
        Self {
            broker,
            accounts,
            settings,
            instance,
            health,
            metrics,
            requests,
            suppressions,
            sealing_keys,
            devices,
            gates,
            keys: Arc::default(),
            following: Mutex::default(),
        }
    }

    /// Runs one lane until `shutdown`, then finishes what is under way (within `drain_ms`) and leaves the group.
    /// Outages of the broker are waited out.
    ///
    /// # Errors
    /// What keeps the lane from starting and will not pass by itself, such as [`BrokerError::NoPositions`].
    pub async fn run(&self, name: LaneName, shutdown: Shutdown) -> Result<(), BrokerError> {
        let state = Arc::new(LaneState::new("the group is not joined yet"));
        let check = Arc::clone(&state);
        self.health
            .check(format!("dispatcher.{name}"), move || check.check());
        self.gates.set_running(name, true);
        self.follow_keys(&shutdown);
        let result = self.keep_running(name, &state, &shutdown).await;
        self.gates.set_running(name, false);
        state.ill("stopped".to_owned());
        result
    }

    /// Waits until all is known that may keep an event from being sent.
    async fn known(&self) {
        self.requests.known().await;
        self.suppressions.known().await;
    }

    /// All lanes share what is known of ordering keys.
    fn follow_keys(&self, shutdown: &Shutdown) {
        let mut following = self.following.lock().unwrap_or_else(PoisonError::into_inner);
        if following.as_ref().is_none_or(|task| task.is_finished()) {
            let (broker, keys, shutdown) =
                (Arc::clone(&self.broker), Arc::clone(&self.keys), shutdown.clone());
            let task = tokio::spawn(async move {
                follow(&broker, &[Topic::Keys], &shutdown, |news| keys.on_news(news)).await;
            });
            *following = Some(AbortOnDropHandle::new(task));
        }
    }

    async fn keep_running(
        &self,
        name: LaneName,
        state: &Arc<LaneState>,
        shutdown: &Shutdown,
    ) -> Result<(), BrokerError> {
        let mut waits = Reconnect::default();
        let mut worked = false;
        let mut told = false;
        loop {
            let joining = async { self.broker.subscribe(self.subscription(name)).await };
            let joined = tokio::select! {
                joined = joining => joined,
                () = shutdown.cancelled() => return Ok(()),
            };
            let error = match joined {
                Ok(consumer) => {
                    if told || !worked {
                        info!(lane = %name, "the {name} lane works");
                    }
                    (worked, told) = (true, false);
                    state.well();
                    let began = Instant::now();
                    let patience = self.settings.patience();
                    let consumer = Box::new(Watched::new(consumer, Arc::clone(&self.broker), patience));
                    let lane = Lane::new(self, name, Arc::clone(state), &*consumer);
                    let ended = lane.serve(consumer, shutdown).await;
                    if began.elapsed() > STEADY {
                        waits.reset();
                    }
                    match ended {
                        Ok(()) => return Ok(()),
                        Err(error) => error,
                    }
                }
                Err(error) if !worked && !error.is_retryable() => return Err(error),
                Err(error) => error,
            };
            state.ill(error.to_string());
            if !told {
                warn!(lane = %name, %error, "the {name} lane cannot work and keeps trying: {error}");
                told = true;
            }
            tokio::select! {
                () = tokio::time::sleep(waits.next_wait()) => {}
                () = shutdown.cancelled() => return Ok(()),
            }
        }
    }

    fn subscription(&self, name: LaneName) -> Subscription {
        Subscription {
            group: name.group().to_owned(),
            topics: name.topics().to_vec(),
            tracking: Tracking::Completion,
            start: Start::Committed,
            limits: lane::limits(self),
        }
    }
}
