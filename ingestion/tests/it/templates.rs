//! Templates, configurations and the messages made of them, over HTTP.

use std::{fs, path::Path};

use posthaste_event::{Topic, clock, time};
use posthaste_ingestion::{ProviderNames, Settings, templates::Folder};
use serde_json::{Value as Json, json};

use crate::world::{Fixture, Scripted, ask};

async fn post(intake: &Fixture, path: &str, body: Json) -> (u16, Json) {
    let (status, _, answer) = ask(intake, "POST", path, &[], &body).await;
    (status.as_u16(), answer)
}

async fn put(intake: &Fixture, path: &str, body: Json) -> u16 {
    ask(intake, "PUT", path, &[], &body).await.0.as_u16()
}

fn welcome() -> Json {
    json!({
        "description": "Greets who is new",
        "variables": {
            "type": "object",
            "required": ["userName"],
            "properties": {"userName": {"type": "string"}, "userEmail": {"type": "string"}}
        },
        "channels": {
            "slack": {
                "en": {"text": "Welcome, {{ userName }}!"},
                "de": {"text": "Willkommen, {{ userName }}!"}
            },
            "sms": {"en": {"message": "Hi {{ userName }}"}}
        }
    })
}

/// Intake in which the tenant `acme-corp` has defined what the examples use.
async fn intake() -> Fixture {
    let intake = Fixture::new(Scripted::default(), |_| {});
    let config = json!({"channel": "slack", "priority": "high", "ttl": 3_600});
    assert_eq!(
        put(&intake, "/configs/default-slack?tenant=acme-corp", config).await,
        201
    );
    assert_eq!(
        put(&intake, "/templates/welcome-message?tenant=acme-corp", welcome()).await,
        201
    );
    intake
}

fn later() -> String {
    time::write(clock::now() + 3_600_000)
}

fn message() -> Json {
    json!({
        "tenant": "acme-corp",
        "channel": "#general",
        "configCode": "default-slack",
        "templateCode": "welcome-message",
        "payload": {"userName": "John <!channel> Doe", "userEmail": "john@acme-corp.com"}
    })
}

fn with(change: &[(&str, Json)]) -> Json {
    let mut message = message();
    for (name, value) in change {
        message[*name] = value.clone();
    }
    message
}

/// The records that were appended: topic, delivery and event.
fn records(intake: &Fixture) -> Vec<(Topic, Json)> {
    let appended = intake.broker.appended.lock().unwrap();
    let records = appended.iter().map(|record| {
        let value = record.value.as_ref().unwrap();
        (record.topic, serde_json::from_slice(value).unwrap())
    });
    records.collect()
}

#[tokio::test]
async fn a_message_becomes_an_event_with_rendered_text_and_references() {
    let intake = intake().await;
    for path in ["/messages/request", "/core-slack-worker/messages/request"] {
        let (status, answer) = post(&intake, path, message()).await;
        assert_eq!(status, 201, "{answer}");
        assert_eq!(answer["correlationId"], "c-1");
        assert_eq!(answer["status"], "accepted");
        assert!(answer["message"].is_string() && answer["eventId"].is_string());
    }
    let records = records(&intake);
    assert_eq!(records.len(), 2);
    let (topic, value) = &records[0];
    assert_eq!(*topic, Topic::Default);
    let event = &value["event"];
    assert_eq!(event["channel"], "slack");
    assert_eq!(event["tenant"], "acme-corp");
    assert_eq!(
        event["payload"],
        json!({"channel": "#general", "text": "Welcome, John &lt;!channel&gt; Doe!"})
    );
    assert_eq!(
        event["metadata"],
        json!({
            "configCode": "default-slack", "configVersion": 1,
            "templateCode": "welcome-message", "templateVersion": 1, "locale": "en"
        })
    );
    assert_eq!(value["delivery"]["priority"], "high");
    assert!(value["delivery"]["expiresAt"].is_number());
}

