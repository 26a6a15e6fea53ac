//! Posts events, as fast as they are answered or at a rate, and keeps how long the answers took.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use posthaste_event::{Millis, clock};
use posthaste_verify::Mix;
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
};

use crate::{
    client::problem,
    failure::Failure,
    verify::target::{Reply, Target},
};

/// Longest latency that is told apart, in microseconds: ten minutes.
const LATENCY_MAX_US: u64 = 600_000_000;
/// Requests under way at once at a rate. Beyond it they go out late, and that counts as latency.
const UNDER_WAY_MAX: usize = 4_096;

/// How fast to post.
#[derive(Debug, Clone, Copy)]
pub enum Pace {
    /// So many under way all the time.
    AtOnce(usize),
    /// So many a second, whatever the answers take.
    Rate(f64),
}

/// A load of events.
#[derive(Debug)]
pub struct Load {
    target: Target,
    mix: Arc<Mix>,
    events: u32,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    next: AtomicU32,
    done: AtomicUsize,
    kept: Mutex<Kept>,
}

#[derive(Debug)]
struct Kept {
    answers: Histogram<u64>,
    failed: usize,
    first_failure: Option<String>,
    begun: Option<(Instant, Millis)>,
    elapsed: Duration,
}

/// An empty histogram of microseconds, to three digits.
pub fn histogram() -> Result<Histogram<u64>, Failure> {
    Histogram::new_with_bounds(1, LATENCY_MAX_US, 3).map_err(Failure::runtime)
}

impl Load {
    /// Of so many events.
    pub fn new(target: &Target, mix: &Mix, events: u32) -> Result<Self, Failure> {
        let kept = Kept {
            answers: histogram()?,
            failed: 0,
            first_failure: None,
            begun: None,
            elapsed: Duration::ZERO,
        };
        Ok(Self {
            target: target.clone(),
            mix: Arc::new(mix.clone()),
            events,
            state: Arc::new(State {
                next: AtomicU32::new(0),
                done: AtomicUsize::new(0),
                kept: Mutex::new(kept),
            }),
        })
    }

    /// Events that were answered.
    pub fn done(&self) -> usize {
        self.state.done.load(Ordering::Relaxed)
    }

    /// How long the answers took, in microseconds.
    pub fn answers(&self) -> Histogram<u64> {
        self.kept(|kept| kept.answers.clone())
    }

    /// From the first request to the last answer.
    pub fn elapsed(&self) -> Duration {
        self.kept(|kept| kept.elapsed)
    }

    /// How many events.
    pub const fn events(&self) -> u32 {
        self.events
    }

    /// When an event should have been posted at this rate, by the clock.
    pub fn due(&self, index: u32, rate: f64) -> Millis {
        let begun = self.kept(|kept| kept.begun).map_or(0, |(_, at)| at);
        begun + (f64::from(index) / rate * 1_000.0) as Millis
    }

    /// Whether all were taken.
    pub fn all_accepted(&self) -> Result<(), Failure> {
        self.kept(|kept| match &kept.first_failure {
            None => Ok(()),
            Some(said) => Err(Failure::Runtime(format!(
                "{} of {} events were not accepted; the first: {said}",
                kept.failed, self.events
            ))),
        })
    }

    /// Posts all of them.
    pub async fn post(&self, pace: Pace) -> Result<(), Failure> {
        let begun = Instant::now();
        self.kept(|kept| kept.begun = Some((begun, clock::now())));
        match pace {
            Pace::AtOnce(count) => self.at_once(count).await?,
            Pace::Rate(rate) => self.at_rate(rate, begun).await?,
        }
        self.kept(|kept| kept.elapsed = begun.elapsed());
        Ok(())
    }

    async fn at_once(&self, count: usize) -> Result<(), Failure> {
        let mut workers = JoinSet::new();
        for _ in 0..count {
            let worker = self.worker();
            let events = self.events;
            workers.spawn(async move {
                loop {
                    let index = worker.state.next.fetch_add(1, Ordering::Relaxed);
                    if index >= events {
                        return;
                    }
                    worker.post(index, Instant::now()).await;
                }
            });
        }
        while let Some(done) = workers.join_next().await {
            done.map_err(Failure::runtime)?;
        }
        Ok(())
    }

    /// A thread says when: the runtime's timers count in whole milliseconds.
    async fn at_rate(&self, rate: f64, begun: Instant) -> Result<(), Failure> {
        let (say, mut said) = mpsc::channel(UNDER_WAY_MAX);
        let events = self.events;
        let pacer = thread::spawn(move || {
            for index in 0..events {
                let due = begun + Duration::from_secs_f64(f64::from(index) / rate);
                thread::sleep(due.saturating_duration_since(Instant::now()));
                if say.blocking_send((index, due)).is_err() {
                    return;
                }
            }
        });
        let places = Arc::new(Semaphore::new(UNDER_WAY_MAX));
        let mut under_way = JoinSet::new();
        while let Some((index, due)) = said.recv().await {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else {
                break;
            };
            while let Some(done) = under_way.try_join_next() {
                done.map_err(Failure::runtime)?;
            }
            let worker = self.worker();
            under_way.spawn(async move {
                worker.post(index, due).await;
                drop(place);
            });
        }
        while let Some(done) = under_way.join_next().await {
            done.map_err(Failure::runtime)?;
        }
        let ended = || Failure::Runtime("the thread that paces the load ended early".to_owned());
        pacer.join().map_err(|_| ended())
    }

    fn worker(&self) -> Worker {
        Worker {
            target: self.target.clone(),
            mix: Arc::clone(&self.mix),
            state: Arc::clone(&self.state),
        }
    }

    fn kept<T>(&self, look: impl FnOnce(&mut Kept) -> T) -> T {
        look(&mut self.state.kept.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

struct Worker {
    target: Target,
    mix: Arc<Mix>,
    state: Arc<State>,
}

impl Worker {
    /// Posts one; its latency counts from when it was due.
    async fn post(&self, index: u32, due: Instant) {
        let event = self.mix.event(index, 0);
        let reply = self.target.post(&event.body).await;
        let took = u64::try_from(due.elapsed().as_micros())
            .unwrap_or(u64::MAX)
            .max(1);
        let failure = match reply {
            Reply::Answer(status, _) if status.is_success() => None,
            Reply::Answer(status, answer) => Some(problem(status, &answer)),
            Reply::Unreached(error) | Reply::Silent(error) => Some(error),
        };
        self.state.done.fetch_add(1, Ordering::Relaxed);
        let mut kept = self.state.kept.lock().unwrap_or_else(PoisonError::into_inner);
        match failure {
            None => kept.answers.saturating_record(took),
            Some(said) => {
                kept.failed += 1;
                kept.first_failure.get_or_insert(said);
            }
        }
    }
}
