//! Replay on the embedded broker, asked over its HTTP paths.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

mod asking;
mod jobs;
mod replaying;
mod rig;
