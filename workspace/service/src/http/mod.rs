//! HTTP as every service speaks it: bounded in time and size, and every error a problem document.

mod assemble;
mod attend;
mod extract;
mod listing;
mod paced;
mod server;

pub use assemble::{assemble, starting};
pub(crate) use attend::CORRELATION_CHARS_MAX;
pub use attend::{CORRELATION_HEADER, CorrelationId};
pub use extract::{JsonBody, PathParams, QueryParams, json_problem, read_body, require_json};
pub use listing::Listing;
pub use server::{bind, serve};

#[cfg(test)]
mod tests;
