//! One run: begin, post, settle, and gather the ledgers.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use posthaste_broker::{Broker, Partition};
use posthaste_event::clock;
use posthaste_verify::{
    Answer, Fault, Ledgers, Leniency, Mix, Posted, Report, Standing,
    ledger::is_final,
    reconcile,
    topics::{self, Topics},
};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::{
    pace,
    post::{Tally, post_all},
    standings,
    target::{Reply, Target},
    witness::{Failing, Received, Witness, lock},
};
use crate::{
    cli::verify::Verify,
    failure::Failure,
    progress::{Progress, bar, percent},
};

/// How often the line moves.
const TELL: Duration = Duration::from_millis(250);
/// The status is asked for no more often than this, and takes no more than a tenth of the time.
const LOOK: Duration = Duration::from_millis(500);
/// How long to wait, after everything is at its end, for what should not come.
const LINGER: Duration = Duration::from_secs(2);
/// How long the topics may take to be read.
const TOPICS_LIMIT: Duration = Duration::from_secs(300);

/// A run of events.
pub struct Run<'a> {
    options: &'a Verify,
    mix: &'a Mix,
    target: Target,
    failing: Failing,
    witness: Option<Witness>,
    clock_ahead_ms: i64,
    progress: Progress,
    /// What is broken at the moment, in words.
    broken: Option<Arc<Mutex<String>>>,
}

impl<'a> Run<'a> {
    pub fn new(options: &'a Verify, mix: &'a Mix, target: Target) -> Self {
        Self {
            options,
            mix,
            target,
            failing: Failing {
                refused: options.load.failing,
                unanswered: options.load.unanswered,
            },
            witness: None,
            clock_ahead_ms: 0,
            progress: Progress::new(options.json),
            broken: None,
        }
    }

    /// Shows what this says while events are posted.
    pub fn watch(&mut self, broken: &Arc<Mutex<String>>) {
        self.broken = Some(Arc::clone(broken));
    }

    /// Makes sure that what is posted arrives at the sandbox, and tells it how to fail.
    pub async fn begin(&mut self) -> Result<(), Failure> {
        let witness = Witness::begin(&self.target, self.mix).await?;
        self.clock_ahead_ms = witness.clock_ahead_ms().await?;
        let mut probes = Vec::new();
        for channel in &self.mix.channels {
            let id = format!("{}-probe-{channel}", self.mix.run);
            if probes.contains(&self.mix.whole(&id)) {
                continue;
            }
            let probe = Mix {
                channels: vec![*channel],
                scheduled_percent: 0.0,
                expiring_percent: 0.0,
                no_duplicate_percent: 0.0,
                cancelled_percent: 0.0,
                ordered_percent: 0.0,
                ..self.mix.clone()
            };
            let mut body = probe.event(0, clock::now()).body;
            body["eventId"] = id.as_str().into();
            match self.target.post(&body).await {
                Reply::Answer(status, _) if status.is_success() => probes.push(self.mix.whole(&id)),
                Reply::Answer(status, answer) => {
                    return Err(Failure::Runtime(crate::client::problem(status, &answer)));
                }
                Reply::Unreached(error) | Reply::Silent(error) => {
                    return Err(Failure::Runtime(format!(
                        "ingestion at {} does not answer: {error}",
                        self.target.intake()
                    )));
                }
            }
        }
        witness.sees(&probes).await?;
        self.failing.begin(&self.target, self.mix).await?;
        self.witness = Some(witness);
        Ok(())
    }

    /// Posts everything while `meanwhile` does what it does, and waits until all is at its end.
    pub async fn drive(&mut self, meanwhile: impl AsyncFnOnce() -> Vec<Fault>) -> Result<Ledgers, Failure> {
        let Some(mut witness) = self.witness.take() else {
            return Err(Failure::Runtime("the run has not begun".to_owned()));
        };
        let received = witness.received();
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let reading = tokio::spawn(async move {
            tokio::select! {
                () = witness.follow() => {}
                () = stopped.cancelled() => {}
            }
            witness
        });
        let driven = self.post_and_settle(&received, meanwhile).await;
        stop.cancel();
        let mut witness = reading.await.map_err(Failure::runtime)?;
        let (posted, faults) = driven?;
        witness.catch_up().await?;
        let standings = standings::all(&self.target, self.mix)
            .await
            .map_err(|error| self.no_status(&error))?;
        let received = std::mem::take(&mut *lock(&received));
        Ok(Ledgers {
            posted,
            sends: received.sends,
            sends_are_partial: received.is_partial,
            standings,
            histories: HashMap::new(),
            topics: None,
            faults,
        })
    }

    async fn post_and_settle(
        &mut self,
        received: &Mutex<Received>,
        meanwhile: impl AsyncFnOnce() -> Vec<Fault>,
    ) -> Result<(HashMap<u32, Posted>, Vec<Fault>), Failure> {
        let pace = pace(self.options);
        let tally = Arc::new(Tally::default());
        let target = self.target.clone();
        let work = async { tokio::join!(post_all(&target, self.mix, pace, &tally), meanwhile()) };
        tokio::pin!(work);
        let (posted, faults) = loop {
            tokio::select! {
                done = &mut work => break done,
                () = sleep(TELL) => {
                    let mut line = posting(&tally, pace.events, received);
                    if let Some(broken) = &self.broken {
                        line = format!("{line}  {}", lock(broken));
                    }
                    self.progress.show(&line, false)?;
                }
            }
        };
        self.progress
            .show(&posting(&tally, pace.events, received), true)?;
        if tally.accepted.load(Ordering::Relaxed) == 0 {
            let refusal = tally.refusal().unwrap_or_else(|| "no answer".to_owned());
            return Err(Failure::Runtime(format!("no event was accepted: {refusal}")));
        }
        self.settle(&posted, received).await?;
        Ok((posted, faults))
    }

