//! Sealed payloads: providers get them in clear, and no topic, file or document holds a word of them.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::Path,
    time::{Duration, Instant},
};

use posthaste_event::{clock, time};
use posthaste_testkit::KafkaServer;
use serde_json::{Value as Json, json};

use crate::{
    on_each_backend,
    system::{Backend, Client, PATIENCE, Place, Plan, System, run},
};

on_each_backend!(
    what_is_sealed_goes_out_in_clear_and_stands_nowhere_so,
    what_cannot_be_sealed_is_refused,
    a_key_that_is_missing_is_waited_for,
);

/// In every sealed payload; nothing else has it.
const MARKER: &str = "Zanzibarwal";
/// In an event that is not sealed: it must be found, or the looking is worth nothing.
const CONTROL: &str = "Klarwal";

fn sealed(mut event: Json) -> Json {
    event["metadata"] = json!({"requiresEncryption": true});
    event
}

fn digits(number: &str) -> &str {
    number.trim_start_matches('+')
}

/// `posthaste keys …`, which must do it; gives the active key.
async fn keys(command: &str, file: &Path) -> String {
    let (code, out, said) = run(&["keys", command, "--json", "--file", file.to_str().unwrap()]).await;
    assert_eq!(code, Some(0), "{said}");
    let told: Json = serde_json::from_str(&out).unwrap();
    told["active"].as_str().unwrap().to_owned()
}

async fn what_is_sealed_goes_out_in_clear_and_stands_nowhere_so(backend: Backend) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.json");
    let first = keys("generate", &file).await;
    let plan = Plan::new(backend).await;
    let mut system = plan
        .setting("POSTHASTE_ENCRYPTION__KEYS_FILE", file.to_str().unwrap())
        .setting("POSTHASTE_ENCRYPTION__KEYS_POLL_MS", "20")
        .setting("POSTHASTE_ENCRYPTION__CHANNELS", "[\"in_app\"]")
        .start()
        .await;
    let client = system.client();
    let (number, refused, control) = (client.number(1), client.number(2), client.number(3));
    let sms = |number: &str| {
        let mut event = sealed(client.sms(number));
        event["payload"]["message"] = json!(format!("{MARKER} 4711"));
        event
    };
    let id = client.accept(&sms(&number)).await;
    // What became of it may be read before the event itself.
    let is_whole = |event: &Json| event["status"] == "SENT" && event["payload"].is_object();
    let shown = client.wait_for(&id, "SENT and whole", is_whole).await;
    assert_received(&system, &client, &id, MARKER).await;
    assert_eq!(shown["payload"], sms(&number)["payload"], "{shown:#}");

    let mut clear = client.sms(&control);
    clear["payload"]["message"] = json!(CONTROL);
    client.wait(&client.accept(&clear).await, "SENT").await;
    in_the_inbox(&client).await;
    scheduled(&client, &sms(&number)).await;
    let many = broadcast(&system, &client).await;
    let dead = dead_lettered(&system, &client, &sms(&refused), &refused).await;

    let second = keys("rotate", &file).await;
    assert_ne!(second, first);
    sealed_with(&system, &client, &sms(&number), &second).await;
    needed(&system, &file, &first).await;
    assert_eq!(
        client.replay_until(&json!({"filter": {"ids": [dead]}}), 1).await,
        1
    );
    client.wait(&dead, "SENT").await;
    assert_received(&system, &client, &dead, MARKER).await;

    let written = everything_written(&mut system).await;
    assert!(contains(&written, CONTROL), "{} bytes", written.len());
    assert!(contains(&written, &first) && contains(&written, &second));
    // With a space, or a name: four digits alone are in some random id or ciphertext.
    for hidden in [MARKER, " 4711", "\"n\":4711", digits(&number), digits(&refused)] {
        assert!(!contains(&written, hidden), "{hidden} is written in clear");
    }
    for (id, number) in &many {
        assert!(
            !contains(&written, digits(number)),
            "{number} is written in clear"
        );
        assert!(contains(&written, id), "{id} was not looked at");
    }
}

/// `posthaste keys check --url` finds what this key seals, and says that it did not look at everything.
async fn needed(system: &System, file: &Path, kid: &str) {
    let url = system.url(match system.backend() {
        Backend::Embedded => "up",
        Backend::Kafka => "ingestion",
    });
    let check = ["keys", "check", "--file", file.to_str().unwrap(), "--url", &url];
    let (code, out, said) = run(&check).await;
    assert_eq!(code, Some(0), "{said}");
    for words in [
        &format!("{kid} is needed: "),
        "1 dead letters",
        "pages of stored lists",
        "\nlooked at: ",
        "\nnot looked at: ",
    ] {
        assert!(out.contains(words), "{words}: {out}");
    }
    assert!(!out.contains("not all"), "{out}");
}

