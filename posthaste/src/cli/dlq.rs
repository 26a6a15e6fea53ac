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
