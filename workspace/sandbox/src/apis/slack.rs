//! Slack's Web API, `POST /chat.postMessage`.

use serde_json::{Value as Json, json};

use super::{Api, Call, Content, Reply, Sent};

pub(super) const API: Api = Api {
    name: "slack",
    paths: &["/slack/api/chat.postMessage"],
    read,
    accepted: |sent, id| {
        // A timestamp that is unique in its channel: seconds, and a number.
        let number = u64::from_str_radix(id.get(16..).unwrap_or_default(), 16).unwrap_or(0);
        let seconds = posthaste_event::clock::now() / 1_000 + i64::try_from(number / 1_000_000).unwrap_or(0);
        let ts = format!("{seconds}.{:06}", number % 1_000_000);
        Reply::json(
            200,
            &json!({"ok": true, "channel": sent.recipient, "ts": ts, "message": {"text": sent.echo, "ts": ts}}),
        )
    },
    invalid: |_| error("channel_not_found"),
    limited: |_| Reply::json(429, &json!({"ok": false, "error": "ratelimited"})),
    unavailable: || Reply::json(503, &json!({"ok": false, "error": "service_unavailable"})),
    failed: || error("internal_error"),
};

/// Slack answers its errors with 200.
fn error(name: &str) -> Reply {
    Reply::json(200, &json!({"ok": false, "error": name}))
}

fn read(call: &Call, content: &Content) -> Result<Sent, Reply> {
    match call.authorization("Bearer") {
        None => return Err(error("not_authed")),
        Some(token) if !token.starts_with("xox") => return Err(error("invalid_auth")),
        Some(_) => {}
    }
    let Content::Json(body) = content else {
        return Err(error("invalid_json"));
    };
    let Some(channel) = content.at("/channel") else {
        return Err(error("channel_not_found"));
    };
    let has_blocks = body["blocks"].as_array().is_some_and(|blocks| !blocks.is_empty());
    let text = content.at("/text").unwrap_or_default();
    if text.is_empty() && !has_blocks {
        return Err(error("no_text"));
    }
    if text.chars().count() > 40_000 {
        return Err(error("msg_too_long"));
    }
    if !matches!(&body["metadata"], Json::Null) && content.at("/metadata/event_type").is_none() {
        return Err(error("invalid_metadata_format"));
    }
    Ok(Sent {
        recipient: channel.to_owned(),
        key: content
            .at("/metadata/event_payload/idempotency_key")
            .map(str::to_owned),
        echo: text.into(),
        ..Sent::default()
    })
}
