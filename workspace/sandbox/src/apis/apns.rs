//! Apple's push service, `POST /3/device/{token}`. Over HTTP/1.1, unlike the real one.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value as Json, json};

use super::{Api, Call, Content, Reply, Sent};

pub(super) const API: Api = Api {
    name: "apns",
    paths: &["/apns/3/device/{token}"],
    read,
    accepted: |sent, _| {
        let id = sent.same_id.as_deref().unwrap_or_default();
        Reply::text(200, "").header("apns-id", id)
    },
    invalid: |_| {
        let body = json!({"reason": "Unregistered", "timestamp": 1_700_000_000_000_u64});
        Reply::json(410, &body)
    },
    limited: |_| reason(429, "TooManyRequests"),
    unavailable: || reason(503, "ServiceUnavailable"),
    failed: || reason(500, "InternalServerError"),
};

fn reason(status: u16, reason: &str) -> Reply {
    Reply::json(status, &json!({ "reason": reason }))
}

fn read(call: &Call, content: &Content) -> Result<Sent, Reply> {
    let token = call.authorization("bearer");
    let token = token.ok_or_else(|| reason(403, "MissingProviderToken"))?;
    if !is_token(token) {
        return Err(reason(403, "InvalidProviderToken"));
    }
    if call.header("apns-topic").is_empty() {
        return Err(reason(400, "MissingTopic"));
    }
    if !["alert", "background"].contains(&call.header("apns-push-type")) {
        return Err(reason(400, "InvalidPushType"));
    }
    if !["", "1", "5", "10"].contains(&call.header("apns-priority")) {
        return Err(reason(400, "BadPriority"));
    }
    if call.header("apns-collapse-id").len() > 64 {
        return Err(reason(400, "BadCollapseId"));
    }
    let expiration = call.header("apns-expiration");
    if !expiration.is_empty() && expiration.parse::<u64>().is_err() {
        return Err(reason(400, "BadExpirationDate"));
    }
    let id = match call.header("apns-id") {
        "" => uuid::Uuid::new_v4(),
        id => id.parse().map_err(|_| reason(400, "BadMessageId"))?,
    };
    if call.body.len() > 4_096 {
        return Err(reason(413, "PayloadTooLarge"));
    }
    if !content.json()["aps"].is_object() {
        return Err(reason(400, "PayloadEmpty"));
    }
    Ok(Sent {
        recipient: call.params.first().cloned().unwrap_or_default(),
        // Where ours fits; of a longer one only a hash comes.
        key: Some(call.header("apns-collapse-id").to_owned()).filter(|key| key.contains(':')),
        same_id: Some(id.to_string()),
        ..Sent::default()
    })
}

/// Whether it is a JWT with what Apple wants in it; its signature is not checked.
fn is_token(token: &str) -> bool {
    let parts: Vec<&str> = token.split('.').collect();
    let part = |index: usize| -> Option<Json> {
        let bytes = URL_SAFE_NO_PAD.decode(parts.get(index)?).ok()?;
        serde_json::from_slice(&bytes).ok()
    };
    let (Some(header), Some(claims), 3) = (part(0), part(1), parts.len()) else {
        return false;
    };
    header["alg"] == "ES256"
        && header["kid"].is_string()
        && claims["iss"].is_string()
        && claims["iat"].is_i64()
}
