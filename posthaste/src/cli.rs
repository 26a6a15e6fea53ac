//! What can be said on the command line.

pub mod api_keys;
pub mod bench;
pub mod dlq;
pub mod keys;
pub mod status;
pub mod tail;
pub mod up;
pub mod verify;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use posthaste_dispatcher::LaneName;
use posthaste_event::{Channel, ErrorKind, FieldError, Priority, delivery::Policy};
pub use tail::Tail;
pub use up::{Up, Without};

const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    it could not be done, or something is not well; standard error (for services the log) says what
  2    wrong use or configuration: nothing was started
  3    `verify` found a promise broken
  130  a service was told to stop twice and ended at once";

/// Takes events over HTTP and gets each one out through a provider: SMS, email, push, chat, webhook, in-app.
///
/// Without a command it runs `up`: every service in this process, on files in ./data, at http://127.0.0.1:3000.
#[derive(Debug, Parser)]
#[command(name = "posthaste", version, max_term_width = 100, after_help = EXIT_CODES)]
pub struct Cli {
    #[command(flatten)]
    pub common: Common,
    #[command(flatten)]
    pub place: Place,
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// Options of every command.
#[derive(Debug, Default, Args)]
pub struct Common {
    /// Configuration file (TOML); `posthaste config default` prints one with every key explained
    #[arg(
        long,
        global = true,
        help_heading = "Options of every command",
        value_name = "FILE",
        env = "POSTHASTE_CONFIG"
    )]
    pub config: Option<PathBuf>,
    /// Sets one key of the configuration, such as broker.prefix=test (repeatable)
    #[arg(
        long,
        global = true,
        help_heading = "Options of every command",
        value_name = "KEY=VALUE"
    )]
    pub set: Vec<String>,
    /// What is logged: error, warn, info, debug, trace, or by part: info,posthaste_dispatcher=debug
    #[arg(
        long,
        global = true,
        help_heading = "Options of every command",
        value_name = "LEVEL"
    )]
    pub log: Option<String>,
    /// How log lines look: human or json
    #[arg(
        long,
        global = true,
        help_heading = "Options of every command",
        value_name = "FORMAT"
    )]
    pub log_format: Option<String>,
    /// What a running Posthaste is asked with: an API key or a token
    #[arg(
        long,
        global = true,
        help_heading = "Options of every command",
        value_name = "TOKEN",
        env = "POSTHASTE_TOKEN",
        hide_env_values = true
    )]
    pub token: Option<String>,
}

/// Where a service is, and what it works with.
#[derive(Debug, Default, Args)]
pub struct Place {
    /// Address and port to serve HTTP on; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Option<String>,
    /// Listens where others can reach it although nobody is asked for credentials: something before it must keep others out
    #[arg(long, num_args = 0, default_missing_value = "true")]
    pub insecure_no_auth: Option<String>,
    /// Folder for files
    #[arg(long, value_name = "FOLDER")]
    pub data_dir: Option<String>,
    /// Kafka brokers, separated by commas; without them the log is a file
    #[arg(long, value_name = "HOST:PORT")]
    pub kafka: Option<String>,
    /// MongoDB for the status; without it that is a file
    #[arg(long, value_name = "URL")]
    pub mongodb: Option<String>,
}

impl Place {
    /// Option, key of the configuration, and value of all that are given.
    pub fn given(&self) -> impl Iterator<Item = (&'static str, &'static str, &String)> {
        [
            ("--listen", "service.listen", &self.listen),
            (
                "--insecure-no-auth",
                "service.auth.insecure_no_auth",
                &self.insecure_no_auth,
            ),
            ("--data-dir", "service.data_dir", &self.data_dir),
            ("--kafka", "broker.kafka.bootstrap_servers", &self.kafka),
            ("--mongodb", "store.mongodb.url", &self.mongodb),
        ]
        .into_iter()
        .filter_map(|(option, key, value)| Some((option, key, value.as_ref()?)))
    }

