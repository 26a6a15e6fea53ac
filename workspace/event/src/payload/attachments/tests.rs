//! Which files are taken, and which are refused.

use expect_test::{Expect, expect};

use super::*;
use crate::{Channel, payload::Payload};

fn email(files: &Json) -> Box<RawValue> {
    let email = json!({"subject": "s", "body": "b", "to": "a@example.com", "from": "b@example.com", "attachments": files});
    RawValue::from_string(email.to_string()).unwrap()
}

fn accepts(files: &Json) -> Vec<Attachment> {
    match Payload::accept(Channel::Email, &email(files)) {
        Ok(Payload::Email(email)) => email.attachments,
        other => panic!("{files}: {other:?}"),
    }
}

fn refuses(files: &Json, expected: Expect) {
    let errors = Payload::accept(Channel::Email, &email(files)).expect_err(&files.to_string());
    let said: Vec<String> = errors.iter().map(ToString::to_string).collect();
    expected.assert_eq(&said.join("\n"));
}

#[test]
fn files_come_with_their_content_or_with_their_address() {
    let files = accepts(&json!([
        {"filename": "a.pdf", "contentType": "application/pdf", "content": "aGk="},
        {"filename": "Übersicht 2030.csv", "url": "https://files.example.com/1?sig=x", "contentType": null},
        {"filename": "logo.png", "contentType": "image/png", "content": "aGk=", "contentId": "logo@1"},
    ]));
    assert_eq!(files[0].bytes().unwrap(), b"hi");
    assert_eq!(files[0].bytes_len(), Some(2));
    assert_eq!((files[1].bytes(), files[1].bytes_len()), (None, None));
    assert_eq!(files[1].content_type, "application/octet-stream");
    let dispositions: Vec<_> = files.iter().map(|file| file.disposition.as_str()).collect();
    assert_eq!(dispositions, ["attachment", "attachment", "inline"]);
    for none in [json!(null), json!([])] {
        assert_eq!(accepts(&none), []);
    }
}

#[test]
fn what_is_wrong_with_a_file_is_named_with_its_place() {
    refuses(
        &json!([{"filename": "a", "content": "aGk="}, {"content": "aGk", "contentType": "pdf"}, 7, {"filename": "b"}]),
        expect![[r#"
            payload.attachments[1].filename: is missing; accepted: one line of 1 to 200 characters without slashes and marks that turn its direction, such as invoice.pdf
            payload.attachments[1].contentType: "pdf" is no media type of a file; accepted: a media type without parameters such as application/pdf, neither multipart nor message
            payload.attachments[1].content: is not base64; accepted: base64 (RFC 4648, section 4) with its padding, without line breaks
            payload.attachments[2]: must be an object, not a number; accepted: an object with filename, and content or url
            payload.attachments[3].content: is missing; accepted: the file in base64; or its address in url"#]],
    );
    refuses(
        &json!([{"filename": "a", "content": "aGk=", "url": "ftp://example.com/a", "disposition": "hidden", "size": 7}]),
        expect![[r#"
            payload.attachments[0].url: has the scheme "ftp"; accepted: an http or https URL with a host and without user and password
            payload.attachments[0].url: cannot be given together with content; accepted: one of the two
            payload.attachments[0].disposition: "hidden" is unknown; accepted: attachment, inline
            payload.attachments[0].size: is not a field; accepted: filename, contentType, content, url, contentId, disposition"#]],
    );
    let logo = json!({"filename": "a", "content": "aGk=", "contentId": "logo"});
    refuses(
        &json!([logo, logo, {"filename": "a", "content": "aGk=", "contentId": "x", "disposition": "attachment"}]),
        expect![[r#"
            payload.attachments[1].contentId: is another attachment's, too; accepted: each once
            payload.attachments[2].contentId: is given for what is not shown inline; accepted: disposition inline, or no contentId"#]],
    );
    refuses(
        &json!("a.pdf"),
        expect!["payload.attachments: must be a list, not text; accepted: a list of files, each an object"],
    );
    refuses(
        &json!(vec![logo; ATTACHMENTS_MAX + 1]),
        expect!["payload.attachments: has 101 files; accepted: up to 100 files"],
    );
}

#[test]
fn no_name_type_or_id_leads_elsewhere() {
    let refused = |field: &str, value: &str| {
        let mut file = json!({"filename": "a", "content": "aGk="});
        file[field] = json!(value);
        let errors = Payload::accept(Channel::Email, &email(&json!([file]))).expect_err(value);
        assert_eq!(
            errors[0].field,
            format!("payload.attachments[0].{field}"),
            "{value:?}"
        );
    };
    for name in [
        "",
        " ",
        ".",
        "..",
        ". .",
        "../../etc/passwd",
        "a/b",
        "C:\\a",
        "a\r\nBcc: eve@example.com",
        "a\0.pdf",
        "a\u{7f}",
        "a\u{85}b",
        "invoice\u{202e}fdp.exe",
        "a\u{2028}b",
        &"x".repeat(FILENAME_CHARS_MAX + 1),
    ] {
        refused("filename", name);
    }
    for kind in [
        "",
        "text",
        "text/",
        "/plain",
        "text/plain; charset=utf-8",
        "text/pl ain",
        "text/plain\r\nX-A: b",
        "Multipart/mixed",
        "message/rfc822",
        "tëxt/plain",
        &format!("a/{}", "b".repeat(TYPE_CHARS_MAX + 1)),
    ] {
        refused("contentType", kind);
    }
    for id in [
        "",
        "<logo>",
        "lo go",
        "logo\r\n",
        "lögo",
        &"x".repeat(CONTENT_ID_CHARS_MAX + 1),
    ] {
        refused("contentId", id);
    }
    for content in [
        "",
        "a",
        "aGk",
        "aGk=\n",
        "aGk=\r\naGk=",
        "aGl=",
        "aG-_",
        "aGk==",
        "=",
        "data:;base64,aGk=",
    ] {
        refused("content", content);
    }
    for url in [
        "",
        "file:///etc/passwd",
        "https://u:p@example.com/",
        "//example.com/a",
        "https://",
    ] {
        let file = json!({"filename": "a", "url": url});
        assert!(
            Payload::accept(Channel::Email, &email(&json!([file]))).is_err(),
            "{url}"
        );
    }
}

#[test]
fn names_of_any_script_are_taken() {
    for name in [
        "a.pdf",
        "Rechnung für \"Ann\".pdf",
        "見積書.xlsx",
        ".profile",
        "a'b;c=d%.txt",
        "😀",
    ] {
        assert_eq!(
            accepts(&json!([{"filename": name, "content": "aGk="}]))[0].filename,
            name
        );
    }
}

#[test]
fn a_file_with_a_field_of_a_newer_version_is_still_read() {
    let raw = email(&json!([{"filename": "a", "content": "aGk=", "new": 1}]));
    assert!(Payload::accept(Channel::Email, &raw).is_err());
    assert!(Payload::parse(Channel::Email, &raw).is_ok());
}

#[test]
fn contents_can_be_left_out() {
    let mut payload =
        json!({"to": "a", "attachments": [{"filename": "a", "content": "aGk="}, {"url": "x"}, 7]});
    leave_contents_out(&mut payload);
    assert_eq!(
        payload,
        json!({"to": "a", "attachments": [{"filename": "a", "contentBytes": 2}, {"url": "x"}, 7]})
    );
    for mut other in [json!(null), json!("x"), json!({"attachments": "x"}), json!([])] {
        let before = other.clone();
        leave_contents_out(&mut other);
        assert_eq!(other, before);
    }
}
