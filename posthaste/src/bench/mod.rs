//! `posthaste bench`: how fast a running Posthaste is, from outside.
//!
//! The events go to the sandbox: before it begins, one for each channel must arrive there, so that nobody real gets any.

mod figures;
mod load;

use std::{sync::Arc, time::Duration};

use posthaste_event::clock;
use posthaste_verify::{Mix, load::CHANNELS};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::{
    cli::bench::{Bench, Part},
    command::{print, print_json},
    failure::Failure,
    progress::{Progress, bar, percent},
    verify::{
        target::{Reply, Target},
        witness::{Received, Witness, lock},
    },
};
use figures::{Figures, Latency, Throughput};
use load::{Load, Pace};

/// Most events of a part: what is kept of each takes some dozens of bytes, at the sandbox some hundred.
const EVENTS_MAX: u32 = 1_000_000;
/// Most requests under way at once.
const IN_FLIGHT_MAX: usize = 10_000;
/// Fastest rate.
const RATE_MAX: f64 = 100_000.0;
/// How often the line moves.
const TELL: Duration = Duration::from_millis(200);
/// How often an event's status is asked for.
const LOOK: Duration = Duration::from_millis(10);
/// Events whose status is asked for at the end: the last that were posted, from every partition, and some of all.
const LAST: u32 = 256;
const SOME: u32 = 64;

/// `posthaste bench`.
pub fn bench(options: &Bench) -> Result<(), Failure> {
    check(options)?;
    let or_intake = |url: &Option<String>| url.clone().unwrap_or_else(|| options.url.clone());
    let target = Target::of(
        options.url.clone(),
        or_intake(&options.status_url),
        or_intake(&options.sandbox),
    )?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(Failure::runtime)?;
    let figures = runtime.block_on(async {
        tokio::select! {
            figures = measure(options, &target) => figures,
            _ = tokio::signal::ctrl_c() => Err(Failure::Runtime("interrupted".to_owned())),
        }
    })?;
    if options.json {
        print_json(&figures.json())
    } else {
        print(&figures.table())
    }
}

fn check(options: &Bench) -> Result<(), Failure> {
    let refuse = |option: &str, accepted: String| {
        Err(Failure::Usage(format!(
            "{option} cannot be that; accepted: {accepted}"
        )))
    };
    if options.events == 0 || options.events > EVENTS_MAX {
        return refuse("--events", format!("1 to {EVENTS_MAX}"));
    }
    if options.in_flight == 0 || options.in_flight > IN_FLIGHT_MAX {
        return refuse("--in-flight", format!("1 to {IN_FLIGHT_MAX}"));
    }
    if !(options.rate > 0.0 && options.rate <= RATE_MAX) {
        return refuse("--rate", format!("more than 0, up to {RATE_MAX} a second"));
    }
    if options.rate * options.lasting.as_secs_f64() > f64::from(EVENTS_MAX) {
        return refuse("--for with --rate", format!("{EVENTS_MAX} events at most"));
    }
    if options.channels.iter().any(|channel| !CHANNELS.contains(channel)) {
        return refuse(
            "--channels",
            "sms, email, push, slack, webhook; in-app messages go to no provider".to_owned(),
        );
    }
    Ok(())
}

async fn measure(options: &Bench, target: &Target) -> Result<Figures, Failure> {
    let wants = |part| options.parts.is_empty() || options.parts.contains(&part);
    let mut figures = Figures::default();
    if wants(Part::Throughput) {
        let pace = Pace::AtOnce(options.in_flight);
        let through = Measurement::begin(options, target).await?;
        let (load, settled) = through.run(options.events, pace).await?;
        figures.throughput = Some(Throughput::of(&load, settled));
    }
    if wants(Part::Latency) {
        // From 1 on, and within the bound that was checked.
        let events = (options.rate * options.lasting.as_secs_f64()).ceil().max(1.0) as u32;
        let slow = Measurement::begin(options, target).await?;
        let received = slow.witness.received();
        let ahead = slow.witness.clock_ahead_ms().await?;

        let (load, _) = slow.run(events, Pace::Rate(options.rate)).await?;
        figures.latency = Some(Latency::of(&load, &lock(&received), ahead, options.rate)?);
    }
    Ok(figures)
}

