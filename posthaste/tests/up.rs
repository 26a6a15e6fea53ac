//! `posthaste up`: one process, from its start to its end.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "in a test a panic is the report"
)]

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value as Json;

const PATIENCE: Duration = Duration::from_secs(60);

fn posthaste() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_posthaste"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("POSTHASTE_") {
            command.env_remove(name);
        }
    }
    command
}

/// A running `up`; killed if the test ends early.
struct Up {
    process: Child,
    url: String,
}

impl Up {
    /// Starts it on a free port and reads from its greeting where that is.
    fn start(data: &Path, options: &[&str]) -> Self {
        Self::start_by(posthaste(), data, options)
    }

    fn start_by(mut command: Command, data: &Path, options: &[&str]) -> Self {
        let mut process = command
            .args(["--listen", "127.0.0.1:0", "--data-dir"])
            .arg(data)
            .args(options)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let url = line
            .split_whitespace()
            .find(|word| word.starts_with("http://"))
            .unwrap_or_else(|| panic!("no address in {line:?}"))
            .to_owned();
        Self { process, url }
    }

    fn get(&self, path: &str) -> (u16, Json) {
        let (status, text) = self.fetch(path);
        (status, serde_json::from_str(&text).unwrap())
    }

    fn text(&self, path: &str) -> String {
        self.fetch(path).1
    }

    fn put(&self, path: &str, body: &str) {
        self.write(reqwest::Method::PUT, path, "", body);
    }

    fn post(&self, path: &str, traceparent: &str, body: &str) {
        self.write(reqwest::Method::POST, path, traceparent, body);
    }

    fn write(&self, method: reqwest::Method, path: &str, traceparent: &str, body: &str) {
        let url = format!("{}{path}", self.url);
        let answer = tokio::runtime::Runtime::new().unwrap().block_on(async {
            reqwest::Client::new()
                .request(method, url)
                .timeout(PATIENCE)
                .header("content-type", "application/json")
                .header("traceparent", traceparent)
                .body(body.to_owned())
                .send()
                .await
                .unwrap()
        });
        assert!(answer.status().is_success(), "{answer:?}");
    }

    fn fetch(&self, path: &str) -> (u16, String) {
        let url = format!("{}{path}", self.url);
        tokio::runtime::Runtime::new().unwrap().block_on(async {
            let answer = reqwest::Client::new()
                .get(url)
                .timeout(PATIENCE)
                .send()
                .await
                .unwrap();
            (answer.status().as_u16(), answer.text().await.unwrap())
        })
    }

    /// Runs a command of the client against it and gives its standard output.
    fn ask(&self, arguments: &[&str]) -> String {
        let output = posthaste()
            .args(arguments)
            .args(["--url", &self.url])
            .output()
            .unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// SIGTERM; gives the exit code and what was logged.
    fn stop(mut self) -> (Option<i32>, String) {
        let id = self.process.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-TERM", &id])
                .status()
                .unwrap()
                .success()
        );
        let status = self.process.wait().unwrap();
        let mut log = String::new();
        self.process
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut log)
            .unwrap();
        (status.code(), log)
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        let _ended_already = self.process.kill();
        let _reaped_already = self.process.wait();
    }
}

fn until(what: &str, is_so: impl Fn() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < PATIENCE, "{what} did not happen");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn an_event_goes_out_and_the_process_ends_cleanly() {
    let data = tempfile::tempdir().unwrap();
    let up = Up::start(data.path(), &[]);
    until("being ready", || up.get("/ready").0 == 200);
    assert_eq!(up.ask(&["health"]), "ready\n");
    let sent: Json = serde_json::from_str(&up.ask(&[
        "send",
        "--json",
        "--channel",
        "sms",
        "--payload",
        r#"{"message":"Test SMS","phoneNumber":"2025555555"}"#,
    ]))
    .unwrap();
    let id = sent["eventId"].as_str().unwrap();
    until("the message", || {
        let (_, received) = up.get(&format!("/sandbox/messages?event={id}"));
        received["messages"]
            .as_array()
            .is_some_and(|messages| !messages.is_empty())
    });
    until("being looked up as sent", || {
        let (status, event) = up.get(&format!("/events/{id}"));
        status == 200 && event["status"] == "SENT"
    });
    let metrics = up.text("/metrics");
    for line in [
        r#"posthaste_accepted_total{channel="sms",priority="normal"} 1"#,
        r#"posthaste_sent_total{channel="sms",provider="messagebird"} 1"#,
        r#"posthaste_latency_seconds_count{channel="sms",priority="normal",attempt="first"} 1"#,
        r#"posthaste_lag_records{group="dispatcher.default",topic="default"} 0"#,
        r#"posthaste_check_ok{check="broker"} 1"#,
        "# EOF",
    ] {
        assert!(metrics.lines().any(|shown| shown == line), "{line}\n{metrics}");
    }
    let examined = posthaste()
        .args(["doctor", "--url", &up.url, "--data-dir"])
        .arg(data.path())
        .output()
        .unwrap();
    let examined = String::from_utf8(examined.stdout).unwrap();
    for said in [
        "log: is in use by a process that runs",
        "service: http://127.0.0.1:",
        " is ready",
    ] {
        assert!(examined.contains(said), "{said}: {examined}");
    }
    let told = up.ask(&["events", "get", id]);
    assert!(told.contains("PENDING") && told.contains("SENT"), "{told}");
    let listed = up.ask(&["events", "list", "--status", "SENT"]);
    assert!(listed.starts_with(id), "{listed}");
    let (code, log) = up.stop();
    assert_eq!(code, Some(0), "{log}");
    assert!(!log.contains("WARN") && !log.contains("ERROR"), "{log}");
}

