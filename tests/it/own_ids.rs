//! Ids that clients choose are their tenant's own: two tenants call their events the same, and neither comes to know.

use std::collections::BTreeSet;

use jiff::Timestamp;
use posthaste_event::clock;
use serde_json::{Value as Json, json};

use crate::{
    credentials::key,
    on_each_backend,
    system::{Answer, Backend, Client, PATIENCE, Plan, System},
};

on_each_backend!(tenants_call_their_events_as_they_like);

/// A number that the sandbox takes for one that cannot exist, whatever its rules.
const IMPOSSIBLE: &str = "+15005550001";

/// A system that asks for credentials; a client of `acme`, one of `globex`, and an operator; and the credentials of the first.
async fn guarded(backend: Backend) -> (System, [Client; 3], String) {
    let mut plan = Plan::new(backend)
        .await
        .setting("POSTHASTE_SERVICE__AUTH__ENABLED", "true");
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
    (system, clients, tokens.swap_remove(0).0)
}

fn sms(id: &str, number: &str) -> Json {
    json!({"eventId": id, "channel": "sms", "payload": {"message": "Hello", "phoneNumber": number}})
}

async fn told(client: &Client, method: &str, path: &str, body: Json) -> Answer {
    let body = (!body.is_null()).then_some(&body);
    let is_replay = path.starts_with("/replay") || path.starts_with("/dead-letters");
    let base = if is_replay {
        client.replay_url()
    } else {
        client.status_url()
    };
    client.ask(method, &format!("{base}{path}"), body).await
}

async fn tenants_call_their_events_as_they_like(backend: Backend) {
    let (_system, [acme, globex, boss], token) = guarded(backend).await;
    for client in [&acme, &globex] {
        everything_is_called_as_it_was(client).await;
    }
    let all = ["sent", "dead", "later", "told", "message", "many"];
    for client in [&acme, &globex] {
        let listed = client.get("/events?limit=100").await.unwrap();
        let events = listed.body["events"].as_array().unwrap();
        let ids: BTreeSet<&str> = events
            .iter()
            .map(|event| event["eventId"].as_str().unwrap())
            .collect();
        assert_eq!(ids, BTreeSet::from(all), "{listed:?}");
        assert_eq!(events.len(), all.len());
        assert!(events.iter().all(|event| event["tenant"] == client.tenant()));
    }
    an_operator_says_whose(&acme, &globex, &boss).await;
    an_id_is_said_once_by_a_tenant(&acme, &boss).await;
    what_one_asks_for_leaves_the_other_alone(&acme, &globex).await;
    a_stream_calls_them_so_too(&globex).await;
    lines_are_answered_so_too(&acme, &token).await;
}

