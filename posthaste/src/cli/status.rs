//! `posthaste status rebuild`.

use clap::{Args, Subcommand};

use super::Ask;

#[derive(Debug, Subcommand)]
pub enum Status {
    /// Compares the status of every event with the topics, as far back as they reach, and puts right what differs
    ///
    /// The status service does it, beside the live traffic, and goes on when this command is ended. What only the status has,
    /// such as events older than the topics, stays. It can be repeated, and be ended in the middle, at any time.
    #[command(after_help = EXIT_CODES)]
    Rebuild(Rebuild),
}

const EXIT_CODES: &str = "\
Exit codes:
  0  the status is as the topics say
  1  it is not: a dry run found differences, something could not be put right, or the rebuild did not come to its end
  2  wrong use: nothing was started";

#[derive(Debug, Args)]
pub struct Rebuild {
    /// Only compares, and prints what differs
    #[arg(long)]
    pub dry_run: bool,
    /// Ends as soon as it has begun
    #[arg(long, conflicts_with = "dry_run")]
    pub detach: bool,
    /// Only shows the rebuild that runs there, or the last one
    #[arg(long, conflicts_with_all = ["dry_run", "detach"])]
    pub watch: bool,
    /// Ends the rebuild that runs there; what it has put right stays so
    #[arg(long, conflicts_with_all = ["dry_run", "detach", "watch"])]
    pub stop: bool,
    #[command(flatten)]
    pub ask: Ask,
}
