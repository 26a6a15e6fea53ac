//! Tenants see and touch nothing of each other's, on any path, and whoever brings no credentials gets nowhere.

use std::time::Duration;

use posthaste_service::auth::access;
use serde_json::{Value as Json, json};
use uuid::Uuid;

use crate::{
    credentials::key,
    on_each_backend,
    system::{Answer, Backend, Client, PATIENCE, Plan, System},
};

on_each_backend!(a_tenant_sees_and_touches_nothing_of_another);

/// A number that the sandbox takes for one that cannot exist, whatever its rules.
const IMPOSSIBLE: &str = "+15005550001";

/// A system that asks for credentials; a client of tenant `acme`, one of `globex`, an operator, and one with a key for sending.
async fn guarded(backend: Backend) -> (System, [Client; 4]) {
    let all = "send,read,read-payload,operate,admin";
    let mut plan = Plan::new(backend)
        .await
        .setting("POSTHASTE_SERVICE__AUTH__ENABLED", "true")
        // Wrong ones are tried on every path.
        .setting("POSTHASTE_SERVICE__AUTH__FAILURES_MAX", "10000");
    let mut tokens = Vec::new();
    for (name, tenant, roles) in [
        ("one", "acme", all),
        ("two", "globex", all),
        ("boss", "*", "admin"),
        ("sender", "acme", "send"),
    ] {
        let (token, settings) = key(name, tenant, roles).await;
        for (variable, value) in settings {
            plan = plan.setting(&variable, &value);
        }
        tokens.push((token, tenant));
    }
    let system = plan.start().await;
    let clients = [0, 1, 2, 3].map(|index: usize| {
        let (token, tenant) = &tokens[index];
        system.client().bearing(token, tenant)
    });
    (system, clients)
}

/// What one tenant has, and a text that is in all of it.
struct Belongings {
    mark: String,
    /// Sent, given up, and waiting for its time.
    ids: [String; 3],
    replay: String,
    broadcast: String,
}

async fn belongings(of: &Client) -> Belongings {
    let mark = format!("m-{}", Uuid::new_v4().simple());
    let event = |kind: &str, more: Json| {
        let mut event = json!({
            "eventId": format!("{kind}-{mark}"), "channel": "sms", "metadata": {"about": mark},
            "payload": {"message": mark, "phoneNumber": of.number(0)},
        });
        event
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        event
    };
    let inbox = json!({
        "channel": "in_app", "payload": {"recipient": mark, "title": mark, "body": mark},
    });
    let sent = of.accept(&event("sent", json!({}))).await;
    let dead = json!({"payload": {"message": mark, "phoneNumber": IMPOSSIBLE}});
    let dead = of.accept(&event("dead", dead)).await;
    let later = json!({"scheduledAt": "2027-01-01T00:00:00Z"});
    let later = of.accept(&event("later", later)).await;
    let told = of.accept(&event("told", inbox)).await;
    of.wait(&sent, "SENT").await;
    of.wait(&dead, "DEAD_LETTERED").await;
    of.wait(&later, "SCHEDULED").await;
    of.wait(&told, "SENT").await;
    of.wait_for_letter(&dead).await;
    // Begun by its owner, and so slow that it never comes to its letter: the probe finds it in the middle.
    let slow = json!({"rate": 0.001, "rampSeconds": 86_400, "filter": {"ids": [dead]}});
    let url = format!("{}/replay-dead-letter", of.replay_url());
    let begun = of.ask("POST", &url, Some(&slow)).await;
    assert_eq!(begun.status, 201, "{begun:?}");
    let broadcast = json!({
        "name": mark, "scheduledAt": "2027-01-01T00:00:00Z", "message": {"channel": "sms", "payload": {"message": mark}},
        "recipients": [{"payload": {"phoneNumber": of.number(0)}}],
    });
    let taken = of.ask("POST", &of.intake("/broadcasts"), Some(&broadcast)).await;
    assert_eq!(taken.status, 202, "{taken:?}");
    for code in [&sent, &dead, &later] {
        let put = of.put_lines(&format!("/lists/{code}"), "{}").await;
        assert_eq!(put.status, 201, "{put:?}");
    }
    Belongings {
        mark,
        broadcast: taken.body["broadcastId"].as_str().unwrap().to_owned(),
        replay: begun.body["replayId"].as_str().unwrap().to_owned(),
        ids: [sent, dead, later],
    }
}

