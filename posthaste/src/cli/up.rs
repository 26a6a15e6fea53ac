//! All in one process.

use clap::{Args, ValueEnum};

use super::Place;

#[derive(Debug, Args)]
pub struct Up {
    /// Leaves a service out (repeatable): `--without dispatcher` takes events in and sends none, until the next start
    #[arg(long, value_name = "SERVICE", value_delimiter = ',', value_enum)]
    pub without: Vec<Without>,
    #[command(flatten)]
    pub place: Place,
}

/// A service that may be left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Without {
    Dispatcher,
    Retry,
    Replay,
    Status,
    Sandbox,
}
