//! The sources and their order; errors that say where and what.

use std::{collections::BTreeMap, io::Write as _};

use serde::Deserialize;

use super::*;

const DEFAULTS: &str = r#"
# Where.
[service]
listen = ""
limit = 10
ratio = 0.5
verbose = false
names = ["a"]

[service.inner]
token = "t"

# Named by the user.
[accounts]

# Named by us and by the user.
[providers.twilio]
auth_token = ""
"#;

#[derive(Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct Service {
    listen: String,
    limit: u8,
    ratio: f64,
    verbose: bool,
    names: Vec<String>,
    inner: Inner,
}

#[derive(Debug, Deserialize, PartialEq)]
struct Inner {
    token: String,
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct Account {
    user: String,
    #[serde(default)]
    size: u8,
}

fn load(file: &str, environment: &[(&str, &str)], overrides: &[Override]) -> Result<Configuration, String> {
    let mut written = tempfile::NamedTempFile::new().unwrap();
    written.write_all(file.as_bytes()).unwrap();
    let environment = environment
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Configuration::load(Sources {
        defaults: DEFAULTS,
        open: &["providers"],
        file: Some(written.path()),
        environment: environment.collect(),
        overrides,
    })
    .map_err(|error| {
        error
            .to_string()
            .replace(&written.path().display().to_string(), "FILE")
    })
}

fn problem(file: &str) -> String {
    load(file, &[], &[]).unwrap_err()
}

#[test]
fn later_sources_win_and_are_remembered() {
    let file = "[service]\nlisten = \"file\"\nlimit = 1\nverbose = true\n[service.inner]\ntoken = \"f\"\n";
    let environment = [
        ("POSTHASTE_SERVICE__LIMIT", "2"),
        ("POSTHASTE_SERVICE__NAMES", "x, y"),
        ("POSTHASTE_SERVICE__RATIO", "1"),
        ("POSTHASTE_SERVICE__INNER__TOKEN", "007"),
        ("POSTHASTE_SERVICE_PORT", "tcp://10.0.0.1"),
        ("PATH", "/bin"),
    ];
    let overrides = [Override::new("--listen", "service.listen", "option")];
    let configuration = load(file, &environment, &overrides).unwrap();
    let service: Service = configuration.section("service").unwrap();
    assert_eq!(
        service,
        Service {
            listen: "option".into(),
            limit: 2,
            ratio: 1.0,
            verbose: true,
            names: vec!["x".into(), "y".into()],
            inner: Inner { token: "007".into() },
        }
    );
    let entries: BTreeMap<_, _> = configuration
        .entries()
        .map(|entry| (entry.key.clone(), entry))
        .collect();
    assert_eq!(
        entries["service.listen"].origin,
        Origin::Option("--listen".into())
    );
    assert_eq!(
        entries["service.limit"].origin,
        Origin::Environment("POSTHASTE_SERVICE__LIMIT".into())
    );
    assert!(matches!(
        entries["service.verbose"].origin,
        Origin::File { line: 4, .. }
    ));
    assert_eq!(entries["service.inner.token"].value, "***");
}

#[test]
fn unknown_keys_are_refused_with_their_line_and_the_nearest() {
    assert_eq!(
        problem("# x\n[service]\nlisten = \"a\"\nlimitt = 3\n"),
        "FILE:4: unknown key service.limitt; did you mean service.limit?"
    );
    assert_eq!(
        problem("listen = \"a\""),
        "FILE:1: unknown key listen; did you mean service.listen?"
    );
    assert_eq!(
        problem("[service]\nsomething_else = 1\n"),
        "FILE:2: unknown key service.something_else; accepted there: inner, limit, listen, names, ratio, verbose"
    );
    assert_eq!(
        load("", &[("POSTHASTE_SERVICE__LISTN", "x")], &[]).unwrap_err(),
        "environment variable POSTHASTE_SERVICE__LISTN: unknown key service.listn; did you mean service.listen?"
    );
}

#[test]
fn values_of_another_type_are_refused_with_what_would_be_right() {
    assert_eq!(
        problem("[service]\nlimit = \"3\"\nverbose = 1\n"),
        "FILE:2: service.limit must be an integer, such as 10, not text\n\
         FILE:3: service.verbose must be true or false, such as false, not an integer"
    );
    assert_eq!(
        problem("service = 1\n"),
        "FILE:1: service is a table, not an integer"
    );
    assert_eq!(
        load("", &[("POSTHASTE_SERVICE__LIMIT", "many")], &[]).unwrap_err(),
        "environment variable POSTHASTE_SERVICE__LIMIT: service.limit: \"many\" is not an integer"
    );
    assert!(problem("[service\nx").starts_with("FILE:1: "));
}

#[test]
fn values_that_the_settings_refuse_are_traced_to_their_line() {
    let configuration = load("[service]\nlisten = \"a\"\nlimit = 999\n", &[], &[]).unwrap();
    let error = configuration
        .section::<Service>("service")
        .unwrap_err()
        .to_string();
    assert!(
        error.contains(":3: service.limit: invalid value: integer `999`"),
        "{error}"
    );
    let error = configuration.refuse(&FieldError::new("service.listen", "no address", "host:port"));
    assert!(
        error
            .to_string()
            .ends_with(":2: service.listen: no address; accepted: host:port"),
        "{error}"
    );
}

#[test]
fn open_tables_take_the_users_names() {
    let file = "[accounts.\"eu 1\"]\nuser = \"u\"\n[accounts.us]\nuser = \"v\"\n";
    let environment = [
        ("POSTHASTE_ACCOUNTS__US__SIZE", "3"),
        ("POSTHASTE_ACCOUNTS__DE__USER", "w"),
    ];
    let configuration = load(file, &environment, &[]).unwrap();
    let accounts: BTreeMap<String, Account> = configuration.section("accounts").unwrap();
    assert_eq!(accounts.keys().collect::<Vec<_>>(), ["de", "eu 1", "us"]);
    assert_eq!(accounts["us"].size, 3);
    let wrong = load("[accounts.us]\nuser = \"v\"\nsise = 1\n", &[], &[]).unwrap();
    let error = wrong
        .section::<BTreeMap<String, Account>>("accounts")
        .unwrap_err()
        .to_string();
    assert!(
        error.contains(":3: accounts.us.sise: unknown field `sise`"),
        "{error}"
    );
}

#[test]
fn named_open_tables_take_new_entries_and_keys_beside_those_of_the_default() {
    let file = "[providers.twilio]\nauth_token_file = \"f\"\n[providers.mine]\nkind = \"twilio\"\n";
    let environment = [("POSTHASTE_PROVIDERS__MINE__AUTH_TOKEN", "0042")];
    let configuration = load(file, &environment, &[]).unwrap();
    let providers: BTreeMap<String, toml::Table> = configuration.section("providers").unwrap();
    assert_eq!(providers["mine"]["auth_token"].as_str(), Some("0042"));
    assert_eq!(providers["twilio"]["auth_token_file"].as_str(), Some("f"));
    assert!(problem("[providers.twilio]\nauth_token = 1\n").contains("must be text"));
}

#[test]
fn a_missing_file_and_every_other_problem_are_said_at_once() {
    let error = Configuration::load(Sources {
        defaults: DEFAULTS,
        file: Some(Path::new("/nowhere/posthaste.toml")),
        environment: vec![("POSTHASTE_SERVICE__LIMIT".to_owned(), "x".to_owned())],
        ..Sources::default()
    })
    .unwrap_err();
    assert_eq!(error.0.len(), 2);
    assert_eq!(error.0[0], "/nowhere/posthaste.toml: no such file");
}