/// One message for several on a stored list, in chunks. Gives the events and their numbers.
async fn broadcast(system: &System, client: &Client) -> Vec<(String, String)> {
    let numbers: Vec<String> = (10..15).map(|index| client.number(index)).collect();
    let lines: String = numbers
        .iter()
        .map(|number| json!({"payload": {"phoneNumber": number}}).to_string() + "\n")
        .collect();
    let path = format!("/lists/friends?tenant={}", client.tenant());
    let put = client.put_lines(&path, &lines).await;
    assert_eq!(
        (put.status.as_u16(), &put.body["recipients"]),
        (201, &json!(5)),
        "{put:?}"
    );
    let asked = json!({
        "tenant": client.tenant(), "chunkSize": 2, "list": "friends",
        "message": {
            "channel": "sms", "payload": {"message": format!("{MARKER} to many")}, "metadata": {"requiresEncryption": true},
        },
    });
    let taken = client
        .ask("POST", &client.intake("/broadcasts"), Some(&asked))
        .await;
    assert_eq!(taken.status, 202, "{taken:?}");
    let id = taken.body["broadcastId"].as_str().unwrap();
    let are_ours = |event: &Json| event["correlationId"] == id;
    let is_through = |event: &Json| event["status"] == "SENT" && event["payload"].is_object();
    let events = client
        .wait_for_all(PATIENCE, "all of the broadcast SENT and whole", |events| {
            let ours = events.iter().filter(|event| are_ours(event));
            ours.filter(|event| is_through(event)).count() == numbers.len()
        })
        .await;
    let mut sent = Vec::new();
    for event in events.iter().filter(|event| are_ours(event)) {
        let id = event["eventId"].as_str().unwrap().to_owned();
        assert_received(system, client, &id, MARKER).await;
        sent.push((id, event["payload"]["phoneNumber"].as_str().unwrap().to_owned()));
    }
    let mut reached: Vec<&String> = sent.iter().map(|(_, number)| number).collect();
    reached.sort_unstable();
    assert_eq!(reached, numbers.iter().collect::<Vec<_>>());
    sent
}

async fn assert_received(system: &System, client: &Client, id: &str, text: &str) {
    let url = format!("{}/sandbox/messages?event={id}", system.sandbox_url());
    let received = client.ask("GET", &url, None).await;
    assert!(received.body.to_string().contains(text), "{received:?}");
}

/// A channel whose events are sealed by a setting; opened when the inbox is read.
async fn in_the_inbox(client: &Client) {
    let payload =
        json!({"recipient": "ann", "title": MARKER, "body": format!("{MARKER}!"), "data": {"n": 4711}});
    let event = json!({"channel": "in_app", "tenant": client.tenant(), "payload": payload});
    client.wait(&client.accept(&event).await, "SENT").await;
    let path = format!("/inbox/ann?tenant={}", client.tenant());
    let inbox = client.get(&path).await.unwrap().body;
    let message = &inbox["messages"][0];
    for field in ["title", "body", "data"] {
        assert_eq!(message[field], payload[field], "{inbox:#}");
    }
}

/// The definition and every firing carry the sealed payload; an unchanged schedule stays as it is.
async fn scheduled(client: &Client, event: &Json) {
    let url = client.intake(&format!("/schedules/each-second?tenant={}", client.tenant()));
    let before = client.events().await.unwrap().len();
    let schedule = json!({"cron": "* * * * * *", "event": event});
    let put = client.ask("PUT", &url, Some(&schedule)).await;
    assert_eq!(put.status, 201, "{put:?}");
    let again = client.ask("PUT", &url, Some(&schedule)).await;
    assert_eq!((again.status.as_u16(), &again.body["version"]), (200, &json!(1)));
    assert_eq!(
        again.body["schedule"]["event"]["payload"], event["payload"],
        "{again:?}"
    );
    client
        .wait_for_all(PATIENCE, "two firings", |events| {
            let sent = events.iter().filter(|event| event["status"] == "SENT");
            sent.count() >= before + 2
        })
        .await;
    let mut other = schedule.clone();
    other["event"]["payload"]["message"] = json!(format!("{MARKER} other"));
    let changed = client.ask("PUT", &url, Some(&other)).await;
    assert_eq!(
        (changed.status.as_u16(), &changed.body["version"]),
        (200, &json!(2))
    );
    assert_eq!(client.ask("DELETE", &url, None).await.status, 204);
}

