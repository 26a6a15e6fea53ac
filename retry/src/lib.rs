//! The retry service: verdicts by the rules, the delay wheel, dead-lettering.
//!
//! Two groups. `retry` reads the failures and hops each to where the rules send it: into the wheel, or to the dead-letter
//! topic. `wheel` holds what waits and hops it on when its time comes. Critical events have members, and so transactions,
//! of their own in both.
//!
//! **Invariant:** nothing here sends, and nothing here appends outside of a hop. What was handed out is either hopped or
//! given back, so a crash at any point repeats at most work that left no trace.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use posthaste_broker::{Broker, BrokerError};
use posthaste_definitions::Definitions;
use posthaste_event::{FieldError, Tier, Topic, clock};
use posthaste_rules::Rules;
use posthaste_service::{Health, Metrics, Requests, Shutdown};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;
use tracing::error;

// Decided without I/O, and open to the simulation in `tests/simulation`.
pub mod judge;
pub mod waiting;

mod follow;
mod gauge;
mod held;
mod member;
mod settings;

pub use follow::{Judge as RulesJudge, follow};
pub use settings::{DEFAULTS, RulesFileError, Settings};

use gauge::Gauge;
use judge::Ask;
use member::{Member, subscription};
use waiting::Bounds;

/// A member that panicked is started again after this time, so that a record that makes it panic cannot spin.
const RESTART_AFTER: Duration = Duration::from_secs(1);

/// Why the service does not start, or ended before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum RetryError {
    /// A setting is out of range.
    #[error(transparent)]
    Settings(#[from] FieldError),
    /// The broker refuses.
    #[error("the {member} cannot join its group: {error}")]
    Broker {
        /// Which member.
        member: &'static str,
        /// What the broker says.
        error: BrokerError,
    },
}

/// Runs verdicts and wheel until `shutdown`, then gives back what waits and returns.
///
/// `rules` are the rules in force (see [`Settings::rules`]); a new value takes effect with the next verdict. Whoever calls this
/// sees to it that `requests` and `schedules` are followed: work begins when they are known. The checks `retry …` and `wheel …` are added to
/// `health`.
///
/// # Errors
/// A setting out of range, or a broker that refuses for good; outages are waited out.
#[expect(clippy::too_many_arguments, reason = "what a service is given, once")]
pub async fn run(
    settings: &Settings,
    broker: Arc<dyn Broker>,
    rules: watch::Receiver<Arc<Rules>>,
    requests: Arc<Requests>,
    schedules: Arc<Definitions>,
    instance: Arc<str>,
    health: &Health,
    metrics: Arc<Metrics>,
    shutdown: Shutdown,
) -> Result<(), RetryError> {
    settings.check()?;
    let near = Bounds {
        offsets_max: settings.near_offsets_max,
        bytes_max: settings.near_kib_max << 10,
    };
    let tiers = Tier::ALL.map(Topic::Delay).to_vec();
    // One that cannot start takes the others down with it; the caller's token stays as it is.
    let stop = shutdown.child_token();
    let members = [
        ("retry", Topic::Failed.into(), Ask::Verdict, None),
        ("retry critical", Topic::FailedCritical.into(), Ask::Verdict, None),
        ("wheel near", Topic::DelayNear.into(), Ask::Move, Some(near)),
        (
            "wheel near critical",
            Topic::DelayNearCritical.into(),
            Ask::Move,
            Some(near),
        ),
        ("wheel tiers", Topics(tiers), Ask::Move, None),
    ]
    .map(|(name, Topics(topics), ask, bounds)| {
        let (group, limits) = match (ask, bounds) {
            (Ask::Verdict, _) => ("retry", settings.verdict_limits()),
            (_, Some(_)) => ("wheel", settings.near_limits()),
            (_, None) => ("wheel", settings.tier_limits()),
        };
        let is_critical = topics
            .iter()
            .any(|topic| matches!(topic, Topic::FailedCritical | Topic::DelayNearCritical));
        let gauge = Arc::new(Gauge::default());
        let checked = Arc::clone(&gauge);
        health.check(name, move || checked.check(clock::now()));
        Arc::new(Member {
            name,
            subscription: subscription(group, topics, limits),
            ask,
            bounds,
            may_wait: !is_critical,
            hops_max: settings.hops_max,
            hop_records_max: settings.hop_records_max,
            clock_check_ms: settings.clock_check_ms,
            patience: Duration::from_millis(settings.stall_ms),
            broker: Arc::clone(&broker),
            rules: rules.clone(),
            instance: Arc::clone(&instance),
            metrics: Arc::clone(&metrics),
            gauge,
            requests: Arc::clone(&requests),
            schedules: Arc::clone(&schedules),
            shutdown: stop.clone(),
        })
    });
    let ended = join_all(members.map(|member| keep_running(member, stop.clone()))).await;
    ended.into_iter().collect()
}

struct Topics(Vec<Topic>);

impl From<Topic> for Topics {
    fn from(topic: Topic) -> Self {
        Self(vec![topic])
    }
}

async fn keep_running(member: Arc<Member>, stop: Shutdown) -> Result<(), RetryError> {
    loop {
        let running = Arc::clone(&member);
        // A task of its own, so that a panic ends here; it must not outlive whoever drops this future.
        match AbortOnDropHandle::new(tokio::spawn(async move { running.run().await })).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => {
                stop.cancel();
                return Err(RetryError::Broker {
                    member: member.name,
                    error,
                });
            }
            Err(panic) => {
                let name = member.name;
                member
                    .gauge
                    .unwell("it stopped by a fault of its own and starts again".to_owned());
                error!(member = name, error = %panic, "the {name} stopped by a fault of its own and starts again");
                tokio::select! {
                    () = stop.cancelled() => return Ok(()),
                    () = tokio::time::sleep(RESTART_AFTER) => {}
                }
            }
        }
    }
}
