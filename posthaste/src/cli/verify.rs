//! The options of `posthaste verify`.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use jiff::SignedDuration;
use posthaste_event::{Channel, Priority};

use super::{channel, priority};

/// What `--help` tells behind the options.
pub const EXIT_CODES: &str = "\
Exit codes:
  0    every promise was kept
  1    it could not be found out: something does not answer, or the sandbox forgot what it received
  2    wrong use or configuration: nothing was sent
  3    a promise was broken; the evidence file has the events";

#[derive(Debug, Args)]
pub struct Verify {
    /// Where ingestion is
    #[arg(
        long,
        value_name = "URL",
        default_value = "http://127.0.0.1:3000",
        env = "POSTHASTE_URL"
    )]
    pub url: String,
    /// Where the status service is, unless at --url
    #[arg(long, value_name = "URL", env = "POSTHASTE_STATUS_URL")]
    pub status_url: Option<String>,
    /// Where the sandbox is, unless at --url
    #[arg(long, value_name = "URL", env = "POSTHASTE_SANDBOX_URL")]
    pub sandbox: Option<String>,
    /// Kafka brokers, separated by commas: the topics are compared too. Without them, as the configuration says
    #[arg(long, value_name = "HOST:PORT")]
    pub kafka: Option<String>,
    /// How long events may take to come to an end after the last one was posted
    #[arg(long, value_name = "SECONDS", default_value_t = 180)]
    pub settle: u64,
    /// How far the clocks of sandbox and services may be apart
    #[arg(long, value_name = "MS", default_value_t = 50)]
    pub clock_ms: u64,
    /// Somebody else breaks things meanwhile: a send that was not recorded yet may be repeated with the same key at any time
    #[arg(long)]
    pub expect_faults: bool,
    /// And lets processes or connections stand still, as with SIGSTOP: what was under way may also arrive after the end
    #[arg(long, requires = "expect_faults")]
    pub expect_hangs: bool,
    /// Where to write what was found, a line of JSON each; default posthaste-verify-RUN.jsonl
    #[arg(long, value_name = "FILE")]
    pub evidence: Option<PathBuf>,
    /// Answers as JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub load: Load,
    #[command(flatten)]
    pub breaking: Breaking,
}

/// The events that are sent.
#[derive(Debug, Args)]
#[command(next_help_heading = "Events")]
pub struct Load {
    /// So many; 1000 without --for
    #[arg(short = 'n', long, value_name = "EVENTS")]
    pub events: Option<u32>,
    /// As many as that time takes at the rate, such as 60s or 10m; with --faults 60s unless said
    #[arg(long = "for", value_name = "TIME", value_parser = lasting, conflicts_with = "events")]
    pub lasting: Option<Duration>,
    /// So many a second, whatever the answers take
    #[arg(long, value_name = "EVENTS", default_value_t = 100.0)]
    pub rate: f64,
    /// Requests under way at once, at most; then posting falls behind the rate
    #[arg(long, value_name = "REQUESTS", default_value_t = 256)]
    pub in_flight: usize,
    /// Their channels: sms, email, push, slack, webhook
    #[arg(long, value_name = "CHANNELS", value_delimiter = ',', value_parser = channel, default_value = "sms,email,push,slack,webhook")]
    pub channels: Vec<Channel>,
    /// Their priorities; one that is named twice is twice as frequent
    #[arg(long, value_name = "PRIORITIES", value_delimiter = ',', value_parser = priority, default_value = "critical,high,default,low")]
    pub priorities: Vec<Priority>,
    /// So many calls in a hundred are refused by the sandbox: retries, failovers and dead letters happen
    #[arg(long, value_name = "PERCENT", default_value_t = 0.0)]
    pub failing: f64,
    /// So many messages in a hundred are taken by the sandbox without an answer: sends come into doubt
    #[arg(long, value_name = "PERCENT", default_value_t = 0.0)]
    pub unanswered: f64,
    /// So many events in a hundred are scheduled for some seconds later
    #[arg(long, value_name = "PERCENT", default_value_t = 0.0)]
    pub scheduled: f64,
    /// So many events in a hundred expire within some seconds
    #[arg(long, value_name = "PERCENT", default_value_t = 0.0)]
    pub expiring: f64,
    /// So many events in a hundred ask for the policy no-duplicate: nothing excuses a repeat of theirs
    #[arg(long, value_name = "PERCENT", default_value_t = 0.0)]
    pub no_duplicate: f64,
    /// So many events in a hundred are asked to be cancelled within some seconds: what is cancelled must not go out afterwards
    #[arg(long, value_name = "PERCENT", default_value_t = 5.0)]
    pub cancelled: f64,
    /// So many events in a hundred have an ordering key: they must go out one after the other, as they were accepted
    #[arg(long, value_name = "PERCENT", default_value_t = 10.0)]
    pub ordered: f64,
    /// Those share so many ordering keys
    #[arg(long, value_name = "KEYS", default_value_t = 20)]
    pub ordering_keys: u32,
    /// Where chance begins: the same seed makes the same events; without one, another each time
    #[arg(long, value_name = "NUMBER")]
    pub seed: Option<u64>,
}

