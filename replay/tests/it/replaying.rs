//! A letter goes out once, whatever happens.

use futures_util::future::join_all;
use posthaste_broker::{Hop, NewRecord, Signal, Start, Subscription, Tracking};
use posthaste_event::{ErrorKind, Failure, Lane, Priority, Status, Topic, Value, Work};
use posthaste_replay::Settings;
use serde_json::json;

use crate::rig::{Letter, Rig, letters, settings};

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_goes_out_once_as_the_next_generation() {
    let rig = Rig::new().await;
    let critical = Letter {
        priority: Priority::Critical,
        ..Letter::new("critical")
    };
    rig.append(vec![Letter::new("a").record(), critical.record()])
        .await;
    let service = rig.start("i1");
    service.wait_for(2).await;
    let answer = service.replay(json!({})).await;
    assert_eq!(
        (&answer["count"], &answer["from"], &answer["limit"]),
        (&json!(2), &json!(0), &json!(1_000))
    );
    assert_eq!(answer["partitions"]["owned"], 4);
    let again = service.replay(json!({})).await;
    assert_eq!(again["count"], 0);
    service.wait_for(0).await;
    let out = rig.replayed(2).await;
    service.stop().await;

    let [a] = &out["a"][..] else { panic!("{out:?}") };
    assert_eq!(
        (a.status, a.generation, a.attempt, a.step),
        (Status::Pending, 1, 0, 3)
    );
    assert_eq!((a.lane, a.by.as_str()), (Lane::Retry, "i1"));
    let replay = a.replay.as_ref().unwrap();
    assert_eq!(
        (json!(replay.id), replay.from_step),
        (answer["replayId"].clone(), 2)
    );
    assert_eq!(a.idempotency_key("twilio"), "a:twilio:2");
    assert_eq!(
        (out["critical"].len(), out["critical"][0].lane),
        (1, Lane::RetryCritical)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_replayed_stays_so_over_a_crash_and_a_restart() {
    let mut rig = Rig::new().await;
    rig.append(letters("e", 50)).await;
    let service = rig.start("i1");
    service.wait_for(50).await;
    assert_eq!(service.replay(json!({"limit": 20})).await["count"], 20);
    service.crash().await;

    rig.reopen(65_536).await;
    let service = rig.start("i2");
    service.wait_for(30).await;
    assert_eq!(service.replay(json!({})).await["count"], 30);
    assert_eq!(service.replay(json!({})).await["count"], 0);
    let out = rig.replayed(50).await;
    service.stop().await;
    assert!(out.values().all(|deliveries| deliveries.len() == 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_at_the_same_time_share_the_letters() {
    let rig = Rig::new().await;
    rig.append(letters("e", 400)).await;
    let pages = Settings {
        page_records_max: 7,
        page_bytes_max: 3_000,
        requests_max: 8,
        ..settings()
    };
    let service = rig.start_with("i1", pages);
    service.wait_for(400).await;
    let answers = join_all((0..8).map(|_| service.replay(json!({"limit": 100})))).await;
    let counts: Vec<_> = answers
        .iter()
        .map(|answer| answer["count"].as_u64().unwrap())
        .collect();
    assert_eq!(counts.iter().sum::<u64>(), 400, "{counts:?}");
    let out = rig.replayed(400).await;
    service.stop().await;
    assert!(out.values().all(|deliveries| deliveries.len() == 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_share_the_partitions_and_take_over_from_each_other() {
    let rig = Rig::new().await;
    rig.append(letters("e", 200)).await;
    let first = rig.start("i1");
    first.wait_for(200).await;
    let second = rig.start("i2");
    // Until the partitions are shared out, each answers for what it has.
    let shared = async {
        loop {
            let (one, two) = (first.list("").await, second.list("").await);
            if (&one["partitions"]["owned"], &two["partitions"]["owned"]) == (&json!(2), &json!(2)) {
                break one["partitions"]["total"].clone();
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    let total = tokio::time::timeout(crate::rig::LIMIT, shared).await.unwrap();
    assert_eq!(total, 4);
    let (one, two) = tokio::join!(
        first.replay(json!({"limit": 60})),
        second.replay(json!({"limit": 60}))
    );
    assert_eq!((&one["count"], &two["count"]), (&json!(60), &json!(60)));
    first.stop().await;
    second.wait_for(80).await;
    assert_eq!(second.replay(json!({})).await["count"], 80);
    let out = rig.replayed(200).await;
    second.stop().await;
    assert!(out.values().all(|deliveries| deliveries.len() == 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_dies_again_can_be_replayed_again() {
    let rig = Rig::new().await;
    rig.append(vec![Letter::new("a").record()]).await;
    let service = rig.start("i1");
    service.wait_for(1).await;
    assert_eq!(service.replay(json!({})).await["count"], 1);
    let subscription = Subscription {
        group: "dispatcher.retry".to_owned(),
        topics: vec![Topic::Retry],
        tracking: Tracking::Completion,
        start: Start::Committed,
        limits: Default::default(),
    };
    let mut lane = rig.broker.subscribe(subscription).await.unwrap();
    let consumed = loop {
        if let Signal::Records(mut records) = lane.next().await.unwrap() {
            break records.remove(0);
        }
    };
    let Ok(Value::Work(work)) = consumed.record.decode("events") else {
        panic!()
    };
    let failure = Failure::new(ErrorKind::Permanent, "twilio", None, "still no such number");
    let work = Work {
        delivery: work.delivery.dead_lettered(failure, None, "test", 1),
        event: work.event,
    };
    let letter = NewRecord::new(Topic::DeadLetter, "a", work.encode().unwrap());
    lane.hopper()
        .hop(Hop::one(consumed.ticket, vec![letter]))
        .await
        .unwrap();
    service.wait_for(1).await;
    assert_eq!(
        service.list("").await["deadLetters"][0]["reason"],
        "still no such number"
    );
    assert_eq!(service.replay(json!({})).await["count"], 1);
    let out = rig.replayed(1).await;
    service.stop().await;
    let generations: Vec<_> = out["a"].iter().map(|delivery| delivery.generation).collect();
    assert_eq!(generations, [1, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_wait_changes_nothing() {
    let rig = Rig::new().await;
    rig.append(letters("e", 300)).await;
    let service = rig.start("i1");
    service.wait_for(300).await;
    for _ in 0..5 {
        let body = json!({"limit": 100});
        let request = crate::rig::ask(&service.router, "POST", "/replay-dead-letter", Some(&body));
        // Gone before the answer: at best it has begun.
        let _ = tokio::time::timeout(std::time::Duration::from_millis(1), request).await;
    }
    let rest = async {
        while service
            .ask("POST", "/replay-dead-letter", Some(json!({})))
            .await
            .1["count"]
            != 0
        {}
        while service.list("").await["deadLetters"] != json!([]) {
            service.ask("POST", "/replay-dead-letter", Some(json!({}))).await;
        }
    };
    tokio::time::timeout(crate::rig::LIMIT, rest).await.unwrap();
    let out = rig.replayed(300).await;
    service.stop().await;
    assert!(out.values().all(|deliveries| deliveries.len() == 1));
}
