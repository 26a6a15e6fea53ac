//! The tour of README.md: its lines are run as they are written, so that they cannot become wrong.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use crate::{system::PATIENCE, topics_script::repository};

/// What each call of the tour must answer, in their order: something of the call, and what is in its answer in the end.
const ANSWERS: &[(&str, &[&str])] = &[
    ("2025555555", &["Event Ingested"]),
    ("hello-1", &["Event Ingested", "hello-1"]),
    ("events/hello-1", &["SENT", "sendgrid"]),
    ("events/hello-1/timeline", &["PENDING", "SENT"]),
    ("messages?limit=2", &["hello-1", "messagebird"]),
    ("\"messagebird\", \"times\": 1", &["unavailable"]),
    ("retried-1", &["Event Ingested"]),
    ("events/retried-1/timeline", &["RETRYING", "SENT"]),
    ("\"provider\": \"sendgrid\"", &["unavailable"]),
    ("failover-1", &["Event Ingested"]),
    ("events/failover-1", &["SENT", "mailgun"]),
    ("\"provider\": \"messagebird\"", &["invalid"]),
    ("dead-1", &["Event Ingested"]),
    ("dead-letters", &["dead-1"]),
    ("-X DELETE", &[]),
    ("replay-dead-letter", &["\"count\":1"]),
    ("events/dead-1", &["SENT", "\"generation\":1"]),
    ("replay-dead-letter", &["\"count\":0"]),
    ("\"phoneNumber\": \"12\"", &["400", "payload.phoneNumber"]),
    ("openapi.json", &["\"openapi\":\"3.1.0\"", "/event"]),
    ("\"Paid\"", &["Event Ingested"]),
    ("\"Paid\"", &["Event Ingested"]),
    ("\"message\": \"Sent\"", &["422", "Idempotency-Key"]),
    ("\"message\": \"Two\"", &["\"accepted\":1", "payload.phoneNumber"]),
    (
        "\"message\": \"Three\"",
        &["\"accepted\":2", "\"isComplete\":true"],
    ),
    ("configs/default-slack", &["\"version\":1"]),
    ("templates/welcome-message", &["\"version\":1"]),
    ("welcome-1", &["\"status\":\"accepted\"", "correlationId"]),
    ("events/welcome-1", &["SENT", "Welcome, John Doe!"]),
    ("\"payload\": {}", &["422", "payload.userName"]),
    ("messages/stats", &["\"completed\""]),
];

/// The part of README.md under this heading.
pub fn section(heading: &str) -> String {
    let readme = std::fs::read_to_string(repository().join("README.md")).unwrap();
    let (_, rest) = readme.split_once(&format!("\n## {heading}\n")).unwrap();
    rest.split("\n## ").next().unwrap().to_owned()
}

/// The commands in a part of README.md; one with an open quote goes on in the next line.
fn commands(section: &str) -> Vec<String> {
    let mut commands: Vec<String> = Vec::new();
    for block in section.split("```").skip(1).step_by(2) {
        let block = block
            .strip_prefix("sh\n")
            .unwrap_or_else(|| panic!("not for a shell: {block}"));
        let mut is_open = false;
        for line in block.lines() {
            match commands.last_mut().filter(|_| is_open) {
                Some(last) => *last = format!("{last}\n{line}"),
                None => commands.push(line.to_owned()),
            }
            let last = commands.last().unwrap();
            is_open = last.matches('\'').count() % 2 == 1;
        }
    }
    commands
}

/// The line of this part that says where the services are, with each address as `here` has it.
pub fn places(section: &str, here: impl Fn(u16) -> String) -> String {
    let commands = commands(section);
    let line = commands.iter().find(|line| line.starts_with("INTAKE="));
    let words = line.unwrap().split(' ').map(|word| {
        let (name, port) = word.split_once("=localhost:").unwrap();
        format!("{name}={}", here(port.parse().unwrap()))
    });
    words.collect::<Vec<_>>().join(" ")
}

/// Takes the tour in the system that `places` leads to.
pub async fn take(places: &str) {
    let commands = commands(&section("Tour"));
    let mut answers = ANSWERS.iter();
    for command in &commands {
        if command.starts_with("INTAKE=") {
            continue;
        }
        // For people: the test waits for what is to be seen.
        if command.starts_with("sleep ") {
            continue;
        }
        assert!(
            command.starts_with("curl -s "),
            "what should the tour's line do? {command}"
        );
        let (part, wanted) = answers
            .next()
            .unwrap_or_else(|| panic!("one call more than answers: {command}"));
        assert!(command.contains(part), "{command} should be the call with {part}");
        call(places, command, wanted).await;
    }
    assert_eq!(answers.next(), None, "the tour has lost a call");
}

/// Makes a call; one that only looks is made again until it shows what is wanted.
async fn call(places: &str, command: &str, wanted: &[&str]) {
    let only_looks = !command.contains(" -d ") && !command.contains(" -X ");
    let began = Instant::now();
    loop {
        let mut shell = Command::new("bash");
        shell.args(["-c", &format!("{places}\n{command}")]);
        let output = tokio::task::spawn_blocking(move || shell.output())
            .await
            .unwrap()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        if output.status.success() && wanted.iter().all(|part| said.contains(part)) {
            return;
        }
        assert!(
            only_looks && began.elapsed() < PATIENCE,
            "{command}\nanswered, without all of {wanted:?}, {}:\n{said}",
            output.status
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
