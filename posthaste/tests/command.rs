//! The command line: what it offers, what it refuses, and the exit codes that say so.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::{
    fs,
    process::{Command, Output},
};

use expect_test::{Expect, expect, expect_file};

fn posthaste(arguments: &[&str]) -> Output {
    with_environment(arguments, &[])
}

fn with_environment(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_posthaste"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("POSTHASTE_") {
            command.env_remove(name);
        }
    }
    // Help is wrapped to the terminal's width, of which a test has none.
    command.env_remove("COLUMNS");
    command
        .args(arguments)
        .envs(environment.iter().copied())
        .output()
        .unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn refuses(arguments: &[&str], code: i32, expected: Expect) {
    let output = posthaste(arguments);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}");
    expected.assert_eq(String::from_utf8(output.stderr).unwrap().trim_end());
    assert!(output.stdout.is_empty(), "{arguments:?}");
}

#[test]
fn help_says_what_there_is() {
    for (arguments, file) in [
        (&["--help"][..], "help/posthaste.txt"),
        (&["up", "--help"], "help/up.txt"),
        (&["dispatcher", "--help"], "help/dispatcher.txt"),
        (&["send", "--help"], "help/send.txt"),
        (&["events", "list", "--help"], "help/events-list.txt"),
        (&["dlq", "list", "--help"], "help/dlq-list.txt"),
        (&["dlq", "replay", "--help"], "help/dlq-replay.txt"),
        (&["topics", "create", "--help"], "help/topics-create.txt"),
        (&["rules", "explain", "--help"], "help/rules-explain.txt"),
        (&["config", "--help"], "help/config.txt"),
        (&["keys", "--help"], "help/keys.txt"),
        (&["keys", "rotate", "--help"], "help/keys-rotate.txt"),
        (&["config", "show", "--help"], "help/config-show.txt"),
        (&["doctor", "--help"], "help/doctor.txt"),
        (&["status", "rebuild", "--help"], "help/status-rebuild.txt"),
        (&["status", "--help"], "help/status.txt"),
        (&["events", "tail", "--help"], "help/events-tail.txt"),
        (&["verify", "--help"], "help/verify.txt"),
        (&["bench", "--help"], "help/bench.txt"),
    ] {
        let output = posthaste(arguments);
        assert!(output.status.success());
        expect_file![file].assert_eq(&out(&output));
    }
}

#[test]
fn the_default_configuration_is_accepted_as_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("posthaste.toml");
    fs::write(&file, out(&posthaste(&["config", "default"]))).unwrap();
    let output = posthaste(&["config", "check", "--config", file.to_str().unwrap()]);
    assert_eq!(out(&output), "the configuration is good\n");
}

