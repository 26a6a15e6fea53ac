//! Whoever is held to some configurations sends by these, and by nothing else.

use serde_json::{Value as Json, json};

use crate::{
    credentials::key,
    on_each_backend,
    system::{Answer, Backend, Client, Plan, System},
};

on_each_backend!(who_is_held_to_configurations_sends_by_nothing_else);

/// A system that asks for credentials; an admin of `acme`, and one who is held to the configuration `own`.
async fn guarded(backend: Backend) -> (System, [Client; 2]) {
    let mut plan = Plan::new(backend)
        .await
        .setting("POSTHASTE_SERVICE__AUTH__ENABLED", "true")
        .setting("POSTHASTE_SERVICE__AUTH__CLIENTS__HELD__CONFIGS", "own,newer");
    let mut tokens = Vec::new();
    for name in ["boss", "held"] {
        let (token, settings) = key(name, "acme", "admin").await;
        for (variable, value) in settings {
            plan = plan.setting(&variable, &value);
        }
        tokens.push(token);
    }
    let system = plan.start().await;
    let clients = [0, 1].map(|index: usize| system.client().bearing(&tokens[index], "acme"));
    (system, clients)
}

async fn ask(client: &Client, method: &str, path: &str, body: Json) -> Answer {
    client.ask(method, &client.intake(path), Some(&body)).await
}

fn message(config: &str) -> Json {
    json!({"channel": "ann", "configCode": config, "templateCode": "hello"})
}

fn plain() -> Json {
    json!({"channel": "in_app", "payload": {"recipient": "ann", "title": "Hello", "body": "World"}})
}

/// The status, the field that is named, and what would be accepted in it.
fn refusal(answer: &Answer) -> (u16, &str, &str) {
    let error = &answer.body["errors"][0];
    let text = |name: &str| error[name].as_str().unwrap_or_default();
    (answer.status.as_u16(), text("field"), text("accepted"))
}

async fn who_is_held_to_configurations_sends_by_nothing_else(backend: Backend) {
    let (system, [boss, held]) = guarded(backend).await;
    let template = json!({"channels": {"in_app": {"en": {"title": "Hello", "body": "World"}}}});
    assert_eq!(ask(&boss, "PUT", "/templates/hello", template).await.status, 201);
    for code in ["own", "other"] {
        let config = json!({"channel": "in_app"});
        let put = ask(&boss, "PUT", &format!("/configs/{code}"), config).await;
        assert_eq!(put.status, 201, "{put:?}");
    }
    let wanted = json!({"name": "app", "roles": ["send", "read"], "configs": ["own"]});
    let made = ask(&boss, "POST", "/keys", wanted).await;
    assert_eq!(
        (made.status.as_u16(), &made.body["configs"]),
        (201, &json!(["own"]))
    );
    let app = system
        .client()
        .bearing(made.body["key"].as_str().unwrap(), "acme");

    for (client, accepted) in [(&held, "own, newer"), (&app, "own")] {
        let sent = ask(client, "POST", "/messages/request", message("own")).await;
        assert_eq!(sent.status, 201, "{sent:?}");
        client.wait(sent.body["eventId"].as_str().unwrap(), "SENT").await;
        nothing_else_is_sent(client, accepted).await;
        many_are_refused_one_by_one(client, accepted).await;
        broadcasts_go_by_them_too(client, accepted).await;
    }
    // Only what went by its own configuration is there: of each, one message, one of many, and a broadcast to one.
    let listed = boss.get("/events?limit=100").await.unwrap();
    let events = listed.body["events"].as_array().unwrap();
    assert!(
        events
            .iter()
            .all(|event| event["metadata"]["configCode"] == "own"),
        "{listed:?}"
    );
    nothing_beyond_ones_own_is_given(&boss, &held).await;
}

