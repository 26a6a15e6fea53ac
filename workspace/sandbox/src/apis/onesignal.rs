//! OneSignal, `POST /notifications`.

use serde_json::{Value as Json, json};

use super::{Api, Call, Content, Reply, Sent};

pub(super) const API: Api = Api {
    name: "onesignal",
    paths: &["/onesignal/notifications"],
    read,
    accepted: |sent, id| {
        let id = uuid::Uuid::try_parse(id).unwrap_or_default();
        Reply::json(200, &json!({"id": id, "external_id": sent.echo}))
    },
    invalid: |_| {
        Reply::json(
            200,
            &json!({"id": "", "errors": ["All included players are not subscribed"]}),
        )
    },
    limited: |_| errors(429, "API rate limit exceeded"),
    unavailable: || errors(503, "Service unavailable"),
    failed: || errors(500, "Internal server error"),
};

fn errors(status: u16, text: &str) -> Reply {
    Reply::json(status, &json!({ "errors": [text] }))
}

fn read(call: &Call, content: &Content) -> Result<Sent, Reply> {
    if call
        .authorization("Key")
        .or(call.authorization("Basic"))
        .is_none()
    {
        return Err(errors(
            403,
            "Access denied.  Please include an 'Authorization: ...' header with a valid API key (https://documentation.onesignal.com/docs/en/keys-and-ids#api-keys).",
        ));
    }
    if content
        .at("/app_id")
        .and_then(|id| uuid::Uuid::try_parse(id).ok())
        .is_none()
    {
        return Err(errors(
            400,
            "app_id not found. You may be missing a Content-Type: application/json header.",
        ));
    }
    let body = content.json();
    let english = |field: &str| body[field]["en"].as_str().is_some_and(|text| !text.is_empty());
    if !english("contents") {
        return Err(errors(
            400,
            "Message Notifications must have English language content",
        ));
    }
    let targets = [
        "include_subscription_ids",
        "include_android_reg_ids",
        "included_segments",
    ];
    let recipient = targets
        .iter()
        .find_map(|field| body[*field].get(0).and_then(Json::as_str))
        .filter(|recipient| !recipient.is_empty());
    let Some(recipient) = recipient else {
        return Err(errors(
            400,
            "You must include which players, segments, or tags you wish to send this notification to.",
        ));
    };
    let idempotency = match &body["idempotency_key"] {
        Json::Null => None,
        Json::String(text) if uuid::Uuid::try_parse(text).is_ok() => Some(text.clone()),
        _ => return Err(errors(400, "idempotency_key must be a valid UUID")),
    };
    Ok(Sent {
        recipient: recipient.to_owned(),
        key: content.at("/custom_data/idempotency_key").map(str::to_owned),
        // One key, one message: the real interface answers a repetition with the first one's id.
        same_id: idempotency,
        echo: body["external_id"].clone(),
        ..Sent::default()
    })
}