#[test]
fn a_log_of_json_lines_is_one_to_the_end() {
    let data = tempfile::tempdir().unwrap();
    let up = Up::start(data.path(), &["--log-format", "json", "--log", "debug"]);
    until("being ready", || up.get("/ready").0 == 200);
    let trace = "0af7651916cd43dd8448eb211c80319c";
    up.post(
        "/event",
        &format!("00-{trace}-b7ad6b7169203331-01"),
        r#"{"eventId":"traced","channel":"sms","payload":{"message":"m","phoneNumber":"2025555555"}}"#,
    );
    until("being sent", || up.get("/events/traced").1["status"] == "SENT");
    let (_, log) = up.stop();
    assert!(log.lines().count() > 5, "{log}");
    let mut told = Vec::new();
    for line in log.lines() {
        let line: Json = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(line["message"].is_string(), "{line}");
        if line["event.id"] == "traced" && line["trace.id"] == trace {
            told.push(line["message"].clone());
        }
    }
    // Intake says so after the append, and by then a dispatcher may be done.
    told.sort_by_key(Json::to_string);
    assert_eq!(told, ["event accepted", "event sent"]);
}

#[test]
fn what_happens_is_told_as_it_happens_and_a_failure_is_explained() {
    let data = tempfile::tempdir().unwrap();
    let up = Up::start(data.path(), &[]);
    until("being ready", || up.get("/ready").0 == 200);
    let mut tail = posthaste()
        .args(["events", "tail", "--json", "--channel", "sms", "--url", &up.url])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(tail.stdout.take().unwrap()).lines();
    up.put(
        "/sandbox/behaviour",
        r#"{"rules": [{"action": "unavailable", "provider": "messagebird", "times": 1}]}"#,
    );
    let sms =
        r#"{"eventId":"followed","channel":"sms","payload":{"message":"m","phoneNumber":"2025555555"}}"#;
    // Nothing says from outside when the stream has begun; an event again and again does.
    let first = thread::scope(|scope| {
        let (told, heard) = std::sync::mpsc::channel();
        let up = &up;
        scope.spawn(move || {
            for number in 0..100 {
                up.post("/event", "", &sms.replace("followed", &format!("sign-{number}")));
                if heard.recv_timeout(Duration::from_millis(200)).is_ok() {
                    return;
                }
            }
        });
        let first = lines.next().unwrap().unwrap();
        told.send(()).unwrap();
        first
    });
    assert!(first.contains("\"eventId\":\"sign-"), "{first}");
    up.put(
        "/sandbox/behaviour",
        r#"{"rules": [{"action": "unavailable", "provider": "messagebird", "times": 1}]}"#,
    );
    up.post("/event", "", sms);
    let steps: Vec<Json> = lines
        .map(|line| serde_json::from_str::<Json>(&line.unwrap()).unwrap())
        .filter(|step| step["eventId"] == "followed")
        .take(4)
        .collect();
    let statuses: Vec<_> = steps
        .iter()
        .map(|step| step["status"].as_str().unwrap())
        .collect();
    assert_eq!(statuses, ["PENDING", "RETRYING", "RETRYING", "SENT"]);
    assert!(steps[2]["rule"].as_str().unwrap().starts_with("sms-messagebird@"));
    until("the status to follow", || {
        up.get("/events/followed").1["status"] == "SENT"
    });
    let explained = up.ask(&["rules", "explain", "--event", "followed"]);
    assert!(
        explained
            .contains("send 1 by messagebird fails: retry in 2s via messagebird (rule sms-messagebird, line"),
        "{explained}"
    );
    let (code, _) = up.stop();
    assert_eq!((code, tail.wait().unwrap().code()), (Some(0), Some(1)));
}

