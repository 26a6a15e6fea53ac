//! What is asked of events that wait: to withdraw them, to send them at another time.

use posthaste_broker::NewRecord;
use posthaste_event::{
    Delivery, ErrorKind, Millis, Priority, Status, Topic, Value,
    cancel::{self, Cancel},
    clock,
    control::{Control, Reschedule},
    delivery::WaitReason,
};

use crate::bench::{Bench, delivery, failed, parked, settings, work};

fn of(record: &NewRecord) -> Delivery {
    match Value::decode(record.value.as_ref().unwrap()).unwrap() {
        Value::Work(work) => work.delivery,
        other => panic!("{other:?}"),
    }
}

fn withdraw(record: &NewRecord) -> NewRecord {
    let delivery = of(record);
    let asked = Cancel {
        event_id: delivery.id.clone(),
        created_at: delivery.created_at,
        generation: delivery.generation,
        at: clock::now(),
        unknown: Default::default(),
    };
    let key = cancel::key(str::from_utf8(&record.key).unwrap(), &delivery.id);
    NewRecord::new(Topic::Cancel, key, asked.encode().unwrap())
}

fn put_off(record: &NewRecord, due: Millis, at: Millis) -> NewRecord {
    let delivery = of(record);
    let asked = Control::Reschedule(Reschedule {
        event_id: delivery.id,
        created_at: delivery.created_at,
        scheduled_at: due,
        at,
        unknown: Default::default(),
    });
    NewRecord::new(Topic::Control, asked.key(), asked.encode().unwrap())
}

fn scheduled(id: &str, due: Millis) -> NewRecord {
    let mut work = work(id, Priority::Normal, None);
    let now = clock::now();
    // As intake writes it: the first step.
    let topic = work.delivery.reschedule(due, "ingestion", now);
    (work.delivery.step, work.delivery.created_at) = (0, now);
    NewRecord::new(topic, id.to_owned(), work.encode().unwrap())
}

