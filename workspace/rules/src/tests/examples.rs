//! The tests inside a rule file, and what is said when the rules do not pass them.

use expect_test::{Expect, expect};

use crate::Rules;

const RULES: &str = r#"[[rule]]
id = "sms-twilio"
match = { channel = ["sms"], provider = ["twilio"] }
tries = 3
backoff = { kind = "fixed", delay = "1s" }
failover = { provider = "messagebird", delay = "1s" }
[[rule]]
id = "else"
tries = 2
backoff = { kind = "exponential", first = "10s", cap = "1m", jitter = 0.2 }
"#;

fn with_test(given: &str, expect: &str) -> Result<Rules, String> {
    let test = format!("[[test]]\nname = \"mine\"\ngiven = {{ {given} }}\nexpect = {{ {expect} }}\n");
    Rules::parse(&format!("{RULES}{test}"), "my.toml").map_err(|error| error.to_string())
}

fn refused(given: &str, expect: &str, expected: Expect) {
    expected.assert_eq(&with_test(given, expect).unwrap_err());
}

const TWILIO: &str = r#"channel = "sms", provider = "twilio""#;

#[test]
fn tests_that_hold_are_counted() {
    for (given, expect) in [
        (
            "",
            r#"rule = "sms-twilio", then = "retry", provider = "twilio", wait = "1s""#,
        ),
        (", tries = 3", r#"then = "failover", provider = "messagebird""#),
        (", tries = 3, pinned = true", r#"then = "dead_letter""#),
        (r#", error = "permanent""#, r#"then = "dead_letter""#),
        (r#", age = "4d""#, r#"then = "dead_letter""#),
        (
            r#", error = "rate_limited", retry_after = "7s""#,
            r#"wait = "7s""#,
        ),
    ] {
        let rules = with_test(&format!("{TWILIO}{given}"), expect).unwrap();
        assert_eq!(rules.tests(), 1);
    }
    // Within the jitter.
    for wait in ["8s", "10s", "12s"] {
        let wait = format!("wait = {wait:?}");
        with_test(
            r#"channel = "email", provider = "mailgun", priority = "low""#,
            &wait,
        )
        .unwrap();
    }
}

#[test]
fn a_test_that_fails_refuses_the_file_and_says_what_the_rules_do() {
    refused(
        &format!("{TWILIO}, tries = 3"),
        r#"then = "retry""#,
        expect![[
            r#"my.toml:14: test "mine", expect.then: "retry" is expected, but the rules say: retry in 1s via messagebird (rule sms-twilio, line 2); accepted: "failover""#
        ]],
    );
    refused(
        TWILIO,
        r#"rule = "else""#,
        expect![[
            r#"my.toml:14: test "mine", expect.rule: "else" is expected, but the rules say: retry in 1s via twilio (rule sms-twilio, line 2); accepted: "sms-twilio""#
        ]],
    );
    refused(
        TWILIO,
        r#"wait = "2s""#,
        expect![[
            r#"my.toml:14: test "mine", expect.wait: "2s" is expected, but the rules say: retry in 1s via twilio (rule sms-twilio, line 2); accepted: "1s""#
        ]],
    );
    refused(
        r#"channel = "email", provider = "mailgun""#,
        r#"wait = "13s""#,
        expect![[
            r#"my.toml:14: test "mine", expect.wait: "13s" is expected, but the rules say: retry in 8s to 12s via mailgun (rule else, line 8); accepted: "8s" to "12s""#
        ]],
    );
    refused(
        &format!("{TWILIO}, error = \"permanent\""),
        r#"provider = "messagebird""#,
        expect![[
            r#"my.toml:14: test "mine", expect.provider: "messagebird" is expected, but the rules say: dead-letter, no rule names errors of the kind permanent; accepted: no provider here, or other rules"#
        ]],
    );
}

#[test]
fn a_test_that_cannot_be_read_is_refused() {
    refused(
        TWILIO,
        "",
        expect![
            "my.toml:14: expect: nothing is expected; accepted: at least one of rule, then, provider, wait"
        ],
    );
    refused(
        TWILIO,
        r#"then = "again""#,
        expect![[
            r#"my.toml:14: expect.then: unknown outcome "again"; accepted: retry, failover, dead_letter"#
        ]],
    );
    refused(
        TWILIO,
        r#"wait = "soon""#,
        expect![[
            r#"my.toml:14: expect.wait: "soon" is not a duration; accepted: a number and ms, s, m, h or d, such as "1.5s", at most "365d""#
        ]],
    );
    refused(
        r#"channel = "fax", provider = "x""#,
        r#"then = "retry""#,
        expect![[
            r#"my.toml:13: given.channel: unknown channel "fax"; accepted: sms, email, push, slack, webhook, in_app"#
        ]],
    );
    refused(
        &format!("{TWILIO}, tries = 0"),
        r#"then = "retry""#,
        expect!["my.toml:13: given.tries: 0 tries; accepted: 1 to 10000"],
    );
    refused(
        &format!("{TWILIO}, kind = \"x\""),
        r#"then = "retry""#,
        expect![
            "my.toml:13: kind: unknown field `kind`, expected one of `channel`, `provider`, `tenant`, `priority`, `error`, `code`, `retry_after`, `tries`, `age`, `pinned`"
        ],
    );
}
