//! Mailgun, `POST /v3/{domain}/messages`.

use serde_json::json;

use super::{Api, Attached, Call, Content, Reply, Sent, message};

pub(super) const API: Api = Api {
    name: "mailgun",
    paths: &["/mailgun/v3/{domain}/messages"],
    read,
    accepted: |sent, id| {
        let domain = sent.echo.as_str().unwrap_or_default();
        Reply::json(
            200,
            &json!({"id": format!("<{id}@{domain}>"), "message": "Queued. Thank you."}),
        )
    },
    invalid: |_| {
        message(
            400,
            "'to' parameter is not a valid address. please check documentation",
        )
    },
    limited: |_| message(429, "Too many requests"),
    unavailable: || message(503, "Service unavailable"),
    failed: || message(500, "Internal server error"),
};

fn read(call: &Call, content: &Content) -> Result<Sent, Reply> {
    if call.basic().is_none_or(|(user, _)| user != "api") {
        return Err(Reply::text(401, "Forbidden"));
    }
    let domain = call.params.first().map(String::as_str).unwrap_or_default();
    if !domain.contains('.') {
        return Err(message(404, "Domain not found"));
    }
    let needed = |field: &str| {
        content
            .field(field)
            .ok_or_else(|| message(400, &format!("{field} parameter is missing")))
    };
    let to = needed("to")?;
    needed("from")?;
    needed("subject")?;
    if content.field("text").or(content.field("html")).is_none() {
        return Err(message(
            400,
            "Need at least one of 'text', 'html', 'amp-html' or 'template' parameters specified",
        ));
    }
    let address = to
        .rsplit_once('<')
        .map_or(to, |(_, rest)| rest.trim_end_matches('>'));
    if !super::sendgrid::is_address(address) {
        return Err(message(
            400,
            "'to' parameter is not a valid address. please check documentation",
        ));
    }
    let files = content.files();
    if let Some(other) = files
        .iter()
        .find(|file| !["attachment", "inline"].contains(&file.field.as_str()))
    {
        return Err(message(400, &format!("{} parameter is not a file", other.field)));
    }
    Ok(Sent {
        attachments: files
            .iter()
            .map(|file| Attached {
                filename: file.name.clone(),
                bytes: file.bytes,
            })
            .collect(),
        recipient: address.to_owned(),
        key: content.field("v:idempotency_key").map(str::to_owned),
        echo: domain.into(),
        ..Sent::default()
    })
}