    /// Waits until every event that is known to be there is at its end, or the time is over; then what comes late shows.
    async fn settle(
        &mut self,
        posted: &HashMap<u32, Posted>,
        received: &Mutex<Received>,
    ) -> Result<(), Failure> {
        let begun = Instant::now();
        let limit = Duration::from_secs(self.options.settle);
        let accepted = posted
            .values()
            .filter(|posted| posted.answer == Answer::Accepted)
            .count();
        loop {
            let asked = Instant::now();
            let outcome = standings::all(&self.target, self.mix).await;
            let is_over = begun.elapsed() >= limit;
            match outcome {
                Ok(standings) => {
                    let left = unfinished(posted, &standings);
                    let ended = accepted.saturating_sub(left);
                    let is_done = left == 0 || is_over;
                    let taken = lock(received).taken;
                    let line = format!(
                        "{}  ended {ended}/{accepted}, received {taken}",
                        bar(percent(ended, accepted))
                    );
                    self.progress.show(&line, is_done)?;
                    if is_done {
                        break;
                    }
                }
                // Restarting, perhaps; the time limit holds.
                Err(error) if is_over => return Err(self.no_status(&error)),
                Err(_) => {}
            }
            sleep(LOOK.max(asked.elapsed() * 10)).await;
        }
        sleep(LINGER).await;
        Ok(())
    }

    /// The steps of the events that waited or failed, where the topics cannot tell.
    pub async fn read_histories(&mut self, ledgers: &mut Ledgers) -> Result<(), Failure> {
        let (done, all) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let (posted, standings) = (&ledgers.posted, &ledgers.standings);
        let reading = standings::histories(&self.target, self.mix, posted, standings, |read, count| {
            done.store(read, Ordering::Relaxed);
            all.store(count, Ordering::Relaxed);
        });
        tokio::pin!(reading);
        let line = || {
            let (done, all) = (done.load(Ordering::Relaxed), all.load(Ordering::Relaxed));
            format!("{}  timelines {done}/{all}", bar(percent(done, all)))
        };
        let histories = loop {
            tokio::select! {
                read = &mut reading => break read,
                () = sleep(TELL) => self.progress.show(&line(), false)?,
            }
        };
        let histories = histories.map_err(|error| self.no_status(&error))?;
        self.progress.show(&line(), true)?;
        ledgers.histories = histories;
        Ok(())
    }

    /// The topics, from where they ended before the run.
    pub async fn read_topics(
        &mut self,
        broker: &Arc<dyn Broker>,
        from: &[(Partition, i64)],
    ) -> Result<Topics, Failure> {
        let read = AtomicU64::new(0);
        let reading = topics::read(broker, from, self.mix, TOPICS_LIMIT, |records| {
            read.store(records, Ordering::Relaxed);
        });
        tokio::pin!(reading);
        let line = || format!("read {} records of the topics", read.load(Ordering::Relaxed));
        let topics = loop {
            tokio::select! {
                topics = &mut reading => break topics,
                () = sleep(TELL) => self.progress.show(&line(), false)?,
            }
        };
        self.progress.show(&line(), true)?;
        topics.map_err(|error| Failure::Runtime(format!("the topics cannot be read: {error}")))
    }

    /// Leaves the sandbox as it was.
    pub async fn clean_up(&self) {
        if let Err(failure) = self.failing.end(&self.target, self.mix).await {
            eprintln!("the sandbox keeps the rules of this run: {failure}");
        }
    }

    /// Compares the ledgers.
    pub fn reconcile(&self, ledgers: &Ledgers) -> Report {
        let leniency = Leniency {
            clock_ms: self
                .options
                .clock_ms
                .cast_signed()
                .saturating_add(self.clock_ahead_ms.saturating_abs()),
            faults_from_outside: self.options.expect_faults,
            hangs_from_outside: self.options.expect_hangs,
        };
        reconcile(ledgers, self.mix, &leniency)
    }

    fn no_status(&self, error: &str) -> Failure {
        Failure::Runtime(format!(
            "the status service at {} does not tell: {error}",
            self.target.status()
        ))
    }
}

fn posting(tally: &Tally, events: u32, received: &Mutex<Received>) -> String {
    let count = |count: &AtomicUsize| count.load(Ordering::Relaxed);
    let (posted, events) = (tally.posted(), events as usize);
    let mut line = format!(
        "{}  posted {posted}/{events}, accepted {}",
        bar(percent(posted, events)),
        count(&tally.accepted)
    );
    for (count, what) in [
        (count(&tally.refused), "refused"),
        (count(&tally.unknown), "without a clear answer"),
    ] {
        if count > 0 {
            line.push_str(&format!(", {count} {what}"));
        }
    }
    line.push_str(&format!(", received {}", lock(received).taken));
    line
}

/// Events that are there and at no end.
fn unfinished(posted: &HashMap<u32, Posted>, standings: &HashMap<u32, Standing>) -> usize {
    let is_unfinished = |index: &u32, posted: &Posted| match standings.get(index) {
        Some(standing) => !is_final(standing.status),
        None => posted.answer == Answer::Accepted,
    };
    posted
        .iter()
        .filter(|(index, posted)| is_unfinished(index, posted))
        .count()
}
