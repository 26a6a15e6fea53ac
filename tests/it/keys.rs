//! Keys that are made over HTTP: they open every service, and only what they are for.

use std::time::Duration;

use serde_json::{Value as Json, json};

use crate::{
    credentials::key,
    on_each_backend,
    system::{Answer, Backend, Client, PATIENCE, Plan, System},
};

on_each_backend!(keys_are_made_rotated_and_revoked_over_http);

/// A system that asks for credentials; admins of `acme` (held to SMS), of `globex`, and of all.
async fn guarded(backend: Backend) -> (System, [Client; 3]) {
    let mut plan = Plan::new(backend)
        .await
        .setting("POSTHASTE_SERVICE__AUTH__ENABLED", "true")
        .setting("POSTHASTE_SERVICE__AUTH__CLIENTS__ONE__CHANNELS", "sms")
        .setting("POSTHASTE_INGESTION__API_KEYS_MAX", "4");
    let mut tokens = Vec::new();
    for (name, tenant) in [("one", "acme"), ("two", "globex"), ("boss", "*")] {
        let (token, settings) = key(name, tenant, "admin").await;
        for (variable, value) in settings {
            plan = plan.setting(&variable, &value);
        }
        tokens.push((token, tenant));
    }
    let system = plan.start().await;
    let clients = [0, 1, 2].map(|index: usize| system.client().bearing(&tokens[index].0, tokens[index].1));
    (system, clients)
}

async fn ask(client: &Client, method: &str, path: &str, body: Json) -> Answer {
    let body = (!body.is_null()).then_some(&body);
    client.ask(method, &client.intake(path), body).await
}

async fn make(client: &Client, body: Json) -> Answer {
    ask(client, "POST", "/keys", body).await
}

fn text<'a>(answer: &'a Answer, field: &str) -> &'a str {
    answer.body[field].as_str().unwrap()
}