/// The keys for which a compacted topic has tombstones, once there are so many.
async fn forgotten(bench: &Bench, topic: Topic, many: usize) -> Vec<String> {
    let is_tombstone = |record: &&posthaste_broker::Record| record.value.is_none();
    let records = bench
        .read(&[topic], |records| {
            records.iter().filter(is_tombstone).count() >= many
        })
        .await;
    let keys = records.iter().filter(is_tombstone);
    let keys = keys.map(|record| String::from_utf8(record.key.clone().unwrap().to_vec()).unwrap());
    let mut keys: Vec<_> = keys.collect();
    keys.sort();
    keys
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_is_withdrawn_wherever_it_waits_and_nothing_else_is() {
    let bench = Bench::new().await;
    let now = clock::now();
    let (near, far) = (now + 25_000, now + 3_600_000);
    let wait = |id: &str, due| parked(work(id, Priority::Normal, None), due);
    let mut ordered = wait("ordered", far);
    ordered.key = "default/order-7".into();
    let withdrawn = vec![
        wait("near", near),
        parked(work("critical", Priority::Critical, None), near),
        wait("tier", far),
        scheduled("scheduled", far),
        ordered,
    ];
    // Asked before anybody was there to hear it.
    let early = wait("early", near);
    bench.append(vec![withdraw(&early)]).await;
    bench.append(vec![early]).await;
    let instance = bench.start("one", settings());
    let stays = wait("stays", now + 2_000);
    bench.append(withdrawn.clone()).await;
    bench.append(vec![stays.clone()]).await;
    // Another event with the same id, and another generation, are not meant.
    let mut other = withdraw(&stays);
    let mut asked = Cancel::decode(other.value.as_ref().unwrap()).unwrap();
    asked.created_at += 1;
    other.value = Some(asked.encode().unwrap());
    bench.append(vec![other]).await;
    bench.append(withdrawn.iter().map(withdraw).collect()).await;

    let ends = bench.first(Topic::Status, 6).await;
    let mut seen: Vec<_> = ends
        .iter()
        .map(|record| {
            let end = delivery(record);
            assert_eq!((end.status, end.attempt, end.error), (Status::Cancelled, 0, None));
            assert!(end.due_at.is_none() && end.wheel.is_none());
            (end.id, end.step)
        })
        .collect();
    seen.sort();
    let expected = [
        ("critical", 2),
        ("early", 2),
        ("near", 2),
        ("ordered", 2),
        ("scheduled", 1),
        ("tier", 2),
    ];
    assert_eq!(seen, expected.map(|(id, step)| (id.to_owned(), step)));
    let gone = bench.first(Topic::Retry, 1).await;
    assert_eq!(delivery(&gone[0]).id, "stays");
    let metrics = &instance.metrics;
    assert_eq!(metrics.cancelled(posthaste_event::Channel::Sms).get(), 6);
    assert_eq!(
        forgotten(&bench, Topic::Cancel, 6).await,
        [
            "critical#critical",
            "default/order-7#ordered",
            "early#early",
            "near#near",
            "scheduled#scheduled",
            "tier#tier"
        ]
    );
    instance.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_of_what_is_withdrawn_is_its_end_and_a_doubt_stays_a_doubt() {
    let bench = Bench::new().await;
    let refused = failed("refused", Priority::Normal, ErrorKind::Rejected, 1);
    let given_up = failed("given-up", Priority::Normal, ErrorKind::Permanent, 1);
    let doubtful = failed("doubtful", Priority::Critical, ErrorKind::Ambiguous, 1);
    let mut once = failed("once", Priority::Normal, ErrorKind::Ambiguous, 1);
    let Ok(Value::Work(mut work)) = Value::decode(once.value.as_ref().unwrap()) else {
        panic!("an event")
    };
    work.delivery.policy = posthaste_event::delivery::Policy::NoDuplicate;
    once.value = Some(work.encode().unwrap());
    let records = vec![refused, given_up, doubtful, once];
    bench.append(records.iter().map(withdraw).collect()).await;
    bench.append(records).await;
    let instance = bench.start("one", settings());
    let ends = bench.first(Topic::Status, 3).await;
    let mut seen: Vec<_> = ends
        .iter()
        .map(|record| {
            let end = delivery(record);
            let kind = end.error.map(|error| error.kind);
            (end.id, end.status, end.attempt, kind)
        })
        .collect();
    seen.sort_by(|one, other| one.0.cmp(&other.0));
    let cancelled = |id: &str, kind| (id.to_owned(), Status::Cancelled, 1, kind);
    assert_eq!(
        seen,
        [
            cancelled("doubtful", Some(ErrorKind::Ambiguous)),
            cancelled("given-up", None),
            cancelled("refused", None),
        ]
    );
    // Nobody may say of one that must not go out twice that it did not go out.
    let letter = delivery(&bench.first(Topic::DeadLetter, 1).await[0]);
    assert_eq!(
        (letter.id.as_str(), letter.status),
        ("once", Status::DeadLettered)
    );
    assert_eq!(forgotten(&bench, Topic::Cancel, 4).await.len(), 4);
    instance.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scheduled_event_goes_at_the_time_that_was_asked_for_last() {
    let bench = Bench::new().await;
    let instance = bench.start("one", settings());
    let now = clock::now();
    let far = now + 3_600_000;
    let forward = scheduled("forward", far);
    let back = scheduled("back", now + 4_000);
    let twice = scheduled("twice", now + 20_000);
    let due = scheduled("due", now + 20_000);
    let retried = {
        let mut work = work("retried", Priority::Normal, None);
        let topic = work
            .delivery
            .park(WaitReason::Rate, now + 3_000, "dispatcher", now);
        NewRecord::new(topic, "retried", work.encode().unwrap())
    };
    let all = [&forward, &back, &twice, &due, &retried];
    bench.append(all.map(Clone::clone).to_vec()).await;
    let (soon, later) = (now + 2_500, now + 7_200_000);
    bench
        .append(vec![
            put_off(&forward, soon, now + 1),
            put_off(&back, later, now + 1),
            put_off(&twice, later, now + 2),
            put_off(&due, now - 1, now + 1),
            // Only what waits for the time that its sender asked for.
            put_off(&retried, later, now + 1),
        ])
        .await;
    let ids = |records: &[posthaste_broker::Record]| -> Vec<String> {
        let mut ids: Vec<_> = records.iter().map(|record| delivery(record).id).collect();
        ids.sort();
        ids
    };
    let out = bench.first(Topic::Retry, 3).await;
    assert_eq!(ids(&out), ["due", "forward", "retried"]);
    let of_id = |id: &str| {
        let record = out.iter().find(|record| delivery(record).id == id).unwrap();
        (delivery(record), record.appended_at)
    };
    let (forward, at) = of_id("forward");
    assert_eq!((forward.status, forward.step), (Status::Scheduled, 1));
    assert_eq!((forward.due_at, forward.since), (Some(soon), soon));
    assert!(at >= soon && at < far, "{} ms", at - now);
    let (due, _) = of_id("due");
    assert!(due.is_fact() && due.step == 1, "{due:?}");
    // And forward again, from the tier in which it is now.
    bench
        .append(vec![put_off(&twice, clock::now() + 500, clock::now())])
        .await;
    let out = bench.first(Topic::Retry, 4).await;
    let twice = out.iter().map(delivery).find(|one| one.id == "twice").unwrap();
    assert_eq!(twice.step, 2);
    // What was done is forgotten; what nobody could do is not theirs to forget.
    let gone = forgotten(&bench, Topic::Control, 5).await;
    let about = |id: &str| gone.iter().filter(|key| key.contains(id)).count();
    assert_eq!(
        ["forward", "back", "twice", "due", "retried"].map(about),
        [1, 1, 2, 1, 0]
    );
    instance.stop().await;
}