fn template(text: &str) -> Json {
    json!({"channels": {"in_app": {"en": {"title": text, "body": text}}}})
}

/// Made of a template and a configuration with this code.
fn message(code: &str) -> Json {
    json!({"channel": "nobody", "configCode": code, "templateCode": code})
}

/// One that rests: it plans no event.
fn yearly(text: &str) -> Json {
    let payload = json!({"message": text, "phoneNumber": "2025555555"});
    json!({"cron": "@yearly", "paused": true, "event": {"channel": "sms", "payload": payload}})
}

/// Defines templates, configurations and schedules with these codes, and says what the first ones look like.
async fn define(system: &System, of: &Client, codes: &[String], text: &str) {
    for code in codes {
        for (what, body) in [
            ("templates", template(text)),
            ("configs", json!({"channel": "in_app", "description": text})),
            ("schedules", yearly(text)),
        ] {
            let path = format!("/{what}/{code}");
            let url = format!("{}{path}", base(system, of, "PUT", &path));
            let answer = of.ask("PUT", &url, Some(&body)).await;
            assert_eq!(answer.status, 201, "{answer:?}");
        }
    }
}

/// Where the service is that has this path.
fn base(system: &System, client: &Client, method: &str, path: &str) -> String {
    let is = |beginnings: &[&str]| beginnings.iter().any(|beginning| path.starts_with(beginning));
    match system.backend() {
        Backend::Embedded => system.url("up"),
        Backend::Kafka if is(&["/replay", "/dead-letters"]) => client.replay_url().to_owned(),
        Backend::Kafka if is(&["/suppressions", "/devices", "/keys", "/encryption"]) => {
            system.url("ingestion")
        }
        Backend::Kafka if method == "POST" && ["/event", "/events"].contains(&path) => {
            system.url("ingestion")
        }
        Backend::Kafka if path.ends_with("/messages/stats") => client.status_url().to_owned(),
        Backend::Kafka
            if is(&[
                "/templates",
                "/configs",
                "/messages",
                "/core-slack-worker",
                "/schedules",
                "/broadcasts",
                "/lists",
            ]) =>
        {
            system.url("ingestion")
        }
        Backend::Kafka => client.status_url().to_owned(),
    }
}

/// Method and path of everything that can be asked for about this event and this replay, with a body where one is needed.
fn asked_for(
    event: &str,
    replay: &str,
    broadcast: &str,
    mark: &str,
) -> Vec<(&'static str, String, Option<Json>)> {
    let body = |method: &str, path: &str| match (method, path) {
        ("POST", "/event") => Some(json!({"channel": "sms"})),
        ("POST", "/broadcasts") => Some(json!({"message": {"channel": "sms"}, "recipients": []})),
        ("POST", "/events") => Some(json!([{"channel": "sms"}])),
        ("PUT", path) if path.starts_with("/templates") => Some(template(event)),
        ("PUT", path) if path.starts_with("/configs") => Some(json!({"channel": "in_app"})),
        ("PUT", path) if path.starts_with("/schedules") => Some(yearly("x")),
        ("POST", path) if path.ends_with("/preview") => Some(json!({"channel": "in_app"})),
        ("POST", path) if path.ends_with("/bulk") => Some(json!([message(event)])),
        ("POST", path) if path.ends_with("/schedule") => {
            Some(json!({"request": message(event), "scheduledAt": "2027-01-01T00:00:00Z"}))
        }
        ("POST", path) if path.contains("/messages/") => Some(message(event)),
        ("POST", "/keys") => Some(json!({"name": event, "roles": []})),
        ("PATCH", _) => Some(json!({"scheduledAt": "2026-12-24T00:00:00Z"})),
        ("POST", "/replay-dead-letter") => Some(json!({"dryRun": true, "filter": {"ids": [event]}})),
        _ => None,
    };
    access::table()
        .filter(|(method, path, _)| *method != "*" && !path.starts_with("/sandbox"))
        .filter(|(_, path, needs)| *needs != access::Needs::Anyone && !path.contains("*"))
        .map(|(method, path, _)| {
            let body = body(method, path);
            let id = if path.starts_with("/replays") {
                replay
            } else if path.starts_with("/broadcasts") {
                broadcast
            } else {
                event
            };
            let path = path
                .replace("{id}", id)
                .replace("{code}", event)
                .replace("{recipient}", mark)
                .replace("{wish}", "cancel");
            (method, path, body)
        })
        .collect()
}

