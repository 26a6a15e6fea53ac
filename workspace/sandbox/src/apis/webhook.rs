//! A receiver of webhooks, `POST /webhook` or `POST /webhook/{address it was meant for}`.

use serde_json::json;

use super::{Api, Call, Content, Reply, Sent, message};

pub(super) const API: Api = Api {
    name: "webhook",
    paths: &["/webhook", "/webhook/{address}"],
    read,
    accepted: |_, id| Reply::json(200, &json!({ "received": id })),
    invalid: |_| message(410, "gone"),
    limited: |_| message(429, "too many requests"),
    unavailable: || message(503, "unavailable"),
    failed: || message(500, "internal error"),
};

fn read(call: &Call, _: &Content) -> Result<Sent, Reply> {
    let id = call.header("webhook-id");
    let signed = call
        .header("webhook-signature")
        .split(' ')
        .any(|signature| signature.starts_with("v1,") && signature.len() == 47);
    if id.is_empty() || !signed || call.header("webhook-timestamp").parse::<i64>().is_err() {
        return Err(message(
            400,
            "webhook-id, webhook-timestamp and webhook-signature (v1) are needed",
        ));
    }
    Ok(Sent {
        recipient: call.params.first().cloned().unwrap_or_default(),
        key: Some(id.to_owned()),
        ..Sent::default()
    })
}
