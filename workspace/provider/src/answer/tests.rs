//! Single answers, and single rules.

use super::*;

fn reading(text: &str) -> Reading {
    Reading::parse(toml::from_str(text).unwrap()).unwrap()
}

#[test]
fn what_no_rule_decides_is_decided_by_the_status() {
    let reading = reading("rules = [{ status = 201, meaning = \"accepted\" }]");
    for (status, kind) in [
        (200, ErrorKind::Ambiguous),
        (302, ErrorKind::Rejected),
        (400, ErrorKind::Rejected),
        (401, ErrorKind::Rejected),
        (408, ErrorKind::Ambiguous),
        (429, ErrorKind::RateLimited),
        (500, ErrorKind::Ambiguous),
        (502, ErrorKind::Ambiguous),
        (503, ErrorKind::Rejected),
        (504, ErrorKind::Ambiguous),
    ] {
        let headers = HeaderMap::new();
        let failure = reading
            .read("p", &Answer::new(status, &headers, "", 0))
            .unwrap_err();
        assert_eq!(failure.kind, kind, "{status}");
        assert_eq!(failure.code.as_deref(), Some(status.to_string().as_str()));
    }
}

#[test]
fn statuses_are_one_a_class_or_a_range() {
    let value = |text: &str| toml::Value::String(text.to_owned());
    for (written, expected) in [
        (toml::Value::Integer(201), Some((201, 201))),
        (value("2xx"), Some((200, 299))),
        (value("400-499"), Some((400, 499))),
        (value("0xx"), None),
        (value("6xx"), None),
        (value("656xx"), None),
        (value("65535xx"), None),
        (value("xx"), None),
        (value("499-400"), None),
        (value("99-200"), None),
        (toml::Value::Integer(-1), None),
        (toml::Value::Integer(600), None),
    ] {
        assert_eq!(statuses(&written).ok(), expected, "{written}");
    }
}

#[test]
fn retry_after_is_seconds_or_a_date_and_bounded() {
    let now = 784_111_777_000 - 90_000;
    for (text, expected) in [
        ("7", Some(7_000)),
        ("0.5", Some(500)),
        ("Sun, 06 Nov 1994 08:49:37 GMT", Some(90_000)),
        ("Sat, 06 Nov 1993 08:49:37 GMT", Some(0)),
        ("999999999999999999999", Some(86_400_000)),
        ("-1", None),
        ("soon", None),
        ("NaN", None),
    ] {
        assert_eq!(wait_ms(text, now), expected, "{text}");
    }
}

#[test]
fn places_are_found_in_lists_and_headers() {
    let reading = reading(
        r#"
        message_id = ["header:x-id", "a.0.id"]
        error_code = "e.details.*.errorCode"
        rules = [
            { codes = "GONE", meaning = "permanent" },
            { path = "ok", values = true, meaning = "accepted" },
        ]
        "#,
    );
    let headers = HeaderMap::new();
    let receipt = reading.read(
        "p",
        &Answer::new(200, &headers, r#"{"ok":true,"a":[{"id":7}]}"#, 0),
    );
    assert_eq!(receipt.unwrap().message_id.as_deref(), Some("7"));
    let answer = Answer::new(
        404,
        &headers,
        r#"{"e":{"details":[{"x":1},{"errorCode":"GONE"}]}}"#,
        0,
    );
    assert_eq!(reading.read("p", &answer).unwrap_err().kind, ErrorKind::Permanent);
}

/// Whatever the answer is: what is found in all of it is found in what is kept of it.
#[test]
fn of_an_answer_nothing_is_left_out_that_is_looked_at() {
    let path = |text: &str| text.split('.').map(str::to_owned).collect::<Vec<_>>();
    let paths = [
        "id", "a.b", "a.*.b", "a.0", "a.1.c.d", "*.id", "1", "a.b.c", "x.y",
    ]
    .map(path);
    let answers = [
        r#"{"id":1,"no":{"id":[1,2,{"a":{}}]},"a":{"b":{"c":"d"},"no":1},"text":"\"}\\"}"#,
        r#"{"a":[{"b":1},{"c":{"d":true}}],"id":null,"\u0069d":2}"#,
        r#"{"a":{"0":7,"*":{"b":8}}}"#,
        r#"[{"id":1},{"id":2}]"#,
        r#"{"a":"text","x":1.5}"#,
        r#"{"a":-1,"x":[]}"#,
        r#"{"a":false,"x":null}"#,
        r#""text""#,
        "7",
        "{}",
        r#"{"id":1} more"#,
        r#"{"id":1,"no":{"#,
        "<html>",
        "",
    ];
    let mut found = 0;
    for text in answers {
        let whole: Json = serde_json::from_str(text).unwrap_or_default();
        for several in 1..1 << paths.len() {
            let asked = || {
                let paths = paths.iter().enumerate();
                paths.filter_map(|(place, path)| (several & (1 << place) > 0).then_some(path))
            };
            let mut wanted = Wanted::default();
            asked().for_each(|path| wanted.add(path));
            let kept = wanted.read(text);
            for path in asked() {
                let value = find(&whole, path).filter(|value| !value.is_null());
                assert_eq!(
                    find(&kept, path).filter(|value| !value.is_null()),
                    value,
                    "{text} {path:?}"
                );
                found += usize::from(value.is_some());
            }
        }
    }
    assert!(found > 1_000, "{found}");
}

#[test]
fn what_nobody_looks_at_does_not_spoil_an_answer() {
    let mut wanted = Wanted::default();
    wanted.add(&["id".to_owned()]);
    let deep = format!("{}{}", "[".repeat(500), "]".repeat(500));
    for odd in ["1e999", &deep] {
        let text = format!(r#"{{"odd":{odd},"id":7}}"#);
        assert!(
            serde_json::from_str::<Json>(&text).is_err(),
            "else nothing is shown"
        );
        assert_eq!(wanted.read(&text)["id"], 7);
    }
}
