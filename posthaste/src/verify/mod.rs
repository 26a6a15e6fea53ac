//! `posthaste verify`: sends events through a pipeline and finds out whether every promise was kept.

mod evidence;
mod faults;
mod post;
mod run;
mod standings;
pub mod target;
pub mod witness;

use std::{path::Path, sync::Arc, time::Duration};

use posthaste_broker::Broker;
use posthaste_verify::{Ledgers, Mix, Report, load::CHANNELS, topics};
use uuid::Uuid;

use crate::{
    cli::{Common, Place, verify::Verify},
    command::{print, print_json},
    configuration::{self, Settings},
    failure::Failure,
    run::backends,
};
use post::Pace;
use run::Run;
use target::Target;

/// Events unless something else is said.
const EVENTS_DEFAULT: u32 = 1_000;
/// How long a run with faults lasts unless something else is said.
const FAULTS_LAST: Duration = Duration::from_secs(60);
/// Most events of a run: what is kept of each to the end takes about half a kilobyte.
const EVENTS_MAX: u32 = 5_000_000;

/// `posthaste verify`.
pub fn verify(mut common: Common, options: Verify) -> Result<(), Failure> {
    check(&options)?;
    let target = Target::new(&options)?;
    // A bar moves where the log would go.
    common.log.get_or_insert_with(|| "error".to_owned());
    let place = Place {
        kafka: options.kafka.clone(),
        mongodb: options.breaking.mongodb.clone(),
        ..Place::default()
    };
    let configuration = configuration::load(&common, &place)?;
    let settings = configuration::settings(&configuration)?;
    posthaste_service::telemetry::start(&settings.service).map_err(|error| configuration.refuse(&error))?;
    let mix = mix(&options);
    let plan = if options.breaking.faults {
        Some(faults::Plan::new(&options, &settings, &mix)?)
    } else {
        None
    };
    if let (true, Some(plan)) = (options.breaking.plan, &plan) {
        return plan.show(&mix);
    }
    let planned = plan.as_ref().map(|plan| plan.planned.clone()).unwrap_or_default();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(Failure::runtime)?;
    let (report, surprises) = runtime.block_on(async {
        match plan {
            Some(plan) => faults::verify(&common, &options, settings, &mix, plan).await,
            None => {
                let report = attached(&options, settings, target, &mix).await?;
                Ok((report, Vec::new()))
            }
        }
    })?;
    let file = evidence::write(&report, &planned, &options, &mix)?;
    conclude(&report, &surprises, &file, &options, &mix)
}

/// How many events, and how fast.
fn pace(options: &Verify) -> Pace {
    let load = &options.load;
    let lasting = load
        .lasting
        .or_else(|| (options.breaking.faults && load.events.is_none()).then_some(FAULTS_LAST));
    let events = match lasting {
        // From 1 on, and cut at the largest number there is; more than enough is refused.
        Some(lasting) => (lasting.as_secs_f64() * load.rate).ceil().max(1.0) as u32,
        None => load.events.unwrap_or(EVENTS_DEFAULT),
    };
    Pace {
        events,
        rate: load.rate,
        in_flight: load.in_flight,
    }
}

fn check(options: &Verify) -> Result<(), Failure> {
    let load = &options.load;
    let refuse = |option: &str, accepted: &str| {
        Err(Failure::Usage(format!(
            "{option} cannot be that; accepted: {accepted}"
        )))
    };
    if !(load.rate > 0.0 && load.rate <= 1e6) {
        return refuse("--rate", "more than 0, up to 1000000 a second");
    }
    let events = pace(options).events;
    if events == 0 || events > EVENTS_MAX {
        return refuse(
            "--events, or --for with --rate,",
            &format!("1 to {EVENTS_MAX} events"),
        );
    }
    if load.in_flight == 0 || load.in_flight > 10_000 {
        return refuse("--in-flight", "1 to 10000");
    }
    for (option, percent) in [
        ("--failing", load.failing),
        ("--unanswered", load.unanswered),
        ("--scheduled", load.scheduled),
        ("--expiring", load.expiring),
        ("--no-duplicate", load.no_duplicate),
        ("--cancelled", load.cancelled),
        ("--ordered", load.ordered),
    ] {
        if !(0.0..=100.0).contains(&percent) {
            return refuse(option, "0 to 100 (in a hundred)");
        }
    }
    if load.failing + load.unanswered > 100.0 {
        return refuse("--failing with --unanswered", "100 together at most");
    }
    if load.channels.iter().any(|channel| !CHANNELS.contains(channel)) {
        return refuse(
            "--channels",
            "sms, email, push, slack, webhook; in-app messages go to no provider, so nobody can witness them",
        );
    }
    if load.ordering_keys == 0 || load.ordering_keys > EVENTS_MAX {
        return refuse("--ordering-keys", &format!("1 to {EVENTS_MAX}"));
    }
    Ok(())
}

