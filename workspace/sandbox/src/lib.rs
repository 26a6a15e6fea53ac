//! A stand-in for the providers' HTTP APIs, for trying and testing.
//!
//! It answers as they do, checks what they check of a request's shape, keeps what it received for looking at, and fails in all
//! the ways they can, on request. All its paths begin with `/sandbox`:
//!
//! | path | what |
//! |---|---|
//! | `/sandbox/<provider>/...` | the provider's own paths |
//! | `GET /sandbox/smtp` | with `Upgrade: smtp` the connection becomes an SMTP one |
//! | `GET /sandbox/messages?provider=&recipient=&event=&limit=` | what came in, newest first; `DELETE` forgets all, counts too |
//! | `GET /sandbox/counts?event=` | totals, exact even when details are dropped; of one event, how often it was sent |
//! | `GET /sandbox/sends?from=&prefix=&limit=` | every call in order, oldest first, from a number on; `prefix` of event ids. `memory` tells whether numbers began again |
//! | `GET`, `PUT`, `DELETE /sandbox/behaviour` | how to misbehave; see [`behaviour`] |

mod api;
mod apis;
pub mod behaviour;
mod counts;
mod form;
mod inspect;
mod received;
mod sends;
mod serve;
mod smtp;

pub use api::api;

use std::sync::Arc;

use axum::{Router, extract::DefaultBodyLimit, routing::get};
use serde::Deserialize;

/// The commented default configuration of `[sandbox]`.
pub const DEFAULTS: &str = include_str!("../settings.toml");

/// `[sandbox]`; see `settings.toml`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Received messages kept for looking at.
    pub messages_max: usize,
    /// Most bytes kept of one message's body.
    pub message_bytes_max: usize,
    /// Most bytes taken of a request.
    pub request_bytes_max: usize,
    /// Calls kept for reading in order.
    pub sends_max: usize,
    /// Keys and events told apart for the counts.
    pub keys_max: usize,
    /// How long "hang" keeps a caller waiting, in milliseconds.
    pub hang_ms: u64,
    /// Calls that may hang or be slow at once.
    pub waiting_max: usize,
    /// Where chance begins.
    pub seed: u64,
}

/// The sandbox's paths, all under `/sandbox`.
pub fn router(settings: &Settings) -> Router {
    let sandbox = Arc::new(serve::Sandbox::new(settings));
    let own = Router::new()
        .route("/messages", get(inspect::messages).delete(inspect::forget))
        .route("/counts", get(inspect::counts))
        .route("/sends", get(inspect::sends))
        .route(
            "/behaviour",
            get(inspect::behaviour)
                .put(inspect::behave)
                .delete(inspect::behave_well),
        );
    let routes = apis::ALL.iter().fold(own, |router, api| {
        api.paths
            .iter()
            .fold(router, |router, path| router.route(path, serve::route(api)))
    });
    let routes = routes
        .route("/smtp", get(smtp::upgrade))
        .route("/firebase/token", axum::routing::post(apis::firebase::token))
        .fallback(inspect::unknown_path)
        .layer(DefaultBodyLimit::max(settings.request_bytes_max))
        .with_state(sandbox);
    Router::new().nest("/sandbox", routes)
}