/// All kinds of events, taken in and shown in all ways.
async fn everything_is_called_as_it_was(client: &Client) {
    let number = client.number(0);
    let mut later = sms("later", &number);
    later["scheduledAt"] = json!("2027-01-01T00:00:00Z");
    let inbox = json!({"recipient": "ann", "title": "Hello", "body": client.tenant()});
    let inbox = json!({"eventId": "told", "channel": "in_app", "payload": inbox});
    for (event, status) in [
        (sms("sent", &number), "SENT"),
        (sms("dead", IMPOSSIBLE), "DEAD_LETTERED"),
        (later, "SCHEDULED"),
        (inbox, "SENT"),
    ] {
        let id = client.accept(&event).await;
        assert_eq!(event["eventId"], json!(id));
        let event = client.wait(&id, status).await;
        assert_eq!(
            (&event["eventId"], &event["tenant"]),
            (&json!(id), &json!(client.tenant()))
        );
    }
    let timeline = told(client, "GET", "/events/sent/timeline", Json::Null).await;
    assert_eq!(timeline.body["eventId"], "sent", "{timeline:?}");
    let inbox = told(client, "GET", "/inbox/ann", Json::Null).await;
    let messages = inbox.body["messages"].as_array().unwrap();
    assert_eq!(
        (messages.len(), &messages[0]["eventId"], &messages[0]["body"]),
        (1, &json!("told"), &json!(client.tenant()))
    );
    client.wait_for_letter("dead").await;
    let letter = told(client, "GET", "/dead-letters/dead", Json::Null).await;
    let delivery = &letter.body["delivery"];
    assert_eq!(
        (&delivery["id"], &delivery["tenant"]),
        (&json!("dead"), &json!(client.tenant()))
    );
    let template = json!({"channels": {"sms": {"en": {"message": "Hello"}}}});
    for (path, body) in [
        ("/templates/t", template),
        ("/configs/c", json!({"channel": "sms"})),
    ] {
        let put = client.ask("PUT", &client.intake(path), Some(&body)).await;
        assert_eq!(put.status, 201, "{put:?}");
    }
    let message =
        |id: &str| json!({"eventId": id, "channel": number, "configCode": "c", "templateCode": "t"});
    let one = client.intake("/messages/request");
    let one = client.ask("POST", &one, Some(&message("message"))).await;
    let again = client.intake("/messages/request/bulk");
    let again = client
        .ask("POST", &again, Some(&json!([message("message")])))
        .await;
    assert_eq!(
        (&one.body["eventId"], &again.body[0]["eventId"]),
        (&json!("message"), &json!("message")),
        "{one:?} {again:?}"
    );
    let all = json!([sms("many", &number), sms("many", IMPOSSIBLE)]).to_string();
    let all = client.send("/events", "application/json", all).await.unwrap();
    let items = &all.body["items"];
    assert_eq!(
        (&items[0]["eventId"], &items[1]["code"]),
        (&json!("many"), &json!(409)),
        "{all:?}"
    );
    assert!(!all.body.to_string().contains('~'), "{all:?}");
    client.wait("message", "SENT").await;
    client.wait("many", "SENT").await;
}

/// Whoever sees those of all tenants sees and says the whole id.
async fn an_operator_says_whose(acme: &Client, globex: &Client, boss: &Client) {
    for of in [acme, globex] {
        let whole = format!("{}~dead", of.tenant());
        let event = boss.event(&whole).await.unwrap();
        assert_eq!(
            (&event["eventId"], &event["tenant"]),
            (&json!(whole), &json!(of.tenant()))
        );
        let letter = told(boss, "GET", &format!("/dead-letters/{whole}"), Json::Null).await;
        assert_eq!(letter.body["delivery"]["id"], json!(whole), "{letter:?}");
        // It means its own by the whole of it, too.
        assert_eq!(of.event(&whole).await.unwrap()["eventId"], "dead");
    }
    for path in ["/events/dead", "/dead-letters/dead"] {
        assert_eq!(told(boss, "GET", path, Json::Null).await.status, 404, "{path}");
    }
    for path in [
        "/events/acme~dead",
        "/events/acme~dead/timeline",
        "/dead-letters/acme~dead",
    ] {
        assert_eq!(told(globex, "GET", path, Json::Null).await.status, 404, "{path}");
    }
    assert_eq!(
        told(globex, "DELETE", "/events/acme~later", Json::Null)
            .await
            .status,
        404
    );
}

async fn an_id_is_said_once_by_a_tenant(acme: &Client, boss: &Client) {
    let again = acme.post(&sms("sent", &acme.number(0))).await.unwrap();
    assert_eq!(
        (again.status.as_u16(), &again.body["eventId"]),
        (201, &json!("sent"))
    );
    assert_eq!(again.headers["idempotency-replayed"], "true");
    let mut other = sms("sent", &acme.number(1));
    assert_eq!(acme.post(&other).await.unwrap().status, 409);
    // Whoever sends it: it is the tenant's.
    other["tenant"] = json!("acme");
    assert_eq!(boss.post(&other).await.unwrap().status, 409);
    other["tenant"] = json!("default");
    let default = boss.accept(&other).await;
    assert_eq!(
        (default.as_str(), &boss.wait("sent", "SENT").await["tenant"]),
        ("sent", &json!("default"))
    );
}

