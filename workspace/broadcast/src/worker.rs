//! Reads the partitions of broadcasts, and gives each broadcast in them its turns.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use posthaste_broker::{
    Broker, BrokerError, Consumer, Limits, Start, Subscription, Tracking, Watched, follow,
    watchdog::READING_PATIENCE,
};
use posthaste_event::{Millis, Topic, clock, control::Wish};
use posthaste_reconnect::Reconnect;
use posthaste_service::{Health, Shutdown};
use tokio::{
    sync::Semaphore,
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval, sleep, timeout},
};
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use crate::{
    Broadcasts, Known, Settings,
    index::{Next, Ready},
    membership::Membership,
    turn::{self, Turn},
};

/// The consumer group, without prefix.
const GROUP: &str = "broadcast";

/// How often positions that fell behind are committed.
const SETTLE: Duration = Duration::from_secs(2);

/// How often it is looked what may be handed over, when nothing was said to have changed.
const LOOK: Duration = Duration::from_millis(500);

/// Longest wait for turns under way when the group is left. A hop takes milliseconds.
const DRAIN: Duration = Duration::from_secs(10);

/// A member that got no partition for this long counts itself as a standby.
const STANDBY: Duration = Duration::from_secs(15);

/// A membership that lasted this long was a good one: the waits before the next start over.
const STEADY: Duration = Duration::from_secs(60);

/// Chunks that nobody said a broadcast of are void when they are so much older than the longest upload, in milliseconds: far
/// beyond what clocks differ, or the control topic could be behind.
const VOID_BEYOND_UPLOAD_MS: Millis = 24 * 3_600_000;

/// What is read at once, in bytes: only the places of chunks are kept.
const READ_BYTES_MAX: usize = 8 << 20;

/// Hands over the broadcasts in this process's share of the partitions.
pub struct Worker {
    pub(crate) broker: Arc<dyn Broker>,
    pub(crate) broadcasts: Arc<Broadcasts>,
    pub(crate) settings: Settings,
    pub(crate) instance: Arc<str>,
    open: Mutex<Option<Membership>>,
    under_way: TaskTracker,
}

impl Worker {
    /// Registers the health check; [`Self::run`] does the work. `instance` is this process's name, for `delivery.by`.
    pub fn new(
        broker: Arc<dyn Broker>,
        broadcasts: Arc<Broadcasts>,
        settings: Settings,
        instance: Arc<str>,
        health: &Health,
    ) -> Self {
        let check = Arc::clone(&broadcasts);
        broadcasts.set_problem(Some("the group is not joined yet".to_owned()));
        health.check("broadcasts", move || check.check());
        Self {
            broker,
            broadcasts,
            settings,
            instance,
            open: Mutex::new(None),
            under_way: TaskTracker::new(),
        }
    }

    /// Hands chunks over until `shutdown`. Outages of the broker are waited out.
    ///
    /// # Errors
    /// What keeps it from starting and will not pass by itself.
    pub async fn run(self: Arc<Self>, shutdown: Shutdown) -> Result<(), BrokerError> {
        let stop = shutdown.child_token();
        let following = follow(&self.broker, &[Topic::Control], &stop, |news| {
            self.broadcasts.on_news(news);
        });
        let conducting = Arc::clone(&self).conduct(stop.clone());
        let reading = async {
            let result = self.keep_reading(&shutdown).await;
            stop.cancel();
            result
        };
        let (result, (), ()) = tokio::join!(reading, following, conducting);
        result
    }

    async fn keep_reading(&self, shutdown: &Shutdown) -> Result<(), BrokerError> {
        let mut waits = Reconnect::default();
        let (mut worked, mut told) = (false, false);
        loop {
            let began = Instant::now();
            let joined = || {
                if told || !worked {
                    info!("the broadcasts are handed over from here");
                }
                (worked, told) = (true, false);
            };
            let error = match self.read(shutdown, joined).await {
                Ok(()) => {
                    self.broadcasts.set_problem(Some("stopped".to_owned()));
                    return Ok(());
                }
                Err(error) if !worked && !error.is_retryable() => return Err(error),
                Err(error) => error,
            };
            if began.elapsed() > STEADY {
                waits.reset();
            }
            self.broadcasts.set_problem(Some(error.to_string()));
            if !told {
                warn!(%error, "the broadcasts cannot be read; trying on: {error}");
                told = true;
            }
            tokio::select! {
                () = sleep(waits.next_wait()) => {}
                () = shutdown.cancelled() => return Ok(()),
            }
        }
    }

    /// Joins the group, reads until `shutdown` or until something fails, and leaves the group.
    async fn read(&self, shutdown: &Shutdown, on_joined: impl FnOnce()) -> Result<(), BrokerError> {
        let subscription = Subscription {
            group: GROUP.to_owned(),
            topics: vec![Topic::Broadcasts],
            tracking: Tracking::Position,
            start: Start::Committed,
            limits: Limits {
                bytes_max: READ_BYTES_MAX,
                ..Limits::default()
            },
        };
        let consumer = tokio::select! {
            consumer = self.broker.subscribe(subscription) => consumer?,
            () = shutdown.cancelled() => return Ok(()),
        };
        let membership = Membership::new(consumer.hopper());
        self.set_open(Some(membership.clone()));
        self.broadcasts
            .set_problem(Some("the broadcasts' chunks are being read".to_owned()));
        on_joined();
        let consumer = Watched::reader(consumer, Arc::clone(&self.broker), READING_PATIENCE);
        let mut consumer: Box<dyn Consumer> = Box::new(consumer);
        let ended = self.serve(&mut *consumer, &membership, shutdown).await;
        self.set_open(None);
        self.under_way.close();
        if timeout(DRAIN, self.under_way.wait()).await.is_err() {
            warn!(
                "chunks were still being handed over at the end of the drain time; whoever is next looks what became of them"
            );
        }
        self.under_way.reopen();
        if timeout(DRAIN, consumer.close()).await.is_err() {
            info!("the consumer of broadcasts did not close in time");
        }
        ended
    }

