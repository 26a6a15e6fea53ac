//! The provider files: what they send, and how they read answers.

use ErrorKind::{Ambiguous, Permanent, RateLimited, Rejected};
use expect_test::{Expect, expect};
use posthaste_event::{Channel, ErrorKind};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

use crate::{
    answer::Answer,
    build::{Values, sample_message},
    fields,
    file::Description,
};

fn description(name: &str) -> Description {
    let path = format!("{}/providers/{name}.toml", env!("CARGO_MANIFEST_DIR"));
    Description::load(&path, &std::fs::read_to_string(&path).unwrap()).unwrap()
}

/// What the files of all providers send for the fullest and the barest payload, less the credentials.
fn sends(name: &str, channel: Channel, expected: Expect) {
    let description = description(name);
    let mut values = Values {
        base_url: description.base_url.clone().unwrap_or_default(),
        sandboxed: false,
        ..description.sample_values()
    };
    if name == "slack_webhook" {
        values.all["webhook_url"] = "https://hooks.slack.com/services/T0/B0/x".into();
    }
    let mut shown = String::new();
    for payload in fields::samples(channel) {
        let outgoing = description
            .build(&values, &sample_message(channel, payload, 0))
            .unwrap();
        shown.push_str(&format!("{} {}\n", outgoing.method, outgoing.url));
        for (name, value) in &outgoing.headers {
            shown.push_str(&format!("{name}: {}\n", value.to_str().unwrap()));
        }
        let body = std::str::from_utf8(&outgoing.body).unwrap();
        match serde_json::from_str::<serde_json::Value>(body) {
            Ok(json) => shown.push_str(&serde_json::to_string_pretty(&json).unwrap()),
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

/// Expects what each answer means: status, headers, body, and the kind and code of the failure or the id of the message.
fn reads(name: &str, answers: &[(u16, &str, &str, Result<&str, (ErrorKind, &str)>)]) {
    let description = description(name);
    for (status, header, body, expected) in answers {
        let mut headers = HeaderMap::new();
        if let Some((name, value)) = header.split_once(": ") {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            headers.insert(name, HeaderValue::from_str(value).unwrap());
        }
        let found = description
            .reading
            .read(name, &Answer::new(*status, &headers, body, 1_000));
        let found = match &found {
            Ok(receipt) => Ok(receipt.message_id.as_deref().unwrap_or_default()),
            Err(failure) => Err((failure.kind, failure.code.as_deref().unwrap_or_default())),
        };
        assert_eq!(found, *expected, "{name}: {status} {body}");
    }
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
    let error = |code: u32| format!(r#"{{"code":{code},"message":"m","status":400}}"#);
    reads(
        "twilio",
        &[
            (201, "", r#"{"sid":"SM1","status":"queued"}"#, Ok("SM1")),
            (201, "", "<html>", Err((Ambiguous, "201"))),
            (200, "", r#"{"sid":"SM1"}"#, Err((Ambiguous, "200"))),
            (400, "", &error(21_211), Err((Permanent, "21211"))),
            (400, "", &error(21_610), Err((Permanent, "21610"))),
            (400, "", &error(21_614), Err((Permanent, "21614"))),
            (400, "", &error(21_606), Err((Rejected, "21606"))),
            (400, "", &error(21_611), Err((RateLimited, "21611"))),
            (401, "", &error(20_003), Err((Rejected, "20003"))),
            (429, "retry-after: 3", &error(20_429), Err((RateLimited, "20429"))),
            (500, "", &error(20_500), Err((Ambiguous, "20500"))),
            (503, "", "", Err((Rejected, "503"))),
        ],
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
    let error = |code: u32, parameter: &str| {
        format!(r#"{{"errors":[{{"code":{code},"description":"d","parameter":"{parameter}"}}]}}"#)
    };
    reads(
        "messagebird",
        &[
            (
                201,
                "",
                r#"{"id":"e8077d803532c0b5937c639b60216938"}"#,
                Ok("e8077d803532c0b5937c639b60216938"),
            ),
            (201, "", "", Err((Ambiguous, "201"))),
            (422, "", &error(9, "recipients"), Err((Permanent, "9"))),
            (422, "", &error(10, "body"), Err((Permanent, "10"))),
            (422, "", &error(10, "originator"), Err((Rejected, "10"))),
            (401, "", &error(2, "access_key"), Err((Rejected, "2"))),
            (402, "", &error(25, ""), Err((Rejected, "25"))),
            (429, "", "", Err((RateLimited, "429"))),
            (500, "", &error(99, ""), Err((Ambiguous, "99"))),
        ],
    );
}

#[test]
fn sendgrid() {
    sends(
        "sendgrid",
        Channel::Email,
        expect![[r#"
        POST https://api.sendgrid.com/v3/mail/send
        content-type: application/json
        {
          "content": [
            {
              "type": "text/plain",
              "value": "text"
            },
            {
              "type": "text/html",
              "value": "<p>text</p>"
            }
          ],
          "custom_args": {
            "event_id": "01890000-0000-7000-8000-000000000000",
            "idempotency_key": "01890000-0000-7000-8000-000000000000:email:0"
          },
          "from": {
            "email": "sender@example.com",
            "name": "Sender"
          },
          "headers": {
            "X-Order": "1"
          },
          "personalizations": [
            {
              "bcc": [
                {
                  "email": "d@example.com"
                }
              ],
              "cc": [
                {
                  "email": "c@example.com"
                }
              ],
              "to": [
                {
                  "email": "a@example.com"
                },
                {
                  "email": "b@example.com",
                  "name": "B"
                }
              ]
            }
          ],
          "reply_to": {
            "email": "e@example.com"
          },
          "subject": "subject"
        }

        POST https://api.sendgrid.com/v3/mail/send
        content-type: application/json
        {
          "content": [
            {
              "type": "text/plain",
              "value": "text"
            }
          ],
          "custom_args": {
            "event_id": "01890000-0000-7000-8000-000000000000",
            "idempotency_key": "01890000-0000-7000-8000-000000000000:email:0"
          },
          "from": {
            "email": "sender@example.com",
            "name": "Sender"
          },
          "personalizations": [
            {
              "to": [
                {
                  "email": "a@example.com"
                }
              ]
            }
          ],
          "subject": "subject"
        }"#]],
    );
    let error =
        r#"{"errors":[{"message":"Does not contain a valid address.","field":"from.email","help":null}]}"#;
    reads(
        "sendgrid",
        &[
            (202, "x-message-id: 14c5d75ce93", "", Ok("14c5d75ce93")),
            (202, "", "", Ok("")),
            (200, "", "", Err((Ambiguous, "200"))),
            (400, "", error, Err((Permanent, "from.email"))),
            (
                401,
                "",
                r#"{"errors":[{"message":"m","field":null}]}"#,
                Err((Rejected, "401")),
            ),
            (403, "", error, Err((Rejected, "from.email"))),
            (413, "", "", Err((Permanent, "413"))),
            (429, "x-ratelimit-reset: 61", "", Err((RateLimited, "429"))),
            (500, "", "", Err((Ambiguous, "500"))),
        ],
    );
    let mut headers = HeaderMap::new();
    headers.insert("x-ratelimit-reset", HeaderValue::from_static("61"));
    let failure = description("sendgrid")
        .reading
        .read("sendgrid", &Answer::new(429, &headers, "", 1_000));
    assert_eq!(failure.unwrap_err().retry_after_ms, Some(60_000));
}

#[test]
fn mailgun() {
    sends(
        "mailgun",
        Channel::Email,
        expect![[r#"
        POST https://api.mailgun.net/v3/sandbox.example.com/messages
        content-type: application/x-www-form-urlencoded
          bcc = d@example.com
          cc = c@example.com
          from = Sender <sender@example.com>
          h:X-Order = 1
          h:Reply-To = e@example.com
          html = <p>text</p>
          subject = subject
          text = text
          to = a@example.com
          to = B <b@example.com>
          v:event_id = 01890000-0000-7000-8000-000000000000
          v:idempotency_key = 01890000-0000-7000-8000-000000000000:email:0


        POST https://api.mailgun.net/v3/sandbox.example.com/messages
        content-type: application/x-www-form-urlencoded
          from = Sender <sender@example.com>
          subject = subject
          text = text
          to = a@example.com
          v:event_id = 01890000-0000-7000-8000-000000000000
          v:idempotency_key = 01890000-0000-7000-8000-000000000000:email:0"#]],
    );
    reads(
        "mailgun",
        &[
            (
                200,
                "",
                r#"{"id":"<2@mg.example.com>","message":"Queued. Thank you."}"#,
                Ok("<2@mg.example.com>"),
            ),
            (200, "", "Mailgun Magnificent API", Err((Ambiguous, "200"))),
            (
                400,
                "",
                r#"{"message":"'to' parameter is not a valid address."}"#,
                Err((Permanent, "400")),
            ),
            (401, "", "Forbidden", Err((Rejected, "401"))),
            (
                404,
                "",
                r#"{"message":"Domain not found: x"}"#,
                Err((Rejected, "404")),
            ),
            (429, "", "", Err((RateLimited, "429"))),
            (502, "", "", Err((Ambiguous, "502"))),
        ],
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
    let error = |status: &str, code: &str| {
        format!(
            r#"{{"error":{{"code":400,"message":"m","status":"{status}","details":[{{"@type":"x"}},{{"errorCode":"{code}"}}]}}}}"#
        )
    };
    reads(
        "firebase",
        &[
            (
                200,
                "",
                r#"{"name":"projects/p/messages/0:1"}"#,
                Ok("projects/p/messages/0:1"),
            ),
            (
                404,
                "",
                &error("NOT_FOUND", "UNREGISTERED"),
                Err((Permanent, "UNREGISTERED")),
            ),
            (
                400,
                "",
                &error("INVALID_ARGUMENT", "INVALID_ARGUMENT"),
                Err((Permanent, "INVALID_ARGUMENT")),
            ),
            (
                400,
                "",
                r#"{"error":{"status":"INVALID_ARGUMENT"}}"#,
                Err((Permanent, "INVALID_ARGUMENT")),
            ),
            (
                403,
                "",
                &error("PERMISSION_DENIED", "SENDER_ID_MISMATCH"),
                Err((Permanent, "SENDER_ID_MISMATCH")),
            ),
            (
                429,
                "retry-after: 60",
                &error("RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED"),
                Err((RateLimited, "QUOTA_EXCEEDED")),
            ),
            (
                503,
                "",
                &error("UNAVAILABLE", "UNAVAILABLE"),
                Err((Rejected, "UNAVAILABLE")),
            ),
            (
                500,
                "",
                &error("INTERNAL", "INTERNAL"),
                Err((Ambiguous, "INTERNAL")),
            ),
            (
                401,
                "",
                r#"{"error":{"status":"UNAUTHENTICATED"}}"#,
                Err((Rejected, "UNAUTHENTICATED")),
            ),
            (
                404,
                "",
                r#"{"error":{"status":"NOT_FOUND"}}"#,
                Err((Rejected, "NOT_FOUND")),
            ),
        ],
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
          "name": "01890000-0000-7000-8000-000000000000:push:0",
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
          "headings": {
            "en": "title"
          },
          "idempotency_key": "58920e31-db48-4693-b23c-cac92f01d540",
          "include_android_reg_ids": [
            "token"
          ],
          "name": "01890000-0000-7000-8000-000000000000:push:0",
          "target_channel": "push"
        }"#]],
    );
    reads(
        "onesignal",
        &[
            (200, "", r#"{"id":"b98881cc","external_id":null}"#, Ok("b98881cc")),
            (
                200,
                "",
                r#"{"id":"b9","errors":{"invalid_player_ids":["x"]}}"#,
                Ok("b9"),
            ),
            (
                200,
                "",
                r#"{"id":"","errors":["All included players are not subscribed"]}"#,
                Err((Permanent, "200")),
            ),
            (
                200,
                "",
                r#"{"id":"","errors":{"invalid_player_ids":["x"]}}"#,
                Err((Permanent, "200")),
            ),
            (200, "", "{}", Err((Ambiguous, "200"))),
            (
                400,
                "",
                r#"{"errors":["app_id not found"]}"#,
                Err((Permanent, "400")),
            ),
            (
                403,
                "",
                r#"{"errors":["Access denied."]}"#,
                Err((Rejected, "403")),
            ),
            (
                429,
                "",
                r#"{"errors":["API rate limit exceeded"]}"#,
                Err((RateLimited, "429")),
            ),
        ],
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
    let error = |name: &str| format!(r#"{{"ok":false,"error":"{name}"}}"#);
    reads(
        "slack",
        &[
            (
                200,
                "",
                r#"{"ok":true,"channel":"C1","ts":"1503435956.000247"}"#,
                Ok("1503435956.000247"),
            ),
            (
                200,
                "",
                &error("channel_not_found"),
                Err((Permanent, "channel_not_found")),
            ),
            (200, "", &error("is_archived"), Err((Permanent, "is_archived"))),
            (
                200,
                "",
                &error("not_in_channel"),
                Err((Rejected, "not_in_channel")),
            ),
            (200, "", &error("invalid_auth"), Err((Rejected, "invalid_auth"))),
            (200, "", &error("fatal_error"), Err((Ambiguous, "fatal_error"))),
            (200, "", &error("ratelimited"), Err((RateLimited, "ratelimited"))),
            (
                429,
                "retry-after: 30",
                &error("ratelimited"),
                Err((RateLimited, "ratelimited")),
            ),
            (200, "", "<html>", Err((Ambiguous, "200"))),
        ],
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
    reads(
        "slack_webhook",
        &[
            (200, "", "ok", Ok("")),
            (200, "", "<html>", Err((Ambiguous, "<html>"))),
            (400, "", "invalid_payload", Err((Permanent, "invalid_payload"))),
            (404, "", "no_service", Err((Rejected, "no_service"))),
            (
                410,
                "",
                "channel_is_archived",
                Err((Permanent, "channel_is_archived")),
            ),
            (429, "", "", Err((RateLimited, "429"))),
        ],
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
    reads(
        "webhook",
        &[
            (200, "", "whatever", Ok("")),
            (204, "", "", Ok("")),
            (301, "location: http://127.0.0.1/", "", Err((Rejected, "301"))),
            (400, "", "a secret of the receiver", Err((Rejected, "400"))),
            (410, "", "", Err((Permanent, "410"))),
            (429, "retry-after: 1", "", Err((RateLimited, "429"))),
            (500, "", "", Err((Ambiguous, "500"))),
            (503, "", "", Err((Rejected, "503"))),
        ],
    );
}

#[test]
fn a_broken_file_names_its_line_and_what_would_be_right() {
    let good = include_str!("../../providers/twilio.toml");
    for (from, to, expected) in [
        ("kind = \"basic\"", "kind = \"basicc\"", "unknown variant"),
        ("channels = [\"sms\"]", "channels = [\"smss\"]", "unknown variant"),
        (
            "channels = [\"sms\"]",
            "channels = []",
            "channels: is empty; accepted: some of sms",
        ),
        ("message_id = \"sid\"", "message_idd = \"sid\"", "unknown field"),
        (
            "meaning = \"accepted\"",
            "meaning = \"rejected\"",
            "no rule has meaning",
        ),
        ("status = 201", "status = 999", "accepted: 201, \"2xx\""),
        ("path = \"/2010", "path = \"2010", "must begin with /"),
        (
            "path = \"/2010",
            "url = \"https://x\"\npath = \"/2010",
            "either `path` or `url`",
        ),
        (
            "base_url = \"https://api",
            "base_url = \"htps://api",
            "base_url: cannot be a base address",
        ),
        ("{{ payload.message }}", "{{ payload.message", "without its `}}`"),
        (
            "{{ payload.message }}",
            "{{ payload.message | nope }}",
            "filter nope",
        ),
        (
            "{{ payload.message }}",
            "{{ secret.message }}",
            "accepted: payload, account, event",
        ),
        (
            "{{ payload.message }}",
            "{{ account.auth_token }}",
            "account.auth_token is not defined",
        ),
        (
            "name = \"twilio\"",
            "name = \"Twilio!\"",
            "accepted: small letters",
        ),
        ("[auth]", "[autz]", "unknown field"),
        ("\n[sandbox]\npath", "\n[sandbox]\npathh", "unknown field"),
        ("about = \"auth token\", ", "", "missing field"),
    ] {
        let broken = good.replacen(from, to, 1);
        assert_ne!(broken, good, "{from}");
        let line = 1 + good[..good.find(from).unwrap()].matches('\n').count();
        let line =
            line + usize::from(from.starts_with('\n')) + usize::from(from.starts_with("\n[sandbox]\n"));
        let error = Description::load("f.toml", &broken).err().unwrap().to_string();
        assert!(error.contains(expected), "{to}: {error}");
        // Where the mistake is that something is missing, the line is that of the table.
        let exact = error.starts_with(&format!("f.toml:{line}: "));
        let missing = ["no rule", "either", "missing field", "must begin"]
            .iter()
            .any(|word| error.contains(word));
        assert!(exact || missing, "{to}: not at line {line}: {error}");
    }
}
