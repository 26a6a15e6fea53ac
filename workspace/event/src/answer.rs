//! What became of a record that another service put on the inbox.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

use crate::{FieldError, Millis, Status, fields::excerpt};

/// Longest text of another service that is repeated in an answer, in characters; longer ones are left out.
pub const SAID_CHARS_MAX: usize = 256;

/// Most errors that an answer tells of, and the longest detail, in bytes: an answer must always fit into a record.
const ERRORS_MAX: usize = 16;
const DETAIL_BYTES_MAX: usize = 4 << 10;

/// The answer to one record of the inbox, on the status topic. `code` is what `POST /event` would have answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// The partition of the inbox on which the record stands.
    pub partition: u32,
    /// Its offset there.
    pub offset: i64,
    /// Its key, where that is a text of at most [`SAID_CHARS_MAX`] characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The `id` of the CloudEvent that it is, if it is one and the id has at most [`SAID_CHARS_MAX`] characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cloud_event_id: Option<String>,
    /// An HTTP status: 201, or why not.
    pub code: u16,
    /// The event that was made of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_id: Option<String>,
    /// The event's correlation id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<String>,
    /// The event's first status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
    /// What is wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// The fields that cannot be taken, with what would be accepted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
    /// When it was answered, in milliseconds since the Unix epoch.
    pub at: Millis,
    /// The instance that answered.
    pub by: String,
    /// Fields that this version does not know.
    #[serde(flatten)]
    pub unknown: Map<String, Json>,
}

impl Answer {
    /// Says why nothing was made of the record, within bounds.
    #[must_use]
    pub fn refused(mut self, code: u16, detail: &str, mut errors: Vec<FieldError>) -> Self {
        errors.truncate(ERRORS_MAX);
        for error in &mut errors {
            shorten(&mut error.field);
            shorten(&mut error.problem);
            shorten(&mut error.accepted);
        }
        let mut end = detail.len().min(DETAIL_BYTES_MAX);
        while !detail.is_char_boundary(end) {
            end -= 1;
        }
        (self.code, self.detail, self.errors) = (code, Some(detail[..end].to_owned()), errors);
        self
    }
}

fn shorten(text: &mut String) {
    if text.len() > DETAIL_BYTES_MAX {
        *text = excerpt(text);
    }
}

/// A text of another service, where it is short enough to be repeated.
pub fn said(text: &str) -> Option<String> {
    (text.chars().nth(SAID_CHARS_MAX).is_none()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_bounded_whatever_was_wrong() {
        let answer = Answer {
            partition: 0,
            offset: 0,
            key: said(&"k".repeat(SAID_CHARS_MAX)),
            cloud_event_id: said(&"ä".repeat(SAID_CHARS_MAX + 1)),
            code: 0,
            event_id: None,
            correlation_id: None,
            status: None,
            detail: None,
            errors: Vec::new(),
            at: 0,
            by: "here".to_owned(),
            unknown: Map::new(),
        };
        let long = "ä".repeat(100_000);
        let errors = vec![FieldError::new(&long, &long, &long); 1_000];
        let answer = answer.refused(400, &long, errors);
        let json = serde_json::to_string(&answer).unwrap();
        assert!(json.len() < 16 << 10, "{}", json.len());
        assert_eq!(answer.errors.len(), ERRORS_MAX);
        assert_eq!(answer.key.as_ref().map(String::len), Some(SAID_CHARS_MAX));
        assert_eq!(answer.cloud_event_id, None);
        assert_eq!(serde_json::from_str::<Answer>(&json).unwrap(), answer);
    }
}
