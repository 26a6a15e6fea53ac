//! What the server is given.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use expect_test::expect;
use posthaste_event::payload::Payload;
use serde_json::json;

use super::{
    account, message, payload, send,
    server::{Got, Script, Server},
};
use crate::smtp::mail::{Mail, message_id};

async fn got(mail: &serde_json::Value, offers: Vec<&'static str>, more: &str) -> Got {
    let server = Server::start(Script {
        offers,
        ..Script::default()
    })
    .await;
    send(&account(server.port, more), mail).await.unwrap();
    let messages = server.messages.lock().await;
    messages[0].clone()
}

/// The text without the line that differs from time to time.
fn dateless(text: &str) -> String {
    let lines = text
        .split_inclusive("\r\n")
        .filter(|line| !line.starts_with("Date: "));
    lines.collect::<String>().replace("\r\n", "\n")
}

#[tokio::test]
async fn the_fullest_message() {
    let mail = json!({
        "subject": "Grüße, 2 < 3 & 100% ✓",
        "body": "Straße\n.dot\n..two",
        "html": "<p>rich</p>",
        "to": ["Ann Müller <ann@example.com>", "\"Lee, Bob\" <bob@example.com>"],
        "cc": "carol@bücher.example",
        "bcc": ["dave@example.com", "ANN@example.com"],
        "from": "Shop <shop@example.com>",
        "replyTo": "help@example.com",
        "headers": {"X-Order": "7", "List-Unsubscribe": "<https://example.com/u?a=b>"},
    });
    let got = got(
        &mail,
        vec!["PIPELINING", "SIZE 0"],
        "return_path = \"bounces@example.com\"",
    )
    .await;
    assert_eq!(got.sender, "bounces@example.com");
    let expected = [
        "ann@example.com",
        "bob@example.com",
        "carol@xn--bcher-kva.example",
        "dave@example.com",
    ];
    assert_eq!(got.recipients, expected);
    expect![[r#"
        From: Shop <shop@example.com>
        To: =?utf-8?b?QW5uIE3DvGxsZXI=?= <ann@example.com>, =?utf-8?b?TGVlLCBC?=
         =?utf-8?b?b2I=?= <bob@example.com>
        Cc: carol@xn--bcher-kva.example
        Reply-To: help@example.com
        Message-ID: <01890000-0000-7000-8000-000000000000.smtp.0@example.com>
        Subject: =?utf-8?b?R3LDvMOfZSw=?= 2 < 3 & 100% =?utf-8?b?4pyT?=
        List-Unsubscribe: <https://example.com/u?a=b>
        X-Order: 7
        MIME-Version: 1.0
        Content-Type: multipart/alternative;
         boundary="=_43a91856ae3c597070c3c8fd02e4ec57"

        --=_43a91856ae3c597070c3c8fd02e4ec57
        Content-Type: text/plain; charset=utf-8
        Content-Transfer-Encoding: quoted-printable

        Stra=C3=9Fe
        .dot
        ..two
        --=_43a91856ae3c597070c3c8fd02e4ec57
        Content-Type: text/html; charset=utf-8
        Content-Transfer-Encoding: 7bit

        <p>rich</p>
        --=_43a91856ae3c597070c3c8fd02e4ec57--
    "#]]
    .assert_eq(&dateless(&got.text));
}

#[tokio::test]
async fn files_stand_beside_the_text_and_what_the_html_shows_with_the_html() {
    let mut mail = payload();
    mail["html"] = json!("<img src=\"cid:logo@1\">");
    mail["attachments"] = json!([
        {"filename": "Rechnung für \"Ann\" 見積書.pdf", "contentType": "application/pdf", "content": STANDARD.encode("x".repeat(60))},
        {"filename": "logo.png", "contentType": "image/png", "content": "AAEC/w==", "contentId": "logo@1"},
    ]);
    let got = got(&mail, vec![], "").await;
    expect![[r#"
        From: Shop <shop@example.com>
        To: ann@example.com
        Message-ID: <01890000-0000-7000-8000-000000000000.smtp.0@example.com>
        Subject: Hello
        MIME-Version: 1.0
        Content-Type: multipart/mixed; boundary="=_ddf26ba8af4c271bc44a7bfa4b35a124"

        --=_ddf26ba8af4c271bc44a7bfa4b35a124
        Content-Type: multipart/alternative;
         boundary="=_43a91856ae3c597070c3c8fd02e4ec57"

        --=_43a91856ae3c597070c3c8fd02e4ec57
        Content-Type: text/plain; charset=utf-8
        Content-Transfer-Encoding: 7bit

        text
        --=_43a91856ae3c597070c3c8fd02e4ec57
        Content-Type: multipart/related;
         boundary="=_e5842b860b6c22c861ebdbb6272f69dd"

        --=_e5842b860b6c22c861ebdbb6272f69dd
        Content-Type: text/html; charset=utf-8
        Content-Transfer-Encoding: 7bit

        <img src="cid:logo@1">
        --=_e5842b860b6c22c861ebdbb6272f69dd
        Content-Type: image/png
        Content-Disposition: inline; filename="logo.png"
        Content-ID: <logo@1>
        Content-Transfer-Encoding: base64

        AAEC/w==
        --=_e5842b860b6c22c861ebdbb6272f69dd--
        --=_43a91856ae3c597070c3c8fd02e4ec57--
        --=_ddf26ba8af4c271bc44a7bfa4b35a124
        Content-Type: application/pdf
        Content-Disposition: attachment;
         filename*0*=utf-8''Rechnung%20f%C3%BCr%20%22Ann%22%20%E8%A6%8B;
         filename*1*=%E7%A9%8D%E6%9B%B8.pdf
        Content-Transfer-Encoding: base64

        eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4
        eHh4
        --=_ddf26ba8af4c271bc44a7bfa4b35a124--
    "#]]
    .assert_eq(&dateless(&got.text));

    // Without HTML there is nothing that shows it.
    mail["html"] = json!(null);
    let mail = Mail::compose(&email(&mail), &message(&mail), None, 0).unwrap();
    let text = String::from_utf8(mail.text).unwrap();
    assert!(
        text.contains("multipart/mixed") && !text.contains("multipart/related"),
        "{text}"
    );
    assert!(text.contains("Content-ID: <logo@1>\r\n"), "{text}");
}

#[test]
fn no_file_ends_a_header_or_goes_without_its_content() {
    for (field, bad) in [
        ("filename", "a\r\nBcc: eve@example.com"),
        ("filename", "a\nb"),
        ("contentType", "text/plain\r\nX: y"),
        ("contentType", "nothing"),
        ("contentId", "a>\r\nX: <b"),
        ("contentId", "a> <b"),
        ("content", "not base64"),
    ] {
        let mut json = serde_json::to_value(email(&payload())).unwrap();
        json["attachments"] = json!([
            {"filename": "a", "contentType": "text/plain", "content": "aGk=", "contentId": "x", "disposition": "inline"}
        ]);
        json["attachments"][0][field] = json!(bad);
        let hostile = serde_json::from_value(json.clone()).unwrap();
        let problem = Mail::compose(&hostile, &message(&payload()), None, 0).unwrap_err();
        assert!(problem.starts_with("attachments[0]."), "{problem}");
        assert!(!problem.contains("eve"), "{problem}");
        // One that nobody fetched.
        json["attachments"][0] = json!({"filename": "a", "contentType": "text/plain", "url": "https://example.com/", "disposition": "inline"});
        let unfetched = serde_json::from_value(json).unwrap();
        assert!(Mail::compose(&unfetched, &message(&payload()), None, 0).is_err());
    }
}

#[tokio::test]
async fn the_barest_message() {
    let got = got(&payload(), vec![], "").await;
    assert_eq!(
        (got.sender.as_str(), got.recipients),
        ("shop@example.com", vec!["ann@example.com".to_owned()])
    );
    expect![[r#"
        From: Shop <shop@example.com>
        To: ann@example.com
        Message-ID: <01890000-0000-7000-8000-000000000000.smtp.0@example.com>
        Subject: Hello
        MIME-Version: 1.0
        Content-Type: text/plain; charset=utf-8
        Content-Transfer-Encoding: 7bit

        text
    "#]]
    .assert_eq(&dateless(&got.text));
}

#[tokio::test]
async fn letters_before_the_at_need_a_server_that_takes_them() {
    let mut mail = payload();
    mail["to"] = json!("grüße@example.com");
    let got = got(&mail, vec!["SMTPUTF8", "8BITMIME"], "").await;
    assert_eq!(got.recipients, ["grüße@example.com"]);
    assert!(got.text.contains("To: grüße@example.com\r\n"), "{}", got.text);

    let server = Server::start(Script::default()).await;
    let registry = account(server.port, "");
    let failure = send(&registry, &mail).await.unwrap_err();
    assert_eq!(failure.code.as_deref(), Some("smtputf8"));
    send(&registry, &payload()).await.unwrap();
}

#[tokio::test]
async fn a_message_that_the_server_finds_too_big_is_not_begun() {
    let server = Server::start(Script {
        offers: vec!["SIZE 200"],
        ..Script::default()
    })
    .await;
    let failure = send(&account(server.port, ""), &payload()).await.unwrap_err();
    assert_eq!(failure.code.as_deref(), Some("size"));
    assert!(!server.told("MAIL").await);
}

#[test]
fn nothing_can_end_a_header_or_a_command() {
    let mut ways = Vec::new();
    for bad in ["a\r\nBcc: eve@example.com", "a\nb", "a\0b", "a\rb"] {
        let change = |field: &str, value: serde_json::Value| {
            let mut mail = serde_json::to_value(email(&payload())).unwrap();
            mail[field] = value;
            mail
        };
        ways.push(change("subject", json!(bad)));
        ways.push(change("headers", json!({"X-A": bad})));
        ways.push(change("headers", json!({bad: "x"})));
        for field in ["to", "from", "cc", "bcc", "replyTo"] {
            ways.push(change(field, json!(format!("{bad} <ann@example.com>"))));
            ways.push(change(field, json!(format!("{bad}@example.com"))));
            ways.push(change(field, json!(format!("ann@example.com{bad}"))));
        }
    }
    let message = message(&payload());
    for way in ways {
        // Past the checks of intake, as a record that somebody else wrote.
        let email = serde_json::from_value(way.clone()).unwrap();
        let made = Mail::compose(&email, &message, None, 0);
        let problem = made.map(|mail| String::from_utf8_lossy(&mail.text).into_owned());
        assert!(problem.is_err(), "{way}: {problem:?}");
        assert!(!problem.unwrap_err().contains("eve"), "{way}");
    }
}

fn email(json: &serde_json::Value) -> posthaste_event::payload::Email {
    match message(json).payload {
        Payload::Email(email) => email,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_repetition_is_the_same_message_to_the_letter() {
    let mut json = payload();
    json["html"] = json!("<p>x</p>");
    let (mail, message) = (email(&json), message(&json));
    let compose = |now| Mail::compose(&mail, &message, None, now).unwrap().text;
    assert_eq!(compose(1_000), compose(1_000));
    let [first, later] =
        [compose(1_000), compose(9_000)].map(|text| dateless(&String::from_utf8(text).unwrap()));
    assert_eq!(first, later);
}

#[test]
fn no_end_of_a_line_stands_alone() {
    for html in [None, Some("a\rb\nc\r\n.\r.\n")] {
        let mut json = payload();
        json["body"] = json!("a\n\rb\r\r\n.\n\n.\r");
        json["html"] = json!(html);
        let mail = Mail::compose(&email(&json), &message(&json), None, 0).unwrap();
        let text = String::from_utf8(mail.text).unwrap();
        let rest = text.replace("\r\n", "");
        assert!(!rest.contains(['\r', '\n']), "{text:?}");
    }
}

#[test]
fn ids_hold_any_key_and_nothing_that_ends_them() {
    assert_eq!(
        message_id("e-1:smtp:0", "shop.example"),
        "<e-1.smtp.0@shop.example>"
    );
    assert_eq!(
        message_id("a:b.c>\r\n:smtp_2:12", "x"),
        "<a=3Ab=2Ec=3E=0D=0A.smtp_2.12@x>"
    );
}

#[test]
fn an_id_of_the_events_own_is_kept() {
    let mut json = payload();
    json["headers"] = json!({"message-id": "<mine@example.com>"});
    let mail = Mail::compose(&email(&json), &message(&json), None, 0).unwrap();
    let text = String::from_utf8(mail.text).unwrap().to_lowercase();
    assert_eq!(text.matches("message-id:").count(), 1);
    assert!(text.contains("message-id: <mine@example.com>\r\n"), "{text}");
}
