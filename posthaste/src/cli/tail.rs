//! `posthaste events tail`.

use clap::Args;

use super::Ask;

#[derive(Debug, Args)]
pub struct Tail {
    /// Only steps to this status, such as SENT or DEAD_LETTERED
    #[arg(long)]
    pub status: Option<String>,
    /// Only this channel
    #[arg(long)]
    pub channel: Option<String>,
    /// Only events of this tenant
    #[arg(long)]
    pub tenant: Option<String>,
    /// Only steps by this provider
    #[arg(long)]
    pub provider: Option<String>,
    /// Only what belongs to this
    #[arg(long, value_name = "ID")]
    pub correlation_id: Option<String>,
    #[command(flatten)]
    pub ask: Ask,
}
