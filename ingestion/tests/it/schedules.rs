//! Schedules, over HTTP.

use posthaste_broker::AppendError;
use posthaste_event::{Topic, Value};
use serde_json::{Value as Json, json};

use crate::world::{Fixture, Scripted, ask};

const PATH: &str = "/schedules/report";

fn daily() -> Json {
    let payload = json!({"message": "hello", "phoneNumber": "2025555555"});
    json!({"cron": "30 9 * * *", "timeZone": "Europe/Berlin", "event": {"channel": "sms", "payload": payload}})
}

async fn put(intake: &Fixture, body: &Json) -> (u16, Json) {
    let (status, _, answer) = ask(intake, "PUT", PATH, &[], body).await;
    (status.as_u16(), answer)
}

fn planned(intake: &Fixture) -> Vec<posthaste_event::Delivery> {
    let appended = intake.broker.appended.lock().unwrap();
    assert!(
        appended
            .iter()
            .all(|record| record.topic.is_delay() || record.topic == Topic::Definitions)
    );
    let values = appended
        .iter()
        .filter_map(|record| Value::decode(record.value.as_ref()?).ok());
    let works = values.filter_map(|value| match value {
        Value::Work(work) => Some(work.delivery),
        _ => None,
    });
    works.collect()
}

#[tokio::test]
async fn a_schedule_is_planned_once_for_each_plan() {
    let intake = Fixture::new(Scripted::default(), |_| ());
    let (status, answer) = put(&intake, &daily()).await;
    assert_eq!((status, &answer["version"]), (201, &json!(1)), "{answer}");
    assert_eq!(answer["schedule"]["missed"], "once");
    assert_eq!(answer["next"].as_array().unwrap().len(), 5);
    assert_eq!(put(&intake, &daily()).await.1["version"], 1, "it says the same");
    let firings = planned(&intake);
    assert_eq!(firings.len(), 1);
    let firing = firings[0].firing.as_ref().unwrap();
    assert_eq!(firing.schedule, "report");
    assert_eq!(firings[0].due_at, Some(firing.at));
    assert_eq!(
        posthaste_event::time::write(firing.at),
        answer["next"][0].as_str().unwrap()
    );

    let mut other = daily();
    other["event"]["ttl"] = json!(600);
    assert_eq!(put(&intake, &other).await.0, 200);
    let firings = planned(&intake);
    assert_ne!(
        firings[0].firing.as_ref().unwrap().plan,
        firings[1].firing.as_ref().unwrap().plan
    );
    assert_eq!(firings[1].expires_at, firings[1].due_at.map(|due| due + 600_000));

    other["paused"] = json!(true);
    let (status, answer) = put(&intake, &other).await;
    assert_eq!((status, &answer["next"]), (200, &json!([])));
    assert_eq!(planned(&intake).len(), 2, "one that rests plans nothing");
    let (status, _, list) = ask(&intake, "GET", "/schedules", &[], &Json::Null).await;
    assert_eq!(
        (status.as_u16(), &list["items"][0]["code"]),
        (200, &json!("report"))
    );
    assert_eq!(ask(&intake, "DELETE", PATH, &[], &Json::Null).await.0, 204);
    assert_eq!(ask(&intake, "GET", PATH, &[], &Json::Null).await.0, 404);
}

#[tokio::test]
async fn what_cannot_be_a_schedule_is_named_and_nothing_is_planned() {
    let intake = Fixture::new(Scripted::default(), |_| ());
    let with = |pointer: &str, name: &str, value: Json| {
        let mut body = daily();
        body.pointer_mut(pointer).unwrap()[name] = value;
        body
    };
    for (body, field) in [
        (with("", "cron", json!("0 0 30 2 *")), "cron"),
        (with("", "cron", json!("* * *")), "cron"),
        (with("", "timeZone", json!("../../etc/passwd")), "timeZone"),
        (with("", "endsAt", json!("2020-01-01T00:00:00Z")), "endsAt"),
        (with("", "every", json!("day")), "every"),
        (
            with("/event", "scheduledAt", json!("2030-01-01T00:00:00Z")),
            "event.scheduledAt",
        ),
        (with("/event", "channel", json!("pigeon")), "event.channel"),
        (with("/event", "tenant", json!("another")), "event.tenant"),
        (
            with("/event/payload", "phoneNumber", json!("1")),
            "event.payload.phoneNumber",
        ),
    ] {
        let (status, answer) = put(&intake, &body).await;
        assert_eq!(
            (status, &answer["errors"][0]["field"]),
            (400, &json!(field)),
            "{answer}"
        );
        assert!(answer["detail"].as_str().unwrap().contains(field), "{answer}");
    }
    for code in ["..%2F..%2Fetc", "a%2Fb", ".hidden", "a%00"] {
        let (status, ..) = ask(&intake, "PUT", &format!("/schedules/{code}"), &[], &daily()).await;
        assert_eq!(status, 400, "{code}");
    }
    assert_eq!(intake.stored(), 0);
    assert_eq!(ask(&intake, "GET", PATH, &[], &Json::Null).await.0, 404);
}

#[tokio::test]
async fn with_the_broker_away_a_schedule_is_not_there() {
    let intake = Fixture::new(Scripted::default(), |_| ());
    let reason = "away".to_owned();
    *intake.broker.fails.lock().unwrap() = Some(AppendError::Unconfirmed { reason });
    let (status, headers, answer) = ask(&intake, "PUT", PATH, &[], &daily()).await;
    assert_eq!(status, 503, "{answer}");
    assert!(
        headers.contains_key("retry-after") && answer["eventId"].is_null(),
        "{answer}"
    );
    *intake.broker.fails.lock().unwrap() = None;
    assert_eq!(ask(&intake, "GET", PATH, &[], &Json::Null).await.0, 404);
    assert_eq!(put(&intake, &daily()).await.0, 201);
}

#[tokio::test]
async fn a_schedule_that_somebody_else_changed_is_not_replaced_unseen() {
    let intake = Fixture::new(Scripted::default(), |_| ());
    let only_new = [("if-none-match", "*")];
    assert_eq!(ask(&intake, "PUT", PATH, &only_new, &daily()).await.0, 201);
    let mut other = daily();
    other["cron"] = json!("@hourly");
    assert_eq!(ask(&intake, "PUT", PATH, &only_new, &other).await.0, 412);
    assert_eq!(
        planned(&intake).len(),
        1,
        "nothing is planned for what is not written"
    );
}
