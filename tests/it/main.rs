//! Whole-system tests: real `posthaste` processes, driven over HTTP only, on the embedded backend and on real Kafka with
//! a MongoDB-wire server.
//!
//! Each test has a tenant (and so recipients and event ids) of its own, and shares a running system with the others
//! unless it breaks something. `cargo build -p posthaste` first: the binary is looked for beside the test executable.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod system;

mod attachments;
mod bad_input;
mod bad_providers;
mod bench;
mod broadcasts;
mod cancel;
mod clock;
mod compose;
mod configs;
mod crashes;
mod credentials;
mod devices;
mod encryption;
mod fairness;
mod flow;
#[cfg(feature = "foreign")]
mod foreign;
mod full_disk;
mod idempotency;
mod inbox;
mod keys;
mod kill_points;
mod load;
mod no_duplicate;
mod openapi;
mod operations;
mod ordering;
mod outages;
mod own_ids;
mod python;
mod rebuild;
mod recipes;
mod replays;
mod scaling;
mod schedules;
mod storms;
mod suppressions;
mod tenants;
mod topics_script;
mod unreadable;
mod verify;

/// Makes a test of each named function on each backend.
macro_rules! on_each_backend {
    ($($test:ident),+ $(,)?) => {
        mod embedded {
            $(#[tokio::test]
            async fn $test() {
                super::$test($crate::system::Backend::Embedded).await;
            })+
        }
        mod kafka {
            $(#[tokio::test]
            async fn $test() {
                super::$test($crate::system::Backend::Kafka).await;
            })+
        }
    };
}
use on_each_backend;
