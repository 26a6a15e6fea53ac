//! Status: what became of each event.
//!
//! [`projector`] folds the records of the topics into the status store; [`http`] answers from it; [`rebuild`] compares it with
//! the topics and puts it right; [`overtaken`] forgets what was asked of events too late. None of it is on an event's
//! way: with the store gone, intake and delivery go on, and the status catches up later.
//!
//! **Invariant:** the projector only reads topics and writes documents. It appends nothing, so it can run twice, be stopped
//! anywhere, and start again from any earlier place with the same result.

pub mod http;
pub mod overtaken;
pub mod projector;
pub mod rebuild;
pub mod settings;

pub use http::{Follow, api, router};
pub use projector::{Positions, Projector, StatusError, run};
pub use rebuild::Rebuilds;
pub use settings::{DEFAULTS, Settings};
