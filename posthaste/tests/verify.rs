//! `posthaste verify` against a pipeline that breaks one promise on purpose: does it see, and say which event it was?
#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::{
    process::{Command, Output},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use axum::{
    Json, Router,
    extract::{Path, Query, State},
    http::StatusCode,
    response::IntoResponse,
    routing::{delete, get, post},
};
use posthaste_event::{clock, own_id};
use serde_json::{Value, json};

/// What is wrong with the pipeline. It happens to the event with this number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flaw {
    Nothing,
    /// Accepted, and forgotten.
    Dropped,
    /// Sent, but its status stays where it was.
    NoEnd,
    /// Said to be sent, and not sent.
    NotSent,
    /// Sent again with the same key, though nothing broke.
    Repeated,
    /// Sent again with another key.
    RepeatedOtherwise,
    /// Sent before it was due.
    Early,
    /// Sent after it had expired.
    Expired,
    /// Called for after it was withdrawn.
    Cancelled,
    /// Sent before the one before it was done.
    Overtakes,
    /// Refused, and sent all the same.
    Refused,
    /// The sandbox starts anew in the middle.
    Forgets,
    /// The sandbox receives nothing at all.
    Elsewhere,
}

const FLAWED: &str = "-7";

/// A pipeline of nothing but its answers.
struct Double {
    flaw: Flaw,
    sends: Mutex<Vec<Value>>,
    events: Mutex<Vec<Value>>,
    forgot: AtomicBool,
}

impl Double {
    async fn start(flaw: Flaw) -> (Arc<Self>, String) {
        let double = Arc::new(Self {
            flaw,
            sends: Mutex::default(),
            events: Mutex::default(),
            forgot: AtomicBool::new(false),
        });
        let router = Router::new()
            .route("/event", post(accept))
            .route("/events", get(list))
            .route("/events/{id}", delete(cancel))
            .route("/events/{id}/timeline", get(timeline))
            .route("/sandbox/sends", get(sends))
            .with_state(Arc::clone(&double));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        (double, url)
    }

    fn send(&self, id: &str, at: i64, key: &str) {
        self.call(id, at, key, true);
    }

    fn call(&self, id: &str, at: i64, key: &str, taken: bool) {
        if self.flaw != Flaw::Elsewhere {
            self.sends.lock().unwrap().push(json!({
                "at": at, "provider": "twilio", "action": "accept", "taken": taken, "event": id, "key": format!("{id}:{key}"),
            }));
        }
    }
}

async fn accept(State(double): State<Arc<Double>>, Json(event): Json<Value>) -> impl IntoResponse {
    let said = |name: &str| event[name].as_str().unwrap();
    // As whoever sees all tenants is shown it.
    let id = &*own_id::kept(said("tenant"), said("eventId"));
    let flaw = if id.ends_with(FLAWED) {
        double.flaw
    } else {
        Flaw::Nothing
    };
    let now = clock::now();
    let time = |name: &str| {
        let time = event[name].as_str()?.parse::<jiff::Timestamp>().ok()?;
        Some(time.as_millisecond())
    };
    // It does not wait: what is scheduled is said to have been sent in its time.
    let mut at = time("scheduledAt").unwrap_or(now);
    match flaw {
        Flaw::Early => at -= 500,
        Flaw::Expired => at = time("expiresAt").unwrap() + 1_500,
        Flaw::Overtakes => at -= 60_000,
        _ => {}
    }
    if !matches!(flaw, Flaw::Dropped | Flaw::NotSent | Flaw::Cancelled) {
        double.send(id, at, "twilio:0");
    }
    match flaw {
        Flaw::Repeated => double.send(id, at + 1, "twilio:0"),
        Flaw::RepeatedOtherwise => double.send(id, at + 1, "twilio:1"),
        Flaw::Forgets => {
            double.forgot.store(true, Ordering::Relaxed);
            double.sends.lock().unwrap().clear();
        }
        _ => {}
    }
    let status = match flaw {
        Flaw::NoEnd | Flaw::Cancelled => "PENDING",
        _ => "SENT",
    };
    let written = jiff::Timestamp::from_millisecond(at + 5).unwrap().to_string();
    if flaw != Flaw::Dropped {
        double.events.lock().unwrap().push(json!({
            "eventId": id, "status": status, "state": {"step": 1, "status": status, "at": written, "attempt": 1},
        }));
    }
    let answer = if flaw == Flaw::Refused {
        StatusCode::SERVICE_UNAVAILABLE
    } else {
        StatusCode::CREATED
    };
    (answer, Json(json!({"detail": "as it was told"})))
}

/// All but one have been sent.
async fn cancel(State(double): State<Arc<Double>>, Path(id): Path<String>) -> impl IntoResponse {
    if double.flaw != Flaw::Cancelled || !id.ends_with(FLAWED) {
        return (StatusCode::CONFLICT, Json(json!({"detail": "it is SENT"})));
    }
    let now = clock::now();
    double.call(&id, now + 500, "twilio:0", false);
    let written = jiff::Timestamp::from_millisecond(now).unwrap().to_string();
    let mut events = double.events.lock().unwrap();
    let event = events.iter_mut().find(|event| event["eventId"] == *id).unwrap();
    *event = json!({
        "eventId": id, "status": "CANCELLED",
        "state": {"step": 1, "status": "CANCELLED", "at": written, "attempt": 0},
    });
    (StatusCode::ACCEPTED, Json(json!({})))
}

async fn list(State(double): State<Arc<Double>>) -> Json<Value> {
    Json(json!({ "events": *double.events.lock().unwrap() }))
}

