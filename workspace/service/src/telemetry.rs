//! Log lines: where they go and how they look.

use std::io::IsTerminal as _;

use posthaste_event::FieldError;
use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _};

use crate::settings::{LogFormat, Settings};

/// Starts logging to standard error. A second call in one process changes nothing.
///
/// # Errors
/// When `log_level` cannot be read.
pub fn start(settings: &Settings) -> Result<(), FieldError> {
    let registry = tracing_subscriber::registry().with(filter(&settings.log_level)?);
    // A subscriber that is already there (another call, a test's own) stays.
    let _already_started = match settings.log_format {
        LogFormat::Human => {
            let layer = fmt::layer()
                .with_writer(std::io::stderr)
                .with_ansi(std::io::stderr().is_terminal());
            registry.with(layer).try_init()
        }
        LogFormat::Json => {
            let layer = fmt::layer()
                .json()
                .flatten_event(true)
                .with_writer(std::io::stderr);
            registry.with(layer).try_init()
        }
    };
    Ok(())
}

pub(crate) fn filter(level: &str) -> Result<EnvFilter, FieldError> {
    let wrong = |problem: String| {
        FieldError::new(
            "service.log_level",
            problem,
            "error, warn, info, debug or trace, also by part: \"info,posthaste_dispatcher=debug\"",
        )
    };
    // A lone word that is no level would be taken for the name of a part.
    let levels = ["off", "error", "warn", "info", "debug", "trace"];
    for directive in level.split(',').map(str::trim) {
        let lone = !directive.contains(['=', '[', ':']);
        if lone && !levels.contains(&directive.to_ascii_lowercase().as_str()) {
            return Err(wrong(format!("unknown level {directive:?}")));
        }
    }
    EnvFilter::try_new(level).map_err(|error| wrong(error.to_string()))
}
