//! HTTP as every service speaks it: bounded in time and size, and every error a problem document.

mod assemble;
mod extract;
mod paced;
mod server;

pub use assemble::{CORRELATION_HEADER, CorrelationId, assemble, starting};
pub use extract::{JsonBody, PathParams, QueryParams, json_problem, read_body, require_json};
pub use server::{bind, serve};

#[cfg(test)]
mod tests;