async fn what_one_asks_for_leaves_the_other_alone(acme: &Client, globex: &Client) {
    let cancelled = told(globex, "DELETE", "/events/later", Json::Null).await;
    assert_eq!(
        (cancelled.status.as_u16(), &cancelled.body["eventId"]),
        (202, &json!("later")),
        "{cancelled:?}"
    );
    globex.wait("later", "CANCELLED").await;
    for client in [acme, globex] {
        let refused = told(client, "POST", "/events/later/retry-now", Json::Null).await;
        assert_eq!(
            (refused.status.as_u16(), &refused.body["eventId"]),
            (409, &json!("later")),
            "{refused:?}"
        );
    }
    let soon = Timestamp::from_millisecond(clock::now() + 1_000).unwrap();
    let moved = json!({"scheduledAt": soon.to_string()});
    let moved = told(acme, "PATCH", "/events/later", moved).await;
    assert_eq!(
        (moved.status.as_u16(), &moved.body["eventId"]),
        (202, &json!("later")),
        "{moved:?}"
    );
    acme.wait("later", "SENT").await;
    assert_eq!(globex.event("later").await.unwrap()["status"], "CANCELLED");

    let ids = json!({"filter": {"ids": ["dead", "nobody", "globex~dead"]}});
    let sample = json!({"dryRun": true, "filter": {"ids": ["dead"]}});
    let dry = told(acme, "POST", "/replay-dead-letter", sample).await;
    assert_eq!(
        (
            &dry.body["count"],
            &dry.body["sample"][0]["delivery"]["id"],
            &dry.body["notOpen"]
        ),
        (&json!(1), &json!("dead"), &Json::Null),
        "{dry:?}"
    );
    let begun = told(acme, "POST", "/replay-dead-letter", ids.clone()).await;
    assert_eq!(
        (
            begun.status.as_u16(),
            &begun.body["count"],
            &begun.body["notOpen"]
        ),
        (201, &json!(1), &json!(["nobody", "globex~dead"])),
        "{begun:?}"
    );
    let path = format!("/replays/{}", begun.body["replayId"].as_str().unwrap());
    let replay = told(acme, "GET", &path, Json::Null).await;
    assert_eq!(replay.body["filter"]["ids"], ids["filter"]["ids"], "{replay:?}");
    acme.wait_for("dead", "given up again", |event| {
        event["state"]["generation"] == 1 && event["status"] == "DEAD_LETTERED"
    })
    .await;
    let theirs = globex.event("dead").await.unwrap();
    assert_eq!(theirs["state"]["generation"], 0, "{theirs}");
    globex.wait_for_letter("dead").await;
}

async fn a_stream_calls_them_so_too(client: &Client) {
    let mut stream = client.stream("/events?follow=true").await;
    client.accept(&sms("streamed", &client.number(3))).await;
    let mut text = String::new();
    while !text.contains("SENT") {
        let piece = tokio::time::timeout(PATIENCE, stream.chunk()).await.unwrap();
        text.push_str(std::str::from_utf8(&piece.unwrap().unwrap()).unwrap());
    }
    assert!(
        text.contains(r#""eventId":"streamed""#) && !text.contains('~'),
        "{text}"
    );
}

async fn lines_are_answered_so_too(acme: &Client, token: &str) {
    let number = acme.number(4);
    let lines = format!("{}\n{}\n", sms("line", &number), sms("sent", &number));
    let request = reqwest::Client::new()
        .post(acme.intake("/events"))
        .header("content-type", "application/x-ndjson")
        .bearer_auth(token)
        .body(lines);
    let text = request.send().await.unwrap().text().await.unwrap();
    assert!(
        text.contains(r#""eventId":"line""#) && text.contains("409"),
        "{text}"
    );
    assert!(!text.contains('~'), "{text}");
}
