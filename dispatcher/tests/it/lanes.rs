//! What becomes of events in a lane.

use std::{collections::HashSet, sync::Arc, time::Duration};

use posthaste_broker::NewRecord;
use posthaste_dispatcher::{LaneName, Settings};
use posthaste_event::{Channel, ErrorKind, Failure, Priority, Status, Topic, clock, delivery::WaitReason};
use posthaste_testkit::{ScriptedProvider, Step};

use crate::rig::{Event, LIMIT, Rig, Scripted, settings};

const SMS: &[Channel] = &[Channel::Sms];

fn fails(kind: ErrorKind) -> Step {
    Step::Fail(Failure::new(kind, "twilio", Some("c".into()), "no"))
}

fn events(prefix: &str, count: usize) -> impl Iterator<Item = Event> {
    let prefix = prefix.to_owned();
    (0..count).map(move |number| Event::new(format!("{prefix}{number}")))
}

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_outcome_goes_where_it_belongs() {
    let rig = Rig::new().await;
    let twilio = ScriptedProvider::new("twilio", SMS, |message, _| match &*message.event_id {
        "accepted" => Step::Accept,
        "rejected" => fails(ErrorKind::Rejected),
        "permanent" => fails(ErrorKind::Permanent),
        "limited" => fails(ErrorKind::RateLimited),
        "hangs" => Step::Hang,
        "panics" => Step::Panic,
        other => panic!("{other} must not be sent"),
    });
    let accounts = Scripted::new(&[(&twilio, 8, Duration::from_millis(200))]);
    let lane = rig.start("i1", LaneName::Default, &accounts, settings());
    let sendable = ["accepted", "rejected", "permanent", "limited", "hangs", "panics"];
    let mut records: Vec<_> = sendable.iter().map(|id| Event::new(*id).record()).collect();
    let expired = Event {
        expires_at: Some(clock::now() - 1),
        ..Event::new("expired")
    };
    let unknown = Event {
        provider: Some("nobody"),
        ..Event::new("unknown")
    };
    let unreadable = Event {
        payload: r#"{"message":7}"#,
        ..Event::new("unreadable")
    };
    records.extend([expired.record(), unknown.record(), unreadable.record()]);
    records.push(NewRecord::new(Topic::Default, "junk", "not ours"));
    rig.append(records).await;
    let seen = rig
        .wait_until(|seen| seen.facts.len() == 9 && seen.foreign.len() == 1)
        .await;
    let metrics = Arc::clone(&lane.metrics);
    lane.stop().await;

    // No provider is known to these metrics, so all of them are counted as others.
    let route = metrics.route(Channel::Sms, Some("twilio"));
    let failed = |kind| route.failed(kind).get();
    assert_eq!((route.sent.get(), metrics.unreadable.get()), (1, 1));
    assert_eq!(
        (failed(ErrorKind::Rejected), failed(ErrorKind::Permanent)),
        (2, 1)
    );
    assert_eq!(
        (failed(ErrorKind::RateLimited), failed(ErrorKind::Ambiguous)),
        (1, 2)
    );
    assert_eq!(route.dead_lettered(ErrorKind::Unreadable).get(), 1);
    assert_eq!((route.call.total(), metrics.expired(Channel::Sms).get()), (6, 1));
    assert_eq!(
        metrics.latency(Channel::Sms, Priority::Normal, true).total(),
        1,
        "only what was sent has a latency"
    );

    let (topic, sent) = seen.only("accepted");
    assert_eq!(
        (*topic, sent.status, sent.attempt, sent.step),
        (Topic::Status, Status::Sent, 1, 1)
    );
    assert_eq!(sent.provider_message_id.as_deref(), Some("accepted-sent"));
    assert_eq!((&*sent.by, &*seen.keys["accepted"]), ("i1", "accepted"));
    for (id, kind, code) in [
        ("rejected", ErrorKind::Rejected, "c"),
        ("permanent", ErrorKind::Permanent, "c"),
        ("limited", ErrorKind::RateLimited, "c"),
        ("hangs", ErrorKind::Ambiguous, "timeout"),
        ("panics", ErrorKind::Ambiguous, "panic"),
        ("unknown", ErrorKind::Rejected, "unknown_provider"),
    ] {
        let (topic, failed) = seen.only(id);
        let error = failed.error.as_ref().unwrap();
        assert_eq!((*topic, failed.status), (Topic::Failed, Status::Retrying), "{id}");
        assert_eq!((error.kind, error.code.as_deref()), (kind, Some(code)), "{id}");
    }
    let (topic, expired) = seen.only("expired");
    assert_eq!(
        (*topic, expired.status, expired.attempt),
        (Topic::Status, Status::Expired, 0)
    );
    let (topic, unreadable) = seen.only("unreadable");
    assert_eq!(
        (*topic, unreadable.status),
        (Topic::DeadLetter, Status::DeadLettered)
    );
    assert_eq!(unreadable.error.as_ref().unwrap().kind, ErrorKind::Unreadable);
    assert_eq!(seen.foreign[0].topic, "events.default");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_critical_lane_reads_its_own_topics_and_fails_to_its_own() {
    let rig = Rig::new().await;
    let twilio = ScriptedProvider::new("twilio", SMS, |_, _| fails(ErrorKind::Rejected));
    let accounts = Scripted::new(&[(&twilio, 8, LIMIT)]);
    let lane = rig.start("i1", LaneName::Critical, &accounts, settings());
    let critical = Event {
        priority: Priority::Critical,
        ..Event::new("critical")
    };
    let mut again = critical.record();
    again.topic = Topic::RetryCritical;
    rig.append(vec![critical.record(), again, Event::new("other").record()])
        .await;
    let seen = rig.wait_until(|seen| seen.on(Topic::FailedCritical) == 2).await;
    lane.stop().await;
    assert!(!seen.facts.contains_key("other"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_never_has_more_sends_under_way_than_it_takes() {
    let rig = Rig::new().await;
    let twilio = ScriptedProvider::new("twilio", SMS, |_, _| Step::Slow(Duration::from_millis(3)));
    let accounts = Scripted::new(&[(&twilio, 5, LIMIT)]);
    let lane = rig.start("i1", LaneName::Default, &accounts, roomy());
    rig.append(events("e", 300).map(|event| event.record()).collect())
        .await;
    let seen = rig.wait_until(|seen| seen.on(Topic::Status) == 300).await;
    lane.stop().await;
    assert_eq!(seen.facts.len(), 300);
    assert_eq!(twilio.under_way_most(), 5);
    assert_eq!(twilio.messages().len(), 300);
}

/// Nothing is parked however slowly it goes.
fn roomy() -> Settings {
    Settings {
        queue_wait_ms_max: 3_600_000,
        ..settings()
    }
}

/// A window so small that one provider's flood fills it many times over.
fn small() -> Settings {
    Settings {
        window_records_max: 256,
        ..roomy()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stuck_provider_holds_up_nobody_else_and_its_events_are_parked_once() {
    let rig = Rig::new().await;
    let stuck = ScriptedProvider::new("stuck", SMS, |_, _| Step::Hold);
    let well = ScriptedProvider::new("well", SMS, |_, _| Step::Accept);
    let accounts = Scripted::new(&[(&stuck, 4, LIMIT), (&well, 4, LIMIT)]);
    let lane = rig.start("i1", LaneName::Default, &accounts, small());
    let flood = events("stuck", 2_000).map(|event| Event {
        provider: Some("stuck"),
        ..event
    });
    rig.append(flood.map(|event| event.record()).collect()).await;
    stuck.wait_for(4, LIMIT).await.unwrap();
    let behind = events("well", 50).map(|event| Event {
        provider: Some("well"),
        ..event
    });
    rig.append(behind.map(|event| event.record()).collect()).await;
    rig.wait_until(|seen| seen.on(Topic::Status) == 50).await;
    assert_eq!(stuck.messages().len(), 4);
    let seen = rig.wait_until(|seen| seen.waiting().len() > 1_700).await;
    let parked = seen.waiting();
    for parked in &parked {
        let wheel = parked.wheel.as_ref().unwrap();
        assert_eq!((wheel.reason, parked.attempt), (WaitReason::Rate, 0));
        assert_eq!(
            (parked.status, wheel.reserved_at),
            (Status::Pending, parked.due_at)
        );
    }
    let ids: HashSet<_> = parked.iter().map(|parked| &parked.id).collect();
    assert_eq!(ids.len(), parked.len(), "each was parked once");
    let slots: HashSet<_> = parked.iter().map(|parked| parked.due_at).collect();
    assert!(
        slots.len() > parked.len() / 4,
        "slots are spread: {} of {}",
        slots.len(),
        parked.len()
    );
    stuck.release(1_000);
    lane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_floods_waits_behind_itself() {
    let rig = Rig::new().await;
    let twilio = ScriptedProvider::new("twilio", SMS, |_, _| Step::Hold);
    let accounts = Scripted::new(&[(&twilio, 1, LIMIT)]);
    let lane = rig.start("i1", LaneName::Default, &accounts, roomy());
    let flood: Vec<_> = events("flood", 400)
        .map(|event| Event {
            tenant: "flood",
            ..event
        })
        .collect();
    rig.append(flood.iter().map(Event::record).collect()).await;
    twilio.wait_for(1, LIMIT).await.unwrap();
    let late = |id: &str, priority| Event {
        tenant: "small",
        priority,
        ..Event::new(id)
    };
    let late = [late("normal", Priority::Normal), late("high", Priority::High)];
    rig.append(late.iter().map(Event::record).collect()).await;
    rig.append_markers().await;
    rig.wait_until(|seen| seen.foreign.len() == 4).await;
    twilio.release(6);
    twilio.wait_for(7, LIMIT).await.unwrap();
    let first: Vec<_> = twilio
        .messages()
        .into_iter()
        .map(|message| message.event_id)
        .collect();
    assert!(
        first.contains(&"normal".to_owned()) && first.contains(&"high".to_owned()),
        "{first:?}"
    );
    twilio.release(1_000);
    lane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_instance_takes_over_and_nothing_is_sent_twice() {
    let rig = Rig::new().await;
    let twilio = ScriptedProvider::new("twilio", SMS, |_, _| Step::Slow(Duration::from_millis(5)));
    let accounts = Scripted::new(&[(&twilio, 8, LIMIT)]);
    let first = rig.start("i1", LaneName::Default, &accounts, roomy());
    rig.append(events("e", 600).map(|event| event.record()).collect())
        .await;
    twilio.wait_for(100, LIMIT).await.unwrap();
    let second = rig.start("i2", LaneName::Default, &accounts, roomy());
    twilio.wait_for(250, LIMIT).await.unwrap();
    first.stop().await;
    let seen = rig.wait_until(|seen| seen.on(Topic::Status) == 600).await;
    second.stop().await;
    assert_eq!(seen.facts.len(), 600);
    let writers: HashSet<_> = seen.facts.values().map(|facts| facts[0].1.by.clone()).collect();
    assert_eq!(writers.len(), 2, "{writers:?}");
    let ids: HashSet<_> = twilio
        .messages()
        .into_iter()
        .map(|message| message.event_id)
        .collect();
    assert_eq!((ids.len(), twilio.messages().len()), (600, 600));
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_finishes_what_is_under_way_and_leaves_the_rest() {
    let rig = Rig::new().await;
    let twilio = ScriptedProvider::new("twilio", SMS, |_, _| Step::Hold);
    let accounts = Scripted::new(&[(&twilio, 3, LIMIT)]);
    let lane = rig.start("i1", LaneName::Default, &accounts, settings());
    assert!(lane.health.missing().len() <= 1);
    rig.append(events("e", 50).map(|event| event.record()).collect())
        .await;
    twilio.wait_for(3, LIMIT).await.unwrap();
    lane.ask_to_stop();
    twilio.release(3);
    lane.stop().await;
    assert_eq!(twilio.messages().len(), 3);
    twilio.release(1_000);
    let next = rig.start("i2", LaneName::Default, &accounts, settings());
    rig.wait_until(|seen| seen.on(Topic::Status) == 50).await;
    next.stop().await;
    assert_eq!(twilio.messages().len(), 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_is_sent_with_the_same_key_after_doubt_and_a_new_one_after_a_rejection() {
    let rig = Rig::new().await;
    let twilio = ScriptedProvider::new("twilio", SMS, |message, _| match &*message.event_id {
        "doubt" => fails(ErrorKind::Ambiguous),
        _ => fails(ErrorKind::Rejected),
    });
    let accounts = Scripted::new(&[(&twilio, 3, LIMIT)]);
    // Somebody may have sent this one already.
    rig.append(vec![Event::new("found").record()]).await;
    let lane = rig.start("i1", LaneName::Default, &accounts, settings());
    rig.wait_until(|seen| seen.on(Topic::Failed) == 1).await;
    rig.append(vec![Event::new("doubt").record(), Event::new("refused").record()])
        .await;
    let seen = rig.wait_until(|seen| seen.on(Topic::Failed) == 3).await;
    lane.stop().await;
    assert_eq!(seen.only("found").1.idempotency_key("twilio"), "found:twilio:0");
    assert_eq!(seen.only("doubt").1.idempotency_key("twilio"), "doubt:twilio:0");
    assert_eq!(
        seen.only("refused").1.idempotency_key("twilio"),
        "refused:twilio:1"
    );
}
