//! How urgent an event is.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{FieldError, fields::excerpt};

/// Urgency of an event. `Critical` has lanes of its own; the others are ordered within the default lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// Background traffic.
    Low,
    /// The usual case; `default` is accepted as its name too.
    #[default]
    #[serde(alias = "default")]
    Normal,
    /// Ahead of normal traffic in the same lane.
    High,
    /// System alerts and whatever must not wait behind anything else.
    Critical,
}

impl Priority {
    /// The name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Normal => "normal",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }

    /// Share of a lane's sends when several priorities wait: 20, 10, 5, 1.
    pub const fn weight(self) -> u32 {
        match self {
            Self::Low => 1,
            Self::Normal => 5,
            Self::High => 10,
            Self::Critical => 20,
        }
    }

    /// Whether the event travels on the critical lanes.
    pub const fn is_critical(self) -> bool {
        matches!(self, Self::Critical)
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Priority {
    type Err = FieldError;

    fn from_str(name: &str) -> Result<Self, FieldError> {
        match name {
            "critical" => Ok(Self::Critical),
            "high" => Ok(Self::High),
            "normal" | "default" => Ok(Self::Normal),
            "low" => Ok(Self::Low),
            other => Err(FieldError::new(
                "priority",
                format!("unknown priority {:?}", excerpt(other)),
                "critical, high, default (or normal), low",
            )),
        }
    }
}
