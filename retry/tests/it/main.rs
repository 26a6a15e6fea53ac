//! The retry service on the embedded broker: what goes in as a failure or a wait comes out once, in time and in place.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "in a test a panic is the report"
)]

mod asked;
mod bench;
mod verdicts;
mod wheel;
