//! `posthaste api-keys …`.

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub enum ApiKeys {
    /// Makes a key, and prints it once, with the table of the configuration that lets it in
    ///
    /// The table holds a hash of the key, never the key. Services read their configuration when they start.
    Generate(Box<Generate>),
}

#[derive(Debug, Args)]
pub struct Generate {
    /// Who holds it: letters, digits, dashes and underscores
    #[arg(long, value_name = "NAME")]
    pub name: String,
    /// Whose events it may touch; "*" for those of all tenants
    #[arg(long)]
    pub tenant: String,
    /// What it may do: send, read, read-payload, operate, admin (repeatable)
    #[arg(long = "role", required = true, value_name = "ROLE", value_delimiter = ',')]
    pub roles: Vec<String>,
    /// The only channels that it may send on (repeatable)
    #[arg(long = "channel", value_name = "CHANNEL", value_delimiter = ',')]
    pub channels: Vec<String>,
    /// The only configurations by which it may send, by their codes; nothing else then (repeatable)
    #[arg(long = "config-code", value_name = "CODE", value_delimiter = ',')]
    pub configs: Vec<String>,
    /// When it is over, such as 2030-01-31T00:00:00Z
    #[arg(long, value_name = "TIME")]
    pub expires_at: Option<String>,
    /// Answers as JSON
    #[arg(long)]
    pub json: bool,
}
