//! Adding what people add, by the recipes of ARCHITECTURE.md ("Where do I add...") and by nothing else: a provider that is a
//! file, and a rule for it.

use std::sync::{Arc, Mutex};

use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use crate::{
    on_each_backend,
    system::{Backend, Plan},
};

on_each_backend!(a_provider_and_a_rule_of_ones_own_are_two_files);

const PROVIDER: &str = r#"
name = "carrier"
channels = ["sms"]
base_url = "http://ADDRESS"

[settings]
api_key = { about = "API key", secret = true, required = true }

[auth]
kind = "bearer"
token = "{{ account.api_key }}"

[request]
path = "/v1/texts"

[request.json]
to = "{{ payload.phoneNumber | e164('1') }}"
text = "{{ payload.message }}"
key = "{{ event.idempotencyKey }}"

[answer]
message_id = "id"
error_code = "error"
rules = [{ status = 201, path = "id", present = true, meaning = "accepted" }]
"#;

const RULES: &str = r#"
[[rule]]
id = "sms-carrier"
match = { channel = ["sms"], provider = ["carrier"] }
tries = 2
backoff = { kind = "fixed", delay = "1s" }

[[rule]]
id = "all-else"
tries = 1
backoff = { kind = "fixed", delay = "1s" }

[[test]]
name = "the carrier is asked twice"
given = { channel = "sms", provider = "carrier", tries = 1 }
expect = { rule = "sms-carrier", then = "retry", wait = "1s" }
"#;

async fn a_provider_and_a_rule_of_ones_own_are_two_files(backend: Backend) {
    let (address, calls) = carrier().await;
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    std::fs::create_dir(path("providers")).unwrap();
    let provider = PROVIDER.replace("ADDRESS", &address);
    std::fs::write(path("providers/carrier.toml"), provider).unwrap();
    std::fs::write(path("rules.toml"), RULES).unwrap();
    let configuration = format!(
        "[provider]\nfiles_folder = {:?}\n[retry]\nrules_file = {:?}\n\
         [providers.carrier]\napi_key = \"secret-1\"\n",
        path("providers"),
        path("rules.toml"),
    );
    std::fs::write(path("posthaste.toml"), configuration).unwrap();
    let system = Plan::new(backend)
        .await
        .setting("POSTHASTE_CONFIG", &path("posthaste.toml"))
        .start()
        .await;
    let client = system.client();
    let mut event = client.sms("+14155550123");
    event["provider"] = json!("carrier");
    let id = client.accept(&event).await;
    let document = client.wait(&id, "SENT").await;
    assert_eq!(document["state"]["attempt"], 2, "{document:#}");
    assert_eq!(document["state"]["provider"], "carrier", "{document:#}");
    let calls = calls.lock().unwrap().clone();
    assert_eq!(calls.len(), 2, "{calls:?}");
    for (number, call) in calls.iter().enumerate() {
        assert!(call.starts_with("POST /v1/texts "), "{call}");
        assert!(call.contains("authorization: Bearer secret-1\r\n"), "{call}");
        assert!(call.contains(r#""to":"+14155550123""#), "{call}");
        // The first was refused for certain, so the second is another send.
        let key = format!(r#""key":"{id}:carrier:{number}""#);
        assert!(call.contains(&key), "{call}");
    }
}

type Calls = Arc<Mutex<Vec<String>>>;

/// A carrier's HTTP interface, which refuses the first call and takes the others.
async fn carrier() -> (String, Calls) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let calls = Calls::default();
    let taken = Arc::clone(&calls);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            answer(stream, &taken).await;
        }
    });
    (address, calls)
}

async fn answer(mut stream: TcpStream, calls: &Calls) {
    let mut request = Vec::new();
    while !is_whole(&request) {
        if stream.read_buf(&mut request).await.unwrap() == 0 {
            return;
        }
    }
    let is_first = {
        let mut calls = calls.lock().unwrap();
        calls.push(String::from_utf8(request).unwrap());
        calls.len() == 1
    };
    let (status, body) = if is_first {
        ("503 Service Unavailable", r#"{"error": "busy"}"#)
    } else {
        ("201 Created", r#"{"id": "text-1"}"#)
    };
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
    );
    stream
        .write_all(format!("{head}{body}").as_bytes())
        .await
        .unwrap();
}

fn is_whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request);
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return false;
    };
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
    length.is_some_and(|length| body.len() >= length)
}
