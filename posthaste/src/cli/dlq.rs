//! `posthaste dlq …`.

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub enum Dlq {
    /// The open dead letters, newest first, or grouped by what went wrong
    List {
        #[command(flatten)]
        filter: Filter,
        /// Counts letters with the same error instead
        #[arg(long)]
        group: bool,
        /// At most this many
        #[arg(long, default_value_t = 20)]
        limit: u32,
        /// Goes on where an earlier list ended
        #[arg(long)]
        cursor: Option<String>,
        #[command(flatten)]
        ask: AskReplay,
    },
    /// One event's dead letter: why it was given up, and every failure before
    Show {
        /// The event's id
        id: String,
        #[command(flatten)]
        ask: AskReplay,
    },
    /// Sends dead letters out again, each once, and shows how far it is
    ///
    /// The replay service does it: it goes on when this command is ended, and through restarts. Exit code 0 when all went
    /// out, 1 when some did not.
    Replay(Box<Replay>),
    /// The replays, newest first, or how far one of them is
    Jobs {
        /// The replay's id; without one, all
        id: Option<String>,
        /// Only those that are running, paused, stopped, cancelled or finished
        #[arg(long, conflicts_with = "id")]
        state: Option<String>,
        #[command(flatten)]
        ask: AskReplay,
    },
    /// Lets a replay wait
    Pause {
        /// The replay's id
        id: String,
        #[command(flatten)]
        ask: AskReplay,
    },
    /// Lets a replay go on that was paused or stopped by itself
    Resume {
        /// The replay's id
        id: String,
        #[command(flatten)]
        ask: AskReplay,
    },
    /// Ends a replay; what has not gone out stays a dead letter
    Cancel {
        /// The replay's id
        id: String,
        #[command(flatten)]
        ask: AskReplay,
    },
}

#[derive(Debug, Args)]
pub struct Replay {
    #[command(flatten)]
    pub filter: Filter,
    /// All dead letters: without a filter this must be said
    #[arg(long)]
    pub all: bool,
    /// Skips this many, the oldest first
    #[arg(long, default_value_t = 0)]
    pub skip: u64,
    /// At most this many
    #[arg(long, default_value_t = 1_000_000)]
    pub limit: u64,
    /// Letters per second at most; without it, as fast as they go
    #[arg(long, value_name = "LETTERS")]
    pub rate: Option<f64>,
    /// Lets the rate rise from nothing in this time
    #[arg(long, value_name = "SECONDS", requires = "rate")]
    pub ramp: Option<u64>,
    /// Stops when more than this part dies again, such as 0.1
    #[arg(long, value_name = "RATIO")]
    pub stop_at: Option<f64>,
    /// Only says how many there are, and where they would go
    #[arg(long)]
    pub dry_run: bool,
    /// Ends as soon as it has begun
    #[arg(long, conflicts_with = "dry_run")]
    pub detach: bool,
    #[command(flatten)]
    pub ask: AskReplay,
}

/// Which dead letters are meant; all of them without an option.
#[derive(Debug, Default, Args)]
pub struct Filter {
    /// Of this event (repeatable)
    #[arg(long = "id", value_name = "ID")]
    pub ids: Vec<String>,
    /// Of this tenant
    #[arg(long)]
    pub tenant: Option<String>,
    /// On this channel
    #[arg(long)]
    pub channel: Option<String>,
    /// Given up with this provider or account
    #[arg(long)]
    pub provider: Option<String>,
    /// With this kind of error, provider's code, or fingerprint
    #[arg(long)]
    pub error: Option<String>,
    /// Given up at or after this time, such as 2030-01-31T09:00:00Z
    #[arg(long, value_name = "TIME")]
    pub from: Option<String>,
    /// Given up before this time
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
    /// With this in the error's message
    #[arg(long)]
    pub text: Option<String>,
}

impl Filter {
    /// Whether nothing is given.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty() && self.fields().next().is_none()
    }

    /// The fields that are given, by their names in the API; ids are apart.
    pub fn fields(&self) -> impl Iterator<Item = (&'static str, &String)> {
        [
            ("tenant", &self.tenant),
            ("channel", &self.channel),
            ("provider", &self.provider),
            ("error", &self.error),
            ("from", &self.from),
            ("until", &self.until),
            ("text", &self.text),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value.as_ref()?)))
    }
}

#[derive(Debug, Args)]
pub struct AskReplay {
    /// Where the replay service is
    #[arg(long, default_value = "http://127.0.0.1:3000", env = "POSTHASTE_REPLAY_URL")]
    pub url: String,
    /// Answers as JSON
    #[arg(long)]
    pub json: bool,
}
