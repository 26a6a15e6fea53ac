//! What texts come to, and what is not made of them.

use serde_json::json;

use super::*;

fn rendered(source: &str, escape: Escape) -> Result<String, Error> {
    let mut environment = environment();
    let name = escape.name(0);
    environment
        .add_template_owned(name.clone(), source.to_owned())
        .unwrap();
    let values = Value::from(minijinja::value::Serde(json!({
        "name": "A<b>&'\"", "n": 3, "price": 2.5, "list": ["a", "b"], "none": null, "yes": true,
        "long": "x".repeat(20_000), "many": vec!["y"; 5_000], "user": {"name": "Ann"}, "empty": ""
    })));
    let _allowance = Allowance::new(100_000);
    render(&environment, &name, &values)
}

#[test]
fn values_come_out_as_they_should() {
    for (source, expected) in [
        ("{{ n }} {{ price }} {{ yes }} {{ user.name }}", "3 2.5 true Ann"),
        ("{{ name | lower }}", "a<b>&'\""),
        (
            "{{ list | join(', ') }} {{ list|length }} {{ list|first }}{{ list|last }}",
            "a, b 2 ab",
        ),
        (
            "{{ missing | default('?') }}{{ none | default('!') }}{{ empty | default('.') }}",
            "?!.",
        ),
        ("{% if missing %}a{% else %}b{% endif %}", "b"),
        ("{% for x in list %}{{ loop.index }}{{ x }}{% endfor %}", "1a2b"),
        ("{{ price | times(n) | round(2) }} {{ n | plus(1) }}", "7.50 4"),
        (
            "{{ 'hello wORLD' | title }} {{ 'x-y' | replace('-', '+') }}",
            "Hello World x+y",
        ),
        ("{{ 'abcdef' | truncate(4) }}", "abc\u{2026}"),
    ] {
        assert_eq!(rendered(source, Escape::Plain).unwrap(), expected, "{source}");
    }
    assert_eq!(
        rendered("<p>{{ name }}</p>", Escape::Html).unwrap(),
        "<p>A&lt;b&gt;&amp;&#x27;&quot;</p>"
    );
    assert_eq!(
        rendered("*{{ name }}*", Escape::Slack).unwrap(),
        "*A&lt;b&gt;&amp;'\"*"
    );
}

#[test]
fn what_is_missing_or_no_text_is_an_error_and_never_empty() {
    for source in ["{{ missing }}", "{{ none }}", "{{ user.missing }}"] {
        let error = rendered(source, Escape::Plain).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UndefinedError, "{source}");
    }
    for source in [
        "{{ list }}",
        "{{ user }}",
        "{{ [long, long] }}",
        "{{ loop(1) }}",
        "{{ n.x.y }}",
    ] {
        assert!(rendered(source, Escape::Plain).is_err(), "{source}");
    }
}

proptest::proptest! {
    /// What the check lets through the engine takes, or says why not; either way it stays within bounds.
    #[test]
    fn whatever_passes_the_check_stays_within_bounds(
        pieces in proptest::collection::vec(proptest::sample::select(PIECES), 0..40)
    ) {
        let source: String = pieces.concat();
        if super::super::syntax::check(&source).is_ok() {
            let mut environment = environment();
            if environment.add_template_owned("h0", source).is_ok() {
                let values = Value::from(minijinja::value::Serde(json!({"a": "<x>", "b": ["y", 1, null], "c": {"a": 2}})));
                let _allowance = Allowance::new(1_000);
                if let Ok(text) = render(&environment, "h0", &values) {
                    assert!(text.len() <= 1_000);
                }
            }
        }
    }
}

const PIECES: &[&str] = &[
    "{{",
    "}}",
    "{%",
    "%}",
    "{#",
    "#}",
    "-",
    " ",
    "a",
    "b",
    "c",
    "a.b",
    "b[0]",
    "'",
    "\"",
    "\\",
    "|",
    "upper",
    "join",
    "first",
    "last",
    "length",
    "default('z')",
    "replace('x', 'xx')",
    "times(9)",
    "round(2)",
    "truncate(3)",
    "is",
    "not",
    "defined",
    "for",
    "in",
    "endfor",
    "{% for x in b %}",
    "{% endfor %}",
    "{% if a %}",
    "{% endif %}",
    "{% else %}",
    "{{ x }}",
    "{{ a }}",
    "{{ loop.index }}",
    "(",
    ")",
    "[",
    "]",
    ",",
    "==",
    "<",
    "/",
    "%",
    "7",
    "0",
    ".",
    "\u{fc}",
    "text",
    "\n",
    "recursive",
    "loop(b)",
    "set",
    "~",
    "*",
    ":",
];

#[test]
fn the_steps_of_all_texts_are_counted_together() {
    let mut environment = environment();
    let source = "{% for a in many %}{% if a == 'z' %}{% endif %}{% endfor %}";
    environment.add_template_owned("p0", source).unwrap();
    let values = Value::from(minijinja::value::Serde(json!({"many": vec!["y"; 900]})));
    let _allowance = Allowance::new(1_000);
    let rendered = (0..1_000)
        .take_while(|_| render(&environment, "p0", &values).is_ok())
        .count();
    assert!((5..60).contains(&rendered), "{rendered}");
}

#[test]
fn much_cannot_be_made_of_little() {
    for source in [
        "{% for a in many %}{{ long }}{% endfor %}",
        "{% for a in many %}{% for b in many %}{% endfor %}{% endfor %}",
        "{% for a in many %}a rather long text that stands in the template itself{% endfor %}",
        "{{ long | upper }}",
        "{{ many | join('xxxxxxxxxx') }}",
        "{{ 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa' | replace('a', long) }}",
        "{{ 'a' | replace('', 'b') }}",
        "{% for a in many %}{% if a|replace('y', 'zzzzzzzzzz')|upper|lower == 'a' %}{% endif %}{% endfor %}",
    ] {
        assert!(rendered(source, Escape::Plain).is_err(), "{source}");
    }
    let busy = "{{ 'x' | upper }}".repeat(100)
        + &"{% if long|truncate(9000)|upper|lower == 'a' %}{% endif %}".repeat(400);
    assert!(rendered(&busy, Escape::Plain).is_err());
}
