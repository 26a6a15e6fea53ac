//! Real servers and suites for tests.
//!
//! ```no_run
//! # async fn example() -> Result<(), posthaste_testkit::StartError> {
//! use posthaste_testkit::{KafkaServer, MongoServer, MongoStorage};
//! let kafka = KafkaServer::shared().await?; // one broker per test process: isolate by topic prefix
//! let mut own = KafkaServer::start().await?; // one of your own: may be killed, paused, restarted
//! own.kill();
//! own.restart().await?;
//! let mongo = MongoServer::start(MongoStorage::Memory).await?;
//! println!("{} {}", kafka.bootstrap(), mongo.uri());
//! # Ok(()) }
//! ```
//!
//! The servers' jars come from Maven Central once and stay in `$POSTHASTE_TEST_CACHE` (default `.cache/servers` in the
//! workspace). A server that cannot start is an error that says why; nothing here skips.

pub mod broker_suite;
pub mod cache;
pub mod kafka;
pub mod life;
pub mod mongodb;
pub mod ports;
pub mod process;
pub mod scripted_provider;
pub mod slow_link;
pub mod start_error;
pub mod store_suite;

pub use kafka::KafkaServer;
pub use mongodb::{MongoServer, MongoStorage};
pub use ports::Port;
pub use process::Process;
pub use scripted_provider::{ScriptedProvider, Step};
pub use slow_link::SlowLink;
pub use start_error::StartError;
