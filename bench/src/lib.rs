//! Measures Posthaste on this machine: release processes over HTTP, beside what the machine itself can do.
//!
//! `bench/run` builds everything and starts it; `bench/PROFILE.md` says how to find out where the time goes.

pub mod events;
pub mod figures;
pub mod limits;
pub mod load;
pub mod report;
pub mod scenario;
pub mod sink;
pub mod system;
pub mod trouble;
pub mod usage;
pub mod wire;
