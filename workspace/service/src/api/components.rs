//! What all operations share: problems, headers, parameters, credentials.

use posthaste_event::schema::{answer, any_text, count, described, list, one_of};
use serde_json::{Value as Json, json};

use crate::http::CORRELATION_CHARS_MAX;

pub(super) const PROBLEM_TYPE: &str = "application/problem+json";
pub(super) const PROBLEM: &str = "Problem";
pub(super) const CORRELATION: &str = "X-Correlation-ID";
pub(super) const RETRY_AFTER: &str = "Retry-After";
pub(super) const CHALLENGE: &str = "WWW-Authenticate";

/// Headers of every answer.
pub(super) const EVERYWHERE: [&str; 3] = [CORRELATION, "RateLimit", "RateLimit-Policy"];

const VISIBLE: &str = r"^[\u0021-\u007e]+$";

/// An RFC 9457 problem document, as every error is.
pub fn problem_schema() -> Json {
    let status = json!({"type": "integer", "minimum": 400, "maximum": 599});
    let field = answer([
        (
            "field",
            true,
            described(
                any_text(),
                "The field as it was written, such as `payload.phoneNumber`.",
            ),
        ),
        ("problem", true, described(any_text(), "What is wrong with it.")),
        ("accepted", true, described(any_text(), "What would be accepted.")),
    ]);
    described(
        answer([
            ("status", true, described(status, "The HTTP status.")),
            ("title", true, described(any_text(), "The status in words.")),
            (
                "detail",
                true,
                described(any_text(), "What is wrong here, and what to do."),
            ),
            (
                "errors",
                false,
                described(
                    list(field, 1, 1_000),
                    "The fields that cannot be taken, with what would be.",
                ),
            ),
            (
                "eventId",
                false,
                described(any_text(), "The event that this is about, where one was made."),
            ),
            (
                "retryAfterSeconds",
                false,
                described(count(), "When to try again; also sent as `Retry-After`."),
            ),
        ]),
        "A problem document (RFC 9457). `type` is `about:blank`: the status says what kind of problem it is.",
    )
}

/// `components` of every document, without the schemas of the services.
pub(super) fn components() -> Json {
    let parameter = |name: &str, place: &str, description: &str, schema: Json| json!({"name": name, "in": place, "required": false, "description": description, "schema": schema});
    let header = |description: &str, schema: Json| json!({"description": description, "schema": schema});
    let tag = || json!({"type": "string", "pattern": "^\"[^\"]*\"$"});
    json!({
        "schemas": {PROBLEM: problem_schema()},
        "parameters": {
            CORRELATION: parameter(
                CORRELATION, "header",
                "Names what belongs together for you; given back with the answer. Made up when it is absent.",
                json!({"type": "string", "pattern": VISIBLE, "minLength": 1, "maxLength": CORRELATION_CHARS_MAX}),
            ),
            "If-Match": parameter(
                "If-Match", "header",
                "Write only over a version with one of these ETags; `*`: over any.",
                json!({"type": "string", "pattern": r#"^(\*|"[!#-~]*"(, ?"[!#-~]*"){0,15})$"#}),
            ),
            "If-None-Match": parameter(
                "If-None-Match", "header",
                "`*`: write only if there is none.",
                one_of(["*"]),
            ),
        },
        "headers": {
            CORRELATION: {
                "description": "The request's, or one that was made up.",
                "required": true,
                "schema": {"type": "string", "minLength": 1, "maxLength": CORRELATION_CHARS_MAX}
            },
            "RateLimit": header(
                "What is left of the rate limit, where credentials were asked for: `\"principal\";r=<requests>;t=<seconds>`; of \
                 `\"address\"` where they were no good.",
                any_text(),
            ),
            "RateLimit-Policy": header(
                "The rate limit, where credentials were asked for: `\"principal\";q=<requests>;w=<seconds>`.",
                any_text(),
            ),
            RETRY_AFTER: header("When to try again, in seconds.", json!({"type": "integer", "minimum": 0})),
            CHALLENGE: header("What credentials are missing (RFC 6750).", any_text()),
            "ETag": header("The version, for `If-Match`.", tag()),
            "Idempotency-Replayed": header(
                "`true`: the answer of an earlier request with the same key.",
                one_of(["true"]),
            ),
        },
        "securitySchemes": {
            "bearer": {
                "type": "http", "scheme": "bearer", "bearerFormat": "JWT",
                "description": "A token of the issuer that the service trusts, or an API key."
            },
            "apiKey": {
                "type": "apiKey", "in": "header", "name": "X-API-Key",
                "description": "An API key."
            },
        },
    })
}
