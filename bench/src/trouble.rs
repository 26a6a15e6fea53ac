//! What can go wrong while measuring.

use posthaste_testkit::StartError;

/// Why a measurement could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// A server did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// A file, a socket, or an answer in time.
    #[error("cannot {doing}: {error}")]
    Io {
        /// What was being done.
        doing: String,
        /// What the system said.
        error: std::io::Error,
    },
    /// Everything else, in words.
    #[error("{0}")]
    Said(String),
}

impl Trouble {
    /// In words.
    pub fn said(text: impl Into<String>) -> Self {
        Self::Said(text.into())
    }

    /// For `map_err`, with what was being done.
    pub fn io(doing: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let doing = doing.into();
        move |error| Self::Io { doing, error }
    }

    /// For `map_err` of errors of any other kind.
    pub fn doing<E: std::fmt::Display>(doing: impl Into<String>) -> impl FnOnce(E) -> Self {
        let doing = doing.into();
        move |error| Self::Said(format!("cannot {doing}: {error}"))
    }
}