#[test]
fn a_wrong_configuration_stops_the_start_with_file_line_and_what_is_right() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("posthaste.toml");
    fs::write(
        &file,
        "[ingestion]\nevent_bytes = 3\n[service]\nlog_level = 3\n[retry]\nhops_max = 0\n",
    )
    .unwrap();
    let data = folder.path().join("data");
    let output = posthaste(&[
        "up",
        "--config",
        file.to_str().unwrap(),
        "--data-dir",
        data.to_str().unwrap(),
    ]);
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr)
        .unwrap()
        .replace(file.to_str().unwrap(), "FILE");
    expect![[r#"
        error: FILE:2: unknown key ingestion.event_bytes; did you mean ingestion.event_bytes_max?
        error: FILE:4: service.log_level must be text, such as "info", not an integer
    "#]]
    .assert_eq(&said);
    assert!(!data.exists(), "nothing was started");
}

#[test]
fn wrong_use_is_exit_code_2() {
    refuses(
        &["up", "--config", "/nowhere.toml"],
        2,
        expect!["error: /nowhere.toml: no such file"],
    );
    refuses(
        &["--listen", "127.0.0.1:0", "retry"],
        2,
        expect!["error: --listen belongs after the command it is for, such as `posthaste up --listen …`"],
    );
    refuses(
        &["up", "--listen", "3000"],
        2,
        expect![[
            r#"error: option --listen: service.listen: "3000" is not an address and a port; accepted: such as 127.0.0.1:3000, 0.0.0.0:3000 or [::]:3000"#
        ]],
    );
    refuses(
        &["send"],
        2,
        expect!["error: nothing to send; accepted: a file, - for standard input, or --channel and --payload"],
    );
    refuses(
        &["send", "--channel", "sms", "--payload", "{"],
        2,
        expect!["error: --payload is not JSON: EOF while parsing an object at line 1 column 1"],
    );
    refuses(
        &["dispatcher", "--lane", "fast"],
        2,
        expect![[r#"
            error: invalid value 'fast' for '--lane <LANE>': lane: unknown lane "fast"; accepted: critical, default, retry

            For more information, try '--help'."#]],
    );
}

#[test]
fn a_service_alone_says_what_it_needs() {
    refuses(
        &["ingestion"],
        2,
        expect![
            "error: a service alone needs Kafka, since a file belongs to one process; accepted: --kafka HOST:PORT, or `posthaste up`"
        ],
    );
    refuses(
        &["dispatcher", "--lane", "default", "--kafka", "127.0.0.1:1"],
        2,
        expect![
            "error: this service needs MongoDB, since a file belongs to one process; accepted: --mongodb mongodb://HOST:PORT, or `posthaste up`"
        ],
    );
}

#[test]
fn what_cannot_be_done_is_exit_code_1() {
    refuses(
        &["events", "get", "e1", "--url", "http://127.0.0.1:1/"],
        1,
        expect![
            "error: nothing answers at http://127.0.0.1:1/events/e1; is it running? `posthaste up` starts it, --url says where it is"
        ],
    );
    refuses(
        &["health", "--url", "http://127.0.0.1:1"],
        1,
        expect![
            "error: nothing answers at http://127.0.0.1:1/ready; is it running? `posthaste up` starts it, --url says where it is"
        ],
    );
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let folder = tempfile::tempdir().unwrap();
    let output = posthaste(&[
        "up",
        "--listen",
        &address,
        "--data-dir",
        folder.path().to_str().unwrap(),
    ]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("another process listens there; choose another with --listen"),
        "{said}"
    );
}

#[test]
fn settings_are_shown_with_their_origin_and_without_secrets() {
    let output = with_environment(
        &["config", "show", "--set", "broker.prefix=mine"],
        &[
            ("POSTHASTE_PROVIDERS__TWILIO__AUTH_TOKEN", "very-secret"),
            ("POSTHASTE_INGESTION__IN_FLIGHT_MAX", "7"),
        ],
    );
    let shown = out(&output);
    assert!(
        shown.contains("broker.prefix = \"mine\" # option --set\n"),
        "{shown}"
    );
    assert!(
        shown.contains(
            "ingestion.in_flight_max = 7 # environment variable POSTHASTE_INGESTION__IN_FLIGHT_MAX\n"
        ),
        "{shown}"
    );
    assert!(shown.contains("providers.twilio.auth_token = ***"), "{shown}");
    assert!(!shown.contains("very-secret"));
}

#[test]
fn settings_are_shown_as_json_and_only_what_was_changed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("posthaste.toml");
    fs::write(
        &file,
        "[service]\nlog_level = \"debug\"\n[providers.twilio]\nauth_token = \"very-secret\"\n",
    )
    .unwrap();
    let output = with_environment(
        &[
            "config",
            "show",
            "--changed",
            "--json",
            "--set",
            "broker.partitions=3",
        ],
        &[("POSTHASTE_CONFIG", file.to_str().unwrap())],
    );
    let shown: serde_json::Value = serde_json::from_str(&out(&output)).unwrap();
    assert_eq!(
        shown,
        serde_json::json!([
            {"key": "broker.partitions", "value": 3, "origin": {"from": "option", "name": "--set"}},
            {"key": "providers.twilio.auth_token", "value": "***", "origin": {"from": "file", "file": file, "line": 4}},
            {"key": "service.log_level", "value": "debug", "origin": {"from": "file", "file": file, "line": 2}},
        ])
    );
}

#[test]
fn the_doctor_names_what_is_wrong_and_who_said_so() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let nobody = [
        "--url",
        "http://127.0.0.1:1",
        "--data-dir",
        data.to_str().unwrap(),
    ];
    let well = posthaste(&[&["doctor"], &nobody[..]].concat());
    assert_eq!(well.status.code(), Some(0), "{well:?}");
    assert!(
        out(&well).contains("warning  providers: no account is configured"),
        "{}",
        out(&well)
    );
    assert!(!data.exists(), "it only looks");
    let ill = posthaste(
        &[
            &[
                "doctor",
                "--json",
                "--kafka",
                "127.0.0.1:1",
                "--mongodb",
                "mongodb://127.0.0.1:1",
            ],
            &nobody[..],
        ]
        .concat(),
    );
    assert_eq!(ill.status.code(), Some(1));
    let findings: Vec<serde_json::Value> = serde_json::from_str(&out(&ill)).unwrap();
    let errors: Vec<_> = findings
        .iter()
        .filter(|finding| finding["severity"] == "error")
        .collect();
    assert_eq!(errors.len(), 2, "{errors:?}");
    for (error, subject, set_by) in [
        (
            errors[0],
            "Kafka",
            "broker.kafka.bootstrap_servers is set by option --kafka",
        ),
        (
            errors[1],
            "MongoDB",
            "store.mongodb.url is set by option --mongodb",
        ),
    ] {
        assert_eq!(error["subject"], subject);
        assert!(error["message"].as_str().unwrap().contains(set_by), "{error}");
    }
}

#[test]
fn every_shell_gets_its_completions() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = out(&posthaste(&["completions", shell]));
        assert!(script.contains("dispatcher"), "{shell}");
    }
    refuses(
        &["completions", "cmd"],
        2,
        expect![[r#"
        error: invalid value 'cmd' for '<SHELL>'
          [possible values: bash, elvish, fish, powershell, zsh]

        For more information, try '--help'."#]],
    );
}

#[test]
fn rules_are_checked_and_explained() {
    let checked = out(&posthaste(&["rules", "check"]));
    assert!(checked.ends_with("all good\n"), "{checked}");
    let explained = out(&posthaste(&[
        "rules",
        "explain",
        "--channel",
        "sms",
        "--provider",
        "twilio",
        "--tries",
        "3",
    ]));
    assert!(explained.contains("via messagebird"), "{explained}");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rules.toml");
    fs::write(&file, "[[rule]]\nid = \"a\"\ntrys = 1\n").unwrap();
    let output = posthaste(&["rules", "check", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("rules.toml:3"));
    let text = "[[rule]]\nid = \"a\"\ntries = 2\nbackoff = { kind = \"fixed\", delay = \"1s\" }\n\
        [[test]]\nname = \"one try\"\ngiven = { channel = \"sms\", provider = \"twilio\" }\nexpect = { then = \"dead_letter\" }\n";
    fs::write(&file, text).unwrap();
    for arguments in [
        &["rules", "check", file.to_str().unwrap()][..],
        &["up", "--set", &format!("retry.rules_file={}", file.display())],
    ] {
        let output = posthaste(arguments);
        assert_eq!(output.status.code(), Some(2));
        let said = String::from_utf8(output.stderr).unwrap();
        let expected = "rules.toml:8: test \"one try\", expect.then: \"dead_letter\" is expected, but the rules say: retry in 1s via \
            twilio (rule a, line 2); accepted: \"retry\"";
        assert!(said.contains(expected), "{said}");
    }
}

#[cfg(unix)]
#[test]
fn a_file_of_keys_is_made_rotated_and_checked_and_no_key_is_told() {
    use std::os::unix::fs::PermissionsExt as _;

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.json");
    let path = file.to_str().unwrap();
    let keys = |command: &str| posthaste(&["keys", command, "--json", "--file", path]);
    let told = |command: &str| {
        let output = keys(command);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let text = fs::read_to_string(&file).unwrap();
        let secrets: Vec<&str> = text.split('"').filter(|part| part.len() == 44).collect();
        assert!(!secrets.is_empty() && secrets.iter().all(|secret| !out(&output).contains(secret)));
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        told
    };
    let first = told("generate")["active"].clone();
    assert_eq!(keys("generate").status.code(), Some(2), "it is in use");
    let rotated = told("rotate");
    assert_ne!(rotated["active"], first);
    assert_eq!(rotated["opening"], serde_json::json!([first]));
    assert_eq!(told("check")["active"], rotated["active"]);
    let mut names = fs::read_dir(folder.path()).unwrap();
    assert!(
        names.next().is_some() && names.next().is_none(),
        "nothing is left beside it"
    );

    let shown = out(&posthaste(&["keys", "check", "--file", path]));
    assert!(
        shown.contains("is good") && shown.contains(first.as_str().unwrap()),
        "{shown}"
    );
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, &text[..text.len() / 2]).unwrap();
    for command in ["check", "rotate"] {
        let output = keys(command);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("not a key ring"), "{said}");
    }
    assert_eq!(
        fs::read_to_string(&file).unwrap().len(),
        text.len() / 2,
        "as it was"
    );
    fs::remove_file(&file).unwrap();
    assert_eq!(keys("rotate").status.code(), Some(2));
    assert!(!file.exists());
}