async fn timeline(State(double): State<Arc<Double>>, Path(id): Path<String>) -> Json<Value> {
    let events = double.events.lock().unwrap();
    let event = events.iter().find(|event| event["eventId"] == *id).unwrap();
    Json(json!({ "timeline": [{"step": 1, "at": event["state"]["at"], "status": event["status"]}] }))
}

async fn sends(State(double): State<Arc<Double>>, Query(query): Query<Vec<(String, String)>>) -> Json<Value> {
    let sends = double.sends.lock().unwrap();
    let from = query.iter().find(|(name, _)| name == "from").unwrap();
    let from = usize::try_from(from.1.parse::<u64>().unwrap())
        .unwrap()
        .min(sends.len());
    let memory = format!("memory {}", double.forgot.load(Ordering::Relaxed));
    Json(json!({
        "memory": memory, "now": clock::now(), "first": 0, "next": sends.len(), "sends": sends[from..],
    }))
}

/// Runs it, with these options too.
async fn verify(flaw: Flaw, options: &[&str]) -> (Output, Value, String) {
    let (_double, url) = Double::start(flaw).await;
    let folder = tempfile::tempdir().unwrap();
    let evidence = folder.path().join("evidence.jsonl");
    let mut command = Command::new(env!("CARGO_BIN_EXE_posthaste"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("POSTHASTE_") {
            command.env_remove(name);
        }
    }
    command
        .args(["verify", "--json", "-n", "20", "--rate", "200", "--settle", "1"])
        .args(["--channels", "sms", "--url", &url, "--evidence"])
        .arg(&evidence)
        .args(options);
    if !options.contains(&"--ordered") {
        // Those neither wait nor expire, and the flawed event must.
        command.args(["--ordered", "0"]);
    }
    let output = tokio::task::spawn_blocking(move || command.output())
        .await
        .unwrap()
        .unwrap();
    let report = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let evidence = std::fs::read_to_string(evidence).unwrap_or_default();
    (output, report, evidence)
}

/// The flaw must be found, named, and told by the exit code; and nothing else.
async fn finds(flaw: Flaw, finding: &str, options: &[&str]) {
    let (output, report, evidence) = verify(flaw, options).await;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(3), "{said}\n{report:#}");
    assert_eq!(report["promisesHold"], false, "{report:#}");
    for (name, found) in report["findings"].as_object().unwrap() {
        let expected = u64::from(name == finding);
        assert_eq!(found["count"], expected, "{name}: {report:#}\n{evidence}");
    }
    let line: Value = serde_json::from_str(evidence.lines().nth(1).unwrap()).unwrap();
    assert_eq!(
        (&line["finding"], &line["broken"]),
        (&json!(finding), &json!(true))
    );
    assert!(line["event"].as_str().unwrap().ends_with(FLAWED), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_that_does_as_it_promises_passes() {
    let options = ["--scheduled", "30", "--expiring", "30", "--seed", "1"];
    let (output, report, evidence) = verify(Flaw::Nothing, &options).await;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{said}\n{report:#}\n{evidence}");
    assert_eq!(
        (&report["accepted"], &report["ended"], &report["taken"]),
        (&json!(20), &json!(20), &json!(20))
    );
    assert_eq!(evidence.lines().count(), 1);
    assert_eq!(report["seed"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_event_is_lost() {
    finds(Flaw::Dropped, "lost", &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_without_an_end_is_lost() {
    finds(Flaw::NoEnd, "lost", &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_send_that_was_only_recorded_is_found() {
    finds(Flaw::NotSent, "sentUnseen", &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_send_is_found_and_allowed_while_others_break_things() {
    finds(Flaw::Repeated, "repeatedSameKey", &[]).await;
    let (output, report, _) = verify(Flaw::Repeated, &["--expect-faults"]).await;
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(
        report["findings"]["repeatedSameKey"],
        json!({"count": 1, "allowed": 1})
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_send_repeated_with_another_key_is_found_even_while_others_break_things() {
    finds(Flaw::RepeatedOtherwise, "repeatedOtherwise", &["--expect-faults"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scheduled_event_that_goes_out_early_is_found() {
    finds(Flaw::Early, "sentEarly", &["--scheduled", "100"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_goes_out_after_its_expiry_is_found() {
    finds(Flaw::Expired, "sentAfterExpiry", &["--expiring", "100"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_goes_out_after_it_was_cancelled_is_found() {
    finds(Flaw::Cancelled, "sentAfterCancel", &["--cancelled", "100"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_overtakes_another_of_its_key_is_found() {
    finds(
        Flaw::Overtakes,
        "outOfOrder",
        &["--ordered", "100", "--ordering-keys", "1"],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_was_refused_and_sent_is_found() {
    finds(Flaw::Refused, "refusedButThere", &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_whole_witness_nothing_is_said_to_hold() {
    let (output, report, _) = verify(Flaw::Forgets, &[]).await;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}\n{report:#}");
    assert!(said.contains("forgot a part of what it received"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_sent_when_the_first_events_do_not_arrive_at_the_sandbox() {
    let (double, url) = Double::start(Flaw::Elsewhere).await;
    let output = tokio::task::spawn_blocking(move || {
        Command::new(env!("CARGO_BIN_EXE_posthaste"))
            .args(["verify", "--channels", "sms,email", "--url", &url])
            .output()
    })
    .await
    .unwrap()
    .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("did not receive") && said.contains("-probe-email"),
        "{said}"
    );
    assert_eq!(double.events.lock().unwrap().len(), 2);
}
