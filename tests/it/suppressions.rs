//! Whoever bounced, complained or unsubscribed gets nothing, from wherever the event comes.

use serde_json::{Value as Json, json};

use crate::{
    on_each_backend,
    system::{Answer, Backend, Client, System},
};

on_each_backend!(
    who_is_suppressed_gets_nothing_until_released,
    bad_suppressions_are_refused_whole,
    a_device_that_its_provider_calls_gone_gets_nothing_more
);

fn base(system: &System) -> String {
    system.url(match system.backend() {
        Backend::Embedded => "up",
        Backend::Kafka => "ingestion",
    })
}

async fn ask(system: &System, client: &Client, method: &str, path: &str, body: Option<&Json>) -> Answer {
    client.ask(method, &format!("{}{path}", base(system)), body).await
}

/// Waits until an event for this number ends so: dispatchers hear of a suppression a moment later.
async fn until(client: &Client, number: &str, status: &str) -> Json {
    for _ in 0..100 {
        let id = client.accept(&client.sms(number)).await;
        let event = client
            .wait_for(&id, "an end", |event| {
                ["SENT", "SKIPPED"].iter().any(|end| event["status"] == *end)
            })
            .await;
        if event["status"] == status {
            return event;
        }
    }
    panic!("never {status}");
}

async fn who_is_suppressed_gets_nothing_until_released(backend: Backend) {
    let system = System::shared(backend).await;
    let client = system.client();
    let (number, other) = (client.number(1), client.number(2));
    let tenant = client.sms("x")["tenant"].as_str().unwrap().to_owned();
    until(&client, &number, "SENT").await;
    let wanted = json!([
        {"tenant": tenant, "channel": "sms", "recipient": number.replace('+', "00"), "reason": "unsubscribed", "source": "STOP"},
        {"tenant": tenant, "channel": "email", "recipient": "Ann <ANN@example.com>", "reason": "bounced",
         "until": "2090-01-01T00:00:00Z"},
    ]);
    let put = ask(system, &client, "PUT", "/suppressions", Some(&wanted)).await;
    assert_eq!(put.status, 200, "{put:?}");
    assert!(
        !put.body.to_string().contains(&number[1..]) && !put.body.to_string().contains("ann@"),
        "{put:?}"
    );

    let skipped = until(&client, &number, "SKIPPED").await;
    let error = &skipped["state"]["error"];
    assert_eq!(error["code"], "suppressed_unsubscribed", "{skipped:#}");
    assert_eq!(
        system.sandbox().times(skipped["eventId"].as_str().unwrap()).await,
        0
    );
    until(&client, &other, "SENT").await;
    let mut receipt = client.sms(&number);
    receipt["metadata"] = json!({"ignoreUnsubscribe": true});
    client.wait(&client.accept(&receipt).await, "SENT").await;

    some_of_an_emails_recipients(&client, &tenant).await;
    let one = looked_up(system, &client, &tenant, &number).await;

    let query = format!("/suppressions?tenant={tenant}");
    let path = format!("/suppressions/{one}?tenant={tenant}");
    let released = ask(system, &client, "DELETE", &path, None).await;
    assert_eq!(released.status, 200, "{released:?}");
    until(&client, &number, "SENT").await;
    assert_eq!(ask(system, &client, "DELETE", &path, None).await.status, 404);
    let by_name = format!("{query}&channel=email&recipient=ann%40example.com");
    assert_eq!(ask(system, &client, "DELETE", &by_name, None).await.status, 200);
    assert_eq!(
        ask(system, &client, "GET", &query, None).await.body,
        json!({"suppressions": []})
    );
}

async fn a_device_that_its_provider_calls_gone_gets_nothing_more(backend: Backend) {
    let system = System::shared(backend).await;
    let client = system.client();
    let token = format!("gone-{}", client.tenant());
    let push = json!({"channel": "push", "tenant": client.tenant(), "payload": {"title": "t", "body": "b", "token": token}});
    let faults = system.faults().await;
    faults
        .set(json!([{"action": "invalid", "recipient": token}]))
        .await;
    let id = client.accept(&push).await;
    let dead = client.wait(&id, "DEAD_LETTERED").await;
    assert_eq!(dead["state"]["error"]["code"], "UNREGISTERED", "{dead:#}");
    faults.none().await;
    let mut last = Json::Null;
    for _ in 0..100 {
        let id = client.accept(&push).await;
        last = client
            .wait_for(&id, "an end", |event| {
                ["SENT", "SKIPPED"].iter().any(|end| event["status"] == *end)
            })
            .await;
        if last["status"] == "SKIPPED" {
            break;
        }
    }
    assert_eq!(last["state"]["error"]["code"], "suppressed_bounced", "{last:#}");
    let query = format!("/suppressions?tenant={}&channel=push", client.tenant());
    let listed = ask(system, &client, "GET", &query, None).await;
    let [one] = &listed.body["suppressions"].as_array().unwrap()[..] else {
        panic!("{listed:?}")
    };
    assert_eq!(one["source"], "firebase", "{listed:?}");
    assert!(!listed.body.to_string().contains(&token), "{listed:?}");
}

