//! What the provider files send: the fullest and the barest request of each, less the credentials.

use expect_test::{Expect, expect};
use posthaste_event::Channel;

use super::description;
use crate::{
    build::{Values, sample_message},
    fields,
};

/// What the files of all providers send for the fullest and the barest payload, less the credentials.
pub(super) fn sends(name: &str, channel: Channel, expected: Expect) {
    let description = description(name);
    let mut values = Values {
        base_url: description.base_url.clone().unwrap_or_default(),
        sandboxed: false,
        ..description.sample_values()
    };
    match name {
        "slack_webhook" => values.all["webhook_url"] = "https://hooks.slack.com/services/T0/B0/x".into(),
        "teams" => values.all["webhook_url"] = "https://teams.example.com/workflows/w/invoke?sig=s".into(),
        _ => {}
    }
    let mut shown = String::new();
    for payload in fields::samples(channel) {
        let outgoing = description
            .build(&values, &sample_message(channel, payload, 0))
            .unwrap();
        shown.push_str(&format!("{} {}\n", outgoing.method, outgoing.url));
        let kind = outgoing.headers["content-type"].to_str().unwrap();
        // A form with files has another boundary each time.
        let boundary = kind
            .split_once("boundary=")
            .map(|(_, boundary)| boundary.to_owned());
        let fixed = |text: &str| match &boundary {
            Some(boundary) => text.replace(boundary.as_str(), "BOUNDARY").replace("\r\n", "\n"),
            None => text.to_owned(),
        };
        for (name, value) in &outgoing.headers {
            let value = fixed(value.to_str().unwrap());
            shown.push_str(&format!("{name}: {}\n", value));
        }
        let body = std::str::from_utf8(&outgoing.body).unwrap();
        match serde_json::from_str::<serde_json::Value>(body) {
            Ok(json) => shown.push_str(&serde_json::to_string_pretty(&json).unwrap()),
            Err(_) if boundary.is_some() => shown.push_str(&fixed(body)),
            Err(_) => {
                for (name, value) in url::form_urlencoded::parse(body.as_bytes()) {
                    shown.push_str(&format!("  {name} = {value}\n"));
                }
            }
        }
        shown.push_str("\n\n");
    }
    expected.assert_eq(shown.trim_end());
}

