//! Why a command did not do what it should, and the exit code that says so.

use std::{fmt, process::ExitCode};

use posthaste_service::config::ConfigError;

/// Ends the command.
#[derive(Debug)]
pub enum Failure {
    /// Wrong use or configuration: exit code 2. Nothing was started.
    Usage(String),
    /// It could not be done: exit code 1.
    Runtime(String),
    /// A promise of the pipeline's was broken: exit code 3.
    Broken(String),
    /// It could not be done, and the log says why: exit code 1.
    Logged,
}

impl Failure {
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Usage(_) => ExitCode::from(2),
            Self::Broken(_) => ExitCode::from(3),
            Self::Runtime(_) | Self::Logged => ExitCode::FAILURE,
        }
    }

    /// It could not be done.
    pub fn runtime(error: impl fmt::Display) -> Self {
        Self::Runtime(error.to_string())
    }

    /// Wrong use or configuration.
    pub fn usage(error: impl fmt::Display) -> Self {
        Self::Usage(error.to_string())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let message = match self {
            Self::Usage(message) | Self::Runtime(message) | Self::Broken(message) => message,
            Self::Logged => return Ok(()),
        };
        for (index, line) in message.lines().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "error: {line}")?;
        }
        Ok(())
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::Usage(error.to_string())
    }
}
