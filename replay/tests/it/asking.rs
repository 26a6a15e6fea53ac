//! What can be asked, and what is answered.

use std::collections::BTreeMap;

use axum::http::StatusCode;
use posthaste_broker::NewRecord;
use posthaste_event::{ErrorKind, Topic, Value, delivery::Policy, record::Foreign};
use serde_json::{Value as Json, json};

use crate::rig::{Letter, Rig, letters, settings};

async fn mixed(rig: &Rig) {
    let letters = [
        Letter::new("plain"),
        Letter {
            tenant: "acme",
            ..Letter::new("acme")
        },
        Letter {
            provider: "messagebird",
            ..Letter::new("other-provider")
        },
        Letter {
            kind: ErrorKind::Rules,
            message: "older than maxAge: Timed Out",
            ..Letter::new("too-old")
        },
    ];
    rig.append(letters.iter().map(Letter::record).collect()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_must_not_go_out_twice_and_may_have_gone_out_goes_only_when_it_is_named() {
    let rig = Rig::new().await;
    let letter = |id: &str, kind, policy| Letter {
        kind,
        policy,
        ..Letter::new(id)
    };
    let letters = [
        letter("doubtful", ErrorKind::Ambiguous, Policy::NoDuplicate),
        letter("another", ErrorKind::Ambiguous, Policy::NoDuplicate),
        letter("surely-not-sent", ErrorKind::Permanent, Policy::NoDuplicate),
        letter("may-go-twice", ErrorKind::Ambiguous, Policy::NoLoss),
    ];
    rig.append(letters.iter().map(Letter::record).collect()).await;
    let service = rig.start("i1");
    service.wait_for(4).await;
    let body = Some(json!({"dryRun": true}));
    let (_, answer) = service.ask("POST", "/replay-dead-letter", body).await;
    assert_eq!((&answer["count"], &answer["leftInDoubt"]), (&json!(2), &json!(2)));
    let answer = service.replay(json!({})).await;
    assert_eq!((&answer["count"], &answer["leftInDoubt"]), (&json!(2), &json!(2)));
    let answer = service.replay(json!({"filter": {"ids": ["doubtful"]}})).await;
    assert_eq!(
        (&answer["count"], &answer["leftInDoubt"]),
        (&json!(1), &Json::Null)
    );
    let answer = service.replay(json!({"filter": {"error": "ambiguous"}})).await;
    assert_eq!(
        (&answer["count"], &answer["leftInDoubt"]),
        (&json!(1), &Json::Null)
    );
    service.wait_for(0).await;
    service.stop().await;
    let out = rig.replayed(4).await;
    assert!(out.values().all(|deliveries| deliveries.len() == 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_choose_what_goes_out() {
    let rig = Rig::new().await;
    mixed(&rig).await;
    let service = rig.start("i1");
    service.wait_for(4).await;
    let count = async |filter: Json| {
        let body = json!({"dryRun": true, "filter": filter});
        let (status, answer) = service.ask("POST", "/replay-dead-letter", Some(body)).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        let events: Vec<_> = answer["sample"].as_array().unwrap().iter().collect();
        assert_eq!(json!(events.len()), answer["count"]);
        events
            .iter()
            .map(|letter| letter["delivery"]["id"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(count(json!({"tenant": "acme"})).await, ["acme"]);
    assert_eq!(
        count(json!({"provider": "messagebird"})).await,
        ["other-provider"]
    );
    assert_eq!(count(json!({"error": "rules"})).await, ["too-old"]);
    assert_eq!(count(json!({"text": "timed out"})).await, ["too-old"]);
    assert_eq!(count(json!({"error": "21211"})).await.len(), 4);
    assert_eq!(count(json!({"channel": "email"})).await.len(), 0);
    assert_eq!(count(json!({"from": "2100-01-01T00:00:00Z"})).await.len(), 0);
    assert_eq!(count(json!({"until": "2100-01-01T00:00:00Z"})).await.len(), 4);
    assert_eq!(count(json!({"ids": ["plain", "nobody"]})).await, ["plain"]);
    assert_eq!(count(json!({"ids": []})).await.len(), 0);
    let fingerprint =
        service.list("ids=plain").await["deadLetters"][0]["delivery"]["error"]["fingerprint"].clone();
    assert_eq!(count(json!({"error": fingerprint})).await.len(), 2);

    let answer = service
        .replay(json!({"filter": {"ids": ["plain", "acme"]}}))
        .await;
    assert_eq!(answer["count"], 2);
    service.wait_for(2).await;
    let out = rig.replayed(2).await;
    service.stop().await;
    assert_eq!(out.keys().collect::<Vec<_>>(), ["acme", "plain"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn from_skips_the_oldest_and_limit_bounds_the_rest() {
    let rig = Rig::new().await;
    for number in 0..6 {
        // One by one, so that each died at another time or stands behind in the same partition.
        let record = NewRecord {
            partition: Some(1),
            ..Letter::new(format!("e{number}")).record()
        };
        rig.append(vec![record]).await;
    }
    let service = rig.start("i1");
    service.wait_for(6).await;
    let answer = service.replay(json!({"from": 2, "limit": 3})).await;
    assert_eq!(
        (&answer["count"], &answer["from"], &answer["limit"]),
        (&json!(3), &json!(2), &json!(3))
    );
    let out = rig.replayed(3).await;
    service.stop().await;
    assert_eq!(out.keys().collect::<Vec<_>>(), ["e2", "e3", "e4"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_records_are_listed_and_never_go_out() {
    let rig = Rig::new().await;
    let foreign = Foreign::new(
        "events.default".into(),
        3,
        77,
        None,
        Some(b"junk"),
        "not JSON".into(),
    );
    rig.append(vec![
        NewRecord::new(Topic::DeadLetter, "f", Value::Foreign(foreign).encode().unwrap()),
        NewRecord::new(Topic::DeadLetter, "g", "garbage"),
        Letter::new("a").record(),
    ])
    .await;
    let service = rig.start("i1");
    service.wait_for(3).await;
    assert_eq!(service.replay(json!({})).await["count"], 1);
    service.wait_for(2).await;
    let page = service.list("error=unreadable").await;
    let letters = page["deadLetters"].as_array().unwrap();
    let of_default = letters
        .iter()
        .find(|letter| letter["reason"] == "not JSON")
        .unwrap();
    assert_eq!(of_default["replayable"], false);
    assert_eq!(
        (&of_default["foreign"]["topic"], &of_default["foreign"]["offset"]),
        (&json!("events.default"), &json!(77))
    );
    assert_eq!(letters.len(), 2);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_has_pages_newest_first() {
    let rig = Rig::new().await;
    rig.append(letters("e", 23)).await;
    let service = rig.start("i1");
    service.wait_for(23).await;
    let mut seen: Vec<Json> = Vec::new();
    let mut query = "limit=10".to_owned();
    loop {
        let page = service.list(&query).await;
        seen.extend(page["deadLetters"].as_array().unwrap().iter().cloned());
        let Some(next) = page["next"].as_str() else { break };
        query = format!("limit=10&cursor={next}");
    }
    service.stop().await;
    let times: Vec<_> = seen.iter().map(|letter| letter["at"].as_i64().unwrap()).collect();
    assert!(times.is_sorted_by(|a, b| a >= b), "{times:?}");
    let ids: std::collections::HashSet<_> = seen
        .iter()
        .map(|letter| letter["delivery"]["id"].to_string())
        .collect();
    assert_eq!((seen.len(), ids.len()), (23, 23));
    assert!(!seen[0].to_string().contains("hello"), "payloads are not listed");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_requests_are_refused_by_the_field() {
    let rig = Rig::new().await;
    let service = rig.start("i1");
    for (body, field) in [
        (json!({"limit": 0}), "limit"),
        (json!({"from": -1}), "from"),
        (json!({"until": 1}), "until"),
        (json!({"filter": {"channel": "fax"}}), "filter.channel"),
    ] {
        let (status, problem) = service.ask("POST", "/replay-dead-letter", Some(body)).await;
        assert_eq!(
            (status, problem["errors"][0]["field"].as_str()),
            (StatusCode::BAD_REQUEST, Some(field))
        );
    }
    let (status, problem) = service.ask("GET", "/dead-letters?page=2", None).await;
    assert_eq!(
        (status, problem["errors"][0]["field"].as_str()),
        (StatusCode::BAD_REQUEST, Some("page"))
    );
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn before_the_letters_are_read_the_answer_is_to_come_back() {
    let rig = Rig::new().await;
    let health = posthaste_service::Health::default();
    let broker = std::sync::Arc::clone(&rig.broker);
    let replay =
        posthaste_replay::Replay::new(broker, settings(), BTreeMap::new(), "i1".into(), &health, None);
    let (status, problem) = crate::rig::ask(&replay.router(), "GET", "/dead-letters", None).await;
    assert_eq!(
        (status, problem["retryAfterSeconds"].as_u64()),
        (StatusCode::SERVICE_UNAVAILABLE, Some(2))
    );
    assert_eq!(health.missing().len(), 1);
    let service = rig.start("i2");
    service.list("").await;
    assert!(service.health.missing().is_empty());
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_too_large_to_go_out_stays_and_the_others_go() {
    let mut rig = Rig::new().await;
    let large = Letter {
        text: "x".repeat(4_000),
        ..Letter::new("large")
    };
    let in_one = |letter: Letter| NewRecord {
        partition: Some(0),
        ..letter.record()
    };
    rig.append(vec![in_one(large), in_one(Letter::new("small"))])
        .await;
    rig.reopen(2_048).await;
    let service = rig.start("i1");
    service.wait_for(2).await;
    let answer = service.replay(json!({})).await;
    assert_eq!((&answer["count"], &answer["notReplayed"]), (&json!(1), &json!(1)));
    service.wait_for(1).await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_with_the_same_error_are_one_group() {
    let rig = Rig::new().await;
    mixed(&rig).await;
    rig.append(vec![NewRecord::new(Topic::DeadLetter, "g", "garbage")])
        .await;
    let service = rig.start("i1");
    service.wait_for(5).await;
    let answer = service.list("groupBy=fingerprint").await;
    assert_eq!(
        (&answer["groupsTotal"], &answer["lettersTotal"]),
        (&json!(4), &json!(5))
    );
    let groups = answer["groups"].as_array().unwrap();
    let largest = &groups[0];
    assert_eq!(
        (&largest["count"], &largest["tenants"], &largest["reason"]),
        (&json!(2), &json!(2), &json!("no such number"))
    );
    assert_eq!(
        (&largest["channels"], &largest["providers"]),
        (&json!(["sms"]), &json!(["twilio"]))
    );
    assert!(largest["first"].as_i64().unwrap() <= largest["last"].as_i64().unwrap());
    let unreadable = groups.iter().find(|group| group["kind"] == "unreadable").unwrap();
    assert_eq!(
        (&unreadable["replayable"], &unreadable["fingerprint"]),
        (&json!(0), &Json::Null)
    );

    // The fingerprint chooses the group's letters, and a bound cuts the list of groups, not the totals.
    let fingerprint = largest["fingerprint"].as_str().unwrap();
    let of_group = service.list(&format!("error={fingerprint}")).await;
    assert_eq!(of_group["deadLetters"].as_array().unwrap().len(), 2);
    let first = service.list("groupBy=fingerprint&limit=1").await;
    assert_eq!(
        (first["groups"].as_array().unwrap().len(), &first["groupsTotal"]),
        (1, &json!(4))
    );
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_letter_of_one_event_is_shown_until_it_went_out() {
    let rig = Rig::new().await;
    mixed(&rig).await;
    let service = rig.start("i1");
    service.wait_for(4).await;
    let (status, letter) = service.ask("GET", "/dead-letters/acme", None).await;
    assert_eq!(
        (status, &letter["delivery"]["id"]),
        (StatusCode::OK, &json!("acme"))
    );
    assert_eq!(letter["delivery"]["failures"][0]["message"], "no such number");
    service.replay(json!({"filter": {"ids": ["acme"]}})).await;
    for gone in ["acme", "never-was"] {
        let (status, answer) = service.ask("GET", &format!("/dead-letters/{gone}"), None).await;
        assert_eq!(status, StatusCode::NOT_FOUND);
        assert!(answer["detail"].as_str().unwrap().contains(gone), "{answer}");
    }
    service.stop().await;
}
