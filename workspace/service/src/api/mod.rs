//! What a service says of its own HTTP interface: OpenAPI 3.1, at `/openapi.json`, and as a page at `/docs`.
//!
//! Each service describes its operations beside their handlers ([`Operation`]), in schemas that go by the same limits as the
//! checks. What is the same for all (credentials, correlation, bodies that cannot be read, the rate limit, headers of every answer)
//! is added here; the role comes from the table in `auth/access.rs`. Tests walk over the routes and that table, so none is left out.
//!
//! The document is JSON from the start: the types of the usual crates have no `not`, `const` or `if`, without which what is read by
//! hand cannot be described truly.

mod components;
mod document;
mod operation;
mod own;
mod page;

use std::collections::BTreeMap;

use serde_json::Value as Json;

pub use components::problem_schema;
pub use document::document;
pub use operation::{Answer, Operation};
pub use own::own;
pub use page::router;

/// The operations of one or more services, and the schemas that they refer to.
#[derive(Debug, Clone, Default)]
pub struct Api {
    operations: Vec<Operation>,
    schemas: BTreeMap<String, Json>,
    parameters: BTreeMap<String, Json>,
}

impl Api {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// With this operation.
    #[must_use]
    pub fn operation(mut self, operation: Operation) -> Self {
        self.operations.push(operation);
        self
    }

    /// With this component, for `#/components/schemas/<name>`.
    #[must_use]
    pub fn schema(mut self, name: &str, schema: Json) -> Self {
        self.schemas.insert(name.to_owned(), schema);
        self
    }

    /// With this component, for [`Operation::shared`]: a header or a parameter of the query (`place` says which) that many take.
    #[must_use]
    pub fn parameter(mut self, name: &str, place: &str, description: &str, schema: Json) -> Self {
        let parameter = operation::parameter(name, place, description, schema);
        self.parameters.insert(name.to_owned(), parameter);
        self
    }

    /// With all of another.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.operations.extend(other.operations);
        self.schemas.extend(other.schemas);
        self.parameters.extend(other.parameters);
        self
    }

    /// Its operations.
    pub fn operations(&self) -> &[Operation] {
        &self.operations
    }
}

/// A time in the future for examples: the first of January or July that is a month away, so that a document changes but twice a
/// year and its examples can always be sent.
pub fn soon(now: posthaste_event::Millis) -> String {
    const MONTH_MS: i64 = 31 * 86_400_000;
    let least = posthaste_event::time::write(now.saturating_add(MONTH_MS));
    let year: i32 = least.get(..4).and_then(|year| year.parse().ok()).unwrap_or(2030);
    let candidates = [
        format!("{year}-01-01T09:00:00Z"),
        format!("{year}-07-01T09:00:00Z"),
        format!("{}-01-01T09:00:00Z", year + 1),
    ];
    let [.., last] = candidates.clone();
    candidates
        .into_iter()
        .find(|time| time.as_str() >= least.as_str())
        .unwrap_or(last)
}

#[cfg(test)]
mod tests;
