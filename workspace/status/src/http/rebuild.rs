//! `/status/rebuild`: builds the status again from the topics; see [`crate::rebuild`].

use axum::{Json, extract::State, http::StatusCode};
use posthaste_service::{Problem, http::JsonBody};
use serde::Deserialize;

use super::Api;
use crate::rebuild::Report;

/// What is asked for; an empty body asks for the defaults.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Wanted {
    /// Compares, and changes nothing.
    #[serde(default)]
    dry_run: bool,
}

pub(super) async fn begin(
    State(api): State<Api>,
    JsonBody(wanted): JsonBody<Wanted>,
) -> Result<(StatusCode, Json<Report>), Problem> {
    match api.rebuilds.begin(wanted.dry_run) {
        Ok(report) => Ok((StatusCode::ACCEPTED, Json(report))),
        Err(running) => Err(Problem::new(
            StatusCode::CONFLICT,
            format!(
                "rebuild {} runs here, and there is one at a time; GET /status/rebuild tells how far it is, \
                 DELETE /status/rebuild ends it",
                running.rebuild_id
            ),
        )),
    }
}

pub(super) async fn report(State(api): State<Api>) -> Result<Json<Report>, Problem> {
    api.rebuilds.report().map(Json).ok_or_else(none)
}

pub(super) async fn stop(State(api): State<Api>) -> Result<(StatusCode, Json<Report>), Problem> {
    let report = api.rebuilds.stop().ok_or_else(none)?;
    Ok((StatusCode::ACCEPTED, Json(report)))
}

fn none() -> Problem {
    Problem::new(
        StatusCode::NOT_FOUND,
        "this process has rebuilt nothing since it started; POST /status/rebuild begins",
    )
}
