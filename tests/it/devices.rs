//! A user's devices, and pushes to all of them.

use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};

use crate::{
    on_each_backend,
    system::{Answer, Backend, Client, PATIENCE, System},
};

on_each_backend!(a_push_to_a_user_reaches_all_devices_and_those_that_are_gone_are_dropped);

fn base(system: &System) -> String {
    system.url(match system.backend() {
        Backend::Embedded => "up",
        Backend::Kafka => "ingestion",
    })
}

async fn ask(system: &System, client: &Client, method: &str, path: &str, body: Option<&Json>) -> Answer {
    client.ask(method, &format!("{}{path}", base(system)), body).await
}

/// The tokens that an event was sent to, once all of its devices' events have ended.
async fn sent_to(client: &Client, id: &str) -> Vec<(String, String)> {
    let event = client
        .wait_for(id, "handed on", |event| {
            event["status"] == "SENT" && event["notes"][0]["data"]["events"].is_array()
        })
        .await;
    let mut ends = Vec::new();
    for one in event["notes"][0]["data"]["events"].as_array().unwrap() {
        let id = one["eventId"].as_str().unwrap();
        let end = client
            .wait_for(id, "an end, and what was sent", |event| {
                // How it ended stands on another topic than what it is, and either may be known first.
                event["payload"].is_object()
                    && ["SENT", "DEAD_LETTERED", "SKIPPED"]
                        .iter()
                        .any(|end| event["status"] == *end)
            })
            .await;
        let token = end["payload"]["token"].as_str().unwrap().to_owned();
        ends.push((token, end["status"].as_str().unwrap().to_owned()));
    }
    ends.sort();
    ends
}

/// The devices of one user, as its app and its tenant see them.
struct Ann<'a> {
    system: &'a System,
    client: Client,
}

impl Ann<'_> {
    fn token(&self, name: &str) -> String {
        format!("{name}-{}", self.client.tenant())
    }

    fn push(&self) -> Json {
        json!({"channel": "push", "tenant": self.client.tenant(), "payload": {"title": "t", "body": "b", "user": "ann"}})
    }

    fn of(&self, name: &str, end: &str) -> (String, String) {
        (self.token(name), end.to_owned())
    }

    async fn register(&self, user: &str, name: &str) -> String {
        let body = json!({"tenant": self.client.tenant(), "user": user, "token": self.token(name)});
        let put = ask(self.system, &self.client, "PUT", "/devices", Some(&body)).await;
        assert_eq!(put.status, 200, "{put:?}");
        put.body["id"].as_str().unwrap().to_owned()
    }

    async fn listed(&self) -> Vec<String> {
        let path = format!("/devices?tenant={}&user=ann", self.client.tenant());
        let listed = ask(self.system, &self.client, "GET", &path, None).await;
        let devices = listed.body["devices"].as_array().unwrap().iter();
        devices
            .map(|device| device["token"].as_str().unwrap().to_owned())
            .collect()
    }

    async fn unregister(&self, id: &str) -> u16 {
        let path = format!("/devices/{id}?tenant={}", self.client.tenant());
        ask(self.system, &self.client, "DELETE", &path, None)
            .await
            .status
            .as_u16()
    }
}

async fn a_push_to_a_user_reaches_all_devices_and_those_that_are_gone_are_dropped(backend: Backend) {
    let system = System::shared(backend).await;
    let client = system.client();
    let ann = Ann { system, client };
    ann.register("ann", "phone").await;
    let tablet = ann.register("ann", "tablet").await;
    ann.register("ann", "old").await;
    ann.register("bob", "tv").await;
    let named = |names: &[&str]| names.iter().map(|name| ann.token(name)).collect::<Vec<_>>();
    assert_eq!(ann.listed().await, named(&["old", "tablet", "phone"]));

    let faults = system.faults().await;
    let gone = json!([{"action": "invalid", "recipient": ann.token("old")}]);
    faults.set(gone).await;
    let id = ann.client.accept(&ann.push()).await;
    let ends = [
        ann.of("old", "DEAD_LETTERED"),
        ann.of("phone", "SENT"),
        ann.of("tablet", "SENT"),
    ];
    assert_eq!(sent_to(&ann.client, &id).await, ends);
    faults.none().await;

    let start = Instant::now();
    while ann.listed().await.len() > 2 {
        assert!(
            start.elapsed() < PATIENCE,
            "the device that is gone is still listed"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(ann.listed().await, named(&["tablet", "phone"]));
    assert_eq!(ann.unregister(&tablet).await, 204);
    assert_eq!(ann.unregister(&tablet).await, 404);
    // The app says that its token works again; dispatchers hear of it a moment later.
    ann.register("ann", "old").await;
    let wanted = [ann.of("old", "SENT"), ann.of("phone", "SENT")];
    let mut ends = Vec::new();
    for _ in 0..100 {
        let id = ann.client.accept(&ann.push()).await;
        ends = sent_to(&ann.client, &id).await;
        if ends == wanted {
            break;
        }
    }
    assert_eq!(ends, wanted);
    bad_devices_are_refused(system, &ann.client, &ann.push()).await;
}

async fn bad_devices_are_refused(system: &System, client: &Client, push: &Json) {
    let good = json!({"user": "ann", "token": "t"});
    for (field, value) in [
        ("user", json!("")),
        ("user", json!(3)),
        ("user", json!("u".repeat(257))),
        ("token", json!("a b")),
        ("token", Json::Null),
        ("provider", json!("twilio")),
        ("expiresAt", json!("2020-01-01T00:00:00Z")),
        ("expiresAt", json!("tomorrow")),
        ("tenant", json!("a/b")),
        ("more", json!(1)),
    ] {
        let mut body = good.clone();
        body[field] = value;
        let answer = ask(system, client, "PUT", "/devices", Some(&body)).await;
        assert_eq!(
            (answer.status.as_u16(), &answer.body["errors"][0]["field"]),
            (400, &json!(field)),
            "{answer:?}"
        );
    }
    let answer = ask(system, client, "GET", "/devices", None).await;
    assert_eq!(
        (answer.status.as_u16(), &answer.body["errors"][0]["field"]),
        (400, &json!("user"))
    );
    let mut both = push.clone();
    both["payload"]["token"] = json!("t");
    let answer = client.post(&both).await.unwrap();
    assert_eq!(
        (answer.status.as_u16(), &answer.body["errors"][0]["field"]),
        (400, &json!("payload.user")),
        "{answer:?}"
    );
    let mut ordered = push.clone();
    ordered["orderingKey"] = json!("k");
    let answer = client.post(&ordered).await.unwrap();
    assert_eq!(
        (answer.status.as_u16(), &answer.body["errors"][0]["field"]),
        (400, &json!("orderingKey")),
        "{answer:?}"
    );
}
