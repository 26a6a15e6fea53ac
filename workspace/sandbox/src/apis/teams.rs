//! A Microsoft Teams workflow's trigger, `POST /workflows/{workflow}/triggers/manual/paths/invoke`.

use serde_json::json;

use super::{Api, Call, Content, Reply, Sent};

pub(super) const API: Api = Api {
    name: "teams",
    paths: &["/teams/workflows/{workflow}/triggers/manual/paths/invoke"],
    read,
    accepted: |_, id| Reply::text(202, "").header("x-ms-workflow-run-id", id),
    invalid: |_| refused(400, "TriggerInputSchemaMismatch", "the card is not one"),
    limited: |_| refused(429, "WorkflowTriggerRequestsThrottled", "too many requests"),
    unavailable: || refused(503, "ServiceUnavailable", "try again later"),
    failed: || refused(500, "InternalServerError", "something went wrong"),
};

fn refused(status: u16, code: &str, message: &str) -> Reply {
    Reply::json(status, &json!({"error": {"code": code, "message": message}}))
}

fn read(call: &Call, content: &Content) -> Result<Sent, Reply> {
    let wrong = |message: &str| Err(refused(400, "TriggerInputSchemaMismatch", message));
    let Content::Json(body) = content else {
        return wrong("no JSON");
    };
    let card = &body["attachments"][0];
    if body["type"] != "message" || card["contentType"] != "application/vnd.microsoft.card.adaptive" {
        return wrong("no message with an Adaptive Card");
    }
    let elements = card["content"]["body"].as_array();
    let shows = |element: &serde_json::Value| element["type"] != "TextBlock" || element["text"].is_string();
    if card["content"]["type"] != "AdaptiveCard" || !elements.is_some_and(|all| all.iter().all(shows)) {
        return wrong("not an Adaptive Card that can be shown");
    }
    let key = call.headers.get("x-ms-client-tracking-id");
    Ok(Sent {
        recipient: call.params.first().cloned().unwrap_or_default(),
        key: key.and_then(|key| key.to_str().ok()).map(str::to_owned),
        ..Sent::default()
    })
}
