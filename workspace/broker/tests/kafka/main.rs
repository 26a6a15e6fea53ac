//! The Kafka backend against a real broker: what only Kafka can do to us.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests; clippy.toml allows these only inside of test functions"
)]

mod hops;
mod member;
mod suite;
mod takeover;
mod topics;
mod world;
