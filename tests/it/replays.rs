//! Replays that go on by themselves: through kills, at their pace, and until too much dies again.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value as Json, json};

use crate::{
    on_each_backend,
    system::{Backend, Client, Plan, System, run},
};

on_each_backend!(
    a_job_is_done_once_though_its_service_is_killed_in_the_middle,
    a_job_stops_when_the_cause_is_not_mended,
    dead_letters_are_looked_at_and_replayed_from_the_command_line,
    a_waiting_event_goes_now_when_it_is_asked_to,
);

/// A number that the sandbox takes for one that cannot exist, whatever its rules.
const IMPOSSIBLE: &str = "+15005550001";

async fn post(client: &Client, path: &str, body: &Json) -> Json {
    let answer = client.ask_replay(Method::POST, path, Some(body)).await.unwrap();
    assert!(answer.status.is_success(), "{answer:?}");
    answer.body
}

/// Waits until the replay service has so many open letters of this client.
async fn wait_for_letters(client: &Client, count: u64) -> Json {
    let path = format!("/dead-letters?groupBy=fingerprint&tenant={}", client.tenant);
    client
        .wait_for_replay(&path, &format!("{count} letters"), |answer| {
            answer["lettersTotal"] == count
        })
        .await
}

async fn a_job_is_done_once_though_its_service_is_killed_in_the_middle(backend: Backend) {
    const LETTERS: u64 = 150;
    const KILLS: u64 = 3;
    let mut system = Plan::new(backend).await.start().await;
    let (client, sandbox) = (system.client(), system.sandbox());
    {
        let faults = system.faults().await;
        faults.set(json!([{"action": "invalid"}])).await;
        for index in 0..LETTERS {
            let number = client.number(index as usize);
            client.accept_in_time(&client.sms(&number)).await;
        }
        wait_for_letters(&client, LETTERS).await;
        faults.none().await;
    }
    let body = json!({"rate": 30, "limit": 1_000, "filter": {"tenant": client.tenant}});
    let begun = post(&client, "/replay-dead-letter", &body).await;
    assert_eq!(begun["count"], LETTERS, "{begun}");
    let id = begun["replayId"].as_str().unwrap();
    let job = format!("/replays/{id}");
    let service = match backend {
        Backend::Embedded => "up",
        Backend::Kafka => "replay",
    };
    for kill in 1..=KILLS {
        let reached = kill * LETTERS / (KILLS + 2);
        let seen = client
            .wait_for_replay(&job, "in its middle", |job| {
                job["replayed"].as_u64() >= Some(reached)
            })
            .await;
        assert_eq!(seen["state"], "running", "{seen}");
        system.service(service).kill();
        system.service(service).launch();
        system.service(service).ready().await;
    }
    let done = client
        .wait_for_replay(&job, "finished", |job| job["state"] == "finished")
        .await;
    assert_eq!(
        (&done["replayed"], &done["gone"], &done["percent"]),
        (&json!(LETTERS), &json!(0), &json!(100.0)),
        "{done}"
    );
    let all_sent = |events: &[Json]| {
        let sent = events.iter().filter(|event| event["state"]["status"] == "SENT");
        sent.count() as u64 == LETTERS
    };
    let events = client
        .wait_for_all(Duration::from_secs(90), "all sent", all_sent)
        .await;
    for event in &events {
        // Replayed once, and only once.
        assert_eq!(event["state"]["generation"], 1, "{event:#}");
    }
    let counts = sandbox.counts().await;
    assert_eq!((counts.events, counts.keys), (LETTERS, LETTERS), "{counts:?}");
    if backend == Backend::Kafka {
        // No dispatcher was killed, so no send was in flight either.
        assert_eq!(counts.taken, LETTERS, "{counts:?}");
    }
    let again = json!({"filter": {"tenant": client.tenant}});
    assert_eq!(post(&client, "/replay-dead-letter", &again).await["count"], 0);
}

async fn a_job_stops_when_the_cause_is_not_mended(backend: Backend) {
    const LETTERS: u64 = 60;
    let system = System::shared(backend).await;
    let client = system.client();
    for _ in 0..LETTERS {
        client.accept_in_time(&client.sms(IMPOSSIBLE)).await;
    }
    let groups = wait_for_letters(&client, LETTERS).await;
    assert_eq!(groups["groupsTotal"], 1, "{groups}");
    let fingerprint = &groups["groups"][0]["fingerprint"];

    let filter = json!({"tenant": client.tenant, "error": fingerprint});
    let trial = post(
        &client,
        "/replay-dead-letter",
        &json!({"dryRun": true, "filter": filter}),
    )
    .await;
    assert_eq!(
        (&trial["count"], &trial["routes"][0]["provider"]),
        (&json!(LETTERS), &json!("messagebird")),
        "{trial}"
    );
    let body = json!({"rate": 10, "refailureRatio": 0.2, "filter": filter});
    let begun = post(&client, "/replay-dead-letter", &body).await;
    let id = begun["replayId"].as_str().unwrap();

    // A second one over the same letters is refused, and says why.
    let refused = client
        .ask_replay(
            Method::POST,
            "/replay-dead-letter",
            Some(&json!({"filter": filter})),
        )
        .await
        .unwrap();
    assert_eq!(
        (refused.status.as_u16(), &refused.body["errors"][0]["field"]),
        (409, &json!("filter"))
    );
    assert!(
        refused.body["detail"].as_str().unwrap().contains(id),
        "{refused:?}"
    );

    let path = format!("/replays/{id}");
    let stopped = client
        .wait_for_replay(&path, "stopped", |job| job["state"] == "stopped")
        .await;
    let replayed = stopped["replayed"].as_u64().unwrap();
    assert!((20..LETTERS).contains(&replayed), "{stopped}");
    assert!(
        stopped["reason"].as_str().unwrap().contains("died again"),
        "{stopped}"
    );
    let cancelled = client
        .ask_replay(Method::POST, &format!("{path}/cancel"), None)
        .await
        .unwrap();
    assert_eq!(cancelled.body["state"], "cancelled", "{cancelled:?}");
    // Nothing is forgotten: what died again and what never went out is all there.
    wait_for_letters(&client, LETTERS).await;
}

