//! What a rule file is refused for, and how that is said.

use expect_test::{Expect, expect};

use crate::Rules;

/// One rule that fits everything, one of its lines replaced.
fn refused(line: &str, instead: &str, expected: Expect) {
    let text = concat!(
        "max_age = \"3d\"\n",
        "[[rule]]\n",
        "id = \"a\"\n",
        "match = { channel = [\"sms\"] }\n",
        "tries = 3\n",
        "backoff = { kind = \"fixed\", delay = \"1s\" }\n",
        "[[rule]]\n",
        "id = \"else\"\n",
        "tries = 3\n",
        "backoff = { kind = \"exponential\", first = \"1s\", cap = \"1m\" }\n",
    );
    assert!(text.contains(line), "{line}");
    let error = Rules::parse(&text.replacen(line, instead, 1), "my.toml").unwrap_err();
    expected.assert_eq(&error.to_string());
}

#[test]
fn a_wrong_file_is_refused_with_line_key_and_what_would_be_right() {
    refused(
        "tries = 3",
        "tris = 3",
        expect![
            "my.toml:5: tris: unknown field `tris`, expected one of `id`, `match`, `tries`, `backoff`, `failover`, `max_age`, `retry_after`, `end`"
        ],
    );
    refused(
        "tries = 3",
        "tries = 0",
        expect!["my.toml:5: tries: 0 tries; accepted: 1 to 1000"],
    );
    refused(
        "tries = 3",
        "tries = \"3\"",
        expect![[r#"my.toml:5: tries: invalid type: string "3", expected a whole number, 0 or more"#]],
    );
    refused(
        "tries = 3",
        "tries = -1",
        expect!["my.toml:5: tries: invalid value: integer `-1`, expected a whole number, 0 or more"],
    );
    refused("tries = 3\n", "", expect!["my.toml:2: missing field `tries`"]);
    refused(
        "delay = \"1s\"",
        "delay = \"1 sec\"",
        expect![[
            r#"my.toml:6: backoff.delay: "1 sec" is not a duration; accepted: a number and ms, s, m, h or d, such as "1.5s", at most "365d""#
        ]],
    );
    refused(
        "delay = \"1s\"",
        "delay = 5",
        expect!["my.toml:6: delay: invalid type: integer `5`, expected a text in quotes"],
    );
    refused(
        "\"fixed\"",
        "\"linear\"",
        expect![[r#"my.toml:6: backoff.kind: unknown kind "linear"; accepted: fixed, exponential, list"#]],
    );
    refused(
        "delay = \"1s\"",
        "first = \"1s\"",
        expect![[
            r#"my.toml:6: backoff: delay is missing for kind "fixed"; accepted: a number and ms, s, m, h or d, such as "1.5s", at most "365d""#
        ]],
    );
    refused(
        ", delay = \"1s\"",
        "",
        expect![[
            r#"my.toml:6: backoff: delay is missing for kind "fixed"; accepted: a number and ms, s, m, h or d, such as "1.5s", at most "365d""#
        ]],
    );
    refused(
        "cap = \"1m\"",
        "cap = \"1ms\"",
        expect!["my.toml:10: backoff.cap: the cap is below the first wait; accepted: first or longer"],
    );
    refused(
        "cap = \"1m\"",
        "cap = \"1m\", factor = 0.5",
        expect!["my.toml:10: backoff.factor: 0.5 is out of range; accepted: 1 to 100"],
    );
    refused(
        "cap = \"1m\"",
        "cap = \"1m\", jitter = nan",
        expect!["my.toml:10: backoff.jitter: NaN is out of range; accepted: 0 to 1"],
    );
    refused(
        "\"sms\"",
        "\"fax\"",
        expect![[
            r#"my.toml:4: match.channel: unknown channel "fax"; accepted: sms, email, push, slack, webhook, in_app"#
        ]],
    );
    refused(
        "[\"sms\"]",
        "\"sms\"",
        expect![[r#"my.toml:4: channel: invalid type: string "sms", expected a list, such as ["sms"]"#]],
    );
    refused(
        "[\"sms\"]",
        "[]",
        expect![
            "my.toml:4: match.channel: an empty list fits nothing; accepted: at least one, or no such key"
        ],
    );
    refused(
        "channel = [\"sms\"]",
        "code = [\"5*3\"]",
        expect![[
            r#"my.toml:4: match.code: "5*3" cannot be matched; accepted: a name, or the beginning of one and "*""#
        ]],
    );
    refused(
        "channel = [\"sms\"]",
        "chanel = [\"sms\"]",
        expect![
            "my.toml:4: chanel: unknown field `chanel`, expected one of `channel`, `provider`, `tenant`, `priority`, `error`, `code`, `older_than`, `younger_than`"
        ],
    );
    refused(
        "match = { channel = [\"sms\"] }",
        "",
        expect![[
            r#"my.toml:2: rule "a": it fits everything, so no rule below it can ever decide; accepted: such a rule at the end only"#
        ]],
    );
    refused(
        "id = \"else\"",
        "id = \"a\"",
        expect![[r#"my.toml:8: rule "a": two rules have this id; accepted: an id of its own"#]],
    );
    refused(
        "id = \"else\"",
        "id = \"a b\"",
        expect![[
            r#"my.toml:8: id: "a b" is not a name; accepted: 1 to 64 letters, digits, ".", "_" or "-""#
        ]],
    );
    refused(
        "id = \"else\"",
        "id = \"else\"\nend = \"drop\"",
        expect![[r#"my.toml:9: end: unknown end "drop"; accepted: "dead_letter""#]],
    );
    refused(
        "id = \"else\"",
        "id = \"else\"\nmatch = { channel = [\"push\"] }",
        expect![[
            r#"my.toml:7: rule "else": the last rule does not fit everything; accepted: a last rule without `match`, for all else"#
        ]],
    );
    refused(
        "max_age = \"3d\"",
        "max_age = \"0s\"",
        expect!["my.toml:1: max_age: nothing may be that young; accepted: a duration above 0"],
    );
    refused(
        "max_age = \"3d\"",
        "max_age = \"3d",
        expect![[r#"my.toml:1: max_age: invalid basic string, expected `"`"#]],
    );
    refused(
        "max_age = \"3d\"",
        "retry_after = { min = \"2s\", max = \"1s\" }",
        expect!["my.toml:1: retry_after.max: below retry_after.min; accepted: min or longer"],
    );
    let error = Rules::parse("", "empty.toml").unwrap_err();
    expect![
        "empty.toml:1: rule: there is no rule; accepted: at least one [[rule]], the last without `match`"
    ]
    .assert_eq(&error.to_string());
}