/// Asks every service until each answers with this status.
async fn everywhere(system: &System, client: &Client, status: u16) {
    for name in system.names() {
        let url = format!("{}/metrics", system.url(&name));
        let answered = async {
            while client.ask("GET", &url, None).await.status != status {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let in_time = tokio::time::timeout(PATIENCE, answered).await;
        assert!(in_time.is_ok(), "{name} does not answer {status}");
    }
}

async fn keys_are_made_rotated_and_revoked_over_http(backend: Backend) {
    let (mut system, [acme, globex, boss]) = guarded(backend).await;
    let wanted = json!({"name": "shop", "roles": ["send", "read"], "channels": ["sms"]});
    let made = make(&acme, wanted.clone()).await;
    assert_eq!(made.status, 201, "{made:?}");
    assert_eq!(made.headers["cache-control"], "no-store");
    let (id, secret) = (text(&made, "id").to_owned(), text(&made, "key").to_owned());
    assert!(secret.starts_with(&format!("ph_{id}_")));
    let shop = system.client().bearing(&secret, "acme");

    // It is good for what it is for, on every service: this role is not among them.
    everywhere(&system, &shop, 403).await;
    let event = shop.accept(&shop.sms(&shop.number(0))).await;
    assert_eq!(shop.wait(&event, "SENT").await["tenant"], "acme");
    assert_eq!(ask(&shop, "GET", "/keys", Json::Null).await.status, 403);

    // It is shown without its secret, to its tenant.
    let path = format!("/keys/{id}");
    for (client, query) in [(&acme, ""), (&boss, "?tenant=acme")] {
        let one = ask(client, "GET", &format!("{path}{query}"), Json::Null).await;
        let listed = ask(client, "GET", &format!("/keys{query}"), Json::Null).await;
        assert_eq!(listed.body["items"], json!([one.body]));
        assert_eq!((text(&one, "name"), text(&one, "createdBy")), ("shop", "one"));
        let all = format!("{} {}", one.body, listed.body);
        assert!(!all.contains(&secret[16..]) && !all.contains("hash"), "{all}");
    }
    nobody_else_comes_near(&acme, &globex, &id, &wanted).await;
    nothing_beyond_ones_own_is_given(&acme, &boss).await;
    let (rotated, former) = rotation(&system, &acme, &shop, &path).await;

    // All of it is known again after a restart, and a key that was revoked is refused everywhere.
    system.restart_all().await;
    for key in [&rotated, &former] {
        everywhere(&system, key, 403).await;
    }
    assert_eq!(ask(&acme, "DELETE", &path, Json::Null).await.status, 204);
    assert_eq!(
        rotated.post(&shop.sms(&shop.number(1))).await.unwrap().status,
        401,
        "at once"
    );
    for key in [&rotated, &former, &shop] {
        everywhere(&system, key, 401).await;
    }
    assert_eq!(ask(&acme, "DELETE", &path, Json::Null).await.status, 404);
    system.restart_all().await;
    everywhere(&system, &rotated, 401).await;
}

/// Other tenants find nothing, and name nothing.
async fn nobody_else_comes_near(acme: &Client, globex: &Client, id: &str, wanted: &Json) {
    for (method, path, body) in [
        ("GET", format!("/keys/{id}"), Json::Null),
        ("DELETE", format!("/keys/{id}"), Json::Null),
        ("POST", format!("/keys/{id}/rotate"), json!({})),
    ] {
        let answer = ask(globex, method, &path, body.clone()).await;
        let made_up = ask(globex, method, &path.replace(id, "a00000000000"), body.clone()).await;
        assert_eq!(
            (answer.status.as_u16(), made_up.status.as_u16()),
            (404, 404),
            "{method} {path}: {answer:?}"
        );
        assert_eq!(
            text(&answer, "detail").replace(id, "a00000000000"),
            text(&made_up, "detail")
        );
        let named = ask(globex, method, &format!("{path}?tenant=acme"), body).await;
        assert_eq!(named.status, 403, "{method} {path}: {named:?}");
    }
    assert_eq!(
        ask(globex, "GET", "/keys", Json::Null).await.body["items"],
        json!([])
    );
    assert_eq!(
        ask(globex, "GET", "/keys?tenant=acme", Json::Null).await.status,
        403
    );
    assert_eq!(
        ask(globex, "POST", "/keys?tenant=acme", wanted.clone())
            .await
            .status,
        403
    );
    let mut spoofed = wanted.clone();
    spoofed["tenant"] = json!("acme");
    let answer = make(globex, spoofed).await;
    assert_eq!(
        (answer.status.as_u16(), &answer.body["errors"][0]["field"]),
        (400, &json!("tenant"))
    );
    assert_eq!(
        ask(acme, "GET", "/keys", Json::Null).await.body["items"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
}

/// Whoever is held to some channels gives no others, neither in a new key nor by another secret for one that has them.
async fn nothing_beyond_ones_own_is_given(acme: &Client, boss: &Client) {
    for wanted in [
        json!({"name": "x", "roles": ["send"]}),
        json!({"name": "x", "roles": ["admin"], "channels": ["sms", "email"]}),
    ] {
        let answer = make(acme, wanted.clone()).await;
        assert_eq!(
            (answer.status.as_u16(), &answer.body["errors"][0]["field"]),
            (403, &json!("channels")),
            "{wanted}"
        );
    }
    let wide = ask(
        boss,
        "POST",
        "/keys?tenant=acme",
        json!({"name": "wide", "roles": ["admin"]}),
    )
    .await;
    assert_eq!(wide.status, 201, "{wide:?}");
    let path = format!("/keys/{}", text(&wide, "id"));
    let answer = ask(acme, "POST", &format!("{path}/rotate"), json!({})).await;
    assert_eq!(
        (answer.status.as_u16(), &answer.body["errors"][0]["field"]),
        (403, &json!("channels"))
    );
    // An admin of one tenant is none of all, whatever it is called.
    let wide = acme.bearing(text(&wide, "key"), "acme");
    for (method, path) in [("GET", "/keys?tenant=globex"), ("POST", "/keys?tenant=*")] {
        let body = if method == "POST" {
            json!({"name": "x", "roles": ["admin"]})
        } else {
            Json::Null
        };
        assert_eq!(ask(&wide, method, path, body).await.status, 403, "{path}");
    }
    assert_eq!(
        ask(
            boss,
            "POST",
            "/keys?tenant=*",
            json!({"name": "x", "roles": ["admin"]})
        )
        .await
        .status,
        400
    );
    let over = json!({"name": "x", "roles": ["send"], "expiresAt": "2020-01-01T00:00:00Z"});
    assert_eq!(make(&wide, over).await.body["errors"][0]["field"], "expiresAt");
    no_more_than_may_be(&wide).await;
    assert_eq!(ask(&wide, "DELETE", &path, Json::Null).await.status, 204);
    let again = make(&wide, json!({"name": "x", "roles": ["send"]})).await;
    assert_eq!(again.status, 401, "it revoked itself");
}

/// A tenant that has two keys may have two more, however many it asks for at once.
async fn no_more_than_may_be(wide: &Client) {
    let many: Vec<_> = (0..6)
        .map(|_| {
            let wide = wide.clone();
            tokio::spawn(async move {
                make(&wide, json!({"name": "x", "roles": ["send"]}))
                    .await
                    .status
                    .as_u16()
            })
        })
        .collect();
    let mut answers = Vec::new();
    for one in many {
        answers.push(one.await.unwrap());
    }
    answers.sort_unstable();
    assert_eq!(answers, [201, 201, 507, 507, 507, 507]);
}

/// The new secret and the one before are good together. Gives both, as clients.
async fn rotation(system: &System, acme: &Client, shop: &Client, path: &str) -> (Client, Client) {
    let rotate = format!("{path}/rotate");
    let short = ask(acme, "POST", &rotate, json!({"overlapSeconds": 0})).await;
    assert_eq!(short.status, 200, "{short:?}");
    assert_eq!(short.body["formerUntil"], Json::Null);
    everywhere(system, shop, 401).await;
    let former = shop.bearing(text(&short, "key"), "acme");
    everywhere(system, &former, 403).await;
    let long = ask(acme, "POST", &rotate, Json::Null).await;
    assert_eq!(long.status, 200, "{long:?}");
    assert_eq!(long.body["formerUntil"].as_array().unwrap().len(), 1);
    let rotated = shop.bearing(text(&long, "key"), "acme");
    for key in [&rotated, &former] {
        everywhere(system, key, 403).await;
        let event = key.accept(&key.sms(&key.number(2))).await;
        key.wait(&event, "SENT").await;
    }
    let wrong = ask(acme, "POST", &rotate, json!({"overlapSeconds": -1})).await;
    assert_eq!(
        (wrong.status.as_u16(), &wrong.body["errors"][0]["field"]),
        (400, &json!("overlapSeconds"))
    );
    (rotated, former)
}