/// A provider that refuses the recipient quotes it: that is not kept.
async fn dead_lettered(system: &System, client: &Client, event: &Json, number: &str) -> String {
    let faults = system.faults().await;
    faults
        .set(json!([{"action": "invalid", "recipient": number}]))
        .await;
    let mut event = event.clone();
    event["provider"] = json!("twilio");
    let id = client.accept(&event).await;
    let letter = client.wait(&id, "DEAD_LETTERED").await;
    client.wait_for_letter(&id).await;
    faults.none().await;
    let error = letter["state"]["error"]["message"].as_str().unwrap();
    assert!(
        !error.contains(digits(number)) && error.contains("***"),
        "{letter:#}"
    );
    id
}

/// Sends until the intake has heard of the key; what was sealed before it goes out all the same.
async fn sealed_with(system: &System, client: &Client, event: &Json, kid: &str) {
    for _ in 0..200 {
        let id = client.accept(event).await;
        client.wait(&id, "SENT").await;
        assert_received(system, client, &id, MARKER).await;
        let ready = match system.backend() {
            Backend::Embedded => "up",
            Backend::Kafka => "ingestion",
        };
        let answer = client
            .ask("GET", &format!("{}/ready", system.url(ready)), None)
            .await;
        assert_eq!(answer.status, 200, "{answer:?}");
        if is_written_with(system, kid).await {
            return;
        }
    }
    panic!("nothing is sealed with {kid}");
}

async fn is_written_with(system: &System, kid: &str) -> bool {
    match system.backend() {
        Backend::Embedded => contains(&bytes_of(&system.data("up")), kid),
        Backend::Kafka => contains(&documents(system.place()), kid),
    }
}

/// The bytes of all that the system has written: topics and store.
async fn everything_written(system: &mut System) -> Vec<u8> {
    match system.backend() {
        // Twice: with the write-ahead logs, and with all of it in the files.
        Backend::Embedded => {
            let data = system.data("up");
            let mut written = bytes_of(&data);
            system.stop_all().await;
            written.extend(bytes_of(&data));
            written
        }
        Backend::Kafka => {
            let place = system.place().clone();
            let mut written = documents(&place);
            assert!(contains(&written, CONTROL), "the documents are read");
            let records = records(&place).await;
            assert!(contains(&records, CONTROL), "the records are read");
            written.extend(records);
            written
        }
    }
}

/// All files below a folder.
fn bytes_of(folder: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            bytes.extend(bytes_of(&path));
        } else {
            // One that is gone meanwhile was a write-ahead log that the files have taken in.
            bytes.extend(fs::read(&path).unwrap_or_default());
        }
    }
    bytes
}

/// All records of all topics, also those that no reader of committed ones would see, with their keys.
async fn records(place: &Place) -> Vec<u8> {
    let kafka = KafkaServer::shared().await.unwrap();
    let topics = format!("{}[.].*", place.prefix);
    let mut tool = kafka.tool("org.apache.kafka.tools.consumer.ConsoleConsumer");
    tool.args(["--bootstrap-server", &place.bootstrap, "--include", &topics]);
    tool.args(["--from-beginning", "--timeout-ms", "15000"]);
    tool.args(["--formatter-property", "print.key=true"]);
    let output = tokio::task::spawn_blocking(move || tool.output())
        .await
        .unwrap()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.stdout.len() > 10_000,
        "{} bytes: {said}",
        output.stdout.len()
    );
    output.stdout
}

/// All documents as the store sends them, past the product's own code: the answers to `find`, in BSON.
fn documents(place: &Place) -> Vec<u8> {
    let address = place.mongodb.trim_start_matches("mongodb://");
    let address = address.split(['/', '?']).next().unwrap();
    let mut connection = TcpStream::connect(address).unwrap();
    let mut all = Vec::new();
    for collection in ["events", "inbox", "claims", "list_pages"] {
        let mut command = vec![];
        command.extend(bson_text("find", collection));
        command.extend([b"\x10batchSize\0".as_slice(), &10_000_i32.to_le_bytes()].concat());
        command.extend(bson_text("$db", &place.prefix));
        let document = [
            &(i32::try_from(command.len()).unwrap() + 5).to_le_bytes(),
            command.as_slice(),
            b"\0",
        ]
        .concat();
        // OP_MSG: header of four numbers, flags, one section with the document.
        let length = i32::try_from(document.len()).unwrap() + 21;
        let header = [length, 1, 0, 2013, 0].map(i32::to_le_bytes).concat();
        connection
            .write_all(&[header.as_slice(), b"\0", &document].concat())
            .unwrap();
        let mut length = [0; 4];
        connection.read_exact(&mut length).unwrap();
        let mut answer = vec![0; usize::try_from(i32::from_le_bytes(length)).unwrap() - 4];
        connection.read_exact(&mut answer).unwrap();
        assert!(
            contains(&answer, "firstBatch"),
            "{}",
            String::from_utf8_lossy(&answer)
        );
        all.extend(answer);
    }
    all
}