#[tokio::test]
async fn urgent_scheduled_and_many_go_their_ways() {
    let intake = intake().await;
    assert_eq!(post(&intake, "/messages/urgent", message()).await.0, 201);
    let scheduled = json!({"request": with(&[("locale", json!("de-AT"))]), "scheduledAt": later()});
    let (status, answer) = post(&intake, "/messages/schedule", scheduled).await;
    assert_eq!(status, 201, "{answer}");
    let many = json!([message(), with(&[("templateCode", json!("nothing"))]), message()]);
    let (status, answer) = post(&intake, "/messages/request/bulk", many).await;
    assert_eq!(status, 207);
    let entries: Vec<(u64, &str, &str)> = answer
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| {
            (
                entry["code"].as_u64().unwrap(),
                entry["status"].as_str().unwrap(),
                entry["correlationId"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        entries,
        [
            (201, "accepted", "c-1.0"),
            (422, "refused", "c-1.1"),
            (201, "accepted", "c-1.2")
        ]
    );
    assert_eq!(answer[1]["errors"][0]["field"], "templateCode");
    let records = records(&intake);
    assert_eq!(records.len(), 4);
    assert_eq!(records[0].0, Topic::Critical);
    assert_eq!(records[1].1["delivery"]["status"], "SCHEDULED");
    assert_eq!(
        records[1].1["event"]["payload"]["text"],
        "Willkommen, John &lt;!channel&gt; Doe!"
    );
}

#[tokio::test]
async fn what_cannot_be_sent_is_named_and_nothing_is_stored() {
    let intake = intake().await;
    let long = "x".repeat(250_000);
    for (change, status, field) in [
        (vec![("configCode", json!("nothing"))], 422, "configCode"),
        (vec![("templateCode", json!("nothing"))], 422, "templateCode"),
        (
            vec![("templateCode", json!("../../etc/passwd"))],
            422,
            "templateCode",
        ),
        (vec![("configCode", json!(7))], 400, "configCode"),
        (vec![("configCode", Json::Null)], 400, "configCode"),
        (vec![("payload", json!({}))], 422, "payload.userName"),
        (vec![("payload", json!({"userName": 7}))], 422, "payload.userName"),
        (vec![("payload", json!([]))], 400, "payload"),
        (vec![("channel", Json::Null)], 422, "channel"),
        (vec![("channel", json!("#a b"))], 422, "channel"),
        (vec![("from", json!("boss"))], 422, "from"),
        (vec![("threadTs", json!("soon"))], 422, "threadTs"),
        (vec![("tenant", json!("a/b"))], 400, "tenant"),
        (vec![("tenant", json!("another"))], 422, "configCode"),
        (vec![("locale", json!("../en"))], 400, "locale"),
        (
            vec![("metadata", json!({"templateCode": "x"}))],
            400,
            "metadata.templateCode",
        ),
        (vec![("priority", json!("soon"))], 422, "priority"),
        (vec![("tokn", json!("x"))], 400, "tokn"),
        (vec![("payload", json!({"userName": long}))], 422, "templateCode"),
    ] {
        let (answered, answer) = post(&intake, "/messages/request", with(&change)).await;
        assert_eq!(
            (answered, &answer["errors"][0]["field"]),
            (status, &json!(field)),
            "{answer}"
        );
    }
    let (status, answer) = post(
        &intake,
        "/messages/schedule",
        json!({"request": with(&[("payload", json!({}))]), "scheduledAt": later()}),
    )
    .await;
    assert_eq!(
        (status, &answer["errors"][0]["field"]),
        (422, &json!("request.payload.userName"))
    );
    for (body, field) in [
        (json!({"request": message()}), "scheduledAt"),
        (
            json!({"request": message(), "scheduledAt": "tomorrow"}),
            "scheduledAt",
        ),
        (json!({"scheduledAt": later()}), "request"),
    ] {
        let (status, answer) = post(&intake, "/messages/schedule", body).await;
        assert!(status == 400 || status == 422, "{answer}");
        assert_eq!(answer["errors"][0]["field"], field);
    }
    for body in [json!({}), json!([]), json!([7]), json!([[[]]])] {
        let (status, answer) = post(&intake, "/messages/request/bulk", body).await;
        assert!((400..500).contains(&status), "{answer}");
    }
    let mut deep = json!({});
    for _ in 0..100 {
        deep = json!({ "a": deep });
    }
    assert_eq!(
        post(&intake, "/messages/request", with(&[("payload", deep)]))
            .await
            .0,
        400
    );
    assert_eq!(intake.stored(), 0);
}

#[tokio::test]
async fn a_key_counts_once_though_the_template_changes() {
    let intake = intake().await;
    let key = [("idempotency-key", "k1")];
    let first = ask(&intake, "POST", "/messages/request", &key, &message())
        .await
        .2;
    let mut changed = welcome();
    changed["channels"]["slack"]["en"]["text"] = json!("Hello, {{ userName }}");
    assert_eq!(
        put(&intake, "/templates/welcome-message?tenant=acme-corp", changed).await,
        200
    );
    let (status, headers, again) = ask(&intake, "POST", "/messages/request", &key, &message()).await;
    assert_eq!(status, 201);
    assert_eq!(again["eventId"], first["eventId"]);
    assert_eq!(headers["idempotency-replayed"], "true");
    let other = with(&[("payload", json!({"userName": "Ann"}))]);
    assert_eq!(
        ask(&intake, "POST", "/messages/request", &key, &other).await.0,
        422
    );
    assert_eq!(
        ask(&intake, "POST", "/messages/urgent", &key, &message()).await.0,
        422
    );
    assert_eq!(intake.stored(), 1);
}

#[tokio::test]
async fn definitions_are_put_listed_changed_and_deleted() {
    let intake = Fixture::new(Scripted::default(), |settings| settings.definitions_max = 3);
    let (status, headers, shown) = ask(&intake, "PUT", "/templates/a", &[], &welcome()).await;
    assert_eq!(
        (status.as_u16(), &shown["version"], &shown["tenant"]),
        (201, &json!(1), &json!("default"))
    );
    let first = headers["etag"].to_str().unwrap().to_owned();
    assert_eq!(shown["template"], welcome());
    assert_eq!(
        ask(&intake, "GET", "/templates/a", &[], &Json::Null).await.2,
        shown
    );
    assert_eq!(put(&intake, "/templates/a", welcome()).await, 200);
    let mut changed = welcome();
    changed["description"] = json!("again");
    let matching = [("if-match", first.as_str())];
    let (status, _, shown) = ask(&intake, "PUT", "/templates/a", &matching, &changed).await;
    assert_eq!((status.as_u16(), &shown["version"]), (200, &json!(2)));
    for stale in [matching, [("if-none-match", "*")]] {
        assert_eq!(
            ask(&intake, "PUT", "/templates/a", &stale, &welcome()).await.0,
            412
        );
    }
    assert_eq!(
        ask(&intake, "DELETE", "/templates/a", &matching, &Json::Null)
            .await
            .0,
        412
    );
    for code in ["b", "c"] {
        assert_eq!(put(&intake, &format!("/templates/{code}"), welcome()).await, 201);
    }
    assert_eq!(put(&intake, "/templates/d", welcome()).await, 507);
    assert_eq!(put(&intake, "/templates/d?tenant=other", welcome()).await, 201);
    let list = ask(&intake, "GET", "/templates?limit=2", &[], &Json::Null)
        .await
        .2;
    assert_eq!(
        (&list["items"][0]["code"], &list["next"]),
        (&json!("a"), &json!("b"))
    );
    let list = ask(&intake, "GET", "/templates?after=b", &[], &Json::Null)
        .await
        .2;
    assert_eq!(list["items"].as_array().unwrap().len(), 1);
    assert!(list.get("next").is_none());
    assert_eq!(
        ask(&intake, "DELETE", "/templates/a", &[], &Json::Null).await.0,
        204
    );
    assert_eq!(
        ask(&intake, "DELETE", "/templates/a", &[], &Json::Null).await.0,
        404
    );
    assert_eq!(ask(&intake, "GET", "/templates/a", &[], &Json::Null).await.0, 404);
    assert_eq!(ask(&intake, "GET", "/configs/a", &[], &Json::Null).await.0, 404);
}

#[tokio::test]
async fn what_is_no_definition_is_refused_by_field() {
    let intake = Fixture::new(Scripted::default(), |_| {});
    for (path, body, field) in [
        ("/templates/a", json!({}), "channels"),
        (
            "/templates/a",
            json!({"channels": {"sms": {"en": {"message": "{{ 'x' * 100000000 }}"}}}}),
            "channels.sms.en.message",
        ),
        (
            "/templates/a",
            json!({"variables": {"$ref": "#"}, "channels": {"sms": {"en": {"message": "x"}}}}),
            "variables.$ref",
        ),
        (
            "/configs/a",
            json!({"channel": "sms", "provider": "nobody"}),
            "provider",
        ),
        (
            "/configs/a",
            json!({"channel": "slack", "token": "xoxb-secret"}),
            "token",
        ),
        ("/templates/..%2Fa", welcome(), "code"),
        ("/templates/a%00", welcome(), "code"),
        ("/templates/a?tenant=a%2Fb", welcome(), "tenant"),
    ] {
        let (status, _, answer) = ask(&intake, "PUT", path, &[], &body).await;
        assert_eq!(
            (status.as_u16(), &answer["errors"][0]["field"]),
            (400, &json!(field)),
            "{answer}"
        );
    }
    let large = json!({"description": "x".repeat(200_000)});
    assert_eq!(put(&intake, "/templates/a", large).await, 413);
    for path in ["/templates", "/configs"] {
        let list = ask(&intake, "GET", path, &[], &Json::Null).await.2;
        assert_eq!(list["items"], json!([]));
    }
}

#[tokio::test]
async fn a_preview_shows_what_would_be_sent() {
    let intake = intake().await;
    let path = "/templates/welcome-message/preview?tenant=acme-corp";
    let asked = json!({"channel": "sms", "payload": {"userName": "Ann"}});
    let (status, answer) = post(&intake, path, asked).await;
    assert_eq!(status, 200);
    assert_eq!(answer["content"], json!({"message": "Hi Ann"}));
    let (status, answer) = post(&intake, path, json!({"channel": "sms"})).await;
    assert_eq!(
        (status, &answer["errors"][0]["field"]),
        (422, &json!("payload.userName"))
    );
    assert_eq!(post(&intake, path, json!({"channel": "fax"})).await.0, 400);
    assert_eq!(
        post(&intake, "/templates/x/preview", json!({"channel": "sms"}))
            .await
            .0,
        404
    );
    assert_eq!(intake.stored(), 0);
}

/// A folder with one tenant's template and configuration.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (what, code, body) in [
        ("templates", "welcome-message", welcome()),
        ("configs", "default-slack", json!({"channel": "slack"})),
    ] {
        let path = folder.path().join("acme-corp").join(what);
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join(format!("{code}.json")), body.to_string()).unwrap();
    }
    folder
}

