//! Twilio, `POST /2010-04-01/Accounts/{sid}/Messages.json`.

use serde_json::{Value as Json, json};

use super::{Api, Call, Content, Reply, Sent, key_in_query};

pub(super) const API: Api = Api {
    name: "twilio",
    paths: &["/twilio/2010-04-01/Accounts/{sid}/Messages.json"],
    read,
    accepted,
    invalid: |sent| {
        error(
            400,
            21_211,
            &format!("Invalid 'To' Phone Number: {}", sent.recipient),
        )
    },
    limited: |_| error(429, 20_429, "Too Many Requests"),
    unavailable: || error(503, 20_503, "Service unavailable"),
    failed: || error(500, 20_500, "Internal Server Error"),
};

fn error(status: u16, code: u32, message: &str) -> Reply {
    let more = format!("https://www.twilio.com/docs/errors/{code}");
    Reply::json(
        status,
        &json!({"code": code, "message": message, "more_info": more, "status": status}),
    )
}

fn read(call: &Call, content: &Content) -> Result<Sent, Reply> {
    let sid = call.params.first().map(String::as_str).unwrap_or_default();
    let known = call
        .basic()
        .is_some_and(|(user, _)| user == sid && sid.starts_with("AC"));
    if !known {
        return Err(error(401, 20_003, "Authenticate"));
    }
    let Some(to) = content.field("To") else {
        return Err(error(400, 21_604, "A 'To' phone number is required."));
    };
    let Some(body) = content.field("Body").or(content.field("MediaUrl")) else {
        return Err(error(400, 21_602, "Message body is required."));
    };
    if body.chars().count() > 1_600 {
        return Err(error(
            400,
            21_617,
            "The concatenated message body exceeds the 1600 character limit",
        ));
    }
    let from = content.field("From").or(content.field("MessagingServiceSid"));
    let Some(from) = from else {
        return Err(error(400, 21_603, "A 'From' phone number is required."));
    };
    let digits = to.strip_prefix('+').unwrap_or_default();
    if !(7..=15).contains(&digits.len()) || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(error(400, 21_211, &format!("Invalid 'To' Phone Number: {to}")));
    }
    Ok(Sent {
        recipient: to.to_owned(),
        key: content.field("StatusCallback").and_then(key_in_query),
        echo: json!({"account_sid": sid, "body": body, "from": from, "to": to}),
        ..Sent::default()
    })
}

fn accepted(sent: &Sent, id: &str) -> Reply {
    let mut body = json!({
        "sid": format!("SM{id}"),
        "status": "queued",
        "direction": "outbound-api",
        "api_version": "2010-04-01",
        "num_segments": "1",
        "error_code": null,
        "error_message": null,
    });
    if let (Json::Object(body), Json::Object(echo)) = (&mut body, &sent.echo) {
        body.extend(echo.clone());
    }
    Reply::json(201, &body)
}
