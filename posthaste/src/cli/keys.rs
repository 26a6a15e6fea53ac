//! `posthaste keys …`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub enum Keys {
    /// Makes a file with one new key, which only you can read; never writes over one
    Generate(File),
    /// Adds a new key, which seals from then on; the others go on opening what they sealed
    ///
    /// Running services take the file up by themselves. Give it to dispatchers no later than to the intake: what they have no key for
    /// waits for it.
    Rotate(File),
    /// Says whether a file is good, which key seals and which ones open, and what old ones are needed for; never shows a key
    ///
    /// With --url it asks a running intake what it finds sealed with each key: schedules, stored lists, events that wait and dead
    /// letters, as far as the status store knows them. It says what it did not look at, and never that a key can go.
    Check(Check),
}

#[derive(Debug, Args)]
pub struct Check {
    #[command(flatten)]
    pub file: File,
    /// Where the intake is that is asked
    #[arg(long)]
    pub url: Option<String>,
}

#[derive(Debug, Args)]
pub struct File {
    /// The file, as in encryption.keys_file
    #[arg(long, value_name = "FILE")]
    pub file: PathBuf,
    /// Answers as JSON
    #[arg(long)]
    pub json: bool,
}