/// What is broken meanwhile.
#[derive(Debug, Args)]
#[command(next_help_heading = "Faults")]
pub struct Breaking {
    /// Starts a Posthaste of its own, and breaks it while events are sent: kills, stops and hangs its processes, cuts and
    /// delays their connections; the same --seed breaks the same at the same times
    ///
    /// Without --kafka it is one process on files; with --kafka and --mongodb a process for each service, on topics and a
    /// database of the run's own, which stay. The connections to the sandbox and to MongoDB go through a proxy of the command
    /// (to MongoDB not with several hosts, a replica set in the address, or TLS). Processes that it did not start are
    /// never touched.
    #[arg(long)]
    pub faults: bool,
    /// One fault so often, on average
    #[arg(long, value_name = "TIME", value_parser = lasting, default_value = "4s", requires = "faults")]
    pub every: Duration,
    /// Only says what would be broken, and when
    #[arg(long, requires = "faults")]
    pub plan: bool,
    /// MongoDB for the status, with --kafka
    #[arg(long, value_name = "URL", requires = "faults")]
    pub mongodb: Option<String>,
    /// Stops the broker, such as 'docker stop kafka'
    #[arg(long, value_name = "COMMAND", requires_all = ["faults", "kafka", "broker_start"])]
    pub broker_stop: Option<String>,
    /// Starts it again
    #[arg(long, value_name = "COMMAND", requires = "broker_stop")]
    pub broker_start: Option<String>,
    /// Stops the store
    #[arg(long, value_name = "COMMAND", requires_all = ["faults", "mongodb", "store_start"])]
    pub store_stop: Option<String>,
    /// Starts it again
    #[arg(long, value_name = "COMMAND", requires = "store_stop")]
    pub store_start: Option<String>,
    /// Where Kafka really listens: the command then listens at the address of --kafka itself and passes on, cuts and delays
    ///
    /// A Kafka client goes where the broker says that it is. So this works only with a single broker whose advertised.listeners
    /// names the address of --kafka.
    #[arg(long, value_name = "HOST:PORT", requires_all = ["faults", "kafka"])]
    pub kafka_behind: Option<String>,
    /// Folder for the files and logs of what is started; without it a temporary one, kept if a promise was broken
    #[arg(long, value_name = "FOLDER", requires = "faults")]
    pub data_dir: Option<PathBuf>,
}

pub(super) fn lasting(text: &str) -> Result<Duration, String> {
    let accepted =
        || format!("{text:?} is no such time; accepted: such as 60s, 10m or 1h30m, more than nothing");
    let lasting: SignedDuration = text.parse().map_err(|_| accepted())?;
    Duration::try_from(lasting)
        .ok()
        .filter(|lasting| !lasting.is_zero())
        .ok_or_else(accepted)
}
