//! What a run found, for people and for the next run.

mod history;
mod page;
mod plot;
mod text;

pub use history::{Change, Report};
pub use page::page;
pub use text::text;