async fn nothing_else_is_sent(client: &Client, accepted: &str) {
    // Whether there is another one is not told.
    let (other, none) = (
        ask(client, "POST", "/messages/request", message("other")).await,
        ask(client, "POST", "/messages/request", message("not-there")).await,
    );
    assert_eq!(refusal(&other), (403, "configCode", accepted), "{other:?}");
    assert_eq!(
        (&other.body["errors"], &other.body["detail"]),
        (&none.body["errors"], &none.body["detail"])
    );
    let later = json!({"request": message("other"), "scheduledAt": "2027-01-01T00:00:00Z"});
    let mut disguised = plain();
    disguised["metadata"] = json!({"configCode": "own"});
    let every_year = json!({"cron": "@yearly", "event": plain()});
    for (method, path, body, field) in [
        ("POST", "/messages/urgent", message("other"), "configCode"),
        ("POST", "/messages/schedule", later, "request.configCode"),
        ("POST", "/event", plain(), "configCode"),
        ("POST", "/event", disguised, "configCode"),
        ("PUT", "/schedules/yearly", every_year, "event.configCode"),
    ] {
        let answer = ask(client, method, path, body).await;
        assert_eq!(refusal(&answer), (403, field, accepted), "{path}: {answer:?}");
    }
}

async fn many_are_refused_one_by_one(client: &Client, accepted: &str) {
    let all = json!([message("own"), message("other"), message("not-there")]);
    let answer = ask(client, "POST", "/messages/request/bulk", all).await;
    let codes: Vec<_> = answer
        .body
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["code"].as_u64().unwrap())
        .collect();
    assert_eq!((answer.status.as_u16(), codes), (207, vec![201, 403, 403]));
    assert_eq!(answer.body[1]["errors"][0]["accepted"], accepted);
    client
        .wait(answer.body[0]["eventId"].as_str().unwrap(), "SENT")
        .await;
    let answer = ask(client, "POST", "/events", json!([plain(), plain()])).await;
    assert_eq!(answer.status, 403, "{answer:?}");
    assert_eq!(answer.body["items"][1]["errors"][0]["field"], "configCode");
}

async fn broadcasts_go_by_them_too(client: &Client, accepted: &str) {
    let with = |message: Json, recipient: Json| json!({"message": message, "recipients": [recipient]});
    let templated = |config: &str| json!({"configCode": config, "templateCode": "hello"});
    let to = json!({"channel": "ann"});
    for body in [
        with(templated("other"), to.clone()),
        with(templated("not-there"), to.clone()),
        with(json!({"templateCode": "hello"}), to.clone()),
        with(
            json!({"configCode": ["own"], "templateCode": "hello"}),
            to.clone(),
        ),
        with(plain(), json!({})),
        json!({"message": templated("other"), "list": "nobody-knows"}),
    ] {
        let answer = ask(client, "POST", "/broadcasts", body.clone()).await;
        assert_eq!(
            refusal(&answer),
            (403, "message.configCode", accepted),
            "{body}: {answer:?}"
        );
    }
    let taken = ask(client, "POST", "/broadcasts", with(templated("own"), to)).await;
    assert_eq!(taken.status, 202, "{taken:?}");
    let path = format!(
        "/events?correlationId={}",
        taken.body["broadcastId"].as_str().unwrap()
    );
    let found = async || {
        let listed = client.get(&path).await.unwrap();
        listed.body["events"]
            .as_array()
            .is_some_and(|events| !events.is_empty())
    };
    let all = async {
        while !found().await {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(crate::system::PATIENCE, all).await.unwrap();
}

/// Whoever is held to some configurations gives no others, neither in a new key nor by another secret for one that has them.
async fn nothing_beyond_ones_own_is_given(boss: &Client, held: &Client) {
    for (configs, status) in [
        (json!(["own"]), 201),
        (json!(["own", "other"]), 403),
        (Json::Null, 403),
    ] {
        let mut wanted = json!({"name": "x", "roles": ["send"]});
        if !configs.is_null() {
            wanted["configs"] = configs.clone();
        }
        let answer = ask(held, "POST", "/keys", wanted).await;
        assert_eq!(answer.status, status, "{answer:?}");
        if status == 403 {
            assert_eq!(refusal(&answer), (403, "configs", "own, newer"), "{configs}");
        }
    }
    let wide = ask(boss, "POST", "/keys", json!({"name": "wide", "roles": ["send"]})).await;
    assert_eq!(wide.status, 201, "{wide:?}");
    let path = format!("/keys/{}/rotate", wide.body["id"].as_str().unwrap());
    let answer = ask(held, "POST", &path, json!({})).await;
    assert_eq!(refusal(&answer), (403, "configs", "own, newer"), "{answer:?}");
}
