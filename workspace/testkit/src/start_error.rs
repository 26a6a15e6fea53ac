//! Why a server for tests did not start, in words that say what to do.

use std::fmt;

/// Why a server did not start. `Debug` prints the same words as `Display`, since tests unwrap it.
#[derive(Clone, PartialEq, Eq)]
pub enum StartError {
    /// A program is not installed.
    Missing {
        /// The program.
        program: String,
        /// How to get it.
        remedy: String,
    },
    /// A command ended with an error.
    Failed {
        /// The command line.
        command: String,
        /// How it ended, and the last lines that it said.
        said: String,
    },
    /// The server did not become ready in time.
    NotReady {
        /// Name of the server.
        server: String,
        /// The command line.
        command: String,
        /// How long it was waited for, in milliseconds.
        waited_ms: u128,
        /// The last lines of its log.
        said: String,
    },
    /// A file, folder or port could not be used.
    Io {
        /// What was being done.
        doing: String,
        /// What the system said.
        reason: String,
    },
}

impl StartError {
    /// For `map_err`: an I/O error with what was being done.
    pub fn io(doing: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let doing = doing.into();
        move |error| Self::Io {
            doing,
            reason: error.to_string(),
        }
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { program, remedy } => write!(f, "{program} is not installed: {remedy}"),
            Self::Failed { command, said } => write!(f, "`{command}` failed: {said}"),
            Self::NotReady {
                server,
                command,
                waited_ms,
                said,
            } => write!(
                f,
                "{server} was not ready after {waited_ms} ms; started by `{command}`; its log ends with:\n{said}"
            ),
            Self::Io { doing, reason } => write!(f, "{doing}: {reason}"),
        }
    }
}

impl fmt::Debug for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for StartError {}
