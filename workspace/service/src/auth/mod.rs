//! Who may do what: credentials, roles, tenants and limits, for every path of every service.
//!
//! The [`Guard`] looks at each request before its path does (`http/attend.rs`): what the path needs stands in one table
//! (`access.rs`), who asks comes from the credentials. It leaves a [`Caller`] with the request; the path itself keeps to what
//! belongs to the caller's tenant. What belongs to another tenant is answered like what is not there.

pub mod access;
mod address;
mod api_key;
mod failures;
mod guard;
mod issuer;
pub mod made;
mod principal;
mod rate;
pub mod settings;
mod token;

pub use access::{Needs, Role, Roles};
pub(crate) use address::Peer;
pub use api_key::{Minted, PREFIX, mint, mint_again};
pub(crate) use guard::Admission;
pub use guard::Guard;
pub use principal::{CONFIGS_MAX, Caller, Principal, TENANT_DEFAULT, Tenants};
pub use settings::AuthSettings;

#[cfg(test)]
mod forge;
#[cfg(test)]
mod tests;