fn bson_text(name: &str, text: &str) -> Vec<u8> {
    let length = (i32::try_from(text.len()).unwrap() + 1).to_le_bytes();
    [b"\x02", name.as_bytes(), b"\0", &length, text.as_bytes(), b"\0"].concat()
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

async fn what_cannot_be_sealed_is_refused(backend: Backend) {
    let system = System::shared(backend).await;
    let client = system.client();
    let with = |change: &dyn Fn(&mut Json)| {
        let mut event = client.sms(&client.number(1));
        change(&mut event);
        event
    };
    let own = json!({"$sealed": {"kid": "k", "alg": "A256GCM", "nonce": "AAAAAAAAAAAAAAAA", "data": "AAAA"}});
    for (event, field) in [
        (
            sealed(client.sms(&client.number(1))),
            "metadata.requiresEncryption",
        ),
        (
            with(&|event| event["metadata"]["requiresEncryption"] = json!("true")),
            "metadata.requiresEncryption",
        ),
        (
            with(&|event| event["payload"]["$sealed"] = own["$sealed"].clone()),
            "payload.$sealed",
        ),
    ] {
        let answer = client.post(&event).await.unwrap();
        assert_eq!(answer.status, 400, "{event}: {answer:?}");
        assert_eq!(answer.body["errors"][0]["field"], field, "{answer:?}");
        assert_eq!(answer.body["errors"].as_array().unwrap().len(), 1, "{answer:?}");
        let schedule = json!({"cron": "@daily", "event": event});
        let url = client.intake(&format!("/schedules/daily?tenant={}", client.tenant()));
        let answer = client.ask("PUT", &url, Some(&schedule)).await;
        assert_eq!(answer.status, 400, "{answer:?}");
        assert_eq!(
            answer.body["errors"][0]["field"],
            format!("event.{field}"),
            "{answer:?}"
        );
    }
    let alone = with(&|event| event["payload"] = own.clone());
    assert_eq!(client.post(&alone).await.unwrap().status, 400);
    let declined = with(&|event| event["metadata"]["requiresEncryption"] = json!(false));
    client.wait(&client.accept(&declined).await, "SENT").await;
}

/// The dispatcher loses the key while an event waits for its time, and gets it back.
async fn a_key_that_is_missing_is_waited_for(backend: Backend) {
    let folder = tempfile::tempdir().unwrap();
    let (file, other) = (folder.path().join("keys.json"), folder.path().join("other.json"));
    let missing = keys("generate", &file).await;
    keys("generate", &other).await;
    let plan = Plan::new(backend).await;
    let system = plan
        .setting("POSTHASTE_ENCRYPTION__KEYS_FILE", file.to_str().unwrap())
        .setting("POSTHASTE_ENCRYPTION__KEYS_POLL_MS", "20")
        .start()
        .await;
    let client = system.client();
    let ours = fs::read_to_string(&file).unwrap();
    let mut event = sealed(client.sms(&client.number(1)));
    event["scheduledAt"] = json!(time::write(clock::now() + 2_000));
    let id = client.accept(&event).await;
    fs::write(&file, &ours[..ours.len() / 2]).unwrap();
    let ready = system.url(match backend {
        Backend::Embedded => "up",
        // What was scheduled comes by the lane of retries.
        Backend::Kafka => "retry-lane",
    });
    told(&client, &ready, "not a key ring").await;
    fs::copy(&other, &file).unwrap();
    told(&client, &ready, &missing).await;
    let waiting = client
        .wait_for(&id, "waiting for its key", |event| {
            let steps = event["timeline"].as_array().unwrap();
            steps.iter().any(|step| step["reason"] == "key")
        })
        .await;
    assert_eq!(waiting["state"]["attempt"], 0, "{waiting:#}");
    fs::write(&file, &ours).unwrap();
    let sent = client.wait(&id, "SENT").await;
    assert_eq!(sent["state"]["attempt"], 1, "{sent:#}");
    assert_eq!(system.sandbox().times(&id).await, 1);
}

/// Waits until `/ready` says so, without being less ready for it.
async fn told(client: &Client, url: &str, what: &str) {
    let start = Instant::now();
    loop {
        let answer = client.ask("GET", &format!("{url}/ready"), None).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        if answer.body.to_string().contains(what) {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "{what} is not told: {answer:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