/// One load, and what arrives of it.
struct Measurement<'a> {
    options: &'a Bench,
    target: &'a Target,
    mix: Mix,
    witness: Witness,
    progress: Progress,
}

impl<'a> Measurement<'a> {
    /// Makes sure that what is posted arrives at the sandbox.
    async fn begin(options: &'a Bench, target: &'a Target) -> Result<Self, Failure> {
        let mix = Mix {
            run: format!("b{}", &Uuid::new_v4().simple().to_string()[..10]),
            seed: 0,
            channels: options.channels.clone(),
            priorities: options.priorities.clone(),
            scheduled_percent: 0.0,
            expiring_percent: 0.0,
            no_duplicate_percent: 0.0,
            cancelled_percent: 0.0,
            ordered_percent: 0.0,
            ordering_keys: 0,
        };
        let witness = Witness::begin(target, &mix).await?;
        let mut probes = Vec::new();
        for channel in &mix.channels {
            let id = format!("{}-probe-{channel}", mix.run);
            let probe = Mix {
                channels: vec![*channel],
                ..mix.clone()
            };
            let mut body = probe.event(0, clock::now()).body;
            body["eventId"] = id.as_str().into();
            match target.post(&body).await {
                Reply::Answer(status, _) if status.is_success() => probes.push(mix.whole(&id)),
                Reply::Answer(status, answer) => {
                    return Err(Failure::Runtime(crate::client::problem(status, &answer)));
                }
                Reply::Unreached(error) | Reply::Silent(error) => {
                    return Err(Failure::Runtime(format!(
                        "ingestion at {} does not answer: {error}",
                        target.intake()
                    )));
                }
            }
        }
        witness.sees(&probes).await?;
        Ok(Self {
            options,
            target,
            mix,
            witness,
            progress: Progress::new(options.json),
        })
    }

    /// Posts, and waits until all is through; answers how long that took from the first post.
    async fn run(mut self, events: u32, pace: Pace) -> Result<(Load, Duration), Failure> {
        let received = self.witness.received();
        let begun = Instant::now();
        let load = Load::new(self.target, &self.mix, events)?;
        let posting = load.post(pace);
        let (witness, progress) = (&mut self.witness, &mut self.progress);
        let posted = {
            let following = witness.follow();
            tokio::pin!(posting, following);
            loop {
                let tick = tokio::select! {
                    posted = &mut posting => break posted,
                    () = &mut following => false,
                    () = sleep(TELL) => true,
                };
                if tick {
                    progress.show(&line(&load, events, &received), false)?;
                }
            }
        };
        posted?;
        progress.show(&line(&load, events, &received), true)?;
        load.all_accepted()?;
        self.settle(events).await?;
        let settled = begun.elapsed();
        self.witness.catch_up().await?;
        Ok((load, settled))
    }

    /// Waits until the status of the last events, and of some others, says that they were sent.
    async fn settle(&self, events: u32) -> Result<(), Failure> {
        let limit = Duration::from_secs(self.options.settle);
        let begun = Instant::now();
        let last = events.saturating_sub(LAST)..events;
        let step = usize::try_from((events / SOME).max(1)).unwrap_or(1);
        for index in last.chain((0..events).step_by(step)) {
            let id = self.mix.asked_id(index);
            loop {
                let asked = self.target.ask_status(&["events", &id], &[]).await;
                let status = asked
                    .as_ref()
                    .ok()
                    .and_then(|event| event["state"]["status"].as_str());
                if status == Some("SENT") {
                    break;
                }
                if begun.elapsed() > limit {
                    let standing = match (&asked, status) {
                        (_, Some(status)) => status.to_owned(),
                        (Err(error), None) => error.clone(),
                        (Ok(_), None) => "unknown".to_owned(),
                    };
                    return Err(Failure::Runtime(format!(
                        "event {id} is not SENT {} s after the last was posted: {standing}",
                        limit.as_secs()
                    )));
                }
                sleep(LOOK).await;
            }
        }
        Ok(())
    }
}

fn line(load: &Load, events: u32, received: &Arc<std::sync::Mutex<Received>>) -> String {
    let (done, events) = (load.done(), events as usize);
    let arrived = lock(received).taken;
    format!(
        "{}  answered {done}/{events}, received {arrived}",
        bar(percent(done, events))
    )
}
