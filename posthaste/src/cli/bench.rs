//! The options of `posthaste bench`.

use std::time::Duration;

use clap::{Args, ValueEnum};
use posthaste_event::{Channel, Priority};

use super::{channel, priority, verify::lasting};

/// What `--help` tells behind the options.
pub const EXIT_CODES: &str = "\
Exit codes:
  0  it was measured
  1  it could not be: something does not answer, or events were refused or did not come through in time
  2  wrong use: nothing was sent";

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// As fast as it goes: events a second that intake takes, and that come through with their status written
    Throughput,
    /// At a rate: from when an event should be posted until it is answered, and until it reaches the provider
    Latency,
}

#[derive(Debug, Args)]
pub struct Bench {
    /// What to measure; all of it unless named
    #[arg(value_enum)]
    pub parts: Vec<Part>,
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
    /// Events of the throughput
    #[arg(short = 'n', long, value_name = "EVENTS", default_value_t = 10_000)]
    pub events: u32,
    /// Requests under way at once, for the throughput
    #[arg(long, value_name = "REQUESTS", default_value_t = 64)]
    pub in_flight: usize,
    /// Events a second, for the latency
    #[arg(long, value_name = "EVENTS", default_value_t = 200.0)]
    pub rate: f64,
    /// How long the latency is measured, such as 10s or 5m
    #[arg(long = "for", value_name = "TIME", value_parser = lasting, default_value = "10s")]
    pub lasting: Duration,
    /// How long events may take to come through after the last one was posted
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    pub settle: u64,
    /// Their channels: sms, email, push, slack, webhook
    #[arg(long, value_name = "CHANNELS", value_delimiter = ',', value_parser = channel, default_value = "sms")]
    pub channels: Vec<Channel>,
    /// Their priorities
    #[arg(long, value_name = "PRIORITIES", value_delimiter = ',', value_parser = priority, default_value = "default")]
    pub priorities: Vec<Priority>,
    /// Answers as JSON
    #[arg(long)]
    pub json: bool,
}