fn read(folder: &Path) -> Result<Folder, String> {
    let table: toml::Table = toml::from_str(posthaste_ingestion::DEFAULTS).unwrap();
    let mut settings: Settings = table["ingestion"].clone().try_into().unwrap();
    settings.definitions_folder = folder.display().to_string();
    Folder::read(&settings, &ProviderNames::new())
}

#[tokio::test]
async fn a_folder_is_put_once_and_messages_are_made_of_it() {
    let intake = Fixture::new(Scripted::default(), |_| {});
    let folder = folder();
    for _ in 0..2 {
        read(folder.path()).unwrap().put(&intake.catalog).await;
    }
    let (status, answer) = post(&intake, "/messages/request", message()).await;
    assert_eq!(status, 201, "{answer}");
    let event = &records(&intake)[0].1["event"];
    assert_eq!(
        event["metadata"]["templateVersion"], 1,
        "it said the same the second time"
    );
}

#[test]
fn a_wrong_file_is_named_with_its_field() {
    for (file, text, expected) in [
        ("acme-corp/templates/x.json", "{}", "x.json: channels"),
        ("acme-corp/templates/x.txt", "{}", "x.txt: is no definition"),
        ("acme-corp/configs/a b.json", "{}", "a b.json: is no definition"),
        (
            "acme-corp/configs/x.json",
            "{\"channel\":\"slack\",\"channel\":\"sms\"}",
            "x.json: channel",
        ),
        ("acme-corp/configs/x.json", "{", "x.json: body"),
    ] {
        let folder = folder();
        fs::write(folder.path().join(file), text).unwrap();
        let error = read(folder.path()).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
    assert!(read(Path::new("/nowhere/at/all")).is_err());
}
