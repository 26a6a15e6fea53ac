//! The `posthaste` command: every service, alone or all in one process, and what one needs to work with them.

mod api_keys;
mod bench;
mod cli;
mod client;
mod command;
mod configuration;
mod dlq;
mod doctor;
mod explain;
mod failure;
mod keys;
mod progress;
mod rebuild;
mod run;
mod tail;
mod verify;

use std::process::ExitCode;

use clap::Parser as _;

use cli::{Cli, Command};
use failure::Failure;
use run::Role;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    without_huge_pages();
    let cli = Cli::parse();
    match execute(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !matches!(failure, Failure::Logged) {
                eprintln!("{failure}");
            }
            failure.exit_code()
        }
    }
}

/// Has the kernel give memory out in small pages only, as the allocator's own `MIMALLOC_ALLOW_THP=0` does (it asks for huge ones
/// otherwise): what waits in memory comes and goes, and one kilobyte in use keeps 2 MiB. An idle process has half as much then.
fn without_huge_pages() {
    // Where the kernel refuses, all is as it was.
    #[cfg(target_os = "linux")]
    let _ = nix::sys::prctl::set_thp_disable(true);
}

fn execute(cli: Cli) -> Result<(), Failure> {
    let Cli {
        common,
        place,
        command,
    } = cli;
    if let Some(token) = &common.token {
        client::identify(token)?;
    }
    let Some(command) = command else {
        return run::start(&common, &place, &Role::all(), run::Mode::Up);
    };
    if let Some(option) = place.first_given() {
        return Err(Failure::Usage(format!(
            "{option} belongs after the command it is for, such as `posthaste up {option} …`"
        )));
    }
    let alone = |place, role| run::start(&common, place, &[role], run::Mode::Alone);
    match command {
        Command::Up(up) => run::start(&common, &up.place, &Role::all_without(&up.without), run::Mode::Up),
        Command::Ingestion(place) => alone(&place, Role::Ingestion),
        Command::Dispatcher { lane, place } => alone(&place, Role::Dispatcher(lane)),
        Command::Retry(place) => alone(&place, Role::Retry),
        Command::Replay(place) => alone(&place, Role::Replay),
        Command::Status {
            command: Some(command),
            ..
        } => rebuild::status(&command),
        Command::Status { place, .. } => alone(&place, Role::Status),
        Command::Sandbox(place) => alone(&place, Role::Sandbox),
        Command::Health { url } => client::health(&common, url.as_deref()),
        Command::Openapi => run::described::print(&common),
        Command::Topics(topics) => command::topics(&common, topics),
        Command::Rules(rules) => command::rules(&common, rules),
        Command::Config(config) => command::config(&common, config),
        Command::ApiKeys(command) => api_keys::api_keys(command),
        Command::Keys(command) => keys::keys(command),
        Command::Send(send) => client::send(send),
        Command::Events(events) => client::events(events),
        Command::Dlq(command) => dlq::dlq(command),
        Command::Doctor { url, json, place } => doctor::doctor(&common, &place, url.as_deref(), json),
        Command::Verify(options) => verify::verify(common, *options),
        Command::Bench(options) => bench::bench(&options),
        Command::Completions { shell } => command::completions(shell),
    }
}
