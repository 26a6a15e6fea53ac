//! An error about one field of something a user gave us.

use serde::{Deserialize, Serialize};

/// Names a field that cannot be taken as it is, why, and what would be accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{field}: {problem}; accepted: {accepted}")]
pub struct FieldError {
    /// Path of the field as the user wrote it, such as `payload.phoneNumber`.
    pub field: String,
    /// What is wrong, lowercase and without a full stop.
    pub problem: String,
    /// What would be accepted.
    pub accepted: String,
}

impl FieldError {
    /// Builds an error for `field`.
    pub fn new(field: impl Into<String>, problem: impl Into<String>, accepted: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            problem: problem.into(),
            accepted: accepted.into(),
        }
    }
}
