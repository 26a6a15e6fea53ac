//! MessageBird, `POST /messages`.

use serde_json::{Value as Json, json};

use super::{Api, Call, Content, Reply, Sent};

pub(super) const API: Api = Api {
    name: "messagebird",
    paths: &["/messagebird/messages"],
    read,
    accepted,
    invalid: |_| error(422, 9, "no (correct) recipients found", Some("recipients")),
    limited: |_| error(429, 2, "Request not allowed (too many requests)", None),
    unavailable: || error(503, 99, "Service unavailable", None),
    failed: || error(500, 99, "Internal error", None),
};

fn error(status: u16, code: u32, description: &str, parameter: Option<&str>) -> Reply {
    let error = json!({"code": code, "description": description, "parameter": parameter});
    Reply::json(status, &json!({ "errors": [error] }))
}

fn read(call: &Call, content: &Content) -> Result<Sent, Reply> {
    if call.authorization("AccessKey").is_none() {
        return Err(error(
            401,
            2,
            "Request not allowed (incorrect access_key)",
            Some("access_key"),
        ));
    }
    let Some(originator) = content.at("/originator") else {
        return Err(error(422, 9, "originator is required", Some("originator")));
    };
    let is_number = originator
        .trim_start_matches('+')
        .bytes()
        .all(|byte| byte.is_ascii_digit());
    if !is_number && originator.len() > 11 {
        return Err(error(422, 10, "originator is invalid", Some("originator")));
    }
    if content.at("/body").is_none() {
        return Err(error(422, 9, "body is required", Some("body")));
    }
    let recipient = match content.json().pointer("/recipients/0") {
        Some(Json::String(text)) => text.clone(),
        Some(Json::Number(number)) => number.to_string(),
        _ => return Err(error(422, 9, "recipients is required", Some("recipients"))),
    };
    if !(7..=15).contains(&recipient.len()) || !recipient.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(error(422, 9, "no (correct) recipients found", Some("recipients")));
    }
    Ok(Sent {
        key: content.at("/reference").map(str::to_owned),
        echo: content.json().clone(),
        recipient,
        ..Sent::default()
    })
}

fn accepted(sent: &Sent, id: &str) -> Reply {
    let item = json!({"recipient": sent.recipient, "status": "sent", "messagePartCount": 1});
    Reply::json(
        201,
        &json!({
            "id": id,
            "href": format!("https://rest.messagebird.com/messages/{id}"),
            "direction": "mt",
            "type": "sms",
            "originator": sent.echo["originator"],
            "body": sent.echo["body"],
            "reference": sent.echo["reference"],
            "recipients": {
                "totalCount": 1,
                "totalSentCount": 1,
                "totalDeliveredCount": 0,
                "totalDeliveryFailedCount": 0,
                "items": [item],
            },
        }),
    )
}
