//! SendGrid, `POST /v3/mail/send`.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value as Json, json};

use super::{Api, Attached, Call, Content, Reply, Sent};

pub(super) const API: Api = Api {
    name: "sendgrid",
    paths: &["/sendgrid/v3/mail/send"],
    read,
    accepted: |_, id| Reply::text(202, "").header("x-message-id", id),
    invalid: |_| {
        error(
            400,
            "Does not contain a valid address.",
            Some("personalizations.0.to.0.email"),
        )
    },
    limited: |_| error(429, "too many requests", None),
    unavailable: || error(503, "service unavailable", None),
    failed: || error(500, "internal error", None),
};

fn error(status: u16, message: &str, field: Option<&str>) -> Reply {
    Reply::json(
        status,
        &json!({"errors": [{"message": message, "field": field, "help": null}]}),
    )
}

fn read(call: &Call, content: &Content) -> Result<Sent, Reply> {
    if !call
        .authorization("Bearer")
        .is_some_and(|key| key.starts_with("SG."))
    {
        return Err(error(
            401,
            "The provided authorization grant is invalid, expired, or revoked",
            None,
        ));
    }
    let missing = |field: &str| error(400, &format!("The {field} is required."), Some(field));
    let to = content
        .at("/personalizations/0/to/0/email")
        .ok_or_else(|| missing("personalizations.0.to"))?;
    let from = content.at("/from/email").ok_or_else(|| missing("from.email"))?;
    content.at("/subject").ok_or_else(|| missing("subject"))?;
    let parts = content.json()["content"].as_array();
    let parts = parts
        .filter(|parts| !parts.is_empty())
        .ok_or_else(|| missing("content"))?;
    for (index, part) in parts.iter().enumerate() {
        if part["value"].as_str().is_none_or(str::is_empty) {
            return Err(error(
                400,
                "The content value must be a string at least one character in length.",
                Some(&format!("content.{index}.value")),
            ));
        }
    }
    for (address, field) in [(to, "personalizations.0.to.0.email"), (from, "from.email")] {
        if !is_address(address) {
            return Err(error(400, "Does not contain a valid address.", Some(field)));
        }
    }
    each_once(&content.json()["personalizations"][0])?;
    let arguments = &content.json()["custom_args"];
    if arguments
        .as_object()
        .is_some_and(|map| map.values().any(|value| !value.is_string()))
    {
        return Err(error(
            400,
            "The custom_args must be strings.",
            Some("custom_args"),
        ));
    }
    Ok(Sent {
        attachments: attachments(content.json())?,
        recipient: to.to_owned(),
        key: arguments["idempotency_key"].as_str().map(str::to_owned),
        ..Sent::default()
    })
}

/// What the interface asks of attachments: a name, content in base64, and neither the end of a line nor a semicolon in the others.
fn attachments(mail: &Json) -> Result<Vec<Attached>, Reply> {
    let mut attached = Vec::new();
    let files = mail["attachments"].as_array().into_iter().flatten();
    for (index, file) in files.enumerate() {
        let wrong =
            |field: &str, problem: &str| error(400, problem, Some(&format!("attachments.{index}.{field}")));
        let content = file["content"].as_str().unwrap_or_default();
        let content = STANDARD
            .decode(content)
            .ok()
            .filter(|content| !content.is_empty());
        let content =
            content.ok_or_else(|| wrong("content", "The attachment content must be base64 encoded."))?;
        let filename = file["filename"].as_str().filter(|name| !name.is_empty());
        let filename = filename.ok_or_else(|| wrong("filename", "The attachment filename is required."))?;
        for field in ["type", "content_id"] {
            if file[field]
                .as_str()
                .is_some_and(|text| text.contains([';', '\r', '\n']))
            {
                return Err(wrong(field, "This cannot contain ';', or CRLF characters."));
            }
        }
        let disposition = &file["disposition"];
        if !disposition.is_null() && disposition != "attachment" && disposition != "inline" {
            return Err(wrong(
                "disposition",
                "The disposition can be one of 'inline' or 'attachment'.",
            ));
        }
        attached.push(Attached {
            filename: filename.to_owned(),
            bytes: content.len(),
        });
    }
    Ok(attached)
}

/// An address may be there once among to, cc and bcc.
fn each_once(personalization: &Json) -> Result<(), Reply> {
    let mut seen = std::collections::BTreeSet::new();
    for field in ["to", "cc", "bcc"] {
        for mailbox in personalization[field].as_array().into_iter().flatten() {
            let email = mailbox["email"].as_str().unwrap_or_default().to_lowercase();
            if !seen.insert(email) {
                return Err(error(
                    400,
                    "Each email address in the personalization block should be unique between to, cc, and bcc.",
                    Some("personalizations.0"),
                ));
            }
        }
    }
    Ok(())
}

pub(super) fn is_address(address: &str) -> bool {
    address.split_once('@').is_some_and(|(local, domain)| {
        !local.is_empty() && !domain.is_empty() && !address.contains([' ', '<', '>'])
    })
}