/// Of an email's recipients only those get it who may.
async fn some_of_an_emails_recipients(client: &Client, tenant: &str) {
    let email = json!({"channel": "email", "tenant": tenant, "payload": {
        "subject": "s", "body": "b", "from": "us@example.com", "to": ["ann@example.com", "eve@example.com"],
    }});
    let id = client.accept(&email).await;
    let sent = client
        .wait_for(&id, "SENT", |event| {
            event["status"] == "SENT" && event["notes"].is_array()
        })
        .await;
    assert_eq!(sent["notes"][0]["kind"], "recipientsSuppressed", "{sent:#}");
}

/// Looks a suppression up by recipient, by page and by id, which is given back.
async fn looked_up(system: &System, client: &Client, tenant: &str, number: &str) -> String {
    let query = format!("/suppressions?tenant={tenant}");
    let escaped = number.replace('+', "%2B");
    let found = ask(
        system,
        client,
        "GET",
        &format!("{query}&channel=sms&recipient={escaped}"),
        None,
    )
    .await;
    let [one] = &found.body["suppressions"].as_array().unwrap()[..] else {
        panic!("{found:?}")
    };
    assert_eq!(
        (&one["reason"], &one["source"]),
        (&json!("unsubscribed"), &json!("STOP"))
    );
    let first = ask(system, client, "GET", &format!("{query}&limit=1"), None).await;
    let next = first.body["next"].as_str().unwrap();
    let second = ask(
        system,
        client,
        "GET",
        &format!("{query}&limit=1&cursor={next}"),
        None,
    )
    .await;
    assert!(second.body["next"].is_null(), "{second:?}");
    assert_ne!(
        first.body["suppressions"][0]["id"],
        second.body["suppressions"][0]["id"]
    );
    let path = format!("/suppressions/{}?tenant={tenant}", one["id"].as_str().unwrap());
    assert_eq!(ask(system, client, "GET", &path, None).await.body, *one);
    let elsewhere = format!("/suppressions/{}?tenant=nobody", one["id"].as_str().unwrap());
    assert_eq!(ask(system, client, "GET", &elsewhere, None).await.status, 404);
    one["id"].as_str().unwrap().to_owned()
}

async fn bad_suppressions_are_refused_whole(backend: Backend) {
    let system = System::shared(backend).await;
    let client = system.client();
    let tenant = client.sms("x")["tenant"].as_str().unwrap().to_owned();
    let good = json!({"tenant": tenant, "channel": "sms", "recipient": client.number(3), "reason": "manual"});
    let with = |field: &str, value: Json| {
        let mut one = good.clone();
        one[field] = value;
        one
    };
    for (body, field) in [
        (json!({}), "channel"),
        (json!([]), "body"),
        (json!("x"), "body"),
        (json!([good, 7]), "[1].body"),
        (json!([good, with("channel", json!("fax"))]), "[1].channel"),
        (with("recipient", json!("call me")), "recipient"),
        (with("recipient", json!("")), "recipient"),
        (with("reason", json!("bored")), "reason"),
        (with("until", json!("2001-01-01T00:00:00Z")), "until"),
        (with("until", json!("tomorrow")), "until"),
        (with("tenant", json!("a/b")), "tenant"),
        (with("reasons", json!("manual")), "reasons"),
        (Json::Array(vec![good.clone(); 1_001]), "body"),
    ] {
        let answer = ask(system, &client, "PUT", "/suppressions", Some(&body)).await;
        assert_eq!(answer.status, 400, "{body}: {answer:?}");
        assert_eq!(answer.body["errors"][0]["field"], field, "{answer:?}");
    }
    bad_questions_are_refused(system, &client, &tenant).await;
    let listed = ask(
        system,
        &client,
        "GET",
        &format!("/suppressions?tenant={tenant}"),
        None,
    )
    .await;
    assert_eq!(listed.body, json!({"suppressions": []}), "{listed:?}");
}

async fn bad_questions_are_refused(system: &System, client: &Client, tenant: &str) {
    for query in [
        "channel=fax",
        "recipient=x",
        "limit=0",
        "limit=1001",
        "cursor=x",
        "channel=sms&recipient=x",
        "channel=sms&recipient=2025555555&limit=1",
        "what=x",
    ] {
        let path = format!("/suppressions?tenant={tenant}&{query}");
        assert_eq!(
            ask(system, client, "GET", &path, None).await.status,
            400,
            "{query}"
        );
    }
    for path in [
        "/suppressions",
        "/suppressions?channel=sms",
        "/suppressions?channel=email&recipient=x",
    ] {
        assert_eq!(
            ask(system, client, "DELETE", path, None).await.status,
            400,
            "{path}"
        );
    }
    for id in ["x", "sms-x", "sms-00", "fax-00000000000000000000000000000000"] {
        let path = format!("/suppressions/{id}");
        assert_eq!(
            ask(system, client, "GET", &path, None).await.status,
            404,
            "{path}"
        );
    }
}