    pub fn first_given(&self) -> Option<&'static str> {
        self.given().next().map(|(option, ..)| option)
    }
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Runs every service in this process (the default)
    Up(Up),
    /// Runs the HTTP intake alone (port 3000)
    Ingestion(Place),
    /// Runs dispatchers alone (port 3001 critical, 3003 default, 3004 retry)
    Dispatcher {
        /// Which lane: critical, default or retry (repeatable)
        #[arg(long, required = true, value_name = "LANE", value_delimiter = ',', value_parser = lane)]
        lane: Vec<LaneName>,
        #[command(flatten)]
        place: Place,
    },
    /// Runs the retry service alone: verdicts and the delay wheel (port 3006)
    Retry(Place),
    /// Runs the replay service alone (port 3005)
    Replay(Place),
    /// Runs the status service alone: the projector and the API that looks events up (port 3007). With `rebuild`, asks a
    /// running one to put its documents right
    #[command(args_conflicts_with_subcommands = true)]
    Status {
        #[command(flatten)]
        place: Place,
        #[command(subcommand)]
        command: Option<status::Status>,
    },
    /// Runs the sandbox alone: it stands in for the providers and sends nothing to anybody (port 3010)
    Sandbox(Place),
    /// Asks a running service whether it is ready: exit code 0 if so, else 1 and what is missing
    Health {
        /// Where it is; without it, where the configuration says that a service listens here
        #[arg(long)]
        url: Option<String>,
    },
    /// Prints the description of the HTTP interface (OpenAPI 3.1), as the services have it at /openapi.json
    Openapi,
    /// Makes or checks the topics
    #[command(subcommand)]
    Topics(Topics),
    /// Checks or explains the retry rules
    #[command(subcommand)]
    Rules(Rules),
    /// Shows or checks the configuration
    #[command(subcommand)]
    Config(Config),
    /// Makes API keys
    #[command(subcommand)]
    ApiKeys(api_keys::ApiKeys),
    /// Makes, rotates or checks the keys that payloads are encrypted with
    #[command(subcommand)]
    Keys(keys::Keys),
    /// Sends an event to a running Posthaste
    Send(Box<Send>),
    /// Looks up what became of events
    #[command(subcommand)]
    Events(Events),
    /// Looks at dead letters and replays them
    #[command(subcommand)]
    Dlq(dlq::Dlq),
    /// Looks at everything that Posthaste needs (configuration, rules, folder, clock, Kafka, MongoDB, topics, groups) and says
    /// what is wrong and how to mend it; changes nothing
    #[command(
        after_help = "Exit codes: 0 nothing is wrong (there may be warnings), 1 something is, 2 wrong use or configuration"
    )]
    Doctor {
        /// A running service to ask; without it, where the configuration says that one listens here
        #[arg(long)]
        url: Option<String>,
        /// Answers as JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        place: Place,
    },
    /// Sends events through a running Posthaste, and compares what was accepted, sent and recorded: was every promise kept?
    ///
    /// They go to the sandbox: before it begins, one event for each channel must arrive there. Nothing is lost means that
    /// every event answered with 2xx comes to exactly one end; nothing is sent twice, that the sandbox took each once, and
    /// that what went out again after a fault bore the same key.
    #[command(after_help = verify::EXIT_CODES)]
    Verify(Box<verify::Verify>),
    /// Measures a running Posthaste: events a second that are accepted, and that come through with their status written; and the
    /// latency of single events at a rate
    ///
    /// They go to the sandbox: before it begins, one event for each channel must arrive there. The load comes from this machine,
    /// so run it where it takes no processor from what it measures.
    #[command(after_help = bench::EXIT_CODES)]
    Bench(Box<bench::Bench>),
    /// Prints a script that completes these commands in your shell: bash, zsh, fish, elvish or powershell
    Completions {
        /// Which shell, such as: source <(posthaste completions bash)
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Subcommand)]
pub enum Topics {
    /// Creates what is missing, and the start of each consumer group; changes nothing that is there
    Create {
        /// Answers as JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        place: Place,
    },
    /// Compares topics, groups and broker settings with what they should be
    Check {
        /// Answers as JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        place: Place,
    },
}