/// An answer, with what was asked for taken out of its text: what is left must not depend on whether it is there.
fn told(answer: &Answer, asked: &[&str]) -> String {
    let mut body = answer.body.clone();
    // Drawn for each request.
    if let Some(body) = body.as_object_mut() {
        body.remove("correlationId");
        body.remove("updatedAt");
        body.remove("timestamp");
    }
    for entry in body
        .as_array_mut()
        .into_iter()
        .flatten()
        .filter_map(Json::as_object_mut)
    {
        entry.remove("correlationId");
    }
    let mut text = format!("{} {body}", answer.status);
    for asked in asked {
        text = text.replace(asked, "ID");
    }
    text
}

async fn a_tenant_sees_and_touches_nothing_of_another(backend: Backend) {
    let (system, [acme, globex, boss, sender]) = guarded(backend).await;
    let own = belongings(&acme).await;
    define(&system, &acme, &own.ids, &own.mark).await;
    let nobody = system.client();

    // Without credentials, and with wrong ones: nothing at all.
    for (method, path, body) in asked_for(&own.ids[0], &own.replay, &own.broadcast, &own.mark) {
        let url = format!("{}{path}", base(&system, &acme, method, &path));
        let wrong = nobody.bearing("ph_001122334455_wrong", "acme");
        for client in [&nobody, &wrong] {
            let answer = client.ask(method, &url, body.as_ref()).await;
            assert_eq!(answer.status, 401, "{method} {path}: {answer:?}");
            assert!(answer.headers.contains_key("www-authenticate"), "{answer:?}");
            assert!(!told(&answer, &[]).contains(&own.mark), "{answer:?}");
        }
    }

    // With another tenant's credentials, which have every role: the same as if it were not there.
    for id in &own.ids {
        let made_up = format!("made-up-{}", Uuid::new_v4().simple());
        let there = asked_for(id, &own.replay, &own.broadcast, &own.mark);
        let not_there = asked_for(&made_up, &made_up, &made_up, &made_up);
        for ((method, path, body), (_, other_path, other_body)) in there.into_iter().zip(not_there) {
            let base = base(&system, &acme, method, &path);
            let answer = globex.ask(method, &format!("{base}{path}"), body.as_ref()).await;
            let other = globex
                .ask(method, &format!("{base}{other_path}"), other_body.as_ref())
                .await;
            let asked = [id.as_str(), &own.replay, &own.broadcast, &own.mark];
            let (one, two) = (told(&answer, &asked), told(&other, &[&made_up]));
            assert_eq!(one, two, "{method} {path}");
            assert!(!one.contains(&own.mark), "{method} {path}: {one}");
            assert!(
                !answer.status.is_success() || !one.contains("acme"),
                "{method} {path}: {one}"
            );
        }
    }
    named_tenants_are_refused(&system, &globex, &own).await;
    for tenant in ["acme", "nobody-at-all"] {
        named_in_a_broadcast_is_refused(&globex, tenant).await;
    }

    nothing_was_touched(&system, &acme, &own).await;

    roles_are_kept_apart(&system, &sender, &boss, &own).await;
    streams_stay_with_their_tenant(&acme, &globex).await;
}

