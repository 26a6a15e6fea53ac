//! Slack's incoming webhooks, `POST /services/{team}/{hook}/{secret}`.

use super::{Api, Call, Content, Reply, Sent};

pub(super) const API: Api = Api {
    name: "slack_webhook",
    paths: &["/slack_webhook/services/{team}/{hook}/{secret}"],
    read,
    accepted: |_, _| Reply::text(200, "ok"),
    invalid: |_| Reply::text(410, "channel_is_archived"),
    limited: |_| Reply::text(429, "rate_limited"),
    unavailable: || Reply::text(503, "service_unavailable"),
    failed: || Reply::text(500, "rollup_error"),
};

fn read(call: &Call, content: &Content) -> Result<Sent, Reply> {
    let [team, hook, secret] = call.params.as_slice() else {
        return Err(Reply::text(404, "no_service"));
    };
    if !team.starts_with('T') || !hook.starts_with('B') {
        return Err(Reply::text(404, "no_team"));
    }
    if secret.is_empty() {
        return Err(Reply::text(403, "invalid_token"));
    }
    let Content::Json(body) = content else {
        return Err(Reply::text(400, "invalid_payload"));
    };
    let has_blocks = body["blocks"].as_array().is_some_and(|blocks| !blocks.is_empty());
    if content.at("/text").is_none() && !has_blocks {
        return Err(Reply::text(400, "no_text"));
    }
    Ok(Sent {
        recipient: format!("{team}/{hook}"),
        ..Sent::default()
    })
}
