//! What every service shares: configuration, HTTP, errors, health, telemetry, shutdown.

pub mod api;
pub mod auth;
pub mod config;
pub mod health;
pub mod http;
pub mod metrics;
pub mod problem;
pub mod requests;
pub mod settings;
pub mod shutdown;
pub mod telemetry;

pub use config::Configuration;
pub use health::{Health, Missing};
pub use metrics::Metrics;
pub use problem::Problem;
pub use requests::{Names, Requests, Wanted};
pub use settings::{DEFAULTS, Settings};
pub use tokio_util::sync::CancellationToken as Shutdown;
