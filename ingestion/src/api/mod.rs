//! What the intake says of its HTTP interface. One file for each group of paths; schemas go by the limits that the checks go by.

mod broadcasts;
mod definitions;
mod devices;
mod encryption;
mod event;
mod events;
mod keys;
mod lists;
mod messages;
mod suppressions;

use posthaste_event::{Millis, schema};
use posthaste_service::api::Api;
use serde_json::json;

use crate::{
    ProviderNames, Settings,
    idempotency::{HEADER, KEY_CHARS_MAX},
    request::{TENANT_CHARS_MAX, TENANT_MARKS},
};

/// What the schemas depend on.
struct Scope<'a> {
    settings: &'a Settings,
    providers: &'a ProviderNames,
    broadcast: &'a posthaste_broadcast::Settings,
    /// There are keys to encrypt payloads with.
    has_keys: bool,
    /// For examples.
    soon: String,
}

/// The paths of the intake, as a process with these settings and providers has them, and with keys to encrypt payloads or without.
/// Times in examples lie after `now`.
pub fn api(
    settings: &Settings,
    broadcast: &posthaste_broadcast::Settings,
    providers: &ProviderNames,
    has_keys: bool,
    now: Millis,
) -> Api {
    let scope = Scope {
        settings,
        providers,
        broadcast,
        has_keys,
        soon: posthaste_service::api::soon(now),
    };
    let key = json!({
        "type": "string", "pattern": r"^[\u0021-\u007e]([\u0020-\u007e]*[\u0021-\u007e])?$",
        "minLength": 1, "maxLength": KEY_CHARS_MAX,
    });
    let again = "A key of your own: a second request with it and the same body gets the first one's answer, one with another \
                 body is refused.";
    let whose = "Whose; your own tenant's without. Credentials for one tenant may name no other.";
    Api::new()
        .parameter(HEADER, "header", again, key)
        .parameter(
            "tenant",
            "query",
            whose,
            schema::name(TENANT_MARKS, TENANT_CHARS_MAX),
        )
        .and(scope.events())
        .and(scope.definitions())
        .and(scope.messages())
        .and(scope.suppressions())
        .and(scope.broadcasts())
        .and(scope.lists())
        .and(scope.devices())
        .and(scope.keys())
        .and(encryption::encryption())
}
