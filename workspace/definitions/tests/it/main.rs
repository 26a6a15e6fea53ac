//! Definitions on both backends: what one instance writes, all come to hold.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod embedded;
mod kafka;
mod suite;
