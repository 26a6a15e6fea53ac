//! What each channel takes and refuses. One line per case.

use expect_test::{Expect, expect};
use proptest::prelude::*;

use super::*;

fn raw(json: &str) -> Box<RawValue> {
    RawValue::from_string(json.to_owned()).unwrap()
}

fn accepts(channel: Channel, json: &str) -> Payload {
    Payload::accept(channel, &raw(json)).unwrap_or_else(|errors| panic!("{json}: {errors:?}"))
}

fn refuses(channel: Channel, json: &str, expected: Expect) {
    let errors = Payload::accept(channel, &raw(json)).expect_err(json);
    let said: Vec<String> = errors.iter().map(ToString::to_string).collect();
    expected.assert_eq(&said.join("\n"));
}

#[test]
fn phone_numbers_are_taken_in_any_usual_form() {
    for number in [
        "2025555555",
        "+12025555555",
        "(202) 555-5555",
        "+49 30 901820",
        "202.555.5555",
        "5555555",
        " +1/202/555 ",
    ] {
        accepts(
            Channel::Sms,
            &format!(r#"{{"message":"Test SMS","phoneNumber":"{number}"}}"#),
        );
    }
    refuses(
        Channel::Sms,
        r#"{"message":"hi","phoneNumber":"555"}"#,
        expect![
            "payload.phoneNumber: has 3 digits; accepted: 7 to 15 digits with an optional + before and spaces, dots, dashes, slashes or brackets between"
        ],
    );
    refuses(
        Channel::Sms,
        r#"{"message":"hi","phoneNumber":"call me maybe"}"#,
        expect![
            "payload.phoneNumber: holds 'c', which no phone number has; accepted: 7 to 15 digits with an optional + before and spaces, dots, dashes, slashes or brackets between"
        ],
    );
    for number in [
        "1234567890123456",
        "++12025555555",
        "+",
        "12025555555+",
        "２０２５５５５５５５",
    ] {
        assert!(
            Payload::accept(
                Channel::Sms,
                &raw(&format!(r#"{{"message":"m","phoneNumber":"{number}"}}"#))
            )
            .is_err(),
            "{number}"
        );
    }
}

#[test]
fn every_field_of_a_wrong_sms_is_named() {
    refuses(
        Channel::Sms,
        r#"{"message":7,"phoneNumber":2025555555,"phonenumber":"x"}"#,
        expect![[r#"
            payload.message: must be text, not a number; accepted: text, 1 to 1600 characters
            payload.phoneNumber: must be text, not a number; accepted: one line of text, 1 to 64 characters
            payload.phonenumber: is not a field; accepted: message, phoneNumber, from"#]],
    );
    refuses(
        Channel::Sms,
        "{}",
        expect![[r#"
            payload.message: is missing; accepted: text, 1 to 1600 characters
            payload.phoneNumber: is missing; accepted: one line of text, 1 to 64 characters"#]],
    );
    refuses(
        Channel::Sms,
        r#""text""#,
        expect!["payload: must be an object, not text; accepted: a JSON object"],
    );
}

#[test]
fn an_accepted_event_with_a_field_of_a_newer_version_is_still_read() {
    let payload = raw(r#"{"message":"m","phoneNumber":"2025555555","new":1}"#);
    assert!(Payload::accept(Channel::Sms, &payload).is_err());
    assert!(Payload::parse(Channel::Sms, &payload).is_ok());
}

#[test]
fn email_addresses_are_taken_alone_named_and_in_lists() {
    let payload = accepts(
        Channel::Email,
        r#"{"subject":"s","body":"b","to":["a@example.com","\"B, the second\" <b.c+d@sub.example.com>"],
           "from":"Posthaste <no-reply@example.com>","cc":"ä@exämple.com","replyTo":"r@localhost","headers":{"X-Id":"1"}}"#,
    );
    let Payload::Email(email) = payload else {
        panic!("not an email")
    };
    assert_eq!(email.to.as_slice().len(), 2);
    for wrong in [
        "a",
        "a@",
        "@b",
        "a@b@c.de<",
        "a b@c.de",
        "a@-b.de",
        "a@b..de",
        "a@1.2.3.4",
        ".a@b.de",
        "a, b <a@b.de>",
        "<a@b.de",
        "a@b.de>",
        "x <>",
        "",
    ] {
        let json = format!(r#"{{"subject":"s","body":"b","to":"{wrong}","from":"a@b.de"}}"#);
        let errors = Payload::accept(Channel::Email, &raw(&json)).expect_err(wrong);
        assert_eq!(errors[0].field, "payload.to", "{wrong}: {errors:?}");
    }
}

#[test]
fn headers_cannot_be_injected() {
    refuses(
        Channel::Email,
        r#"{"subject":"a\r\nBcc: x@y.z","body":"b","to":"a@b.de\nx@y.z","from":"a\r\n@b.de",
           "headers":{"X-A":"1\r\nX-B: 2","X B":"1","Subject":"x"}}"#,
        expect![[r#"
            payload.subject: holds a control character at position 1; accepted: one line of text, 1 to 998 characters
            payload.to: holds a line break or another control character, or is too long; accepted: an address such as a@example.com or Name <a@example.com>
            payload.from: holds a line break or another control character, or is too long; accepted: an address such as a@example.com or Name <a@example.com>
            payload.headers.X-A: holds a control character at position 1; accepted: one line of text, 1 to 998 characters
            payload.headers.Subject: cannot be set here; accepted: headers that delivery does not write itself
            payload.headers.X B: is not a header's name; accepted: 1 to 126 letters, digits and dashes"#]],
    );
}

#[test]
fn an_email_needs_a_part_and_a_recipient() {
    refuses(
        Channel::Email,
        r#"{"subject":"s","to":[],"from":["a@b.de"]}"#,
        expect![[r#"
            payload.body: is missing; accepted: a text in body, HTML in html, or both
            payload.to: has 0 addresses; accepted: 1 to 1000 addresses
            payload.from: must be an address, not a list; accepted: an address such as a@example.com"#]],
    );
    accepts(
        Channel::Email,
        r#"{"subject":"s","html":"<p>","to":"a@b","from":"Name <a@b>"}"#,
    );
}

#[test]
fn a_push_goes_to_a_token_a_topic_or_a_user() {
    accepts(
        Channel::Push,
        r#"{"title":"t","body":"b","image":"https://e.com/a.png","link":"myapp://screen/1","token":"abc:DEF_1"}"#,
    );
    accepts(Channel::Push, r#"{"title":"t","body":"b","user":"ann"}"#);
    refuses(
        Channel::Push,
        r#"{"title":"t","body":"b","user":"","token":"a"}"#,
        expect![[r#"
            payload.user: is given beside token; accepted: one of token, topic and user
            payload.user: is empty; accepted: one line of text, 1 to 256 characters"#]],
    );
    refuses(
        Channel::Push,
        r#"{"title":"t","body":"b"}"#,
        expect![
            "payload.token: is missing; accepted: a device's token in token, a topic in topic, or a user with registered devices in user"
        ],
    );
    refuses(
        Channel::Push,
        r#"{"title":"t","body":"b","token":"a","topic":"b c","link":"javascript:alert(1)","image":"ftp://e.com/x","data":{"n":1}}"#,
        expect![[r#"
            payload.image: has the scheme "ftp"; accepted: an http or https URL with a host and without user and password
            payload.link: has the scheme "javascript"; accepted: an absolute URL; not javascript:, data:, file: or blob:
            payload.topic: is given beside token; accepted: one of token, topic and user
            payload.topic: holds a character that no topic has; accepted: letters, digits and -_.~%
            payload.data.n: must be text, not a number; accepted: text, 0 to 4096 characters"#]],
    );
}

#[test]
fn a_slack_message_has_text_or_blocks() {
    accepts(
        Channel::Slack,
        r##"{"channel":"#general","text":"hi","threadTs":"1503435956.000247"}"##,
    );
    accepts(
        Channel::Slack,
        r#"{"channel":"C024BE91L","blocks":[{"type":"divider"}]}"#,
    );
    refuses(
        Channel::Slack,
        r#"{"channel":"a b","threadTs":"yesterday"}"#,
        expect![[r#"
            payload.channel: holds a space; accepted: a channel or user, such as #general or C024BE91L
            payload.text: is missing; accepted: a text in text, blocks in blocks, or both
            payload.threadTs: is not the time of a message; accepted: the ts of a message, such as 1503435956.000247"#]],
    );
    refuses(
        Channel::Slack,
        r#"{"channel":"a","blocks":[{"type":"divider"},{"x":1}]}"#,
        expect![
            "payload.blocks[1]: has no type; accepted: a list of 1 to 50 blocks, each an object with a type"
        ],
    );
}

#[test]
fn a_webhook_url_has_a_host_and_no_credentials() {
    accepts(
        Channel::Webhook,
        r#"{"url":"https://example.com:8443/hook?a=b","body":null}"#,
    );
    for url in [
        "example.com",
        "ftp://example.com/",
        "https://user:pass@example.com/",
        "https://user@example.com/",
        "http://",
        "https:///path",
        "http://exa mple.com",
        "http://example.com:0/",
        "http://[::1",
    ] {
        let json = format!(r#"{{"url":"{url}","body":{{}}}}"#);
        if url == "https:///path" {
            // A browser's reading of it: the host is "path".
            continue;
        }
        let errors = Payload::accept(Channel::Webhook, &raw(&json)).expect_err(url);
        assert_eq!(errors[0].field, "payload.url", "{url}");
    }
    refuses(
        Channel::Webhook,
        r#"{"url":"https://example.com/","headers":{"Host":"evil","Webhook-Signature":"v1,x","X-Ä":"1","X-Ok":"ü"}}"#,
        expect![[r#"
            payload.body: is missing; accepted: any JSON value
            payload.headers.Host: cannot be set here; accepted: headers that delivery does not write itself
            payload.headers.Webhook-Signature: cannot be set here; accepted: headers that delivery does not write itself
            payload.headers.X-Ok: holds a character beyond ASCII; accepted: visible ASCII characters and spaces
            payload.headers.X-Ä: is not a header's name; accepted: 1 to 126 letters, digits and dashes"#]],
    );
}

#[test]
fn an_in_app_message_names_its_recipient() {
    accepts(
        Channel::InApp,
        r#"{"recipient":"u-1","title":"t","body":"b","data":{"deep":[1,2]}}"#,
    );
    refuses(
        Channel::InApp,
        r#"{"title":"t","body":"b","data":1e999}"#,
        expect![[r#"
            payload.recipient: is missing; accepted: one line of text, 1 to 256 characters
            payload.data: holds a number or an escape that cannot be read; accepted: JSON with numbers of 64 bits and escapes that are characters"#]],
    );
}

#[test]
fn errors_never_repeat_huge_or_binary_values() {
    let huge = "x".repeat(100_000);
    for (channel, json) in [
        (
            Channel::Sms,
            format!(r#"{{"message":"{huge}","phoneNumber":"{huge}","{huge}":1}}"#),
        ),
        (
            Channel::Email,
            format!(
                r#"{{"subject":"{huge}","to":"{huge}","from":"{huge}@b","headers":{{"{huge}":"{huge}"}}}}"#
            ),
        ),
        (Channel::Webhook, format!(r#"{{"url":"{huge}://","body":1}}"#)),
        (
            Channel::Push,
            format!(r#"{{"title":"t","link":"{huge}:a","data":{{"\u0007{huge}":1}}}}"#),
        ),
    ] {
        for error in Payload::accept(channel, &raw(&json)).unwrap_err() {
            let said = error.to_string();
            assert!(said.len() < 500, "{} bytes", said.len());
            assert!(!said.chars().any(char::is_control), "{said}");
        }
    }
}

fn json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        any::<bool>().prop_map(|value| value.to_string()),
        any::<i64>().prop_map(|value| value.to_string()),
        any::<f64>().prop_map(|value| format!("{value:e}").replace("NaN", "0").replace("inf", "1")),
        ".*".prop_map(|text| serde_json::to_string(&text).unwrap()),
        Just("\"a@b\"".to_owned()),
        Just("\"\\ud800\"".to_owned()),
        Just("\"https://a:b@c\"".to_owned()),
    ];
    leaf.prop_recursive(3, 32, 6, |inner| {
        let name = prop_oneof![
            proptest::sample::select(vec![
                "message",
                "phoneNumber",
                "from",
                "to",
                "cc",
                "subject",
                "body",
                "html",
                "headers",
                "title",
                "token",
                "topic",
                "image",
                "link",
                "data",
                "channel",
                "text",
                "blocks",
                "threadTs",
                "url",
                "recipient",
                "replyTo",
                "type",
            ])
            .prop_map(str::to_owned),
            ".*",
        ];
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(|items| format!("[{}]", items.join(","))),
            proptest::collection::vec((name, inner), 0..8).prop_map(|fields| {
                let fields: Vec<_> = fields
                    .into_iter()
                    .map(|(name, value)| format!("{}:{value}", serde_json::to_string(&name).unwrap()))
                    .collect();
                format!("{{{}}}", fields.join(","))
            }),
        ]
    })
}

proptest! {
    #[test]
    fn reading_never_panics_and_every_error_names_a_field(json in json()) {
        let Ok(raw) = RawValue::from_string(json) else { return Ok(()) };
        for channel in Channel::ALL {
            match Payload::accept(channel, &raw) {
                Ok(payload) => prop_assert_eq!(Payload::parse(channel, &raw), Ok(payload)),
                Err(errors) => {
                    prop_assert!(!errors.is_empty());
                    for error in errors {
                        prop_assert!(error.field.starts_with("payload"));
                        prop_assert!(!error.to_string().chars().any(char::is_control));
                    }
                }
            }
        }
    }
}
