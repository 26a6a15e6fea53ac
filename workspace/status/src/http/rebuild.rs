//! `/status/rebuild`: builds the status again from the topics; see [`crate::rebuild`].

use axum::{Json as Answer, extract::State, http::StatusCode};
use posthaste_event::{FieldError, fields::excerpt};
use posthaste_service::{Problem, http::JsonBody};
use serde_json::Value as Json;

use super::Api;
use crate::rebuild::Report;

/// Whether it is only to compare, and change nothing; an empty body asks for the default.
fn dry_run(body: &Json) -> Result<bool, FieldError> {
    const ACCEPTED: &str = "an object such as {\"dryRun\": true}, or nothing";
    let Some(body) = body.as_object() else {
        return Err(FieldError::new("body", "is not an object", ACCEPTED));
    };
    if let Some(name) = body.keys().find(|name| *name != "dryRun") {
        return Err(FieldError::new(excerpt(name), "is not known", "dryRun"));
    }
    match body.get("dryRun") {
        None => Ok(false),
        Some(Json::Bool(dry_run)) => Ok(*dry_run),
        Some(_) => Err(FieldError::new("dryRun", "is not a boolean", "true or false")),
    }
}

pub(super) async fn begin(
    State(api): State<Api>,
    JsonBody(body): JsonBody<Json>,
) -> Result<(StatusCode, Answer<Report>), Problem> {
    let dry_run = dry_run(&body).map_err(|error| super::refused(vec![error]))?;
    match api.rebuilds.begin(dry_run) {
        Ok(report) => Ok((StatusCode::ACCEPTED, Answer(report))),
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

pub(super) async fn report(State(api): State<Api>) -> Result<Answer<Report>, Problem> {
    api.rebuilds.report().map(Answer).ok_or_else(none)
}

pub(super) async fn stop(State(api): State<Api>) -> Result<(StatusCode, Answer<Report>), Problem> {
    let report = api.rebuilds.stop().ok_or_else(none)?;
    Ok((StatusCode::ACCEPTED, Answer(report)))
}

fn none() -> Problem {
    Problem::new(
        StatusCode::NOT_FOUND,
        "this process has rebuilt nothing since it started; POST /status/rebuild begins",
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_cannot_be_asked_for_is_named() {
        assert_eq!(dry_run(&json!({})), Ok(false));
        assert_eq!(dry_run(&json!({"dryRun": true})), Ok(true));
        for (body, field) in [
            (json!([]), "body"),
            (json!({"dryrun": true}), "dryrun"),
            (json!({"dryRun": "yes"}), "dryRun"),
        ] {
            assert_eq!(dry_run(&body).unwrap_err().field, field);
        }
    }
}