#[derive(Debug, Subcommand)]
pub enum Rules {
    /// Reads a rules file, runs the tests inside it, and says what is wrong
    Check {
        /// The file; without one, the rules that the configuration names
        file: Option<PathBuf>,
        /// Prints the rules too
        #[arg(long)]
        show: bool,
        /// Answers as JSON
        #[arg(long, conflicts_with = "show")]
        json: bool,
    },
    /// Says what becomes of an event whose sends keep failing
    Explain(Box<Explain>),
}

#[derive(Debug, Args)]
pub struct Explain {
    /// The event's channel
    #[arg(long, value_parser = channel, required_unless_present = "event")]
    pub channel: Option<Channel>,
    /// The provider that fails
    #[arg(long, required_unless_present = "event")]
    pub provider: Option<String>,
    /// Explains the last failure of this event instead; of the options below --pinned and --rules count then
    #[arg(long, value_name = "ID", conflicts_with_all = ["channel", "provider"])]
    pub event: Option<String>,
    /// Where the status service is, for --event
    #[arg(long, default_value = "http://127.0.0.1:3000", env = "POSTHASTE_STATUS_URL")]
    pub url: String,
    /// What kind of failure: rejected, ambiguous, permanent, rate_limited
    #[arg(long = "error", default_value = "rejected", value_parser = kind)]
    pub kind: ErrorKind,
    /// The provider's own code
    #[arg(long)]
    pub code: Option<String>,
    /// The event's priority
    #[arg(long, default_value = "default", value_parser = priority)]
    pub priority: Priority,
    /// Whose event it is
    #[arg(long, default_value = "default")]
    pub tenant: String,
    /// The wait that the provider asked for, in milliseconds
    #[arg(long, value_name = "MS")]
    pub retry_after_ms: Option<u32>,
    /// Which try of this provider failed
    #[arg(long, default_value_t = 1)]
    pub tries: u32,
    /// How long the event is under way, in milliseconds
    #[arg(long, default_value_t = 0, value_name = "MS")]
    pub age_ms: u64,
    /// The client insists on the provider
    #[arg(long)]
    pub pinned: bool,
    /// What to do when a send is in doubt: no-loss, no-duplicate
    #[arg(long, default_value = "no-loss", value_parser = policy)]
    pub policy: Policy,
    /// A rules file; without one, the rules that the configuration names
    #[arg(long, value_name = "FILE")]
    pub rules: Option<PathBuf>,
    /// Answers as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
pub enum Config {
    /// Prints the default configuration: every key, its default and what it is for
    Default,
    /// Reads the configuration and says what is wrong with it
    Check,
    /// Prints every key in force and where its value came from; secrets are masked
    Show {
        /// Only what differs from the default configuration
        #[arg(long)]
        changed: bool,
        /// Answers as JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
pub struct Send {
    /// A file with the event as JSON, or - for standard input; then the options below are not needed
    pub file: Option<PathBuf>,
    /// Where ingestion is
    #[arg(long, default_value = "http://127.0.0.1:3000", env = "POSTHASTE_URL")]
    pub url: String,
    /// sms, email, push, slack, webhook or in_app
    #[arg(long)]
    pub channel: Option<String>,
    /// The payload as JSON, such as '{"message":"hi","phoneNumber":"2025555555"}'
    #[arg(long, value_name = "JSON")]
    pub payload: Option<String>,
    /// critical, high, default or low
    #[arg(long)]
    pub priority: Option<String>,
    /// The provider to insist on
    #[arg(long)]
    pub provider: Option<String>,
    /// Remarks of your own, as a JSON object
    #[arg(long, value_name = "JSON")]
    pub metadata: Option<String>,
    /// An id of your own
    #[arg(long, value_name = "ID")]
    pub event_id: Option<String>,
    /// Whose event it is
    #[arg(long)]
    pub tenant: Option<String>,
    /// Not before this time, such as 2030-01-31T09:00:00Z
    #[arg(long, value_name = "TIME")]
    pub scheduled_at: Option<String>,
    /// By the critical lanes, ahead of all others
    #[arg(long)]
    pub urgent: bool,
    /// For so many seconds only, from when it may go out
    #[arg(long, value_name = "SECONDS")]
    pub ttl: Option<u64>,
    /// Not after this time
    #[arg(long, value_name = "TIME")]
    pub expires_at: Option<String>,
    /// Ties together what belongs together
    #[arg(long, value_name = "ID")]
    pub correlation_id: Option<String>,
    /// Answers as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
pub enum Events {
    /// One event
    Get {
        /// Its id
        id: String,
        /// Each step that it took
        #[arg(long)]
        timeline: bool,
        #[command(flatten)]
        ask: Ask,
    },
    /// Lets a waiting event go out now, before its next try is due
    ///
    /// Whoever holds it is asked to let it go: at once when it is due soon, else as soon as it is seen. Times that senders asked
    /// for are kept.
    RetryNow {
        /// Its id
        id: String,
        #[command(flatten)]
        ask: Ask,
    },
    /// Asks for an event to be withdrawn, unless it is sent by then
    ///
    /// Whoever holds it does it before the next send: at once mostly, and where it waits for hours or days when it is looked at
    /// next, before its time. The status says CANCELLED then, or what became of it if this came too late.
    Cancel {
        /// Its id
        id: String,
        #[command(flatten)]
        ask: Ask,
    },
    /// Asks for a scheduled event to be sent at another time
    ///
    /// Whoever holds it does it: at once when it is due soon, else when it is looked at next. The answer says by when that is.
    Reschedule {
        /// Its id
        id: String,
        /// When it is to go out, such as 2030-01-31T09:00:00+02:00; a time that is over means now
        at: String,
        #[command(flatten)]
        ask: Ask,
    },
    /// The newest events, or those that match
    List {
        /// Where they stand, such as SENT or DEAD_LETTERED
        #[arg(long)]
        status: Option<String>,
        /// Their channel
        #[arg(long)]
        channel: Option<String>,
        /// Whose they are
        #[arg(long)]
        tenant: Option<String>,
        /// The provider used last
        #[arg(long)]
        provider: Option<String>,
        /// What they belong to
        #[arg(long, value_name = "ID")]
        correlation_id: Option<String>,
        /// Accepted at or after this time, such as 2030-01-31T09:00:00Z
        #[arg(long, value_name = "TIME")]
        from: Option<String>,
        /// Accepted before this time
        #[arg(long, value_name = "TIME")]
        until: Option<String>,
        /// At most this many
        #[arg(long, default_value_t = 20)]
        limit: u32,
        /// Goes on where an earlier list ended
        #[arg(long)]
        cursor: Option<String>,
        #[command(flatten)]
        ask: Ask,
    },
    /// What becomes of events from now on, as it happens
    Tail(Tail),
}

#[derive(Debug, Args)]
pub struct Ask {
    /// Where the status service is
    #[arg(long, default_value = "http://127.0.0.1:3000", env = "POSTHASTE_STATUS_URL")]
    pub url: String,
    /// Answers as JSON
    #[arg(long)]
    pub json: bool,
}

fn lane(text: &str) -> Result<LaneName, FieldError> {
    text.parse()
}

fn channel(text: &str) -> Result<Channel, FieldError> {
    text.parse()
}

fn kind(text: &str) -> Result<ErrorKind, FieldError> {
    text.parse()
}

fn policy(text: &str) -> Result<Policy, FieldError> {
    text.parse()
}

fn priority(text: &str) -> Result<Priority, FieldError> {
    text.parse()
}