#[test]
fn what_cannot_be_encrypted_stops_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.json");
    fs::write(&file, "{\"active\": \"c2VjcmV0\"").unwrap();
    let data = folder.path().join("data");
    let named = format!("encryption.keys_file={}", file.display());
    for (set, expected) in [
        (
            "encryption.all=true",
            "encryption.all asks for encryption, and there are no keys",
        ),
        (
            "encryption.tenants=[\"acme\"]",
            "encryption.tenants asks for encryption",
        ),
        ("encryption.channels=[\"fax\"]", "encryption.channels"),
        (named.as_str(), "not a key ring"),
        ("encryption.keys_file=/nowhere/keys.json", "cannot be read"),
        ("encryption.keys=c2VjcmV0", "encryption.keys"),
    ] {
        let output = posthaste(&[
            "up",
            "--listen",
            "127.0.0.1:0",
            "--set",
            set,
            "--data-dir",
            data.to_str().unwrap(),
        ]);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{set}: {said}");
        assert!(
            said.contains(expected) && !said.contains("c2VjcmV0"),
            "{set}: {said}"
        );
    }
    assert!(!data.exists(), "nothing was started");
    let shown = out(&posthaste(&[
        "config",
        "show",
        "--changed",
        "--set",
        "encryption.keys=c2VjcmV0",
    ]));
    assert!(shown.contains("encryption.keys = ***"), "{shown}");
}