fn mix(options: &Verify) -> Mix {
    let load = &options.load;
    let random = Uuid::new_v4();
    Mix {
        run: format!("v{}", &random.simple().to_string()[..10]),
        seed: load.seed.unwrap_or_else(|| random.as_u64_pair().1 % 1_000_000),
        channels: load.channels.clone(),
        priorities: load.priorities.clone(),
        scheduled_percent: load.scheduled,
        expiring_percent: load.expiring,
        no_duplicate_percent: load.no_duplicate,
        cancelled_percent: load.cancelled,
        ordered_percent: load.ordered,
        ordering_keys: load.ordering_keys,
    }
}

/// Verifies a pipeline that runs already.
async fn attached(
    options: &Verify,
    mut settings: Settings,
    target: Target,
    mix: &Mix,
) -> Result<Report, Failure> {
    settings.service.instance = format!("verify-{}", mix.run);
    let broker = if backends::has_kafka(&settings) {
        Some(backends::broker_now(&settings).await?)
    } else {
        None
    };
    let mut run = Run::new(options, mix, target);
    let outcome = tokio::select! {
        outcome = attached_to(&mut run, broker.as_ref()) => outcome,
        _ = tokio::signal::ctrl_c() => Err(Failure::Runtime("interrupted: nothing was compared".to_owned())),
    };
    run.clean_up().await;
    if let Some(broker) = broker {
        broker.close(1_000).await;
    }
    let ledgers = outcome?;
    Ok(run.reconcile(&ledgers))
}

async fn attached_to(run: &mut Run<'_>, broker: Option<&Arc<dyn Broker>>) -> Result<Ledgers, Failure> {
    let ends = match broker {
        Some(broker) => Some(topics::ends(broker.as_ref()).await.map_err(Failure::runtime)?),
        None => None,
    };
    run.begin().await?;
    let mut ledgers = run.drive(async || Vec::new()).await?;
    match (broker, ends) {
        (Some(broker), Some(ends)) => ledgers.topics = Some(run.read_topics(broker, &ends).await?),
        _ => run.read_histories(&mut ledgers).await?,
    }
    Ok(ledgers)
}

fn conclude(
    report: &Report,
    surprises: &[String],
    file: &Path,
    options: &Verify,
    mix: &Mix,
) -> Result<(), Failure> {
    let broken = report.broken().count();
    if options.json {
        let mut json = report.json();
        json["run"] = mix.run.as_str().into();
        json["seed"] = mix.seed.into();
        json["evidence"] = file.display().to_string().into();
        json["surprises"] = surprises.into();
        print_json(&json)?;
    } else {
        print(&report.table())?;
    }
    for surprise in surprises {
        eprintln!("{surprise}");
    }
    let place = file.display();
    if broken > 0 {
        return Err(Failure::Broken(format!(
            "{broken} findings break a promise (seed {}); {place} has the events",
            mix.seed
        )));
    }
    if report.sends_are_partial {
        return Err(Failure::Runtime(
            "the sandbox forgot a part of what it received, so nobody can tell what was sent; it must not be restarted during a run"
                .to_owned(),
        ));
    }
    if let Some(surprise) = surprises.first() {
        return Err(Failure::Runtime(format!(
            "promises were kept, but not everything went as it should (seed {}): {surprise}",
            mix.seed
        )));
    }
    if !options.json {
        print(&format!("every promise was kept; {place} has what was seen\n"))?;
    }
    Ok(())
}