/// What others asked for has changed nothing.
async fn nothing_was_touched(system: &System, acme: &Client, own: &Belongings) {
    for code in &own.ids {
        let list = acme.intake(&format!("/lists/{code}"));
        assert_eq!(acme.ask("GET", &list, None).await.body["recipients"], 1);
        let path = format!("/schedules/{code}");
        let url = format!("{}{path}", base(system, acme, "GET", &path));
        let kept = acme.ask("GET", &url, None).await;
        let text = &kept.body["schedule"]["event"]["payload"]["message"];
        assert_eq!(
            (&kept.body["version"], text),
            (&json!(1), &json!(own.mark)),
            "{kept:?}"
        );
        let path = format!("/templates/{code}");
        let url = format!("{}{path}", base(system, acme, "GET", &path));
        let kept = acme.ask("GET", &url, None).await;
        assert_eq!(
            (&kept.body["version"], &kept.body["template"]),
            (&json!(1), &template(&own.mark)),
            "{kept:?}"
        );
    }
    let path = format!("/broadcasts/{}", own.broadcast);
    let kept = acme.ask("GET", &acme.intake(&path), None).await;
    assert_eq!(
        (&kept.body["status"], &kept.body["name"]),
        (&json!("scheduled"), &json!(own.mark)),
        "{kept:?}"
    );
    let later = acme.event(&own.ids[2]).await.unwrap();
    assert_eq!(
        (&later["status"], &later["notes"]),
        (&json!("SCHEDULED"), &Json::Null),
        "{later}"
    );
    let replay = acme
        .ask(
            "GET",
            &format!("{}/replays/{}", acme.replay_url(), own.replay),
            None,
        )
        .await;
    assert_eq!(
        (replay.status.as_u16(), &replay.body["state"]),
        (200, &json!("running")),
        "{replay:?}"
    );
    acme.wait_for_letter(&own.ids[1]).await;
}

/// What can be searched, of a tenant that is named.
const SEARCHES: [&str; 6] = [
    "/events?",
    "/events?follow=true&",
    "/dead-letters?",
    "/inbox/x?",
    "/suppressions?",
    "/devices?user=x&",
];

/// Whoever names another tenant is told that it is not theirs, whether or not there is one.
async fn named_tenants_are_refused(system: &System, globex: &Client, own: &Belongings) {
    for tenant in ["acme", "nobody-at-all"] {
        for path in SEARCHES {
            let path = format!("{path}tenant={tenant}");
            let answer = globex
                .ask(
                    "GET",
                    &format!("{}{path}", base(system, globex, "GET", &path)),
                    None,
                )
                .await;
            assert_eq!(answer.status, 403, "{path}: {answer:?}");
        }
        let replay = json!({"filter": {"tenant": tenant}});
        let url = format!("{}/replay-dead-letter", globex.replay_url());
        let answer = globex.ask("POST", &url, Some(&replay)).await;
        assert_eq!(answer.status, 403, "{answer:?}");
        for (method, path) in [
            ("GET", "/templates?"),
            ("GET", "/configs/x?"),
            ("PUT", "/templates/x?"),
            ("DELETE", "/configs/x?"),
            ("PUT", "/schedules/x?"),
            ("GET", "/messages/stats?"),
        ] {
            let path = format!("{path}tenant={tenant}");
            let base = base(system, globex, method, path.split('?').next().unwrap());
            let answer = globex
                .ask(method, &format!("{base}{path}"), Some(&template("x")))
                .await;
            assert_eq!(answer.status, 403, "{method} {path}: {answer:?}");
        }
        let mut templated = message(&own.ids[0]);
        templated["tenant"] = json!(tenant);
        let url = format!(
            "{}/messages/request",
            base(system, globex, "POST", "/messages/request")
        );
        let answer = globex.ask("POST", &url, Some(&templated)).await;
        assert_eq!(answer.status, 403, "{answer:?}");
        let event = json!({
            "channel": "sms", "tenant": tenant, "payload": {"message": "x", "phoneNumber": globex.number(1)},
        });
        assert_eq!(globex.post(&event).await.unwrap().status, 403);
        let many = globex
            .send("/events", "application/json", json!([event]).to_string())
            .await
            .unwrap();
        assert_eq!(many.status, 403, "{many:?}");
        let lines = globex
            .send("/events", "application/x-ndjson", event.to_string())
            .await
            .unwrap();
        assert!(lines.status.is_success());
    }
    let listed = globex.get("/events").await.unwrap();
    assert_eq!(listed.body, json!({"events": []}));
    // An id that another tenant uses is free.
    let event = json!({
        "channel": "sms", "eventId": own.ids[0], "payload": {"message": "x", "phoneNumber": globex.number(1)},
    });
    assert_eq!(globex.accept(&event).await, own.ids[0]);
    assert_eq!(globex.wait(&own.ids[0], "SENT").await["tenant"], "globex");
}