async fn dead_letters_are_looked_at_and_replayed_from_the_command_line(backend: Backend) {
    let system = System::shared(backend).await;
    let client = system.client();
    let number = client.number(1);
    let id = {
        let faults = system.faults().await;
        let digits = number.trim_start_matches('+');
        faults
            .set(json!([{"action": "invalid", "recipient": digits}]))
            .await;
        let id = client.accept(&client.sms(&number)).await;
        wait_for_letters(&client, 1).await;
        faults.none().await;
        id
    };
    let dlq = async |arguments: &[&str]| {
        let url = ["--url", client.replay_url()];
        run(&[&["dlq"], arguments, &url].concat()).await
    };
    let tenant = client.tenant.as_str();
    let (code, out, _) = dlq(&["list", "--tenant", tenant]).await;
    assert_eq!(code, Some(0));
    assert!(out.starts_with(&id), "{out}");
    let (_, out, _) = dlq(&["list", "--tenant", tenant, "--group"]).await;
    assert!(out.ends_with("1 dead letters in 1 groups\n"), "{out}");
    let (_, out, _) = dlq(&["show", &id]).await;
    assert!(out.contains("messagebird") && out.contains(tenant), "{out}");

    let (code, _, error) = dlq(&["replay"]).await;
    assert_eq!(code, Some(2), "{error}");
    let (code, _, error) = dlq(&["replay", "--id", "nobody"]).await;
    assert_eq!(code, Some(1));
    assert!(error.contains("filter.ids"), "{error}");
    let (code, _, error) = dlq(&["jobs", "nothing"]).await;
    assert_eq!(code, Some(1));
    assert!(error.contains("no replay"), "{error}");

    let (_, out, _) = dlq(&["replay", "--tenant", tenant, "--dry-run"]).await;
    assert!(out.starts_with("1 dead letter would go out again"), "{out}");
    let (code, out, error) = dlq(&["replay", "--tenant", tenant, "--rate", "5"]).await;
    assert_eq!(code, Some(0), "{error}");
    // Not a terminal: plain lines.
    assert!(
        out.contains("100.0%  1/1  finished") && !out.contains('\r'),
        "{out}"
    );
    client.wait(&id, "SENT").await;
    let (_, out, _) = dlq(&["jobs", "--json"]).await;
    let jobs: Json = serde_json::from_str(&out).unwrap();
    let ours = jobs["replays"].as_array().unwrap();
    assert!(ours.iter().any(|job| job["filter"]["tenant"] == tenant), "{out}");
    let (code, _, _) = dlq(&["show", &id]).await;
    assert_eq!(code, Some(1));
}

async fn a_waiting_event_goes_now_when_it_is_asked_to(backend: Backend) {
    let system = System::shared(backend).await;
    let (client, faults) = (system.client(), system.faults().await);
    // One waits in the near topic, one in a tier.
    let mut waiting = Vec::new();
    for (index, seconds) in [(1, 25), (2, 900)] {
        let number = client.number(index);
        let rule = json!({
            "action": "rate-limit", "recipient": number.trim_start_matches('+'), "times": 1, "retryAfterSeconds": seconds,
        });
        faults.set(json!([rule])).await;
        let id = client.accept_in_time(&client.sms(&number)).await;
        let event = client
            .wait_for(&id, "waiting", |event| event["state"]["dueAt"].is_string())
            .await;
        assert_eq!(event["state"]["status"], "RETRYING", "{event:#}");
        waiting.push((id, event));
    }
    faults.none().await;
    for (id, before) in &waiting {
        let answer = client.retry_now(id).await;
        assert_eq!(answer.status, 202, "{answer:?}");
        assert_eq!(answer.body["dueAt"], before["state"]["dueAt"]);
        let sent = client.wait(id, "SENT").await;
        // Times of one form compare as text.
        let (at, due) = (sent["state"]["at"].as_str(), before["state"]["dueAt"].as_str());
        assert!(at < due, "sent at {at:?}, due at {due:?}");
        // Only a waiting event can be asked.
        let refused = client.retry_now(id).await;
        assert_eq!(refused.status, 409, "{refused:?}");
        assert!(
            refused.body["detail"].as_str().unwrap().contains("SENT"),
            "{refused:?}"
        );
        assert_eq!(system.sandbox().times(id).await, 1);
    }
    // A time that the sender asked for is kept.
    let mut scheduled = client.sms(&client.number(3));
    scheduled["scheduledAt"] = json!(in_an_hour());
    let id = client.accept_in_time(&scheduled).await;
    client.wait(&id, "SCHEDULED").await;
    assert_eq!(client.retry_now(&id).await.status, 409);
    assert_eq!(client.retry_now("nobody").await.status, 404);
    let (code, _, error) = run(&["events", "retry-now", "nobody", "--url", client.status_url()]).await;
    assert_eq!(code, Some(1));
    assert!(error.contains("no event"), "{error}");
}

fn in_an_hour() -> String {
    let at = posthaste_event::clock::now() + 3_600_000;
    jiff::Timestamp::from_millisecond(at).unwrap().to_string()
}