/// A rule file that tries this often.
fn rules(version: &str, tries: u32) -> String {
    format!(
        "version = \"{version}\"\n[[rule]]\nid = \"all\"\ntries = {tries}\n\
         backoff = {{ kind = \"fixed\", delay = \"10ms\" }}\n"
    )
}

#[test]
fn rules_that_are_changed_take_effect_and_broken_ones_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rules.toml");
    fs::write(&file, rules("one", 1)).unwrap();
    let rules_file = format!("retry.rules_file={}", file.display());
    let up = Up::start(&folder.path().join("data"), &["--set", &rules_file]);
    until("being ready", || up.get("/ready").0 == 200);
    up.put(
        "/sandbox/behaviour",
        r#"{"rules": [{"action": "unavailable", "provider": "messagebird"}]}"#,
    );
    let sends_of = |id: &str| {
        let event = format!(
            r#"{{"eventId":"{id}","channel":"sms","payload":{{"message":"m","phoneNumber":"2025555555"}}}}"#
        );
        up.post("/event", "", &event);
        let path = format!("/events/{id}");
        until("an end", || up.get(&path).1["status"] == "DEAD_LETTERED");
        let (_, event) = up.get(&path);
        let end = event["timeline"].as_array().unwrap().last().unwrap().clone();
        (
            event["state"]["attempt"].as_u64().unwrap(),
            end["rule"].as_str().unwrap().to_owned(),
        )
    };
    assert_eq!(sends_of("first"), (1, "all@one".to_owned()));
    fs::write(&file, rules("two", 0)).unwrap();
    until("the fault to be told", || {
        up.get("/ready").1["status"] == "degraded"
    });
    let (status, ready) = up.get("/ready");
    assert_eq!(status, 200, "it works on by the rules that it has");
    let reason = ready["missing"][0]["reason"].as_str().unwrap();
    assert!(
        reason.contains("rules.toml:4: tries: 0 tries") && reason.contains("version one stays in force"),
        "{reason}"
    );
    assert_eq!(sends_of("second"), (1, "all@one".to_owned()));
    fs::write(&file, rules("three", 3)).unwrap();
    until("being well again", || up.get("/ready").1["status"] == "ready");
    assert_eq!(sends_of("third"), (3, "all@three".to_owned()));
    let (_, log) = up.stop();
    assert_eq!(log.matches("the rule file is wrong").count(), 1, "{log}");
    assert_eq!(log.matches("version three is in force").count(), 1, "{log}");
}

#[test]
fn a_folder_belongs_to_one_process() {
    let data = tempfile::tempdir().unwrap();
    let _up = Up::start(data.path(), &[]);
    let second = posthaste()
        .args(["up", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(data.path())
        .output()
        .unwrap();
    assert_eq!(second.status.code(), Some(1));
    let said = String::from_utf8(second.stderr).unwrap();
    assert!(said.contains("another process"), "{said}");
}

#[test]
fn a_proxy_of_the_environment_is_taken_only_if_the_configuration_says_so() {
    let receiver = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = receiver.local_addr().unwrap();
    thread::spawn(move || {
        for mut stream in receiver.incoming().flatten() {
            let mut buffer = [0; 8_192];
            let _request = stream.read(&mut buffer);
            let _gone =
                stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok");
        }
    });
    let hook = format!("providers.slack_webhook.webhook_url=http://{address}/hook");
    for (proxy, expected) in [("", "SENT"), ("environment", "RETRYING")] {
        let data = tempfile::tempdir().unwrap();
        let mut command = posthaste();
        // Nobody listens there.
        command
            .env("HTTP_PROXY", "http://127.0.0.1:1")
            .env("NO_PROXY", "");
        let proxy = format!("provider.proxy={proxy}");
        let up = Up::start_by(command, data.path(), &["--set", &hook, "--set", &proxy]);
        until("being ready", || up.get("/ready").0 == 200);
        let payload = r##"{"channel":"#general","text":"hello"}"##;
        let event = format!(
            r#"{{"eventId":"proxied-1","channel":"slack","provider":"slack_webhook","payload":{payload}}}"#
        );
        up.post("/event", "", &event);
        until(expected, || up.get("/events/proxied-1").1["status"] == expected);
        let (_, log) = up.stop();
        assert_eq!(
            log.contains("HTTP_PROXY has no effect"),
            expected == "SENT",
            "{log}"
        );
    }
}
