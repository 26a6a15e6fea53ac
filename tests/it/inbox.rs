//! Events that other services put on the inbox: taken in like those of HTTP, answered on the status topic, once each
//! whatever dies in between.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use posthaste_event::Topic;
use posthaste_testkit::{KafkaServer, MongoServer, MongoStorage, broker_suite::contents};
use serde_json::{Value as Json, json};

use crate::{
    kill_points::reader,
    load::all_are,
    system::{Backend, PATIENCE, Plan, System},
    unreadable::{produce, produce_with},
};

const LIMIT: Duration = Duration::from_secs(120);

/// The answers to the inbox, once there are so many.
async fn answers(system: &System, wanted: usize) -> Vec<Json> {
    let broker = reader(system).await;
    let start = Instant::now();
    let answers = loop {
        let records = contents(&*broker, Topic::Status).await;
        let answers: Vec<Json> = records
            .iter()
            .filter_map(|record| serde_json::from_slice::<Json>(record.value.as_deref()?).ok())
            .filter_map(|value| value.get("answer").cloned())
            .collect();
        if answers.len() >= wanted {
            break answers;
        }
        assert!(
            start.elapsed() < PATIENCE,
            "{} of {wanted} answers",
            answers.len()
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    broker.close(1_000).await;
    answers
}

fn put(kafka: &KafkaServer, system: &System, values: &[Json]) {
    let lines: Vec<String> = values
        .iter()
        .map(|value| match value {
            Json::String(text) => text.clone(),
            other => other.to_string(),
        })
        .collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    produce(kafka, &system.topic("inbox"), &lines);
}

fn cloud_event(id: &str, data: &Json) -> Json {
    json!({"specversion": "1.0", "type": "com.example.order", "source": "/orders", "id": id, "data": data})
}

#[tokio::test]
async fn a_cloud_event_may_have_its_attributes_in_headers() {
    let kafka = KafkaServer::shared().await.unwrap();
    let system = Plan::new(Backend::Kafka).await.start().await;
    let client = system.client();
    let good = "ce_specversion:1.0;ce_id:B-1;ce_source:/orders;ce_type:com.example.order;content-type:application/json";
    let sms = client.sms(&client.number(0)).to_string();
    let mut wrong = client.sms(&client.number(1));
    wrong["payload"]["phoneNumber"] = "12".into();
    let lines = [
        format!("{good}\t{sms}"),
        format!("{}\t{wrong}", good.replace("B-1", "B-2")),
        format!("{}\t{sms}", good.replace("ce_id:B-1;", "")),
        format!(
            "{}\t{sms}",
            good.replace("application/json", "application/avro")
                .replace("B-1", "B-3")
        ),
        format!(
            "content-type:application/cloudevents-batch+json\t[{}]",
            cloud_event("B-4", &wrong)
        ),
    ];
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let parse = [
        "--reader-property",
        "parse.headers=true",
        "--reader-property",
        "headers.separator=;",
    ];
    produce_with(kafka, &system.topic("inbox"), &lines, &parse);
    answers(&system, 5).await;
    // The same event once more, in the value this time.
    put(
        kafka,
        &system,
        &[cloud_event("B-1", &client.sms(&client.number(0)))],
    );
    let all = answers(&system, 6).await;
    let said = |answer: &Json| match answer["code"].as_u64().unwrap() {
        201 => format!("201 {}", answer["cloudEventId"].as_str().unwrap()),
        code => format!("{code} {}", answer["errors"][0]["field"].as_str().unwrap()),
    };
    let mut found: Vec<String> = all.iter().map(said).collect();
    found.sort();
    let expected = [
        "201 B-1",
        "201 B-1",
        "400 ce_id",
        "400 content-type",
        "400 content-type",
        "400 data.payload.phoneNumber",
    ];
    assert_eq!(found, expected, "{all:#?}");
    let taken = all.iter().find(|answer| answer["code"] == 201).unwrap();
    client.wait(taken["eventId"].as_str().unwrap(), "SENT").await;
    assert_eq!(system.sandbox().counts().await.taken, 1);
}

#[tokio::test]
async fn what_others_put_on_the_inbox_goes_out_and_each_record_has_an_answer() {
    let kafka = KafkaServer::shared().await.unwrap();
    let system = Plan::new(Backend::Kafka).await.start().await;
    let client = system.client();
    let sms = |index: usize| client.sms(&client.number(index));
    let mut own = sms(2);
    own["eventId"] = format!("{}-own", client.tenant()).into();
    let mut other = own.clone();
    other["payload"]["message"] = "Another".into();
    let mut wrong = sms(3);
    wrong["payload"]["phoneNumber"] = "12".into();
    put(
        kafka,
        &system,
        &[
            sms(0),
            cloud_event("A-1", &sms(1)),
            own.clone(),
            cloud_event("A-2", &wrong),
            json!("not json"),
            cloud_event("", &sms(4)),
            json!({"channel": "smoke", "payload": {}}),
        ],
    );
    let first = answers(&system, 7).await;
    // The same again, and the same names for something else; partitions of their own, so after the others.
    put(
        kafka,
        &system,
        &[
            cloud_event("A-1", &sms(1)),
            own,
            cloud_event("A-1", &sms(5)),
            other,
        ],
    );
    let all = answers(&system, 11).await;

    let with = |code: u64| {
        all.iter()
            .filter(|answer| answer["code"] == code)
            .collect::<Vec<_>>()
    };
    let taken = with(201);
    let ids: BTreeSet<&str> = taken
        .iter()
        .filter_map(|answer| answer["eventId"].as_str())
        .collect();
    assert_eq!((taken.len(), ids.len()), (5, 3), "{all:#?}");
    for id in &ids {
        client.wait(id, "SENT").await;
    }
    assert_eq!(system.sandbox().counts().await.taken, 3);
    let fields = |code: u64| -> BTreeSet<String> {
        let errors = with(code)
            .into_iter()
            .flat_map(|answer| answer["errors"].as_array().unwrap());
        errors
            .map(|error| error["field"].as_str().unwrap().to_owned())
            .collect()
    };
    let bad = ["body", "channel", "data.payload.phoneNumber", "id"].map(str::to_owned);
    assert_eq!(fields(400), bad.into(), "{all:#?}");
    assert_eq!(
        fields(409),
        ["eventId", "id"].map(str::to_owned).into(),
        "{all:#?}"
    );
    let cloud: Vec<&Json> = first
        .iter()
        .filter(|answer| answer["cloudEventId"] == "A-1")
        .collect();
    assert_eq!(cloud.len(), 1, "{first:#?}");
    assert_eq!(cloud[0]["status"], "PENDING", "{cloud:#?}");
}

#[tokio::test]
async fn a_kill_between_taking_an_event_and_answering_loses_and_doubles_nothing() {
    let kafka = KafkaServer::shared().await.unwrap();
    let mut system = Plan::new(Backend::Kafka).await.start().await;
    let client = system.client();
    let mut posted = 0;
    for point in ["claimed", "appended", "taken", "before-commit", "after-commit"] {
        println!("killed at {point}");
        let ingestion = system.service("ingestion");
        ingestion.stop().await;
        ingestion.arm(Some(format!("{point}:1:kill")));
        ingestion.launch();
        ingestion.ready_or_struck().await;
        let struck = ingestion.strike();
        let events: Vec<Json> = (posted..posted + 10)
            .map(|index| client.sms(&client.number(index)))
            .collect();
        posted += events.len();
        put(kafka, &system, &events);
        let start = Instant::now();
        while !struck() {
            assert!(start.elapsed() < LIMIT, "{point} never came by");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let ingestion = system.service("ingestion");
        ingestion.arm(None);
        ingestion.launch();
        ingestion.ready().await;
    }
    client
        .wait_for_all(LIMIT, "all SENT", |events| all_are(events, posted, &["SENT"]))
        .await;
    let answers = answers(&system, posted).await;
    let places: BTreeSet<String> = answers
        .iter()
        .map(|answer| format!("{}/{}", answer["partition"], answer["offset"]))
        .collect();
    assert_eq!((answers.len(), places.len()), (posted, posted));
    let counts = system.sandbox().counts().await;
    assert_eq!(counts.taken, posted as u64, "{counts:?}");
}

#[tokio::test]
async fn with_the_store_away_the_inbox_waits_and_says_so() {
    let kafka = KafkaServer::shared().await.unwrap();
    let mut mongo = MongoServer::start(MongoStorage::File).await.unwrap();
    let system = Plan::new(Backend::Kafka).await.store(&mongo).start().await;
    let client = system.client();
    mongo.kill();
    put(
        kafka,
        &system,
        &[client.sms(&client.number(0)), client.sms(&client.number(1))],
    );
    let start = Instant::now();
    loop {
        let ready = client.ask("GET", &client.intake("/ready"), None).await;
        if ready.status == 503 && ready.body.to_string().contains("inbox") {
            break;
        }
        assert!(start.elapsed() < PATIENCE, "{ready:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    mongo.restart().await.unwrap();
    client
        .wait_for_all(LIMIT, "both SENT", |events| all_are(events, 2, &["SENT"]))
        .await;
    assert_eq!(system.sandbox().counts().await.taken, 2);
}