#[test]
fn twilio() {
    sends(
        "twilio",
        Channel::Sms,
        expect![[r#"
        POST https://api.twilio.com/2010-04-01/Accounts/AC00000000000000000000000000000000/Messages.json
        content-type: application/x-www-form-urlencoded
          Body = text
          From = +12025550101
          StatusCallback = http://callbacks.invalid/callbacks/twilio?key=01890000-0000-7000-8000-000000000000%3Asms%3A0
          To = +12025550100


        POST https://api.twilio.com/2010-04-01/Accounts/AC00000000000000000000000000000000/Messages.json
        content-type: application/x-www-form-urlencoded
          Body = text
          From = +15005550006
          StatusCallback = http://callbacks.invalid/callbacks/twilio?key=01890000-0000-7000-8000-000000000000%3Asms%3A0
          To = +12025550100"#]],
    );
}

#[test]
fn messagebird() {
    sends(
        "messagebird",
        Channel::Sms,
        expect![[r#"
        POST https://rest.messagebird.com/messages
        accept: application/json
        content-type: application/json
        {
          "body": "text",
          "datacoding": "auto",
          "originator": "+12025550101",
          "recipients": [
            "12025550100"
          ],
          "reference": "01890000-0000-7000-8000-000000000000:sms:0",
          "reportUrl": "http://callbacks.invalid/callbacks/messagebird?key=01890000-0000-7000-8000-000000000000%3Asms%3A0"
        }

        POST https://rest.messagebird.com/messages
        accept: application/json
        content-type: application/json
        {
          "body": "text",
          "datacoding": "auto",
          "originator": "Posthaste",
          "recipients": [
            "12025550100"
          ],
          "reference": "01890000-0000-7000-8000-000000000000:sms:0",
          "reportUrl": "http://callbacks.invalid/callbacks/messagebird?key=01890000-0000-7000-8000-000000000000%3Asms%3A0"
        }"#]],
    );
}

#[test]
fn firebase() {
    sends(
        "firebase",
        Channel::Push,
        expect![[r#"
        POST https://fcm.googleapis.com/v1/projects/posthaste-sandbox/messages:send
        content-type: application/json
        {
          "message": {
            "android": {
              "notification": {
                "tag": "01890000-0000-7000-8000-000000000000:push:0"
              }
            },
            "apns": {
              "headers": {
                "apns-collapse-id": "58920e31-db48-4693-b23c-cac92f01d540"
              }
            },
            "data": {
              "link": "https://example.com/",
              "order": "1"
            },
            "notification": {
              "body": "text",
              "image": "https://example.com/i.png",
              "title": "title"
            },
            "token": "token",
            "topic": "topic",
            "webpush": {
              "fcm_options": {
                "link": "https://example.com/"
              }
            }
          }
        }

        POST https://fcm.googleapis.com/v1/projects/posthaste-sandbox/messages:send
        content-type: application/json
        {
          "message": {
            "android": {
              "notification": {
                "tag": "01890000-0000-7000-8000-000000000000:push:0"
              }
            },
            "apns": {
              "headers": {
                "apns-collapse-id": "58920e31-db48-4693-b23c-cac92f01d540"
              }
            },
            "notification": {
              "body": "text",
              "title": "title"
            },
            "token": "token"
          }
        }"#]],
    );
}

#[test]
fn onesignal() {
    sends(
        "onesignal",
        Channel::Push,
        expect![[r#"
            POST https://api.onesignal.com/notifications
            content-type: application/json
            {
              "app_id": "00000000-0000-4000-8000-000000000000",
              "big_picture": "https://example.com/i.png",
              "chrome_web_image": "https://example.com/i.png",
              "contents": {
                "en": "text"
              },
              "custom_data": {
                "event_id": "01890000-0000-7000-8000-000000000000",
                "idempotency_key": "01890000-0000-7000-8000-000000000000:push:0"
              },
              "data": {
                "order": "1"
              },
              "headings": {
                "en": "title"
              },
              "idempotency_key": "58920e31-db48-4693-b23c-cac92f01d540",
              "include_android_reg_ids": [
                "token"
              ],
              "ios_attachments": {
                "image": "https://example.com/i.png"
              },
              "name": "01890000-0000-7000-8000-000000000000",
              "target_channel": "push",
              "url": "https://example.com/"
            }

            POST https://api.onesignal.com/notifications
            content-type: application/json
            {
              "app_id": "00000000-0000-4000-8000-000000000000",
              "contents": {
                "en": "text"
              },
              "custom_data": {
                "event_id": "01890000-0000-7000-8000-000000000000",
                "idempotency_key": "01890000-0000-7000-8000-000000000000:push:0"
              },
              "headings": {
                "en": "title"
              },
              "idempotency_key": "58920e31-db48-4693-b23c-cac92f01d540",
              "include_android_reg_ids": [
                "token"
              ],
              "name": "01890000-0000-7000-8000-000000000000",
              "target_channel": "push"
            }"#]],
    );
}

#[test]
fn slack() {
    sends(
        "slack",
        Channel::Slack,
        expect![[r##"
        POST https://slack.com/api/chat.postMessage
        content-type: application/json; charset=utf-8
        {
          "blocks": [
            {
              "type": "divider"
            }
          ],
          "channel": "#general",
          "metadata": {
            "event_payload": {
              "event_id": "01890000-0000-7000-8000-000000000000",
              "idempotency_key": "01890000-0000-7000-8000-000000000000:slack:0"
            },
            "event_type": "posthaste_event"
          },
          "text": "text",
          "thread_ts": "1700000000.000100"
        }

        POST https://slack.com/api/chat.postMessage
        content-type: application/json; charset=utf-8
        {
          "channel": "#general",
          "metadata": {
            "event_payload": {
              "event_id": "01890000-0000-7000-8000-000000000000",
              "idempotency_key": "01890000-0000-7000-8000-000000000000:slack:0"
            },
            "event_type": "posthaste_event"
          },
          "text": "text"
        }"##]],
    );
}

#[test]
fn slack_webhook() {
    sends(
        "slack_webhook",
        Channel::Slack,
        expect![[r#"
        POST https://hooks.slack.com/services/T0/B0/x
        content-type: application/json
        {
          "blocks": [
            {
              "type": "divider"
            }
          ],
          "text": "text",
          "thread_ts": "1700000000.000100"
        }

        POST https://hooks.slack.com/services/T0/B0/x
        content-type: application/json
        {
          "text": "text"
        }"#]],
    );
}

#[test]
fn teams() {
    sends(
        "teams",
        Channel::Slack,
        expect![[r#"
        POST https://teams.example.com/workflows/w/invoke?sig=s
        x-ms-client-tracking-id: 01890000-0000-7000-8000-000000000000:slack:0
        content-type: application/json
        {
          "attachments": [
            {
              "content": {
                "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
                "body": [
                  {
                    "type": "divider"
                  }
                ],
                "type": "AdaptiveCard",
                "version": "1.4"
              },
              "contentType": "application/vnd.microsoft.card.adaptive"
            }
          ],
          "type": "message"
        }

        POST https://teams.example.com/workflows/w/invoke?sig=s
        x-ms-client-tracking-id: 01890000-0000-7000-8000-000000000000:slack:0
        content-type: application/json
        {
          "attachments": [
            {
              "content": {
                "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
                "body": [
                  {
                    "text": "text",
                    "type": "TextBlock",
                    "wrap": true
                  }
                ],
                "type": "AdaptiveCard",
                "version": "1.4"
              },
              "contentType": "application/vnd.microsoft.card.adaptive"
            }
          ],
          "type": "message"
        }"#]],
    );
}

#[test]
fn webhook() {
    sends(
        "webhook",
        Channel::Webhook,
        expect![[r#"
        POST https://example.com/hook
        x-order: 1
        content-type: application/json
        {
          "order": 1
        }

        POST https://example.com/hook
        content-type: application/json
        {
          "order": 1
        }"#]],
    );
}
