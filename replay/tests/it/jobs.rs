//! Replays that go on by themselves: their pace, their progress, and what ends them.

use axum::http::StatusCode;
use posthaste_broker::{Hop, NewRecord, Signal, Start, Subscription, Tracking};
use posthaste_event::{ErrorKind, Failure, Priority, Topic, Value, Work};
use posthaste_replay::Settings;
use serde_json::{Value as Json, json};
use tokio::{task::JoinHandle, time::timeout};

use crate::rig::{LIMIT, Letter, Rig, Running, letters, settings};

/// Small pages, so that there is a middle of a job.
fn small_pages() -> Settings {
    Settings {
        page_records_max: 5,
        ..settings()
    }
}

impl Running {
    async fn begin(&self, body: Json) -> String {
        let answer = self.replay(body).await;
        assert_eq!(answer["message"], "Replay Started", "{answer}");
        answer["replayId"].as_str().unwrap().to_owned()
    }

    async fn job(&self, id: &str) -> Json {
        let (status, answer) = self.ask("GET", &format!("/replays/{id}"), None).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        answer
    }

    async fn wish(&self, id: &str, wish: &str) -> (StatusCode, Json) {
        self.ask("POST", &format!("/replays/{id}/{wish}"), None).await
    }

    async fn until(&self, id: &str, wanted: &str, holds: impl Fn(&Json) -> bool) -> Json {
        let waiting = async {
            loop {
                let job = self.job(id).await;
                if holds(&job) {
                    return job;
                }
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        };
        match timeout(LIMIT, waiting).await {
            Ok(job) => job,
            Err(_) => panic!("not {wanted}: {}", self.job(id).await),
        }
    }

    async fn until_state(&self, id: &str, state: &str) -> Json {
        self.until(id, state, |job| job["state"] == state).await
    }

    async fn refused(&self, method: &str, path: &str, body: Option<Json>) -> (StatusCode, Vec<String>) {
        let (status, answer) = self.ask(method, path, body).await;
        assert!(answer["detail"].is_string(), "{answer}");
        let errors = answer["errors"].as_array().cloned().unwrap_or_default();
        let fields = errors
            .iter()
            .map(|error| error["field"].as_str().unwrap().to_owned());
        (status, fields.collect())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_goes_on_by_itself_at_its_rate_and_tells_how_far_it_is() {
    let rig = Rig::new().await;
    rig.append(letters("e", 60)).await;
    let service = rig.start("i1");
    service.wait_for(60).await;
    let began = std::time::Instant::now();
    let id = service.begin(json!({"rate": 50, "limit": 40})).await;
    let early = service.job(&id).await;
    assert_eq!((&early["total"], &early["rate"]), (&json!(40), &json!(50.0)));
    let middle = service
        .until(&id, "in the middle", |job| job["replayed"].as_u64() > Some(5))
        .await;
    assert!(
        middle["secondsLeft"].as_f64().is_some_and(|left| left <= 0.8),
        "{middle}"
    );
    let done = service.until_state(&id, "finished").await;
    // 40 letters at 50 a second; the first goes at once.
    assert!(began.elapsed().as_millis() >= 700, "{:?}", began.elapsed());
    assert_eq!(
        (&done["replayed"], &done["remaining"], &done["percent"]),
        (&json!(40), &json!(0), &json!(100.0))
    );
    assert!(
        done["finishedAt"].is_string() && done["secondsLeft"].is_null(),
        "{done}"
    );
    service.wait_for(20).await;
    let all = service.ask("GET", "/replays", None).await.1;
    assert_eq!(all["replays"][0]["replayId"], json!(id));
    let out = rig.replayed(40).await;
    service.stop().await;
    assert!(out.values().all(|deliveries| deliveries.len() == 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_job_waits_and_a_cancelled_one_leaves_the_rest() {
    let rig = Rig::new().await;
    rig.append(letters("e", 50)).await;
    let service = rig.start_with("i1", small_pages());
    service.wait_for(50).await;
    let id = service.begin(json!({"rate": 20})).await;
    service
        .until(&id, "begun", |job| job["replayed"].as_u64() > Some(2))
        .await;
    assert_eq!(service.wish(&id, "pause").await.1["state"], "paused");
    // What was on its way when it was told has arrived by the time another replay is through.
    let paused = async {
        loop {
            let before = service.job(&id).await["replayed"].clone();
            tokio::time::sleep(std::time::Duration::from_millis(300)).await;
            if service.job(&id).await["replayed"] == before {
                return before.as_u64().unwrap();
            }
        }
    };
    let paused = timeout(LIMIT, paused).await.unwrap();
    assert!(paused < 50);
    assert_eq!(service.wish(&id, "resume").await.1["state"], "running");
    service
        .until(&id, "going on", |job| job["replayed"].as_u64() > Some(paused))
        .await;
    assert_eq!(service.wish(&id, "cancel").await.0, StatusCode::OK);
    assert_eq!(service.job(&id).await["state"], "cancelled");
    assert_eq!(service.wish(&id, "cancel").await.0, StatusCode::OK);
    for wish in ["pause", "resume"] {
        assert_eq!(service.wish(&id, wish).await.0, StatusCode::CONFLICT);
    }
    // The rest is nobody's and can be asked for again.
    let rest = async {
        while service.list("").await["deadLetters"] != json!([]) {
            service.replay(json!({})).await;
        }
    };
    timeout(LIMIT, rest).await.unwrap();
    let out = rig.replayed(50).await;
    service.stop().await;
    assert!(out.values().all(|deliveries| deliveries.len() == 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_without_a_rate_that_is_cancelled_counts_just_what_went_out() {
    // Many pages, so that there is a middle.
    let one_by_one = Settings {
        page_records_max: 1,
        ..settings()
    };
    let mut rig = Rig::new().await;
    rig.append(letters("e", 400)).await;
    let service = rig.start_with("i1", one_by_one);
    service.wait_for(400).await;
    let id = service.begin(json!({"wait": false})).await;
    service
        .until(&id, "begun", |job| job["replayed"].as_u64() > Some(10))
        .await;
    assert_eq!(service.wish(&id, "cancel").await.0, StatusCode::OK);
    // Pages that were on their way when it was told get there; stopping waits for them.
    service.stop().await;

    rig.reopen(65_536).await;
    let service = rig.start_with("i2", small_pages());
    let out = rig.replayed(0).await;
    assert!(
        (11..400).contains(&out.len()),
        "cancelled in the middle: {}",
        out.len()
    );
    assert!(out.values().all(|deliveries| deliveries.len() == 1));
    service.wait_for(400 - out.len()).await;
    let job = service.job(&id).await;
    assert_eq!(
        (&job["state"], &job["replayed"]),
        (&json!("cancelled"), &json!(out.len()))
    );
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_survives_a_crash_in_its_middle() {
    let mut rig = Rig::new().await;
    rig.append(letters("e", 120)).await;
    let service = rig.start_with("i1", small_pages());
    service.wait_for(120).await;
    let id = service.begin(json!({"rate": 100, "limit": 100})).await;
    let before = service
        .until(&id, "in the middle", |job| job["replayed"].as_u64() > Some(20))
        .await;
    assert_eq!(before["state"], "running");
    service.crash().await;

    rig.reopen(65_536).await;
    let service = rig.start_with("i2", small_pages());
    let done = service.until_state(&id, "finished").await;
    assert_eq!((&done["replayed"], &done["total"]), (&json!(100), &json!(100)));
    service.wait_for(20).await;
    let out = rig.replayed(100).await;
    service.stop().await;
    assert_eq!(out.len(), 100);
    for deliveries in out.values() {
        assert_eq!(deliveries.len(), 1);
        assert_eq!(deliveries[0].replay.as_ref().unwrap().id, id);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_job_is_paused_after_a_restart_too() {
    let mut rig = Rig::new().await;
    rig.append(letters("e", 30)).await;
    let service = rig.start("i1");
    service.wait_for(30).await;
    let id = service.begin(json!({"rate": 1})).await;
    service.wish(&id, "pause").await;
    service.stop().await;
    rig.reopen(65_536).await;
    let service = rig.start("i2");
    assert_eq!(service.job(&id).await["state"], "paused");
    service.wish(&id, "cancel").await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_instance_goes_on_with_what_it_takes_over() {
    let rig = Rig::new().await;
    rig.append(letters("e", 200)).await;
    let first = rig.start_with("i1", small_pages());
    first.wait_for(200).await;
    let id = first.begin(json!({"rate": 100})).await;
    first
        .until(&id, "begun", |job| job["replayed"].as_u64() > Some(10))
        .await;
    let second = rig.start_with("i2", small_pages());
    let shared = async {
        while second.list("").await["partitions"]["owned"] != 2 {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    timeout(LIMIT, shared).await.unwrap();
    first.stop().await;
    let done = second.until_state(&id, "finished").await;
    assert_eq!(done["replayed"], 200);
    let out = rig.replayed(200).await;
    second.stop().await;
    assert!(out.values().all(|deliveries| deliveries.len() == 1));
}

/// Makes everything that goes out die again.
async fn die_again(rig: &Rig) -> JoinHandle<()> {
    let subscription = Subscription {
        group: "dispatcher.retry".to_owned(),
        topics: vec![Topic::Retry],
        tracking: Tracking::Completion,
        start: Start::Committed,
        limits: Default::default(),
    };
    let mut lane = rig.broker.subscribe(subscription).await.unwrap();
    tokio::spawn(async move {
        let hopper = lane.hopper();
        while let Ok(signal) = lane.next().await {
            let Signal::Records(records) = signal else {
                continue;
            };
            for consumed in records {
                let Ok(Value::Work(work)) = consumed.record.decode("events") else {
                    panic!()
                };
                let key = work.delivery.id.clone();
                let failure = Failure::new(ErrorKind::Permanent, "twilio", None, "still no such number");
                let work = Work {
                    delivery: work.delivery.dead_lettered(failure, None, "test", 1),
                    event: work.event,
                };
                let letter = NewRecord::new(Topic::DeadLetter, key, work.encode().unwrap());
                hopper.hop(Hop::one(consumed.ticket, vec![letter])).await.unwrap();
            }
        }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_stops_when_too_much_dies_again() {
    let rig = Rig::new().await;
    rig.append(letters("e", 100)).await;
    let mut lane = die_again(&rig).await;
    let service = rig.start_with("i1", small_pages());
    service.wait_for(100).await;
    let id = service.begin(json!({"rate": 40, "refailureRatio": 0.25})).await;
    let stopped = service.until_state(&id, "stopped").await;
    assert!(stopped["refailed"].as_u64().unwrap() >= 5, "{stopped}");
    assert!(
        stopped["reason"].as_str().unwrap().contains("died again"),
        "{stopped}"
    );
    let replayed = stopped["replayed"].as_u64().unwrap();
    assert!((20..100).contains(&replayed), "{stopped}");
    assert_eq!(service.wish(&id, "pause").await.0, StatusCode::CONFLICT);

    // The cause is mended; it counts anew from here.
    lane.abort();
    let _ = (&mut lane).await;
    assert_eq!(service.wish(&id, "resume").await.1["state"], "running");
    let done = service.until_state(&id, "finished").await;
    assert_eq!(
        (&done["replayed"], &done["remaining"]),
        (&json!(100), &json!(0)),
        "{done}"
    );
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_jobs_never_mean_the_same_letters() {
    let rig = Rig::new().await;
    let mut records = letters("e", 20);
    let other = Letter {
        tenant: "acme",
        ..Letter::new("other")
    };
    records.push(other.record());
    rig.append(records).await;
    let service = rig.start("i1");
    service.wait_for(21).await;
    let id = service
        .begin(json!({"rate": 0.5, "filter": {"tenant": "default"}}))
        .await;
    for body in [
        json!({"rate": 1}),
        json!({"wait": false, "filter": {"ids": ["e0019"]}}),
        json!({"filter": {"channel": "sms"}}),
    ] {
        let (status, answer) = service.ask("POST", "/replay-dead-letter", Some(body)).await;
        assert_eq!(status, StatusCode::CONFLICT, "{answer}");
        assert_eq!(answer["errors"][0]["field"], "filter");
        assert!(answer["detail"].as_str().unwrap().contains(&id), "{answer}");
    }
    let answer = service.replay(json!({"filter": {"tenant": "acme"}})).await;
    assert_eq!(answer["count"], 1);
    service.wish(&id, "cancel").await;
    let rest = async {
        while service.list("").await["deadLetters"] != json!([]) {
            service.ask("POST", "/replay-dead-letter", Some(json!({}))).await;
        }
    };
    timeout(LIMIT, rest).await.unwrap();
    let out = rig.replayed(21).await;
    service.stop().await;
    assert!(out.values().all(|deliveries| deliveries.len() == 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_asked_is_refused_by_its_name() {
    let rig = Rig::new().await;
    rig.append(letters("e", 3)).await;
    let service = rig.start("i1");
    service.wait_for(3).await;
    for (method, path) in [
        ("GET", "/replays/nobody"),
        ("POST", "/replays/nobody/pause"),
        ("POST", "/replays/nobody/explode"),
    ] {
        assert_eq!(service.refused(method, path, None).await.0, StatusCode::NOT_FOUND);
    }
    for (query, field) in [
        ("state=asleep", "state"),
        ("limit=0", "limit"),
        ("cursor=1", "cursor"),
    ] {
        let refused = service.refused("GET", &format!("/replays?{query}"), None).await;
        assert_eq!(refused, (StatusCode::BAD_REQUEST, vec![field.to_owned()]));
    }
    for (body, field) in [
        (json!({"rate": -1}), "rate"),
        (json!({"rate": 5, "limit": 0}), "limit"),
        (json!({"rate": 5, "from": -3}), "from"),
        (json!({"rate": 5, "refailureRatio": 2}), "refailureRatio"),
        (json!({"filter": {"from": 5, "until": 4}}), "filter.until"),
    ] {
        let refused = service.refused("POST", "/replay-dead-letter", Some(body)).await;
        assert_eq!(refused, (StatusCode::BAD_REQUEST, vec![field.to_owned()]));
    }
    // Nobody by this id was ever given up; of several, those that are known go out.
    let body = json!({"filter": {"ids": ["nobody", "never"]}});
    let refused = service.refused("POST", "/replay-dead-letter", Some(body)).await;
    assert_eq!(refused, (StatusCode::NOT_FOUND, vec!["filter.ids".to_owned()]));
    let answer = service
        .replay(json!({"filter": {"ids": ["e0000", "nobody"]}}))
        .await;
    assert_eq!(
        (&answer["count"], &answer["notOpen"]),
        (&json!(1), &json!(["nobody"]))
    );
    let answer = service.replay(json!({"filter": {"ids": ["e0000"]}})).await;
    assert_eq!(
        (&answer["count"], &answer["notOpen"]),
        (&json!(0), &json!(["e0000"]))
    );
    service.wait_for(2).await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_tells_where_the_letters_would_go() {
    let rig = Rig::new().await;
    let critical = Letter {
        priority: Priority::Critical,
        ..Letter::new("critical")
    };
    let mut records = letters("e", 3);
    records.push(critical.record());
    rig.append(records).await;
    let service = rig.start("i1");
    service.wait_for(4).await;
    let body = json!({"dryRun": true, "rate": 5});
    let (status, answer) = service.ask("POST", "/replay-dead-letter", Some(body)).await;
    assert_eq!((status, &answer["count"]), (StatusCode::OK, &json!(4)));
    let route = |topic: &str, count: u64| json!({"topic": topic, "channel": "sms", "provider": "messagebird", "pinned": false, "count": count});
    assert_eq!(
        answer["routes"],
        json!([route("events.retry", 3), route("events.retry.critical", 1)])
    );
    assert_eq!(service.ask("GET", "/replays", None).await.1["replays"], json!([]));
    service.wait_for(4).await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn old_replays_are_forgotten() {
    let rig = Rig::new().await;
    rig.append(letters("e", 6)).await;
    let few = Settings {
        finished_kept_max: 2,
        ..settings()
    };
    let service = rig.start_with("i1", few);
    service.wait_for(6).await;
    let mut ids = Vec::new();
    for _ in 0..6 {
        let answer = service.replay(json!({"limit": 1})).await;
        ids.push(answer["replayId"].clone());
    }
    let known = async || {
        let all = service.ask("GET", "/replays", None).await.1;
        let all = all["replays"].as_array().unwrap().clone();
        all.iter().map(|job| job["replayId"].clone()).collect::<Vec<_>>()
    };
    let forgotten = async {
        while known().await.len() > 2 {
            service.replay(json!({})).await;
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    timeout(LIMIT, forgotten).await.unwrap();
    assert!(!known().await.contains(&ids[0]));
    service.stop().await;
}