async fn named_in_a_broadcast_is_refused(client: &Client, tenant: &str) {
    let broadcast = json!({
        "tenant": tenant, "message": {"channel": "sms", "payload": {"message": "x"}},
        "recipients": [{"payload": {"phoneNumber": client.number(1)}}],
    });
    let listed = format!("/broadcasts?tenant={tenant}");
    let list = format!("/lists/x?tenant={tenant}");
    for (method, path, body) in [
        ("POST", "/broadcasts", Some(&broadcast)),
        ("GET", listed.as_str(), None),
        ("GET", list.as_str(), None),
    ] {
        let answer = client.ask(method, &client.intake(path), body).await;
        assert_eq!(answer.status, 403, "{method}: {answer:?}");
    }
}

/// Each role does what it is for; an operator sees every tenant's.
async fn roles_are_kept_apart(system: &System, sender: &Client, boss: &Client, own: &Belongings) {
    let id = sender.accept(&sender_event(sender)).await;
    for path in [
        format!("/events/{id}"),
        "/events".to_owned(),
        "/inbox/x".to_owned(),
    ] {
        let answer = sender.get(&path).await.unwrap();
        assert_eq!(answer.status, 403, "{path}: {answer:?}");
        assert!(
            answer.body["detail"].as_str().unwrap().contains("role read"),
            "{answer:?}"
        );
    }
    let seen = boss.wait(&id, "SENT").await;
    assert_eq!(seen["tenant"], "acme");
    let whole = format!("acme~{}", own.ids[0]);
    assert!(boss.event(&whole).await.unwrap()["payload"].is_object());
    for name in system.names() {
        let url = format!("{}/metrics", system.url(&name));
        assert_eq!(boss.ask("GET", &url, None).await.status, 200, "{name}");
        assert_eq!(sender.ask("GET", &url, None).await.status, 403, "{name}");
        assert_eq!(system.client().ask("GET", &url, None).await.status, 401, "{name}");
    }
}

fn sender_event(client: &Client) -> Json {
    json!({"channel": "sms", "payload": {"message": "x", "phoneNumber": client.number(2)}})
}

/// What happens to one tenant's events is not told to another.
async fn streams_stay_with_their_tenant(acme: &Client, globex: &Client) {
    let mut stream = globex.stream("/events?follow=true").await;
    let theirs = acme.accept(&sender_event(acme)).await;
    acme.wait(&theirs, "SENT").await;
    let ours = globex.accept(&sender_event(globex)).await;
    let mut text = String::new();
    while !text.contains(&ours) {
        let piece = tokio::time::timeout(PATIENCE, stream.chunk()).await.unwrap();
        text.push_str(std::str::from_utf8(&piece.unwrap().unwrap()).unwrap());
    }
    let more = tokio::time::timeout(Duration::from_secs(1), stream.chunk()).await;
    if let Ok(Ok(Some(piece))) = more {
        text.push_str(std::str::from_utf8(&piece).unwrap());
    }
    assert!(!text.contains(&theirs) && !text.contains("acme"), "{text}");
    // It may not take every place that there is.
    let mut open = vec![stream];
    while open.len() < 4 {
        open.push(globex.stream("/events?follow=true").await);
    }
    assert_eq!(globex.get("/events?follow=true").await.unwrap().status, 503);
    acme.stream("/events?follow=true").await;
}