    async fn serve(
        &self,
        consumer: &mut dyn Consumer,
        membership: &Membership,
        shutdown: &Shutdown,
    ) -> Result<(), BrokerError> {
        let joined = Instant::now();
        let mut tick = interval(SETTLE);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut settling: Option<JoinHandle<()>> = None;
        let ended = loop {
            tokio::select! {
                () = shutdown.cancelled() => break Ok(()),
                signal = consumer.next() => match signal {
                    Ok(signal) => {
                        membership.on_signal(signal);
                        self.note(membership, joined);
                        self.broadcasts.changed.notify_waiters();
                    }
                    Err(error) => break Err(error),
                },
                _ = tick.tick() => {
                    self.note(membership, joined);
                    // In a task of its own: while the broker is away a hop waits.
                    if settling.as_ref().is_none_or(JoinHandle::is_finished) {
                        let positions = membership.index().positions_behind();
                        let membership = membership.clone();
                        settling = Some(tokio::spawn(async move { membership.settle(positions).await }));
                    }
                }
            }
        };
        if let Some(settling) = settling {
            settling.abort();
        }
        ended
    }

    /// What `/ready` says of it. With more instances than partitions some have none, and are well.
    fn note(&self, membership: &Membership, joined: Instant) {
        let (owned, read) = membership.index().partitions();
        let problem = match (owned, read) {
            (0, _) if joined.elapsed() < STANDBY => {
                Some("no partition of the broadcasts is ours yet".to_owned())
            }
            (owned, read) if read < owned => Some(format!(
                "broadcasts of {read} of {owned} partitions have been read"
            )),
            _ => None,
        };
        self.broadcasts.set_problem(problem);
    }

    fn set_open(&self, open: Option<Membership>) {
        *self.open.lock().unwrap_or_else(PoisonError::into_inner) = open;
    }

    fn open(&self) -> Option<Membership> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Gives turns until `shutdown`.
    async fn conduct(self: Arc<Self>, shutdown: Shutdown) {
        let places = Arc::new(Semaphore::new(self.settings.running_max));
        while !shutdown.is_cancelled() {
            let changed = self.broadcasts.changed.notified();
            tokio::pin!(changed);
            // What changes while it is looked is not missed.
            changed.as_mut().enable();
            let wait = self.begin_turns(&places, &shutdown);
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = timeout(wait, changed) => {}
            }
        }
    }

    /// Begins what may go on now; answers how long nothing needs to be looked at.
    fn begin_turns(self: &Arc<Self>, places: &Arc<Semaphore>, shutdown: &Shutdown) -> Duration {
        let mut wait = LOOK;
        // Before everything is read, a later wish to end one may still be unread.
        let Some(membership) = self.open().filter(|_| self.broadcasts.is_read()) else {
            return wait;
        };
        let now = clock::now();
        let ready = membership.index().ready();
        for Ready {
            id, number, since, ..
        } in ready
        {
            let Some(known) = self.broadcasts.get(&id) else {
                if now.saturating_sub(since) > self.void_after_ms() {
                    debug!(
                        broadcast.id = id,
                        "an upload came to nothing: its chunks are void"
                    );
                    membership.index().drop_void(number, &id);
                }
                continue;
            };
            let next = membership.index().next(number, &id);
            let Some(next) = next else { continue };
            match verdict(&known, &next, now) {
                Verdict::Rest => continue,
                Verdict::Wait(time) => {
                    wait = wait.min(time);
                    continue;
                }
                Verdict::Go => {}
            }
            let Ok(place) = Arc::clone(places).try_acquire_owned() else {
                break;
            };
            if membership.index().begin(number, &id) {
                let (epoch, membership) = (next.assignment.epoch, membership.clone());
                let turn = Turn::new(
                    Arc::clone(self),
                    membership,
                    shutdown.clone(),
                    (number, epoch),
                    id,
                );
                self.under_way.spawn(async move {
                    turn.run().await;
                    drop(turn);
                    drop(place);
                });
            }
        }
        wait
    }

    fn void_after_ms(&self) -> Millis {
        Millis::from(self.settings.upload_minutes_max) * 60_000 + VOID_BEYOND_UPLOAD_MS
    }
}

/// What may be done with a broadcast.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It has its turn.
    Go,
    /// Not before something is said of it, or read.
    Rest,
    /// Not before this time has passed.
    Wait(Duration),
}

/// Whether a broadcast may go on. Pure.
pub(crate) fn verdict(known: &Known, next: &Next, now: Millis) -> Verdict {
    let Some(broadcast) = known.broadcast.as_ref().filter(|_| !known.is_over()) else {
        return Verdict::Rest;
    };
    match known.wish() {
        Wish::Cancelled => return Verdict::Go,
        Wish::Paused | Wish::Stopped => return Verdict::Rest,
        Wish::Running => {}
    }
    if next.chunk.is_none() {
        return Verdict::Rest;
    }
    match turn::due_at(broadcast, next, now) {
        due if due <= now => Verdict::Go,
        due => Verdict::Wait(Duration::from_millis(u64::try_from(due - now).unwrap_or(0))),
    }
}
