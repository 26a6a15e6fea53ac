//! What every service shares: configuration, HTTP, errors, health, telemetry, shutdown.

pub mod health;
pub mod problem;

pub use health::Health;
pub use problem::Problem;
pub use tokio_util::sync::CancellationToken as Shutdown;
