//! Lanes on the embedded broker: outcomes, bulkheads, fairness, takeover, and what goes wrong.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

mod devices;
mod lanes;
mod no_duplicate;
mod ordering;
mod outages;
mod rig;
mod sealed;
mod stalling;
mod suppressed;
mod withdrawn;
