//! What must hold for any bytes at all: nothing panics, what is refused is refused in words, and what is taken comes back as
//! it was.
//!
//! Used by the fuzz targets, and included by `tests/corpus`, which replays what they found worth keeping.

mod defined;
mod files;
mod records;
mod requests;
mod sends;

use posthaste_event::{Channel, Millis};

pub use defined::{broadcast, definition};
pub use files::{configuration, provider, rules};
pub use records::{control, metadata, record};
pub use requests::{headers, query, request};
pub use sends::{answer, message, smtp};

/// A moment: in 2026, in milliseconds since the Unix epoch.
const NOW: Millis = 1_790_000_000_000;

/// Takes an input, and says whether it was good, so that a corpus can be seen to reach what lies behind the first check.
pub type Target = fn(&[u8]) -> bool;

/// Every target by its name.
pub const TARGETS: [(&str, Target); 14] = [
    ("record", record),
    ("control", control),
    ("metadata", metadata),
    ("request", request),
    ("headers", headers),
    ("query", query),
    ("rules", rules),
    ("provider", provider),
    ("configuration", configuration),
    ("message", message),
    ("answer", answer),
    ("smtp", smtp),
    ("broadcast", broadcast),
    ("definition", definition),
];

/// One of the channels; any byte names one.
fn channel(byte: u8) -> Channel {
    Channel::ALL[usize::from(byte) % Channel::ALL.len()]
}
