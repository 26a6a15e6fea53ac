//! How much may go with an email. What each file must be like is the payload's own check.

use posthaste_event::{fields::Fields, payload::Payload};
use serde_json::{Value as Json, json};

use crate::Settings;

/// Refuses an email with too many files, or too large ones. Those that are fetched later are bounded then.
pub(crate) fn check(fields: &mut Fields<'_>, payload: &Payload, settings: &Settings) {
    let Payload::Email(email) = payload else {
        return;
    };
    let most = settings.attachments_max;
    if email.attachments.len() > most {
        fields.error(
            "payload.attachments",
            format!("has {} files", email.attachments.len()),
            format!("up to {most} files"),
        );
        return;
    }
    let mut sum = 0;
    for (index, file) in email.attachments.iter().enumerate() {
        let bytes = file.bytes_len().unwrap_or_default();
        sum += bytes;
        if bytes > settings.attachment_bytes_max {
            fields.error(
                &format!("payload.attachments[{index}].content"),
                format!("has {bytes} bytes"),
                format!(
                    "up to {} bytes before base64; for a larger file its address in url",
                    settings.attachment_bytes_max
                ),
            );
        }
    }
    if sum > settings.attachments_bytes_max {
        fields.error(
            "payload.attachments",
            format!("has {sum} bytes together"),
            format!(
                "up to {} bytes before base64; for larger files their addresses in url",
                settings.attachments_bytes_max
            ),
        );
    }
}

/// The schema of an email's payload, with these bounds.
pub(crate) fn bound(mut schema: Json, settings: &Settings) -> Json {
    if let Some(files) = schema.pointer_mut("/properties/attachments") {
        files["maxItems"] = json!(settings.attachments_max);
        let content = &mut files["items"]["properties"]["content"];
        content["maxLength"] = json!(settings.attachment_bytes_max.div_ceil(3) * 4);
    }
    schema
}
