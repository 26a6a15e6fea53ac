//! Firebase Cloud Messaging, `POST /v1/projects/{project}/messages:send`, and Google's token endpoint, `POST /token`.

use axum::{body::Bytes, http::HeaderMap};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value as Json, json};

use super::{Api, Call, Content, Reply, Sent};

/// What tokens of this endpoint begin with, as Google's do.
const TOKEN_PREFIX: &str = "ya29.sandbox-";

pub(super) const API: Api = Api {
    name: "firebase",
    paths: &["/firebase/v1/projects/{project}/{call}"],
    read,
    accepted: |sent, id| {
        let project = sent.echo.as_str().unwrap_or_default();
        Reply::json(
            200,
            &json!({ "name": format!("projects/{project}/messages/{id}") }),
        )
    },
    invalid: |_| {
        error(
            404,
            "NOT_FOUND",
            "Requested entity was not found.",
            Some("UNREGISTERED"),
        )
    },
    limited: |_| {
        error(
            429,
            "RESOURCE_EXHAUSTED",
            "Resource has been exhausted (e.g. check quota).",
            Some("QUOTA_EXCEEDED"),
        )
    },
    unavailable: || {
        error(
            503,
            "UNAVAILABLE",
            "The service is currently unavailable.",
            Some("UNAVAILABLE"),
        )
    },
    failed: || error(500, "INTERNAL", "Internal error encountered.", Some("INTERNAL")),
};

fn error(status: u16, name: &str, message: &str, code: Option<&str>) -> Reply {
    let details: Vec<Json> = code
        .into_iter()
        .map(
            |code| json!({"@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", "errorCode": code}),
        )
        .collect();
    Reply::json(
        status,
        &json!({"error": {"code": status, "message": message, "status": name, "details": details}}),
    )
}

fn argument(message: &str) -> Reply {
    error(400, "INVALID_ARGUMENT", message, Some("INVALID_ARGUMENT"))
}

fn read(call: &Call, content: &Content) -> Result<Sent, Reply> {
    if !call
        .authorization("Bearer")
        .is_some_and(|token| token.starts_with(TOKEN_PREFIX))
    {
        return Err(error(
            401,
            "UNAUTHENTICATED",
            "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other valid authentication credential.",
            None,
        ));
    }
    let [project, action] = call.params.as_slice() else {
        return Err(argument("no project"));
    };
    if action != "messages:send" {
        return Err(error(404, "NOT_FOUND", "Requested entity was not found.", None));
    }
    let message = &content.json()["message"];
    if !message.is_object() {
        return Err(argument("Request contains an invalid argument."));
    }
    let text = |name: &str| message[name].as_str().filter(|text| !text.is_empty());
    let recipient = match (text("token"), text("topic"), text("condition")) {
        (Some(token), None, None) => token.to_owned(),
        (None, Some(topic), None) => format!("/topics/{topic}"),
        (None, None, Some(condition)) => condition.to_owned(),
        (None, None, None) => return Err(argument("Recipient of the message is not set.")),
        _ => return Err(argument("Recipient of the message is set more than once.")),
    };
    if let Some(data) = message["data"].as_object()
        && data.values().any(|value| !value.is_string())
    {
        return Err(argument("Invalid value at 'message.data[0].value' (TYPE_STRING)"));
    }
    Ok(Sent {
        recipient,
        key: message["android"]["notification"]["tag"]
            .as_str()
            .map(str::to_owned),
        echo: project.as_str().into(),
        ..Sent::default()
    })
}

/// Trades a signed JWT for a token; its signature is not checked, its claims are.
pub(crate) async fn token(headers: HeaderMap, body: Bytes) -> Reply {
    match grant(&Content::read(&headers, &body)) {
        Ok(reply) | Err(reply) => reply,
    }
}

fn grant(content: &Content) -> Result<Reply, Reply> {
    let refuse = |error: &str, description: &str| {
        Reply::json(400, &json!({"error": error, "error_description": description}))
    };
    if content.field("grant_type") != Some("urn:ietf:params:oauth:grant-type:jwt-bearer") {
        return Err(refuse("unsupported_grant_type", "Invalid grant_type"));
    }
    let parts: Vec<&str> = content
        .field("assertion")
        .unwrap_or_default()
        .split('.')
        .collect();
    let part = |index: usize| -> Option<Json> {
        let bytes = URL_SAFE_NO_PAD.decode(parts.get(index)?).ok()?;
        serde_json::from_slice(&bytes).ok()
    };
    let (Some(header), Some(claims), 3) = (part(0), part(1), parts.len()) else {
        return Err(refuse("invalid_grant", "Invalid JWT: Failed audience check."));
    };
    if header["alg"] != "RS256" {
        return Err(refuse("invalid_grant", "Invalid JWT Signature."));
    }
    let has = |name: &str| claims[name].as_str().is_some_and(|text| !text.is_empty());
    let lasts = claims["exp"].as_i64().unwrap_or(0) - claims["iat"].as_i64().unwrap_or(0);
    if !has("iss") || !has("aud") || !(1..=3_600).contains(&lasts) {
        return Err(refuse(
            "invalid_grant",
            "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe.",
        ));
    }
    if !claims["scope"]
        .as_str()
        .is_some_and(|scope| scope.contains("firebase.messaging") || scope.contains("cloud-platform"))
    {
        return Err(refuse(
            "invalid_scope",
            "Invalid OAuth scope or ID token audience provided.",
        ));
    }
    let token = format!("{TOKEN_PREFIX}{}", uuid::Uuid::new_v4().simple());
    Ok(Reply::json(
        200,
        &json!({"access_token": token, "expires_in": 3_599, "token_type": "Bearer"}),
    ))
}
